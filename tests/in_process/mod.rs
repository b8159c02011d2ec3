//! The whole proxy in this process, an origin and clients that are no part of it, and an allocator that tells them apart.
//!
//! Each test that counts on the heap is a binary of its own, with one test: what ran beside it would be counted, too.

use chocon_uring::{cli, process};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs, pki_types::PrivateKeyDer,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\n\
    Content-Length: 4\r\nConnection: keep-alive\r\n\r\nwarm";

/// Within it the proxy listens, and answers each request.
pub const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

thread_local! {
    /// Set in threads that are no part of the proxy.
    static IS_PEER: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread is no part of the proxy.
pub fn be_peer() {
    IS_PEER.set(true);
}

/// The system's allocator, which tells of what the proxy does: bytes that it takes, and as a negative number those that it
/// gives back; a block that is moved is given back and taken.
pub struct Telling(pub fn(i64));

impl Telling {
    fn tell(&self, sign: i64, bytes: usize) {
        // A thread that ends has no such value any more; it serves nobody either.
        if IS_PEER.try_with(Cell::get) == Ok(false) {
            // A layout is never larger than `isize::MAX`.
            (self.0)(sign * bytes as i64);
        }
    }
}

// SAFETY: all is left to the system's allocator; telling touches no memory that it gives out.
unsafe impl GlobalAlloc for Telling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.tell(1, layout.size());
        // SAFETY: the caller's promise is passed on, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.tell(1, layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.tell(-1, layout.size());
        self.tell(1, new_size);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.tell(-1, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// A certificate for 127.0.0.1 that is its own authority. `SSL_CERT_FILE` names its file, which is gone with it.
pub struct Certificate {
    pub config: Arc<ServerConfig>,
    file: PathBuf,
}

impl Certificate {
    /// Made before the proxy starts, so that the proxy trusts it.
    pub fn trusted() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = std::env::temp_dir().join(format!("in-process-{}.pem", std::process::id()));
        fs::write(&file, certificate.pem()).expect("a writable directory for temporary files");
        // SAFETY: the only other thread is the test runner's, which waits for this one.
        unsafe { std::env::set_var("SSL_CERT_FILE", &file) };
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the certificate");
        Self { config: Arc::new(config), file }
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // Only left behind by a run that was killed.
        fs::remove_file(&self.file).ok();
    }
}

/// Answers every request on every connection, each once `may_answer` returns. Returns its port.
pub fn start_origin(
    tls: Option<Arc<ServerConfig>>,
    may_answer: impl Fn() + Clone + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let port = listener.local_addr().expect("the port").port();
    thread::spawn(move || {
        be_peer();
        for stream in listener.incoming() {
            let stream = stream.expect("a connection of the proxy");
            stream.set_nodelay(true).expect("an open connection");
            let (tls, may_answer) = (tls.clone(), may_answer.clone());
            thread::spawn(move || {
                be_peer();
                match tls {
                    None => answer_all(stream, may_answer),
                    Some(config) => {
                        let session = ServerConnection::new(config).expect("a session");
                        answer_all(StreamOwned::new(session, stream), may_answer);
                    }
                }
            });
        }
    });
    port
}

fn answer_all(mut stream: impl Read + Write, may_answer: impl Fn()) {
    let (mut request, mut filled) = ([0; 4096], 0);
    while let Ok(n @ 1..) = stream.read(&mut request[filled..]) {
        filled += n;
        if request[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            may_answer();
            if stream.write_all(RESPONSE).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}

/// Runs the proxy on one core, with `flags`, until this process ends. Returns where it listens.
pub fn start_proxy(flags: &[&str]) -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let addr = free.expect("a port of loopback");
    let port = addr.port().to_string();
    let args = ["chocon-uring", "--listen", "127.0.0.1", "--port", &port, "--cores", "1"];
    let args = args.iter().chain(&["--access-log-dir", "none"]).chain(flags).map(OsString::from);
    let config = cli::parse(args, []).unwrap_or_else(|exit| panic!("{}", exit.text));
    thread::spawn(move || process::run(config));
    addr
}

/// A client's connection, as soon as the proxy listens.
pub fn connect(proxy: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + ANSWERED_WITHIN;
    let stream = loop {
        match TcpStream::connect(proxy) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < deadline, "the proxy does not listen: {e}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    stream.set_nodelay(true).expect("an open connection");
    stream.set_read_timeout(Some(ANSWERED_WITHIN)).expect("an open connection");
    stream
}

/// Reads one answer, which must be the origin's, whole.
pub fn expect_answer(client: &mut TcpStream) {
    let (mut response, mut filled) = ([0; 4096], 0);
    while !response[..filled].ends_with(b"\r\n\r\nwarm") {
        let n = client.read(&mut response[filled..]).expect("the proxy answers");
        assert!(n > 0, "cut: {}", String::from_utf8_lossy(&response[..filled]));
        filled += n;
    }
    assert!(response.starts_with(b"HTTP/1.1 200"));
}
