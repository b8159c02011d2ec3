//! Clients wait at the start for connections that are to be ready, within bounds. The judge is the origin.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{
    Client, MuteAddr, OK, Origin, Proxy, RefusingAddr, Supervisor, TlsOrigin, eventually,
};

const FAR: Duration = Duration::from_millis(700);

fn far_origin() -> TlsOrigin {
    TlsOrigin::options().away(FAR).answering(OK)
}

fn warm(origin: &TlsOrigin, connections: usize) -> String {
    format!("https://localhost:{}={connections}", origin.addr().port())
}

fn handshakes(origin: &TlsOrigin) -> usize {
    origin.full_handshakes() + origin.resumed_handshakes()
}

#[test]
fn serving_begins_when_all_named_connections_are_there() {
    let origin = far_origin();
    // The second round of handshakes begins when the first has told what the origin speaks.
    let proxy = Proxy::start(&["--warm", &warm(&origin, 3), "--warm-wait", "9s"]);
    assert_eq!(handshakes(&origin), 3);
    assert!(!proxy.log().contains("--warm-wait"), "{}", proxy.log());
}

#[test]
fn client_that_comes_too_early_rides_a_connection_that_was_made_for_nobody() {
    let origin = far_origin();
    let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut client = Client::connect_to(socket.local_addr().expect("own address"));
    client.request("GET", &origin.host(), "/", "", b"");
    let flags = ["--warm", &warm(&origin, 1), "--warm-wait", "9s", "--access-log-format", "json+"];
    let _proxy = Proxy::options(&flags).inherit(Supervisor::ServerStarter, &[&socket]).start();
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn serving_begins_at_once_where_told() {
    let origin = far_origin();
    let proxy = Proxy::start(&["--warm", &warm(&origin, 1), "--warm-wait", "0"]);
    assert_eq!(handshakes(&origin), 0);
    assert!(!proxy.log().contains("--warm-wait"), "{}", proxy.log());
    eventually("the handshake", || handshakes(&origin) == 1);
}

#[test]
fn origin_that_does_not_answer_keeps_clients_for_the_bound_and_no_longer() {
    let (mute, other) = (MuteAddr::new(), Origin::answering(OK));
    let begun = Instant::now();
    let url = format!("http://{}", mute.addr);
    let proxy = Proxy::start(&["--warm", &url, "--warm-wait", "800ms"]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(800) && took < Duration::from_secs(4), "{took:?}");
    proxy.wait_for_log("within 800ms (--warm-wait)");
    let mut client = Client::connect(&proxy);
    client.get(&other, "/");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn process_that_is_told_to_end_meanwhile_ends_at_once_with_0() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let origin = TlsOrigin::scripted();
        let flags = ["--warm", &warm(&origin, 1), "--warm-wait", "1m"];
        let mut proxy = Proxy::options(&flags).start_waiting();
        // Its handshake does not go on: the wait has begun, and would last.
        let _handshake = origin.accept_tcp();
        proxy.signal(signal);
        assert_eq!(proxy.wait_exit().code(), Some(0));
        let log = proxy.log();
        assert!(log.contains(&format!("ended by signal {signal} before it served")), "{log}");
        assert!(!log.contains("listening on"), "{log}");
    }
}

#[test]
fn origin_that_refuses_is_not_waited_for() {
    let refusing = RefusingAddr::new();
    let url = format!("http://{}=4", refusing.addr);
    let begun = Instant::now();
    let proxy = Proxy::start(&["--warm", &url, "--warm-wait", "1m"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!proxy.log().contains("--warm-wait"), "{}", proxy.log());
}

#[test]
fn nothing_is_waited_for_where_no_connection_may_be_idle() {
    let origin = far_origin();
    let begun = Instant::now();
    let flags = ["--keepalive-conns", "0", "--warm", &warm(&origin, 1), "--warm-wait", "1m"];
    let _proxy = Proxy::start(&flags);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn bounds_below_the_floor_are_what_is_waited_for() {
    let origin = far_origin();
    let flags = ["--max-conns-per-host", "2", "--warm", &warm(&origin, 4), "--warm-wait", "1m"];
    let _proxy = Proxy::start(&flags);
    assert_eq!(handshakes(&origin), 2);
}
