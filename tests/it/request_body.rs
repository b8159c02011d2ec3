//! Request bodies on their way to the origin, and answers that come before their end.

use std::time::Duration;

use crate::support::wire::Framing;
use crate::support::{Client, Ended, OK, Origin, Proxy, eventually, exchange, pattern};

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn fixed_body_arrives_with_its_length() {
    let request = "POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 5\r\n\r\nhello";
    let (_, request) = exchange(request, OK);
    assert_eq!(request.body.framing, Framing::Fixed(5));
    assert_eq!(request.body.bytes, b"hello");
}

#[test]
fn empty_fixed_body_keeps_its_length() {
    let (_, request) = exchange("POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 0\r\n\r\n", OK);
    assert_eq!(request.head.field("Content-Length"), Some("0"));
}

#[test]
fn post_without_a_body_gains_no_length() {
    let (_, request) = exchange("POST / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    assert_eq!(request.body.framing, Framing::Absent);
}

#[test]
fn body_of_a_get_is_passed_on() {
    let request = "GET / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(exchange(request, OK).1.body.bytes, b"abc");
}

#[test]
fn body_of_an_http_1_0_request_is_passed_on() {
    let request = "POST / HTTP/1.0\r\nHost: ORIGIN\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(exchange(request, OK).1.body.bytes, b"abc");
}

#[test]
fn chunked_body_stays_chunked() {
    let (_, request) = exchange(&chunked("3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n"), OK);
    assert_eq!(request.body.framing, Framing::Chunked);
    assert_eq!(request.body.bytes, b"abcdefgh");
}

#[test]
fn empty_chunked_body_stays_chunked() {
    let (_, request) = exchange(&chunked("0\r\n\r\n"), OK);
    assert_eq!((request.body.framing, request.body.bytes.len()), (Framing::Chunked, 0));
}

#[test]
fn chunk_extensions_are_dropped() {
    let (_, request) = exchange(&chunked("3;a=b;c=\"d e\"\r\nabc\r\n0;last\r\n\r\n"), OK);
    assert_eq!(request.body.bytes, b"abc");
}

#[test]
fn chunk_size_in_either_case_is_understood() {
    let body = format!("a\r\n{0}\r\nA\r\n{0}\r\n0\r\n\r\n", "0123456789");
    assert_eq!(exchange(&chunked(&body), OK).1.body.bytes.len(), 20);
}

#[test]
fn request_trailers_are_forwarded_in_order() {
    let (_, request) = exchange(&chunked("1\r\na\r\n0\r\nX-Sum: 1\r\nx-two: 2\r\n\r\n"), OK);
    let expected = [("X-Sum", "1"), ("x-two", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(request.body.trailers, expected);
}

#[test]
fn request_trailers_that_may_not_be_trailers_are_dropped() {
    let trailers = "Host: evil\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\
                    Authorization: x\r\nConnection: close\r\nTE: x\r\nContent-Type: a/b\r\n\
                    X-Chocon-Ver: 1\r\nTrailer: y\r\nX-Kept: 1\r\n";
    let (_, request) = exchange(&chunked(&format!("1\r\na\r\n0\r\n{trailers}\r\n")), OK);
    assert_eq!(request.body.trailers, [("X-Kept".to_owned(), "1".to_owned())]);
}

#[test]
fn chunked_body_that_arrives_byte_by_byte_is_understood() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let request = chunked("3;x\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX-T: v\r\n\r\n");
    for byte in request.replace("ORIGIN", &origin.host()).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.read_response().status, 200);
    let request = origin.next_request();
    assert_eq!(request.body.bytes, b"abc0123456789abcdef");
    assert_eq!(request.body.trailers.len(), 1);
}

#[test]
fn large_fixed_body_arrives_byte_for_byte() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let body = pattern(3 * 1024 * 1024 + 17);
    client.request("PUT", &origin.host(), "/", "", &body);
    assert_eq!(client.read_response().status, 200);
    assert!(origin.next_request().body.bytes == body, "the body was changed");
}

#[test]
fn large_chunk_arrives_byte_for_byte() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let body = pattern(2 * 1024 * 1024 + 5);
    let fields = "Transfer-Encoding: chunked\r\n";
    client.request("PUT", &origin.host(), "/", fields, b"");
    client.send(format!("{:x}\r\n", body.len()));
    client.send(&body);
    client.send("\r\n0\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    assert!(origin.next_request().body.bytes == body, "the body was changed");
}

#[test]
fn longest_length_is_passed_on() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let fields = "Content-Length: 9223372036854775807\r\n";
    client.request("POST", &origin.host(), "/", fields, b"");
    client.send("abc");
    let mut conn = origin.accept();
    assert_eq!(conn.read_head().field("Content-Length"), Some("9223372036854775807"));
    assert_eq!(conn.read_exact(3), b"abc");
}

#[test]
fn expectation_is_passed_on_and_the_origins_100_comes_back() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let fields = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    client.request("POST", &origin.host(), "/", fields, b"");
    let mut conn = origin.accept();
    let head = conn.read_head();
    assert_eq!(head.field("Expect"), Some("100-continue"));
    conn.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.read_response().status, 100);
    client.send("abc");
    assert_eq!(conn.read_body_of(&head).bytes, b"abc");
    conn.send(OK);
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

