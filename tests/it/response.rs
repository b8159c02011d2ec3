//! What becomes of an origin's response on its way to the client.

use crate::support::wire::Framing;
use crate::support::{Client, Ended, OK, Origin, Proxy, exchange, pattern};

const GET: &str = "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
const GET_1_0: &str = "GET / HTTP/1.0\r\nHost: ORIGIN\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";

fn answer_to_get(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok")
}

/// The field lines that the client sees when the origin answers with `fields`.
fn fields_seen(fields: &str) -> Vec<String> {
    exchange(GET, answer_to_get(fields)).0.lines_of_the_peer()
}

#[test]
fn status_and_reason_arrive_unchanged() {
    let (response, _) = exchange(GET, "HTTP/1.1 299 So So, isn't it?\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((response.status, response.reason.as_str()), (299, "So So, isn't it?"));
}

#[test]
fn empty_reason_stays_empty() {
    let (response, _) = exchange(GET, "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n");
    assert_eq!(response.start_line, "HTTP/1.1 200 ");
}

#[test]
fn missing_space_before_an_empty_reason_is_understood_and_mended() {
    // RFC 9112 §4: the space is not optional, though some origins leave it out.
    let (response, _) = exchange(GET, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((response.status, response.reason.as_str()), (200, ""));
}

#[test]
fn obs_text_in_the_reason_arrives_byte_for_byte() {
    let (response, _) = exchange(GET, b"HTTP/1.1 200 \xe4\xff\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(response.reason, "\u{e4}\u{ff}");
}

#[test]
fn unknown_status_class_is_passed_on() {
    let (response, _) = exchange(GET, "HTTP/1.1 799 Far\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!((response.status, response.text().as_str()), (799, "ok"));
}

#[test]
fn order_spelling_and_multiplicity_of_fields_come_back_unchanged() {
    let lines = fields_seen("x-b: 1\r\nX-A: 2\r\nSet-Cookie: a\r\nX-B: 3\r\nset-cookie: b\r\n");
    let expected =
        ["x-b: 1", "X-A: 2", "Set-Cookie: a", "X-B: 3", "set-cookie: b", "Content-Length: 2"];
    assert_eq!(lines, expected);
}

#[test]
fn nothing_is_invented_but_the_id() {
    let (response, _) = exchange(GET, answer_to_get(""));
    let names: Vec<_> = response.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Content-Length", "X-Chocon-Id"]);
}

#[test]
fn fields_of_one_hop_are_removed() {
    let lines = fields_seen(
        "Connection: keep-alive, X-Named\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
         X-Named: 1\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\nTE: x\r\nX-Stays: 1\r\n",
    );
    assert_eq!(lines, ["X-Stays: 1", "Content-Length: 2"]);
}

#[test]
fn connection_that_names_content_length_does_not_remove_it() {
    assert_eq!(fields_seen("Connection: Content-Length\r\n"), ["Content-Length: 2"]);
}

#[test]
fn origins_close_is_not_the_clients() {
    let origin = Origin::answering_once(answer_to_get("Connection: close\r\n"));
    let proxy = Proxy::start(&["--warm-learned", "off"]);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.get(&origin, "/");
        let response = client.read_response();
        assert!(!response.has("Connection"));
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn content_encoding_is_opaque() {
    let body = "\x1f\u{8}not really gzip";
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (response, _) = exchange(GET, answer);
    assert_eq!(response.field("Content-Encoding"), Some("gzip"));
    assert_eq!(response.body.bytes, body.as_bytes());
}

#[test]
fn identical_content_lengths_are_collapsed_to_one() {
    let (response, _) = exchange(GET, answer_to_get("Content-Length: 2\r\n"));
    assert_eq!(response.all("Content-Length"), ["2"]);
}

#[test]
fn response_to_head_has_its_length_and_no_body() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.request("HEAD", &origin.host(), "/", "", b"");
        let response = client.read_response_to("HEAD");
        assert_eq!(response.field("Content-Length"), Some("1234"));
    }
    assert_eq!(origin.connections(), 1, "a HEAD ends cleanly");
    client.expect_usable();
}

#[test]
fn chunked_response_to_head_has_no_body() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.request("HEAD", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response_to("HEAD").status, 200);
    }
    assert_eq!(origin.connections(), 1, "a HEAD ends cleanly");
}

#[test]
fn response_to_head_without_framing_has_no_body() {
    let (response, _) = exchange(HEAD, "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n");
    assert!(!response.has("Transfer-Encoding") && !response.has("Content-Length"));
}

#[test]
fn status_204_has_no_body() {
    let origin = Origin::answering("HTTP/1.1 204 No Content\r\n\r\n");
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.get(&origin, "/");
        let response = client.read_response();
        assert_eq!(response.status, 204);
        assert!(!response.has("Transfer-Encoding") && !response.has("Content-Length"));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn status_304_keeps_its_length_and_has_no_body() {
    let origin = Origin::answering("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n");
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.get(&origin, "/");
        let response = client.read_response();
        assert_eq!((response.status, response.field("Content-Length")), (304, Some("99")));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn empty_fixed_body_is_complete() {
    let (response, _) = exchange(GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(response.body.framing, Framing::Fixed(0));
}

#[test]
fn chunked_response_stays_chunked() {
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let (response, _) = exchange(GET, answer);
    assert_eq!((response.body.framing, response.text().as_str()), (Framing::Chunked, "abcde"));
}

#[test]
fn chunk_extensions_of_a_response_are_dropped() {
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0;c\r\n\r\n";
    assert_eq!(exchange(GET, answer).0.text(), "abc");
}

#[test]
fn response_trailers_are_forwarded() {
    let answer = "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                  1\r\na\r\n0\r\nX-Sum: 9\r\n\r\n";
    let (response, _) = exchange(GET, answer);
    assert_eq!(response.field("Trailer"), Some("X-Sum"));
    assert_eq!(response.body.trailers, [("X-Sum".to_owned(), "9".to_owned())]);
}

#[test]
fn response_trailers_that_may_not_be_trailers_are_dropped() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\
                  Content-Length: 9\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\
                  Connection: close\r\nX-Chocon-Id: forged\r\nX-Kept: 1\r\n\r\n";
    let (response, _) = exchange(GET, answer);
    assert_eq!(response.body.trailers, [("X-Kept".to_owned(), "1".to_owned())]);
}

#[test]
fn close_delimited_response_becomes_chunked() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nto the end");
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let response = client.read_response();
    assert_eq!(response.body.framing, Framing::Chunked);
    assert_eq!(response.text(), "to the end");
    client.expect_usable();
}

#[test]
fn empty_close_delimited_response_becomes_empty_chunked() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\n\r\n");
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let response = client.read_response();
    assert_eq!((response.body.framing, response.text().as_str()), (Framing::Chunked, ""));
}

#[test]
fn response_inside_a_close_delimited_body_is_not_a_response() {
    let inner = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nEVIL!";
    let origin = Origin::answering_once(format!("HTTP/1.0 200 OK\r\n\r\n{inner}"));
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    assert_eq!(client.read_response().text(), inner);
}

#[test]
fn response_of_http_1_0_comes_back_as_1_1() {
    let (response, _) = exchange(GET, "HTTP/1.0 200 Fine\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(response.start_line, "HTTP/1.1 200 Fine");
}

#[test]
fn chunked_response_to_http_1_0_has_no_chunks() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
    );
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(GET_1_0.replace("ORIGIN", &origin.host()));
    let response = client.read_response();
    assert!(!response.has("Transfer-Encoding"));
    assert_eq!((response.body.framing, response.text().as_str()), (Framing::ToClose, "abc"));
}

