//! Every bound, at the bound and one past.

use crate::support::{Client, OK, Origin, Proxy, exchange, refuse, refuse_answer, refuse_body};

const HEAD_BYTES_MAX: usize = 64 * 1024;
const TARGET_BYTES_MAX: usize = 32 * 1024;
const FIELDS_MAX: usize = 256;
const EXTENSION_BYTES_MAX: usize = 4 * 1024;
const TRAILER_BYTES_MAX: usize = 8 * 1024;
const INTERIM_HEADS_MAX: usize = 16;
const EMPTY_LINES_MAX: usize = 4;
const CONNECTION_NAMES_MAX: usize = 32;
const ID_BYTES_MAX: usize = 256;

/// What a bound on chunk lines or trailers may count besides the bytes in question: size digits,
/// the semicolon, line ends.
const SLACK: usize = 64;

/// A head of exactly `len` bytes; `start` ends with CRLF.
fn head_of(len: usize, start: &str) -> String {
    let frame = "X-Pad: \r\n\r\n".len();
    format!("{start}X-Pad: {}\r\n\r\n", "p".repeat(len - start.len() - frame))
}

/// As `refuse`, for a request whose length depends on the origin's name.
fn refuses(status: u16, request: impl Fn(&str) -> String) {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.send(request(&origin.host()));
    client.expect_refusal(status);
    origin.expect_no_bytes();
}

fn serves(request: impl Fn(&str) -> String) {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.send(request(&origin.host()));
    assert_eq!(client.read_response().status, 200);
}

fn request_head_of(len: usize, host: &str) -> String {
    let request = head_of(len, &format!("GET / HTTP/1.1\r\nHost: {host}\r\n"));
    assert_eq!(request.len(), len);
    request
}

fn target_of(len: usize, host: &str) -> String {
    format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "t".repeat(len - 1))
}

/// `count` fields, Host among them.
fn request_with_fields(count: usize, host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n{}\r\n", "X: y\r\n".repeat(count - 1))
}

fn chunked(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn request_head_at_the_bound_is_served() {
    serves(|host| request_head_of(HEAD_BYTES_MAX, host));
}

#[test]
fn request_head_past_the_bound_gets_431() {
    refuses(431, |host| request_head_of(HEAD_BYTES_MAX + 1, host));
}

#[test]
fn request_head_that_never_ends_gets_431_at_the_bound() {
    refuse(431, format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES_MAX)));
}

#[test]
fn second_request_head_of_a_pipeline_has_the_bound_for_itself() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.send(request_head_of(HEAD_BYTES_MAX, &origin.host()).repeat(2));
    assert_eq!(client.read_pipelined_response().status, 200);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn spellings_of_an_origin_that_fill_a_head_are_served_and_not_remembered() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&["--access-log-dir=none"]));
    let mut client = Client::connect(&proxy);
    let zone = "z".repeat(60_000);
    let mut get = |n: usize| {
        let host = format!("127.0.0.1.ccnproxy.{n}{zone}:{}", origin.addr().port());
        client.request("GET", &host, "/", "", b"");
        assert_eq!(client.read_response().status, 200);
    };
    (0..20).for_each(&mut get);
    let before = proxy.resident_kib();
    (20..620).for_each(&mut get);
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 12 * 1024, "{grown} KiB for 36 MiB of spellings");
    // One that is remembered is found again, at the bound and one past.
    let longest = chocon_uring::limits::ROUTE_CACHED_BYTES_MAX;
    for len in [longest, longest + 1] {
        let port = origin.addr().port().to_string();
        let zone = "z".repeat(len - "127.0.0.1.ccnproxy.:".len() - port.len());
        let host = format!("127.0.0.1.ccnproxy.{zone}:{port}");
        assert_eq!(host.len(), len);
        for _ in 0..2 {
            client.request("GET", &host, "/", "", b"");
            assert_eq!(client.read_response().status, 200);
        }
    }
}

