//! Which HTTP/2 connection carries a request: places, limits, GOAWAY, resets, and when a request goes again.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::dns::{loopback, to_ask_name_server};
use crate::support::http2::{
    Http2Conn, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, REFUSED_STREAM, options, serve, serving,
};
use crate::support::{Client, Proxy, TlsOrigin, eventually};

/// Clients that have each sent a GET of one number's path.
fn burst(proxy: &Proxy, origin: &TlsOrigin, numbers: Range<usize>) -> Vec<Client> {
    let ask = |number| {
        let mut client = Client::connect(proxy);
        client.request("GET", &origin.host(), &format!("/{number}"), "", b"");
        client
    };
    numbers.map(ask).collect()
}

/// Reads every answer of a [`burst`] from 0 on to an origin that answers with the path.
#[track_caller]
fn expect_own_answers(clients: &mut [Client]) {
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.read_response().text(), format!("/{number}"));
    }
}

fn answer_with_path(conn: &mut Http2Conn, request: crate::support::http2::Http2Request) {
    let path = request.path().to_owned();
    conn.answer(request.stream, path.as_bytes());
}

/// A client that has its answer, the connection it came on, and its stream.
fn answered_once(proxy: &Proxy, origin: &TlsOrigin) -> (Client, Http2Conn, u32) {
    let mut client = Client::connect(proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let request = conn.next_request();
    conn.answer(request.stream, b"ok");
    client.read_response();
    (client, conn, request.stream)
}

#[test]
fn cold_burst_makes_one_connection() {
    let origin = serving(answer_with_path);
    let proxy = Proxy::one_shard(&[]);
    let mut clients = burst(&proxy, &origin, 0..64);
    expect_own_answers(&mut clients);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn requests_share_a_connection_and_a_slow_one_holds_up_nobody() {
    let origin = serving(|conn, request| {
        if request.path() != "/slow" {
            answer_with_path(conn, request);
        }
    });
    let proxy = Proxy::one_shard(&[]);
    let mut slow = Client::connect(&proxy);
    slow.request("GET", &origin.host(), "/slow", "", b"");
    for _ in 0..3 {
        expect_own_answers(&mut burst(&proxy, &origin, 0..5));
    }
    assert_eq!(origin.connections(), 1);
    slow.expect_silence(Duration::from_millis(50));
}

#[test]
fn fresh_connection_carries_50_before_the_origin_says_how_many() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut clients = burst(&proxy, &origin, 0..60);
    let mut conn = Http2Conn::open_silently(origin.accept());
    let mut requests: Vec<_> = (0..50).map(|_| conn.next_request()).collect();
    conn.raw().expect_silence(Duration::from_millis(100));
    conn.settings(&[(MAX_CONCURRENT_STREAMS, 100)]);
    requests.extend((50..60).map(|_| conn.next_request()));
    for request in requests {
        answer_with_path(&mut conn, request);
    }
    expect_own_answers(&mut clients);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn places_of_an_origin_that_takes_few_are_never_overdrawn() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut clients = burst(&proxy, &origin, 0..1);
    let mut conn = Http2Conn::open_with(origin.accept(), &[(MAX_CONCURRENT_STREAMS, 5)]);
    let first = conn.next_request();
    clients.extend(burst(&proxy, &origin, 1..5));
    let four: Vec<_> = (0..4).map(|_| conn.next_request()).collect();
    // Four fifths are taken: the next connection is on its way before the last place goes.
    let mut second = Http2Conn::open_with(origin.accept(), &[(MAX_CONCURRENT_STREAMS, 5)]);
    clients.extend(burst(&proxy, &origin, 5..8));
    let mut others: Vec<_> = (0..3).map(|_| second.next_request()).collect();
    conn.raw().expect_silence(Duration::from_millis(100));
    for request in [first].into_iter().chain(four) {
        answer_with_path(&mut conn, request);
    }
    for request in others.drain(..) {
        answer_with_path(&mut second, request);
    }
    expect_own_answers(&mut clients);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn burst_beyond_all_places_is_served_as_they_come_free() {
    let origin = options().start(move |conn| {
        let mut conn = Http2Conn::open_with(conn, &[(MAX_CONCURRENT_STREAMS, 10)]);
        let mut waiting = Vec::new();
        loop {
            if conn.has_bytes() || waiting.is_empty() {
                let Some(_) = conn.read_frame() else { return };
                while let Some(stream) = conn.take_ended() {
                    // More may come before the proxy has read how many are taken.
                    match waiting.len() {
                        ..10 => waiting.push(stream),
                        _ => conn.reset(stream, REFUSED_STREAM),
                    }
                }
            } else {
                let request = conn.requests[&waiting.remove(0)].clone();
                answer_with_path(&mut conn, request);
            }
        }
    });
    let proxy = Proxy::one_shard(&[]);
    expect_own_answers(&mut burst(&proxy, &origin, 0..200));
}

#[test]
fn goaway_lets_those_under_way_finish_and_sends_the_others_again_whatever_their_method() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut first = Client::connect(&proxy);
    first.request("POST", &origin.host(), "/first", "", b"one");
    let mut conn = Http2Conn::open(origin.accept());
    let kept = conn.next_request();
    let mut second = Client::connect(&proxy);
    second.request("POST", &origin.host(), "/second", "", b"two");
    conn.next_request();
    conn.goaway(kept.stream, 0);
    let mut next = Http2Conn::open(origin.accept());
    let again = next.next_request();
    assert_eq!((again.path(), again.body.as_slice()), ("/second", &b"two"[..]));
    next.answer(again.stream, b"second");
    assert_eq!(second.read_response().text(), "second");
    conn.answer(kept.stream, b"first");
    assert_eq!(first.read_response().text(), "first");
    assert_eq!(conn.wait_closed(), Some(0));
    assert_eq!(origin.connections(), 2);
}

#[test]
fn connection_that_goes_away_is_replaced_before_anyone_asks() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let (mut client, mut conn, stream) = answered_once(&proxy, &origin);
    conn.goaway(stream, 0);
    let mut next = Http2Conn::open(origin.accept());
    client.request("GET", &origin.host(), "/next", "", b"");
    let request = next.next_request();
    next.answer(request.stream, b"next");
    assert_eq!(client.read_response().text(), "next");
    conn.wait_closed();
}

