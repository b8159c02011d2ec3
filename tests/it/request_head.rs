//! What becomes of a request's head on its way to the origin, and which heads are refused.

use crate::refusals;
use crate::support::{Client, OK, Origin, Proxy, exchange, refuse};

/// The field lines that the origin saw, without those of the proxy's own.
fn lines_seen(request: &str) -> Vec<String> {
    exchange(request, OK).1.head.lines_of_the_peer()
}

/// As [`lines_seen`], for a plain GET with `fields`, without its Host line.
fn fields_seen(fields: &str) -> Vec<String> {
    let mut lines = lines_seen(&format!("GET / HTTP/1.1\r\nHost: ORIGIN\r\n{fields}\r\n"));
    assert!(lines.remove(0).starts_with("Host: 127.0.0.1:"));
    lines
}

/// The target that the origin saw.
fn target_seen(target: &str) -> String {
    exchange(&format!("GET {target} HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"), OK).1.target
}

#[test]
fn order_spelling_and_multiplicity_of_fields_arrive_unchanged() {
    let fields = "x-b: 1\r\nX-A: 2\r\nX-B: 3\r\nACCEPT: */*\r\nx-b: 4\r\n";
    assert_eq!(fields_seen(fields), ["x-b: 1", "X-A: 2", "X-B: 3", "ACCEPT: */*", "x-b: 4"]);
}

#[test]
fn bare_request_gains_nothing_but_the_proxys_two_fields() {
    let (_, request) = exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    let mut names: Vec<_> = request.head.fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Host", "X-Chocon-Id", "X-Chocon-Ver"]);
}

#[test]
fn request_on_the_wire_is_the_clients_with_its_host_set() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.send(format!("GET /x HTTP/1.1\r\nHost: {}\r\nx-A:1\r\nb:  2 \r\n\r\n", origin.host()));
    client.read_response();
    let start = format!("GET /x HTTP/1.1\r\nHost: {}\r\nx-A:1\r\nb:  2 \r\n", origin.addr());
    let received = origin.received(0);
    assert!(received.starts_with(start.as_bytes()), "{}", received.escape_ascii());
    // An id, a version and the end of the head follow.
    assert_eq!(received[start.len()..].iter().filter(|&&byte| byte == b'\n').count(), 3);
}

#[test]
fn clients_id_keeps_its_place_and_spelling() {
    let (_, request) =
        exchange("GET / HTTP/1.1\r\nx-CHOCON-id: i\r\nHost: ORIGIN\r\nX-A: 1\r\n\r\n", OK);
    assert_eq!(request.head.fields[0], ("x-CHOCON-id".to_owned(), "i".to_owned()));
}

#[test]
fn host_keeps_its_place_and_becomes_the_origins() {
    let lines = lines_seen("GET / HTTP/1.1\r\nX-A: 1\r\nhOsT: ORIGIN\r\nX-B: 2\r\n\r\n");
    assert_eq!(lines[0], "X-A: 1");
    assert!(lines[1].to_ascii_lowercase().starts_with("host: 127.0.0.1:"), "{}", lines[1]);
    assert_eq!(lines[2], "X-B: 2");
}

#[test]
fn obs_text_in_a_value_arrives_byte_for_byte() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let mut request = format!("GET / HTTP/1.1\r\nHost: {}\r\nX-Raw: ", origin.host()).into_bytes();
    request.extend(0x80..=0xFF);
    request.extend(b"\r\n\r\n");
    client.send(request);
    assert_eq!(client.read_response().status, 200);
    let expected: String = (0x80..=0xFF_u8).map(char::from).collect();
    assert_eq!(origin.next_request().head.field("X-Raw"), Some(expected.as_str()));
}

#[test]
fn empty_value_and_inner_spaces_arrive_unchanged() {
    assert_eq!(fields_seen("X-Empty:\r\nX-Inner: a  b\tc\r\n"), ["X-Empty:", "X-Inner: a  b\tc"]);
}

