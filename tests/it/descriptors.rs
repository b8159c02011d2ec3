//! Exhausted descriptors: no spinning, no dying, and service again once there are some.

use std::fs;
use std::time::Duration;

use crate::support::{Client, OK, Origin, Proxy, TlsOrigin, eventually};

/// Enough for two rings, listeners and logs, and for some tens of connections a shard.
const FEW: u64 = 320;

fn exhausted() -> (Origin, Proxy, Vec<Client>) {
    let (origin, proxy) = (Origin::answering(OK), Proxy::options(&[]).nofile(FEW).start());
    let clients = (0..FEW * 2).map(|_| Client::connect(&proxy)).collect();
    (origin, proxy, clients)
}

#[test]
fn exhaustion_does_not_spin() {
    let (_origin, mut proxy, _clients) = exhausted();
    let before = proxy.cpu_time();
    // Time must pass for a spinning process to be told from a resting one.
    std::thread::sleep(Duration::from_millis(700));
    let spent = proxy.cpu_time() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU in 700 ms");
    assert!(proxy.is_running());
}

#[test]
fn service_resumes_once_descriptors_are_given_back() {
    let (_origin, proxy, clients) = exhausted();
    drop(clients);
    Client::connect(&proxy).expect_usable();
    for _ in 0..10 {
        Client::connect(&proxy).expect_usable();
    }
}

#[test]
fn connection_that_was_there_before_is_served_during_exhaustion() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::options(&[]).nofile(FEW).start();
    let mut early = Client::connect(&proxy);
    early.get(&origin, "/");
    early.read_response();
    let _clients: Vec<_> = (0..FEW * 2).map(|_| Client::connect(&proxy)).collect();
    // A connection cap below the limit leaves descriptors for the way to the origins.
    early.expect_usable();
}

#[test]
fn waiting_connection_is_served_when_its_turn_comes() {
    let (origin, _proxy, mut clients) = exhausted();
    let mut last = clients.pop().expect("a client");
    last.get(&origin, "/");
    drop(clients);
    assert_eq!(last.read_response().text(), "ok");
}

#[test]
fn origins_take_no_more_descriptors_than_there_are() {
    let origin = TlsOrigin::start(|mut conn| {
        conn.read_request();
        // Holds the answer back until the proxy gives up or the client leaves.
        conn.read_to_end();
    });
    let mut proxy = Proxy::options(&["--proxy-read-timeout", "1s"]).nofile(FEW).start();
    let mut clients: Vec<_> = (0..FEW).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.request("GET", &origin.host(), "/", "", b"");
    }
    let response = clients[0].read_response();
    assert!(matches!(response.status, 502..=504), "{}", response.status);
    drop(clients);
    eventually("service again", || {
        let mut client = Client::connect(&proxy);
        client.request("GET", "127.0.0.1", "/", "", b"");
        client.read_response().status == 400
    });
    assert!(proxy.is_running());
}

#[test]
fn idle_connections_make_room_for_another_origin() {
    // More origins than there are descriptors for connections to them, one request each.
    let proxy = Proxy::options(&["--cores", "1"]).nofile(FEW).start();
    let mut client = Client::connect(&proxy);
    let origins: Vec<_> = (0..FEW).map(|_| Origin::answering(OK)).collect();
    for origin in &origins {
        client.get(origin, "/");
        assert_eq!(client.read_response().status, 200);
    }
}

#[test]
fn soft_limit_is_raised_to_the_hard_one() {
    let proxy = Proxy::options(&[]).soft_nofile(64).start();
    let path = format!("/proc/{}/limits", proxy.pid());
    let limits = fs::read_to_string(path).expect("limits of the process");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
}

#[test]
fn shards_without_room_for_a_connection_are_refused_with_cause_and_remedy() {
    for (flags, status) in [(&["--cores=64"][..], 1), (&["--cores=64", "--check"], 2)] {
        let (exit, _, stderr) = Proxy::options(flags).nofile(FEW).run_to_end();
        assert_eq!(exit.code(), Some(status), "{stderr}");
        let said = "320 open files are too few for 64 shards";
        assert!(stderr.contains(said) && stderr.contains("LimitNOFILE="), "{stderr}");
    }
}

#[test]
fn shards_on_the_fewest_descriptors_that_do_serve() {
    let (_, _, stderr) = Proxy::options(&["--cores=64"]).nofile(FEW).run_to_end();
    let number = stderr.split("which need ").nth(1).and_then(|rest| rest.split(' ').next());
    let least: u64 = number.and_then(|number| number.parse().ok()).expect("a number");
    let origin = Origin::answering(OK);
    let proxy = Proxy::options(&["--cores=64", "--log-level=info"]).nofile(least).start();
    for _ in 0..64 {
        let mut client = Client::connect(&proxy);
        client.get(&origin, "/");
        assert_eq!(client.read_response().status, 200);
    }
    assert!(!proxy.log().contains("Too many open files"), "{}", proxy.log());
}
