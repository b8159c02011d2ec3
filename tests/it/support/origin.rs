//! An origin on raw bytes: it accepts, records, counts, and does what the case tells it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::wire::{Body, Ended, Framing, Head, Io, Wire};
use super::{DEADLINE, eventually};

/// A request as the origin saw it.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: Head,
    pub method: String,
    pub target: String,
    pub body: Body,
}

pub struct Origin {
    shared: Arc<Shared>,
    /// Connections nobody has taken yet; only a scripted origin fills it.
    waiting: Mutex<Receiver<TcpStream>>,
    requests: Mutex<Receiver<Request>>,
    acceptor: Option<JoinHandle<()>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    away: Duration,
}

struct Shared {
    addr: SocketAddr,
    stop: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    full_handshakes: AtomicUsize,
    resumed_handshakes: AtomicUsize,
    failed_handshakes: AtomicUsize,
    records: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    requests: Mutex<Sender<Request>>,
}

impl Origin {
    /// Every accepted connection runs `handle` on a thread of its own.
    pub fn start(handle: impl Fn(OriginConn) + Send + Sync + 'static) -> Self {
        Self::start_with(None, Duration::ZERO, handle)
    }

    /// Connections wait until the case takes them with [`Origin::accept`].
    pub fn scripted() -> Self {
        Self::scripted_with(None, Duration::ZERO)
    }

    /// Answers every request on every connection with the same bytes and keeps connections open.
    pub fn answering(answer: impl AsRef<[u8]>) -> Self {
        let answer = answer.as_ref().to_vec();
        Self::start(move |conn| conn.answer_all(&answer))
    }

    /// As [`Origin::answering`] on another address of the loopback network, for names with several on one port.
    pub fn answering_at(addr: SocketAddr, answer: impl AsRef<[u8]>) -> Self {
        let answer = answer.as_ref().to_vec();
        Self::start_at(addr, move |conn| conn.answer_all(&answer))
    }

    /// As [`Origin::start`] on another address of the loopback network.
    pub fn start_at(addr: SocketAddr, handle: impl Fn(OriginConn) + Send + Sync + 'static) -> Self {
        Self::start_with_at(addr, None, Duration::ZERO, handle)
    }

    /// Answers the first request of every connection with the same bytes, then closes.
    pub fn answering_once(answer: impl AsRef<[u8]>) -> Self {
        let answer = answer.as_ref().to_vec();
        Self::start(move |mut conn| {
            if conn.try_read_request().is_some() {
                conn.send(&answer);
                conn.close();
            }
        })
    }

