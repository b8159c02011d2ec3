use super::*;
use crate::http1::head::{EndOfHead, ResponseHead};
use proptest::prelude::*;

fn of(head: &str) -> Request<()> {
    request(head.as_bytes(), false).expect("a request that HTTP/2 can say")
}

fn fields_of(map: &HeaderMap) -> Vec<(&str, &[u8])> {
    map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    map
}

fn written(status: u16, fields: &HeaderMap, body: ResponseBody) -> Result<String, Cause> {
    let mut out = Vec::new();
    let status = StatusCode::from_u16(status).unwrap();
    let body = (body, BodyOut::of(body, Version::Http11));
    write_response(&mut out, status, fields, body, Persistence::Persists, b"id")?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_request_says_the_same_in_pseudo_fields_and_lower_case() {
    let request = of("POST /a/../b?c=%2F&d={x} HTTP/1.1\r\nHost: Api.example.com:8443\r\n\
        X-Signed: a,  b\r\nCookie: a=1; b=2\r\nCookie: c=3\r\nContent-Length: 5\r\n\
        Expect: 100-continue\r\nX-Chocon-Id: abc\r\nX-Chocon-Ver: 1\r\n\r\n");
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri().scheme_str(), Some("https"));
    assert_eq!(request.uri().authority().unwrap(), "Api.example.com:8443");
    assert_eq!(request.uri().path_and_query().unwrap(), "/a/../b?c=%2F&d={x}");
    let expected: [(&str, &[u8]); 7] = [
        ("x-signed", b"a,  b"),
        ("cookie", b"a=1; b=2"),
        ("cookie", b"c=3"),
        ("content-length", b"5"),
        ("expect", b"100-continue"),
        ("x-chocon-id", b"abc"),
        ("x-chocon-ver", b"1"),
    ];
    assert_eq!(fields_of(request.headers()), expected);
    assert!(request.headers()["cookie"].is_sensitive());
    assert!(!request.headers()["x-signed"].is_sensitive());
}

#[test]
fn what_is_for_one_hop_does_not_go_on() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-one\r\nX-One: 1\r\nTE: gzip\r\n\
        Upgrade: h2c\r\nKeep-Alive: 5\r\nTransfer-Encoding: chunked\r\nHTTP2-Settings: x\r\nB: 2\r\n\r\n";
    // What `Connection` names is out of the bytes before they come here.
    let expected: [(&str, &[u8]); 2] = [("x-one", b"1"), ("b", b"2")];
    assert_eq!(fields_of(of(head).headers()), expected);
}

#[test]
fn trailers_are_asked_for_if_the_client_does() {
    for (asks, head) in [
        (true, "GET / HTTP/1.1\r\nTE: trailers\r\n\r\n"),
        (true, "GET / HTTP/1.1\r\na: b\r\nte:gzip;q=1, Trailers \r\n\r\n"),
        (false, "GET / HTTP/1.1\r\nTE: gzip\r\n\r\n"),
        (false, "GET /te:trailers HTTP/1.1\r\nX-TE: trailers\r\n\r\n"),
        (false, "POST / HTTP/1.1\r\na: b\r\n\r\n\nTE: trailers\r\n"),
        (false, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nTE: trailers\r\n\r\n"),
    ] {
        assert_eq!(takes_trailers(head.as_bytes()), asks, "{head:?}");
    }
    let request = request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true).unwrap();
    assert_eq!(fields_of(request.headers()), [("te", &b"trailers"[..])]);
}

#[test]
fn targets_pass_byte_for_byte_or_not_at_all() {
    for target in ["/", "//", "/a b", "/a#b", "/<>", "/`", "/\"{}|\\^[]", "/?", "/?a?b", "/%zz"] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        if let Some(request) = request(head.as_bytes(), false) {
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), target);
        }
    }
    for (target, passes) in [("/a?b", true), ("/a#b", false), ("/<", false), ("/{x}", true)] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(request(head.as_bytes(), false).is_some(), passes, "{target}");
    }
    let options = of("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(options.uri().path(), "*");
}

#[test]
fn a_response_becomes_a_head_with_its_usual_reason() {
    let fields = map(&[("x-b", "1"), ("x-a", "2"), ("x-b", "3"), ("content-length", "5")]);
    let expected = "HTTP/1.1 200 OK\r\nx-b: 1\r\nx-b: 3\r\nx-a: 2\r\ncontent-length: 5\r\n\
        X-Chocon-Id: id\r\n\r\n";
    assert_eq!(written(200, &fields, ResponseBody::Fixed(5)).unwrap(), expected);
    let unknown = written(299, &HeaderMap::new(), ResponseBody::Chunked).unwrap();
    assert_eq!(unknown, "HTTP/1.1 299 \r\ntransfer-encoding: chunked\r\nX-Chocon-Id: id\r\n\r\n");
}

