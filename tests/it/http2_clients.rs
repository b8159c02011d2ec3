//! What clients and origins may do at any moment of a request over HTTP/2, on the client's shard and on another one: they
//! leave, are slow, answer early, give up. Each ends its own stream alone, and looks to the other side like what it is.

use std::time::Duration;

use crate::support::http2::{
    CANCEL, DATA, END_STREAM, Http2Conn, INITIAL_WINDOW_SIZE, INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS, NO_ERROR, REFUSED_STREAM, options,
};
use crate::support::{Client, Proxy, TlsOrigin};

/// A proxy and the one connection that all its requests go on.
struct Stage {
    origin: TlsOrigin,
    proxy: Proxy,
    conn: Http2Conn,
    /// The shard whose clients the case takes.
    shard: usize,
}

impl Stage {
    /// On one shard, or with clients on the other shard than the connection's.
    #[track_caller]
    fn set(is_borrowed: bool, flags: &[&str]) -> Self {
        // The second connection, which is for a sibling, must not be there before the case is over.
        let away = Duration::from_millis(if is_borrowed { 400 } else { 0 });
        let flags = [flags, &["--access-log-dir", "none", "--tls-timeout", "60s"]].concat();
        let origin = options().away(away).scripted();
        let proxy = if is_borrowed { Proxy::start(&flags) } else { Proxy::one_shard(&flags) };
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/warm", "", b"");
        let mut conn = Http2Conn::open(origin.accept());
        let request = conn.next_request();
        conn.answer(request.stream, b"warm");
        let own = client.read_response().shard();
        Self { origin, proxy, conn, shard: if is_borrowed { 1 - own } else { own } }
    }

    /// A client on the shard that the case is about.
    #[track_caller]
    fn client(&self) -> Client {
        // Kept meanwhile: a client goes to the shard that has fewest.
        let mut others = Vec::new();
        for _ in 0..64 {
            let mut client = Client::connect(&self.proxy);
            if client.shard() == self.shard {
                return client;
            }
            others.push(client);
        }
        panic!("64 clients all came to another shard");
    }

    /// A client that has sent this, and its stream at the origin.
    #[track_caller]
    fn asked(&mut self, request: &str) -> (Client, u32) {
        let mut client = self.client();
        client.send(request.replace("ORIGIN", &self.origin.host()));
        let stream = self.conn.next_head().stream;
        (client, stream)
    }

    /// The connection still carries requests of such clients.
    #[track_caller]
    fn expect_usable(&mut self) {
        let (mut client, stream) = self.asked("GET /usable HTTP/1.1\r\nHost: ORIGIN\r\n\r\n");
        self.conn.answer(stream, b"alive");
        assert_eq!(client.read_response().text(), "alive");
        assert_eq!(self.conn.goaway, None);
    }

    /// A client that waits for an answer.
    #[track_caller]
    fn waiting(&mut self) -> (Client, u32) {
        self.asked("GET /waiting HTTP/1.1\r\nHost: ORIGIN\r\n\r\n")
    }

    /// A client that has sent a part of its body, which is at the origin.
    #[track_caller]
    fn uploading(&mut self) -> (Client, u32) {
        let (mut client, stream) =
            self.asked("POST /up HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 10\r\n\r\n");
        client.send("half");
        while self.conn.requests[&stream].body != b"half" {
            self.conn.read_frame().expect("the body");
        }
        (client, stream)
    }
}

/// Runs a case on the client's own shard and on another one.
fn on_both(flags: &[&str], case: impl Fn(&mut Stage)) {
    for is_borrowed in [false, true] {
        eprintln!("{}", if is_borrowed { "borrowed" } else { "own" });
        case(&mut Stage::set(is_borrowed, flags));
    }
}

