//! Flow control, deadlines and ends of single streams: what one request does leaves the others alone.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::http2::{
    ACK, CANCEL, END_STREAM, Http2Conn, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, PING, SETTINGS,
    options, serving,
};
use crate::support::{Client, Ended, Proxy, TlsOrigin, eventually, pattern};

/// A client and its stream at a scripted origin; the request has come whole.
fn asked(flags: &[&str]) -> (TlsOrigin, Proxy, Client, Http2Conn, u32) {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(flags));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    (origin, proxy, client, conn, stream)
}

/// The connection still carries requests.
#[track_caller]
fn expect_usable(origin: &TlsOrigin, proxy: &Proxy, conn: &mut Http2Conn) {
    let mut client = Client::connect(proxy);
    client.request("GET", &origin.host(), "/usable", "", b"");
    let request = conn.next_request();
    conn.answer(request.stream, b"alive");
    assert_eq!(client.read_response().text(), "alive");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn reset_within_a_chunked_body_looks_cut() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&[]);
    conn.headers(stream, &[(":status", "200")], 0);
    conn.body(stream, b"half", 0);
    client.read_head();
    assert_eq!(client.read_exact(9), b"4\r\nhalf\r\n");
    conn.reset(stream, INTERNAL_ERROR);
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty(), "no last chunk: {rest:?}");
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn reset_within_a_body_of_known_length_looks_cut() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&[]);
    conn.headers(stream, &[(":status", "200"), ("content-length", "10")], 0);
    conn.body(stream, b"half", 0);
    client.read_head();
    client.read_exact(4);
    conn.reset(stream, INTERNAL_ERROR);
    let (rest, ended) = client.read_to_end();
    assert_eq!((rest.as_slice(), ended), (&b""[..], Ended::Reset));
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn body_shorter_or_longer_than_its_length_is_never_taken_for_whole() {
    for body in ["short", "much too long"] {
        let (_origin, _proxy, mut client, mut conn, stream) = asked(&[]);
        conn.headers(stream, &[(":status", "200"), ("content-length", "8")], 0);
        conn.body(stream, body.as_bytes(), END_STREAM);
        match client.read_whatever_comes() {
            Ok(response) if response.status == 200 => {
                assert_ne!(response.body.ended, Ended::Complete, "{body}");
                assert!(body.starts_with(&response.text()));
            }
            Ok(response) => assert_eq!(response.status, 502, "{body}"),
            Err(ended) => panic!("{ended:?} without an answer to {body}"),
        }
    }
}

#[test]
fn head_that_promises_a_body_and_ends_gets_502() {
    let (_origin, _proxy, mut client, mut conn, stream) = asked(&[]);
    conn.headers(stream, &[(":status", "200"), ("content-length", "8")], END_STREAM);
    client.read_error(502);
}

#[test]
fn lost_connection_cuts_every_body_on_it() {
    let origin = options().scripted();
    let proxy = Proxy::one_shard(&[]);
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.request("GET", &origin.host(), "/", "", b"");
    }
    let mut conn = Http2Conn::open(origin.accept());
    for _ in 0..5 {
        let stream = conn.next_request().stream;
        conn.headers(stream, &[(":status", "200"), ("content-length", "9")], 0);
        conn.body(stream, b"half", 0);
    }
    for client in &mut clients {
        client.read_head();
        client.read_exact(4);
    }
    conn.into_raw().reset();
    for client in &mut clients {
        assert_eq!(client.expect_closed(), Ended::Reset);
    }
}

