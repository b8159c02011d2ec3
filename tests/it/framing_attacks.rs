//! Messages on whose end two readers could disagree are refused, never guessed at.

use crate::support::{Client, Ended, OK, Origin, Proxy, eventually, exchange, refuse, refuse_body};
use crate::{refusals, refused_answers};

const POST: &str = "POST / HTTP/1.1\r\nHost: ORIGIN\r\n";

fn post(rest: &str) -> String {
    format!("{POST}{rest}")
}

fn chunked(body: &str) -> String {
    format!("{POST}Transfer-Encoding: chunked\r\n\r\n{body}")
}

refusals! { refuse;
    length_and_coding_get_400:
        400, post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    coding_and_length_get_400:
        400, post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n");
    coding_and_length_zero_get_400:
        400, post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n");
    differing_lengths_get_400: 400, post("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd");
    list_of_equal_lengths_gets_400: 400, post("Content-Length: 3, 3\r\n\r\nabc");
    list_of_differing_lengths_gets_400: 400, post("Content-Length: 3, 4\r\n\r\nabcd");
    length_with_a_plus_gets_400: 400, post("Content-Length: +3\r\n\r\nabc");
    length_with_a_minus_gets_400: 400, post("Content-Length: -3\r\n\r\nabc");
    hexadecimal_length_gets_400: 400, post("Content-Length: 0x3\r\n\r\nabc");
    fractional_length_gets_400: 400, post("Content-Length: 3.0\r\n\r\nabc");
    length_with_an_inner_space_gets_400: 400, post("Content-Length: 1 2\r\n\r\nabcdefghijkl");
    length_with_an_underscore_gets_400: 400, post("Content-Length: 1_0\r\n\r\nabcdefghij");
    empty_length_gets_400: 400, post("Content-Length:\r\n\r\nabc");
    length_in_other_digits_gets_400: 400, post("Content-Length: \u{663}\r\n\r\nabc");
    length_past_i64_gets_413: 413, post("Content-Length: 9223372036854775808\r\n\r\n");
    length_past_u64_gets_413: 413, post("Content-Length: 18446744073709551619\r\n\r\nabc");
    length_of_a_hundred_digits_gets_413:
        413, post(&format!("Content-Length: {}\r\n\r\n", "9".repeat(100)));
    coding_identity_gets_400: 400, post("Transfer-Encoding: identity\r\n\r\n0\r\n\r\n");
    chunked_before_identity_gets_400:
        400, post("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n");
    chunked_before_gzip_gets_400: 400, post("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n");
    chunked_twice_in_a_list_gets_400:
        400, post("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n");
    chunked_in_two_lines_gets_400:
        400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    identity_line_after_chunked_line_gets_400:
        400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n");
    misspelt_chunked_gets_400: 400, post("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n");
    quoted_chunked_gets_400: 400, post("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n");
    empty_coding_gets_400: 400, post("Transfer-Encoding:\r\n\r\n0\r\n\r\n");
    coding_behind_a_vertical_tab_gets_400:
        400, post("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n");
    coding_before_a_spaced_colon_gets_400:
        400, post("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n");
    coding_in_http_1_0_gets_400:
        400, "POST / HTTP/1.0\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    gzip_then_chunked_gets_501: 501, post("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n");
    gzip_line_then_chunked_line_gets_400:
        400, post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}

refusals! { refuse_body;
    chunk_size_without_digits_gets_400: 400, chunked("\r\n\r\n");
    chunk_size_of_letters_gets_400: 400, chunked("xyz\r\nabc\r\n0\r\n\r\n");
    chunk_size_with_a_prefix_gets_400: 400, chunked("0x3\r\nabc\r\n0\r\n\r\n");
    chunk_size_with_a_minus_gets_400: 400, chunked("-3\r\nabc\r\n0\r\n\r\n");
    chunk_size_with_a_plus_gets_400: 400, chunked("+3\r\nabc\r\n0\r\n\r\n");
    chunk_size_behind_a_space_gets_400: 400, chunked(" 3\r\nabc\r\n0\r\n\r\n");
    chunk_size_with_an_underscore_gets_400: 400, chunked("1_0\r\nabc\r\n0\r\n\r\n");
    chunk_size_of_17_digits_gets_400: 400, chunked("00000000000000003\r\nabc\r\n0\r\n\r\n");
    chunk_size_past_64_bits_gets_400: 400, chunked("ffffffffffffffff0\r\nabc\r\n");
    chunk_size_line_with_bare_lf_gets_400: 400, chunked("3\nabc\r\n0\r\n\r\n");
    chunk_size_line_with_bare_cr_gets_400: 400, chunked("3\rabc\r\n0\r\n\r\n");
    bare_lf_in_a_chunk_extension_gets_400: 400, chunked("3;a\n=b\r\nabc\r\n0\r\n\r\n");
    chunk_data_without_crlf_gets_400: 400, chunked("3\r\nabcd\r\n0\r\n\r\n");
    chunk_data_with_bare_lf_gets_400: 400, chunked("3\r\nabc\n0\r\n\r\n");
    last_chunk_with_bare_lf_gets_400: 400, chunked("3\r\nabc\r\n0\r\n\n");
    trailer_without_a_colon_gets_400: 400, chunked("0\r\nX-A\r\n\r\n");
    trailer_with_a_space_before_the_colon_gets_400: 400, chunked("0\r\nX-A : 1\r\n\r\n");
    folded_trailer_gets_400: 400, chunked("0\r\nX-A: 1\r\n 2\r\n\r\n");
    nul_in_a_trailer_gets_400: 400, chunked("0\r\nX-A: \0\r\n\r\n");
}

