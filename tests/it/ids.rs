//! X-Chocon-Id and X-Chocon-Ver: every request can be traced, and loops end.

use std::collections::HashSet;

use crate::support::{Client, OK, Origin, Proxy, RefusingAddr, exchange};

fn assert_is_fresh(id: &str) {
    // Twelve bytes in base32hex, lower case.
    assert_eq!(id.len(), 20, "{id}");
    assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v')), "{id}");
}

#[test]
fn fresh_id_goes_to_both_sides() {
    let (response, request) = exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    let id = request.head.field("X-Chocon-Id").expect("an id");
    assert_is_fresh(id);
    assert_eq!(response.field("X-Chocon-Id"), Some(id));
}

#[test]
fn clients_id_is_kept() {
    let request = "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-Chocon-Id: my own id\r\n\r\n";
    let (response, request) = exchange(request, OK);
    assert_eq!(request.head.field("X-Chocon-Id"), Some("my own id"));
    assert_eq!(response.field("X-Chocon-Id"), Some("my own id"));
}

#[test]
fn clients_id_of_other_case_is_kept() {
    let request = "GET / HTTP/1.1\r\nHost: ORIGIN\r\nx-chocon-id: abc\r\n\r\n";
    let (response, request) = exchange(request, OK);
    assert_eq!(request.head.field("X-Chocon-Id"), Some("abc"));
    assert_eq!(response.field("X-Chocon-Id"), Some("abc"));
}

#[test]
fn origins_id_is_dropped() {
    let answer = "HTTP/1.1 200 OK\r\nx-chocon-id: forged\r\nContent-Length: 2\r\n\r\nok";
    let (response, request) = exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", answer);
    assert_eq!(response.field("X-Chocon-Id"), request.head.field("X-Chocon-Id"));
}

#[test]
fn version_is_sent_to_the_origin() {
    let (_, request) = exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    let version = request.head.field("X-Chocon-Ver").expect("a version");
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

#[test]
fn request_that_passed_a_proxy_gets_508() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "x-chocon-ver: 0.12.6\r\n", b"");
    client.read_error(508);
    origin.expect_no_bytes();
}

#[test]
fn refused_loop_keeps_the_clients_id() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    let fields = "X-Chocon-Ver: 1\r\nX-Chocon-Id: abc\r\n";
    client.request("GET", &origin.host(), "/", fields, b"");
    assert_eq!(client.read_error(508).field("X-Chocon-Id"), Some("abc"));
}

#[test]
fn loop_through_the_proxy_itself_ends_with_508() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = format!("127.0.0.1.ccnproxy:{}", proxy.addr().port());
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().status, 508);
}

#[test]
fn loop_through_two_proxies_ends_with_508() {
    let (outer, inner) = (Proxy::start(&[]), Proxy::start(&[]));
    let mut client = Client::connect(&outer);
    let host = format!("127.0.0.1.ccnproxy:{}", inner.addr().port());
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().status, 508);
}

#[test]
fn ids_of_many_requests_differ() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut ids = HashSet::new();
    for _ in 0..10 {
        let mut client = Client::connect(&proxy);
        for _ in 0..50 {
            client.get(&origin, "/");
            let response = client.read_response();
            let id = response.field("X-Chocon-Id").expect("an id").to_owned();
            assert_is_fresh(&id);
            assert!(ids.insert(id.clone()), "{id} came twice");
        }
    }
}

#[test]
fn error_carries_the_clients_id() {
    let (proxy, refusing) = (Proxy::start(&[]), RefusingAddr::new());
    let mut client = Client::connect(&proxy);
    client.request("GET", &refusing.host(), "/", "X-Chocon-Id: traced\r\n", b"");
    assert_eq!(client.read_error(502).field("X-Chocon-Id"), Some("traced"));
}

#[test]
fn error_without_a_clients_id_carries_a_fresh_one() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send("rubbish\r\n\r\n");
    let response = client.expect_refusal(400);
    assert_is_fresh(response.field("X-Chocon-Id").expect("an id"));
}

#[test]
fn interim_head_does_not_carry_the_origins_id() {
    let answer = format!("HTTP/1.1 103 Early Hints\r\nX-Chocon-Id: forged\r\n\r\n{OK}");
    let (origin, proxy) = (Origin::answering(answer), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let hints = client.read_pipelined_response();
    assert_eq!(hints.status, 103);
    assert_ne!(hints.field("X-Chocon-Id"), Some("forged"));
    client.read_response();
}

#[test]
fn no_via_is_added() {
    let (response, request) = exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\nVia: 1.0 a\r\n\r\n", OK);
    assert_eq!(request.head.all("Via"), ["1.0 a"]);
    assert!(!response.has("Via"));
}
