//! Names: resolved off the shards, every address tried, answers kept for their time.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::dns::{
    Mood, NameServer, loopback, to_ask_name_server, with_hosts, with_name_server,
};
use crate::support::proxy::can_mount;
use chocon_uring::limits::LOOKUPS_PER_SHARD_MAX;

use crate::support::client::is_quiet;
use crate::support::{
    Client, MuteAddr, OK, Origin, Proxy, eventually, not_run, scratch_file, status_of,
};

/// Every answer closes, so that every request dials and asks for its name.
const OK_CLOSE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn name_of_the_hosts_file_is_dialled() {
    let Some(options) = with_hosts("known", "127.0.0.1 origin.test\n") else { return };
    let (origin, proxy) = (Origin::answering(OK), options.start());
    let host = format!("origin.test.ccnproxy:{}", origin.addr().port());
    assert_eq!(status_of(&proxy, &host), 200);
    let seen = format!("origin.test:{}", origin.addr().port());
    assert_eq!(origin.next_request().head.field("Host"), Some(seen.as_str()));
}

#[test]
fn earlier_label_is_part_of_the_name() {
    let Some(options) = with_hosts("label", "127.0.0.1 a.ccnproxy.test\n") else { return };
    let (origin, proxy) = (Origin::answering(OK), options.start());
    let host = format!("a.ccnproxy.test.ccnproxy:{}", origin.addr().port());
    assert_eq!(status_of(&proxy, &host), 200);
    let seen = format!("a.ccnproxy.test:{}", origin.addr().port());
    assert_eq!(origin.next_request().head.field("Host"), Some(seen.as_str()));
}

#[test]
fn second_address_is_tried_when_the_first_refuses() {
    let hosts = "127.0.0.9 two.test\n127.0.0.1 two.test\n";
    let Some(options) = with_hosts("refusing", hosts) else { return };
    let (origin, proxy) = (Origin::answering(OK_CLOSE), options.start());
    for _ in 0..4 {
        let host = format!("two.test.ccnproxy:{}", origin.addr().port());
        assert_eq!(status_of(&proxy, &host), 200);
    }
}

#[test]
fn mute_address_costs_one_request_a_quarter_of_a_second_and_no_other() {
    let hosts = "127.0.0.8 two.test\n127.0.0.1 two.test\n";
    let Some(options) = with_hosts("mute", hosts) else { return };
    let origin = Origin::answering(OK_CLOSE);
    let _mute = MuteAddr::at(loopback(8), origin.addr().port());
    let proxy = options.flag("--connect-timeout", "30s").start();
    let host = format!("two.test.ccnproxy:{}", origin.addr().port());
    let mut slow = 0;
    for _ in 0..12 {
        let started = Instant::now();
        assert_eq!(status_of(&proxy, &host), 200);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        slow += usize::from(took >= Duration::from_millis(240));
    }
    // Which is first is up to chance; once it lost it is put aside. (A busy machine may be slow by itself, once.)
    assert!(slow <= 2, "{slow} of 12 requests waited");
}

#[test]
fn address_that_refused_is_tried_again_in_the_background_and_then_used() {
    let hosts = "127.0.0.7 back.test\n127.0.0.1 back.test\n";
    let Some(options) = with_hosts("back", hosts) else { return };
    let (origin, proxy) = (Origin::answering(OK_CLOSE), options.start());
    let port = origin.addr().port();
    let host = format!("back.test.ccnproxy:{port}");
    (0..8).for_each(|_| assert_eq!(status_of(&proxy, &host), 200));
    let returned = Origin::answering_at((loopback(7), port).into(), OK_CLOSE);
    // Of two addresses the one that is less busy for its speed is dialled. The handshake with which this one was tried may
    // have been a slow one, so the other becomes busier with each request whose body does not come.
    let mut unfinished = Vec::new();
    eventually("a request on the address that came back", || {
        let mut client = Client::connect(&proxy);
        client.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\n"));
        unfinished.push(client);
        assert_eq!(status_of(&proxy, &host), 200);
        !returned.drain_requests().is_empty()
    });
}

