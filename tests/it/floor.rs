//! Connections that are kept ready before requests need them. The judge is the origin.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2::serving;
use crate::support::{
    Client, MuteAddr, OK, Origin, Proxy, RefusingAddr, TlsOrigin, eventually, eventually_within,
};

fn url(origin: &Origin) -> String {
    format!("http://127.0.0.1:{}", origin.addr().port())
}

fn tls_url(origin: &TlsOrigin) -> String {
    format!("https://localhost:{}", origin.addr().port())
}

/// One from which a new connection is so dear that a request waits for a shard that is slow to lend.
fn far_origin() -> TlsOrigin {
    TlsOrigin::options().away(Duration::from_millis(400)).answering(OK)
}

/// One request on a client connection of its own.
fn get(proxy: &Proxy, host: &str) {
    let mut client = Client::connect(proxy);
    client.request("GET", host, "/", "", b"");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn named_origin_has_its_handshakes_before_any_request_and_requests_ride_them() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&["--warm", &format!("{}=4", tls_url(&origin))]);
    let handshakes = || origin.full_handshakes() + origin.resumed_handshakes();
    eventually("four handshakes", || handshakes() == 4);
    origin.expect_no_bytes();
    for _ in 0..20 {
        get(&proxy, &origin.host());
    }
    assert_eq!((handshakes(), origin.connections()), (4, 4));
}

#[test]
fn many_shards_keep_one_floor_and_lend_from_it() {
    let origin = far_origin();
    let flags = [
        "--cores",
        "8",
        "--access-log-format",
        "json+",
        "--warm",
        &format!("{}=2", tls_url(&origin)),
    ];
    let proxy = Proxy::start(&flags);
    eventually("two handshakes", || origin.full_handshakes() + origin.resumed_handshakes() == 2);
    for _ in 0..40 {
        get(&proxy, &origin.host());
    }
    assert_eq!(origin.connections(), 2, "\n{}", proxy.log());
    eventually("40 lines", || proxy.access_log_lines().len() == 40);
    let how: Vec<String> =
        proxy.access_log_lines().iter().map(|line| line.get("conn").to_owned()).collect();
    assert!(how.iter().all(|how| how == "reused" || how == "lent"), "{how:?}");
}

#[test]
fn connection_that_the_origin_closes_is_replaced_at_once() {
    let origin = Origin::scripted();
    let _proxy = Proxy::one_shard(&["--warm", &format!("{}=2", url(&origin))]);
    let (first, _second) = (origin.accept(), origin.accept());
    // One that lives for less is taken for a refusal.
    thread::sleep(Duration::from_millis(700));
    let closed = Instant::now();
    first.close();
    let _third = origin.accept();
    let took = closed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(origin.connections(), 3);
}

#[test]
fn named_origin_may_be_dead_at_the_start_and_is_dialled_with_pauses() {
    let refusing = RefusingAddr::new();
    let mute = MuteAddr::new();
    let proxy = Proxy::one_shard(&[
        "--warm",
        &format!("http://{}", refusing.addr),
        "--warm",
        &format!("http://{}", mute.addr),
        "--warm",
        "https://no-such-name.invalid",
    ]);
    proxy.wait_for_log("no connection can be kept ready");
    let origin = Origin::answering(OK);
    get(&proxy, &origin.host());
}

/// How often an origin that ends each connection by `end` is dialled in three seconds.
fn dials_within_3_s(scheme: &str, end: impl Fn(std::net::TcpStream) + Send + 'static) -> usize {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let at = listener.local_addr().expect("an address");
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            end(tcp);
        }
    });
    let proxy =
        Proxy::one_shard(&["--warm", &format!("{scheme}://{at}=4"), "--tls-timeout", "500ms"]);
    eventually("a first dial", || accepted.load(Ordering::SeqCst) > 0);
    thread::sleep(Duration::from_secs(3));
    drop(proxy);
    accepted.load(Ordering::SeqCst)
}

#[test]
fn origin_that_closes_at_once_is_dialled_less_and_less() {
    // Four at first, then one each after pauses of 1 to 1.5 s and 2 to 3 s.
    let dials = dials_within_3_s("http", drop);
    assert!((4..=7).contains(&dials), "{dials}");
}

#[test]
fn origin_that_resets_at_once_is_dialled_less_and_less() {
    let dials = dials_within_3_s("http", |tcp| {
        let socket = socket2::Socket::from(tcp);
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    });
    assert!((4..=7).contains(&dials), "{dials}");
}

