//! How the process ends: what is in flight is finished, nothing new is taken.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Client, Ended, OK, Origin, OriginConn, Proxy, eventually};

struct InFlight {
    origin: Origin,
    proxy: Proxy,
    client: Client,
    conn: OriginConn,
}

/// A proxy with one request that waits for its answer.
fn in_flight(flags: &[&str]) -> InFlight {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(flags));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/in-flight");
    let mut conn = origin.accept();
    conn.read_request();
    InFlight { origin, proxy, client, conn }
}

fn eventually_refuses(proxy: &Proxy) {
    eventually("the listeners to be closed", || TcpStream::connect(proxy.addr()).is_err());
}

#[test]
fn idle_process_ends_with_0_on_sigterm() {
    let mut proxy = Proxy::start(&[]);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn idle_process_ends_with_0_on_sigint() {
    let mut proxy = Proxy::start(&[]);
    proxy.signal(libc::SIGINT);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn request_in_flight_is_finished_and_told_to_close() {
    finishes_the_request_in_flight_at(libc::SIGTERM);
}

#[test]
fn sigquit_is_as_orderly_an_end() {
    finishes_the_request_in_flight_at(libc::SIGQUIT);
}

fn finishes_the_request_in_flight_at(signal: libc::c_int) {
    let InFlight { origin: _origin, mut proxy, mut client, mut conn } = in_flight(&[]);
    proxy.signal(signal);
    eventually_refuses(&proxy);
    conn.send(OK);
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert!(response.closes());
    client.expect_closed();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn signals_meant_for_other_programs_end_nothing() {
    let InFlight { origin: _origin, proxy, mut client, mut conn } = in_flight(&[]);
    proxy.signal(libc::SIGUSR2);
    proxy.wait_for_log("SIGUSR2 means nothing here");
    proxy.signal(libc::SIGALRM);
    proxy.wait_for_log("SIGALRM means nothing here");
    conn.send(OK);
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (200, false));
    client.expect_usable();
}

#[test]
fn body_in_flight_is_finished() {
    let InFlight { origin: _origin, mut proxy, mut client, mut conn } = in_flight(&[]);
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
    client.read_until(b"abc");
    proxy.signal(libc::SIGTERM);
    eventually_refuses(&proxy);
    conn.send("def");
    assert_eq!(client.read_exact(3), b"def");
    client.expect_closed();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn upload_in_flight_is_finished() {
    let (origin, mut proxy) = (Origin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 6\r\n", b"");
    client.send("abc");
    let mut conn = origin.accept();
    let head = conn.read_head();
    proxy.signal(libc::SIGTERM);
    eventually_refuses(&proxy);
    client.send("def");
    assert_eq!(conn.read_body_of(&head).bytes, b"abcdef");
    conn.send(OK);
    assert!(client.read_response().closes());
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn request_on_an_idle_connection_that_crosses_the_end_is_answered() {
    let (origin, mut proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.get(&origin, "/");
        assert!(!client.read_response().closes());
    }
    proxy.signal(libc::SIGTERM);
    // Every shard has heard of the end when none accepts any more.
    eventually_refuses(&proxy);
    for client in &mut clients {
        client.get(&origin, "/");
        let response = client.read_response();
        assert_eq!((response.text().as_str(), response.closes()), ("ok", true));
        client.expect_closed();
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn request_that_has_begun_to_arrive_is_read_to_its_end_and_answered() {
    let (origin, mut proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\n");
    proxy.signal(libc::SIGTERM);
    eventually_refuses(&proxy);
    client.expect_silence(Duration::from_millis(1500));
    client.send(format!("Host: {}\r\n\r\n", origin.host()));
    assert!(client.read_response().closes());
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn idle_client_does_not_use_up_a_short_grace() {
    let (origin, mut proxy) =
        (Origin::answering(OK), Proxy::start(&["--shutdown-timeout", "600ms"]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    proxy.signal(libc::SIGTERM);
    client.expect_closed();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn idle_client_is_closed_soon() {
    let (origin, mut proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    let mut silent = Client::connect(&proxy);
    silent.set_deadline(Duration::from_secs(3));
    client.set_deadline(Duration::from_secs(3));
    proxy.signal(libc::SIGTERM);
    client.expect_closed();
    silent.expect_closed();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn idle_origin_connection_is_closed() {
    let InFlight { origin: _origin, mut proxy, mut client, mut conn } = in_flight(&[]);
    conn.send(OK);
    client.read_response();
    proxy.signal(libc::SIGTERM);
    conn.wait_closed();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn pipelined_request_behind_the_one_in_flight_is_not_begun() {
    let InFlight { origin, mut proxy, mut client, mut conn } = in_flight(&[]);
    proxy.signal(libc::SIGTERM);
    eventually_refuses(&proxy);
    client.get(&origin, "/too-late");
    conn.send(OK);
    assert!(client.read_pipelined_response().closes());
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty());
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn shutdown_timeout_ends_the_process_with_1() {
    let flags = ["--shutdown-timeout", "300ms"];
    let InFlight { origin: _origin, mut proxy, mut client, conn: _conn } = in_flight(&flags);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(1));
    let (bytes, _) = client.read_to_end();
    assert!(!bytes.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn no_grace_cuts_requests_and_only_they_make_it_a_failure() {
    let flags = ["--shutdown-timeout", "0"];
    let InFlight { origin: _origin, mut proxy, mut client, conn: _conn } = in_flight(&flags);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(1));
    let (bytes, _) = client.read_to_end();
    assert!(!bytes.starts_with(b"HTTP/1.1 200"));

    let (origin, mut proxy) = (Origin::answering(OK), Proxy::start(&flags));
    let mut idle = Client::connect(&proxy);
    idle.get(&origin, "/");
    idle.read_response();
    proxy.signal(libc::SIGTERM);
    idle.expect_closed();
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn shutdown_timeout_cuts_a_body_visibly() {
    let flags = ["--shutdown-timeout", "300ms"];
    let InFlight { origin: _origin, mut proxy, mut client, mut conn } = in_flight(&flags);
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.read_until(b"abc");
    proxy.signal(libc::SIGTERM);
    let (rest, _) = client.read_to_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the body looks complete");
    assert_eq!(proxy.wait_exit().code(), Some(1));
}

#[test]
fn second_signal_ends_the_process_at_once_with_1() {
    let InFlight { origin: _origin, mut proxy, mut client, mut conn } = in_flight(&[]);
    proxy.signal(libc::SIGTERM);
    eventually_refuses(&proxy);
    // What comes again at once is the same signal, see below.
    eventually("an end by the signal", || {
        proxy.signal(libc::SIGTERM);
        !proxy.is_running()
    });
    assert_eq!(proxy.wait_exit().code(), Some(1));
    assert!(matches!(conn.read_to_end().1, Ended::Eof | Ended::Reset));
    client.read_to_end();
}

#[test]
fn signal_that_a_supervisor_passes_on_again_cuts_nothing() {
    let InFlight { origin: _origin, mut proxy, mut client, mut conn } = in_flight(&[]);
    proxy.signal(libc::SIGINT);
    eventually_refuses(&proxy);
    proxy.signal(libc::SIGINT);
    // Of pending signals the lowest number is taken first, so this one is answered after the other.
    proxy.signal(libc::SIGUSR1);
    proxy.wait_for_log("upstream latency");
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
    drop((client, conn));
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn second_signal_of_the_other_kind_ends_the_process_at_once() {
    let InFlight { origin: _origin, mut proxy, client: _client, conn: _conn } = in_flight(&[]);
    proxy.signal(libc::SIGTERM);
    eventually_refuses(&proxy);
    proxy.signal(libc::SIGINT);
    assert_eq!(proxy.wait_exit().code(), Some(1));
}

#[test]
fn connections_waiting_to_be_accepted_are_not_forgotten() {
    // Connected before the signal; the request is on its way. It is answered or refused by an
    // end of the connection, and the process does not wait for it for ever.
    let (origin, mut proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.get(&origin, "/");
    }
    proxy.signal(libc::SIGTERM);
    for client in &mut clients {
        let (bytes, _) = client.read_to_end();
        assert!(bytes.is_empty() || bytes.ends_with(b"\r\n\r\nok"), "{}", bytes.escape_ascii());
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
}