#[test]
fn target_at_the_bound_is_served() {
    serves(|host| target_of(TARGET_BYTES_MAX, host));
}

#[test]
fn target_past_the_bound_gets_414() {
    refuses(414, |host| target_of(TARGET_BYTES_MAX + 1, host));
}

#[test]
fn target_past_the_bound_of_heads_gets_414_or_431() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(format!("GET /{}", "t".repeat(HEAD_BYTES_MAX)));
    let response = client.read_response();
    assert!(matches!(response.status, 414 | 431), "{}", response.status);
    client.expect_closed();
}

#[test]
fn fields_at_the_bound_are_served() {
    serves(|host| request_with_fields(FIELDS_MAX, host));
}

#[test]
fn fields_past_the_bound_get_431() {
    refuses(431, |host| request_with_fields(FIELDS_MAX + 1, host));
}

#[test]
fn response_head_at_the_bound_is_passed_on() {
    let answer = head_of(HEAD_BYTES_MAX, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n");
    assert_eq!(exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", answer).0.status, 200);
}

#[test]
fn response_head_past_the_bound_gets_502() {
    refuse_answer(head_of(HEAD_BYTES_MAX + 1, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"));
}

#[test]
fn response_head_that_never_ends_gets_502_at_the_bound() {
    refuse_answer(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(2 * HEAD_BYTES_MAX)));
}

#[test]
fn response_fields_at_the_bound_are_passed_on() {
    let fields = "X: y\r\n".repeat(FIELDS_MAX - 1);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
    let (response, _) = exchange("GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", answer);
    assert_eq!(response.all("X").len(), FIELDS_MAX - 1);
}

#[test]
fn response_fields_past_the_bound_get_502() {
    let fields = "X: y\r\n".repeat(FIELDS_MAX);
    refuse_answer(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"));
}

#[test]
fn interim_heads_at_the_bound_are_passed_on() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(INTERIM_HEADS_MAX);
    let (origin, proxy) = (Origin::answering(format!("{interim}{OK}")), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    for _ in 0..INTERIM_HEADS_MAX {
        assert_eq!(client.read_pipelined_response().status, 103);
    }
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn interim_heads_past_the_bound_get_502() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(INTERIM_HEADS_MAX + 1);
    let (origin, proxy) = (Origin::answering(format!("{interim}{OK}")), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut response = client.read_pipelined_response();
    while response.status == 103 {
        response = client.read_pipelined_response();
    }
    assert_eq!(response.status, 502);
}

#[test]
fn chunk_extension_within_the_bound_is_served() {
    let extension = "e".repeat(EXTENSION_BYTES_MAX - SLACK);
    let (_, request) = exchange(&chunked(&format!("3;{extension}\r\nabc\r\n0\r\n\r\n")), OK);
    assert_eq!(request.body.bytes, b"abc");
}

#[test]
fn chunk_extension_past_the_bound_gets_400() {
    let extension = "e".repeat(EXTENSION_BYTES_MAX + SLACK);
    refuse_body(400, chunked(&format!("3;{extension}\r\nabc\r\n0\r\n\r\n")));
}

#[test]
fn chunk_extension_that_never_ends_gets_400() {
    refuse_body(400, chunked(&format!("3;{}", "e".repeat(EXTENSION_BYTES_MAX + SLACK))));
}

#[test]
fn trailers_within_the_bound_are_forwarded() {
    let value = "t".repeat(TRAILER_BYTES_MAX - SLACK);
    let (_, request) = exchange(&chunked(&format!("0\r\nX-T: {value}\r\n\r\n")), OK);
    assert_eq!(request.body.trailers, [("X-T".to_owned(), value)]);
}

#[test]
fn trailers_past_the_bound_get_400() {
    let value = "t".repeat(TRAILER_BYTES_MAX + SLACK);
    refuse_body(400, chunked(&format!("0\r\nX-T: {value}\r\n\r\n")));
}

#[test]
fn trailers_that_never_end_get_400() {
    refuse_body(400, chunked(&format!("0\r\n{}", "X-T: 1\r\n".repeat(TRAILER_BYTES_MAX / 8 + 9))));
}

#[test]
fn response_trailers_past_the_bound_cut_the_body_visibly() {
    let value = "t".repeat(TRAILER_BYTES_MAX + SLACK);
    let origin = Origin::answering(format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: {value}\r\n\r\n"
    ));
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_cut_response();
}

#[test]
fn many_small_chunks_are_no_attack() {
    let body = "1\r\nx\r\n".repeat(20_000);
    let (_, request) = exchange(&chunked(&format!("{body}0\r\n\r\n")), OK);
    assert_eq!(request.body.bytes.len(), 20_000);
}

fn behind_empty_lines(count: usize, host: &str) -> String {
    format!("{}GET / HTTP/1.1\r\nHost: {host}\r\n\r\n", "\r\n".repeat(count))
}

#[test]
fn empty_lines_at_the_bound_are_ignored() {
    serves(|host| behind_empty_lines(EMPTY_LINES_MAX, host));
}

#[test]
fn empty_lines_past_the_bound_get_400() {
    refuses(400, |host| behind_empty_lines(EMPTY_LINES_MAX + 1, host));
}

/// A head's fields: so many that `Connection` names, over two lines, and one that it does not.
fn fields_named(count: usize) -> String {
    let names: Vec<String> = (0..count).map(|n| format!("X-{n}")).collect();
    let (some, others) = names.split_at(count / 2);
    let fields: String = names.iter().map(|name| format!("{name}: 1\r\n")).collect();
    let (some, others) = (some.join(", "), others.join(", "));
    format!("Connection: close, {some}\r\n{fields}Connection: {others}\r\nStays: 1\r\n")
}

fn request_naming(count: usize) -> String {
    format!("GET / HTTP/1.1\r\nHost: ORIGIN\r\n{}\r\n", fields_named(count))
}

fn answer_naming(count: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{}\r\n", fields_named(count))
}

#[test]
fn fields_that_connection_names_at_the_bound_are_all_removed() {
    let most = CONNECTION_NAMES_MAX;
    let (response, request) = exchange(&request_naming(most), answer_naming(most));
    assert!(request.head.field("Stays").is_some() && response.has("Stays"));
    for n in 0..most {
        let name = format!("X-{n}");
        assert!(request.head.field(&name).is_none() && !response.has(&name), "{name}");
    }
}

#[test]
fn fields_that_connection_names_past_the_bound_get_400() {
    refuse(400, request_naming(CONNECTION_NAMES_MAX + 1));
}

#[test]
fn fields_that_a_responses_connection_names_past_the_bound_get_502() {
    refuse_answer(answer_naming(CONNECTION_NAMES_MAX + 1));
}

fn with_id_of(bytes: usize) -> String {
    format!("GET / HTTP/1.1\r\nHost: ORIGIN\r\nX-Chocon-Id: {}\r\n\r\n", "i".repeat(bytes))
}

#[test]
fn clients_id_at_the_bound_is_kept() {
    let (response, request) = exchange(&with_id_of(ID_BYTES_MAX), OK);
    let id = "i".repeat(ID_BYTES_MAX);
    assert_eq!(request.head.field("X-Chocon-Id"), Some(id.as_str()));
    assert_eq!(response.field("X-Chocon-Id"), Some(id.as_str()));
}

#[test]
fn clients_id_past_the_bound_gets_400() {
    refuse(400, with_id_of(ID_BYTES_MAX + 1));
}

#[test]
fn endless_empty_lines_before_a_request_are_not_read_for_ever() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let lines = "\r\n".repeat(HEAD_BYTES_MAX);
    // The proxy may close while these are still being sent.
    let _ = client.try_send(lines);
    let (bytes, _) = client.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 4"), "{}", bytes.escape_ascii());
}
