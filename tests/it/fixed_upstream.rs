//! `--upstream`: all requests go to the addresses of one name, whatever their Host.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::support::dns::{loopback, to_ask_name_server, with_hosts};
use crate::support::{Client, OK, Origin, Proxy, TlsOrigin, eventually, status_of};

const OK_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

fn url(origin: &Origin) -> String {
    format!("http://127.0.0.1:{}/", origin.addr().port())
}

/// What the upstream sees of this request, after an answer came back.
#[track_caller]
fn seen(request: &str) -> crate::support::Request {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--upstream", &url(&origin)]);
    let mut client = Client::connect(&proxy);
    client.send(request);
    assert_eq!(client.read_response().text(), "ok");
    origin.next_request()
}

#[test]
fn host_is_passed_on_unchanged_and_decides_nothing() {
    for host in ["any.example:81", "example.com.ccnproxy-https", "CcnProxy", "127.0.0.1:1"] {
        let request = seen(&format!("GET /a?b HTTP/1.1\r\nX-A: 1\r\nhOST:  {host}\r\n\r\n"));
        assert_eq!(request.target, "/a?b");
        assert_eq!(
            request.head.lines_of_the_peer()[..2],
            ["X-A: 1".to_owned(), format!("hOST:  {host}")]
        );
    }
}

#[test]
fn request_without_host_gets_the_upstreams() {
    let request = seen("GET / HTTP/1.0\r\n\r\n");
    let host = request.head.field("Host").expect("a Host");
    assert!(host.starts_with("127.0.0.1:"), "{host}");
}

#[test]
fn authority_of_an_absolute_target_becomes_the_host() {
    let request = seen("GET http://other.example/a HTTP/1.1\r\nHost: x.example\r\n\r\n");
    assert_eq!(
        (request.target.as_str(), request.head.field("Host")),
        ("/a", Some("other.example"))
    );
}

#[test]
fn authority_that_two_readers_could_read_in_two_ways_is_refused() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--upstream", &url(&origin)]);
    for (target, host) in [
        ("http://user@other.example/", "x.example"),
        ("http://user:secret@other.example/", "x.example"),
        ("http:///path", "x.example"),
        ("http://a\\@b/", "x.example"),
        ("/", "user@x.example"),
        ("/", "x.example/path"),
        ("/", "x.example y.example"),
        ("/", "x.\u{e9}xample"),
        ("http://x.example/", "x.example#y"),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.read_response().status, 400, "{target} {host}");
    }
    assert_eq!(origin.connections(), 0);
    for host in ["", "x.example:81", "[2001:db8::1]:81", "x_y.example", "10.0.0.1"] {
        assert_eq!(status_of(&proxy, host), 200, "{host}");
    }
}

#[test]
fn loops_are_not_looked_for_and_the_mark_is_passed_on() {
    let request = seen("GET / HTTP/1.1\r\nHost: a\r\nX-Chocon-Ver: 0.12.6\r\n\r\n");
    assert_eq!(request.head.all("X-Chocon-Ver"), ["0.12.6"]);
    let request = seen("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!request.head.has("X-Chocon-Ver"), "another chocon would take it for a loop");
}

#[test]
fn chained_proxies_reach_the_origin_that_the_host_names() {
    let origin = Origin::answering(OK);
    let central = Proxy::start(&[]);
    let local = Proxy::start(&["--upstream", &format!("http://{}/", central.addr())]);
    assert_eq!(status_of(&local, &origin.host()), 200);
    let host = format!("127.0.0.1:{}", origin.addr().port());
    assert_eq!(origin.next_request().head.field("Host"), Some(host.as_str()));
}

#[test]
fn path_of_the_url_does_not_count() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--upstream", &format!("{}base/path?q", url(&origin))]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "a.example", "/x", "", b"");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.next_request().target, "/x");
}

