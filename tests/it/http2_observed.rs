//! What an operator is told of HTTP/2, against what the origin saw: the access log's `json+`, the dump, `/.api/stats`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::api::look;
use crate::support::http2::{Http2Conn, MAX_CONCURRENT_STREAMS, options};
use crate::support::{Client, OK, Proxy, TlsOrigin, eventually};

/// A client whose GET waits at the origin, on this stream.
#[track_caller]
fn held(proxy: &Proxy, origin: &TlsOrigin, conn: &mut Http2Conn) -> (Client, u32) {
    let mut client = Client::connect(proxy);
    client.request("GET", &origin.host(), "/held", "", b"");
    (client, conn.next_request().stream)
}

/// `/.api/stats` says this, soon.
#[track_caller]
fn expect_stats(proxy: &Proxy, connections: Value, requests: Value, goaways: Value) {
    let expected = [connections, requests, goaways];
    let keys = ["http2_connections", "http2_requests", "http2_goaways"];
    eventually(&format!("{keys:?} to be {expected:?}"), || {
        let stats = look(proxy, "/.api/stats");
        keys.map(|key| stats[key].clone()) == expected
    });
}

#[test]
fn dump_and_stats_count_connections_requests_on_each_and_goaways_as_the_origin_does() {
    let (origin, proxy) = (options().scripted(), Proxy::one_shard(&["--access-log-dir", "none"]));
    expect_stats(&proxy, json!([0]), json!([0]), json!([0]));
    let mut first = Client::connect(&proxy);
    first.request("GET", &origin.host(), "/", "", b"");
    let mut leaving = Http2Conn::open_with(origin.accept(), &[(MAX_CONCURRENT_STREAMS, 9)]);
    let request = leaving.next_request();
    leaving.answer(request.stream, b"ok");
    first.read_response();
    let (mut late, stream) = held(&proxy, &origin, &mut leaving);
    expect_stats(&proxy, json!([1]), json!([1]), json!([0]));
    // Said twice, as a shutdown in steps does (RFC 9113 §6.8); one connection ends.
    leaving.goaway(i32::MAX as u32, 0);
    leaving.goaway(stream, 0);
    let mut next = Http2Conn::open_with(origin.accept(), &[(MAX_CONCURRENT_STREAMS, 7)]);
    let mut clients: Vec<_> = (0..3).map(|_| held(&proxy, &origin, &mut next)).collect();
    expect_stats(&proxy, json!([2]), json!([4]), json!([1]));
    proxy.signal(libc::SIGUSR1);
    let line = proxy.wait_for_log("HTTP/2 connections");
    let told = "1 HTTP/2 connections (3/7 requests), 1 leaving, 1 GOAWAYs received";
    let name = format!("https://localhost:{} ", origin.addr().port());
    assert!(line.contains(&name) && line.ends_with(told), "{line}");
    leaving.answer(stream, b"late");
    assert_eq!(late.read_response().text(), "late");
    for (client, stream) in &mut clients {
        next.answer(*stream, b"held");
        assert_eq!(client.read_response().text(), "held");
    }
    leaving.wait_closed();
    assert_eq!(origin.connections(), 2);
    expect_stats(&proxy, json!([1]), json!([0]), json!([1]));
}

#[test]
fn stats_count_each_shards_own_and_the_lenders_requests() {
    let origin = options().away(Duration::from_millis(400)).scripted();
    let proxy = Proxy::start(&["--access-log-dir", "none", "--tls-timeout", "60s"]);
    let mut first = Client::connect(&proxy);
    first.request("GET", &origin.host(), "/", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let request = conn.next_request();
    conn.answer(request.stream, b"ok");
    let own = first.read_response().shard();
    let clients: Vec<_> = (0..6).map(|_| held(&proxy, &origin, &mut conn)).collect();
    let of_own = |n: usize| if own == 0 { json!([n, 0]) } else { json!([0, n]) };
    expect_stats(&proxy, of_own(1), of_own(clients.len()), json!([0, 0]));
}

#[test]
fn access_log_says_the_protocol_and_where_the_connection_came_from() {
    let (origin, plain) = (options().scripted(), TlsOrigin::answering(OK));
    let proxy = Proxy::one_shard(&["--access-log-format", "json+"]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/new", "", b"");
    let mut conn = Http2Conn::open(origin.accept());
    let mut answer = |client: &mut Client| {
        let request = conn.next_request();
        conn.answer(request.stream, b"ok");
        client.read_response();
    };
    answer(&mut client);
    client.request("GET", &origin.host(), "/reused", "", b"");
    answer(&mut client);
    client.request("GET", &plain.host(), "/plain", "", b"");
    client.read_response();
    eventually("three lines", || proxy.access_log_lines().len() == 3);
    for (uri, protocol, connection, port) in [
        ("/new", "h2", "new", origin.addr().port()),
        ("/reused", "h2", "reused", origin.addr().port()),
        ("/plain", "http/1.1", "new", plain.addr().port()),
    ] {
        let line = proxy.wait_for_access_line(|line| line.get("uri") == uri);
        let said = (line.get("proto"), line.get("conn"), line.get("origin"));
        assert_eq!(said, (protocol, connection, format!("127.0.0.1:{port}").as_str()), "{uri}");
    }
}
