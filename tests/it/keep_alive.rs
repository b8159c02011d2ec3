//! The client's connection: when it serves on, when it is closed, and what it is told.

use crate::support::{Client, OK, Origin, Proxy, RefusingAddr};

fn pair() -> (Origin, Proxy) {
    (Origin::answering(OK), Proxy::start(&[]))
}

#[test]
fn second_request_on_a_connection_is_served() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    for target in ["/1", "/2", "/3"] {
        client.get(&origin, target);
        let response = client.read_response();
        assert!(!response.has("Connection"), "an HTTP/1.1 connection stays open unsaid");
        assert_eq!(origin.next_request().target, target);
    }
}

#[test]
fn close_asked_for_is_said_and_done() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "Connection: Close\r\n", b"");
    assert!(client.read_response().closes());
    client.expect_closed();
}

#[test]
fn close_among_other_options_is_done() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "Connection: x-a , close\r\n", b"");
    assert!(client.read_response().closes());
    client.expect_closed();
}

#[test]
fn clients_close_does_not_close_the_origins_connection() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&[]));
    for _ in 0..3 {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "Connection: close\r\n", b"");
        client.read_response();
        client.expect_closed();
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn http_1_0_connection_is_closed() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.send(format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", origin.host()));
    assert_eq!(client.read_response().status, 200);
    client.expect_closed();
}

#[test]
fn http_1_0_connection_is_kept_if_asked_for() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        let host = origin.host();
        client.send(format!("GET / HTTP/1.0\r\nHost: {host}\r\nConnection: Keep-Alive\r\n\r\n"));
        let response = client.read_response();
        let connection = response.field("Connection").map(str::to_ascii_lowercase);
        assert_eq!(connection.as_deref(), Some("keep-alive"));
    }
}

#[test]
fn proxy_connection_field_decides_nothing() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "Proxy-Connection: close\r\n", b"");
    assert!(!client.read_response().closes());
    client.expect_usable();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|mut conn| {
        while let Some(request) = conn.try_read_request() {
            let length = request.target.len();
            let target = request.target;
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}"));
        }
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    let request = |n: u32| format!("GET /number/{n} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.send((0..50).map(request).collect::<String>());
    for n in 0..50 {
        assert_eq!(client.read_pipelined_response().text(), format!("/number/{n}"));
    }
}

#[test]
fn pipelined_request_behind_a_body_is_served() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    client.send(format!(
        "POST /1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc\
         POST /2 HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ));
    for target in ["/1", "/2", "/3"] {
        assert_eq!(client.read_pipelined_response().status, 200);
        assert_eq!(origin.next_request().target, target);
    }
}

#[test]
fn pipelined_requests_to_different_origins_go_each_to_its_own() {
    let (first, proxy) = pair();
    let second = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond");
    let mut client = Client::connect(&proxy);
    let get = |host: String| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.send(format!("{}{}{}", get(first.host()), get(second.host()), get(first.host())));
    for expected in ["ok", "second", "ok"] {
        assert_eq!(client.read_pipelined_response().text(), expected);
    }
}

#[test]
fn malformed_request_behind_a_good_one_is_refused_after_its_answer() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\nrubbish\r\n\r\n", origin.host()));
    assert_eq!(client.read_pipelined_response().status, 200);
    client.expect_refusal(400);
}

#[test]
fn nothing_is_served_behind_a_close() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    client.send(format!(
        "GET /1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n\
         GET /2 HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ));
    assert!(client.read_response().closes());
    client.expect_closed();
    assert_eq!(origin.drain_requests().len(), 1);
}

#[test]
fn connection_serves_on_after_502() {
    let (_, proxy) = pair();
    let refusing = RefusingAddr::new();
    let mut client = Client::connect(&proxy);
    client.request("GET", &refusing.host(), "/", "", b"");
    assert!(!client.read_error(502).closes());
    client.expect_usable();
}

#[test]
fn connection_serves_on_after_502_to_a_body() {
    let (_, proxy) = pair();
    let refusing = RefusingAddr::new();
    let mut client = Client::connect(&proxy);
    client.request("POST", &refusing.host(), "/", "", b"GET /smuggled HTTP/1.1\r\n\r\n");
    match client.read_error(502).closes() {
        true => drop(client.expect_closed()),
        false => client.expect_usable(),
    }
}

#[test]
fn half_closed_client_gets_its_answer() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.half_close();
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    client.expect_closed();
}

#[test]
fn half_closed_client_gets_all_its_pipelined_answers() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host()).repeat(3));
    client.half_close();
    for _ in 0..3 {
        assert_eq!(client.read_pipelined_response().text(), "ok");
    }
    client.expect_closed();
}

#[test]
fn client_that_connects_and_closes_leaves_nothing_behind() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.expect_usable();
    drop(client);
    let before = proxy.open_descriptors();
    for _ in 0..20 {
        drop(Client::connect(&proxy));
    }
    crate::support::eventually("their descriptors to be given back", || {
        proxy.open_descriptors() <= before
    });
}

#[test]
fn half_of_a_head_and_a_close_reach_no_origin() {
    let (origin, proxy) = pair();
    let mut client = Client::connect(&proxy);
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n", origin.host()));
    client.half_close();
    let (bytes, _) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "));
    origin.expect_no_bytes();
}