#[test]
fn lengths_are_as_the_frames_say() {
    let ok = StatusCode::OK;
    let body = |status, fields: &HeaderMap, head, ends| response_body(status, fields, head, ends);
    let (none, five) = (HeaderMap::new(), map(&[("content-length", "5")]));
    assert_eq!(body(ok, &none, false, true), Ok(ResponseBody::Fixed(0)));
    assert_eq!(body(ok, &none, false, false), Ok(ResponseBody::Chunked));
    assert_eq!(body(ok, &five, false, false), Ok(ResponseBody::Fixed(5)));
    assert_eq!(body(ok, &five, false, true), Err(Cause::Closed));
    assert_eq!(body(ok, &five, true, true), Ok(ResponseBody::None));
    assert_eq!(body(StatusCode::NOT_MODIFIED, &five, false, true), Ok(ResponseBody::None));
    assert_eq!(body(StatusCode::NO_CONTENT, &none, false, true), Ok(ResponseBody::None));
    for bad in ["5, 5", "+5", "", "5x"] {
        assert!(body(ok, &map(&[("content-length", bad)]), false, false).is_err(), "{bad:?}");
    }
    let differing = map(&[("content-length", "5"), ("content-length", "6")]);
    assert!(body(ok, &differing, false, false).is_err());
    let twice = map(&[("content-length", "5"), ("content-length", "5")]);
    let head = written(200, &twice, body(ok, &twice, false, false).unwrap()).unwrap();
    assert_eq!(head.matches("content-length: 5").count(), 1);
    let empty = written(200, &none, ResponseBody::Fixed(0)).unwrap();
    assert!(empty.contains("content-length: 0\r\n"));
    let no_content = written(204, &five, ResponseBody::None).unwrap();
    assert!(!no_content.contains("content-length"));
    let to_head = written(200, &five, ResponseBody::None).unwrap();
    assert!(to_head.contains("content-length: 5\r\n"));
}

#[test]
fn fields_of_connections_never_pass() {
    for name in ["connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection"] {
        assert!(written(200, &map(&[(name, "x")]), ResponseBody::Chunked).is_err(), "{name}");
    }
    let foreign_id = written(200, &map(&[("x-chocon-id", "x")]), ResponseBody::Chunked).unwrap();
    assert_eq!(foreign_id.to_ascii_lowercase().matches("x-chocon-id").count(), 1);
}

#[test]
fn fields_and_trailers_are_bounded() {
    let many = |n: usize| {
        let names: Vec<String> = (0..n).map(|i| format!("x-{i}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
        map(&fields)
    };
    assert!(written(200, &many(FIELDS_MAX), ResponseBody::Chunked).is_ok());
    assert_eq!(written(200, &many(FIELDS_MAX + 1), ResponseBody::Chunked), Err(Cause::HeadTooLong));
    let long = |n: usize| map(&[("x", &"v".repeat(n - "x: \r\n".len()))]);
    assert!(response_trailers(&long(TRAILER_BYTES_MAX)).is_ok());
    assert!(response_trailers(&long(TRAILER_BYTES_MAX + 1)).is_err());
}

#[test]
fn trailers_go_both_ways_without_what_frames_or_routes() {
    let fields = map(&[("x-sum", " 1"), ("content-length", "9"), ("te", "x"), ("x-b", "2")]);
    assert_eq!(response_trailers(&fields).unwrap(), b"x-sum: 1\r\nx-b: 2\r\n");
    let sent = request_trailers(b"X-Sum: 1\r\nx-b:2\r\n");
    let expected: [(&str, &[u8]); 2] = [("x-sum", b"1"), ("x-b", b"2")];
    assert_eq!(fields_of(&sent), expected);
}

#[test]
fn an_interim_head_has_no_length() {
    let mut out = Vec::new();
    let fields = map(&[("link", "</a>"), ("content-length", "0")]);
    write_interim(&mut out, StatusCode::from_u16(103).unwrap(), &fields).unwrap();
    assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
}

proptest! {
    /// Whatever HTTP/2 lets through as a field, the head parses back to just these fields.
    #[test]
    fn no_field_can_end_a_line_or_a_head(
        fields in proptest::collection::vec(("[!-~]{1,20}", proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut accepted = HeaderMap::new();
        for (name, value) in &fields {
            let name = HeaderName::from_lowercase(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
                accepted.append(name, value);
            }
        }
        let mut out = Vec::new();
        let body = (ResponseBody::Chunked, BodyOut::Chunked);
        let wrote = write_response(&mut out, StatusCode::OK, &accepted, body, Persistence::Persists, b"id");
        prop_assume!(wrote.is_ok());
        prop_assert_eq!(EndOfHead::default().find(&out), Ok(Some(out.len())));
        let mut room = FieldRoom::default();
        let head = ResponseHead::parse(&out, &mut room).unwrap();
        let ours = 2; // Transfer-Encoding and X-Chocon-Id.
        let passed = accepted.iter().filter(|(name, _)| *name != "x-chocon-id").count();
        prop_assert_eq!(head.fields.iter().count(), passed + ours);
        for (line, (name, value)) in
            head.fields.iter().zip(accepted.iter().filter(|(name, _)| *name != "x-chocon-id"))
        {
            prop_assert_eq!(line.name(), name.as_str().as_bytes());
            prop_assert_eq!(line.value(), value.as_bytes().trim_ascii());
        }
    }

    /// Any request that HTTP/1.1 takes is said in HTTP/2 without loss, or not at all.
    #[test]
    fn a_request_loses_nothing(
        method in "[A-Z]{1,10}",
        target in "/[!-~]{0,40}",
        fields in proptest::collection::vec(("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", "[ -~\\x80-\\xff]{0,40}"), 0..20),
    ) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: a.example:1\r\n").into_bytes();
        for (name, value) in &fields {
            prop_assume!(matches!(Field::named(name.as_bytes()), Field::Other));
            head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        let mut room = FieldRoom::default();
        prop_assume!(RequestHead::parse(&head, &mut room).is_ok());
        if let Some(request) = request(&head, false) {
            prop_assert_eq!(request.method().as_str(), method);
            prop_assert_eq!(request.uri().path_and_query().unwrap().as_str(), target);
            prop_assert_eq!(request.headers().len(), fields.len());
            for (name, value) in &fields {
                let sent = request.headers().get_all(name.to_ascii_lowercase().as_str());
                prop_assert!(sent.iter().any(|v| v.as_bytes() == value.trim_ascii().as_bytes()));
            }
        }
    }
}