#[test]
fn connection_that_never_served_is_not_replaced() {
    let origin = options().start(|conn| {
        let mut conn = Http2Conn::open(conn);
        conn.goaway(0, 0);
        conn.wait_closed();
    });
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    client.read_error(502);
    let dialled = origin.connections();
    assert!(dialled <= 9, "{dialled} dials for one request");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(origin.connections(), dialled);
}

#[test]
fn refused_stream_goes_again_whatever_its_method() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "", b"once");
    let mut conn = Http2Conn::open(origin.accept());
    for _ in 0..3 {
        let request = conn.next_request();
        conn.reset(request.stream, REFUSED_STREAM);
    }
    let request = conn.next_request();
    assert_eq!(request.body, b"once");
    conn.answer(request.stream, b"ok");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn request_that_crosses_settings_which_forbid_it_is_sent_and_goes_elsewhere_when_refused() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/warm", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let warm = conn.next_request().stream;
    conn.answer(warm, b"warm");
    assert_eq!(client.read_response().text(), "warm");
    // Both are there when the shard looks.
    let shard = proxy.freeze_shard(0);
    client.request("POST", &origin.host(), "/asked", "", b"");
    conn.settings(&[(MAX_CONCURRENT_STREAMS, 0)]);
    drop(shard);
    let request = conn.next_request();
    assert_eq!(request.path(), "/asked");
    conn.reset(request.stream, REFUSED_STREAM);
    let mut other = Http2Conn::open(origin.accept());
    let request = other.next_request();
    assert_eq!(request.path(), "/asked");
    other.answer(request.stream, b"served");
    assert_eq!(client.read_response().text(), "served");
}

#[test]
fn stream_that_is_refused_over_and_over_gets_502() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let origin = serving(move |conn, request| {
        count.fetch_add(1, Ordering::SeqCst);
        conn.reset(request.stream, REFUSED_STREAM);
    });
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    client.read_error(502);
    // Once, and HTTP2_RESENDS_MAX times more.
    assert_eq!(refused.load(Ordering::SeqCst), 9);
}

#[test]
fn refused_body_that_is_on_its_way_is_not_sent_again() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("PUT", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let stream = conn.next_head().stream;
    client.send("first");
    while conn.requests[&stream].body != b"first" {
        conn.read_frame().expect("the body");
    }
    conn.reset(stream, REFUSED_STREAM);
    let response = client.read_response();
    assert_eq!(response.status, 502);
    conn.raw().expect_silence(Duration::from_millis(100));
}

#[test]
fn reset_stream_goes_again_once_if_that_does_no_harm() {
    for (method, attempts) in [("GET", 2), ("PUT", 2), ("POST", 1)] {
        let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
        let mut client = Client::connect(&proxy);
        client.request(method, &origin.host(), "/", "", b"body");
        let mut conn = Http2Conn::open(origin.accept());
        for _ in 0..attempts {
            let request = conn.next_request();
            conn.reset(request.stream, INTERNAL_ERROR);
        }
        client.read_error(502);
        client.request("GET", &origin.host(), "/next", "", b"");
        assert_eq!(conn.next_request().path(), "/next");
    }
}

#[test]
fn lost_connection_sends_a_get_again_and_never_a_post() {
    let posts = Arc::new(Mutex::new(Vec::new()));
    let seen = posts.clone();
    let origin = serving(move |conn, request| match request.path() {
        "/warm" | "/get-again" => conn.answer(request.stream, b"ok"),
        "/get" => conn.raw().half_close(),
        path => {
            seen.lock().expect("posts").push(path.to_owned());
            conn.raw().half_close();
        }
    });
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    let ask = |client: &mut Client, method, path| {
        client.request(method, &origin.host(), path, "", b"");
        client.read_response().status
    };
    assert_eq!(ask(&mut client, "GET", "/warm"), 200);
    assert_eq!(ask(&mut client, "POST", "/post"), 502);
    assert_eq!(ask(&mut client, "GET", "/warm"), 200);
    // Lost, sent again on the next connection, lost again.
    let before = origin.connections();
    assert_eq!(ask(&mut client, "GET", "/get"), 502);
    assert!(origin.connections() > before);
    assert_eq!(*posts.lock().expect("posts"), ["/post"]);
}

