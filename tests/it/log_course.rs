//! `--access-log-format json+`: what happened to a request on its way, told in its line.

use std::time::Duration;

use crate::support::proxy::AccessLine;
use crate::support::{Client, OK, Origin, Proxy, RefusingAddr, TlsOrigin};

fn proxy(flags: &[&str]) -> Proxy {
    Proxy::one_shard(&[&["--access-log-format", "json+"], flags].concat())
}

fn line_of(proxy: &Proxy, path: &str) -> AccessLine {
    proxy.wait_for_access_line(|line| line.get("uri") == path)
}

fn get(proxy: &Proxy, host: &str, path: &str) -> AccessLine {
    let mut client = Client::connect(proxy);
    client.request("GET", host, path, "", b"");
    assert_eq!(client.read_response().status, 200);
    line_of(proxy, path)
}

fn ms(line: &AccessLine, key: &str) -> f64 {
    line.get(key).parse().unwrap_or_else(|_| panic!("{key} in {}", line.raw))
}

#[test]
fn chocons_keys_come_first_and_the_course_behind_them() {
    let (origin, proxy) = (Origin::answering(OK), proxy(&[]));
    let line = get(&proxy, &origin.host(), "/a");
    let keys = line.keys();
    let chocons = "time remote_addr method uri status size ua ptime host chocon_req";
    let ours = "origin conn proto tls tls_resumed attempts dns_ms connect_ms tls_ms wait_ms \
                first_byte_ms body_ms shard ended_by";
    assert_eq!(keys.join(" "), format!("{chocons} {ours}"));
    assert_eq!(line.get("origin"), origin.addr().to_string());
    assert_eq!((line.get("proto"), line.get("tls")), ("http/1.1", "-"));
    assert_eq!((line.get("attempts"), line.get("shard")), ("1", "0"));
    assert_eq!((line.get("ended_by"), line.get("tls_resumed")), ("-", "false"));
}

#[test]
fn new_connection_has_its_cost_and_a_reused_one_none() {
    let (origin, proxy) = (TlsOrigin::answering(OK), proxy(&[]));
    let first = get(&proxy, &origin.host(), "/first");
    assert_eq!((first.get("conn"), first.get("tls")), ("new", "TLSv1.3"));
    assert!(ms(&first, "connect_ms") > 0.0 && ms(&first, "tls_ms") > 0.0, "{}", first.raw);
    let second = get(&proxy, &origin.host(), "/second");
    assert_eq!((second.get("conn"), second.get("tls")), ("reused", "TLSv1.3"));
    for phase in ["dns_ms", "connect_ms", "tls_ms", "wait_ms"] {
        assert_eq!(second.get(phase), "0.000", "{}", second.raw);
    }
    assert!(ms(&second, "first_byte_ms") > 0.0, "{}", second.raw);
}

#[test]
fn resumed_session_is_told() {
    let closing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let (origin, proxy) = (TlsOrigin::answering(closing), proxy(&[]));
    assert_eq!(get(&proxy, &origin.host(), "/full").get("tls_resumed"), "false");
    let resumed = get(&proxy, &origin.host(), "/resumed");
    assert_eq!((resumed.get("conn"), resumed.get("tls_resumed")), ("new", "true"));
}

#[test]
fn slow_origin_and_slow_body_are_told_apart() {
    const PAUSE: Duration = Duration::from_millis(300);
    let (origin, proxy) = (Origin::scripted(), proxy(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/slow");
    let mut conn = origin.accept();
    conn.read_request();
    conn.expect_silence(PAUSE);
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    // Each pause begins when what is measured has begun for sure.
    client.read_until(b"\r\n\r\no");
    conn.expect_silence(PAUSE * 2);
    conn.send("k");
    assert_eq!(client.read_exact(1), b"k");
    let line = line_of(&proxy, "/slow");
    let (first_byte, body) = (ms(&line, "first_byte_ms"), ms(&line, "body_ms"));
    assert!(first_byte >= 300.0 && body >= 600.0, "{}", line.raw);
    let total = ms(&line, "ptime") * 1000.0;
    assert!(first_byte + body <= total, "{}", line.raw);
}

#[test]
fn request_sent_again_has_two_attempts_and_the_last_ones_connection() {
    let (origin, proxy) = (Origin::scripted(), proxy(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/first");
    let mut first = origin.accept();
    first.read_request();
    first.send(OK);
    client.read_response();
    client.get(&origin, "/again");
    first.read_request();
    first.close();
    let mut second = origin.accept();
    second.read_request();
    second.send(OK);
    client.read_response();
    let line = line_of(&proxy, "/again");
    assert_eq!((line.get("attempts"), line.get("conn")), ("2", "new"));
    assert_eq!((line.get("ended_by"), line.get("status")), ("-", "200"));
}

#[test]
fn origin_that_refuses_ended_it_while_connecting() {
    let (refusing, proxy) = (RefusingAddr::new(), proxy(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &refusing.host(), "/refused", "", b"");
    client.read_error(502);
    let line = line_of(&proxy, "/refused");
    assert_eq!((line.get("ended_by"), line.get("attempts")), ("origin/connect", "1"));
    assert_eq!((line.get("origin"), line.get("conn")), ("-", "-"));
    for phase in ["dns_ms", "connect_ms", "tls_ms", "wait_ms", "first_byte_ms", "body_ms"] {
        assert_eq!(line.get(phase), "null", "{}", line.raw);
    }
}

#[test]
fn silent_origin_ended_it_while_its_answer_was_waited_for() {
    let (origin, proxy) = (Origin::scripted(), proxy(&["--proxy-read-timeout", "200ms"]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/silent");
    let mut conn = origin.accept();
    conn.read_request();
    client.read_error(504);
    let line = line_of(&proxy, "/silent");
    assert_eq!((line.get("ended_by"), line.get("conn")), ("origin/wait", "new"));
    assert_eq!((line.get("first_byte_ms"), line.get("body_ms")), ("null", "null"));
}

#[test]
fn origin_that_cuts_its_body_ended_it_there() {
    let (origin, proxy) = (Origin::scripted(), proxy(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/cut");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    conn.close();
    client.read_cut_response();
    let line = line_of(&proxy, "/cut");
    assert_eq!((line.get("ended_by"), line.get("status")), ("origin/body", "200"));
    assert!(ms(&line, "body_ms") >= 0.0);
}

#[test]
fn client_that_goes_away_ended_it() {
    let (origin, proxy) = (Origin::scripted(), proxy(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/gone");
    let mut conn = origin.accept();
    conn.read_request();
    drop(client);
    let line = line_of(&proxy, "/gone");
    assert_eq!((line.get("ended_by"), line.get("status")), ("client/wait", "499"));
}

#[test]
fn request_that_went_nowhere_has_no_origin() {
    let proxy = proxy(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "no-label.example", "/nowhere", "", b"");
    client.read_error(400);
    let line = line_of(&proxy, "/nowhere");
    assert_eq!((line.get("ended_by"), line.get("attempts")), ("client/route", "0"));
    assert_eq!(line.get("origin"), "-");
}