#[test]
fn origin_that_never_shakes_hands_is_dialled_less_and_less() {
    let origin = TlsOrigin::scripted();
    let proxy =
        Proxy::one_shard(&["--warm", &format!("{}=4", tls_url(&origin)), "--tls-timeout", "300ms"]);
    let line = proxy.wait_for_log("no connection can be kept ready");
    assert!(line.contains("origin/tls/timed-out"), "{line}");
    thread::sleep(Duration::from_secs(3));
    // One at a time, for it may speak HTTP/2, of which one is enough.
    let dials = origin.connections();
    assert!((2..=4).contains(&dials), "{dials}");
}

#[test]
fn origin_whose_handshakes_fail_is_dialled_less_and_less() {
    // RFC 8446 §6.2: a fatal alert, handshake_failure.
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
    let dials = dials_within_3_s("https", |mut tcp| tcp.write_all(&ALERT).unwrap_or(()));
    // One at a time, for it may speak HTTP/2, of which one is enough.
    assert!((2..=4).contains(&dials), "{dials}");
}

#[test]
fn origin_that_takes_connections_and_never_answers_costs_its_floor_and_no_more() {
    // TCP is all that a floor in the clear needs; requests pay for the silence, not the floor.
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&["--warm", &format!("{}=4", url(&origin))]);
    eventually("the floor", || origin.connections() == 4);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(origin.connections(), 4);
    drop(proxy);
}

#[test]
fn home_keeps_the_floor_and_the_others_only_what_is_left_of_the_bound() {
    let origin = far_origin();
    let flags =
        ["--cores", "4", "--keepalive-conns", "4", "--warm", &format!("{}=4", tls_url(&origin))];
    let proxy = Proxy::start(&flags);
    eventually("the floor", || origin.open_connections() == 4);
    for _ in 0..40 {
        get(&proxy, &origin.host());
        let open = origin.open_connections();
        assert!(open <= 4, "{open} are open");
    }
    assert_eq!(origin.connections(), 4, "those of other shards go home again");
}

#[test]
fn named_origin_that_speaks_http_2_has_one_connection_whatever_its_number() {
    let origin = serving(|conn, request| conn.answer(request.stream, b"ok"));
    let proxy = Proxy::one_shard(&["--warm", &format!("{}=4", tls_url(&origin))]);
    eventually("a handshake", || origin.full_handshakes() == 1);
    // Several looks of the sweeper: it does not count places as connections.
    thread::sleep(Duration::from_secs(1));
    for _ in 0..8 {
        get(&proxy, &origin.host());
    }
    let handshakes = origin.full_handshakes() + origin.resumed_handshakes();
    assert_eq!((handshakes, origin.connections()), (1, 1));
}

#[test]
fn nothing_is_kept_ready_without_idle_connections() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--keepalive-conns", "0", "--warm", &url(&origin)]);
    proxy.wait_for_log("--warm has no effect");
    get(&proxy, &origin.host());
    thread::sleep(Duration::from_millis(500));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn origin_in_use_is_kept_ready_beyond_the_keepalive_timeout() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&["--keepalive-timeout", "1s"]);
    for _ in 0..2 {
        get(&proxy, &origin.host());
    }
    eventually_within(Duration::from_secs(5), "replacements", || origin.connections() >= 3);
    // One, its replacement, and one whose close is on its way.
    let open = origin.open_connections();
    assert!((1..=3).contains(&open), "{open}");
    get(&proxy, &origin.host());
}

#[test]
fn origin_in_use_is_left_to_go_cold_where_told() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--keepalive-timeout", "500ms", "--warm-learned", "off"]);
    for _ in 0..3 {
        get(&proxy, &origin.host());
    }
    eventually("the idle connection to go", || origin.open_connections() == 0);
    let before = origin.connections();
    thread::sleep(Duration::from_secs(1));
    assert_eq!((origin.connections(), origin.open_connections()), (before, 0));
}

#[test]
fn origin_asked_once_is_left_to_go_cold() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--keepalive-timeout", "500ms"]);
    get(&proxy, &origin.host());
    eventually("the idle connection to go", || origin.open_connections() == 0);
    thread::sleep(Duration::from_secs(1));
    assert_eq!((origin.connections(), origin.open_connections()), (1, 0));
}
