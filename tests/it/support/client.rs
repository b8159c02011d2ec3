//! A client on raw bytes with a strict reader.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::proxy::Proxy;
use super::wire::{Body, Ended, Framing, Head, Io, Wire};
use super::{DEADLINE, Origin};

/// A response as the client saw it; fields are reached through the head.
#[derive(Clone, Debug)]
pub struct Response {
    pub head: Head,
    pub status: u16,
    pub reason: String,
    pub body: Body,
}

impl Deref for Response {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body.bytes).into_owned()
    }

    /// The shard that answered.
    #[track_caller]
    pub fn shard(&self) -> usize {
        shard_of(self.head.field("x-chocon-id").expect("an id"))
    }

    pub fn closes(&self) -> bool {
        self.all("Connection").iter().any(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The shard of a request: the lowest 6 bits of the counter in its X-Chocon-Id.
#[track_caller]
pub fn shard_of(id: &str) -> usize {
    let digit = |char: char| char.to_digit(32).expect("base32hex") as usize;
    // 96 bits and 4 zero bits behind them: the last two characters hold 10 bits, 6 of them wanted.
    let last = id.chars().skip(18).fold(0, |bits, char| bits << 5 | digit(char));
    (last >> 4) & 0b11_1111
}

pub struct Client {
    wire: Wire,
    deadline: Duration,
    /// The last response closed or was cut, so that nothing can follow on this connection.
    over: bool,
}

impl Client {
    #[track_caller]
    pub fn connect(proxy: &Proxy) -> Self {
        Self::connect_to(proxy.addr())
    }

    #[track_caller]
    pub fn connect_to(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect_timeout(&addr, DEADLINE).expect("connect to the proxy");
        Self::over(tcp)
    }

    /// From another address of the loopback network, for cases about the client's address.
    #[track_caller]
    pub fn connect_from(from: Ipv4Addr, addr: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("socket");
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("bind");
        socket.connect(&addr.into()).expect("connect to the proxy");
        Self::over(socket.into())
    }

    fn over(tcp: TcpStream) -> Self {
        let record = Arc::new(Mutex::new(Vec::new()));
        let wire = Wire::new(Io::Plain(tcp), "client".to_owned(), record);
        Self { wire, deadline: DEADLINE, over: false }
    }

    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
        self.wire.set_deadline(deadline);
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes.as_ref());
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.wire.try_send(bytes.as_ref())
    }

    /// Sends on a thread of its own, so that the case can read meanwhile; errors end the sending.
    pub fn send_aside(&self, bytes: Vec<u8>) -> JoinHandle<std::io::Result<()>> {
        let mut tcp = self.wire.io().tcp().try_clone().expect("a second handle");
        thread::spawn(move || std::io::Write::write_all(&mut tcp, &bytes))
    }

    /// A GET without a body to `origin`.
    #[track_caller]
    pub fn get(&mut self, origin: &Origin, target: &str) {
        self.request("GET", &origin.host(), target, "", b"");
    }

    /// The shard that serves this connection, asked without an origin.
    #[track_caller]
    pub fn shard(&mut self) -> usize {
        self.send("GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n");
        self.read_error(400).shard()
    }

    /// A request with a Content-Length whenever there is a body; `fields` end with CRLF each.
    #[track_caller]
    pub fn request(&mut self, method: &str, host: &str, target: &str, fields: &str, body: &[u8]) {
        let length = match body.len() {
            0 => String::new(),
            len => format!("Content-Length: {len}\r\n"),
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}\r\n");
        let mut message = head.into_bytes();
        message.extend_from_slice(body);
        self.send(message);
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
    pub fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        self.wire.read_until(mark)
    }

    #[track_caller]
    pub fn skip(&mut self, len: u64) {
        self.wire.skip(len);
    }

    /// A complete response and not a byte more.
    #[track_caller]
    pub fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    /// As [`Client::read_response`] to a request with `method`.
    #[track_caller]
    pub fn read_response_to(&mut self, method: &str) -> Response {
        let response = self.read_pipelined_response_to(method);
        self.wire.expect_nothing_pending();
        response
    }

    /// A complete response; the next one may stand behind it already.
    #[track_caller]
    pub fn read_pipelined_response(&mut self) -> Response {
        self.read_pipelined_response_to("GET")
    }

    #[track_caller]
    fn read_pipelined_response_to(&mut self, method: &str) -> Response {
        let response = self.read_any_response(method);
        if response.body.ended != Ended::Complete {
            self.wire.fail(&format!("the body was cut: {:?}", response.body.ended));
        }
        response
    }

    /// A response whose body is cut; returns what had arrived and how the connection ended.
    #[track_caller]
    pub fn read_cut_response(&mut self) -> Response {
        let response = self.read_any_response("GET");
        if response.body.ended == Ended::Complete {
            self.wire.fail("the body looks complete");
        }
        response
    }

    #[track_caller]
    fn read_any_response(&mut self, method: &str) -> Response {
        let head = self.wire.read_head();
        let (status, reason) = status_of(&head);
        // RFC 9112 §6.3: these never have a body, whatever their fields say.
        let absent = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let framing = if absent { Framing::Absent } else { head.framing(Framing::ToClose) };
        let body = self.wire.read_body(framing);
        Response { head, status, reason, body }
    }

    /// The response, complete or cut, or how the connection ended without one.
    ///
    /// For cases whose origin misbehaves at random, where any of these may be right.
    #[track_caller]
    pub fn read_whatever_comes(&mut self) -> Result<Response, Ended> {
        let head = self.wire.try_read_head()?;
        let (status, reason) = status_of(&head);
        let absent = status < 200 || status == 204 || status == 304;
        let framing = if absent { Framing::Absent } else { head.framing(Framing::ToClose) };
        let body = self.wire.read_body(framing);
        let response = Response { head, status, reason, body };
        let cut = response.body.ended != Ended::Complete;
        self.over = cut || response.closes() || framing == Framing::ToClose;
        Ok(response)
    }

    /// The refusal that every malformed request gets, then the end of the connection.
    #[track_caller]
    pub fn expect_refusal(&mut self, status: u16) -> Response {
        let response = self.read_error(status);
        assert!(response.closes(), "no Connection: close in {}", super::show(&response.raw));
        self.expect_closed();
        response
    }

    /// An error that the proxy made: no body, an id.
    #[track_caller]
    pub fn read_error(&mut self, status: u16) -> Response {
        let response = self.read_response();
        assert_eq!(response.status, status, "{}", super::show(&response.raw));
        assert_eq!(response.field("Content-Length"), Some("0"));
        assert!(response.has("X-Chocon-Id"), "no id in {}", super::show(&response.raw));
        response
    }

    #[track_caller]
    pub fn read_to_end(&mut self) -> (Vec<u8>, Ended) {
        self.wire.read_to_end()
    }

    /// The proxy ends the connection and sends nothing before that.
    #[track_caller]
    pub fn expect_closed(&mut self) -> Ended {
        self.wire.expect_end(self.deadline)
    }

    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        self.wire.expect_silence(time);
    }

    /// The connection still serves: one more exchange with an origin that answers.
    #[track_caller]
    pub fn expect_usable(&mut self) {
        let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalive");
        self.get(&origin, "/still-usable");
        let response = self.read_response();
        assert_eq!((response.status, response.text().as_str()), (200, "alive"));
    }

    /// Whether nothing says that the connection is over, without waiting.
    pub fn is_usable(&self) -> bool {
        !self.over && is_quiet(self.tcp())
    }

    pub fn half_close(&mut self) {
        self.wire.half_close();
    }

    pub fn reset(self) {
        self.wire.reset();
    }

    /// Takes what has been received and not read yet, for cases that go on with the bare socket.
    pub fn pending(&mut self) -> Vec<u8> {
        self.wire.take_pending()
    }

    pub fn tcp(&self) -> &TcpStream {
        self.wire.io().tcp()
    }
}

/// Whether nothing has arrived on `tcp`, neither bytes nor an end, without waiting.
pub fn is_quiet(tcp: &TcpStream) -> bool {
    tcp.set_nonblocking(true).expect("nonblocking");
    let quiet = tcp.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    tcp.set_nonblocking(false).expect("blocking");
    quiet
}

#[track_caller]
fn status_of(head: &Head) -> (u16, String) {
    let rest = head.start_line.strip_prefix("HTTP/1.1 ");
    let rest = rest.unwrap_or_else(|| panic!("status line {:?}", head.start_line));
    let (digits, reason) = rest.split_once(' ').unwrap_or_else(|| panic!("no reason: {rest:?}"));
    assert_eq!(digits.len(), 3, "status line {:?}", head.start_line);
    (digits.parse().expect("a status"), reason.to_owned())
}
