//! Origins that mean harm in HTTP/2 (RFC 9113 §10.5): the connection is closed, the shard and its memory are unharmed.

use std::thread;
use std::time::Duration;

use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2Conn,
    MAX_CONCURRENT_STREAMS, PING, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
    options,
};
use crate::support::{Client, Proxy, eventually, pattern};

/// One request is under way; then the origin floods with `piece` until the proxy closes the connection. The client is
/// told, the shard serves others, and the memory stays.
#[track_caller]
fn flood_closes_the_connection(piece: impl Fn(u32) -> Vec<u8>) {
    flood_behind(&|_| Vec::new(), piece);
}

/// As [`flood_closes_the_connection`], behind one `begin`.
#[track_caller]
fn flood_behind(begin: &dyn Fn(u32) -> Vec<u8>, piece: impl Fn(u32) -> Vec<u8>) {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    let before = proxy.resident_kib();
    conn.send_raw(&begin(stream));
    // The stand-in for the many frames of an attack that lasts: enough for a gigabyte if nobody ended it.
    let taken = (0..20_000).take_while(|_| conn.send_raw(&piece(stream))).count();
    assert!(taken < 20_000, "the flood was taken whole");
    client.half_close();
    let answer = String::from_utf8_lossy(&client.read_to_end().0).into_owned();
    let is_cut = answer.contains("200 OK") && !answer.ends_with("\r\n0\r\n\r\n");
    assert!(answer.contains("502 Bad Gateway") || is_cut, "{answer}");
    eventually("the connection to be closed", || !conn.send_raw(&piece(stream)));
    let after = proxy.resident_kib();
    assert!(after < before + 32 * 1024, "{before} KiB became {after} KiB");
    Client::connect(&proxy).expect_usable();
}

#[test]
fn ping_flood_closes_the_connection() {
    flood_closes_the_connection(|_| frame(PING, 0, 0, b"12345678").repeat(64));
}

#[test]
fn settings_flood_closes_the_connection() {
    flood_closes_the_connection(|_| {
        let setting = [&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &100u32.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &setting.repeat(100)).repeat(8)
    });
}

#[test]
fn window_update_flood_closes_the_connection() {
    flood_closes_the_connection(|_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()).repeat(64));
}

#[test]
fn priority_flood_closes_the_connection() {
    flood_closes_the_connection(|stream| frame(2, 0, stream, &[0, 0, 0, 0, 1]).repeat(64));
}

#[test]
fn unknown_frame_flood_closes_the_connection() {
    flood_closes_the_connection(|_| frame(0xfa, 0, 0, &[0; 1000]).repeat(8));
}

#[test]
fn empty_data_flood_closes_the_connection() {
    let head = |stream| frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
    flood_behind(&head, |stream| frame(DATA, 0, stream, b"").repeat(64));
}

#[test]
fn flood_of_single_bytes_that_nobody_takes_closes_the_connection() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.headers(stream, &[(":status", "200")], 0);
    // Until the sockets of the client, who reads nothing, are full.
    let piece = [b'x'; 16_000];
    loop {
        if conn.room(stream) > 2 << 20 {
            conn.body(stream, &piece, 0);
        } else if conn.has_bytes() {
            conn.read_frame().expect("a frame");
        } else {
            thread::sleep(Duration::from_millis(100));
            if !conn.has_bytes() {
                break;
            }
        }
    }
    let before = proxy.resident_kib();
    // All within the windows, and 256 bytes of memory each if nobody ended it.
    let bytes = frame(DATA, 0, stream, b"x").repeat(1000);
    let taken = (0..1000).take_while(|_| conn.send_raw(&bytes)).count();
    assert!(taken < 1000, "the flood was taken whole");
    let after = proxy.resident_kib();
    assert!(after < before + 32 * 1024, "{before} KiB became {after} KiB");
    let (bytes, _) = client.read_to_end();
    assert!(!bytes.ends_with(b"\r\n0\r\n\r\n"));
    Client::connect(&proxy).expect_usable();
}

