//! One record a request in the reference's keys, wherever it is told to go, and never in the way.

use std::net::Ipv4Addr;

use crate::support::proxy::AccessLine;
use crate::support::{Client, OK, Origin, Proxy, RefusingAddr, eventually};

/// The record of the first request that a fresh proxy sees.
fn record_of(fields: &str, method: &str, target: &str, answer: &str) -> AccessLine {
    let (origin, proxy) = (Origin::answering(answer), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request(method, &origin.host(), target, fields, b"");
    client.read_response_to(method);
    let record = proxy.wait_for_access_line(|_| true);
    assert_eq!(record.get("host"), origin.host());
    record
}

#[test]
fn record_has_the_keys_of_the_reference_in_order() {
    let record = record_of("", "GET", "/", OK);
    let expected = [
        "time",
        "remote_addr",
        "method",
        "uri",
        "status",
        "size",
        "ua",
        "ptime",
        "host",
        "chocon_req",
    ];
    assert_eq!(record.keys(), expected);
}

#[test]
fn record_says_what_happened() {
    let record = record_of("User-Agent: curl/8\r\n", "GET", "/a/b?secret=1", OK);
    assert_eq!(record.get("method"), "GET");
    assert_eq!(record.get("uri"), "/a/b", "the path without the query");
    assert_eq!((record.get("status"), record.get("size")), ("200", "2"));
    assert_eq!(record.get("ua"), "curl/8");
    assert_eq!(record.get("remote_addr"), "127.0.0.1");
    let seconds: f64 = record.get("ptime").parse().expect("seconds");
    assert!(seconds > 0.0 && seconds < 10.0, "{seconds}");
}

#[test]
fn numbers_are_numbers_and_words_are_strings() {
    let record = record_of("", "GET", "/", OK);
    for number in ["\"status\":200,", "\"size\":2,", "\"ptime\":0."] {
        assert!(record.raw.contains(number), "{}", record.raw);
    }
    assert!(record.raw.contains("\"ua\":\"\""), "{}", record.raw);
}

#[test]
fn time_is_local_and_names_its_zone() {
    // 2026/11/23 17:55:18 UTC
    let record = record_of("", "GET", "/", OK);
    let words: Vec<_> = record.get("time").split(' ').collect();
    let [date, time, zone] = words.as_slice() else { panic!("{words:?}") };
    let digits = |text: &str, mark: char| -> Vec<usize> {
        assert!(text.bytes().all(|byte| byte.is_ascii_digit() || char::from(byte) == mark));
        text.split(mark).map(str::len).collect()
    };
    assert_eq!((digits(date, '/'), digits(time, ':')), (vec![4, 2, 2], vec![2, 2, 2]));
    assert!(!zone.is_empty());
}

#[test]
fn time_follows_the_zone_of_the_environment() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::options(&[]).env("TZ", "XYZ-9").start();
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    let record = proxy.wait_for_access_line(|_| true);
    assert!(record.get("time").ends_with(" XYZ"), "{}", record.raw);
}

#[test]
fn record_carries_the_id_that_the_client_got() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let response = client.read_response();
    let record = proxy.wait_for_access_line(|_| true);
    assert_eq!(Some(record.get("chocon_req")), response.field("X-Chocon-Id"));
}

#[test]
fn record_names_the_clients_address() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&["--listen", "0.0.0.0"]));
    let addr = (Ipv4Addr::LOCALHOST, proxy.addr().port()).into();
    let mut client = Client::connect_from(Ipv4Addr::new(127, 0, 0, 77), addr);
    client.get(&origin, "/");
    client.read_response();
    let record = proxy.wait_for_access_line(|_| true);
    assert_eq!(record.get("remote_addr"), "127.0.0.77");
}

#[test]
fn size_counts_the_body_and_not_its_chunks() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    assert_eq!(record_of("", "GET", "/", answer).get("size"), "7");
}

#[test]
fn size_of_a_response_to_head_is_0() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let record = record_of("", "HEAD", "/", answer);
    assert_eq!((record.get("method"), record.get("size")), ("HEAD", "0"));
}

#[test]
fn quotes_and_backslashes_stay_within_their_string() {
    let record = record_of("User-Agent: a\"b\\c\",\"status\":\"1\r\n", "GET", "/\"x\"", OK);
    assert_eq!(record.get("ua"), "a\"b\\c\",\"status\":\"1");
    assert_eq!((record.get("uri"), record.get("status")), ("/\"x\"", "200"));
}

