//! Requests of one shard on the HTTP/2 connection of another.

use std::time::Duration;

use crate::support::http2::{
    ACK, CANCEL, END_STREAM, Http2Conn, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, SETTINGS, options,
};
use crate::support::{Client, Proxy, TlsOrigin, eventually};

/// An origin of which one connection is served, by the case; all others stay without a handshake.
struct OneConnection {
    origin: TlsOrigin,
    proxy: Proxy,
    conn: Http2Conn,
}

impl OneConnection {
    /// The connection has served one request.
    #[track_caller]
    fn warm(flags: &[&str]) -> Self {
        let flags = [flags, &["--access-log-format", "json+"]].concat();
        // What a connection costs is what makes waiting for another shard worth it.
        let origin = options().away(Duration::from_millis(400)).scripted();
        let proxy = Proxy::start(&flags);
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/warm", "", b"");
        let conn = Http2Conn::open(origin.accept());
        let mut this = Self { origin, proxy, conn };
        this.answer_next(b"warm");
        assert_eq!(client.read_response().text(), "warm");
        this
    }

    #[track_caller]
    fn answer_next(&mut self, body: &[u8]) {
        let request = self.conn.next_request();
        self.conn.answer(request.stream, body);
    }

    /// How the request with this path got its connection.
    fn got(&self, path: &str) -> String {
        let line = self.proxy.wait_for_access_line(|line| line.get("uri") == path);
        line.get("conn").to_owned()
    }

    /// A client on a shard that has no connection.
    #[track_caller]
    fn client_elsewhere(&mut self) -> Client {
        for number in 0..64 {
            let mut client = Client::connect(&self.proxy);
            let path = format!("/probe-{number}");
            client.request("GET", &self.origin.host(), &path, "", b"");
            self.answer_next(b"");
            client.read_response();
            if self.got(&path) == "lent" {
                return client;
            }
        }
        panic!("64 clients all came to the shard that has the connection");
    }

    /// A client that this shard serves.
    fn client_on(&self, shard: usize) -> Client {
        // Each goes to the shard that has fewest.
        let mut clients = (0..64).map(|_| Client::connect(&self.proxy)).collect::<Vec<_>>();
        let at = clients.iter_mut().position(|client| client.shard() == shard);
        clients.swap_remove(at.expect("a client of each shard"))
    }

    /// A client elsewhere whose GET is at the origin, on this stream.
    #[track_caller]
    fn asked(&mut self) -> (Client, u32) {
        let mut client = self.client_elsewhere();
        client.request("GET", &self.origin.host(), "/asked", "", b"");
        let stream = self.conn.next_request().stream;
        (client, stream)
    }
}

#[test]
fn burst_right_after_the_first_request_goes_on_the_one_connection_from_all_shards() {
    let mut one = OneConnection::warm(&["--cores", "8"]);
    let mut clients: Vec<_> = (0..64).map(|_| Client::connect(&one.proxy)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.request("GET", &one.origin.host(), &format!("/{number}"), "", b"");
    }
    // None of them waits for another's answer.
    let requests: Vec<_> = (0..64).map(|_| one.conn.next_request()).collect();
    for request in requests {
        one.conn.answer(request.stream, request.path().as_bytes());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read_response().text(), format!("/{number}"));
    }
    // One that carries, and one on a second shard for when it goes.
    assert!(one.origin.connections() <= 2, "{} connections", one.origin.connections());
    eventually("all lines", || one.proxy.access_log_lines().len() >= 65);
    let lines = one.proxy.access_log_lines();
    let lent = lines.iter().filter(|line| line.get("conn") == "lent").count();
    assert!((20..=64).contains(&lent), "{lent} of 64 were on other shards");
}