#[test]
fn interim_response_flood_closes_the_connection() {
    flood_closes_the_connection(|stream| {
        frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "103")])).repeat(64)
    });
}

#[test]
fn continuation_flood_closes_the_connection() {
    let begin = |stream| frame(HEADERS, 0, stream, &block(&[(":status", "200")]));
    flood_behind(&begin, |stream| frame(CONTINUATION, 0, stream, &block(&[("x", "y")])).repeat(64));
}

#[test]
fn goaway_flood_closes_the_connection() {
    flood_closes_the_connection(|stream| {
        let goaway = [stream.to_be_bytes(), 0u32.to_be_bytes()].concat();
        frame(GOAWAY, 0, 0, &goaway).repeat(64)
    });
}

#[test]
fn push_closes_the_connection() {
    flood_closes_the_connection(|stream| {
        let promise = [&2u32.to_be_bytes()[..], &block(&[(":method", "GET")])].concat();
        frame(PUSH_PROMISE, END_HEADERS, stream, &promise)
    });
}

#[test]
fn reset_flood_of_streams_that_never_were_closes_the_connection() {
    flood_closes_the_connection(|_| frame(RST_STREAM, 0, 99, &0u32.to_be_bytes()).repeat(64));
}

#[test]
fn window_that_overflows_closes_the_connection() {
    flood_closes_the_connection(|_| {
        frame(WINDOW_UPDATE, 0, 0, &(i32::MAX as u32).to_be_bytes()).repeat(2)
    });
}

#[test]
fn data_beyond_the_windows_closes_the_connection_or_resets_the_stream() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.headers(stream, &[(":status", "200")], 0);
    let before = proxy.resident_kib();
    // The client reads nothing; 4 MiB are allowed, and what the sockets hold.
    let piece = frame(DATA, 0, stream, &[b'x'; 16_000]);
    let taken = (0..4_000).take_while(|_| conn.send_raw(&piece)).count();
    let after = proxy.resident_kib();
    assert!(after < before + 40 * 1024, "{taken} frames made {before} KiB {after} KiB");
    client.read_head();
    // The body must not look whole.
    let (bytes, _) = client.read_to_end();
    assert!(!bytes.ends_with(b"\r\n0\r\n\r\n"));
    Client::connect(&proxy).expect_usable();
}

/// A response head that is refused: the client gets 502.
#[track_caller]
fn head_gets_502(fields: &[(&str, &str)]) {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_request().stream;
    conn.headers(stream, fields, END_STREAM);
    client.read_error(502);
    client.expect_usable();
}

#[test]
fn fields_that_would_break_out_of_a_line_get_502() {
    for value in ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\0b", "\u{7f}", "\u{1}"] {
        head_gets_502(&[(":status", "200"), ("x-a", value)]);
    }
    for name in ["x\r\ny", "x y", "x:y", "X-Upper", "", "x\0", ":x", "\u{e9}", "x\n"] {
        head_gets_502(&[(":status", "200"), (name, "v")]);
    }
}

#[test]
fn malformed_heads_get_502() {
    for fields in [
        &[("x-a", "1")][..],
        &[(":status", "20")],
        &[(":status", "200"), (":status", "200")],
        &[("x-a", "1"), (":status", "200")],
        &[(":status", "200"), ("connection", "close")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "200"), ("content-length", "0"), ("content-length", "1")],
        &[(":status", "200"), ("content-length", "x")],
        &[(":status", "999999")],
    ] {
        head_gets_502(fields);
    }
}

