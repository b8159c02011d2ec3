//! Which upstream connections are used again, in which order, and which never are.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::support::{Client, OK, Origin, OriginConn, Proxy, TlsOrigin, eventually};

/// A client that has made one exchange on `origin`, and the connection that is now idle.
fn warmed(origin: &Origin, proxy: &Proxy) -> (Client, OriginConn) {
    let mut client = Client::connect(proxy);
    client.get(origin, "/warm");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    (client, conn)
}

/// The next request makes a connection of its own and is answered on it.
fn expect_fresh(client: &mut Client, origin: &Origin) {
    client.request("POST", &origin.host(), "/next", "", b"p");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh");
    assert_eq!(client.read_response().text(), "fresh");
}

/// Two exchanges with an origin that answers `answer`; how many connections they took.
fn connections_for_two(answer: &str) -> usize {
    let origin = Origin::answering(answer);
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    for _ in 0..2 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, "/");
        while client.read_pipelined_response().status < 200 {}
    }
    origin.connections()
}

#[test]
fn connection_is_reused_by_the_same_client() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    for _ in 0..5 {
        client.get(&origin, "/");
        client.read_response();
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn connection_is_reused_by_another_client() {
    assert_eq!(connections_for_two(OK), 1);
}

#[test]
fn connection_is_reused_after_a_chunked_body() {
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n";
    assert_eq!(connections_for_two(answer), 1);
}

#[test]
fn connection_is_reused_after_an_interim_head() {
    assert_eq!(connections_for_two(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}")), 1);
}

#[test]
fn connection_is_not_reused_after_a_close() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(connections_for_two(answer), 2);
}

#[test]
fn connection_is_not_reused_after_a_close_among_other_options() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(connections_for_two(answer), 2);
}

#[test]
fn http_1_0_connection_is_not_reused() {
    assert_eq!(connections_for_two("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), 2);
}

#[test]
fn http_1_0_connection_is_reused_if_the_origin_says_so() {
    let answer = "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(connections_for_two(answer), 1);
}

#[test]
fn connection_is_not_reused_after_extra_bytes() {
    assert_eq!(connections_for_two("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!"), 2);
}

#[test]
fn connection_is_not_reused_after_extra_bytes_behind_chunks() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n!";
    assert_eq!(connections_for_two(answer), 2);
}

#[test]
fn connection_is_not_reused_after_a_body_behind_204() {
    let origin = Origin::answering("HTTP/1.1 204 No Content\r\n\r\nEVIL");
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    for _ in 0..2 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, "/");
        assert_eq!(client.read_response().status, 204);
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn connection_is_not_reused_after_a_body_behind_head() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    let mut client = Client::connect(&proxy);
    client.request("HEAD", &origin.host(), "/", "", b"");
    client.read_response_to("HEAD");
    client.get(&origin, "/");
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn fin_on_an_idle_connection_poisons_it() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let (mut client, conn) = warmed(&origin, &proxy);
    conn.close();
    expect_fresh(&mut client, &origin);
}

#[test]
fn half_close_on_an_idle_connection_poisons_it() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let (mut client, mut conn) = warmed(&origin, &proxy);
    conn.half_close();
    expect_fresh(&mut client, &origin);
}

#[test]
fn reset_on_an_idle_connection_poisons_it() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let (mut client, conn) = warmed(&origin, &proxy);
    conn.reset();
    expect_fresh(&mut client, &origin);
}

#[test]
fn byte_on_an_idle_connection_poisons_it() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let (mut client, mut conn) = warmed(&origin, &proxy);
    conn.send("!");
    expect_fresh(&mut client, &origin);
    conn.wait_closed();
}

#[test]
fn answer_on_an_idle_connection_reaches_nobody() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let (mut client, mut conn) = warmed(&origin, &proxy);
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL");
    expect_fresh(&mut client, &origin);
    conn.wait_closed();
}

#[test]
fn answer_408_on_an_idle_connection_reaches_nobody() {
    // What some servers say before they close an idle connection.
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let (mut client, mut conn) = warmed(&origin, &proxy);
    conn.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    conn.close();
    expect_fresh(&mut client, &origin);
}