#[test]
fn close_delimited_response_to_http_1_0_stays_so() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\n\r\nto the end");
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(GET_1_0.replace("ORIGIN", &origin.host()));
    let response = client.read_response();
    assert_eq!((response.body.framing, response.text().as_str()), (Framing::ToClose, "to the end"));
}

#[test]
fn unframed_response_to_http_1_0_keep_alive_closes_after_all() {
    let origin = Origin::answering_once("HTTP/1.1 200 OK\r\n\r\nto the end");
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    client.send(format!("GET / HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n"));
    let response = client.read_response();
    assert_eq!(response.text(), "to the end");
    assert!(!response.all("Connection").contains(&"keep-alive"));
}

#[test]
fn interim_100_and_103_are_passed_on_in_order() {
    let origin = Origin::answering(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{OK}"
    ));
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    assert_eq!(client.read_pipelined_response().status, 100);
    let hints = client.read_pipelined_response();
    assert_eq!((hints.status, hints.field("Link")), (103, Some("</a>")));
    let last = client.read_response();
    assert_eq!((last.status, last.text().as_str()), (200, "ok"));
}

#[test]
fn interim_of_unknown_status_is_passed_on() {
    let origin = Origin::answering(format!("HTTP/1.1 199 Soon\r\nX-A: 1\r\n\r\n{OK}"));
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    assert_eq!(client.read_pipelined_response().status, 199);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn interim_heads_are_kept_from_http_1_0() {
    let (response, _) = exchange(GET_1_0, format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"));
    assert_eq!(response.status, 200);
}

#[test]
fn interim_head_arrives_before_the_final_one_is_sent() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(client.read_response().status, 103);
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn end_of_the_origin_after_an_interim_head_gets_502() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(client.read_response().status, 103);
    conn.close();
    client.read_error(502);
    assert_eq!(origin.connections(), 1, "the request was sent again");
}

#[test]
fn response_that_arrives_byte_by_byte_is_understood() {
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX-T: v\r\n\r\n";
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    for byte in answer.bytes() {
        conn.send([byte]);
    }
    let response = client.read_response();
    assert_eq!((response.text().as_str(), response.body.trailers.len()), ("abc", 1));
}

#[test]
fn empty_lines_before_a_response_get_502_or_are_ignored() {
    // RFC 9112 §2.2 lets only a server ignore them; either way no byte may leak to the client.
    let (response, _) = exchange(GET, format!("\r\n{OK}"));
    assert!(matches!(response.status, 200 | 502));
}

#[test]
fn large_fixed_response_arrives_byte_for_byte() {
    let body = pattern(3 * 1024 * 1024 + 17);
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    answer.extend_from_slice(&body);
    assert!(exchange(GET, answer).0.body.bytes == body, "the body was changed");
}

#[test]
fn large_chunked_response_arrives_byte_for_byte() {
    let body = pattern(2 * 1024 * 1024 + 5);
    let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(70_001) {
        answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        answer.extend_from_slice(chunk);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    assert!(exchange(GET, answer).0.body.bytes == body, "the body was changed");
}

#[test]
fn large_close_delimited_response_arrives_byte_for_byte() {
    let body = pattern(2 * 1024 * 1024 + 5);
    let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    answer.extend_from_slice(&body);
    let origin = Origin::answering_once(answer);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    assert!(client.read_response().body.bytes == body, "the body was changed");
}

#[test]
fn answer_sent_before_the_request_is_never_a_response_to_it() {
    let origin = Origin::start(|mut conn| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
        conn.read_to_end();
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    // On a fresh connection such bytes are an answer that came early, or a refusal: both are clean.
    let response = client.read_response();
    assert!(matches!(response.status, 200 | 502));
    assert_eq!(response.body.ended, Ended::Complete);
}
