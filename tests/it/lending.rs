//! Connections between shards: who lends to whom, and what the origin sees of it. The judge is the origin.

use std::time::{Duration, Instant};

use crate::support::{
    Client, OK, Origin, OriginConn, Proxy, Request, TlsOrigin, Version, eventually,
};

/// What a handshake takes where the cases need lending to be worth a wait.
const FAR: Duration = Duration::from_millis(400);

/// A client on each of two shards, the first on shard 0.
fn client_of_each_shard(proxy: &Proxy) -> [Client; 2] {
    // The second goes to the shard that has none.
    let mut clients = [Client::connect(proxy), Client::connect(proxy)];
    let mut shards = clients.each_mut().map(Client::shard);
    if shards == [1, 0] {
        clients.reverse();
        shards.reverse();
    }
    assert_eq!(shards, [0, 1]);
    clients
}

/// A connection that was made for a client of shard 0 and is idle there.
fn idle_at_shard_0(client: &mut Client, origin: &Origin, host: &str) -> OriginConn {
    client.request("GET", host, "/warm", "", b"");
    let mut conn = origin.accept();
    assert_eq!(conn.read_request().target, "/warm");
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    conn
}

fn forty_clients_one_by_one(version: Version) {
    let origin = TlsOrigin::options().version(version).away(FAR).answering(OK);
    let proxy = Proxy::start(&["--cores", "8"]);
    for _ in 0..40 {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!((origin.connections(), origin.full_handshakes()), (1, 1));
}

#[test]
fn forty_clients_on_eight_shards_make_one_connection_of_tls_1_3() {
    forty_clients_one_by_one(Version::Tls13);
}

#[test]
fn forty_clients_on_eight_shards_make_one_connection_of_tls_1_2() {
    forty_clients_one_by_one(Version::Tls12);
}

#[test]
fn lent_connection_carries_bodies_and_comes_back() {
    let (origin, proxy) = (TlsOrigin::options().away(FAR).scripted(), Proxy::start(&[]));
    let mut clients = client_of_each_shard(&proxy);
    let mut conn = idle_at_shard_0(&mut clients[0], &origin, &origin.host());
    let body = crate::support::pattern(300_000);
    for n in [1, 0, 1, 1, 0] {
        let sent = clients[n].send_aside(post(&origin.host(), &body));
        assert!(conn.read_request().body.bytes == body);
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        conn.send(&body);
        assert!(clients[n].read_response().body.bytes == body);
        sent.join().expect("a sender").expect("all is taken");
    }
    assert_eq!(origin.connections(), 1);
}

fn post(host: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn ninth_shard_is_asked_where_eight_have_only_busy_connections() {
    const SHARDS: usize = 10;
    let origin = TlsOrigin::options().away(FAR).scripted();
    let proxy = Proxy::start(&["--cores", "10", "--warm-learned", "off"]);
    // Each goes to a shard that has none.
    let mut clients: Vec<(usize, Client)> = (0..SHARDS)
        .map(|_| {
            let mut client = Client::connect(&proxy);
            (client.shard(), client)
        })
        .collect();
    clients.sort_by_key(|(shard, _)| *shard);
    assert!(clients.iter().map(|(shard, _)| *shard).eq(0..SHARDS));
    let mut clients: Vec<Client> = clients.into_iter().map(|(_, client)| client).collect();
    let (asker, others) = clients.split_last_mut().expect("ten");
    let mut busy: Vec<OriginConn> = others
        .iter_mut()
        .map(|client| {
            client.request("GET", &origin.host(), "/busy", "", b"");
            let mut conn = origin.accept();
            assert_eq!(conn.read_request().target, "/busy");
            conn
        })
        .collect();
    // Who has as many is asked in the order of shards: this is the last.
    let ninth = busy.last_mut().expect("nine");
    ninth.send(OK);
    assert_eq!(others[8].read_response().text(), "ok");
    asker.request("GET", &origin.host(), "/lent", "", b"");
    assert_eq!(ninth.read_request().target, "/lent");
    ninth.send(OK);
    assert_eq!(asker.read_response().text(), "ok");
}

#[test]
fn connection_that_ended_while_idle_is_not_lent() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(&[]));
    let mut clients = client_of_each_shard(&proxy);
    let conn = idle_at_shard_0(&mut clients[0], &origin, &origin.host());
    conn.close();
    clients[1].request("POST", &origin.host(), "/next", "", b"p");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send(OK);
    assert_eq!(clients[1].read_response().text(), "ok");
}

