//! How often a warm request allocates: the whole proxy runs in this process, whose allocator counts.
//!
//! A test binary of its own, with one test: what ran beside it would be counted, too.

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
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

const WARM_UP: u32 = 300;
const REQUESTS: u32 = 2000;

/// What may be allocated beside `REQUESTS` requests: by the sweeper, which looks ten times a second, and by a queue that
/// grows. One allocation in fifty requests would be more.
const BESIDE_REQUESTS_MAX: u64 = REQUESTS as u64 / 50 - 1;

/// A machine that is busy gives the sweeper more turns: the fewest of so many measurements count.
const TRIES: u32 = 5;

/// Allocations a request over TLS. They are rustls': it keeps each record that it writes in a buffer of its own, and what
/// it decrypted of each in another.
const TLS_EACH_MAX: u64 = 2;

const REQUEST: &str =
    "GET /v1/thing?id=7 HTTP/1.1\r\nHost: HOST\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\n\
    Content-Length: 4\r\nConnection: keep-alive\r\n\r\nwarm";

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Set in threads that are no part of the proxy.
    static IS_PEER: Cell<bool> = const { Cell::new(false) };
}

impl Counting {
    fn count() {
        // A thread that ends has no such value any more; it serves nobody either.
        if IS_PEER.try_with(Cell::get) == Ok(false) {
            ALLOCATIONS.fetch_add(1, Relaxed);
        }
    }
}

// SAFETY: all is left to the system's allocator; counting touches no memory that it gives out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promise is passed on, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Answers every request on every connection, one connection at a time.
fn start_origin(tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let port = listener.local_addr().expect("the port").port();
    thread::spawn(move || {
        IS_PEER.set(true);
        for stream in listener.incoming() {
            let stream = stream.expect("a connection of the proxy");
            stream.set_nodelay(true).expect("an open connection");
            match &tls {
                None => answer_all(stream),
                Some(config) => {
                    let session = ServerConnection::new(config.clone()).expect("a session");
                    answer_all(StreamOwned::new(session, stream));
                }
            }
        }
    });
    port
}

fn answer_all(mut stream: impl Read + Write) {
    let (mut request, mut filled) = ([0; 4096], 0);
    while let Ok(n @ 1..) = stream.read(&mut request[filled..]) {
        filled += n;
        if request[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            if stream.write_all(RESPONSE).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}

/// A certificate for 127.0.0.1, which is its own authority; `SSL_CERT_FILE` names it from here on.
fn trusted_certificate() -> (Arc<ServerConfig>, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("a certificate");
    let file = std::env::temp_dir().join(format!("allocations-{}.pem", std::process::id()));
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
    (Arc::new(config), file)
}

/// Runs the proxy until this process ends. Returns where it listens.
fn start_proxy() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let addr = free.expect("a port of loopback");
    let port = addr.port().to_string();
    let args = ["chocon-uring", "--listen", "127.0.0.1", "--port", &port, "--cores", "1"];
    let args = args.into_iter().chain(["--access-log-dir", "none"]).map(OsString::from);
    let config = cli::parse(args, []).unwrap_or_else(|exit| panic!("{}", exit.text));
    thread::spawn(move || process::run(config));
    addr
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Client {
    fn connect(proxy: SocketAddr, host: &str) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match TcpStream::connect(proxy) {
                Ok(stream) => break stream,
                Err(e) => assert!(Instant::now() < deadline, "the proxy does not listen: {e}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_nodelay(true).expect("an open connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("an open connection");
        Self { stream, request: REQUEST.replace("HOST", host).into() }
    }

    fn get(&mut self, times: u32) {
        let mut response = [0; 4096];
        for _ in 0..times {
            self.stream.write_all(&self.request).expect("the proxy reads");
            let mut filled = 0;
            while !response[..filled].ends_with(b"\r\n\r\nwarm") {
                let n = self.stream.read(&mut response[filled..]).expect("the proxy answers");
                assert!(n > 0, "cut: {}", String::from_utf8_lossy(&response[..filled]));
                filled += n;
            }
            assert!(response.starts_with(b"HTTP/1.1 200"));
        }
    }

    /// How often the proxy allocates while it serves `REQUESTS` warm requests.
    fn allocations(mut self) -> u64 {
        self.get(WARM_UP);
        let measure = |_try| {
            let before = ALLOCATIONS.load(Relaxed);
            self.get(REQUESTS);
            ALLOCATIONS.load(Relaxed) - before
        };
        (0..TRIES).map(measure).min().expect("several tries")
    }
}

#[test]
fn warm_requests_allocate_nothing_over_http_and_a_bounded_number_of_times_over_tls() {
    IS_PEER.set(true);
    let (tls, authority) = trusted_certificate();
    let (http, https) = (start_origin(None), start_origin(Some(tls)));
    let proxy = start_proxy();
    let http = Client::connect(proxy, &format!("127.0.0.1.ccnproxy:{http}")).allocations();
    let https = Client::connect(proxy, &format!("127.0.0.1.ccnproxy-https:{https}")).allocations();
    // Only left behind by a run that failed.
    fs::remove_file(authority).ok();
    println!("{REQUESTS} requests: {http} allocations over http, {https} over https");
    assert!(http <= BESIDE_REQUESTS_MAX, "{http} allocations in {REQUESTS} requests over http");
    let most = TLS_EACH_MAX * u64::from(REQUESTS) + BESIDE_REQUESTS_MAX;
    assert!(https <= most, "{https} allocations in {REQUESTS} requests over TLS");
    assert!(https > 0, "what counts does not count");
}