#[test]
fn all_addresses_of_a_name_are_used() {
    let hosts = "127.0.0.1 many.test\n127.0.0.4 many.test\n127.0.0.5 many.test\n";
    let Some(options) = with_hosts("many", hosts) else { return };
    let first = Origin::answering(OK);
    let port = first.addr().port();
    let at = |last| Origin::answering_at((loopback(last), port).into(), OK);
    let (second, third) = (at(4), at(5));
    let proxy = options.start();
    let host = format!("many.test.ccnproxy:{port}");
    // None is given back before all have been taken, so that each request has a connection of its own.
    let mut clients: Vec<Client> = (0..30).map(|_| Client::connect(&proxy)).collect();
    clients
        .iter_mut()
        .for_each(|client| client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n")));
    clients.iter_mut().for_each(|client| client.send("\r\n"));
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    let used = [&first, &second, &third].map(Origin::connections);
    assert!(used.iter().all(|connections| *connections > 0), "{used:?}");
}

#[test]
fn all_addresses_refusing_get_502_and_the_log_names_each() {
    let hosts = "127.0.0.8 two.test\n127.0.0.9 two.test\n";
    let Some(options) = with_hosts("none", hosts) else { return };
    let (origin, proxy) = (Origin::answering(OK), options.start());
    let port = origin.addr().port();
    assert_eq!(status_of(&proxy, &format!("two.test.ccnproxy:{port}")), 502);
    let line = proxy.wait_for_log("origin/connect/unreached");
    for last in [8, 9] {
        let refused = format!("127.0.0.{last}:{port}: connection refused");
        assert!(line.contains(&refused), "no {refused:?} in {line}");
    }
}

#[test]
fn silent_addresses_get_504_in_time_and_the_log_names_each() {
    let hosts = "127.0.0.8 two.test\n127.0.0.9 two.test\n";
    let Some(options) = with_hosts("silent", hosts) else { return };
    let mute = MuteAddr::at(loopback(8), 0);
    let port = mute.addr.port();
    let proxy = options.flag("--connect-timeout", "900ms").start();
    let started = Instant::now();
    assert_eq!(status_of(&proxy, &format!("two.test.ccnproxy:{port}")), 504);
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    let line = proxy.wait_for_log("origin/connect/timed-out");
    assert!(line.contains(&format!("127.0.0.8:{port}: no answer in ")), "{line}");
    assert!(line.contains(&format!("127.0.0.9:{port}: connection refused")), "{line}");
}

#[test]
fn name_that_does_not_exist_gets_502() {
    let Some((_server, proxy)) = with_name_server("missing", HashMap::new()) else { return };
    assert_eq!(status_of(&proxy, "missing.test.ccnproxy:80"), 502);
    proxy.wait_for_log("missing.test");
}

#[test]
fn name_that_does_not_exist_is_asked_for_once_in_a_while() {
    let Some((server, proxy)) = with_name_server("negative", HashMap::new()) else { return };
    assert_eq!(status_of(&proxy, "missing.test.ccnproxy:80"), 502);
    let asked = server.times_asked("missing.test");
    assert!(asked > 0);
    for _ in 0..5 {
        assert_eq!(status_of(&proxy, "missing.test.ccnproxy:80"), 502);
    }
    assert_eq!(server.times_asked("missing.test"), asked);
}

#[test]
fn answer_is_kept_for_its_time_to_live() {
    let records = HashMap::from([("kept.test", (vec![Ipv4Addr::LOCALHOST], 300))]);
    let Some((server, options)) = to_ask_name_server("kept", records) else { return };
    // Each connection is made for a request.
    let proxy = options.flag("--warm-learned", "off").start();
    let origin = Origin::answering(OK_CLOSE);
    for _ in 0..5 {
        let host = format!("kept.test.ccnproxy:{}", origin.addr().port());
        assert_eq!(status_of(&proxy, &host), 200);
    }
    assert_eq!((origin.connections(), server.times_asked("kept.test")), (5, 1));
}

#[test]
fn answer_is_asked_for_again_after_its_time_to_live() {
    let records = HashMap::from([("brief.test", (vec![Ipv4Addr::LOCALHOST], 1))]);
    let Some((server, proxy)) = with_name_server("brief", records) else { return };
    let origin = Origin::answering(OK_CLOSE);
    let host = format!("brief.test.ccnproxy:{}", origin.addr().port());
    eventually("a second question", || {
        assert_eq!(status_of(&proxy, &host), 200);
        server.times_asked("brief.test") >= 2
    });
}

/// Sends requests until `done`, each on a connection of its own to proxy and origin. Returns how many took `slow` or
/// longer.
#[track_caller]
fn slow_until(proxy: &Proxy, host: &str, slow: Duration, mut done: impl FnMut() -> bool) -> usize {
    let mut count = 0;
    eventually("the end of a series of requests", || {
        let started = Instant::now();
        assert_eq!(status_of(proxy, host), 200);
        count += usize::from(started.elapsed() >= slow);
        done()
    });
    count
}

#[test]
fn name_in_use_is_looked_up_ahead_and_no_request_waits_for_it() {
    let records = HashMap::from([("hot.test", (vec![Ipv4Addr::LOCALHOST], 1))]);
    let Some((server, proxy)) = with_name_server("hot", records) else { return };
    let origin = Origin::answering(OK_CLOSE);
    let host = format!("hot.test.ccnproxy:{}", origin.addr().port());
    assert_eq!(status_of(&proxy, &host), 200);
    // Longer than the time ahead, which is a quarter of the TTL: the old answer has to bridge the rest.
    let late = Duration::from_millis(400);
    server.turn(Mood::Dawdles(late));
    let asked = || server.times_asked("hot.test");
    let slow = slow_until(&proxy, &host, late, || asked() >= 6);
    // A busy machine may be slow by itself, once.
    assert!(slow <= 1, "{slow} requests waited while the name was looked up {} times", asked());
}

#[test]
fn name_with_an_idle_connection_is_kept_fresh_without_requests() {
    let records = HashMap::from([("idle.test", (vec![Ipv4Addr::LOCALHOST], 1))]);
    let Some((server, proxy)) = with_name_server("idle", records) else { return };
    let origin = Origin::answering(OK);
    assert_eq!(status_of(&proxy, &format!("idle.test.ccnproxy:{}", origin.addr().port())), 200);
    eventually("look-ups without requests", || server.times_asked("idle.test") >= 4);
}

/// Once the name server is in this mood, requests go on as before, and one line says why.
#[track_caller]
fn old_addresses_serve(name: &'static str, mood: Mood, cause: &str) {
    let records = HashMap::from([(name, (vec![Ipv4Addr::LOCALHOST], 1))]);
    let Some((server, proxy)) = with_name_server(name, records) else { return };
    let origin = Origin::answering(OK_CLOSE);
    let host = format!("{name}.ccnproxy:{}", origin.addr().port());
    assert_eq!(status_of(&proxy, &host), 200);
    server.turn(mood);
    let (asked, since) = (server.times_asked(name), Instant::now());
    let second = Duration::from_secs(1);
    let slow = slow_until(&proxy, &host, second, || {
        // Past the TTL, with a look-up that was in vain.
        since.elapsed() > second * 3 && server.times_asked(name) > asked
    });
    assert!(slow <= 1, "{slow} requests waited");
    let warning = format!("{name}: {cause}");
    proxy.wait_for_log(&warning);
    assert_eq!(proxy.log().matches(&warning).count(), 1, "{}", proxy.log());
    server.turn(Mood::Answers);
    proxy.wait_for_log(&format!("{name}: the look-up succeeds again"));
}

#[test]
fn old_addresses_serve_while_the_name_server_fails() {
    old_addresses_serve("frail.test", Mood::Fails, "the look-up failed");
}

#[test]
fn old_addresses_serve_while_the_name_server_is_silent() {
    old_addresses_serve("still.test", Mood::Silent, "no name server answered in time");
}

#[test]
fn name_server_that_drops_questions_for_ipv6_costs_one_request_a_moment() {
    let records = HashMap::from([("v4.test", (vec![Ipv4Addr::LOCALHOST], 300))]);
    let Some((server, proxy)) = with_name_server("v4", records) else { return };
    server.turn(Mood::SilentForV6);
    let origin = Origin::answering(OK_CLOSE);
    let host = format!("v4.test.ccnproxy:{}", origin.addr().port());
    let started = Instant::now();
    assert_eq!(status_of(&proxy, &host), 200);
    let first = started.elapsed();
    assert!(first >= Duration::from_millis(50) && first < Duration::from_millis(900), "{first:?}");
}

#[test]
fn shards_share_what_one_of_them_looked_up() {
    let records = HashMap::from([("shared.test", (vec![Ipv4Addr::LOCALHOST], 300))]);
    let Some(server) = NameServer::start(records) else {
        return crate::support::not_run("no right to bind port 53");
    };
    if !can_mount() {
        return crate::support::not_run("no right to mount a resolv.conf for one process");
    }
    let resolv = format!("nameserver {}\noptions timeout:1 attempts:1\n", server.ip);
    let resolv = scratch_file("shared-resolv", &resolv);
    let options = Proxy::options(&["--cores", "4"]).mount(&resolv, "/etc/resolv.conf");
    let (origin, proxy) = (Origin::answering(OK_CLOSE), options.start());
    let host = format!("shared.test.ccnproxy:{}", origin.addr().port());
    for _ in 0..40 {
        assert_eq!(status_of(&proxy, &host), 200);
    }
    assert_eq!(server.times_asked("shared.test"), 1);
}

#[test]
fn idle_connection_to_an_address_that_the_name_left_is_closed() {
    let records = HashMap::from([("moves.test", (vec![Ipv4Addr::LOCALHOST], 2))]);
    let Some((server, proxy)) = with_name_server("moves", records) else { return };
    let old = Origin::answering(OK);
    let port = old.addr().port();
    let new = Origin::answering_at((loopback(4), port).into(), OK);
    let host = format!("moves.test.ccnproxy:{port}");
    assert_eq!(status_of(&proxy, &host), 200);
    assert_eq!(old.open_connections(), 1);
    server.set("moves.test", &[loopback(4)], 2);
    let moved = Instant::now();
    eventually("no connection to the old address", || old.open_connections() == 0);
    let took = moved.elapsed();
    assert!(took < Duration::from_secs(4), "the TTL is 2 s: {took:?}");
    assert_eq!(status_of(&proxy, &host), 200);
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

#[test]
fn busy_connection_to_an_address_that_the_name_left_is_closed_after_its_request() {
    let records = HashMap::from([("moved.test", (vec![Ipv4Addr::LOCALHOST], 1))]);
    let Some((server, proxy)) = with_name_server("moved", records) else { return };
    let (answer, may_answer) = std::sync::mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let old = Origin::start(move |mut conn| {
        let request = conn.read_request();
        if request.target == "/slow" {
            may_answer.lock().expect("a channel").recv().expect("leave to answer");
            conn.send(OK);
            conn.wait_closed();
        } else {
            conn.send(OK_CLOSE);
        }
    });
    let port = old.addr().port();
    let new = Origin::answering_at((loopback(4), port).into(), OK_CLOSE);
    let host = format!("moved.test.ccnproxy:{port}");
    let mut client = Client::connect(&proxy);
    client.request("GET", &host, "/slow", "", b"");
    assert_eq!(old.next_request().target, "/slow");
    server.set("moved.test", &[loopback(4)], 1);
    eventually("a request at the new address", || {
        assert_eq!(status_of(&proxy, &host), 200);
        new.connections() > 0
    });
    assert_eq!(old.open_connections(), 1, "the request under way is not disturbed");
    answer.send(()).expect("the origin waits");
    assert_eq!(client.read_response().text(), "ok");
    eventually("no connection to the old address", || old.open_connections() == 0);
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(old.drain_requests().iter().filter(|request| request.target == "/slow").count(), 0);
}

#[test]
fn moving_under_load_empties_the_old_address_without_an_error() {
    let records = HashMap::from([("load.test", (vec![Ipv4Addr::LOCALHOST], 2))]);
    let Some((server, proxy)) = with_name_server("load", records) else { return };
    let old = Origin::answering(OK);
    let port = old.addr().port();
    let new = Origin::answering_at((loopback(4), port).into(), OK);
    let host = format!("load.test.ccnproxy:{port}");
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(&proxy)).collect();
    let mut round = || {
        clients.iter_mut().for_each(|client| client.request("GET", &host, "/", "", b""));
        clients.iter_mut().for_each(|client| assert_eq!(client.read_response().status, 200));
    };
    (0..20).for_each(|_| round());
    server.set("load.test", &[loopback(4)], 2);
    let moved = Instant::now();
    eventually("no connection to the old address", || {
        round();
        old.open_connections() == 0
    });
    assert!(moved.elapsed() < Duration::from_secs(4), "{:?}", moved.elapsed());
    let before = old.connections();
    (0..20).for_each(|_| round());
    assert_eq!(old.connections(), before);
    assert!(new.connections() > 0);
}

#[test]
fn moving_makes_a_connection_to_the_new_address_well_before_it_ends_the_old_one() {
    let records = HashMap::from([("ahead.test", (vec![Ipv4Addr::LOCALHOST], 2))]);
    let Some((server, proxy)) = with_name_server("ahead", records) else { return };
    let (ends, ended) = std::sync::mpsc::channel();
    let old = Origin::start(move |conn| {
        conn.answer_all(OK.as_bytes());
        ends.send(Instant::now()).ok();
    });
    let port = old.addr().port();
    let (begins, begun) = std::sync::mpsc::channel();
    let new = Origin::start_at((loopback(4), port).into(), move |conn| {
        begins.send(Instant::now()).ok();
        conn.answer_all(OK.as_bytes());
    });
    let host = format!("ahead.test.ccnproxy:{port}");
    (0..3).for_each(|_| assert_eq!(status_of(&proxy, &host), 200));
    server.set("ahead.test", &[loopback(4)], 2);
    let ended = ended.recv_timeout(crate::support::DEADLINE).expect("the old connection to end");
    let begun = begun.try_recv().expect("a new connection before");
    let ahead = ended.saturating_duration_since(begun);
    assert!(ahead > Duration::from_millis(200), "{ahead:?} ahead");
    let before = new.connections();
    assert_eq!(status_of(&proxy, &host), 200);
    assert_eq!(new.connections(), before, "the request rides what was made");
}

#[test]
fn lent_connection_to_an_address_that_the_name_left_is_closed_too() {
    let records = HashMap::from([("lent.test", (vec![Ipv4Addr::LOCALHOST], 2))]);
    let Some((server, options)) = to_ask_name_server("lent", records) else { return };
    let proxy = options.flag("--cores", "4").start();
    let old = Origin::answering(OK);
    let port = old.addr().port();
    let new = Origin::answering_at((loopback(4), port).into(), OK);
    let host = format!("lent.test.ccnproxy:{port}");
    // One by one from shard to shard: where it ends, the name was perhaps never looked up.
    (0..20).for_each(|_| assert_eq!(status_of(&proxy, &host), 200));
    server.set("lent.test", &[loopback(4)], 2);
    let moved = Instant::now();
    eventually("no connection to the old address", || old.open_connections() == 0);
    assert!(moved.elapsed() < Duration::from_secs(4), "{:?}", moved.elapsed());
    assert_eq!(status_of(&proxy, &host), 200);
    assert!(new.connections() > 0);
}

#[test]
fn silent_name_server_stalls_nobody_else() {
    if !can_mount() {
        not_run("no right to mount a resolv.conf for one process");
        return;
    }
    // Nobody reads this address: a bound socket would refuse nothing and answer nothing.
    let Ok(_silent) = std::net::UdpSocket::bind("127.254.254.254:53") else {
        not_run("no right to bind port 53");
        return;
    };
    let resolv = scratch_file("silent-resolv", "nameserver 127.254.254.254\n");
    let options = Proxy::options(&["--cores", "1", "--connect-timeout", "2s"]);
    let proxy = options.mount(&resolv, "/etc/resolv.conf").start();
    let mut waiting = Client::connect(&proxy);
    waiting.request("GET", "silent.test.ccnproxy", "/", "", b"");
    let started = Instant::now();
    Client::connect(&proxy).expect_usable();
    assert!(started.elapsed() < Duration::from_millis(1500), "the shard waited for the name");
    let status = waiting.read_response().status;
    assert!(matches!(status, 502 | 504), "{status}");
}

#[test]
fn localhost_is_reached_though_only_ipv4_listens() {
    let hosts = "::1 localhost\n127.0.0.1 localhost\n";
    let Some(options) = with_hosts("both", hosts) else { return };
    let (origin, proxy) = (Origin::answering(OK_CLOSE), options.start());
    for _ in 0..3 {
        let host = format!("localhost.ccnproxy:{}", origin.addr().port());
        assert_eq!(status_of(&proxy, &host), 200);
    }
}

#[test]
fn name_beyond_those_that_a_shard_may_wait_for_gets_503_at_once() {
    let Some(server) = NameServer::start(HashMap::new()) else {
        return not_run("no right to bind port 53");
    };
    server.turn(Mood::Silent);
    let proxy = Proxy::one_shard(&["--dns-server", &server.ip.to_string()]);
    let mut clients: Vec<_> =
        (0..=LOOKUPS_PER_SHARD_MAX).map(|_| Client::connect(&proxy)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.request("GET", &format!("n{n}.test.ccnproxy"), "/", "", b"");
    }
    let answered = |clients: &[Client]| clients.iter().filter(|c| !is_quiet(c.tcp())).count();
    eventually("an answer", || answered(&clients) > 0);
    // What needs no look-up is served, and one whose name is being looked up waits with the other.
    let origin = Origin::answering(OK);
    assert_eq!(status_of(&proxy, &origin.host()), 200);
    let mut second = Client::connect(&proxy);
    let refused = clients.iter().position(|client| !is_quiet(client.tcp())).expect("an answer");
    let waiting = if refused == 0 { 1 } else { 0 };
    second.request("GET", &format!("n{waiting}.test.ccnproxy"), "/", "", b"");
    Client::connect(&proxy).expect_usable();
    assert!(is_quiet(second.tcp()), "{}", proxy.log());
    assert_eq!(answered(&clients), 1);
    clients[refused].read_error(503);
    assert!(proxy.wait_for_log("too many names").contains(&format!("n{refused}.test")));
}