/// A request with `method` on a lent connection, which the origin closes when it has read it. Returns the status that the
/// client got, and how often the origin saw the request.
fn closed_when_lent(method: &str) -> (u16, usize) {
    // A dial that was begun because the lender was slow takes so long that the lent connection comes first.
    let origin = TlsOrigin::options().away(FAR).start(|mut conn| {
        let mut warm = false;
        while let Some(request) = conn.try_read_request() {
            if warm && request.target == "/lent" {
                return conn.close();
            }
            warm = true;
            if conn.try_send(OK).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&[]);
    let [mut one, mut two] = client_of_each_shard(&proxy);
    one.request("GET", &origin.host(), "/warm", "", b"");
    assert_eq!(one.read_response().status, 200);
    two.request(method, &origin.host(), "/lent", "", b"p");
    let status = two.read_response().status;
    let lent = |request: &Request| request.target == "/lent";
    (status, origin.drain_requests().iter().filter(|request| lent(request)).count())
}

#[test]
fn put_on_a_lent_connection_that_was_closed_is_sent_again() {
    assert_eq!(closed_when_lent("PUT"), (200, 2));
}

#[test]
fn post_on_a_lent_connection_that_was_closed_is_never_sent_again() {
    assert_eq!(closed_when_lent("POST"), (502, 1));
}

#[test]
fn shard_that_does_not_answer_is_not_waited_for() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(&[]));
    let mut clients = client_of_each_shard(&proxy);
    let mut idle = idle_at_shard_0(&mut clients[0], &origin, &origin.host());
    let frozen = proxy.freeze_shard(0);
    let begun = Instant::now();
    clients[1].get(&origin, "/meanwhile");
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/meanwhile");
    assert!(begun.elapsed() < Duration::from_secs(1), "after {:?}", begun.elapsed());
    fresh.send(OK);
    assert_eq!(clients[1].read_response().text(), "ok");
    drop(frozen);
    // It finds out that it need not lend any more.
    clients[0].get(&origin, "/after");
    assert_eq!(idle.read_request().target, "/after");
}

#[test]
fn busy_connection_is_lent_when_it_comes_free() {
    let (origin, proxy) = (TlsOrigin::options().away(FAR).scripted(), Proxy::start(&[]));
    let [mut one, mut two] = client_of_each_shard(&proxy);
    one.request("GET", &origin.host(), "/one", "", b"");
    let mut busy = origin.accept();
    busy.read_request();
    two.request("GET", &origin.host(), "/two", "", b"");
    // Its own is on the way and goes no further.
    let _under_way = origin.accept_tcp();
    busy.send(OK);
    assert_eq!(one.read_response().text(), "ok");
    assert_eq!(busy.read_request().target, "/two");
    busy.send(OK);
    assert_eq!(two.read_response().text(), "ok");
}

#[test]
fn shards_under_load_lend_back_and_forth_and_mix_up_nothing() {
    let origin = Origin::start(|mut conn| {
        while let Some(request) = conn.try_read_request() {
            let body = request.target;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if conn.try_send(answer).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&["--cores", "4", "--access-log-dir", "none"]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (proxy, origin) = (&proxy, &origin);
            scope.spawn(move || {
                for n in 0..100 {
                    let mut client = Client::connect(proxy);
                    for m in 0..3 {
                        let target = format!("/{thread}/{n}/{m}");
                        client.get(origin, &target);
                        assert_eq!(client.read_response().text(), target);
                    }
                }
            });
        }
    });
    // 2,400 exchanges; without lending each of four shards would need eight for itself.
    eventually("what is open to be what is kept", || origin.open_connections() <= 32);
    assert!(origin.connections() < 200, "{} connections", origin.connections());
}

