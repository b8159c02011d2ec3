//! Listening sockets of a supervisor: Server::Starter and systemd.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

use crate::support::{
    Client, OK, Origin, Proxy, Supervisor, eventually, scratch_directory, scratch_file,
};

const BOTH: [Supervisor; 2] = [Supervisor::ServerStarter, Supervisor::Systemd];

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind 127.0.0.1:0");
    let addr = listener.local_addr().expect("own address");
    (listener, addr)
}

fn start(supervisor: Supervisor, sockets: &[&dyn AsRawFd]) -> Proxy {
    Proxy::options(&[]).inherit(supervisor, sockets).start()
}

/// Which of two shards answer requests on connections to `addr`.
fn shards_at(addr: SocketAddr, origin: &Origin) -> Vec<usize> {
    let mut shards = Vec::new();
    eventually("an answer of both shards", || {
        let mut client = Client::connect_to(addr);
        client.get(origin, "/");
        let response = client.read_response();
        assert_eq!(response.text(), "ok");
        let shard = response.shard();
        if !shards.contains(&shard) {
            shards.push(shard);
        }
        shards.len() == 2
    });
    shards.sort_unstable();
    shards
}

#[test]
fn one_socket_is_served_by_all_shards() {
    let origin = Origin::answering(OK);
    for supervisor in BOTH {
        let (socket, addr) = listener();
        let proxy = start(supervisor, &[&socket]);
        assert_eq!(proxy.addr(), addr);
        assert_eq!(shards_at(addr, &origin), [0, 1]);
    }
}

#[test]
fn burst_in_the_queue_of_a_shared_socket_is_spread_over_the_shards() {
    const BURST: usize = 100;
    let (socket, addr) = listener();
    let mut clients: Vec<_> = (0..BURST).map(|_| Client::connect_to(addr)).collect();
    let _proxy = start(Supervisor::ServerStarter, &[&socket]);
    let shards: Vec<_> = clients.iter_mut().map(Client::shard).collect();
    let of_first = shards.iter().filter(|shard| **shard == 0).count();
    // A shard that was woken first and took what it found would have nearly all of them.
    assert_eq!(of_first, BURST / 2, "{shards:?}");
}

#[test]
fn every_socket_is_served_by_all_shards() {
    let origin = Origin::answering(OK);
    for supervisor in BOTH {
        let sockets = [listener(), listener(), listener()];
        let passed: Vec<&dyn AsRawFd> = sockets.iter().map(|(l, _)| l as &dyn AsRawFd).collect();
        let proxy = start(supervisor, &passed);
        for (_, addr) in &sockets {
            proxy.wait_for_log(&format!("listening on {addr} "));
            assert_eq!(shards_at(*addr, &origin), [0, 1]);
        }
    }
}

/// Sockets on one address that share its connections.
fn sharing(count: usize) -> (Vec<TcpListener>, SocketAddr) {
    let mut addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bind = |addr: SocketAddr| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        socket.bind(&addr.into()).expect("bind");
        socket.listen(100).expect("listen");
        TcpListener::from(socket)
    };
    let sockets = (0..count).map(|_| {
        let socket = bind(addr);
        addr = socket.local_addr().expect("own address");
        socket
    });
    (sockets.collect(), addr)
}

#[test]
fn sockets_on_one_address_are_all_served_with_more_and_with_fewer_shards() {
    let origin = Origin::answering(OK);
    for (count, cores) in [(2, "2"), (3, "2"), (2, "3")] {
        let (sockets, addr) = sharing(count);
        let passed: Vec<&dyn AsRawFd> = sockets.iter().map(|l| l as &dyn AsRawFd).collect();
        let options = Proxy::options(&["--cores", cores]);
        let proxy = options.inherit(Supervisor::ServerStarter, &passed).start();
        // The kernel spreads connections over all of them: one that nobody serves would hang.
        for _ in 0..60 {
            let mut client = Client::connect_to(addr);
            client.get(&origin, "/");
            assert_eq!(client.read_response().text(), "ok");
        }
        let said = proxy.log().lines().filter(|line| line.contains("listening on ")).count();
        assert_eq!(said, 1, "{}", proxy.log());
    }
}