#[test]
fn connection_idle_for_too_long_is_closed_politely() {
    let (origin, proxy) =
        (options().scripted(), Proxy::one_shard(&["--keepalive-timeout", "300ms"]));
    let (mut client, mut conn, _) = answered_once(&proxy, &origin);
    assert_eq!(conn.wait_closed(), Some(0), "a GOAWAY without error");
    eventually("its descriptor to be given back", || {
        client.request("GET", &origin.host(), "/", "", b"");
        let mut conn = Http2Conn::open(origin.accept());
        let request = conn.next_request();
        conn.answer(request.stream, b"ok");
        client.read_response().status == 200
    });
}

#[test]
fn dial_that_fails_is_told_to_all_who_wait() {
    let origin = options().certificate(crate::support::Certificate::Expired).answering("");
    let proxy = Proxy::one_shard(&[]);
    for client in &mut burst(&proxy, &origin, 0..10) {
        client.read_error(502);
    }
}

#[test]
fn client_that_leaves_while_it_waits_leaves_its_place_to_others() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&[]));
    let mut clients = burst(&proxy, &origin, 0..3);
    let leaving = burst(&proxy, &origin, 0..3);
    let tcp = origin.accept_tcp();
    drop(leaving);
    thread::sleep(Duration::from_millis(50));
    let mut conn = Http2Conn::open(origin.handshake(tcp));
    for _ in 0..3 {
        let request = conn.next_request();
        answer_with_path(&mut conn, request);
    }
    expect_own_answers(&mut clients);
}

#[test]
fn origin_in_use_on_one_shard_is_warm_on_its_sibling_and_stays_so() {
    let origin = serving(answer_with_path);
    let proxy = Proxy::start(&["--keepalive-timeout", "1s"]);
    let mut client = Client::connect(&proxy);
    let ask = |client: &mut Client| {
        client.request("GET", &origin.host(), "/0", "", b"");
        assert_eq!(client.read_response().text(), "/0");
    };
    ask(&mut client);
    eventually("the sibling's connection", || {
        origin.full_handshakes() + origin.resumed_handshakes() == 2
    });
    // Longer than an idle connection is kept, by requests that come in on one shard alone.
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(100));
        ask(&mut client);
    }
    expect_own_answers(&mut burst(&proxy, &origin, 0..64));
    assert_eq!(origin.connections(), 2);
    // Nobody uses it any more.
    eventually("both to be given up", || origin.open_connections() == 0);
}

#[test]
fn moving_makes_a_connection_to_the_new_address_before_a_request_needs_one() {
    let records = HashMap::from([("origin.test", (vec![Ipv4Addr::LOCALHOST], 2))]);
    let Some((server, options)) = to_ask_name_server("http2-ahead", records) else { return };
    let flags = [("--cores", "1"), ("--access-log-format", "json+")];
    let proxy = flags.iter().fold(options, |all, (name, value)| all.flag(name, value)).start();
    let old = serving(answer_with_path);
    let port = old.addr().port();
    let new = crate::support::http2::options()
        .start_at((loopback(5), port).into(), |conn| serve(conn, answer_with_path));
    let mut client = Client::connect(&proxy);
    let mut asked = 0;
    let mut ask = || {
        client.request("GET", &format!("origin.test.ccnproxy-https:{port}"), "/", "", b"");
        assert_eq!(client.read_response().text(), "/");
        asked += 1;
        thread::sleep(Duration::from_millis(10));
    };
    (0..20).for_each(|_| ask());
    server.set("origin.test", &[loopback(5)], 2);
    eventually("no connection to the old address", || {
        ask();
        old.open_connections() == 0
    });
    (0..5).for_each(|_| ask());
    assert_eq!((old.connections(), new.connections()), (1, 1));
    eventually("a line for each request", || proxy.access_log_lines().len() == asked);
    let lines = proxy.access_log_lines();
    let paid = lines.iter().skip(1).filter(|line| line.get("conn") != "reused").count();
    assert_eq!(paid, 0, "of {asked}");
}

#[test]
fn request_that_finds_no_room_in_time_gets_503() {
    let flags = ["--connect-timeout", "300ms", "--tls-timeout", "300ms"];
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&flags));
    let mut first = Client::connect(&proxy);
    first.request("GET", &origin.host(), "/first", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let held = conn.next_request();
    // No more than the one that is under way; another connection is not taken by the origin.
    conn.settings(&[(MAX_CONCURRENT_STREAMS, 1)]);
    while conn.read_frame().expect("an acknowledgement").kind != 4 {}
    let mut second = Client::connect(&proxy);
    second.request("GET", &origin.host(), "/second", "", b"");
    second.read_error(503);
    conn.answer(held.stream, b"first");
    assert_eq!(first.read_response().text(), "first");
}
