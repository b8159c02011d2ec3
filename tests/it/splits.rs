//! However the bytes are cut into packets, the outcome is the same.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Client, OK, Origin, Proxy};

/// Requests of every framing, of which the proxy must see exactly five.
fn pipeline(host: &str) -> String {
    format!(
        "GET /1?q HTTP/1.1\r\nHost: {host}\r\nX-A: b\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 11\r\n\r\nGET / HTTP/\
         POST /3 HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n\
         3;e=\"x\"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: v\r\n\r\n\
         \r\nDELETE /4 HTTP/1.1\r\nHost: {host}\r\n\r\n\
         PUT /5 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn any_split_of_a_pipeline_gives_the_same_requests_and_answers() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let bytes = pipeline(&origin.host()).into_bytes();
    let cuts = prop::collection::vec(0..bytes.len(), 0..12);
    let mut runner =
        TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&cuts, |mut cuts| {
        cuts.sort_unstable();
        let mut client = Client::connect(&proxy);
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            client.send(&bytes[from..cut]);
            from = cut;
        }
        for _ in 0..5 {
            prop_assert_eq!(client.read_pipelined_response().text(), "ok");
        }
        let seen: Vec<_> = (0..5).map(|_| origin.next_request()).collect();
        let lines: Vec<_> = seen.iter().map(|request| request.head.start_line.as_str()).collect();
        prop_assert_eq!(
            lines,
            [
                "GET /1?q HTTP/1.1",
                "POST /2 HTTP/1.1",
                "POST /3 HTTP/1.1",
                "DELETE /4 HTTP/1.1",
                "PUT /5 HTTP/1.1",
            ]
        );
        prop_assert_eq!(&seen[1].body.bytes, b"GET / HTTP/");
        prop_assert_eq!(&seen[2].body.bytes, b"abc0123456789");
        prop_assert_eq!(seen[2].body.trailers.len(), 1);
        Ok(())
    });
    outcome.expect("the same outcome for every split");
}

#[test]
fn any_split_of_an_answer_gives_the_same_response() {
    let answer: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n\
        3;e=\"x\"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: v\r\n\r\n";
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    let cuts = prop::collection::vec(0..answer.len(), 0..12);
    let mut first = true;
    let mut runner =
        TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let cell = std::cell::RefCell::new((&mut client, &mut conn, &mut first));
    let outcome = runner.run(&cuts, |mut cuts| {
        let (client, conn, first) = &mut *cell.borrow_mut();
        if !std::mem::take(&mut **first) {
            client.get(&origin, "/");
        }
        conn.read_request();
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts.into_iter().chain([answer.len()]) {
            conn.send(&answer[from..cut]);
            from = cut;
        }
        prop_assert_eq!(client.read_pipelined_response().status, 103);
        let response = client.read_response();
        prop_assert_eq!(response.field("X-A"), Some("b"));
        prop_assert_eq!(response.text(), "abc0123456789");
        prop_assert_eq!(response.body.trailers.len(), 1);
        Ok(())
    });
    outcome.expect("the same outcome for every split");
    assert_eq!(origin.connections(), 1);
}