#[test]
fn silent_stream_gets_504_and_is_reset_alone() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&["--proxy-read-timeout", "300ms"]);
    client.read_error(504);
    assert_eq!(conn.wait_reset(stream), CANCEL);
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn stalled_body_is_cut_by_its_deadline_and_reset_alone() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&["--write-timeout", "400ms"]);
    conn.headers(stream, &[(":status", "200"), ("content-length", "9")], 0);
    conn.body(stream, b"half", 0);
    client.read_head();
    client.read_exact(4);
    // Five bytes are missing, however it ends.
    client.expect_closed();
    assert_eq!(conn.wait_reset(stream), CANCEL);
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn client_that_leaves_resets_its_stream_alone() {
    let (origin, proxy, client, mut conn, stream) = asked(&[]);
    client.reset();
    assert_eq!(conn.wait_reset(stream), CANCEL);
    let line = proxy.wait_for_access_line(|line| line.get("status") == "499");
    assert_eq!(line.get("uri"), "/");
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn client_that_cuts_its_body_resets_its_stream() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    client.send("half");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_head().stream;
    drop(client);
    assert_eq!(conn.wait_reset(stream), CANCEL);
    assert!(!conn.requests[&stream].ended, "the body looks whole");
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn malformed_request_body_resets_its_stream() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Transfer-Encoding: chunked\r\n", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_head().stream;
    client.send("5\r\nhelloXX");
    client.expect_refusal(400);
    assert_eq!(conn.wait_reset(stream), CANCEL);
    assert!(!conn.requests[&stream].ended, "the body looks whole");
    expect_usable(&origin, &proxy, &mut conn);
}

#[test]
fn slow_clients_hold_up_no_other_stream() {
    let body = pattern(8 * 1024 * 1024);
    let length = body.len().to_string();
    let sent = body.clone();
    // Answers as far as the windows go, all streams in turn.
    let origin = options().start(move |mut conn| {
        conn.set_deadline(Duration::from_secs(60));
        let mut conn = Http2Conn::open(conn);
        let mut left: Vec<(u32, usize)> = Vec::new();
        loop {
            let mut moved = false;
            for (stream, at) in &mut left {
                let end = sent.len().min(*at + 16_384);
                if *at < end && conn.room(*stream) >= end - *at {
                    let flags = if end == sent.len() { END_STREAM } else { 0 };
                    conn.body(*stream, &sent[*at..end], flags);
                    *at = end;
                    moved = true;
                }
            }
            if conn.has_bytes() || !moved {
                let Some(_) = conn.read_frame() else { return };
                while let Some(stream) = conn.take_ended() {
                    conn.headers(stream, &[(":status", "200"), ("content-length", &length)], 0);
                    left.push((stream, 0));
                }
            }
        }
    });
    let proxy = Proxy::one_shard(&["--access-log-dir", "none"]);
    let ask = || {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        client
    };
    let slow: Vec<_> = (0..12).map(|_| ask()).collect();
    thread::sleep(Duration::from_millis(500));
    let mut fast = ask();
    let response = fast.read_response();
    assert!(response.body.bytes == body, "another body came");
    assert_eq!(origin.connections(), 1);
    drop(slow);
}

#[test]
fn origin_that_takes_nothing_more_makes_the_client_wait_in_bounded_memory() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&["--write-timeout", "3s"]));
    let client = Client::connect(&proxy);
    let size = 64 * 1024 * 1024;
    let mut message =
        format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n", origin.host())
            .into_bytes();
    message.resize(message.len() + size, b'x');
    let sending = client.send_aside(message);
    let mut conn = Http2Conn::open_with(origin.accept(), &[(INITIAL_WINDOW_SIZE, 100_000)]);
    conn.is_mute = true;
    let stream = conn.next_head().stream;
    // The connection's window is the smaller one.
    while conn.requests[&stream].body.len() < 65_535 {
        conn.read_frame().expect("the body");
    }
    let before = proxy.resident_kib();
    thread::sleep(Duration::from_millis(500));
    assert!(proxy.resident_kib() < before + 4096, "the body is piled up");
    assert_eq!(conn.wait_reset(stream), CANCEL);
    assert_eq!(conn.requests[&stream].body.len(), 65_535);
    drop(client);
    assert!(sending.join().expect("the sender").is_err());
}