    /// `away` passes between a TCP connection and its handshake, as it does where an origin is far.
    pub(super) fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        away: Duration,
        handle: impl Fn(OriginConn) + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_at((Ipv4Addr::LOCALHOST, 0).into(), tls, away, handle)
    }

    /// As [`Origin::start_with`] on another address of the loopback network.
    pub(super) fn start_with_at(
        addr: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        away: Duration,
        handle: impl Fn(OriginConn) + Send + Sync + 'static,
    ) -> Self {
        let handle = Arc::new(handle);
        let config = tls.clone();
        Self::listen_at(addr, tls, move |tcp, shared| {
            let (handle, shared, config) = (handle.clone(), shared.clone(), config.clone());
            thread::spawn(move || {
                thread::sleep(away);
                if let Some(conn) = OriginConn::open(tcp, &shared, config.as_ref()) {
                    handle(conn);
                }
            });
        })
    }

    pub(super) fn scripted_with(tls: Option<Arc<rustls::ServerConfig>>, away: Duration) -> Self {
        let (sender, receiver) = mpsc::channel();
        let mut origin = Self::listen(tls, move |tcp, _| {
            // The case may have ended already.
            let _ = sender.send(tcp);
        });
        origin.waiting = Mutex::new(receiver);
        origin.away = away;
        origin
    }

    fn listen(
        tls: Option<Arc<rustls::ServerConfig>>,
        take: impl FnMut(TcpStream, &Arc<Shared>) + Send + 'static,
    ) -> Self {
        Self::listen_at((Ipv4Addr::LOCALHOST, 0).into(), tls, take)
    }

    fn listen_at(
        addr: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        mut take: impl FnMut(TcpStream, &Arc<Shared>) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(addr).expect("bind an address of loopback");
        let (requests_in, requests_out) = mpsc::channel();
        let shared = Arc::new(Shared {
            addr: listener.local_addr().expect("own address"),
            stop: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            full_handshakes: AtomicUsize::new(0),
            resumed_handshakes: AtomicUsize::new(0),
            failed_handshakes: AtomicUsize::new(0),
            records: Mutex::new(Vec::new()),
            requests: Mutex::new(requests_in),
        });
        let for_thread = shared.clone();
        let acceptor = thread::spawn(move || {
            for tcp in listener.incoming() {
                if for_thread.stop.load(Ordering::SeqCst) {
                    return;
                }
                let tcp = tcp.expect("accept");
                for_thread.accepted.fetch_add(1, Ordering::SeqCst);
                take(tcp, &for_thread);
            }
        });
        Self {
            shared,
            waiting: Mutex::new(mpsc::channel().1),
            requests: Mutex::new(requests_out),
            acceptor: Some(acceptor),
            tls,
            away: Duration::ZERO,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// The routing name of this origin: `127.0.0.1.ccnproxy:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1.ccnproxy:{}", self.addr().port())
    }

    /// The next connection of a scripted origin, its TLS handshake done.
    #[track_caller]
    pub fn accept(&self) -> OriginConn {
        let tcp = self.accept_tcp();
        thread::sleep(self.away);
        self.open(tcp)
    }

    /// Makes the TLS handshake on a connection of [`Origin::accept_tcp`].
    #[track_caller]
    pub fn open(&self, tcp: TcpStream) -> OriginConn {
        OriginConn::open(tcp, &self.shared, self.tls.as_ref()).expect("a TLS handshake")
    }

    /// The TLS handshake on a connection of [`Origin::accept_tcp`].
    #[track_caller]
    pub fn handshake(&self, tcp: TcpStream) -> OriginConn {
        OriginConn::open(tcp, &self.shared, self.tls.as_ref()).expect("a TLS handshake")
    }

    /// As [`Origin::accept`] with another deadline.
    #[track_caller]
    pub fn accept_within(&self, deadline: Duration) -> OriginConn {
        let waiting = self.waiting.lock().expect("waiting connections");
        let tcp = waiting.recv_timeout(deadline).expect("a connection to the origin in time");
        self.handshake(tcp)
    }

    /// The next connection of a scripted origin before any TLS.
    #[track_caller]
    pub fn accept_tcp(&self) -> TcpStream {
        let waiting = self.waiting.lock().expect("waiting connections");
        waiting.recv_timeout(DEADLINE).expect("a connection to the origin within the deadline")
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that a handler or the case still holds.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    pub fn full_handshakes(&self) -> usize {
        self.shared.full_handshakes.load(Ordering::SeqCst)
    }

    pub fn resumed_handshakes(&self) -> usize {
        self.shared.resumed_handshakes.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub fn wait_failed_handshake(&self) {
        eventually("a failed handshake at the origin", || {
            self.shared.failed_handshakes.load(Ordering::SeqCst) > 0
        });
    }

    /// The next request that any connection read whole, in the order of reading.
    #[track_caller]
    pub fn next_request(&self) -> Request {
        let requests = self.requests.lock().expect("requests");
        requests.recv_timeout(DEADLINE).expect("a request at the origin within the deadline")
    }

    /// No connection was opened, or none of them has carried a byte.
    #[track_caller]
    pub fn expect_no_bytes(&self) {
        for record in self.shared.records.lock().expect("records").iter() {
            let bytes = record.lock().expect("record");
            assert!(bytes.is_empty(), "bytes reached the origin: {}", super::show(&bytes));
        }
    }

    /// Raw bytes that connection `index` (in the order of opening) has received.
    pub fn received(&self, index: usize) -> Vec<u8> {
        let records = self.shared.records.lock().expect("records");
        records.get(index).map(|record| record.lock().expect("record").clone()).unwrap_or_default()
    }

    /// Requests read whole and not yet taken by [`Origin::next_request`].
    pub fn drain_requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").try_iter().collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor; if that fails it is not waiting.
        let _ = TcpStream::connect(self.shared.addr);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

pub struct OriginConn {
    wire: Wire,
    shared: Arc<Shared>,
    _open: OpenCount,
}

struct OpenCount(Arc<Shared>);

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl OriginConn {
    fn open(
        tcp: TcpStream,
        shared: &Arc<Shared>,
        tls: Option<&Arc<rustls::ServerConfig>>,
    ) -> Option<Self> {
        let record = Arc::new(Mutex::new(Vec::new()));
        let index = {
            let mut records = shared.records.lock().expect("records");
            records.push(record.clone());
            records.len() - 1
        };
        let io = match tls {
            None => Io::Plain(tcp),
            Some(config) => match handshake(tcp, config.clone()) {
                Some(tls) => {
                    let counter = match tls.conn.handshake_kind() {
                        Some(rustls::HandshakeKind::Resumed) => &shared.resumed_handshakes,
                        _ => &shared.full_handshakes,
                    };
                    counter.fetch_add(1, Ordering::SeqCst);
                    Io::Tls(Box::new(tls))
                }
                None => {
                    shared.failed_handshakes.fetch_add(1, Ordering::SeqCst);
                    return None;
                }
            },
        };
        shared.open.fetch_add(1, Ordering::SeqCst);
        let wire = Wire::new(io, format!("origin connection {index}"), record);
        Some(Self { wire, shared: shared.clone(), _open: OpenCount(shared.clone()) })
    }

    /// Reads requests and gives the same answer to each until the proxy closes.
    pub fn answer_all(mut self, answer: &[u8]) {
        // The proxy may be killed at any time by the end of a case.
        self.set_deadline(Duration::from_secs(120));
        while self.try_read_request().is_some() {
            if self.wire.try_send(answer).is_err() {
                return;
            }
        }
    }

    pub fn set_deadline(&mut self, deadline: Duration) {
        self.wire.set_deadline(deadline);
    }

    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        self.wire.read_head()
    }

    #[track_caller]
    pub fn read_exact(&mut self, len: usize) -> Vec<u8> {
        self.wire.read_exact(len)
    }

    #[track_caller]
    pub fn try_read_exact(&mut self, len: usize) -> Option<Vec<u8>> {
        self.wire.try_read_exact(len)
    }

    #[track_caller]
    pub fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        self.wire.read_until(mark)
    }

    #[track_caller]
    pub fn skip(&mut self, len: u64) {
        self.wire.skip(len);
    }

    #[track_caller]
    pub fn read_body_of(&mut self, head: &Head) -> Body {
        let framing = head.framing(Framing::Absent);
        self.wire.read_body(framing)
    }

    /// Head and body of the next request; the body must be complete.
    #[track_caller]
    pub fn read_request(&mut self) -> Request {
        let head = self.wire.read_head();
        self.finish_request(head)
    }

    /// As [`OriginConn::read_request`], or `None` if the proxy ended the connection instead.
    #[track_caller]
    pub fn try_read_request(&mut self) -> Option<Request> {
        let head = self.wire.try_read_head().ok()?;
        Some(self.finish_request(head))
    }

    #[track_caller]
    fn finish_request(&mut self, head: Head) -> Request {
        let body = self.read_body_of(&head);
        if body.ended != Ended::Complete {
            self.wire.fail(&format!("request body ended with {:?}", body.ended));
        }
        let mut words = head.start_line.splitn(3, ' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        assert_eq!(words.next(), Some("HTTP/1.1"), "{}", head.start_line);
        let request = Request { head, method, target, body };
        // The case may have ended already.
        let _ = self.shared.requests.lock().expect("requests").send(request.clone());
        request
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes.as_ref());
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.wire.try_send(bytes.as_ref())
    }

    /// Holds back what is sent until the connection closes, so that it arrives together with the end.
    pub fn hold_until_closed(&mut self) {
        let (tcp, on): (_, libc::c_int) = (self.wire.io().tcp(), 1);
        // SAFETY: the pointer and length describe `on`.
        let result = unsafe {
            libc::setsockopt(
                std::os::fd::AsRawFd::as_raw_fd(tcp),
                libc::IPPROTO_TCP,
                libc::TCP_CORK,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "TCP_CORK: {}", std::io::Error::last_os_error());
    }

    /// Whether bytes have arrived, without waiting.
    pub fn has_bytes(&mut self) -> bool {
        self.wire.has_bytes()
    }

    /// The socket, beside all TLS.
    pub fn tcp(&self) -> &TcpStream {
        self.wire.io().tcp()
    }

    /// FIN, inside TLS after close_notify.
    pub fn close(self) {
        self.wire.close();
    }

    /// FIN without close_notify.
    pub fn close_without_notify(self) {
        drop(self);
    }

    pub fn half_close(&mut self) {
        self.wire.half_close();
    }

    pub fn reset(self) {
        self.wire.reset();
    }

    /// The proxy ends this connection within the deadline and sends nothing before that.
    #[track_caller]
    pub fn wait_closed(&mut self) -> Ended {
        self.wire.expect_end(DEADLINE)
    }

    /// As [`OriginConn::wait_closed`] with a deadline of its own.
    #[track_caller]
    pub fn wait_closed_within(&mut self, deadline: Duration) -> Ended {
        self.wire.expect_end(deadline)
    }

    /// Everything until the proxy ends this connection, and how it did.
    #[track_caller]
    pub fn read_to_end(&mut self) -> (Vec<u8>, Ended) {
        self.wire.read_to_end()
    }

    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        self.wire.expect_silence(time);
    }

    /// SNI and ALPN of the handshake.
    pub fn tls_names(&self) -> (Option<String>, Option<String>) {
        match self.wire.io() {
            Io::Plain(_) => (None, None),
            Io::Tls(tls) => (
                tls.conn.server_name().map(str::to_owned),
                tls.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            ),
        }
    }

    pub fn tls_version(&self) -> Option<rustls::ProtocolVersion> {
        match self.wire.io() {
            Io::Plain(_) => None,
            Io::Tls(tls) => tls.conn.protocol_version(),
        }
    }
}

fn handshake(
    mut tcp: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> Option<rustls::StreamOwned<rustls::ServerConnection, TcpStream>> {
    tcp.set_nodelay(true).ok()?;
    tcp.set_read_timeout(Some(DEADLINE)).ok()?;
    tcp.set_write_timeout(Some(DEADLINE)).ok()?;
    let mut conn = rustls::ServerConnection::new(config).ok()?;
    while conn.is_handshaking() {
        conn.complete_io(&mut tcp).ok()?;
    }
    // Tickets of TLS 1.3 are still queued at this point.
    while conn.wants_write() {
        conn.write_tls(&mut tcp).ok()?;
    }
    Some(rustls::StreamOwned::new(conn, tcp))
}
