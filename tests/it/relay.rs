//! Bodies in motion: the first byte before the last, back-pressure, and cuts that look cut.

use std::io::Read;
use std::time::Duration;

use crate::support::wire::Framing;
use crate::support::{Client, Ended, OK, Origin, OriginConn, Proxy, TlsOrigin, eventually};

/// A client whose GET an origin has read, and the connection on which it did.
struct Asked {
    proxy: Proxy,
    origin: Origin,
    client: Client,
    conn: OriginConn,
}

fn asked() -> Asked {
    asked_with(&[], "HTTP/1.1")
}

fn asked_with(flags: &[&str], version: &str) -> Asked {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(flags));
    let mut client = Client::connect(&proxy);
    client.send(format!("GET /asked {version}\r\nHost: {}\r\n\r\n", origin.host()));
    let mut conn = origin.accept();
    conn.read_request();
    Asked { proxy, origin, client, conn }
}

fn wait_for_499(proxy: &Proxy) {
    proxy.wait_for_access_line(|line| line.get("status") == "499");
}

#[test]
fn first_part_of_a_fixed_body_arrives_before_the_last() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\none ");
    client.read_until(b"\r\n\r\none ");
    conn.send("two ");
    assert_eq!(client.read_exact(4), b"two ");
}

#[test]
fn head_arrives_before_the_first_byte_of_the_body() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.read_head().start_line, "HTTP/1.1 200 OK");
    conn.send("ok");
    assert_eq!(client.read_exact(2), b"ok");
}

#[test]
fn part_of_a_chunk_arrives_before_the_chunk_ends() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\nbegin");
    client.read_until(b"begin");
}

#[test]
fn first_part_of_a_close_delimited_body_arrives_before_the_last() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\n\r\none ");
    client.read_until(b"one ");
    conn.send("two ");
    client.read_until(b"two ");
    conn.close();
    client.read_until(b"0\r\n\r\n");
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.read_head();
    for n in 0..20 {
        let event = format!("data: {n}\n\n");
        conn.send(format!("{:x}\r\n{event}\r\n", event.len()));
        client.read_until(event.as_bytes());
    }
    conn.send("0\r\n\r\n");
    client.read_until(b"0\r\n\r\n");
    client.expect_usable();
}

#[test]
fn server_sent_events_arrive_one_by_one_over_tls() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
    client.read_head();
    for n in 0..20 {
        let event = format!("data: {n}\n\n");
        conn.send(&event);
        client.read_until(event.as_bytes());
    }
    conn.close();
    client.read_until(b"0\r\n\r\n");
}

#[test]
fn server_sent_events_arrive_one_by_one_at_http_1_0() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked_with(&[], "HTTP/1.0");
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.read_head();
    for n in 0..5 {
        let event = format!("data: {n}\n\n");
        conn.send(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(client.read_exact(event.len()), event.as_bytes());
    }
    conn.send("0\r\n\r\n");
    assert_eq!(client.expect_closed(), Ended::Eof);
}

#[test]
fn origin_that_echoes_while_the_client_sends_is_heard() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 40\r\n", b"");
    client.send("0000");
    let mut conn = origin.accept();
    conn.read_head();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n");
    let part = conn.read_exact(4);
    conn.send(&part);
    client.read_until(b"\r\n\r\n0000");
    for n in 1..10 {
        let part = format!("{n}{n}{n}{n}");
        client.send(&part);
        assert_eq!(conn.read_exact(4), part.as_bytes());
        conn.send(&part);
        assert_eq!(client.read_exact(4), part.as_bytes());
    }
}

#[test]
fn fixed_body_cut_by_a_close_looks_cut() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    conn.close();
    assert_eq!(client.read_cut_response().body.bytes, b"abc");
}

#[test]
fn fixed_body_cut_by_a_reset_looks_cut() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    client.read_until(b"abc");
    conn.reset();
    let (rest, _) = client.read_to_end();
    assert!(rest.is_empty());
}

#[test]
fn chunked_body_cut_between_chunks_gets_no_last_chunk() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    conn.close();
    client.read_cut_response();
}

#[test]
fn chunked_body_cut_within_a_chunk_gets_no_last_chunk() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc");
    conn.close();
    client.read_cut_response();
}

#[test]
fn chunked_body_cut_within_the_trailers_gets_no_end() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: ");
    conn.close();
    client.read_cut_response();
}

#[test]
fn close_delimited_body_cut_by_a_reset_gets_no_last_chunk() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\n\r\nabc");
    client.read_until(b"abc");
    conn.reset();
    let (rest, _) = client.read_to_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the body looks complete");
}

#[test]
fn close_delimited_body_cut_by_a_reset_resets_http_1_0() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked_with(&[], "HTTP/1.0");
    conn.send("HTTP/1.1 200 OK\r\n\r\nabc");
    client.read_until(b"abc");
    conn.reset();
    assert_eq!(client.expect_closed(), Ended::Reset);
}

#[test]
fn chunked_body_cut_resets_http_1_0() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked_with(&[], "HTTP/1.0");
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.read_until(b"abc");
    conn.close();
    assert_eq!(client.expect_closed(), Ended::Reset);
}

#[test]
fn tls_end_without_notify_cuts_a_close_delimited_body() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 200 OK\r\n\r\nabc");
    conn.close_without_notify();
    let response = client.read_cut_response();
    assert_eq!(response.body.framing, Framing::Chunked);
}