#[test]
fn window_that_opens_byte_by_byte_carries_the_whole_body() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "", b"hello world");
    let mut conn = Http2Conn::open_with(origin.accept(), &[(INITIAL_WINDOW_SIZE, 0)]);
    conn.is_mute = true;
    let stream = conn.next_head().stream;
    // What left before the settings came counts against the window.
    conn.raw().set_deadline(Duration::from_secs(5));
    for _ in 0..30 {
        if conn.requests[&stream].ended {
            break;
        }
        conn.send_frame(8, 0, stream, &1u32.to_be_bytes());
        conn.send_frame(6, 0, 0, b"pingpong");
        while conn.read_frame().expect("a pong").kind != 6 {}
    }
    assert_eq!(conn.requests[&stream].body, b"hello world");
    conn.answer(stream, b"ok");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn end_that_comes_later_than_the_last_byte_resets_nothing() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&[]);
    conn.headers(stream, &[(":status", "200"), ("content-length", "2")], 0);
    conn.body(stream, b"ok", 0);
    assert_eq!(client.read_response().text(), "ok", "the client does not wait for the end");
    thread::sleep(Duration::from_millis(200));
    conn.send_frame(0, END_STREAM, stream, b"");
    expect_usable(&origin, &proxy, &mut conn);
    assert_eq!(conn.requests[&stream].reset, None);
}

#[test]
fn origin_that_is_gone_without_a_word_is_found_by_ping() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&[]);
    conn.answer(stream, b"ok");
    client.read_response();
    conn.is_mute = true;
    let begun = Instant::now();
    // The silence, and the time that the sign of life may take.
    client.set_deadline(Duration::from_secs(30));
    client.request("GET", &origin.host(), "/again", "", b"");
    let mut next = Http2Conn::open(origin.accept_within(Duration::from_secs(25)));
    let request = next.next_request();
    assert_eq!(request.path(), "/again");
    next.answer(request.stream, b"again");
    assert_eq!(client.read_response().text(), "again");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(14) && took < Duration::from_secs(19), "{took:?}");
    conn.wait_closed();
    assert!(conn.pings > 0);
    drop(proxy);
}

#[test]
fn slow_origin_that_answers_pings_is_left_alone() {
    let (origin, proxy, mut client, mut conn, stream) = asked(&[]);
    let until = Instant::now() + Duration::from_secs(12);
    conn.raw().set_deadline(Duration::from_secs(13));
    while conn.pings == 0 {
        conn.read_frame().expect("a PING");
    }
    thread::sleep(until.saturating_duration_since(Instant::now()));
    conn.answer(stream, b"late");
    client.set_deadline(Duration::from_secs(5));
    assert_eq!(client.read_response().text(), "late");
    expect_usable(&origin, &proxy, &mut conn);
    assert_eq!(conn.pings, 1, "the next one comes later");
}

#[test]
fn descriptors_come_back_when_connections_end() {
    let origin = serving(|conn, request| {
        conn.answer(request.stream, b"ok");
        conn.goaway(request.stream, 0);
    });
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..50 {
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    drop(client);
    eventually("the descriptors to be given back", || proxy.open_descriptors() < 60);
}

#[test]
fn window_grows_where_a_round_trip_brings_most_of_it() {
    const MIB: u32 = 1 << 20;
    let (_origin, _proxy, mut client, mut conn, stream) = asked(&[]);
    let reader = thread::spawn(move || client.read_whatever_comes());
    conn.headers(stream, &[(":status", "200")], 0);
    conn.is_mute = true;
    let piece = vec![0; 64 * 1024];
    // Sends as the windows allow, until a PING comes or so much is sent.
    let flow = |conn: &mut Http2Conn, most: usize| {
        let mut sent = 0;
        while sent < most {
            if conn.room(stream) >= piece.len() && !conn.has_bytes() {
                conn.body(stream, &piece, 0);
                sent += piece.len();
                continue;
            }
            let frame = conn.read_frame().expect("a window instead of the connection's end");
            if frame.kind == PING && frame.flags & ACK == 0 {
                return Some(frame.payload);
            }
        }
        None
    };
    let ping = flow(&mut conn, 1 << 30).expect("a measurement while data flows");
    // The answer is as late as over a long path.
    assert_eq!(flow(&mut conn, 3 << 20), None, "one measurement at a time");
    conn.send_frame(PING, ACK, 0, &ping);
    let grown = loop {
        let frame = conn.read_frame().expect("SETTINGS instead of the connection's end");
        let setting = frame.payload.strip_prefix(&INITIAL_WINDOW_SIZE.to_be_bytes()[..]);
        if frame.kind == SETTINGS
            && let Some(&[a, b, c, d]) = setting
        {
            break u32::from_be_bytes([a, b, c, d]);
        }
    };
    assert_eq!(grown, 8 * MIB);
    drop(conn);
    assert!(reader.join().is_ok());
}