#[test]
fn bytes_that_are_no_text_break_no_record() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    let mut request =
        format!("GET / HTTP/1.1\r\nHost: {}\r\nUser-Agent: ", origin.host()).into_bytes();
    request.extend(b"\xff\xfe\xc0\t\r\n\r\n");
    client.send(request);
    client.read_response();
    assert_eq!(proxy.wait_for_access_line(|_| true).get("status"), "200");
}

#[test]
fn every_request_of_a_connection_has_a_record() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    for n in 0..10 {
        client.get(&origin, &format!("/{n}"));
        client.read_response();
    }
    for n in 0..10 {
        proxy.wait_for_access_line(|line| line.get("uri") == format!("/{n}"));
    }
    assert_eq!(proxy.access_log_lines().len(), 10);
}

#[test]
fn error_has_a_record_with_its_status() {
    let (proxy, refusing) = (Proxy::start(&[]), RefusingAddr::new());
    let mut client = Client::connect(&proxy);
    client.request("GET", &refusing.host(), "/x", "", b"");
    client.read_error(502);
    let record = proxy.wait_for_access_line(|_| true);
    assert_eq!((record.get("status"), record.get("size")), ("502", "0"));
}

#[test]
fn error_is_told_with_origin_phase_and_cause() {
    let (proxy, refusing) = (Proxy::start(&[]), RefusingAddr::new());
    let mut client = Client::connect(&proxy);
    client.request("GET", &refusing.host(), "/x", "", b"");
    client.read_error(502);
    let line = proxy.wait_for_log(&format!("127.0.0.1:{}", refusing.addr.port()));
    let lower = proxy.log().to_ascii_lowercase();
    assert!(lower.contains("connect") && lower.contains("refused"), "{line}");
}

#[test]
fn stdout_gets_the_records_when_told_so() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--access-log-dir", "stdout"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/here");
    client.read_response();
    proxy.wait_for_access_line(|line| line.get("uri") == "/here");
    assert!(proxy.stdout_text().contains("/here") && !proxy.log().contains("/here"));
}

#[test]
fn none_means_no_record() {
    let origin = Origin::answering(OK);
    let mut proxy = Proxy::start(&["--access-log-dir", "none"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/silent");
    client.read_response();
    // After the end of the process nothing can be on its way any more.
    proxy.signal(libc::SIGTERM);
    proxy.wait_exit();
    assert!(proxy.access_log_lines().is_empty());
}

#[test]
fn records_are_written_out_before_the_end() {
    let origin = Origin::answering(OK);
    let mut proxy = Proxy::start(&["--access-log-dir", "stdout"]);
    let mut client = Client::connect(&proxy);
    for _ in 0..100 {
        client.get(&origin, "/");
        client.read_response();
    }
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert_eq!(proxy.access_log_lines().len(), 100);
}

#[test]
fn stalled_reader_of_the_log_stalls_no_request() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::options(&["--access-log-dir", "stdout"]).unread_stdout().start();
    let mut client = Client::connect(&proxy);
    // About 200 bytes a record: the pipe of 64 KiB is full after some 330.
    for _ in 0..3000 {
        client.get(&origin, "/");
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn records_that_find_no_room_are_counted_and_said() {
    let origin = Origin::answering(OK);
    let mut proxy = Proxy::options(&["--access-log-dir", "stdout"]).unread_stdout().start();
    let mut client = Client::connect(&proxy);
    let agent = format!("User-Agent: {}\r\n", "u".repeat(16 * 1024));
    // 32 MiB of records, far more than the queue and the pipe take.
    for _ in 0..2000 {
        client.request("GET", &origin.host(), "/", &agent, b"");
        assert_eq!(client.read_response().status, 200);
    }
    proxy.read_stdout();
    eventually("a word about what was dropped", || {
        let log = proxy.log().to_ascii_lowercase();
        log.contains("dropped") || log.contains("lost")
    });
}

#[test]
fn stalled_reader_of_the_log_does_not_hold_up_the_end() {
    let origin = Origin::answering(OK);
    let mut proxy = Proxy::options(&["--access-log-dir", "stdout"]).unread_stdout().start();
    let mut client = Client::connect(&proxy);
    for _ in 0..1000 {
        client.get(&origin, "/");
        client.read_response();
    }
    proxy.signal(libc::SIGTERM);
    proxy.wait_exit();
}
