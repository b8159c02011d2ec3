//! `--busy-poll`: a shard without work looks for more before it sleeps.

use std::time::{Duration, Instant};

use crate::support::{Client, OK, Origin, Proxy, eventually};

#[test]
fn shard_looks_for_work_after_a_request_and_sleeps_again() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&["--busy-poll", "500ms"]));
    let mut client = Client::connect(&proxy);
    // Without the flag this takes some 50 µs a request.
    let begun = proxy.cpu_time();
    let mut requests = 0;
    eventually("a shard that spins", || {
        client.get(&origin, "/");
        assert_eq!(client.read_response().text(), "ok");
        requests += 1;
        proxy.cpu_time() - begun > Duration::from_millis(300)
    });
    assert!(requests < 1000, "{requests} requests took the time themselves");
    let mut looked = (Instant::now(), proxy.cpu_time());
    eventually("a shard that sleeps", || {
        let sleeps = proxy.cpu_time() - looked.1 <= Duration::from_millis(10);
        let is_long = looked.0.elapsed() >= Duration::from_millis(300);
        if is_long && !sleeps {
            looked = (Instant::now(), proxy.cpu_time());
        }
        is_long && sleeps
    });
    client.get(&origin, "/");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn deadlines_pass_while_a_shard_spins() {
    let flags = ["--busy-poll", "1s", "--read-timeout", "300ms"];
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&flags));
    let (mut slow, mut busy) = (Client::connect(&proxy), Client::connect(&proxy));
    slow.send("GET / HTTP/1.1\r\nHost: a");
    let begun = Instant::now();
    // More than one request a second: the shard never sleeps.
    while begun.elapsed() < Duration::from_millis(600) {
        busy.get(&origin, "/");
        assert_eq!(busy.read_response().text(), "ok");
    }
    slow.expect_refusal(408);
}

#[test]
fn process_that_spins_ends_in_order() {
    let (origin, mut proxy) = (Origin::answering(OK), Proxy::start(&["--busy-poll", "1s"]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    assert_eq!(client.read_response().text(), "ok");
    drop(client);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}
