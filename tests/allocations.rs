//! How often a warm request allocates.

mod in_process;

use in_process::{
    Certificate, Telling, be_peer, connect, expect_answer, start_origin, start_proxy,
};
use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
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

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count(bytes: i64) {
    if bytes > 0 {
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Telling = Telling(count);

/// How often the proxy allocates while it serves `REQUESTS` warm requests of one client.
fn allocations(mut client: TcpStream, host: &str) -> u64 {
    let request = format!(
        "GET /v1/thing?id=7 HTTP/1.1\r\nHost: {host}\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\r\n"
    );
    let mut get = |times| {
        for _ in 0..times {
            client.write_all(request.as_bytes()).expect("the proxy reads");
            expect_answer(&mut client);
        }
    };
    get(WARM_UP);
    let measure = |_try| {
        let before = ALLOCATIONS.load(Relaxed);
        get(REQUESTS);
        ALLOCATIONS.load(Relaxed) - before
    };
    (0..TRIES).map(measure).min().expect("several tries")
}

#[test]
fn warm_requests_allocate_nothing_over_http_and_a_bounded_number_of_times_over_tls() {
    be_peer();
    let certificate = Certificate::trusted();
    let at_once = || ();
    let http = start_origin(None, at_once);
    let https = start_origin(Some(certificate.config.clone()), at_once);
    let proxy = start_proxy(&[]);
    let http = allocations(connect(proxy), &format!("127.0.0.1.ccnproxy:{http}"));
    let https = allocations(connect(proxy), &format!("127.0.0.1.ccnproxy-https:{https}"));
    println!("{REQUESTS} requests: {http} allocations over http, {https} over https");
    assert!(http <= BESIDE_REQUESTS_MAX, "{http} allocations in {REQUESTS} requests over http");
    let most = TLS_EACH_MAX * u64::from(REQUESTS) + BESIDE_REQUESTS_MAX;
    assert!(https <= most, "{https} allocations in {REQUESTS} requests over TLS");
    assert!(https > 0, "what counts does not count");
}
