//! What an HTTP/2 connection may cost: the memory of a shard whose clients do not read, and a panic in its driver.

use std::time::{Duration, Instant};

use crate::support::http2::{END_STREAM, Http2Conn, INITIAL_WINDOW_SIZE, SETTINGS, options};
use crate::support::{Client, Proxy};

const MIB: usize = 1 << 20;

/// The stream window that SETTINGS tell, if they do.
fn told_window(kind: u8, payload: &[u8]) -> Option<u32> {
    let value = payload.strip_prefix(&INITIAL_WINDOW_SIZE.to_be_bytes()[..])?;
    (kind == SETTINGS).then(|| u32::from_be_bytes(value.try_into().expect("four bytes")))
}

#[test]
fn slow_clients_beyond_256_mib_make_windows_small_until_half_of_it_is_taken() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&["--access-log-dir", "none"]));
    let ask = |path: &str| {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), path, "", b"");
        client
    };
    let mut clients = vec![ask("/0")];
    let mut conn = Http2Conn::open(origin.accept());
    let piece = vec![7; 64 * 1024];
    let mut sent = 0;
    // Clients that take nothing, one after the other, each to the end of its window.
    let small = 'held: loop {
        assert!(sent < 1024 * MIB && clients.len() < 90, "{sent} bytes and no bound");
        let stream = conn.next_request().stream;
        // It may have been told while the request came in.
        if conn.room(stream) == 65_535 {
            break 65_535;
        }
        conn.headers(stream, &[(":status", "200")], 0);
        let mut looked = Instant::now();
        while looked.elapsed() < Duration::from_millis(50) {
            if conn.has_bytes() {
                let frame = conn.read_frame().expect("a frame instead of the connection's end");
                if let Some(window) = told_window(frame.kind, &frame.payload)
                    && window < 1 << 20
                {
                    break 'held window;
                }
            } else if conn.room(stream) >= piece.len() {
                conn.body(stream, &piece, 0);
                sent += piece.len();
                looked = Instant::now();
            }
        }
        clients.push(ask("/more"));
    };
    assert_eq!(small, 65_535);
    assert!(sent >= 256 * MIB, "small already at {sent} bytes");
    let resident = proxy.resident_kib() as usize * 1024;
    // The rest of what was sent is in the sockets of clients.
    let bounds = 200 * MIB..400 * MIB;
    assert!(bounds.contains(&resident), "{resident} bytes are resident at {sent}");
    // Those who leave give their part back.
    drop(clients);
    let large = loop {
        let frame = conn.read_frame().expect("a frame instead of the connection's end");
        if let Some(window) = told_window(frame.kind, &frame.payload) {
            break window;
        }
    };
    assert!(large as usize >= 4 * MIB, "{large}");
    let mut next = ask("/next");
    loop {
        let request = conn.next_request();
        if request.path() == "/next" {
            conn.headers(request.stream, &[(":status", "200")], 0);
            conn.body(request.stream, b"next", END_STREAM);
            break;
        }
    }
    assert_eq!(next.read_response().text(), "next");
}

/// Only a build with assertions can be told to panic.
#[cfg(debug_assertions)]
#[test]
fn panic_in_the_driver_ends_its_connection_alone() {
    let origin = crate::support::http2::serving(|conn, request| match request.path() {
        "/panic" => conn.answer(request.stream, &vec![7; 200_000]),
        _ => conn.answer(request.stream, b"fine"),
    });
    let options = Proxy::options(&["--cores", "1"]).env("CHOCON_URING_HTTP2_PANIC_AT", "100000");
    let mut proxy = options.start();
    let ask = |proxy: &Proxy, path: &str| {
        let mut client = Client::connect(proxy);
        client.request("GET", &origin.host(), path, "", b"");
        client
    };
    let mut kept = ask(&proxy, "/first");
    assert_eq!(kept.read_response().text(), "fine");
    // Cut in its body, or told that there is none.
    let mut cut = ask(&proxy, "/panic");
    let received = cut.read_to_end().0;
    assert!(received.len() < 200_000, "{} bytes", received.len());
    proxy.expect_panic();
    // The shard, its clients and its other connections live on.
    kept.request("GET", &origin.host(), "/second", "", b"");
    assert_eq!(kept.read_response().text(), "fine");
    assert_eq!(ask(&proxy, "/third").read_response().text(), "fine");
    assert_eq!(origin.connections(), 2);
    let given_back = "the connection's descriptor to be given back";
    crate::support::eventually(given_back, || origin.open_connections() == 1);
}