#[test]
fn byte_on_an_idle_tls_connection_poisons_it() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/warm", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    client.read_response();
    conn.send("!");
    client.request("POST", &origin.host(), "/next", "", b"p");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn close_notify_on_an_idle_tls_connection_poisons_it() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/warm", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    client.read_response();
    conn.close();
    client.request("POST", &origin.host(), "/next", "", b"p");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn connection_that_came_back_last_is_taken_first() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let mut one = Client::connect(&proxy);
    one.get(&origin, "/one");
    let mut first = origin.accept();
    first.read_request();
    let mut two = Client::connect(&proxy);
    two.get(&origin, "/two");
    let mut second = origin.accept();
    second.read_request();
    second.send(OK);
    two.read_response();
    first.send(OK);
    one.read_response();
    // `first` came back last.
    for _ in 0..2 {
        two.get(&origin, "/lifo");
        assert_eq!(first.read_request().target, "/lifo");
        first.send(OK);
        two.read_response();
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn busy_connection_is_never_shared() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let mut one = Client::connect(&proxy);
    one.get(&origin, "/one");
    let mut first = origin.accept();
    first.read_request();
    let mut two = Client::connect(&proxy);
    two.get(&origin, "/two");
    let mut second = origin.accept();
    assert_eq!(second.read_request().target, "/two");
    first.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    second.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
    assert_eq!(
        (one.read_response().text(), two.read_response().text()),
        ("one".into(), "two".into())
    );
}

/// A GET to a TLS origin.
fn get_tls(client: &mut Client, origin: &TlsOrigin, target: &str) {
    client.request("GET", &origin.host(), target, "", b"");
}

#[test]
fn request_takes_the_connection_that_is_freed_while_its_own_is_made() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::one_shard(&[]));
    let [mut one, mut two, mut three] = [(); 3].map(|()| Client::connect(&proxy));
    get_tls(&mut one, &origin, "/one");
    let mut first = origin.accept();
    first.read_request();
    get_tls(&mut two, &origin, "/two");
    // Connected, and its handshake does not go on.
    let second = origin.accept_tcp();
    first.send(OK);
    assert_eq!(one.read_response().text(), "ok");
    assert_eq!(first.read_request().target, "/two");
    // What was made for nothing is kept for the next burst.
    let mut second = origin.open(second);
    get_tls(&mut three, &origin, "/three");
    assert_eq!(second.read_request().target, "/three");
    second.send(OK);
    first.send(OK);
    assert_eq!(two.read_response().text(), "ok");
    assert_eq!(three.read_response().text(), "ok");
    assert_eq!(origin.connections(), 2);
}

#[test]
fn requests_that_wait_are_served_in_their_order() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::one_shard(&[]));
    let mut clients = [(); 4].map(|()| Client::connect(&proxy));
    get_tls(&mut clients[0], &origin, "/0");
    let mut busy = origin.accept();
    busy.read_request();
    // Each waits in line before the next comes: its own connection is under way.
    let _under_way = [1, 2, 3].map(|n: usize| {
        get_tls(&mut clients[n], &origin, &format!("/{n}"));
        origin.accept_tcp()
    });
    for (n, client) in clients.iter_mut().enumerate() {
        busy.send(OK);
        assert_eq!(client.read_response().text(), "ok");
        if n < 3 {
            assert_eq!(busy.read_request().target, format!("/{}", n + 1));
        }
    }
}

#[test]
fn client_that_leaves_while_it_waits_ends_its_dial() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::one_shard(&[]));
    let mut leaving = Client::connect(&proxy);
    get_tls(&mut leaving, &origin, "/");
    let mut under_way = origin.accept_tcp();
    leaving.reset();
    under_way.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    let ended = std::io::Read::read_to_end(&mut under_way, &mut Vec::new());
    ended.expect("the proxy closes well before --tls-timeout");
}

#[test]
fn freed_connection_with_an_end_on_it_serves_nobody() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::one_shard(&[]));
    let [mut one, mut two] = [(); 2].map(|()| Client::connect(&proxy));
    get_tls(&mut one, &origin, "/one");
    let mut first = origin.accept();
    first.read_request();
    two.request("POST", &origin.host(), "/two", "", b"p");
    let second = origin.accept_tcp();
    first.hold_until_closed();
    first.send(OK);
    first.close();
    assert_eq!(one.read_response().text(), "ok");
    let mut second = origin.open(second);
    assert_eq!(second.read_request().target, "/two");
    second.send(OK);
    assert_eq!(two.read_response().text(), "ok");
}

