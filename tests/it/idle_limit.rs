//! Origins that close idle connections: after how long is learned, and no request pays for it.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, OK, Origin, OriginConn, Proxy, TlsOrigin, eventually};

/// Answers requests, and closes a connection that is idle for `limit`.
fn closing_after(limit: Duration) -> impl Fn(OriginConn) + Send + Sync + 'static {
    closing_after_or_fresh_after(limit, limit)
}

/// The same, but gives a connection another time until its first request, as most servers do.
fn closing_after_or_fresh_after(
    limit: Duration,
    fresh: Duration,
) -> impl Fn(OriginConn) + Send + Sync + 'static {
    move |mut conn| {
        let mut until = Instant::now() + fresh;
        loop {
            while !conn.has_bytes() {
                if Instant::now() >= until {
                    return conn.close();
                }
                thread::sleep(Duration::from_millis(2));
            }
            if conn.try_read_request().is_none() || conn.try_send(OK).is_err() {
                return;
            }
            until = Instant::now() + limit;
        }
    }
}

/// One request each `every`; how each got its connection.
fn paced(proxy: &Proxy, host: &str, method: &str, every: &[Duration]) -> Vec<String> {
    let before = proxy.access_log_lines().len();
    for pause in every {
        let due = Instant::now() + *pause;
        let mut client = Client::connect(proxy);
        client.request(method, host, "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
        drop(client);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    eventually("a line for each request", || {
        proxy.access_log_lines().len() == before + every.len()
    });
    let lines = proxy.access_log_lines();
    lines[before..].iter().map(|line| line.get("conn").to_owned()).collect()
}

const PLUS: [&str; 2] = ["--access-log-format", "json+"];

#[test]
fn requests_further_apart_than_the_limit_ride_warm_connections() {
    let origin = TlsOrigin::start(closing_after(Duration::from_secs(1)));
    let proxy = Proxy::one_shard(&PLUS);
    let how = paced(&proxy, &origin.host(), "GET", &[Duration::from_millis(1400); 6]);
    // The second request makes the origin one that is kept ready.
    assert!(how[2..].iter().all(|how| how == "reused"), "{how:?}");
    let handshakes = origin.full_handshakes() + origin.resumed_handshakes();
    // One for each part of a second in which none was idle long: 8.4 s, replaced after 375 ms at the earliest.
    assert!(handshakes <= 26, "{handshakes}");
}

#[test]
fn named_origin_is_warm_at_the_first_request_and_all_others() {
    let origin = TlsOrigin::start(closing_after(Duration::from_secs(1)));
    let url = format!("https://localhost:{}", origin.addr().port());
    let proxy = Proxy::one_shard(&[PLUS[0], PLUS[1], "--warm", &url]);
    eventually("a handshake", || origin.full_handshakes() == 1);
    let how = paced(&proxy, &origin.host(), "GET", &[Duration::from_millis(1400); 5]);
    assert!(how.iter().all(|how| how == "reused"), "{how:?}");
}

#[test]
fn posts_close_to_the_limit_neither_fail_nor_come_twice() {
    let origin = Origin::start(closing_after(Duration::from_secs(1)));
    let proxy = Proxy::one_shard(&PLUS);
    // The first two pauses are long, so that the limit is known; before, no proxy can know what it is about to meet.
    let close = (0..12).map(|n| Duration::from_millis(940 + 10 * n));
    let close: Vec<Duration> = [Duration::from_millis(1400); 2].into_iter().chain(close).collect();
    let how = paced(&proxy, &origin.host(), "POST", &close);
    assert!(how[2..].iter().all(|how| how == "reused"), "{how:?}");
    assert_eq!(origin.drain_requests().len(), close.len());
}

#[test]
fn connection_is_not_used_beyond_what_the_origin_says() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=99\r\nContent-Length: 2\r\n\r\nok",
    );
    let proxy = Proxy::one_shard(&["--warm-learned", "off"]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_response();
    assert_eq!(origin.open_connections(), 1);
    eventually("the idle connection to go", || origin.open_connections() == 0);
    client.get(&origin, "/");
    client.read_response();
    assert_eq!(origin.connections(), 2);
}

#[test]
fn limit_that_was_a_restart_is_found_out() {
    let origin = Origin::scripted();
    let proxy = Proxy::one_shard(&["--keepalive-timeout", "3s", "--warm-learned", "off"]);
    let mut client = Client::connect(&proxy);
    let mut exchange = || {
        client.get(&origin, "/");
        let mut conn = origin.accept();
        conn.read_request();
        conn.send(OK);
        assert_eq!(client.read_response().text(), "ok");
        conn
    };
    let mut restarting = exchange();
    thread::sleep(Duration::from_millis(800));
    restarting.half_close();
    // Who finds the end learns from it, and closes.
    restarting.wait_closed();
    // This one is too old for the limit soon, and then kept apart for as long as any is kept.
    let mut measured = exchange();
    let begun = Instant::now();
    measured.wait_closed_within(Duration::from_secs(8));
    assert!(begun.elapsed() >= Duration::from_millis(2900), "{:?}", begun.elapsed());
    // No limit any more.
    let mut next = exchange();
    let begun = Instant::now();
    next.wait_closed_within(Duration::from_secs(8));
    assert!(begun.elapsed() >= Duration::from_millis(2900), "{:?}", begun.elapsed());
}

#[test]
fn second_request_is_warm_though_the_origin_closed_the_connection_of_the_first() {
    let after = closing_after_or_fresh_after(Duration::from_secs(1), Duration::from_secs(20));
    let origin = TlsOrigin::start(after);
    let proxy = Proxy::start(&["--access-log-format", "json+", "--cores", "4"]);
    let how = paced(&proxy, &origin.host(), "GET", &[Duration::from_millis(1900); 5]);
    assert!(how[1..].iter().all(|how| how == "reused" || how == "lent"), "{how:?}");
    // One for each request, and those that measure how long a connection may live.
    let handshakes = origin.full_handshakes() + origin.resumed_handshakes();
    assert!(handshakes <= 16, "{handshakes}");
}

/// POSTs each of which comes about when the origin closes the connection of the one before; nothing was learned.
fn posts_are_warm_from_the_second_on(origin: &Origin, host: &str, cores: &str) {
    let proxy = Proxy::start(&["--access-log-format", "json+", "--cores", cores]);
    let close: Vec<Duration> =
        [1000, 1002, 990, 1004, 996, 998, 1000, 940, 1030, 1006].map(Duration::from_millis).into();
    let how = paced(&proxy, host, "POST", &close);
    assert!(how[1..].iter().all(|how| how == "reused" || how == "lent"), "{how:?}");
    assert_eq!(origin.drain_requests().len(), close.len(), "none is sent twice");
}

#[test]
fn posts_that_would_meet_an_unknown_limit_go_to_a_fresh_connection() {
    let after = closing_after_or_fresh_after(Duration::from_secs(1), Duration::from_secs(20));
    let origin = Origin::start(after);
    posts_are_warm_from_the_second_on(&origin, &origin.host(), "1");
}

#[test]
fn posts_that_would_meet_an_unknown_limit_get_a_fresh_connection_of_any_shard() {
    let after = closing_after_or_fresh_after(Duration::from_secs(1), Duration::from_secs(20));
    let origin = TlsOrigin::start(after);
    posts_are_warm_from_the_second_on(&origin, &origin.host(), "8");
}

#[test]
fn limit_that_gets_shorter_is_learned_and_nothing_is_cold_after() {
    let limit_ms = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(3000));
    let of_now = limit_ms.clone();
    let origin = Origin::start(move |mut conn: OriginConn| {
        loop {
            let idle_since = Instant::now();
            while !conn.has_bytes() {
                let limit = of_now.load(std::sync::atomic::Ordering::SeqCst);
                if idle_since.elapsed() >= Duration::from_millis(limit) {
                    return conn.close();
                }
                thread::sleep(Duration::from_millis(2));
            }
            if conn.try_read_request().is_none() || conn.try_send(OK).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::one_shard(&PLUS);
    let (host, second) = (origin.host(), Duration::from_secs(1));
    paced(&proxy, &host, "GET", &[second, 4 * second, second]);
    limit_ms.store(800, std::sync::atomic::Ordering::SeqCst);
    let how = paced(&proxy, &host, "GET", &[Duration::from_millis(1300); 5]);
    assert!(how[1..].iter().all(|how| how == "reused"), "{how:?}");
}
