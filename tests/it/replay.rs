//! Which requests are sent a second time when a reused connection turns out to be dead, and once only.

use crate::support::{Client, OK, Origin, OriginConn, Proxy};

struct Scene {
    origin: Origin,
    proxy: Proxy,
    client: Client,
    /// Idle in the pool; the next request goes out on it.
    idle: OriginConn,
}

fn scene() -> Scene {
    let origin = Origin::scripted();
    // Each connection is made for a request.
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/warm");
    let mut idle = origin.accept();
    idle.read_request();
    idle.send(OK);
    client.read_response();
    Scene { origin, proxy, client, idle }
}

/// The origin reads the request on the reused connection and closes; it must come again.
#[track_caller]
fn is_sent_again(method: &str, body: &[u8]) {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.request(method, &origin.host(), "/again", "X-A: 1\r\n", body);
    let first = idle.read_request();
    idle.close();
    let mut fresh = origin.accept();
    let second = fresh.read_request();
    assert_eq!(first.head.raw, second.head.raw, "the same request");
    assert_eq!(second.body.bytes, body);
    let answer = if method == "HEAD" { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" } else { OK };
    fresh.send(answer);
    assert_eq!(client.read_response_to(method).status, 200);
}

/// The origin reads the request on the reused connection and closes; it must not come again.
#[track_caller]
fn is_not_sent_again(method: &str, fields: &str, body: &[u8]) {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.request(method, &origin.host(), "/once", fields, body);
    idle.read_request();
    idle.close();
    assert!(matches!(client.read_error(502).status, 502));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn get_is_sent_again() {
    is_sent_again("GET", b"");
}

#[test]
fn head_is_sent_again() {
    is_sent_again("HEAD", b"");
}

#[test]
fn options_is_sent_again() {
    is_sent_again("OPTIONS", b"");
}

#[test]
fn trace_is_sent_again() {
    is_sent_again("TRACE", b"");
}

#[test]
fn delete_is_sent_again() {
    is_sent_again("DELETE", b"");
}

#[test]
fn put_with_a_buffered_body_is_sent_again() {
    is_sent_again("PUT", b"small body");
}

#[test]
fn post_is_never_sent_again() {
    is_not_sent_again("POST", "", b"p");
}

#[test]
fn post_without_a_body_is_never_sent_again() {
    is_not_sent_again("POST", "", b"");
}

#[test]
fn patch_is_never_sent_again() {
    is_not_sent_again("PATCH", "", b"p");
}

#[test]
fn unknown_method_is_never_sent_again() {
    is_not_sent_again("FETCH", "", b"");
}

#[test]
fn lower_case_get_is_another_method_and_never_sent_again() {
    is_not_sent_again("get", "", b"");
}

#[test]
fn get_is_sent_again_after_a_reset() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/again");
    idle.read_request();
    idle.reset();
    let mut fresh = origin.accept();
    fresh.read_request();
    fresh.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn post_is_never_sent_again_after_a_reset() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.request("POST", &origin.host(), "/once", "", b"p");
    idle.read_request();
    idle.reset();
    client.read_error(502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn get_is_sent_again_only_once() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/again");
    idle.read_request();
    idle.close();
    let mut fresh = origin.accept();
    fresh.read_request();
    fresh.close();
    client.read_error(502);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn get_on_a_fresh_connection_is_not_sent_again() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.close();
    client.read_error(502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn get_is_not_sent_again_after_a_first_byte() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/once");
    idle.read_request();
    idle.send("H");
    idle.close();
    client.read_error(502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn get_is_not_sent_again_after_an_interim_head() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/once");
    idle.read_request();
    idle.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(client.read_response().status, 103);
    idle.close();
    client.read_error(502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn get_is_not_sent_again_after_a_malformed_answer() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/once");
    idle.read_request();
    idle.send("rubbish\r\n\r\n");
    client.read_error(502);
    idle.wait_closed();
    assert_eq!(origin.connections(), 1);
}

#[test]
fn put_whose_body_is_gone_is_not_sent_again() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.request("PUT", &origin.host(), "/once", "", &vec![b'x'; 1024 * 1024]);
    idle.read_request();
    idle.close();
    client.read_error(502);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn put_whose_body_is_still_coming_is_not_sent_again() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.request("PUT", &origin.host(), "/once", "Content-Length: 10\r\n", b"");
    client.send("abc");
    idle.read_head();
    idle.read_exact(3);
    idle.close();
    let (answer, _) = client.read_to_end();
    assert!(answer.starts_with(b"HTTP/1.1 502 "));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn replay_takes_a_fresh_connection_though_another_is_idle() {
    let Scene { origin, proxy, mut client, idle: mut first } = scene();
    client.get(&origin, "/hold");
    first.read_request();
    let mut other = Client::connect(&proxy);
    other.get(&origin, "/other");
    let mut second = origin.accept();
    second.read_request();
    second.send(OK);
    other.read_response();
    first.send(OK);
    client.read_response();
    client.get(&origin, "/again");
    first.read_request();
    first.close();
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/again");
    fresh.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn second_sending_keeps_the_id() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/again");
    let first = idle.read_request();
    idle.close();
    let mut fresh = origin.accept();
    let second = fresh.read_request();
    fresh.send(OK);
    let response = client.read_response();
    assert_eq!(first.head.field("X-Chocon-Id"), second.head.field("X-Chocon-Id"));
    assert_eq!(response.field("X-Chocon-Id"), second.head.field("X-Chocon-Id"));
}

/// What an origin says to a connection that it is about to close for want of a request.
const NO_REQUEST_CAME: &str =
    "HTTP/1.0 408 Request Time-out\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

#[test]
fn get_that_crosses_a_408_for_an_idle_connection_is_sent_again() {
    for method in ["GET", "HEAD", "DELETE"] {
        let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
        client.request(method, &origin.host(), "/again", "X-A: 1\r\n", b"");
        let first = idle.read_request();
        idle.send(NO_REQUEST_CAME);
        idle.close();
        let mut fresh = origin.accept();
        assert_eq!(fresh.read_request().head.raw, first.head.raw, "the same request");
        fresh.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(client.read_response_to(method).status, 204);
    }
}

#[test]
fn request_with_a_body_is_not_sent_again_for_a_408() {
    for (method, body) in [("POST", ""), ("POST", "x"), ("PUT", "x")] {
        let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
        client.request(method, &origin.host(), "/once", "", body.as_bytes());
        idle.read_request();
        idle.send(NO_REQUEST_CAME);
        idle.close();
        assert_eq!(client.read_response().status, 408);
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn answer_408_of_a_connection_that_persists_or_of_a_fresh_one_is_passed_on() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/slow");
    idle.read_request();
    idle.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.read_response().status, 408);
    client.get(&origin, "/twice");
    idle.read_request();
    idle.send(NO_REQUEST_CAME);
    idle.close();
    let mut fresh = origin.accept();
    fresh.read_request();
    fresh.send(NO_REQUEST_CAME);
    fresh.close();
    assert_eq!(client.read_response().status, 408);
    assert_eq!(origin.connections(), 2);
}

/// What nobody asked for, and the answer, as a shard that was late reads them: together.
const TWO_AT_ONCE: [&str; 4] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nanotherHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nanother\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nanother\r\n0\r\n\r\n\
     HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
];

#[track_caller]
fn next_goes_on_a_fresh_connection(client: &mut Client, origin: &Origin) {
    client.get(origin, "/next");
    let mut fresh = origin.accept();
    fresh.read_request();
    fresh.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn two_responses_to_one_request_are_no_answer_and_only_what_may_be_is_sent_again() {
    let both = TWO_AT_ONCE.into_iter().flat_map(|two| {
        let second = two.rfind("HTTP/").expect("a second one");
        // As much of it as one receive may bring.
        [second + 1, second + 4, two.len()].map(|end| &two[..end])
    });
    for two in both {
        let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
        client.request("GET", &origin.host(), "/again", "X-A: 1\r\n", b"");
        let first = idle.read_request();
        idle.send(two);
        let mut fresh = origin.accept();
        assert_eq!(fresh.read_request().head.raw, first.head.raw, "the same request");
        fresh.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh");
        assert_eq!(client.read_response().text(), "fresh");

        let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
        client.request("POST", &origin.host(), "/once", "", b"x");
        idle.read_request();
        idle.send(two);
        assert_eq!(client.read_error(502).status, 502);
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn two_responses_behind_an_interim_head_are_no_answer_and_nothing_is_sent_again() {
    for two in TWO_AT_ONCE {
        let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
        client.get(&origin, "/once");
        idle.read_request();
        idle.send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{two}"));
        assert_eq!(client.read_head().start_line, "HTTP/1.1 103 Early Hints");
        client.read_error(502);
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn two_responses_on_a_fresh_connection_cannot_be_another_requests_and_the_first_is_the_answer() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/first");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(TWO_AT_ONCE[0]);
    assert_eq!(client.read_response().text(), "another");
    next_goes_on_a_fresh_connection(&mut client, &origin);
}

#[test]
fn what_is_no_response_behind_an_answer_only_ends_the_connection() {
    let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
    client.get(&origin, "/sloppy");
    idle.read_request();
    idle.send(format!("{OK}\r\n"));
    assert_eq!(client.read_response().text(), "ok");
    next_goes_on_a_fresh_connection(&mut client, &origin);
}

#[test]
fn answer_that_quotes_a_response_is_one_answer() {
    let quoted = "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    let fixed = format!("Content-Length: {}\r\n\r\n{quoted}", quoted.len());
    let chunked =
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{quoted}\r\n0\r\n\r\n", quoted.len());
    for answer in [fixed, chunked] {
        let Scene { origin, proxy: _proxy, mut client, mut idle } = scene();
        client.get(&origin, "/quote");
        idle.read_request();
        idle.send(format!("HTTP/1.1 200 OK\r\n{answer}"));
        assert_eq!(client.read_response().text(), quoted);
        client.get(&origin, "/next");
        idle.read_request();
        idle.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }
}
