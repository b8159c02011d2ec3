//! Every phase ends in time, with the right status, and gives everything back.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::is_quiet;
use crate::support::{
    Client, Ended, MuteAddr, OK, Origin, OriginConn, Proxy, RefusingAddr, Response, TlsOrigin,
    eventually,
};

/// Generous upper bound for a deadline of 300 ms on a loaded machine; the default is far above.
const SOON: Duration = Duration::from_secs(3);

const SHORT_HEAD: &[&str] = &["--read-timeout", "300ms"];
const SHORT_WAIT: &[&str] = &[
    "--proxy-read-timeout",
    "300ms",
    // A connection made ahead would be taken for one that was not given back.
    "--warm-learned=off",
];

#[test]
fn unfinished_head_gets_408() {
    let proxy = Proxy::start(SHORT_HEAD);
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\nHost: x");
    client.expect_refusal(408);
}

#[test]
fn single_byte_of_a_head_gets_408() {
    let proxy = Proxy::start(SHORT_HEAD);
    let mut client = Client::connect(&proxy);
    client.send("G");
    client.expect_refusal(408);
}

#[test]
fn dripping_head_gets_408_all_the_same() {
    let proxy = Proxy::start(SHORT_HEAD);
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\nX: ");
    drip_until_answered(&mut client);
    assert_eq!(client.read_response().status, 408);
}

#[test]
fn second_head_has_a_deadline_of_its_own() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(SHORT_HEAD));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    client.send("GET / HTTP/1.1\r\n");
    client.expect_refusal(408);
}

#[test]
fn silence_between_requests_is_not_a_slow_head() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(SHORT_HEAD));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    client.expect_silence(Duration::from_millis(700));
    client.get(&origin, "/");
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn client_that_never_speaks_is_closed_without_a_word() {
    let proxy = Proxy::start(&["--client-idle-timeout", "300ms"]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.expect_closed();
}

#[test]
fn idle_client_is_closed_without_a_word() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--client-idle-timeout", "300ms"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    client.set_deadline(SOON);
    client.expect_closed();
}

#[test]
fn time_to_answer_begins_with_the_end_of_a_head_that_began_behind_another_request() {
    let (origin, silent) = (Origin::answering(OK), Origin::scripted());
    let proxy = Proxy::start(&["--write-timeout", "300ms"]);
    let (mut client, mut late) = (Client::connect(&proxy), Client::connect(&proxy));
    let host = format!("Host: {}\r\n\r\n", origin.host());
    client.send(format!("GET / HTTP/1.1\r\n{host}GET / HTTP/1.1\r\n"));
    assert_eq!(client.read_response().status, 200);
    // The deadline of a request that began later passes while the second head is on its way.
    late.get(&silent, "/");
    late.read_error(504);
    client.send(host);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn waiting_for_an_answer_is_not_idling() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&["--client-idle-timeout", "200ms", "--read-timeout", "200ms"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.expect_silence(Duration::from_millis(700));
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn unfinished_body_gets_408() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(SHORT_HEAD));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    client.send("abc");
    let mut conn = origin.accept();
    let head = conn.read_head();
    client.expect_refusal(408);
    assert_ne!(conn.read_body_of(&head).ended, Ended::Complete);
}

#[test]
fn dripping_body_gets_408_all_the_same() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(SHORT_HEAD));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 1000\r\n", b"");
    let mut conn = origin.accept();
    conn.read_head();
    drip_until_answered(&mut client);
    assert_eq!(client.read_response().status, 408);
}

#[test]
fn silent_origin_gets_504_and_is_closed() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(SHORT_WAIT));
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    assert!(!client.read_error(504).closes());
    conn.wait_closed();
    client.expect_usable();
}

#[test]
fn silent_origin_on_a_reused_connection_gets_504_and_no_second_request() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(SHORT_WAIT));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/warm");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    client.read_response();
    client.get(&origin, "/");
    conn.read_request();
    client.read_error(504);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn dripping_response_head_gets_504_all_the_same() {
    let origin = Origin::start(|mut conn| {
        conn.read_request();
        conn.send("HTTP/1.1 200 OK\r\nX: ");
        while conn.try_send("x").is_ok() {
            thread::sleep(Duration::from_millis(50));
        }
    });
    let proxy = Proxy::start(SHORT_WAIT);
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.get(&origin, "/");
    client.read_error(504);
    eventually("the origin's connection to be closed", || origin.open_connections() == 0);
}