#[test]
fn header_list_at_the_bound_passes_and_one_beyond_gets_502() {
    let head_of = |bytes: usize| {
        // RFC 9113 §6.5.2: 32 bytes a field beside name and value.
        let fixed = ":status".len() + "200".len() + 32 + "x-a".len() + 32;
        "v".repeat(bytes - fixed)
    };
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    let mut opened = None;
    for (bytes, status) in [(64 * 1024 - 1, 200), (64 * 1024, 502)] {
        client.request("POST", &origin.host(), "/", "", b"");
        let conn = opened.get_or_insert_with(|| Http2Conn::open(origin.accept()));
        let stream = conn.next_request().stream;
        let block = block(&[(":status", "200"), ("x-a", &head_of(bytes))]);
        let pieces: Vec<_> = block.chunks(16_384).collect();
        for (nth, piece) in pieces.iter().enumerate() {
            let kind = if nth == 0 { HEADERS } else { CONTINUATION };
            let ends = if nth == 0 { END_STREAM } else { 0 };
            let last = if nth + 1 == pieces.len() { END_HEADERS } else { 0 };
            conn.send_frame(kind, ends | last, stream, piece);
        }
        assert_eq!(client.read_response().status, status, "{bytes} bytes");
    }
}

#[test]
fn many_fields_at_the_bound_pass_and_one_more_gets_502() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    let mut opened = None;
    for (count, status) in [(256, 200), (257, 502)] {
        client.request("POST", &origin.host(), "/", "", b"");
        let conn = opened.get_or_insert_with(|| Http2Conn::open(origin.accept()));
        let stream = conn.next_request().stream;
        let names: Vec<String> = (0..count).map(|n| format!("x-{n}")).collect();
        let fields = [(":status", "200")].into_iter();
        let fields: Vec<_> = fields.chain(names.iter().map(|n| (n.as_str(), "v"))).collect();
        conn.headers(stream, &fields, END_STREAM);
        assert_eq!(client.read_response().status, status, "{count} fields");
    }
}

#[test]
fn origin_that_stops_reading_and_sends_a_corrupt_record_harms_nobody() {
    let (origin, mut proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let client = Client::connect(&proxy);
    let size = 8 * 1024 * 1024;
    let mut message =
        format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n", origin.host())
            .into_bytes();
    message.resize(message.len() + size, b'x');
    let sending = client.send_aside(message);
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_head().stream;
    // All windows open, and nothing is read any more.
    conn.send_frame(WINDOW_UPDATE, 0, 0, &1_000_000_000u32.to_be_bytes());
    conn.send_frame(WINDOW_UPDATE, 0, stream, &1_000_000_000u32.to_be_bytes());
    thread::sleep(Duration::from_millis(300));
    let record = [&[23, 3, 3, 0, 64][..], &[0xaa; 64]].concat();
    std::io::Write::write_all(&mut conn.raw().tcp(), &record).expect("a corrupt record");
    drop(sending.join());
    assert!(proxy.is_running());
    Client::connect(&proxy).expect_usable();
}

#[test]
fn random_frames_never_end_the_process() {
    let noise = pattern(256 * 1024);
    let origin = options().start(move |conn| {
        let mut conn = Http2Conn::open(conn);
        while let Some(request) = conn.try_next_request() {
            let number: usize = request.path().trim_start_matches('/').parse().expect("a number");
            let mut at = number * 401 % (noise.len() - 4096);
            let mut frames = Vec::new();
            for _ in 0..20 {
                // Kinds that exist, lengths that fit; all else at random.
                let length = usize::from(noise[at]) / 4;
                let payload = &noise[at + 4..at + 4 + length];
                let stream = u32::from(noise[at + 3] % 8);
                frames.extend(frame(noise[at + 1] % 11, noise[at + 2], stream, payload));
                at += 4 + length;
            }
            conn.send_raw(&frames);
        }
    });
    let mut proxy = Proxy::one_shard(&["--proxy-read-timeout", "300ms"]);
    for number in 0..300 {
        let mut client = Client::connect(&proxy);
        client.request("POST", &origin.host(), &format!("/{number}"), "", b"");
        // Whatever it is, it comes in time.
        drop(client.read_whatever_comes());
    }
    assert!(proxy.is_running());
    Client::connect(&proxy).expect_usable();
}