#[test]
fn shard_that_borrows_often_makes_a_connection_of_its_own() {
    // The second connection is for the next shard; a third one only for shards with many requests.
    let mut one = OneConnection::warm(&["--cores", "3"]);
    let mut clients: Vec<_> = (0..24).map(|_| Client::connect(&one.proxy)).collect();
    for round in 0.. {
        for client in &mut clients {
            client.request("GET", &one.origin.host(), "/", "", b"");
        }
        for _ in &clients {
            one.answer_next(b"");
        }
        clients.iter_mut().for_each(|client| drop(client.read_response()));
        if one.origin.connections() == 3 {
            return;
        }
        assert!(round < 200, "{} connections", one.origin.connections());
    }
}

#[test]
fn settings_that_forbid_the_stream_a_shard_was_granted_send_its_request_elsewhere() {
    let mut one = OneConnection::warm(&["--cores", "2"]);
    let mut client = one.client_elsewhere();
    let asker = client.shard();
    let [mut beside, mut near] = [asker, 1 - asker].map(|shard| one.client_on(shard));
    let lender = one.proxy.freeze_shard(1 - asker);
    client.request("GET", &one.origin.host(), "/asked", "", b"");
    // A shard that served another client meanwhile has asked.
    (0..2).for_each(|_| _ = beside.shard());
    let asker = one.proxy.freeze_shard(asker);
    drop(lender);
    // A shard that serves has been through its mailbox: it has granted a place.
    (0..2).for_each(|_| _ = near.shard());
    one.conn.settings(&[(MAX_CONCURRENT_STREAMS, 0)]);
    let is_in_force = |conn: &mut Http2Conn| {
        let frame = conn.read_frame().expect("what SETTINGS are answered with");
        (frame.kind, frame.flags) == (SETTINGS, ACK)
    };
    while !is_in_force(&mut one.conn) {}
    drop(asker);
    let mut other = Http2Conn::open(one.origin.accept());
    let request = other.next_request();
    assert_eq!(request.path(), "/asked");
    other.answer(request.stream, b"served");
    assert_eq!(client.read_response().text(), "served");
}

#[test]
fn bodies_trailers_and_interim_responses_pass_both_ways_between_shards() {
    let mut one = OneConnection::warm(&[]);
    let mut client = one.client_elsewhere();
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n",
        one.origin.host()
    );
    let mut bytes = head.into_bytes();
    for chunk in body.chunks(100_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\nX-Up: 1\r\n\r\n");
    let sending = client.send_aside(bytes);
    let request = one.conn.next_request();
    assert!(request.body == body, "{} bytes came", request.body.len());
    assert_eq!(request.trailers, [("x-up".to_owned(), "1".to_owned())]);
    sending.join().expect("the sender").expect("all is sent");
    one.conn.headers(request.stream, &[(":status", "103"), ("link", "</a>")], 0);
    one.conn.headers(request.stream, &[(":status", "200")], 0);
    assert!(client.read_head().start_line.starts_with("HTTP/1.1 103 "));
    let reading = std::thread::spawn(move || client.read_response());
    one.conn.body(request.stream, &body, 0);
    one.conn.headers(request.stream, &[("x-down", "2")], END_STREAM);
    let response = reading.join().expect("a response");
    assert!(response.body.bytes == body, "{} bytes came", response.body.bytes.len());
    assert_eq!(response.body.trailers, [("x-down".to_owned(), "2".to_owned())]);
    assert_eq!(one.got("/echo"), "lent");
}

#[test]
fn client_elsewhere_that_does_not_read_holds_no_more_than_a_window() {
    let mut one = OneConnection::warm(&[]);
    let (mut slow, stream) = one.asked();
    one.conn.headers(stream, &[(":status", "200")], 0);
    let piece = vec![7; 16 * 1024];
    let mut sent = 0;
    // Until its window stays shut.
    loop {
        if one.conn.room(stream) >= piece.len() {
            one.conn.body(stream, &piece, 0);
            sent += piece.len();
            assert!(sent < 64 << 20, "the window never shuts");
        } else if one.conn.has_bytes() {
            one.conn.read_frame().expect("a frame");
        } else {
            std::thread::sleep(Duration::from_millis(100));
            if !one.conn.has_bytes() {
                break;
            }
        }
    }
    // Another request of that shard is not held up.
    let mut other = one.client_elsewhere();
    other.request("GET", &one.origin.host(), "/other", "", b"");
    one.answer_next(b"other");
    assert_eq!(other.read_response().text(), "other");
    // What the client takes opens it again.
    slow.read_head();
    let reading = std::thread::spawn(move || slow.read_to_end());
    one.conn.body(stream, &vec![7; 1 << 20], END_STREAM);
    sent += 1 << 20;
    one.proxy.wait_for_access_line(|line| line.get("uri") == "/asked");
    drop(one);
    let (body, _) = reading.join().expect("the reader");
    let sevens = body.iter().filter(|byte| **byte == 7).count();
    assert_eq!(sevens, sent);
}