refused_answers! {
    answer_with_length_and_coding_gets_502:
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    answer_with_differing_lengths_gets_502:
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
    answer_with_a_list_of_lengths_gets_502:
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab";
    answer_with_a_signed_length_gets_502: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab";
    answer_with_an_empty_length_gets_502: "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nab";
    answer_with_a_length_past_i64_gets_502:
        "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nab";
    answer_with_an_unknown_coding_gets_502:
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    answer_with_chunked_not_last_gets_502:
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n";
    answer_with_two_codings_gets_502:
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    answer_of_http_1_0_with_a_coding_gets_502:
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    answer_with_bare_lf_gets_502: "HTTP/1.1 200 OK\nContent-Length: 2\n\nab";
    answer_with_one_bare_lf_gets_502: "HTTP/1.1 200 OK\r\nX-A: 1\nContent-Length: 2\r\n\r\nab";
    answer_with_bare_cr_gets_502: "HTTP/1.1 200 OK\r\nX-A: a\rb\r\nContent-Length: 2\r\n\r\nab";
    answer_with_a_folded_line_gets_502:
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nab";
    answer_with_a_space_before_the_colon_gets_502:
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nab";
    answer_with_nul_gets_502: "HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 2\r\n\r\nab";
    answer_with_an_empty_name_gets_502: "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nab";
    answer_of_another_protocol_gets_502: "SSH-2.0-OpenSSH_9.9\r\n\r\n";
    answer_of_http_2_0_gets_502: "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nab";
    answer_with_two_status_digits_gets_502: "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nab";
    answer_with_four_status_digits_gets_502: "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nab";
    answer_with_status_below_100_gets_502: "HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nab";
    answer_that_switches_protocols_unasked_gets_502:
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw";
}

#[test]
fn coding_in_upper_case_is_chunked() {
    let request = post("tRANSFER-eNCODING: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(exchange(&request, OK).1.body.bytes, b"abc");
}

#[test]
fn length_with_leading_zeros_counts_in_decimal() {
    let request = post("Content-Length: 0010\r\n\r\n0123456789");
    assert_eq!(exchange(&request, OK).1.body.bytes, b"0123456789");
}

#[test]
fn equal_lengths_of_other_spelling_become_one() {
    let request = post("Content-Length: 3\r\nContent-Length: 03\r\n\r\nabc");
    let (_, request) = exchange(&request, OK);
    assert_eq!(
        (request.head.all("Content-Length").len(), request.body.bytes.as_slice()),
        (1, &b"abc"[..])
    );
}

#[test]
fn chunk_size_of_16_digits_is_understood() {
    let request = chunked("0000000000000003\r\nabc\r\n0\r\n\r\n");
    assert_eq!(exchange(&request, OK).1.body.bytes, b"abc");
}

#[test]
fn request_inside_a_body_is_not_a_request() {
    let inner = "GET /smuggled HTTP/1.1\r\nHost: ORIGIN\r\n\r\n";
    let origin = Origin::answering(OK);
    let inner = inner.replace("ORIGIN", &origin.host());
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/outer", "", inner.as_bytes());
    assert_eq!(client.read_response().text(), "ok");
    client.get(&origin, "/after");
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(origin.next_request().body.bytes, inner.as_bytes());
    assert_eq!(origin.next_request().target, "/after");
    assert!(origin.drain_requests().is_empty());
}

#[test]
fn nothing_behind_a_refused_request_is_served() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ));
    client.expect_refusal(400);
    origin.expect_no_bytes();
}

#[test]
fn second_answer_behind_the_first_reaches_nobody() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: \
                4\r\n\r\nEVIL";
    let origin = Origin::answering(evil);
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    for _ in 0..3 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, "/");
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn bad_chunk_in_an_answer_cuts_it_visibly() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n0\r\n\r\n",
    );
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    assert_ne!(client.read_cut_response().body.ended, Ended::Complete);
    eventually("the origin's connection to be closed", || origin.open_connections() == 0);
}

#[test]
fn missing_crlf_behind_a_chunk_of_an_answer_cuts_it_visibly() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    );
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_cut_response();
    eventually("the origin's connection to be closed", || origin.open_connections() == 0);
}