#[test]
fn refused_expectation_comes_back_at_once() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let fields = "Expect: 100-continue\r\nContent-Length: 3\r\n";
    client.request("POST", &origin.host(), "/", fields, b"");
    let mut conn = origin.accept();
    conn.read_head();
    conn.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status, 417);
    assert!(response.closes(), "the body is still to come, so nothing else can follow");
}

#[test]
fn body_sent_without_waiting_for_100_arrives() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Expect: 100-continue\r\n", b"abc");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.next_request().body.bytes, b"abc");
}

#[test]
fn early_answer_reaches_a_client_that_is_still_sending() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 1000000\r\n", b"");
    client.send("first part");
    let mut conn = origin.accept();
    conn.read_head();
    conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much");
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (413, "too much"));
    assert!(response.closes());
    conn.read_exact("first part".len());
}

#[test]
fn early_answer_is_not_lost_to_a_reset_while_the_client_sends_on() {
    let origin = Origin::start(|mut conn| {
        conn.read_head();
        conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\n\r\ntoo much");
        conn.half_close();
        conn.read_to_end();
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let body = vec![b'x'; 4 * 1024 * 1024];
    let fields = format!("Content-Length: {}\r\n", body.len());
    client.request("POST", &origin.host(), "/", &fields, b"");
    // A client that reads only when all is sent: without the lingering close it would see a reset.
    let sent = client.send_aside(body).join().expect("the sender");
    sent.expect("the proxy drains what the client sends");
    let response = client.read_response();
    assert_eq!((response.status, response.text().as_str()), (413, "too much"));
}

#[test]
fn early_answer_gives_the_origins_connection_up() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    let mut conn = origin.accept();
    conn.read_head();
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
    drop(client);
    conn.read_to_end();
    let mut next = Client::connect(&proxy);
    next.get(&origin, "/next");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send(OK);
    assert_eq!(next.read_response().status, 200);
}

#[test]
fn first_part_of_a_body_arrives_before_the_last_is_sent() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 8\r\n", b"");
    let mut conn = origin.accept();
    conn.read_head();
    client.send("one ");
    assert_eq!(conn.read_exact(4), b"one ");
    client.send("two ");
    assert_eq!(conn.read_exact(4), b"two ");
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn part_of_a_chunk_arrives_before_the_chunk_ends() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Transfer-Encoding: chunked\r\n", b"");
    client.send("100000\r\nbegin");
    let mut conn = origin.accept();
    conn.read_head();
    conn.read_until(b"begin");
}

#[test]
fn body_cut_by_the_client_never_looks_complete_to_the_origin() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    client.send("abc");
    let mut conn = origin.accept();
    let head = conn.read_head();
    client.half_close();
    let body = conn.read_body_of(&head);
    assert_eq!(body.bytes, b"abc");
    assert_ne!(body.ended, Ended::Complete);
}

#[test]
fn chunked_body_cut_by_the_client_gets_no_last_chunk() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Transfer-Encoding: chunked\r\n", b"");
    client.send("3\r\nabc\r\n");
    let mut conn = origin.accept();
    let head = conn.read_head();
    client.half_close();
    assert_ne!(conn.read_body_of(&head).ended, Ended::Complete);
}

#[test]
fn upload_of_256_mib_keeps_memory_flat() {
    const LEN: u64 = 256 * 1024 * 1024;
    let origin = Origin::start(|mut conn| {
        conn.read_head();
        conn.skip(LEN);
        conn.send(OK);
        conn.read_to_end();
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(Duration::from_secs(60));
    client.request("PUT", &origin.host(), "/", &format!("Content-Length: {LEN}\r\n"), b"");
    let before = proxy.resident_kib();
    let block = vec![b'u'; 1024 * 1024];
    for _ in 0..LEN / block.len() as u64 {
        client.send(&block);
    }
    assert_eq!(client.read_response().status, 200);
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more than before the upload");
}

#[test]
fn origin_that_does_not_read_holds_the_client_back() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    const LEN: usize = 512 * 1024 * 1024;
    client.request("PUT", &origin.host(), "/", &format!("Content-Length: {LEN}\r\n"), b"");
    let _conn = origin.accept();
    let before = proxy.resident_kib();
    client.set_deadline(Duration::from_millis(300));
    let block = vec![b'u'; 64 * 1024];
    let mut sent = 0;
    while sent < LEN && client.try_send(&block).is_ok() {
        sent += block.len();
    }
    assert!(sent < LEN / 4, "{sent} bytes went somewhere");
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB of them into the proxy");
}

#[test]
fn body_behind_a_bad_route_is_drained_or_the_connection_closed() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", "nowhere.example", "/", "", b"GET / HTTP/1.1\r\n\r\n");
    let response = client.read_error(400);
    match response.closes() {
        true => drop(client.expect_closed()),
        false => client.expect_usable(),
    }
}

#[test]
fn origins_reset_during_an_upload_gets_502() {
    let origin = Origin::scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    client.send("abc");
    let mut conn = origin.accept();
    conn.read_head();
    conn.reset();
    let response = client.read_error(502);
    assert!(response.closes(), "the rest of the body is still to come");
    eventually("an access line", || proxy.access_log_lines().len() == 1);
}
