//! Hostile origins and clients: no client ever receives another's bytes, and nobody is starved.

use std::thread;
use std::time::Duration;

use crate::support::tokens::{self, body_of, judge, kind_of};
use crate::support::{Client, OK, Origin, OriginConn, Proxy, Request, TlsOrigin, eventually};

const CLIENTS: usize = 16;

/// Answers with the token of the request, or misbehaves, as the token itself decides.
fn hostile(mut conn: OriginConn) {
    conn.set_deadline(Duration::from_secs(120));
    while let Some(request) = conn.try_read_request() {
        match misbehave(conn, &request) {
            Some(usable) => conn = usable,
            None => return,
        }
    }
}

/// Over-sends stand in one write with the answer. What arrives after the next request has gone out
/// is, to any reader of HTTP/1.1, an answer to it; the pool's own cases cover what arrives before.
fn misbehave(mut conn: OriginConn, request: &Request) -> Option<OriginConn> {
    let number: usize = request.target.trim_start_matches('/').parse().expect("a token");
    let (kind, body) = (kind_of(number), body_of(number));
    let fixed = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nEVIL!";
    let half = |answer: &str| answer[..answer.len() - 1 - body.len() / 2].to_owned();
    // Where the proxy has gone away meanwhile, the next read notices.
    match kind % 23 {
        0 => drop(conn.try_send(format!("{fixed}{evil}"))),
        1 => drop(conn.try_send(format!("{chunked}{evil}"))),
        2 => drop(conn.try_send("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nEVIL!")),
        3 => {
            drop(conn.try_send(half(&fixed)));
            return None;
        }
        4 => {
            drop(conn.try_send(half(&chunked)));
            return None;
        }
        5 => {
            drop(conn.try_send(half(&fixed)));
            conn.reset();
            return None;
        }
        6 => return None,
        7 => {
            conn.reset();
            return None;
        }
        8 => drop(conn.try_send("rubbish\r\n\r\n")),
        9 => {
            drop(conn.try_send(format!("HTTP/1.1 200 OK\r\n\r\n{body}")));
            conn.close();
            return None;
        }
        10 => {
            drop(conn.try_send(&fixed));
            conn.close();
            return None;
        }
        11 => {
            drop(conn.try_send(&fixed));
            conn.reset();
            return None;
        }
        12 if kind.is_multiple_of(11) => {
            // Longer than the proxy waits; then the answer comes after all.
            thread::sleep(Duration::from_millis(300));
            drop(conn.try_send(&fixed));
        }
        13 if kind.is_multiple_of(11) => {
            drop(conn.try_send(half(&fixed)));
            thread::sleep(Duration::from_millis(20));
            drop(conn.try_send(&fixed[fixed.len() - 1 - body.len() / 2..]));
        }
        14 => drop(conn.try_send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{fixed}"))),
        15 => drop(conn.try_send(&chunked)),
        _ => drop(conn.try_send(&fixed)),
    }
    Some(conn)
}

/// Every answer is the asker's own, a beginning of it that looks cut, or an honest error.
fn ask_all(proxy: &Proxy, host: &str) {
    let own = tokens::ask_all(proxy, CLIENTS, |client, number| {
        client.request("GET", host, &format!("/{number}"), "", b"");
    });
    assert!(own > tokens::count() / 3, "only {own} of {} were answered in full", tokens::count());
}

#[test]
fn no_client_receives_anothers_bytes_over_a_hostile_origin() {
    let origin = Origin::start(hostile);
    let proxy = Proxy::start(&["--proxy-read-timeout", "200ms", "--access-log-dir", "none"]);
    ask_all(&proxy, &origin.host());
}

#[test]
fn no_client_receives_anothers_bytes_over_a_hostile_tls_origin() {
    let origin = TlsOrigin::start(hostile);
    let proxy = Proxy::start(&["--proxy-read-timeout", "500ms", "--access-log-dir", "none"]);
    ask_all(&proxy, &origin.host());
}

#[test]
fn no_client_receives_anothers_bytes_when_clients_leave_at_any_time() {
    let origin = Origin::start(|mut conn| {
        while let Some(request) = conn.try_read_request() {
            let number = request.target.trim_start_matches('/').parse().expect("a token");
            let body = body_of(number);
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            let (first, second) = answer.split_at(answer.len() / 2);
            if conn.try_send(first).and_then(|()| conn.try_send(second)).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&["--access-log-dir", "none"]);
    let rounds = tokens::count() / 10;
    thread::scope(|scope| {
        for part in 0..8 {
            let (origin, proxy) = (&origin, &proxy);
            scope.spawn(move || {
                for number in (part..rounds).step_by(8) {
                    let mut client = Client::connect(proxy);
                    client.get(origin, &format!("/{number}"));
                    match number % 5 {
                        0 => client.reset(),
                        1 => drop(client),
                        2 => {
                            client.read_until(b"HTTP/1.1 2");
                            client.reset();
                        }
                        3 => {
                            client.half_close();
                            assert!(judge(&mut client, number));
                        }
                        _ => assert!(judge(&mut client, number)),
                    }
                }
            });
        }
    });
    Client::connect(&proxy).expect_usable();
}

#[test]
fn thousand_idle_connections_leave_room_for_one_more() {
    raise_own_limit();
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut idle: Vec<_> = (0..1000).map(|_| Client::connect(&proxy)).collect();
    for client in idle.iter_mut().step_by(10) {
        client.get(&origin, "/");
        assert_eq!(client.read_response().status, 200);
    }
    Client::connect(&proxy).expect_usable();
    let before = proxy.open_descriptors();
    assert!(before > 1000);
    drop(idle);
    eventually("their descriptors to be given back", || proxy.open_descriptors() < 200);
}

#[test]
fn slow_heads_starve_nobody_and_all_end_with_408() {
    let proxy = Proxy::start(&["--read-timeout", "500ms"]);
    let mut slow: Vec<_> = (0..200).map(|_| Client::connect(&proxy)).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nX-Slow: ");
    }
    Client::connect(&proxy).expect_usable();
    for client in &mut slow {
        client.expect_refusal(408);
    }
}

#[test]
fn slow_bodies_starve_nobody_and_all_end_with_408() {
    let origin = Origin::start(|mut conn| drop(conn.read_to_end()));
    let proxy = Proxy::start(&["--read-timeout", "500ms", "--warm-learned=off"]);
    let mut slow: Vec<_> = (0..100).map(|_| Client::connect(&proxy)).collect();
    for client in &mut slow {
        client.request("POST", &origin.host(), "/", "Content-Length: 10\r\n", b"");
        client.send("x");
    }
    Client::connect(&proxy).expect_usable();
    for client in &mut slow {
        client.expect_refusal(408);
    }
    eventually("the origin's connections to be closed", || origin.open_connections() == 0);
}

#[test]
fn random_bytes_never_end_the_process() {
    let mut proxy = Proxy::start(&[]);
    let noise = crate::support::pattern(64 * 1024);
    for block in noise.chunks(512) {
        let mut client = Client::connect(&proxy);
        // The proxy may close in the middle of it.
        drop(client.try_send(block));
        client.half_close();
        client.read_to_end();
    }
    assert!(proxy.is_running());
    Client::connect(&proxy).expect_usable();
}

#[test]
fn random_bytes_from_an_origin_never_end_the_process() {
    let origin = Origin::start(|mut conn| {
        if let Some(request) = conn.try_read_request() {
            let number: usize = request.target.trim_start_matches('/').parse().expect("a number");
            let noise = crate::support::pattern(64 * 1024);
            drop(conn.try_send(&noise[number * 512..(number + 1) * 512]));
            conn.close();
        }
    });
    let mut proxy = Proxy::start(&[]);
    for number in 0..128 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, &format!("/{number}"));
        client.read_error(502);
    }
    assert!(proxy.is_running());
}

/// This process holds as many descriptors as the proxy under test.
fn raise_own_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is live and of the type that both calls expect.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}