#[test]
fn origins_do_not_share_connections() {
    let proxy = Proxy::one_shard(&[]);
    let a = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
    let b = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        for (origin, expected) in [(&a, "a"), (&b, "b")] {
            client.get(origin, "/");
            assert_eq!(client.read_response().text(), expected);
        }
    }
    assert_eq!((a.connections(), b.connections()), (1, 1));
}

#[test]
fn spellings_of_one_origin_share_a_connection() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&[]));
    let port = origin.addr().port();
    let mut client = Client::connect(&proxy);
    for host in ["localhost.ccnproxy", "LOCALHOST.ccnproxy", "localhost.ccnproxy.local"] {
        client.request("GET", &format!("{host}:{port}"), "/", "", b"");
        assert_eq!(client.read_response().status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn idle_connections_past_the_bound_are_closed() {
    let all_here = Arc::new(Barrier::new(3));
    let origin = Origin::start(move |mut conn| {
        conn.read_request();
        all_here.wait();
        conn.send(OK);
        conn.read_to_end();
    });
    let proxy = Proxy::one_shard(&["--keepalive-conns", "1"]);
    let mut clients = [(); 3].map(|()| Client::connect(&proxy));
    for client in &mut clients {
        client.get(&origin, "/");
    }
    for client in &mut clients {
        assert_eq!(client.read_response().text(), "ok");
    }
    // Which of them stays is the pool's affair; that exactly one does is not.
    eventually("two of three to be closed", || origin.open_connections() == 1);
}

#[test]
fn idle_connection_is_closed_after_the_keepalive_timeout() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&["--keepalive-timeout", "300ms"]);
    let (mut client, mut conn) = warmed(&origin, &proxy);
    conn.wait_closed_within(Duration::from_secs(3));
    expect_fresh(&mut client, &origin);
}

#[test]
fn connection_in_use_outlives_the_keepalive_timeout() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&["--keepalive-timeout", "200ms"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.expect_silence(Duration::from_millis(600));
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn fin_on_an_idle_connection_gives_its_descriptor_back() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&[]);
    let (client, conn) = warmed(&origin, &proxy);
    drop(client);
    let mut open = 0;
    eventually("the client's descriptor to go", || {
        let now = proxy.open_descriptors();
        let settled = now == open;
        open = now;
        settled
    });
    conn.close();
    let mut client = Client::connect(&proxy);
    client.expect_usable();
    drop(client);
    eventually("the poisoned descriptor to go", || proxy.open_descriptors() <= open + 1);
}

#[test]
fn client_that_leaves_during_a_response_leaves_no_reusable_connection() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&[]));
    let mut leaving = Client::connect(&proxy);
    leaving.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart");
    leaving.read_until(b"part");
    leaving.reset();
    conn.wait_closed();
    let mut next = Client::connect(&proxy);
    expect_fresh(&mut next, &origin);
}

#[test]
fn tls_connection_is_reused() {
    let (origin, proxy) = (TlsOrigin::answering(OK), Proxy::one_shard(&[]));
    for _ in 0..3 {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    // Tickets of TLS 1.3 arrive on the idle connection and are not poison.
    assert_eq!((origin.connections(), origin.full_handshakes()), (1, 1));
}

#[test]
fn thirty_two_connections_are_kept_by_default() {
    const CLIENTS: usize = 32;
    let all_here = Arc::new(Barrier::new(CLIENTS));
    let origin = Origin::start(move |mut conn| {
        while conn.try_read_request().is_some() {
            all_here.wait();
            conn.send(OK);
        }
    });
    let proxy = Proxy::one_shard(&[]);
    let mut clients = [(); CLIENTS].map(|()| Client::connect(&proxy));
    for _ in 0..2 {
        for client in &mut clients {
            client.get(&origin, "/");
        }
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "ok");
        }
    }
    assert_eq!(origin.connections(), CLIENTS);
}

#[test]
fn schemes_do_not_share_connections() {
    let (origin, proxy) = (TlsOrigin::answering(OK), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    assert_eq!(client.read_response().status, 200);
    let plain = format!("localhost.ccnproxy:{}", origin.addr().port());
    client.request("GET", &plain, "/", "", b"");
    client.read_error(502);
    client.request("GET", &origin.host(), "/", "", b"");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.connections(), 2);
}
