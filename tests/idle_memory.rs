//! What an idle TLS connection to an origin keeps on the heap: the whole proxy runs in this process, whose allocator
//! keeps count of what is live.
//!
//! A test binary of its own, with one test: what ran beside it would be counted, too. The C code of the TLS library
//! allocates by itself, about 1.2 KiB a connection; that is not seen here.

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
    sync::{
        Arc, Barrier,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Connections that the first burst leaves behind, and as many more that the second does. What stays once and for all
/// is in both, so the difference is the connections'.
const CONNECTIONS: i64 = 64;

/// Live bytes that an idle connection may have. rustls needs most of them: 4 KiB for the next record, 2.2 KiB of state,
/// and the peer's certificates, here one of 0.4 KiB. What is left after the blocks of a burst were given back counts,
/// too: a fraction of one for each.
const IDLE_BYTES_MAX: i64 = 8 * 1024;

/// Within it the shard gives the blocks of a burst back.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nidle";

struct Counting;

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Set in threads that are no part of the proxy.
    static IS_PEER: Cell<bool> = const { Cell::new(false) };
}

impl Counting {
    /// A layout is never larger than `isize::MAX`.
    fn count(bytes: usize, sign: i64) {
        // A thread that ends has no such value any more; it serves nobody either.
        if IS_PEER.try_with(Cell::get) == Ok(false) {
            LIVE_BYTES.fetch_add(sign * bytes as i64, Relaxed);
        }
    }
}

// SAFETY: all is left to the system's allocator; counting touches no memory that it gives out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 1);
        // SAFETY: the caller's promise is passed on, here and below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::count(layout.size(), -1);
        Self::count(new_size, 1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, new_size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        Self::count(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Answers once as many requests wait as `together` says, so that each needs a connection of its own.
fn start_origin(tls: Arc<ServerConfig>, together: Arc<Barrier>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let port = listener.local_addr().expect("the port").port();
    thread::spawn(move || {
        IS_PEER.set(true);
        for stream in listener.incoming() {
            let stream = stream.expect("a connection of the proxy");
            let session = ServerConnection::new(tls.clone()).expect("a session");
            let together = together.clone();
            thread::spawn(move || {
                IS_PEER.set(true);
                answer_all(StreamOwned::new(session, stream), &together);
            });
        }
    });
    port
}

fn answer_all(mut stream: impl Read + Write, together: &Barrier) {
    let (mut request, mut filled) = ([0; 4096], 0);
    while let Ok(n @ 1..) = stream.read(&mut request[filled..]) {
        filled += n;
        if request[..filled].ends_with(b"\r\n\r\n") {
            filled = 0;
            together.wait();
            if stream.write_all(RESPONSE).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}

/// A certificate for 127.0.0.1, which is its own authority; `SSL_CERT_FILE` names it from here on.
fn trusted_certificate() -> Arc<ServerConfig> {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = params.self_signed(&key).expect("a certificate");
    let file = std::env::temp_dir().join(format!("idle-memory-{}.pem", std::process::id()));
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
    Arc::new(config)
}

/// Runs the proxy until this process ends. Returns where it listens.
fn start_proxy() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let addr = free.expect("a port of loopback");
    let port = addr.port().to_string();
    let args = ["chocon-uring", "--listen", "127.0.0.1", "--port", &port, "--cores", "1"];
    let more = ["--access-log-dir", "none", "--warm-learned", "off", "--keepalive-timeout", "600"];
    let args = args.into_iter().chain(more).map(OsString::from);
    let config = cli::parse(args, []).unwrap_or_else(|exit| panic!("{}", exit.text));
    thread::spawn(move || process::run(config));
    addr
}

fn connect(proxy: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    let stream = loop {
        match TcpStream::connect(proxy) {
            Ok(stream) => break stream,
            Err(e) => assert!(Instant::now() < deadline, "the proxy does not listen: {e}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an open connection");
    stream
}

/// As many requests at once, each answered in full; then the clients go.
fn burst(proxy: SocketAddr, host: &str, requests: i64) {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut clients: Vec<_> = (0..requests).map(|_| connect(proxy)).collect();
    for client in &mut clients {
        client.write_all(request.as_bytes()).expect("the proxy reads");
    }
    for client in &mut clients {
        let (mut response, mut filled) = ([0; 4096], 0);
        while !response[..filled].ends_with(b"\r\n\r\nidle") {
            let n = client.read(&mut response[filled..]).expect("the proxy answers");
            assert!(n > 0, "cut: {}", String::from_utf8_lossy(&response[..filled]));
            filled += n;
        }
        assert!(response.starts_with(b"HTTP/1.1 200"));
    }
}

/// Live bytes once they stay the same, or the least within `SETTLED_WITHIN`.
fn settled() -> i64 {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let (mut least, mut since) = (i64::MAX, Instant::now());
    while Instant::now() < deadline && since.elapsed() < Duration::from_secs(4) {
        let live = LIVE_BYTES.load(Relaxed);
        if live < least {
            (least, since) = (live, Instant::now());
        }
        thread::sleep(Duration::from_millis(50));
    }
    least
}

#[test]
fn idle_tls_connections_after_a_burst_keep_a_bounded_number_of_bytes() {
    IS_PEER.set(true);
    let config = trusted_certificate();
    let (few, many) = (CONNECTIONS, 2 * CONNECTIONS);
    let together = |n: i64| Arc::new(Barrier::new(usize::try_from(n).expect("a small number")));
    // An origin each: the second burst needs all of its connections anew.
    let first = start_origin(config.clone(), together(few));
    let second = start_origin(config, together(many));
    let proxy = start_proxy();
    let host = |port: u16| format!("127.0.0.1.ccnproxy-https:{port}");
    burst(proxy, &host(first), few);
    let before = settled();
    burst(proxy, &host(second), many);
    let each = (settled() - before) / many;
    println!("{each} bytes an idle connection");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes an idle connection");
    // rustls alone needs as much: less would mean that the connections are gone.
    assert!(each >= 4096, "{each} bytes an idle connection: are there any?");
}