#[test]
fn ipv6_socket_is_served() {
    let socket = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("bind [::1]:0");
    let addr = socket.local_addr().expect("own address");
    let proxy = start(Supervisor::ServerStarter, &[&socket]);
    assert_eq!(proxy.addr(), addr);
    let origin = Origin::answering(OK);
    let mut client = Client::connect_to(addr);
    client.get(&origin, "/");
    assert_eq!(client.read_response().text(), "ok");
    let line = proxy.wait_for_access_line(|_| true);
    assert_eq!(line.get("remote_addr"), "[::1]");
}

#[test]
fn flags_for_own_sockets_are_not_used_and_a_line_says_so() {
    let (socket, addr) = listener();
    let (_taken, taken) = listener();
    let options = Proxy::options(&["--port", &taken.port().to_string()]);
    let proxy = options.inherit(Supervisor::ServerStarter, &[&socket]).start();
    let line = proxy.wait_for_log("--listen and --port are not used");
    assert!(line.contains(&addr.to_string()) && line.contains("Server::Starter"), "{line}");
}

#[test]
fn sockets_meant_for_another_process_are_left_alone() {
    let (socket, addr) = listener();
    let options = Proxy::options(&[]).inherit(Supervisor::ServerStarter, &[&socket]);
    let options = options.without_env("SERVER_STARTER_PORT").env("LISTEN_FDS", "1");
    let proxy = options.env("LISTEN_PID", "1").start();
    assert_ne!(proxy.addr(), addr);
    let line = proxy.wait_for_log("LISTEN_FDS is meant for process 1");
    assert!(line.contains("exec"), "{line}");
}

/// The start fails with `status`, and stderr names every one of `words`.
#[track_caller]
fn fails(flags: &[&str], sockets: &[&dyn AsRawFd], status: i32, words: &[&str]) {
    for supervisor in BOTH {
        let options = Proxy::options(flags).inherit(supervisor, sockets);
        let (ended, _, stderr) = options.run_to_end();
        assert_eq!(ended.code(), Some(status), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
        }
    }
}

#[test]
fn descriptors_that_cannot_be_served_are_told_with_cause_and_remedy() {
    let directory = scratch_directory("unix-socket");
    let path = directory.join("socket");
    // Of an earlier run that was killed.
    std::fs::remove_file(&path).ok();
    let unix = UnixListener::bind(&path).expect("a unix socket");
    let file = File::open(scratch_file("no-socket", "")).expect("a file");
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP socket");
    let (socket, addr) = listener();
    let connection = TcpStream::connect(addr).expect("connect");
    for (wrong, words) in [
        (&unix as &dyn AsRawFd, ["unix socket", "give an address and a port"]),
        (&file, ["is no socket", "are not those of this process"]),
        (&udp, ["is not TCP", "ListenStream="]),
        (&connection, ["does not listen", "Accept=no"]),
    ] {
        fails(&[], &[&socket, wrong], 1, &[&["descriptor 4"][..], &words].concat());
        fails(&["--check"], &[&socket, wrong], 2, &words);
    }
    let all: [&dyn AsRawFd; 4] = [&unix, &file, &udp, &connection];
    fails(&[], &all, 1, &["descriptor 3", "descriptor 4", "descriptor 5", "descriptor 6"]);
}

#[test]
fn descriptor_that_is_not_open_is_told() {
    let options = Proxy::options(&[]).env("SERVER_STARTER_PORT", "3000=150");
    let (status, _, stderr) = options.run_to_end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("descriptor 150") && stderr.contains("is not open"), "{stderr}");
}

#[test]
fn malformed_port_list_is_told() {
    for flags in [&[][..], &["--check"]] {
        let ports = "3000;/run/proxy.sock=4";
        let options = Proxy::options(flags).env("SERVER_STARTER_PORT", ports);
        let (status, _, stderr) = options.run_to_end();
        assert_eq!(status.code(), Some(if flags.is_empty() { 1 } else { 2 }), "{stderr}");
        assert!(stderr.contains("SERVER_STARTER_PORT") && stderr.contains("unix"), "{stderr}");
    }
}