#[test]
fn late_answer_is_thrown_away() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(SHORT_WAIT));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/secret");
    let mut conn = origin.accept();
    conn.read_request();
    client.read_error(504);
    // The proxy may have reset the connection by now.
    let _ = conn.try_send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    client.get(&origin, "/next");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn slow_body_behind_a_timely_head_is_not_cut() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(SHORT_WAIT));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
    client.read_until(b"ab");
    conn.expect_silence(Duration::from_millis(700));
    conn.send("cd");
    assert_eq!(client.read_exact(2), b"cd");
    client.expect_usable();
}

#[test]
fn address_that_never_answers_gets_504() {
    let mute = MuteAddr::new();
    let proxy = Proxy::start(&["--connect-timeout", "300ms"]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.request("GET", &mute.host(), "/", "", b"");
    assert!(!client.read_error(504).closes());
    client.expect_usable();
}

#[test]
fn address_that_refuses_gets_502() {
    let refusing = RefusingAddr::new();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &refusing.host(), "/", "", b"");
    client.read_error(502);
}

#[test]
fn origin_that_closes_at_once_gets_502() {
    let origin = Origin::start(OriginConn::close);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_error(502);
}

#[test]
fn origin_that_resets_at_once_gets_502() {
    let origin = Origin::start(OriginConn::reset);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_error(502);
}

#[test]
fn origin_that_closes_within_its_head_gets_502() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\nContent-");
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_error(502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn silent_tls_handshake_gets_504() {
    let origin = TlsOrigin::scripted();
    let proxy = Proxy::start(&["--tls-timeout", "300ms"]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.request("GET", &origin.host(), "/", "", b"");
    let _tcp = origin.accept_tcp();
    assert!(!client.read_error(504).closes());
    client.expect_usable();
}

#[test]
fn silent_origin_past_the_write_timeout_gets_504() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&["--write-timeout", "300ms"]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    client.read_error(504);
    conn.wait_closed();
}

/// What the client gets of an answer that begins so and does not go on; the origin's connection is closed.
#[track_caller]
fn cut_at_the_write_timeout(beginning: &str) -> Response {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&["--write-timeout", "400ms"]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(SOON);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(beginning);
    let response = client.read_cut_response();
    conn.wait_closed();
    response
}

#[test]
fn stalling_fixed_body_past_the_write_timeout_is_cut_visibly() {
    let response = cut_at_the_write_timeout("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    assert_eq!(response.body.bytes, b"abc");
}

#[test]
fn stalling_chunked_body_past_the_write_timeout_is_cut_visibly() {
    cut_at_the_write_timeout("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
}

#[test]
fn stalling_close_delimited_body_past_the_write_timeout_is_cut_visibly() {
    cut_at_the_write_timeout("HTTP/1.1 200 OK\r\n\r\nabc");
}

#[test]
fn client_that_never_reads_is_given_up_at_the_write_timeout() {
    let origin = Origin::start(|mut conn| {
        conn.read_request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let block = vec![b'd'; 64 * 1024];
        while conn.try_send(&block).is_ok() {}
    });
    let proxy = Proxy::start(&["--write-timeout", "500ms", "--warm-learned=off"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    eventually("the origin's connection", || origin.connections() == 1);
    eventually("the origin's connection to be closed", || origin.open_connections() == 0);
}

#[test]
fn origin_that_never_reads_the_body_is_given_up_at_the_write_timeout() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&["--write-timeout", "500ms", "--warm-learned=off"]);
    let mut client = Client::connect(&proxy);
    client.request("PUT", &origin.host(), "/", "Content-Length: 1000000000\r\n", b"");
    let sender = client.send_aside(vec![b'u'; 64 * 1024 * 1024]);
    let _conn = origin.accept();
    let response = client.read_response();
    assert_eq!(response.status, 504);
    assert!(response.closes());
    drop(client);
    // It ends when the proxy closes, with an error or not.
    let _ = sender.join();
}

#[test]
fn descriptors_are_given_back_after_every_time_out() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(SHORT_WAIT));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let conn = origin.accept();
    client.read_error(504);
    drop((client, conn));
    let before = proxy.open_descriptors();
    for _ in 0..3 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, "/");
        let _conn = origin.accept();
        client.read_error(504);
    }
    eventually("all descriptors back", || proxy.open_descriptors() <= before);
}

/// Sends a byte every 50 ms, each well within a deadline of 300 ms, until the proxy says something.
#[track_caller]
fn drip_until_answered(client: &mut Client) {
    let started = Instant::now();
    while is_quiet(client.tcp()) && client.try_send("x").is_ok() {
        assert!(started.elapsed() < SOON, "it may drip for ever");
        // The pace of the drip; nothing is hoped to happen meanwhile.
        thread::sleep(Duration::from_millis(50));
    }
}
