//! One request to an origin that speaks HTTP/2: how it is chosen, and what each side sees of the other's words.

use std::time::Duration;

use crate::support::http2::{END_STREAM, HTTP_1_1_REQUIRED, Http2Conn, options, serving};
use crate::support::{Client, Ended, OK, Proxy, TlsOrigin, pattern};

/// One exchange with a scripted origin; `answer` gets the request and its connection.
#[track_caller]
fn exchange(
    request: &str,
    answer: impl FnOnce(&mut Http2Conn, u32),
) -> (crate::support::http2::Http2Request, crate::support::Response) {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.send(request.replace("ORIGIN", &origin.host()));
    let mut conn = Http2Conn::open(origin.accept());
    let seen = conn.next_request();
    answer(&mut conn, seen.stream);
    let method = request.split(' ').next().unwrap_or_default();
    (seen, client.read_response_to(method))
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: ORIGIN\r\n{fields}\r\n")
}

#[test]
fn origin_that_chooses_http_2_gets_it_and_keeps_its_connection() {
    let origin = serving(|conn, request| conn.answer(request.stream, b"ok"));
    let proxy = Proxy::one_shard(&[]);
    for _ in 0..3 {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn origin_that_chooses_http_1_1_is_asked_once_and_then_dialled_without() {
    let origin = TlsOrigin::options().alpn(&["http/1.1"]).scripted();
    let proxy = Proxy::one_shard(&["--keepalive-conns", "0"]);
    for _ in 0..2 {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        let mut conn = origin.accept();
        conn.read_request();
        assert_eq!(conn.tls_names().1.as_deref(), Some("http/1.1"));
        conn.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(origin.connections(), 2);
}

fn chosen_with(flags: &[&str]) -> Option<String> {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(flags));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    origin.accept().tls_names().1
}

#[test]
fn http_2_is_offered_unless_told_otherwise() {
    assert_eq!(chosen_with(&[]).as_deref(), Some("h2"));
    assert_eq!(chosen_with(&["--upstream-http2", "off"]).as_deref(), Some("http/1.1"));
    assert_eq!(chosen_with(&["--upstream-http2", "localhost=off"]).as_deref(), Some("http/1.1"));
    let others_off = ["--upstream-http2=off", "--upstream-http2=localhost=auto"];
    assert_eq!(chosen_with(&others_off).as_deref(), Some("h2"));
}

#[test]
fn request_arrives_in_the_words_of_http_2() {
    let request = "POST /a?b=%2F HTTP/1.1\r\nHost: ORIGIN\r\nX-Signed: A\r\nConnection: x-hop\r\n\
        X-Hop: 1\r\nCookie: a=1\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Signed: b\r\n\
        Content-Length: 5\r\n\r\nhello";
    let (seen, response) = exchange(request, |conn, stream| conn.answer(stream, b"ok"));
    let mut fields = seen.fields.clone();
    assert_eq!(fields.remove(0), (":method".into(), "POST".into()));
    assert_eq!(fields.remove(0), (":scheme".into(), "https".into()));
    let authority = fields.remove(0);
    assert!(authority.0 == ":authority" && authority.1.starts_with("localhost:"), "{authority:?}");
    assert_eq!(fields.remove(0), (":path".into(), "/a?b=%2F".into()));
    let version = seen.field("x-chocon-ver").expect("our version");
    let id = seen.field("x-chocon-id").expect("an id");
    let expected = [
        ("x-signed", "A"),
        ("x-signed", "b"),
        ("cookie", "a=1"),
        ("content-length", "5"),
        ("x-chocon-id", id),
        ("x-chocon-ver", version),
        ("te", "trailers"),
    ];
    assert_eq!(fields, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(seen.body, b"hello");
    assert_eq!(response.field("X-Chocon-Id"), Some(id));
    assert!(!response.closes());
}

#[test]
fn response_arrives_in_the_words_of_http_1_1() {
    let fields = [
        (":status", "201"),
        ("x-b", "1"),
        ("set-cookie", "a"),
        ("x-b", " 2 "),
        ("set-cookie", "b"),
        ("content-length", "2"),
    ];
    let (_, response) = exchange(&get(""), |conn, stream| {
        conn.headers(stream, &fields, 0);
        conn.body(stream, b"ok", END_STREAM);
    });
    assert_eq!((response.status, response.reason.as_str()), (201, "Created"));
    assert_eq!(response.all("x-b"), ["1", "2"]);
    assert_eq!(response.all("set-cookie"), ["a", "b"]);
    assert_eq!(response.text(), "ok");
}

#[test]
fn chunked_request_and_its_trailers_arrive() {
    let request = "POST / HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 7\r\nContent-Type: no\r\n\r\n";
    let (seen, _) = exchange(request, |conn, stream| conn.answer(stream, b"ok"));
    assert_eq!(seen.body, b"hello world");
    assert_eq!(seen.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert!(seen.field("transfer-encoding").is_none() && seen.field("content-length").is_none());
}

#[test]
fn response_without_a_length_arrives_chunked_with_its_trailers() {
    let (_, response) = exchange(&get(""), |conn, stream| {
        conn.headers(stream, &[(":status", "200")], 0);
        conn.body(stream, b"hel", 0);
        // RFC 9113 §6.1: carries nothing, and must not become the last chunk.
        conn.send_frame(0, 0, stream, b"");
        conn.body(stream, b"lo", 0);
        conn.headers(stream, &[("x-sum", "1"), ("content-length", "9")], END_STREAM);
    });
    assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    assert_eq!(response.text(), "hello");
    assert_eq!(response.body.trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[test]
fn response_of_a_head_alone_is_empty_and_the_connection_lives_on() {
    let (_, response) = exchange(&get(""), |conn, stream| {
        conn.headers(stream, &[(":status", "200")], END_STREAM);
    });
    assert_eq!(response.field("content-length"), Some("0"));
    assert!(!response.closes());
}

#[test]
fn head_204_and_304_have_no_body() {
    let head = get("").replace("GET", "HEAD");
    for (request, status) in [(head.as_str(), "200"), (&get(""), "204"), (&get(""), "304")] {
        let (_, response) = exchange(request, |conn, stream| {
            let fields = [(":status", status), ("content-length", "5")];
            conn.headers(stream, &fields, END_STREAM);
        });
        assert_eq!(response.status.to_string(), status);
        let length = if status == "204" { None } else { Some("5") };
        assert_eq!(response.field("content-length"), length, "{status}");
        assert!(!response.closes());
    }
}

#[test]
fn interim_responses_pass_and_101_does_not() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request(
        "POST",
        &origin.host(),
        "/",
        "Expect: 100-continue\r\nContent-Length: 2\r\n",
        b"",
    );
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_head().stream;
    conn.headers(stream, &[(":status", "103"), ("link", "</a>")], 0);
    conn.headers(stream, &[(":status", "100")], 0);
    assert_eq!(client.read_head().start_line, "HTTP/1.1 103 Early Hints");
    assert_eq!(client.read_head().start_line, "HTTP/1.1 100 Continue");
    client.send("ok");
    assert_eq!(conn.next_request().body, b"ok");
    conn.answer(stream, b"done");
    assert_eq!(client.read_response().text(), "done");
    client.request("GET", &origin.host(), "/", "", b"");
    let stream = conn.next_request().stream;
    conn.headers(stream, &[(":status", "101")], 0);
    client.read_error(502);
}

#[test]
fn http_1_0_client_gets_no_chunks_and_no_interim_response() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.send(format!("GET / HTTP/1.0\r\nHost: {}\r\n\r\n", origin.host()));
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.headers(stream, &[(":status", "103")], 0);
    conn.headers(stream, &[(":status", "200")], 0);
    conn.body(stream, b"hello", END_STREAM);
    let response = client.read_response();
    assert!(response.closes() && !response.has("transfer-encoding"));
    assert_eq!(response.text(), "hello");
}

#[test]
fn target_that_is_no_uri_takes_an_http_1_1_connection() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.answer(stream, b"ok");
    client.read_response();
    client.request("GET", &origin.host(), "/a<b>", "", b"");
    let mut plain = origin.accept();
    assert_eq!(plain.tls_names().1.as_deref(), Some("http/1.1"));
    assert_eq!(plain.read_request().target, "/a<b>");
    plain.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn origin_that_requires_http_1_1_for_a_request_gets_it() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "", b"hello");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.reset(stream, HTTP_1_1_REQUIRED);
    let mut plain = origin.accept();
    assert_eq!(plain.tls_names().1.as_deref(), Some("http/1.1"));
    assert_eq!(plain.read_request().body.bytes, b"hello");
    plain.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn first_byte_is_passed_on_before_the_last_one_comes() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.headers(stream, &[(":status", "200"), ("content-type", "text/event-stream")], 0);
    client.read_head();
    for event in ["one", "two", "three"] {
        conn.body(stream, event.as_bytes(), 0);
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        assert_eq!(client.read_exact(chunk.len()), chunk.as_bytes());
    }
    conn.send_frame(0, END_STREAM, stream, b"");
    assert_eq!(client.read_exact(5), b"0\r\n\r\n");
}

#[test]
fn bodies_of_any_size_arrive_whole_both_ways() {
    let origin = serving(|conn, request| {
        let body = request.body;
        conn.answer(request.stream, &body);
    });
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(Duration::from_secs(30));
    for size in [0, 1, 100, 16_384, 16_385, 65_535, 65_536, 300_000, 5_000_000] {
        let body = pattern(size);
        let sending = client.send_aside(
            [
                format!(
                    "POST /{size} HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n",
                    origin.host()
                )
                .into_bytes(),
                body.clone(),
            ]
            .concat(),
        );
        let response = client.read_response();
        sending.join().expect("sent").expect("sent whole");
        assert!(response.body.bytes == body, "{size} bytes came back as others");
        assert_eq!(response.body.ended, Ended::Complete);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn response_before_the_request_is_whole_reaches_the_client() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 1000\r\n", b"");
    client.send("begin");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_head().stream;
    conn.answer(stream, b"too large");
    conn.reset(stream, 0);
    let response = client.read_response();
    assert_eq!(response.text(), "too large");
    assert!(response.closes());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = serving(|conn, request| {
        let path = request.path().to_owned();
        conn.answer(request.stream, path.as_bytes());
    });
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    client.send(format!(
        "POST /1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc\
         GET /2 HTTP/1.1\r\nHost: {host}\r\n\r\nGET /3 HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ));
    for expected in ["/1", "/2", "/3"] {
        assert_eq!(client.read_pipelined_response().text(), expected);
    }
}