#[test]
fn thousands_of_hosts_seen_once_leave_a_bounded_number_of_connections() {
    // More than both shards together remember (1,024 each), and more than the shared table has slots for (2,048).
    const HOSTS: usize = 3000;
    const REMEMBERED: usize = 2 * 1024;
    let origin = Origin::answering_at(([0, 0, 0, 0], 0).into(), OK);
    let proxy = Proxy::start(&["--access-log-dir", "none"]);
    let [mut one, mut two] = client_of_each_shard(&proxy);
    for n in 0..HOSTS {
        let client = if n % 2 == 0 { &mut one } else { &mut two };
        // All of 127.0.0.0/8 leads here; each address is an origin of its own.
        let host = format!("127.7.{}.{}.ccnproxy:{}", n / 250, n % 250 + 1, origin.addr().port());
        client.request("GET", &host, "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    eventually("forgotten origins to lose their connections", || {
        origin.open_connections() <= REMEMBERED
    });
    assert_eq!(origin.connections(), HOSTS, "a host seen once costs one connection");
    // Connections, latencies and addresses of those remembered; measured 100 MiB.
    assert!(proxy.resident_kib() < 256 * 1024, "{} KiB", proxy.resident_kib());
    // Slots of the forgotten are free again, so that what comes now is lent. Eight tries: one of these near origins is
    // dialled if the lender gets no CPU for 2 ms.
    for n in 1..=8 {
        let host = format!("127.8.0.{n}.ccnproxy:{}", origin.addr().port());
        for client in [&mut one, &mut two] {
            client.request("GET", &host, "/", "", b"");
            assert_eq!(client.read_response().text(), "ok");
        }
    }
    assert!(origin.connections() < HOSTS + 16, "nothing was lent");
}

#[test]
fn ten_thousand_hosts_with_floors_leave_a_bounded_number_of_connections() {
    const HOSTS: usize = 10_000;
    // What both shards remember (1,024 each), and what is kept ready of origins that nobody named (1,024).
    const OPEN_MAX: usize = 3 * 1024;
    let origin = Origin::answering_at(([0, 0, 0, 0], 0).into(), OK);
    let proxy = Proxy::start(&["--access-log-dir", "none"]);
    let mut client = Client::connect(&proxy);
    let mut most = 0;
    for n in 0..HOSTS {
        let host = format!("127.7.{}.{}.ccnproxy:{}", n / 250, n % 250 + 1, origin.addr().port());
        // The shard keeps a fresh one beside for what must not be sent twice.
        client.request("POST", &host, "/", "", b"p");
        assert_eq!(client.read_response().text(), "ok");
        most = most.max(origin.open_connections());
    }
    assert!(most <= OPEN_MAX, "{most} were open");
    eventually("forgotten origins to lose their connections", || {
        origin.open_connections() <= OPEN_MAX
    });
    assert!(origin.connections() <= 2 * HOSTS, "{} connections", origin.connections());
    assert!(proxy.resident_kib() < 320 * 1024, "{} KiB", proxy.resident_kib());
}

#[test]
fn connection_that_ends_on_its_way_to_another_shard_serves_nobody() {
    let (origin, proxy) = (TlsOrigin::options().away(FAR).scripted(), Proxy::start(&[]));
    let mut clients = client_of_each_shard(&proxy);
    let conn = idle_at_shard_0(&mut clients[0], &origin, &origin.host());
    let lender = proxy.freeze_shard(0);
    clients[1].request("POST", &origin.host(), "/next", "", b"p");
    // Nobody lends in time, so it dials; what is lent now would come before that is done. The origin is in use on two
    // shards now, so that one more may be dialled to be kept ready.
    eventually("a dial", || origin.connections() >= 2);
    let asker = proxy.freeze_shard(1);
    drop(lender);
    // A shard that serves has been through its mailbox.
    for _ in 0..2 {
        clients[0].send("GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n");
        clients[0].read_error(400);
    }
    conn.close();
    drop(asker);
    let mut fresh = origin.accept();
    assert_eq!(fresh.read_request().target, "/next");
    fresh.send(OK);
    assert_eq!(clients[1].read_response().text(), "ok");
}
