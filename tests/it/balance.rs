//! Which shard serves a client: few connections are spread evenly, and none is lost on its way to another shard.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::support::{Client, OK, Origin, Proxy, Supervisor, eventually};

/// As `ARRIVALS_MAX`.
const ARRIVALS_MAX: usize = 64;

/// How many clients each of so many shards serves, as the shards themselves say.
fn spread(clients: &mut [Client], shards: usize) -> Vec<usize> {
    let mut served = vec![0; shards];
    clients.iter_mut().for_each(|client| served[client.shard()] += 1);
    served
}

/// So many shards, whose page is apart: whoever asks for it is no client among those that are spread.
fn start(shards: &str) -> Proxy {
    Proxy::start(&["--cores", shards, "--api", "127.0.0.1:0", "--access-log-dir", "none"])
}

/// How many clients each shard has, as the page says; the one that asks for it is shard 0's.
fn said(proxy: &Proxy) -> Vec<usize> {
    let line = proxy.wait_for_log("/.api/ is at ");
    let (_, addr) = line.split_once("/.api/ is at ").expect("an address");
    let mut monitor = Client::connect_to(addr.parse().expect("an address"));
    monitor.request("GET", "monitoring.example", "/.api/stats", "", b"");
    let text = monitor.read_response().text();
    let stats: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let clients = stats["clients"].as_array().expect("a number for each shard");
    clients.iter().map(|n| n.as_u64().expect("a number") as usize).collect()
}

/// The busiest of eight shards has at most 1.3 times the mean of `connections`, all of which were there at once.
#[track_caller]
fn is_even(connections: usize) {
    let proxy = start("8");
    let mut clients: Vec<_> = (0..connections).map(|_| Client::connect(&proxy)).collect();
    let served = spread(&mut clients, 8);
    let (busiest, mean) = (served.iter().max().copied().unwrap_or(0), connections as f64 / 8.0);
    assert!(busiest as f64 <= 1.3 * mean, "{served:?}");
    eventually("the page to say the same", || {
        let said = said(&proxy);
        said[1..] == served[1..] && (served[0]..=served[0] + 1).contains(&said[0])
    });
}

#[test]
fn eight_connections_are_one_for_each_of_eight_shards() {
    is_even(8);
}

#[test]
fn sixteen_connections_are_spread_evenly_over_eight_shards() {
    is_even(16);
}

#[test]
fn sixty_four_connections_are_spread_evenly_over_eight_shards() {
    is_even(64);
}

#[test]
fn clients_that_left_make_room_for_others() {
    let proxy = start("4");
    let mut clients: Vec<_> = (0..40).map(|_| Client::connect(&proxy)).collect();
    let mut shards: Vec<_> = clients.iter_mut().map(Client::shard).collect();
    // All of shard 1 leave; those who come next are at home there, wherever the kernel leads them.
    while let Some(at) = shards.iter().position(|shard| *shard == 1) {
        shards.swap_remove(at);
        drop(clients.swap_remove(at));
    }
    eventually("the shard to be empty", || said(&proxy)[1] == 0);
    clients.extend((0..10).map(|_| Client::connect(&proxy)));
    assert_eq!(spread(&mut clients, 4), [10; 4]);
}

/// One socket that all shards accept on, as a supervisor passes it.
fn shared() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind 127.0.0.1:0");
    let addr = socket.local_addr().expect("own address");
    (socket, addr)
}

#[test]
fn shard_that_stands_still_holds_up_no_more_clients_than_its_mailbox_takes() {
    const CLIENTS: usize = 4 * ARRIVALS_MAX;
    let (socket, addr) = shared();
    let options = Proxy::options(&["--access-log-dir", "none"]);
    let proxy = options.inherit(Supervisor::ServerStarter, &[&socket]).start();
    let frozen = proxy.freeze_shard(0);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect_to(addr)).collect();
    let ask = |client: &mut Client| client.send("GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n");
    clients.iter_mut().for_each(ask);
    let is_answered = |client: &&Client| !crate::support::client::is_quiet(client.tcp());
    eventually("those who are not held up", || {
        clients.iter().filter(is_answered).count() == CLIENTS - ARRIVALS_MAX
    });
    drop(frozen);
    for client in &mut clients {
        client.read_error(400);
    }
}

/// How often the thread of a shard called write(2): it wakes other threads so, and for nothing else without a log. What
/// goes through the ring is not counted.
fn wake_ups_by(proxy: &Proxy, shard: usize) -> u64 {
    let thread = proxy.thread_named(&format!("shard-{shard}"));
    let path = format!("/proc/{}/task/{thread}/io", proxy.pid());
    let io = std::fs::read_to_string(path).expect("what the thread read and wrote");
    let line = io.lines().find_map(|line| line.strip_prefix("syscw: ")).expect("syscw");
    line.parse().expect("a number")
}

#[test]
fn requests_on_connections_that_are_there_wake_no_other_shard() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--access-log-dir", "none", "--warm-learned", "off"]);
    let mut clients = [Client::connect(&proxy), Client::connect(&proxy)];
    let ask = |client: &mut Client| {
        client.get(&origin, "/");
        assert_eq!(client.read_response().text(), "ok");
    };
    let wake_ups = || [0, 1].map(|shard| wake_ups_by(&proxy, shard));
    // Both at once, so that each shard has a connection to the origin before anything counts.
    eventually("a connection for each shard", || {
        clients.iter_mut().for_each(|client| client.get(&origin, "/"));
        clients.iter_mut().for_each(|client| assert_eq!(client.read_response().text(), "ok"));
        let before = wake_ups();
        clients.iter_mut().for_each(ask);
        wake_ups() == before
    });
    let before = wake_ups();
    for _ in 0..500 {
        clients.iter_mut().for_each(ask);
    }
    assert_eq!(wake_ups(), before);
    // What is counted does count: sooner or later a fresh client is handed on.
    let mut more = Vec::new();
    eventually("a client that another shard is told of", || {
        more.push(Client::connect(&proxy));
        wake_ups() != before
    });
}

#[test]
fn clients_on_their_way_to_another_shard_are_answered_though_the_process_ends() {
    let origin = Origin::answering(OK);
    for round in 0..5 {
        let (socket, addr) = shared();
        // They are all in the queue when the shards begin to accept.
        let mut clients: Vec<_> = (0..60).map(|_| Client::connect_to(addr)).collect();
        for client in &mut clients {
            client.get(&origin, "/");
        }
        let options = Proxy::options(&["--cores", "8", "--access-log-dir", "none"]);
        let mut proxy = options.inherit(Supervisor::ServerStarter, &[&socket]).start();
        proxy.signal(libc::SIGTERM);
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "ok", "round {round}");
        }
        assert_eq!(proxy.wait_exit().code(), Some(0), "round {round}");
    }
}
