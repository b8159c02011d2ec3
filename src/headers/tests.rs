use super::*;
use crate::http1::head::FieldRoom;
use proptest::prelude::*;

const NAMES: &[&str] = &[
    "Accept",
    "x-a",
    "X-B",
    "Cookie",
    "TE",
    "Upgrade",
    "Keep-Alive",
    "Proxy-Authorization",
    "Transfer",
    "Trailer",
    "User-Agent",
    "X-Chocon-Ids",
];

fn fields() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    prop::collection::vec((prop::sample::select(NAMES), "[!-~]{0,12}( [!-~]{1,5})?"), 0..8)
}

fn framing() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &[
            "",
            "Content-Length: 12\r\n",
            "Content-Length: 7\r\ncontent-length: 07\r\n",
            "Transfer-Encoding: chunked\r\n",
        ][..],
    )
}

fn lines(fields: &[(&str, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// Name and value of every field of a head, as a reader would take it apart.
fn read_fields(head: &[u8]) -> Vec<(String, String)> {
    let text = std::str::from_utf8(head).expect("a head of visible characters");
    let line = |line: &str| {
        let (name, value) = line.split_once(':').expect("a field line");
        (name.to_owned(), value.trim().to_owned())
    };
    text.lines().skip(1).take_while(|line| !line.is_empty()).map(line).collect()
}

fn is_passed_on(name: &str, connection: &str) -> bool {
    let of_one_hop = ["te", "upgrade", "keep-alive", "proxy-authorization", "connection"];
    let named = connection.split(',').any(|named| named.trim().eq_ignore_ascii_case(name));
    !named && !of_one_hop.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn to(host: Option<&[u8]>) -> NextHop<'_> {
    NextHop { host, loop_mark: LoopMark::Set, proxy: None }
}

#[test]
fn a_loop_mark_is_passed_on_where_the_next_hop_may_look_for_it() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nx-chocon-ver: 0.12\r\nX-A: 1\r\n\r\n";
    let mut room = FieldRoom::default();
    let head = RequestHead::parse(bytes, &mut room).expect("a request");
    let target = Target::parse(head.method, head.target).expect("a target");
    let write = |loop_mark| {
        let mut out = Vec::new();
        write_request(
            &mut out,
            &head,
            target,
            NextHop { host: None, loop_mark, proxy: None },
            b"id",
        );
        read_fields(&out)
            .into_iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-chocon-ver"))
            .collect::<Vec<_>>()
    };
    assert_eq!(write(LoopMark::Passed), [("x-chocon-ver".to_owned(), "0.12".to_owned())]);
    assert_eq!(write(LoopMark::Set), [("X-Chocon-Ver".to_owned(), CHOCON_VER.to_owned())]);
}

#[test]
fn a_proxy_is_asked_in_absolute_form_with_its_own_authorization() {
    for (line, expected) in [
        ("GET /a?b", "GET http://o:1/a?b HTTP/1.1"),
        ("GET http://x", "GET http://o:1/ HTTP/1.1"),
        ("GET http://x?q", "GET http://o:1/?q HTTP/1.1"),
        ("OPTIONS *", "OPTIONS http://o:1 HTTP/1.1"),
        ("OPTIONS http://x", "OPTIONS http://o:1 HTTP/1.1"),
    ] {
        let bytes =
            format!("{line} HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic mine\r\n\r\n");
        let mut room = FieldRoom::default();
        let head = RequestHead::parse(bytes.as_bytes(), &mut room).expect("a request");
        let target = Target::parse(head.method, head.target).expect("a target");
        let proxy = Some(ProxyHop { prefix: b"http://o:1", authorization: Some("Basic ours") });
        let mut out = Vec::new();
        write_request(&mut out, &head, target, NextHop { proxy, ..to(Some(b"o:1")) }, b"id");
        assert!(out.starts_with(format!("{expected}\r\nHost: o:1\r\n").as_bytes()), "{line}");
        let authorizations: Vec<_> = read_fields(&out)
            .into_iter()
            .filter(|(name, _)| name == "Proxy-Authorization")
            .collect();
        assert_eq!(authorizations, [("Proxy-Authorization".to_owned(), "Basic ours".to_owned())]);
    }
}

#[test]
fn a_host_that_is_kept_stays_in_its_place_byte_for_byte() {
    let bytes = b"GET http://a/b HTTP/1.1\r\nX-A:1\r\nhOsT: \ta:80 \r\nX-B:  2\r\n\r\n";
    let mut room = FieldRoom::default();
    let head = RequestHead::parse(bytes, &mut room).expect("a request");
    let target = Target::parse(head.method, head.target).expect("a target");
    assert_eq!(target.absolute, Some((Scheme::Http, "a")));
    let mut out = Vec::new();
    write_request(&mut out, &head, target, to(None), b"id");
    let expected = format!(
        "GET /b HTTP/1.1\r\nX-A:1\r\nhOsT: \ta:80 \r\nX-B:  2\r\nX-Chocon-Id: id\r\nX-Chocon-Ver: {CHOCON_VER}\r\n\r\n"
    );
    assert_eq!(out, expected.as_bytes());
}

proptest! {
    #[test]
    fn a_request_written_anew_means_the_same(method in "[A-Z]{1,7}", path in "/[!-\"$-~]{0,20}",
            before in fields(), after in fields(), framing in framing(),
            named in prop::sample::select(NAMES)) {
        let connection = format!("keep-alive, {named}");
        let bytes = format!(
            "{method} {path} HTTP/1.1\r\n{}Host: a.ccnproxy\r\nConnection: {connection}\r\n{framing}{}\r\n",
            lines(&before), lines(&after)
        );
        let mut room = FieldRoom::default();
        let head = RequestHead::parse(bytes.as_bytes(), &mut room).expect("a request");
        let target = Target::parse(head.method, head.target).expect("a target");
        let mut out = Vec::new();
        write_request(&mut out, &head, target, to(Some(b"origin:1")), b"id");

        let mut room = FieldRoom::default();
        let again = RequestHead::parse(&out, &mut room).expect("what is written is valid");
        prop_assert_eq!((again.method, again.target), (method.as_str(), path.as_str()));
        prop_assert_eq!(again.body, head.body);
        prop_assert_eq!(again.host, Some(&b"origin:1"[..]));
        prop_assert!(again.keep_alive && again.has_chocon_ver);

        // Order, spelling and multiplicity of everything that is not for this hop.
        let passed: Vec<_> = before.iter().chain(&after)
            .filter(|(name, _)| is_passed_on(name, &connection))
            .map(|(name, value)| (name.to_string(), value.trim().to_owned()))
            .collect();
        let ours = ["Host", "Content-Length", "Transfer-Encoding", "X-Chocon-Id", "X-Chocon-Ver"];
        let seen: Vec<_> = read_fields(&out).into_iter()
            .filter(|(name, _)| !ours.iter().any(|our| our.eq_ignore_ascii_case(name)))
            .collect();
        prop_assert_eq!(seen, passed);
    }

    #[test]
    fn a_response_written_anew_means_the_same(status in 200u16..600, framing in framing(),
            fields in fields(), to_head in any::<bool>(), to_http10 in any::<bool>()) {
        let bytes = format!("HTTP/1.1 {status} Fine\r\n{framing}{}\r\n", lines(&fields));
        let mut room = FieldRoom::default();
        let head = ResponseHead::parse(bytes.as_bytes(), &mut room).expect("a response");
        let body = head.body(to_head).expect("a body");
        let version = if to_http10 { Version::Http10 } else { Version::Http11 };
        let body_out = BodyOut::of(body, version);
        let persistence =
            if body_out == BodyOut::ToClose { Persistence::Closes } else { Persistence::Persists };
        let mut out = Vec::new();
        write_response(&mut out, &head, body_out, persistence, b"id");

        let mut room = FieldRoom::default();
        let again = ResponseHead::parse(&out, &mut room).expect("what is written is valid");
        prop_assert_eq!(again.status, status);
        let expected = match body_out {
            BodyOut::AsIs => body,
            BodyOut::Chunked => ResponseBody::Chunked,
            BodyOut::ToClose => ResponseBody::ToClose,
        };
        // A response to HEAD has no body, whatever its fields say.
        prop_assert_eq!(again.body(to_head), Ok(if to_head { ResponseBody::None } else { expected }));
        prop_assert_eq!(again.keep_alive, persistence == Persistence::Persists);
    }
}