#[test]
fn https_upstream_is_verified_by_its_name_and_not_by_the_host() {
    let origin = TlsOrigin::scripted();
    let url = format!("https://localhost:{}/", origin.addr().port());
    let proxy = Proxy::start(&["--upstream", &url]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "other.example", "/", "", b"");
    let mut conn = origin.accept();
    assert_eq!(conn.tls_names().0.as_deref(), Some("localhost"));
    assert_eq!(conn.read_request().head.field("Host"), Some("other.example"));
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn ipv6_literal_is_dialled() {
    let origin = Origin::answering_at((Ipv6Addr::LOCALHOST, 0).into(), OK);
    let proxy = Proxy::start(&["--upstream", &format!("http://[::1]:{}/", origin.addr().port())]);
    assert_eq!(status_of(&proxy, "a.example"), 200);
}

/// Origins at 127.0.0.1 and these further addresses, on one port.
fn at_several(further: &[u8], answer: &str) -> Vec<Origin> {
    let mut origins = vec![Origin::answering(answer)];
    let port = origins[0].addr().port();
    let at = |last: &u8| Origin::answering_at((loopback(*last), port).into(), answer);
    origins.extend(further.iter().map(at));
    origins
}

#[test]
fn address_with_the_fewest_requests_in_flight_is_taken() {
    let hosts = "127.0.0.1 up.test\n127.0.0.14 up.test\n127.0.0.15 up.test\n";
    let Some(options) = with_hosts("fewest", hosts) else { return };
    // Each answers its first request on every connection at once, and the path /hold never.
    let hold = |addr| {
        Origin::start_at(addr, |mut conn| {
            while let Some(request) = conn.try_read_request() {
                if request.target == "/hold" {
                    conn.wait_closed_within(Duration::from_secs(60));
                    return;
                }
                conn.send(OK);
            }
        })
    };
    let first = hold((Ipv4Addr::LOCALHOST, 0).into());
    let port = first.addr().port();
    let origins = [first, hold((loopback(14), port).into()), hold((loopback(15), port).into())];
    let proxy = options.flag("--upstream", &format!("http://up.test:{port}/")).start();
    let mut held = Vec::new();
    for round in 1..=3 {
        for _ in 0..3 {
            let mut client = Client::connect(&proxy);
            client.request("GET", "a.example", "/hold", "", b"");
            held.push(client);
            // In flight at the origin before the next is sent.
            let total = held.len();
            eventually("the request at an origin", || {
                origins.iter().map(Origin::connections).sum::<usize>() == total
            });
        }
        assert_eq!(origins.each_ref().map(Origin::connections), [round; 3]);
    }
}

#[test]
fn idle_addresses_are_drawn_by_chance_and_their_connections_kept() {
    let hosts = "127.0.0.1 up.test\n127.0.0.14 up.test\n127.0.0.15 up.test\n";
    let Some(options) = with_hosts("drawn", hosts) else { return };
    let origins = at_several(&[14, 15], OK);
    let port = origins[0].addr().port();
    let proxy = options.flag("--upstream", &format!("http://up.test:{port}/")).start();
    let mut client = Client::connect(&proxy);
    for _ in 0..60 {
        client.request("GET", "a.example", "/", "", b"");
        assert_eq!(client.read_response().status, 200);
    }
    for origin in &origins {
        assert_eq!(origin.connections(), 1, "one by one they need one connection each");
        let requests = origin.drain_requests().len();
        assert!((5..=40).contains(&requests), "{requests} of 60");
    }
}

#[test]
fn address_that_refuses_costs_no_request_and_is_used_again_once_it_answers() {
    let hosts = "127.0.0.1 up.test\n127.0.0.16 up.test\n";
    let Some(options) = with_hosts("refuses", hosts) else { return };
    let origin = Origin::answering(OK_CLOSE);
    let port = origin.addr().port();
    let proxy = options.flag("--upstream", &format!("http://up.test:{port}/")).start();
    (0..20).for_each(|_| assert_eq!(status_of(&proxy, "a.example"), 200));
    let back = Origin::answering_at((loopback(16), port).into(), OK_CLOSE);
    eventually("a request at the address that came back", || {
        assert_eq!(status_of(&proxy, "a.example"), 200);
        !back.drain_requests().is_empty()
    });
}

#[test]
fn all_addresses_refusing_get_502_and_the_log_names_each() {
    let hosts = "127.0.0.17 up.test\n127.0.0.18 up.test\n";
    let Some(options) = with_hosts("refuse-all", hosts) else { return };
    let spare = Origin::answering(OK);
    let port = spare.addr().port();
    let proxy = options.flag("--upstream", &format!("http://up.test:{port}/")).start();
    assert_eq!(status_of(&proxy, "a.example"), 502);
    let line = proxy.wait_for_log("origin/connect/unreached");
    for last in [17, 18] {
        let refused = format!("127.0.0.{last}:{port}: connection refused");
        assert!(line.contains(&refused), "no {refused:?} in {line}");
    }
}

#[test]
fn name_is_followed_within_seconds_whatever_its_ttl_and_what_it_left_gets_nothing() {
    let records = HashMap::from([("up.test", (vec![Ipv4Addr::LOCALHOST, loopback(19)], 300))]);
    let Some((server, options)) = to_ask_name_server("follow", records) else { return };
    let origins = at_several(&[19, 20], OK);
    let port = origins[0].addr().port();
    let proxy = options.flag("--upstream", &format!("http://up.test:{port}/")).start();
    let mut client = Client::connect(&proxy);
    let mut round = || {
        client.request("GET", "a.example", "/", "", b"");
        assert_eq!(client.read_response().status, 200);
    };
    (0..20).for_each(|_| round());
    assert!(origins[0].connections() > 0 && origins[1].connections() > 0);
    server.set("up.test", &[loopback(19), loopback(20)], 300);
    let moved = Instant::now();
    eventually("no connection to the address that is gone", || {
        round();
        origins[0].open_connections() == 0
    });
    assert!(moved.elapsed() < Duration::from_secs(6), "{:?}", moved.elapsed());
    origins[0].drain_requests();
    (0..30).for_each(|_| round());
    assert!(origins[0].drain_requests().is_empty());
    assert!(!origins[1].drain_requests().is_empty() && !origins[2].drain_requests().is_empty());
}

#[test]
fn name_without_an_address_fails_the_start_with_cause_and_remedy() {
    let Some((_server, options)) = to_ask_name_server("nowhere", HashMap::new()) else { return };
    let (status, _, stderr) = options.flag("--upstream", "http://nowhere.test/").run_to_end();
    assert_eq!(status.code(), Some(1), "{stderr}");
    for word in ["--upstream", "nowhere.test", "does not exist", "check the name"] {
        assert!(stderr.contains(word), "no {word:?} in {stderr}");
    }
}

#[test]
fn check_tells_of_a_name_without_an_address() {
    let Some((_server, options)) = to_ask_name_server("unchecked", HashMap::new()) else { return };
    let options = options.flag("--upstream", "http://nowhere.test/").env("CHOCON_CHECK", "true");
    let (status, _, stderr) = options.run_to_end();
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("nowhere.test has no address"), "{stderr}");
}