#[test]
fn client_that_leaves_at_any_moment_cancels_its_stream_alone() {
    on_both(&[], |stage| {
        for reset in [false, true] {
            let leave = |client: Client| if reset { client.reset() } else { drop(client) };
            // Before an answer.
            let (client, stream) = stage.waiting();
            leave(client);
            assert_eq!(stage.conn.wait_reset(stream), CANCEL, "while it waits");
            // In its own body.
            let (client, stream) = stage.uploading();
            leave(client);
            assert_eq!(stage.conn.wait_reset(stream), CANCEL, "in its body");
            assert!(!stage.conn.requests[&stream].ended, "the body looks whole");
            // In its own body, with an answer begun.
            let (mut client, stream) = stage.uploading();
            stage.conn.headers(stream, &[(":status", "200")], 0);
            stage.conn.body(stream, b"early", 0);
            client.read_until(b"early");
            leave(client);
            assert_eq!(stage.conn.wait_reset(stream), CANCEL, "in both bodies");
            assert!(!stage.conn.requests[&stream].ended, "the body looks whole");
            // After an interim head.
            let (mut client, stream) = stage.waiting();
            stage.conn.headers(stream, &[(":status", "103")], 0);
            client.read_head();
            leave(client);
            assert_eq!(stage.conn.wait_reset(stream), CANCEL, "after an interim head");
            // In the answer's body, which goes on.
            let (mut client, stream) = stage.waiting();
            stage.conn.headers(stream, &[(":status", "200")], 0);
            stage.conn.body(stream, b"begun", 0);
            client.read_until(b"begun");
            leave(client);
            while stage.conn.requests[&stream].reset.is_none() {
                if stage.conn.has_bytes() {
                    stage.conn.read_frame().expect("a reset instead of the connection's end");
                } else {
                    stage.conn.body(stream, &[b'x'; 1000], 0);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            stage.expect_usable();
        }
    });
}

#[test]
fn window_of_answers_that_nobody_wants_any_more_comes_back() {
    on_both(&[], |stage| {
        // More than the connection's window of 16 MiB, a stream after the other.
        for _ in 0..30 {
            let (client, stream) = stage.waiting();
            stage.conn.headers(stream, &[(":status", "200")], 0);
            let piece = [b'x'; 16_000];
            while stage.conn.room(stream) < 1 << 20 {
                stage.conn.read_frame().expect("a window instead of the connection's end");
            }
            client.reset();
            // On its way before the origin learns of it.
            for _ in 0..60 {
                stage.conn.spend(stream, piece.len());
                stage.conn.send_frame(DATA, 0, stream, &piece);
            }
            assert_eq!(stage.conn.wait_reset(stream), CANCEL);
        }
        stage.expect_usable();
    });
}

/// RFC 9113 §8.1: an origin that has answered need not read the rest; the answer must not be thrown away.
#[test]
fn whole_answer_before_a_reset_without_error_reaches_the_client() {
    on_both(&[], |stage| {
        for (length, trailers) in [(Some("5"), false), (None, false), (None, true)] {
            let (mut client, stream) = stage.uploading();
            let fields = [Some((":status", "413")), length.map(|n| ("content-length", n))];
            let fields: Vec<_> = fields.into_iter().flatten().collect();
            stage.conn.headers(stream, &fields, 0);
            stage.conn.body(stream, b"early", if trailers { 0 } else { END_STREAM });
            if trailers {
                stage.conn.headers(stream, &[("x-sum", "1")], END_STREAM);
            }
            stage.conn.reset(stream, NO_ERROR);
            let response = client.read_response();
            assert_eq!((response.status, response.text().as_str()), (413, "early"));
            assert_eq!(response.body.trailers.len(), usize::from(trailers));
            assert!(response.closes(), "the rest of the request is not read");
            stage.expect_usable();
        }
    });
}

#[test]
fn reset_within_an_upload_gets_502_or_cuts_and_the_upload_is_not_repeated() {
    on_both(&[], |stage| {
        for reason in [NO_ERROR, INTERNAL_ERROR, CANCEL, REFUSED_STREAM] {
            let (mut client, stream) = stage.uploading();
            stage.conn.reset(stream, reason);
            client.read_error(502);
            let (mut client, stream) = stage.uploading();
            stage.conn.headers(stream, &[(":status", "200")], 0);
            stage.conn.body(stream, b"begun", 0);
            client.read_until(b"begun\r\n");
            stage.conn.reset(stream, reason);
            assert!(client.read_to_end().0.is_empty(), "no last chunk");
            // Were one of them repeated, it would come first.
            stage.expect_usable();
        }
    });
}

#[test]
fn early_answer_ends_where_the_client_sends_its_body_slowly() {
    on_both(&[], |stage| {
        let (mut client, stream) = stage.uploading();
        stage.conn.headers(stream, &[(":status", "200"), ("content-length", "5")], 0);
        stage.conn.body(stream, b"early", END_STREAM);
        assert_eq!(client.read_response().text(), "early");
        // The rest is not wanted any more, and the origin is told.
        assert_eq!(stage.conn.wait_reset(stream), CANCEL);
        stage.expect_usable();
    });
}

#[test]
fn upload_goes_on_where_windows_shrink_below_zero_and_open_again() {
    on_both(&[], |stage| {
        let body = crate::support::pattern(300_000);
        let (client, stream) =
            stage.asked("POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 300000\r\n\r\n");
        stage.conn.is_mute = true;
        let sending = client.send_aside(body.clone());
        while stage.conn.requests[&stream].body.len() < 65_535 {
            stage.conn.read_frame().expect("the body");
        }
        // RFC 9113 §6.9.2: 65,535 bytes were sent, now none may be.
        stage.conn.settings(&[(INITIAL_WINDOW_SIZE, 0)]);
        stage.conn.send_frame(8, 0, 0, &300_000u32.to_be_bytes());
        stage.conn.send_frame(8, 0, stream, &65_536u32.to_be_bytes());
        while stage.conn.requests[&stream].body.len() < 65_536 {
            stage.conn.read_frame().expect("one byte more");
        }
        stage.conn.raw().expect_silence(Duration::from_millis(100));
        stage.conn.settings(&[(INITIAL_WINDOW_SIZE, 300_000)]);
        while !stage.conn.requests[&stream].ended {
            stage.conn.read_frame().expect("the body");
        }
        assert!(stage.conn.requests[&stream].body == body, "another body came");
        sending.join().expect("the sender").expect("all is sent");
        stage.conn.settings(&[(INITIAL_WINDOW_SIZE, 65_535)]);
        stage.conn.answer(stream, b"ok");
        drop(client);
    });
}

#[test]
fn expectation_that_is_refused_gets_its_answer_and_no_body_is_sent() {
    on_both(&[], |stage| {
        let (mut client, stream) = stage.asked(
            "POST / HTTP/1.1\r\nHost: ORIGIN\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        );
        stage.conn.headers(stream, &[(":status", "417"), ("content-length", "0")], END_STREAM);
        let response = client.read_response();
        assert_eq!(response.status, 417);
        assert!(response.closes(), "whether the body comes is not known");
        assert_eq!(stage.conn.wait_reset(stream), CANCEL);
        assert!(stage.conn.requests[&stream].body.is_empty());
        stage.expect_usable();
    });
}

#[test]
fn client_that_wants_to_close_is_closed_and_the_origin_connection_stays() {
    on_both(&[], |stage| {
        for head in [
            "GET / HTTP/1.1\r\nHost: ORIGIN\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: ORIGIN\r\n\r\n",
        ] {
            let (mut client, stream) = stage.asked(head);
            stage.conn.answer(stream, b"last");
            let response = client.read_response();
            assert!(response.closes());
            assert_eq!(response.text(), "last");
            client.expect_closed();
            stage.expect_usable();
        }
        let head = "GET / HTTP/1.0\r\nHost: ORIGIN\r\nConnection: keep-alive\r\n\r\n";
        let (mut client, stream) = stage.asked(head);
        stage.conn.answer(stream, b"first");
        let response = client.read_response();
        assert_eq!(response.field("connection"), Some("keep-alive"));
        client.send(head.replace("ORIGIN", &stage.origin.host()));
        let stream = stage.conn.next_head().stream;
        // Without a length it ends with the connection.
        stage.conn.headers(stream, &[(":status", "200")], 0);
        stage.conn.body(stream, b"second", END_STREAM);
        let response = client.read_response();
        assert!(response.closes() && response.text() == "second", "{response:?}");
    });
}

#[test]
fn body_for_http_1_0_that_is_reset_looks_cut() {
    on_both(&[], |stage| {
        let (mut client, stream) = stage.asked("GET / HTTP/1.0\r\nHost: ORIGIN\r\n\r\n");
        stage.conn.headers(stream, &[(":status", "200")], 0);
        stage.conn.body(stream, b"begun", 0);
        client.read_until(b"begun");
        stage.conn.reset(stream, INTERNAL_ERROR);
        assert_eq!(client.expect_closed(), crate::support::Ended::Reset);
        stage.expect_usable();
    });
}

#[test]
fn asterisk_goes_as_it_is() {
    on_both(&[], |stage| {
        let (mut client, stream) = stage.asked("OPTIONS * HTTP/1.1\r\nHost: ORIGIN\r\n\r\n");
        assert_eq!(stage.conn.requests[&stream].path(), "*");
        stage.conn.answer(stream, b"");
        client.read_response();
    });
}

#[test]
fn origin_that_takes_no_request_at_all_gets_no_pile_of_connections() {
    let origin = options().start(|conn| {
        let Some(mut conn) = Http2Conn::try_open_with(conn, &[(MAX_CONCURRENT_STREAMS, 0)]) else {
            return;
        };
        while let Some(request) = conn.try_next_request() {
            conn.reset(request.stream, REFUSED_STREAM);
        }
    });
    let proxy = Proxy::one_shard(&[
        "--access-log-dir",
        "none",
        "--connect-timeout",
        "150ms",
        "--tls-timeout",
        "150ms",
    ]);
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(&proxy)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            client.request("GET", &origin.host(), "/", "", b"");
        }
        for client in &mut clients {
            let status = client.read_response().status;
            assert!((502..=504).contains(&status), "{status}");
        }
    }
    let connections = origin.connections();
    assert!(connections <= 16, "{connections} connections for nothing");
    Client::connect(&proxy).expect_usable();
}

/// Only a build with assertions can be told to panic.
#[cfg(debug_assertions)]
#[test]
fn panic_in_the_driver_reaches_another_shards_clients_as_a_cut_or_an_error() {
    let origin = options().away(Duration::from_millis(400)).scripted();
    let options = Proxy::options(&["--tls-timeout", "60s"]);
    let mut proxy = options.env("CHOCON_URING_HTTP2_PANIC_AT", "100000").start();
    let mut first = Client::connect(&proxy);
    first.request("GET", &origin.host(), "/warm", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let request = conn.next_request();
    conn.answer(request.stream, b"warm");
    let own = first.read_response().shard();
    let mut elsewhere: Vec<_> = (0..16).map(|_| Client::connect(&proxy)).collect();
    elsewhere.retain_mut(|client| client.shard() != own);
    let [mut cut, mut post, mut get] = [(); 3].map(|()| elsewhere.pop().expect("a client"));
    cut.request("GET", &origin.host(), "/cut", "", b"");
    let stream = conn.next_request().stream;
    conn.headers(stream, &[(":status", "200"), ("content-length", "200000")], 0);
    conn.body(stream, b"begun", 0);
    cut.read_until(b"begun");
    post.request("POST", &origin.host(), "/post", "", b"x=1");
    assert_eq!(conn.next_request().path(), "/post");
    get.request("GET", &origin.host(), "/get", "", b"");
    assert_eq!(conn.next_request().path(), "/get");
    conn.body(stream, &[b'x'; 150_000], 0);
    proxy.expect_panic();
    assert!(cut.read_to_end().0.len() < 200_000 - "begun".len());
    post.read_error(502);
    let mut next = Http2Conn::open(origin.accept());
    let again = next.next_request();
    assert_eq!(again.path(), "/get", "and no POST");
    next.answer(again.stream, b"again");
    assert_eq!(get.read_response().text(), "again");
}
