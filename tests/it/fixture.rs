//! The fixture language against itself: a client that talks to an origin without a proxy between.

use std::time::Duration;

use crate::support::proxy::AccessLine;
use crate::support::wire::Framing;
use crate::support::{Client, Ended, MuteAddr, OK, Origin, RefusingAddr, TlsOrigin, pattern};

#[test]
fn request_with_a_body_is_read_by_its_framing() {
    let origin = Origin::answering(OK);
    let mut client = Client::connect_to(origin.addr());
    client.request("POST", "x", "/a", "", b"hello");
    assert_eq!(client.read_response().text(), "ok");
    let request = origin.next_request();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a"));
    assert_eq!(request.body.bytes, b"hello");
}

#[test]
fn chunked_response_is_decoded_with_its_trailers() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: v\r\n\r\n",
    );
    let mut client = Client::connect_to(origin.addr());
    client.get(&origin, "/");
    let response = client.read_response();
    assert_eq!((response.text().as_str(), response.body.framing), ("abc", Framing::Chunked));
    assert_eq!(response.body.trailers, [("X-T".to_owned(), "v".to_owned())]);
}

#[test]
fn cut_body_is_told_from_a_complete_one() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    let mut client = Client::connect_to(origin.addr());
    client.get(&origin, "/");
    let response = client.read_cut_response();
    assert_eq!((response.body.bytes.as_slice(), response.body.ended), (&b"abc"[..], Ended::Eof));
}

#[test]
#[should_panic(expected = "bytes after the message")]
fn extra_bytes_after_a_response_are_noticed() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab");
    let mut client = Client::connect_to(origin.addr());
    client.get(&origin, "/");
    client.read_response();
}

#[test]
#[should_panic(expected = "no head within")]
fn silence_ends_with_the_deadline() {
    let origin = Origin::scripted();
    let mut client = Client::connect_to(origin.addr());
    client.set_deadline(Duration::from_millis(50));
    client.get(&origin, "/");
    client.read_response();
}

#[test]
fn reset_is_told_from_a_close() {
    let origin = Origin::scripted();
    let mut first = Client::connect_to(origin.addr());
    origin.accept().reset();
    assert_eq!(first.expect_closed(), Ended::Reset);
    let mut second = Client::connect_to(origin.addr());
    origin.accept().close();
    assert_eq!(second.expect_closed(), Ended::Eof);
}

#[test]
fn refusing_address_refuses_and_mute_address_stays_mute() {
    let refusing = RefusingAddr::new();
    let error = std::net::TcpStream::connect(refusing.addr).expect_err("a refusal");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let mute = MuteAddr::new();
    let error = std::net::TcpStream::connect_timeout(&mute.addr, Duration::from_millis(100));
    assert_eq!(error.expect_err("no connection").kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn tls_origin_fails_on_plain_bytes() {
    let origin = TlsOrigin::answering(OK);
    let mut client = Client::connect_to(origin.addr());
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.read_to_end();
    origin.wait_failed_handshake();
}

#[test]
fn access_line_is_parsed_in_order() {
    let line = r#"{"time":"x","status":200,"ua":"a\"b\\\u0041","chocon_req":"i"}"#;
    let line = AccessLine::parse(line).expect("a record");
    assert_eq!(line.keys(), ["time", "status", "ua", "chocon_req"]);
    assert_eq!((line.get("status"), line.get("ua")), ("200", "a\"b\\A"));
}

#[test]
fn pattern_never_repeats_within_a_block() {
    let bytes = pattern(4096);
    assert_eq!(bytes.len(), 4096);
    assert_ne!(bytes[..64], bytes[64..128]);
}