#[test]
fn check_takes_inherited_sockets_for_its_addresses() {
    let (socket, _) = listener();
    let (_taken, taken) = listener();
    let options = Proxy::options(&["--check", "--port", &taken.port().to_string()]);
    let (status, _, stderr) = options.inherit(Supervisor::ServerStarter, &[&socket]).run_to_end();
    assert_eq!(status.code(), Some(0), "{stderr}");
}

#[test]
fn inherited_sockets_are_closed_on_exec() {
    let (socket, _) = listener();
    let proxy = start(Supervisor::Systemd, &[&socket]);
    let link = |pid: &str, fd: &str| std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
    let own = link("self", &socket.as_raw_fd().to_string()).expect("our descriptor");
    let pid = proxy.pid().to_string();
    let mut copies = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors") {
        let fd = entry.expect("a descriptor").file_name().into_string().expect("a number");
        if link(&pid, &fd).is_ok_and(|link| link == own) {
            let text = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).expect("fdinfo");
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
            let flags = i32::from_str_radix(flags.trim(), 8).expect("octal");
            assert_ne!(flags & libc::O_CLOEXEC, 0, "descriptor {fd} would survive exec");
            copies += 1;
        }
    }
    assert_eq!(copies, 2, "one a shard, and none left over");
}

#[test]
fn connection_that_comes_after_the_end_is_served_by_the_next_process() {
    let origin = Origin::answering(OK);
    let (socket, addr) = listener();
    let mut old = start(Supervisor::ServerStarter, &[&socket]);
    old.signal(libc::SIGTERM);
    assert_eq!(old.wait_exit().code(), Some(0));
    let mut client = Client::connect_to(addr);
    client.get(&origin, "/");
    let _next = start(Supervisor::ServerStarter, &[&socket]);
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn while_the_old_process_finishes_new_connections_go_to_the_next() {
    let (origin, slow) = (Origin::answering(OK), Origin::scripted());
    let (socket, addr) = listener();
    let mut old = start(Supervisor::ServerStarter, &[&socket]);
    let mut in_flight = Client::connect_to(addr);
    in_flight.get(&slow, "/");
    let mut conn = slow.accept();
    conn.read_request();
    let next = start(Supervisor::ServerStarter, &[&socket]);
    old.signal(libc::SIGTERM);
    old.wait_for_log("ending");
    for _ in 0..50 {
        let mut client = Client::connect_to(addr);
        client.get(&origin, "/");
        assert_eq!(client.read_response().text(), "ok");
    }
    conn.send(OK);
    assert_eq!(in_flight.read_response().text(), "ok");
    assert_eq!(old.wait_exit().code(), Some(0));
    // The old one may take what was in the queue when it was told to end.
    eventually("the next process to have served", || next.access_log_lines().len() > 40);
}

#[test]
fn systemd_is_told_when_the_process_serves_and_when_it_ends() {
    let directory = scratch_directory("notify");
    let path = directory.join("socket");
    // Of an earlier run that was killed.
    std::fs::remove_file(&path).ok();
    let socket = UnixDatagram::bind(&path).expect("a unix socket");
    socket.set_read_timeout(Some(crate::support::DEADLINE)).expect("a deadline");
    let read = || {
        let mut text = [0; 100];
        let n = socket.recv(&mut text).expect("a message in time");
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    let place = path.to_str().expect("UTF-8");
    let mut proxy = Proxy::options(&[]).env("NOTIFY_SOCKET", place).start();
    assert_eq!(read(), "READY=1");
    proxy.signal(libc::SIGTERM);
    assert_eq!(read(), "STOPPING=1");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[test]
fn notify_socket_that_is_not_there_costs_a_warning() {
    let proxy = Proxy::options(&[]).env("NOTIFY_SOCKET", "@nobody-there").start();
    proxy.wait_for_log("NOTIFY_SOCKET");
    Client::connect(&proxy).expect_usable();
}
