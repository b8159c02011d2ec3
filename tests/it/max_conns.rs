//! `--max-conns-per-host`: the bound holds for the whole process, and who waits is served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{Client, OK, Origin, Proxy, RefusingAddr, TlsOrigin, eventually};

/// An origin that takes `took` for each answer, and the most connections that were open to it at once.
fn slow_origin(took: Duration) -> (Origin, Arc<AtomicUsize>) {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let origin = Origin::start(move |mut conn| {
        seen.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
        while conn.try_read_request().is_some() {
            thread::sleep(took);
            if conn.try_send(OK).is_err() {
                break;
            }
        }
        open.fetch_sub(1, SeqCst);
    });
    (origin, most)
}

#[test]
fn bound_holds_over_all_shards_and_everybody_is_served() {
    let (origin, most) = slow_origin(Duration::from_millis(5));
    let proxy = Proxy::start(&["--cores", "4", "--max-conns-per-host", "3"]);
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                for _ in 0..10 {
                    // A fresh connection each, so that all shards are met.
                    let mut client = Client::connect(&proxy);
                    client.get(&origin, "/");
                    assert_eq!(client.read_response().text(), "ok");
                }
            });
        }
    });
    assert!(most.load(SeqCst) <= 3, "{most:?} connections at once");
    assert_eq!(origin.drain_requests().len(), 240);
}

#[test]
fn one_connection_serves_the_clients_of_every_shard() {
    let (origin, most) = slow_origin(Duration::ZERO);
    let proxy = Proxy::start(&["--cores", "4", "--max-conns-per-host", "1"]);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = Client::connect(&proxy);
                for _ in 0..20 {
                    client.get(&origin, "/");
                    assert_eq!(client.read_response().text(), "ok");
                }
            });
        }
    });
    assert_eq!(most.load(SeqCst), 1);
}

#[test]
fn waiting_in_vain_gets_503_within_the_connect_time_out() {
    let (origin, proxy) = (
        Origin::scripted(),
        Proxy::start(&["--cores", "2", "--max-conns-per-host", "1", "--connect-timeout", "1"]),
    );
    let mut busy = Client::connect(&proxy);
    busy.get(&origin, "/busy");
    let mut conn = origin.accept();
    conn.read_request();
    let mut late = Client::connect(&proxy);
    let begun = Instant::now();
    late.get(&origin, "/late");
    late.read_error(503);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    proxy.wait_for_log("--max-conns-per-host");
    late.expect_usable();
    conn.send(OK);
    assert_eq!(busy.read_response().text(), "ok");
}

#[test]
fn requests_of_a_shard_are_served_in_their_order() {
    let (origin, proxy) = (Origin::scripted(), Proxy::one_shard(&["--max-conns-per-host", "1"]));
    let mut first = Client::connect(&proxy);
    first.get(&origin, "/0");
    let mut conn = origin.accept();
    assert_eq!(conn.read_request().target, "/0");
    let mut waiting: Vec<Client> = (1..6)
        .map(|number| {
            let mut client = Client::connect(&proxy);
            client.get(&origin, &format!("/{number}"));
            // Answered by the same shard, so the request before it was taken in.
            let mut after = Client::connect(&proxy);
            after.send("GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n");
            after.read_error(400);
            client
        })
        .collect();
    conn.send(OK);
    for number in 1..6 {
        assert_eq!(conn.read_request().target, format!("/{number}"));
        conn.send(OK);
    }
    assert_eq!(first.read_response().text(), "ok");
    for client in &mut waiting {
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn connection_that_the_origin_ends_makes_room_for_the_next() {
    let origin = Origin::answering_once(OK);
    let flags = ["--cores", "2", "--max-conns-per-host", "1", "--warm-learned", "off"];
    let proxy = Proxy::start(&flags);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Client::connect(&proxy);
                client.get(&origin, "/");
                assert_eq!(client.read_response().text(), "ok");
            });
        }
    });
    assert_eq!(origin.connections(), 8);
}

#[test]
fn client_that_leaves_the_line_holds_nobody_up() {
    let (origin, proxy) =
        (Origin::scripted(), Proxy::start(&["--cores", "2", "--max-conns-per-host", "1"]));
    let mut busy = Client::connect(&proxy);
    busy.get(&origin, "/busy");
    let mut conn = origin.accept();
    conn.read_request();
    for _ in 0..4 {
        let mut gone = Client::connect(&proxy);
        gone.get(&origin, "/gone");
        gone.reset();
    }
    // One that is still taken for there is served first.
    let left =
        || proxy.access_log_lines().iter().filter(|line| line.get("status") == "499").count();
    eventually("four who left", || left() == 4);
    let mut next = Client::connect(&proxy);
    next.get(&origin, "/next");
    conn.send(OK);
    assert_eq!(busy.read_response().text(), "ok");
    let seen = conn.read_request();
    assert_eq!(seen.target, "/next");
    conn.send(OK);
    assert_eq!(next.read_response().text(), "ok");
}

#[test]
fn failed_dial_gives_its_permit_back() {
    let refusing = RefusingAddr::new();
    let proxy = Proxy::start(&["--cores", "2", "--max-conns-per-host", "1"]);
    for _ in 0..6 {
        let mut client = Client::connect(&proxy);
        client.request("GET", &refusing.host(), "/", "", b"");
        client.read_error(502);
    }
}

#[test]
fn idle_connection_that_is_closed_gives_its_permit_back() {
    let origin = Origin::answering(OK);
    let flags = [
        "--cores",
        "2",
        "--max-conns-per-host",
        "1",
        "--keepalive-timeout",
        "1",
        "--warm-learned",
        "off",
    ];
    let proxy = Proxy::start(&flags);
    for connections in 1..3 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, "/");
        assert_eq!(client.read_response().text(), "ok");
        eventually("the idle connection to be closed", || origin.open_connections() == 0);
        assert_eq!(origin.connections(), connections);
    }
}

#[test]
fn hosts_do_not_share_the_bound_and_tls_connections_travel() {
    let (one, two) = (TlsOrigin::answering(OK), TlsOrigin::answering(OK));
    let proxy = Proxy::start(&["--cores", "4", "--max-conns-per-host", "1"]);
    thread::scope(|scope| {
        for number in 0..12 {
            let origin = if number % 2 == 0 { &one } else { &two };
            let proxy = &proxy;
            scope.spawn(move || {
                for _ in 0..5 {
                    let mut client = Client::connect(proxy);
                    client.request("GET", &origin.host(), "/", "", b"");
                    assert_eq!(client.read_response().text(), "ok");
                }
            });
        }
    });
    assert!(one.open_connections() <= 1 && two.open_connections() <= 1);
}