#[test]
fn client_elsewhere_that_leaves_resets_its_stream_alone() {
    let mut one = OneConnection::warm(&[]);
    let (client, stream) = one.asked();
    drop(client);
    assert_eq!(one.conn.wait_reset(stream), CANCEL);
    let mut next = one.client_elsewhere();
    next.request("GET", &one.origin.host(), "/next", "", b"");
    one.answer_next(b"next");
    assert_eq!(next.read_response().text(), "next");
}

#[test]
fn silent_stream_of_another_shard_gets_504_and_is_reset_alone() {
    let mut one = OneConnection::warm(&["--proxy-read-timeout", "500ms"]);
    let (mut client, stream) = one.asked();
    client.read_error(504);
    assert_eq!(one.conn.wait_reset(stream), CANCEL);
}

#[test]
fn body_that_is_reset_elsewhere_looks_cut() {
    let mut one = OneConnection::warm(&[]);
    for length in [Some("100"), None] {
        let (mut client, stream) = one.asked();
        let fields = [Some((":status", "200")), length.map(|n| ("content-length", n))];
        let fields: Vec<_> = fields.into_iter().flatten().collect();
        one.conn.headers(stream, &fields, 0);
        one.conn.body(stream, b"begun", 0);
        client.read_until(b"begun");
        one.conn.reset(stream, INTERNAL_ERROR);
        let (rest, _) = client.read_to_end();
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn connection_lost_under_another_shards_requests_repeats_a_get_and_never_a_post() {
    let mut one = OneConnection::warm(&["--tls-timeout", "60s", "--connect-timeout", "60s"]);
    let (mut get, mut post) = (one.client_elsewhere(), one.client_elsewhere());
    get.request("GET", &one.origin.host(), "/get", "", b"");
    assert_eq!(one.conn.next_request().path(), "/get");
    post.request("POST", &one.origin.host(), "/post", "", b"x=1");
    assert_eq!(one.conn.next_request().path(), "/post");
    let OneConnection { origin, proxy, conn } = one;
    drop(conn);
    post.read_error(502);
    // Those that were dialled meanwhile carry it now.
    let mut next = Http2Conn::open(origin.accept());
    let again = next.next_request();
    assert_eq!(again.path(), "/get");
    next.answer(again.stream, b"again");
    assert_eq!(get.read_response().text(), "again");
    drop(proxy);
    while let Some(request) = next.try_next_request() {
        assert_ne!(request.path(), "/post");
    }
}

#[test]
fn request_that_the_origin_left_undone_goes_again_from_another_shard_whatever_its_method() {
    let mut one = OneConnection::warm(&["--tls-timeout", "60s", "--connect-timeout", "60s"]);
    let mut post = one.client_elsewhere();
    post.request("POST", &one.origin.host(), "/post", "", b"x=1");
    let refused = one.conn.next_request();
    // Looked at none of them.
    one.conn.goaway(refused.stream - 2, 0);
    let mut next = Http2Conn::open(one.origin.accept());
    let again = next.next_request();
    assert_eq!((again.path(), again.body.as_slice()), ("/post", &b"x=1"[..]));
    next.answer(again.stream, b"done");
    assert_eq!(post.read_response().text(), "done");
}
