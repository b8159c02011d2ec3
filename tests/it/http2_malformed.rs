//! Answers and frames that break the rules of HTTP/2 (RFC 9113): who suffers, and that it ends there. Beside each of them
//! another response is half way on the same connection, and the request that gets it is a POST, which goes out once.

use crate::support::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, GOAWAY, HEADERS,
    Http2Conn, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, NO_ERROR, PADDED, PING, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, options,
};
use crate::support::{Client, Ended, Proxy, TlsOrigin};

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// An error of the proxy's own.
    Error(u16),
    /// A head, and a body that shows that it was cut.
    Cut,
    Whole(String),
}

/// An origin and a proxy that all rows of a table use, one after the other.
struct Table {
    origin: TlsOrigin,
    proxy: Proxy,
    /// The connection, if the last row left it alive.
    conn: Option<Http2Conn>,
}

impl Table {
    #[track_caller]
    fn start() -> Self {
        let (origin, proxy) = (options().scripted(), Proxy::one_shard(&["--access-log-dir=none"]));
        Self { origin, proxy, conn: None }
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str) -> Client {
        let mut client = Client::connect(&self.proxy);
        client.request(method, &self.origin.host(), path, "", b"");
        client
    }

    /// The next request, which must be this one, on the connection that is there or on the next one.
    #[track_caller]
    fn take(&mut self, path: &str) -> (Http2Conn, u32) {
        let conn = self.conn.take();
        let mut conn = conn.unwrap_or_else(|| Http2Conn::open(self.origin.accept()));
        let request = conn.next_request();
        assert_eq!(request.path(), path, "the next request");
        (conn, request.stream)
    }

    /// Sends `misbehave`'s frames in answer to a POST. Returns what its client got.
    ///
    /// `Bystander::Lives`: the response beside it comes whole, on the same connection. `IsCut`: the connection ends, and
    /// that response with it. In both cases the POST is not repeated, and the shard serves on.
    #[track_caller]
    fn row(
        &mut self,
        what: &str,
        bystander: Bystander,
        misbehave: impl FnOnce(&mut Http2Conn, u32),
    ) -> Outcome {
        // Shown where the row fails, whichever line of it.
        eprintln!("{what}");
        let mut beside = self.ask("GET", "/beside");
        let (mut conn, half_way) = self.take("/beside");
        conn.headers(half_way, &[(":status", "200"), ("content-length", "8")], 0);
        conn.body(half_way, b"half", 0);
        beside.read_head();
        assert_eq!(beside.read_exact(4), b"half");
        let mut victim = self.ask("POST", "/victim");
        self.conn = Some(conn);
        let (mut conn, stream) = self.take("/victim");
        misbehave(&mut conn, stream);
        let outcome = outcome_of(&mut victim);
        let connections = self.origin.connections();
        match bystander {
            Bystander::Lives => {
                conn.body(half_way, b"half", END_STREAM);
                assert_eq!(beside.read_exact(4), b"half", "{what}");
                self.conn = Some(conn);
            }
            Bystander::IsCut => {
                let ended = beside.expect_closed();
                assert_eq!(ended, Ended::Reset, "{what}: the response beside it");
                conn.wait_closed();
            }
        }
        // Were the POST repeated, it would come before this.
        let mut after = self.ask("GET", "/after");
        let (mut conn, stream) = self.take("/after");
        if bystander == Bystander::Lives {
            assert_eq!(self.origin.connections(), connections, "{what}: another connection");
        }
        conn.answer(stream, b"after");
        assert_eq!(after.read_response().text(), "after", "{what}");
        self.conn = Some(conn);
        outcome
    }

    /// As [`Table::row`]; the stream alone suffers.
    #[track_caller]
    fn ends_the_stream(
        &mut self,
        what: &str,
        expected: Outcome,
        misbehave: impl FnOnce(&mut Http2Conn, u32),
    ) {
        assert_eq!(self.row(what, Bystander::Lives, misbehave), expected, "{what}");
    }