#[test]
fn every_token_character_is_allowed_in_a_name() {
    assert_eq!(fields_seen("!#$%&'*+-.^_`|~09az: v\r\n"), ["!#$%&'*+-.^_`|~09az: v"]);
}

#[test]
fn target_is_never_normalised() {
    let target = "/a/../b//c/%2f%2F/;p=1?q=%zz&x=y?z&&=";
    assert_eq!(target_seen(target), target);
}

#[test]
fn query_of_a_root_target_arrives_unchanged() {
    assert_eq!(target_seen("/?"), "/?");
}

#[test]
fn asterisk_target_of_options_arrives_as_it_is() {
    let (_, request) = exchange("OPTIONS * HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    assert_eq!((request.method.as_str(), request.target.as_str()), ("OPTIONS", "*"));
}

#[test]
fn unknown_method_is_passed_on() {
    let (_, request) = exchange("M-SEARCH /x HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    assert_eq!(request.method, "M-SEARCH");
}

#[test]
fn lower_case_method_stays_lower_case() {
    let (_, request) = exchange("get /x HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    assert_eq!(request.method, "get");
}

#[test]
fn request_of_http_1_0_goes_on_as_1_1() {
    let (response, request) = exchange("GET /x HTTP/1.0\r\nHost: ORIGIN\r\n\r\n", OK);
    assert_eq!(response.status, 200);
    assert_eq!(request.head.start_line, "GET /x HTTP/1.1");
}

#[test]
fn empty_lines_before_a_request_are_ignored() {
    let (response, _) = exchange("\r\n\r\nGET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", OK);
    assert_eq!(response.status, 200);
}

#[test]
fn head_that_arrives_byte_by_byte_is_understood() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    for byte in format!("GET /slow HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host()).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.next_request().target, "/slow");
}

#[test]
fn fields_of_one_hop_are_removed() {
    let fields = "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                  Proxy-Authenticate: x\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\n\
                  Upgrade: websocket\r\nX-Stays: 1\r\n";
    assert_eq!(fields_seen(fields), ["X-Stays: 1"]);
}

#[test]
fn fields_that_connection_names_are_removed() {
    let fields =
        "X-A: 1\r\nConnection: x-a, ,X-B\r\nX-B: 2\r\nconnection: X-C\r\nx-c: 3\r\nX-D: 4\r\n";
    assert_eq!(fields_seen(fields), ["X-D: 4"]);
}

#[test]
fn connection_that_names_host_does_not_remove_it() {
    assert!(fields_seen("Connection: Host\r\n").is_empty());
}

#[test]
fn connection_that_names_content_length_does_not_remove_it() {
    let request = "POST / HTTP/1.1\r\nHost: ORIGIN\r\nConnection: Content-Length\r\n\
                   Content-Length: 3\r\n\r\nabc";
    let (_, request) = exchange(request, OK);
    assert_eq!(request.body.bytes, b"abc");
    assert_eq!(request.head.field("Content-Length"), Some("3"));
}

#[test]
fn connection_that_names_the_loop_guard_does_not_remove_it() {
    let request = "GET / HTTP/1.1\r\nHost: ORIGIN\r\nConnection: X-Chocon-Ver, X-Chocon-Id\r\n\r\n";
    let (_, request) = exchange(request, OK);
    assert!(request.head.has("X-Chocon-Ver") && request.head.has("X-Chocon-Id"));
}

#[test]
fn trailer_announcement_is_kept() {
    assert_eq!(fields_seen("Trailer: X-Sum\r\n"), ["Trailer: X-Sum"]);
}

#[test]
fn authorization_and_cookies_are_kept() {
    let fields = "Authorization: AWS4-HMAC-SHA256 x\r\nCookie: a=1\r\nCookie: b=2\r\n";
    let expected = ["Authorization: AWS4-HMAC-SHA256 x", "Cookie: a=1", "Cookie: b=2"];
    assert_eq!(fields_seen(fields), expected);
}

#[test]
fn identical_content_lengths_are_collapsed_to_one() {
    let request = "POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 3\r\nX-Between: 1\r\n\
                   Content-Length: 3\r\n\r\nabc";
    let (_, request) = exchange(request, OK);
    assert_eq!(request.head.all("Content-Length"), ["3"]);
    assert_eq!(request.body.bytes, b"abc");
}

refusals! { refuse;
    missing_host_gets_400: 400, "GET / HTTP/1.1\r\nX-A: 1\r\n\r\n";
    second_host_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nHost: ORIGIN\r\n\r\n";
    second_host_of_other_case_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nhOST: a\r\n\r\n";
    second_host_in_http_1_0_gets_400: 400, "GET / HTTP/1.0\r\nHost: ORIGIN\r\nHost: ORIGIN\r\n\r\n";
    bare_lf_after_the_request_line_gets_400: 400, "GET / HTTP/1.1\nHost: ORIGIN\r\n\r\n";
    bare_lf_after_a_field_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\nX-A: 1\r\n\r\n";
    bare_lf_as_the_end_of_the_head_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\n\r\n\r\n";
    bare_lf_only_gets_400: 400, "GET / HTTP/1.1\nHost: ORIGIN\n\nGET /2 HTTP/1.1\r\n\r\n";
    bare_cr_in_a_value_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A: a\rb\r\n\r\n";
    bare_cr_in_the_request_line_gets_400: 400, "GET /\r HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    doubled_cr_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\r\n\r\n";
    folded_line_with_space_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A: 1\r\n 2\r\n\r\n";
    folded_line_with_tab_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A: 1\r\n\t2\r\n\r\n";
    space_before_the_first_field_gets_400: 400, "GET / HTTP/1.1\r\n Host: ORIGIN\r\n\r\n";
    space_before_the_colon_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A : 1\r\n\r\n";
    tab_before_the_colon_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A\t: 1\r\n\r\n";
    space_within_a_name_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX A: 1\r\n\r\n";
    nul_in_a_value_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A: a\0b\r\n\r\n";
    nul_in_a_name_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX\0A: 1\r\n\r\n";
    nul_in_the_target_gets_400: 400, "GET /\0 HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    control_character_in_a_value_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A: \x01\r\n\r\n";
    delete_character_in_a_value_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A: \x7f\r\n\r\n";
    obs_text_in_a_name_gets_400: 400, b"GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-\xff: 1\r\n\r\n";
    separator_in_a_name_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX(A: 1\r\n\r\n";
    empty_name_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\n: 1\r\n\r\n";
    field_without_a_colon_gets_400: 400, "GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-A\r\n\r\n";
    request_line_without_a_version_gets_400: 400, "GET /\r\nHost: ORIGIN\r\n\r\n";
    request_line_with_two_spaces_gets_400: 400, "GET  / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    request_line_with_a_tab_gets_400: 400, "GET\t/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    request_line_with_a_fourth_word_gets_400: 400, "GET / HTTP/1.1 x\r\nHost: ORIGIN\r\n\r\n";
    empty_method_gets_400: 400, " / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    separator_in_the_method_gets_400: 400, "GE(T / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    relative_target_gets_400: 400, "GET x HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    tls_hello_gets_400: 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
    connect_gets_501: 501, "CONNECT ORIGIN HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    http_2_preface_gets_505: 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    version_2_0_gets_505: 505, "GET / HTTP/2.0\r\nHost: ORIGIN\r\n\r\n";
    space_in_the_target_gets_400: 400, "GET /a b HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    version_1_2_gets_505: 505, "GET / HTTP/1.2\r\nHost: ORIGIN\r\n\r\n";
    version_0_9_gets_505: 505, "GET / HTTP/0.9\r\nHost: ORIGIN\r\n\r\n";
}