#[test]
fn named_floor_is_shared_out_over_the_addresses_before_any_request() {
    let hosts = "127.0.0.1 warm.test\n127.0.0.4 warm.test\n";
    let Some(options) = with_hosts("fixed-warm", hosts) else { return };
    let first = Origin::answering(OK);
    let port = first.addr().port();
    let second = Origin::answering_at((loopback(4), port).into(), OK);
    let url = format!("http://warm.test:{port}");
    let options = options.flag("--upstream", &url).flag("--warm", &format!("{url}/=4"));
    let proxy = options.flag("--warm-wait", "9s").start();
    eventually("two connections each", || (first.connections(), second.connections()) == (2, 2));
    for _ in 0..10 {
        assert_eq!(status_of(&proxy, "any.example"), 200);
    }
    assert_eq!((first.connections(), second.connections()), (2, 2));
}

#[test]
fn address_that_does_not_answer_costs_the_others_no_dial_after_dial() {
    let hosts = "127.0.0.1 half.test\n127.0.0.9 half.test\n";
    let Some(options) = with_hosts("fixed-half", hosts) else { return };
    let origin = Origin::answering(OK);
    let url = format!("http://half.test:{}", origin.addr().port());
    let options = options.flag("--upstream", &url).flag("--warm", &format!("{url}=4"));
    let proxy = options.flag("--warm-wait", "0").start();
    std::thread::sleep(Duration::from_secs(3));
    // Two of its own, and for the other address two at first, then one after each pause of 1 s and 2 s.
    assert!((2..=8).contains(&origin.connections()), "{}", origin.connections());
    assert_eq!(status_of(&proxy, "any.example"), 200);
}

#[test]
fn floor_that_no_request_would_reach_is_a_mistake() {
    let flags = ["--upstream", "https://a.test", "--warm", "https://b.test=2", "--check"];
    let (status, _, stderr) = Proxy::options(&flags).run_to_end();
    assert_eq!(status.code(), Some(2));
    let said = "--warm: https://b.test:443 is reached by no request, for --upstream leads them all to \
                https://a.test:443; name that one";
    assert!(stderr.contains(said), "{stderr}");
}