    /// As [`Table::row`]; the connection ends with its GOAWAY.
    #[track_caller]
    fn ends_the_connection(&mut self, what: &str, misbehave: impl FnOnce(&mut Http2Conn, u32)) {
        let outcome = self.row(what, Bystander::IsCut, misbehave);
        assert_eq!(outcome, Outcome::Error(502), "{what}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bystander {
    Lives,
    IsCut,
}

#[track_caller]
fn outcome_of(client: &mut Client) -> Outcome {
    let response = loop {
        let response = client.read_whatever_comes();
        let response = response.unwrap_or_else(|end| panic!("{end:?} instead of an answer"));
        if response.status >= 200 {
            break response;
        }
    };
    match (response.status, response.body.ended) {
        (200, Ended::Complete) => Outcome::Whole(response.text()),
        (200, _) => Outcome::Cut,
        (status, _) => {
            assert!(response.text().is_empty() && response.has("x-chocon-id"), "{response:?}");
            Outcome::Error(status)
        }
    }
}

/// Field lists of a final response that ends with its head.
#[track_caller]
fn heads_get_502(bystander: Bystander, heads: &[&[(&str, &str)]]) {
    let mut table = Table::start();
    for fields in heads {
        let what = format!("{fields:?}");
        let outcome = table.row(&what, bystander, |conn, stream| {
            conn.headers(stream, fields, END_STREAM);
        });
        assert_eq!(outcome, Outcome::Error(502), "{what}");
    }
}

#[test]
fn status_that_is_none_gets_502() {
    let statuses =
        ["099", "1000", "abc", "", "20", "+200", "2e2", "200 OK", "200\r\nx: y", "\u{b2}00"];
    let heads: Vec<_> = statuses.iter().map(|status| [(":status", *status)]).collect();
    let heads: Vec<&[_]> = heads.iter().map(|head| &head[..]).collect();
    // The library takes it for a head that cannot be decoded (RFC 9113 §4.3), which ends the connection.
    heads_get_502(Bystander::IsCut, &heads);
}

#[test]
fn pseudo_fields_late_twice_or_unknown_get_502() {
    heads_get_502(
        Bystander::Lives,
        &[
            &[("x-a", "1")],
            &[("x-a", "1"), (":status", "200")],
            &[(":status", "200"), (":status", "404")],
        ],
    );
    // As with a status that is none.
    heads_get_502(Bystander::IsCut, &[&[(":status", "200"), (":evil", "1")]]);
}

#[test]
fn fields_of_http_1_1_connections_get_502() {
    let names =
        ["connection", "transfer-encoding", "keep-alive", "proxy-connection", "upgrade", "te"];
    let heads: Vec<_> = names.iter().map(|name| [(":status", "200"), (*name, "x")]).collect();
    let heads: Vec<&[_]> = heads.iter().map(|head| &head[..]).collect();
    heads_get_502(Bystander::Lives, &heads);
}

#[test]
fn lengths_that_are_none_or_contradict_get_502() {
    let lengths = ["-1", "+0", "0x0", "", "0,1", "0 1", "99999999999999999999", "\u{b2}"];
    let heads = lengths.map(|length| [(":status", "200"), ("content-length", length)]);
    let heads: Vec<&[_]> = heads.iter().map(|head| &head[..]).collect();
    heads_get_502(Bystander::Lives, &heads);
    let twice = &[(":status", "200"), ("content-length", "0"), ("content-length", "1")];
    heads_get_502(Bystander::Lives, &[twice]);
}

#[test]
fn length_that_is_said_twice_alike_stands_once() {
    let mut table = Table::start();
    let mut client = table.ask("GET", "/");
    let (mut conn, stream) = table.take("/");
    let fields = [(":status", "200"), ("content-length", "2"), ("content-length", "2")];
    conn.headers(stream, &fields, 0);
    conn.body(stream, b"ok", END_STREAM);
    // The reader of this fixture takes one length only.
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn frames_in_the_wrong_order_end_their_stream_or_the_connection_as_errors() {
    let ok = block(&[(":status", "200")]);
    let mut table = Table::start();
    table.ends_the_connection("DATA before HEADERS", |conn, stream| {
        conn.send_frame(DATA, END_STREAM, stream, b"EVIL");
    });
    table.ends_the_stream("an interim head that ends", Outcome::Error(502), |conn, stream| {
        conn.headers(stream, &[(":status", "103")], END_STREAM);
    });
    table.ends_the_stream("a second head that does not end", Outcome::Cut, |conn, stream| {
        conn.headers(stream, &[(":status", "200")], 0);
        conn.body(stream, b"begun", 0);
        conn.headers(stream, &[("x-a", "1")], 0);
    });
    for status in ["100", "103"] {
        let what = format!("{status} after the final head");
        table.ends_the_stream(&what, Outcome::Cut, |conn, stream| {
            conn.headers(stream, &[(":status", "200")], 0);
            conn.body(stream, b"begun", 0);
            conn.headers(stream, &[(":status", status)], 0);
        });
    }
    table.ends_the_connection("a frame within a head", |conn, stream| {
        let begin = frame(HEADERS, END_STREAM, stream, &ok);
        let ping = frame(PING, 0, 0, b"pingpong");
        conn.send_raw(&[begin, ping].concat());
    });
    table.ends_the_connection("a head that goes on at another stream", |conn, stream| {
        let begin = frame(HEADERS, END_STREAM, stream, &ok);
        let more = frame(CONTINUATION, END_HEADERS, stream - 2, &block(&[("x-a", "1")]));
        conn.send_raw(&[begin, more].concat());
    });
    table.ends_the_connection("CONTINUATION of nothing", |conn, stream| {
        conn.send_frame(CONTINUATION, END_HEADERS, stream, &ok);
    });
}

#[test]
fn what_follows_the_end_of_a_stream_reaches_nobody() {
    let mut table = Table::start();
    let whole = || Outcome::Whole("mine".to_owned());
    // RFC 9113 §5.1: closed streams may still get a reset; all else is an error of the connection or of nobody.
    for reason in [NO_ERROR, INTERNAL_ERROR] {
        table.ends_the_stream("a reset after the end", whole(), |conn, stream| {
            conn.answer(stream, b"mine");
            conn.reset(stream, reason);
        });
    }
    table.ends_the_stream("a window after the end", whole(), |conn, stream| {
        conn.answer(stream, b"mine");
        conn.send_frame(WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes());
    });
    for (what, kind, payload) in [
        ("DATA after the end", DATA, b"EVIL".to_vec()),
        ("HEADERS after the end", HEADERS, block(&[(":status", "200"), ("x-evil", "1")])),
        ("trailers after the end", HEADERS, block(&[("x-evil", "1")])),
    ] {
        let mut beside = table.ask("GET", "/beside");
        let (mut conn, _) = table.take("/beside");
        let mut victim = table.ask("POST", "/victim");
        let stream = conn.next_request().stream;
        conn.answer(stream, b"mine");
        conn.send_frame(kind, END_STREAM | END_HEADERS & !u8::from(kind == DATA), stream, &payload);
        assert_eq!(outcome_of(&mut victim), whole(), "{what}");
        // Nobody else gets a byte of it: the one beside is sent again, or is answered after all.
        drop(conn);
        let (mut conn, stream) = table.take("/beside");
        conn.answer(stream, b"beside");
        assert_eq!(beside.read_response().text(), "beside", "{what}");
        table.conn = Some(conn);
    }
}

#[test]
fn trailers_that_break_the_rules_cut_the_body() {
    let mut table = Table::start();
    for (bystander, name, value) in [
        (Bystander::Lives, "connection", "close"),
        (Bystander::Lives, "transfer-encoding", "chunked"),
        // What the library takes for a head that cannot be decoded (RFC 9113 §4.3).
        (Bystander::IsCut, "x-a", "1\r\nx-evil: 1"),
        (Bystander::IsCut, "x-a", "1\0"),
        (Bystander::IsCut, "X-Upper", "1"),
        (Bystander::IsCut, "x a", "1"),
        (Bystander::IsCut, ":evil", "1"),
    ] {
        let outcome = table.row(name, bystander, |conn, stream| {
            conn.headers(stream, &[(":status", "200")], 0);
            conn.body(stream, b"begun", 0);
            conn.headers(stream, &[(name, value)], END_STREAM);
        });
        // Where the connection ends at once, not even the head may be on its way.
        let told = [Outcome::Cut, Outcome::Error(502)];
        assert!(told.contains(&outcome), "{name}: {value:?}: {outcome:?}");
    }
}

#[test]
fn trailers_at_the_bound_pass_and_one_byte_more_cuts_the_body() {
    let mut table = Table::start();
    for (bytes, expected) in [(8192, Outcome::Whole("begun".to_owned())), (8193, Outcome::Cut)] {
        let value = "v".repeat(bytes - "x-a: \r\n".len());
        table.ends_the_stream(&format!("{bytes} bytes"), expected, |conn, stream| {
            conn.headers(stream, &[(":status", "200")], 0);
            conn.body(stream, b"begun", 0);
            conn.headers(stream, &[("x-a", &value)], END_STREAM);
        });
    }
}

#[test]
fn interim_heads_at_the_bound_pass_and_one_more_gets_502() {
    let mut table = Table::start();
    for (count, expected) in [(16, Outcome::Whole("ok".to_owned())), (17, Outcome::Error(502))] {
        table.ends_the_stream(&format!("{count} interim heads"), expected, |conn, stream| {
            (0..count).for_each(|_| conn.headers(stream, &[(":status", "103")], 0));
            conn.answer(stream, b"ok");
        });
    }
}

/// RFC 9113 §8.3 calls such a message malformed. The library drops the pseudo-fields without a word.
#[test]
fn pseudo_fields_of_requests_and_those_in_trailers_reach_nobody() {
    let mut table = Table::start();
    let mut client = table.ask("GET", "/");
    let (mut conn, stream) = table.take("/");
    conn.headers(stream, &[(":path", "/"), (":status", "200"), (":method", "PUT")], 0);
    conn.body(stream, b"begun", 0);
    conn.headers(stream, &[(":status", "200"), ("x-sum", "1")], END_STREAM);
    let response = client.read_response();
    assert_eq!(response.text(), "begun");
    assert_eq!(response.fields.len(), 2, "an id, and chunked: {:?}", response.fields);
    assert_eq!(response.body.trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[test]
fn content_where_none_may_be_is_no_beginning_of_the_next_answer() {
    let mut table = Table::start();
    for (method, status) in [("HEAD", "200"), ("GET", "204"), ("GET", "304")] {
        let mut client = table.ask(method, "/");
        let (mut conn, stream) = table.take("/");
        conn.headers(stream, &[(":status", status)], 0);
        let evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
        conn.send_frame(DATA, 0, stream, evil);
        let response = client.read_response_to(method);
        assert_eq!(response.status.to_string(), status);
        // What comes late is no answer, either.
        conn.send_frame(DATA, END_STREAM, stream, evil);
        client.request("GET", &table.origin.host(), "/next", "", b"");
        table.conn = Some(conn);
        let (mut conn, stream) = table.take("/next");
        conn.answer(stream, b"next");
        assert_eq!(client.read_response().text(), "next", "after {method} {status}");
        table.conn = Some(conn);
    }
}

#[test]
fn padding_reaches_nobody_and_its_window_comes_back() {
    let mut table = Table::start();
    let mut client = table.ask("GET", "/");
    let (mut conn, stream) = table.take("/");
    conn.headers(stream, &[(":status", "200")], 0);
    // More such frames than an origin may send without content.
    let payload = [&[255][..], &[b'x'; 1], &[0; 255]].concat();
    let frames = 3000;
    let reading = std::thread::spawn(move || client.read_response());
    for _ in 0..frames {
        while conn.room(stream) < payload.len() {
            conn.read_frame().expect("a window instead of the connection's end");
        }
        conn.spend(stream, payload.len());
        conn.send_frame(DATA, PADDED, stream, &payload);
    }
    conn.send_frame(DATA, END_STREAM, stream, b"");
    let response = reading.join().expect("a response");
    assert!(response.body.bytes == vec![b'x'; frames], "{} bytes", response.body.bytes.len());
    // RFC 9113 §6.1: padding as long as the payload, or longer.
    table.conn = Some(conn);
    for padding in [4, 255] {
        table.ends_the_connection("too much padding", |conn, stream| {
            conn.send_frame(DATA, PADDED | END_STREAM, stream, &[padding, 1, 2, 3]);
        });
    }
}

/// A field that is indexed at index 62 and repeated from there (RFC 7541 §6.1): `repeats` bytes that stand for 4 KB each.
fn bomb(repeats: usize) -> Vec<u8> {
    let mut bytes = block(&[(":status", "200")]);
    // With incremental indexing; a value as long as the table takes.
    bytes.extend_from_slice(&[0x40, 1, b'x', 0x7f]);
    let length = 4096 - 32 - 1;
    let rest = length - 127;
    bytes.extend_from_slice(&[(rest % 128) as u8 | 0x80, (rest / 128) as u8]);
    bytes.extend(std::iter::repeat_n(b'v', length));
    bytes.extend(std::iter::repeat_n(0x80 | 62, repeats));
    bytes
}

#[test]
fn compressed_heads_that_lie_or_explode_harm_nobody_else() {
    let mut table = Table::start();
    let before = table.proxy.resident_kib();
    table.ends_the_stream("4 KB that stand for 80", Outcome::Error(502), |conn, stream| {
        conn.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb(20));
    });
    table.ends_the_connection("16 KB that stand for 48 MB", |conn, stream| {
        conn.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb(12_000));
    });
    let after = table.proxy.resident_kib();
    assert!(after < before + 8192, "{before} KiB became {after} KiB");
    let ok = block(&[(":status", "200")]);
    for (what, lie) in [
        ("an index that is none", vec![0x80 | 70]),
        ("index zero", vec![0x80]),
        ("a table larger than was allowed", vec![0x3f, 0xe2, 0x1f]),
        ("an integer without end", vec![0xff; 12]),
        ("a text longer than the head", [&ok[..], &[0, 1, b'x', 0x7e]].concat()),
        (
            "a Huffman code that is none",
            [&ok[..], &[0, 1, b'x', 0x84, 255, 255, 255, 255]].concat(),
        ),
    ] {
        table.ends_the_connection(what, |conn, stream| {
            conn.send_frame(HEADERS, END_HEADERS | END_STREAM, stream, &lie);
        });
    }
}

#[test]
fn frames_that_are_none_end_the_connection() {
    let mut table = Table::start();
    let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let goaway = |last: u32| [last.to_be_bytes(), 0u32.to_be_bytes()].concat();
    let promise = [&2u32.to_be_bytes()[..], &block(&[(":method", "GET")])].concat();
    let ok = block(&[(":status", "200")]);
    let rows: [(&str, Vec<u8>); 20] = [
        ("DATA on stream 0", frame(DATA, 0, 0, b"EVIL")),
        ("HEADERS on stream 0", frame(HEADERS, END_HEADERS, 0, &ok)),
        ("HEADERS on a stream of the origin's", frame(HEADERS, END_HEADERS, 2, &ok)),
        ("HEADERS on a stream that never was", frame(HEADERS, END_HEADERS, 9999, &ok)),
        ("DATA on a stream that never was", frame(DATA, 0, 9999, b"EVIL")),
        ("a reset of a stream that never was", frame(RST_STREAM, 0, 9999, &[0; 4])),
        ("a reset of stream 0", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("a reset of three bytes", frame(RST_STREAM, 0, 1, &[0; 3])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("an acknowledgement that says something", frame(SETTINGS, ACK, 0, &setting(3, 1))),
        ("a window of 2^31", frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 1 << 31))),
        ("frames of at most 1 byte", frame(SETTINGS, 0, 0, &setting(5, 1))),
        ("PING of seven bytes", frame(PING, 0, 0, b"pingpon")),
        ("PING on a stream", frame(PING, 0, 1, b"pingpong")),
        ("a connection's window that opens by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &goaway(1))),
        (
            "a last stream that grows",
            [frame(GOAWAY, 0, 0, &goaway(1 << 20)), frame(GOAWAY, 0, 0, &goaway(1 << 21))].concat(),
        ),
        ("a promise, though none is wanted", frame(PUSH_PROMISE, END_HEADERS, 1, &promise)),
        ("a frame longer than allowed", frame(DATA, 0, 1, &[0; 16_385])),
    ];
    for (what, frames) in rows {
        table.ends_the_connection(what, |conn, _| {
            conn.send_raw(&frames);
        });
    }
    table.ends_the_connection("a stream's window that opens by 0", |conn, stream| {
        conn.send_frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
    });
}

#[test]
fn window_of_a_stream_beyond_2_to_the_31_ends_the_upload_alone() {
    let mut table = Table::start();
    let mut beside = table.ask("GET", "/beside");
    let (mut conn, half_way) = table.take("/beside");
    let mut victim = Client::connect(&table.proxy);
    victim.request("POST", &table.origin.host(), "/victim", "Content-Length: 10\r\n", b"");
    let stream = conn.next_head().stream;
    conn.send_frame(WINDOW_UPDATE, 0, stream, &(i32::MAX as u32).to_be_bytes());
    victim.read_error(502);
    assert_eq!(conn.wait_reset(stream), FLOW_CONTROL_ERROR);
    conn.answer(half_way, b"beside");
    assert_eq!(beside.read_response().text(), "beside");
    assert_eq!(table.origin.connections(), 1);
}

#[test]
fn origin_that_speaks_http_1_1_though_it_chose_http_2_gets_502() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    for answer in [crate::support::OK.as_bytes(), b"", b"\0", &[0xff; 100]] {
        let mut client = Client::connect(&proxy);
        client.request("POST", &origin.host(), "/", "", b"");
        let mut conn = Http2Conn::open_silently(origin.accept());
        conn.send_raw(answer);
        conn.raw().half_close();
        client.read_error(502);
        client.expect_usable();
    }
}