#[test]
fn tls_end_with_notify_completes_a_close_delimited_body() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 200 OK\r\n\r\nabc");
    conn.close();
    assert_eq!(client.read_response().text(), "abc");
}

#[test]
fn tls_end_without_notify_behind_a_framed_body_cuts_nothing() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    conn.close_without_notify();
    assert_eq!(client.read_response().text(), "ok");
    client.expect_usable();
}

#[test]
fn origin_that_closes_behind_a_framed_body_cuts_nothing() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    conn.send(OK);
    conn.close();
    assert_eq!(client.read_response().text(), "ok");
    client.expect_usable();
}

#[test]
fn client_that_resets_while_waiting_closes_the_origin_and_is_logged_as_499() {
    let Asked { proxy, client, mut conn, .. } = asked();
    client.reset();
    conn.wait_closed_within(Duration::from_secs(3));
    wait_for_499(&proxy);
}

#[test]
fn client_that_closes_while_waiting_closes_the_origin_and_is_logged_as_499() {
    let Asked { proxy, client, mut conn, .. } = asked();
    drop(client);
    conn.wait_closed_within(Duration::from_secs(4));
    wait_for_499(&proxy);
}

#[test]
fn client_that_resets_during_a_body_closes_the_origin_and_is_logged() {
    let Asked { proxy, mut client, mut conn, .. } = asked();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    client.read_until(b"part");
    client.reset();
    conn.wait_closed_within(Duration::from_secs(3));
    wait_for_499(&proxy);
}

#[test]
fn client_that_closes_between_events_closes_the_origin() {
    let Asked { proxy: _proxy, mut client, mut conn, origin } = asked();
    conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.read_until(b"abc");
    drop(client);
    // A closed socket answers the next events with RST.
    eventually("the origin's connection to be closed", || {
        conn.try_send("1\r\nx\r\n").is_err() || origin.open_connections() == 0
    });
}

#[test]
fn client_that_resets_during_its_upload_closes_the_origin() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
    client.send("abc");
    let mut conn = origin.accept();
    let head = conn.read_head();
    conn.read_exact(3);
    client.reset();
    assert_ne!(conn.read_body_of(&head).ended, Ended::Complete);
    wait_for_499(&proxy);
}

#[test]
fn half_closed_client_gets_a_late_answer_behind_a_probe() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    client.half_close();
    let probe = client.read_response();
    assert_eq!(probe.status, 100);
    conn.expect_silence(Duration::from_millis(500));
    conn.send(OK);
    let mut answer = client.read_pipelined_response();
    while answer.status == 100 {
        answer = client.read_pipelined_response();
    }
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

#[test]
fn half_closed_http_1_0_client_gets_a_late_answer_and_no_probe() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked_with(&[], "HTTP/1.0");
    client.half_close();
    conn.expect_silence(Duration::from_millis(1800));
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn open_client_gets_no_probe_however_late_the_answer() {
    let Asked { proxy: _proxy, mut client, mut conn, .. } = asked();
    client.expect_silence(Duration::from_millis(1800));
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn pipelined_bytes_of_a_waiting_client_are_not_its_leaving() {
    let Asked { proxy: _proxy, mut client, mut conn, origin } = asked();
    client.get(&origin, "/second");
    conn.expect_silence(Duration::from_millis(1500));
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn download_of_256_mib_keeps_memory_flat() {
    const LEN: u64 = 256 * 1024 * 1024;
    let origin = Origin::start(|mut conn| {
        conn.read_request();
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
        let block = vec![b'd'; 1024 * 1024];
        for _ in 0..LEN / block.len() as u64 {
            conn.send(&block);
        }
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(Duration::from_secs(60));
    client.get(&origin, "/");
    client.read_head();
    let before = proxy.resident_kib();
    client.skip(LEN);
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more than before the download");
    client.expect_usable();
}

#[test]
fn client_that_does_not_read_holds_the_origin_back() {
    let Asked { proxy, client, mut conn, .. } = asked();
    const LEN: usize = 512 * 1024 * 1024;
    let before = proxy.resident_kib();
    conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
    conn.set_deadline(Duration::from_millis(300));
    let block = vec![b'd'; 64 * 1024];
    let mut sent = 0;
    while sent < LEN && conn.try_send(&block).is_ok() {
        sent += block.len();
    }
    assert!(sent < LEN / 4, "{sent} bytes went somewhere");
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB of them into the proxy");
    drop(client);
}

#[test]
fn stalled_client_stalls_nobody_else() {
    let Asked { proxy, client, mut conn, .. } = asked_with(&["--cores", "1"], "HTTP/1.1");
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
    conn.set_deadline(Duration::from_millis(200));
    let block = vec![b'd'; 64 * 1024];
    while conn.try_send(&block).is_ok() {}
    Client::connect(&proxy).expect_usable();
    drop(client);
}

#[test]
fn slow_reader_gets_every_byte() {
    const LEN: usize = 20 * 1024 * 1024;
    let origin = Origin::start(|mut conn| {
        conn.read_request();
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
        conn.send(crate::support::pattern(LEN));
        conn.read_to_end();
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_head();
    let mut received = client.pending();
    // Small reads on the bare socket keep the window nearly shut.
    let mut buf = [0; 4096];
    while received.len() < LEN {
        let len = client.tcp().read(&mut buf).expect("the body");
        assert_ne!(len, 0, "cut after {} bytes", received.len());
        received.extend_from_slice(&buf[..len]);
    }
    assert!(received == crate::support::pattern(LEN), "the body was changed");
}
