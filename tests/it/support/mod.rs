//! The fixture language: a proxy process, scripted origins and raw clients.
//!
//! Everything is blocking and lives on threads, so that a case reads from top to bottom. Every wait
//! has a deadline and panics with what was received so far; nothing sleeps and hopes. All ports are
//! chosen by the kernel on 127.0.0.1, so cases may run side by side.

pub mod ca;
pub mod client;
pub mod dns;
pub mod freeze;
pub mod http2;
pub mod origin;
pub mod proxy;
pub mod tls;
pub mod tokens;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

pub use client::{Client, Response};
pub use origin::{Origin, OriginConn, Request};
pub use proxy::{Proxy, Supervisor};
pub use tls::{Certificate, TlsOrigin, Version};
pub use wire::Ended;

/// How long a case waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Gives the calling thread, and the threads and processes that it starts, a network namespace with
/// nothing but loopback. Without the right to (root has it) the case runs on the common network.
pub fn alone_on_the_network() {
    // SAFETY: unshare(2) with CLONE_NEWNET concerns the calling thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to make a network namespace");
        return;
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket to configure loopback by");
    // SAFETY: an all-zero ifreq is a valid value, the name fits, and the call reads no more than it.
    let up = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    };
    assert_eq!(up, 0, "loopback is up: {}", std::io::Error::last_os_error());
}

/// Says that a case cannot run here, and why. In CI every case must.
pub fn not_run(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: {why}");
    eprintln!("skip: {why}");
}

/// Waits until `holds`, looking every 5 ms; panics after [`DEADLINE`], naming `what`.
#[track_caller]
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    eventually_within(DEADLINE, what, holds);
}

/// As [`eventually`] with another deadline.
#[track_caller]
pub fn eventually_within(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !holds() {
        assert!(Instant::now() < until, "waited {deadline:?} for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One request on a connection of its own to an origin that answers `answer` to everything.
///
/// Returns the response and the request as the origin saw it.
#[track_caller]
pub fn exchange(request: &str, answer: impl AsRef<[u8]>) -> (Response, Request) {
    let origin = Origin::answering(answer);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(request.replace("ORIGIN", &origin.host()));
    let method = request.split(' ').next().unwrap_or_default();
    let response = client.read_response_to(method);
    (response, origin.next_request())
}

/// The status of a GET for `host` on a connection of its own.
#[track_caller]
pub fn status_of(proxy: &Proxy, host: &str) -> u16 {
    let mut client = Client::connect(proxy);
    client.request("GET", host, "/", "", b"");
    client.read_response().status
}

/// The shortest answer that leaves the connection usable.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An address that refuses connections for as long as the value lives: bound, never listened on.
pub struct RefusingAddr {
    _socket: socket2::Socket,
    pub addr: SocketAddr,
}

impl RefusingAddr {
    pub fn new() -> Self {
        let socket = tcp_socket();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bind 127.0.0.1:0");
        let addr = local_addr(&socket);
        Self { _socket: socket, addr }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1.ccnproxy:{}", self.addr.port())
    }
}

/// An address that neither accepts nor refuses: its backlog is full, so that a SYN is dropped.
pub struct MuteAddr {
    _listener: socket2::Socket,
    _fillers: Vec<socket2::Socket>,
    pub addr: SocketAddr,
}

impl MuteAddr {
    pub fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST, 0)
    }

    /// On another address of the loopback network, for names with several addresses on one port.
    pub fn at(ip: Ipv4Addr, port: u16) -> Self {
        let listener = tcp_socket();
        listener.bind(&SocketAddr::from((ip, port)).into()).expect("bind");
        listener.listen(0).expect("listen");
        let addr = local_addr(&listener);
        let mut fillers = Vec::new();
        // Linux queues backlog + 1 connections; the two after that keep the SYN queue honest.
        for _ in 0..3 {
            let filler = tcp_socket();
            filler.set_nonblocking(true).expect("nonblocking");
            // EINPROGRESS is the expected outcome.
            let _ = filler.connect(&addr.into());
            fillers.push(filler);
        }
        Self { _listener: listener, _fillers: fillers, addr }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1.ccnproxy:{}", self.addr.port())
    }
}

fn tcp_socket() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket")
}

fn local_addr(socket: &socket2::Socket) -> SocketAddr {
    socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("an IPv4 address")
}

/// A file of one case, in the directory that cargo keeps for tests.
pub fn scratch_file(name: &str, content: &str) -> String {
    let path = format!("{}/{}-{name}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    std::fs::write(&path, content).expect("a scratch file");
    path
}

/// An empty directory of one case, in the one that cargo keeps for tests.
pub fn scratch_directory(name: &str) -> std::path::PathBuf {
    let path = format!("{}/{}-{name}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    std::fs::create_dir_all(&path).expect("a scratch directory");
    path.into()
}

/// Pseudo-random bytes that differ at every position a body could be cut or shifted to.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Peer bytes as a failure message shows them.
pub fn show(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 2048;
    let shown = &bytes[..bytes.len().min(SHOWN_MAX)];
    let more = bytes.len() - shown.len();
    let tail = if more == 0 { String::new() } else { format!(" … and {more} more bytes") };
    format!("\"{}\"{tail}", shown.escape_ascii())
}

/// `request` with every `ORIGIN` replaced by `host`; bytes that are no text pass through.
pub fn fill_in(request: &[u8], host: &str) -> Vec<u8> {
    let mut filled = Vec::with_capacity(request.len());
    let mut rest = request;
    while let Some(at) = wire::find(rest, b"ORIGIN") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(host.as_bytes());
        rest = &rest[at + b"ORIGIN".len()..];
    }
    filled.extend_from_slice(rest);
    filled
}

/// `request` is refused with `status` and a close before an origin sees a byte of it.
#[track_caller]
pub fn refuse(status: u16, request: impl AsRef<[u8]>) {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(fill_in(request.as_ref(), &origin.host()));
    client.expect_refusal(status);
    origin.expect_no_bytes();
}

/// As [`refuse`] when the head is sound, so that the origin may have seen a beginning.
///
/// The origin waits for the whole body before it answers, so that no answer can come first.
#[track_caller]
pub fn refuse_body(status: u16, request: impl AsRef<[u8]>) {
    let origin = Origin::start(|mut conn| {
        let head = conn.read_head();
        let body = conn.read_body_of(&head);
        assert_ne!(body.ended, Ended::Complete, "a refused body looks complete to the origin");
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(fill_in(request.as_ref(), &origin.host()));
    client.expect_refusal(status);
    eventually("the origin's connection to be closed", || origin.open_connections() == 0);
    assert!(origin.drain_requests().is_empty(), "the origin saw a whole request");
}

/// The origin's `answer` is refused with 502 and its connection closed; the client's lives on.
#[track_caller]
pub fn refuse_answer(answer: impl AsRef<[u8]>) {
    let origin = Origin::answering(answer);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    client.read_error(502);
    eventually("the origin's connection to be closed", || origin.open_connections() == 0);
    assert_eq!(origin.connections(), 1, "the request was sent again");
    client.expect_usable();
}

/// Named cases `name: status, request;` for one of the functions above.
#[macro_export]
macro_rules! refusals {
    ($check:path; $($name:ident: $status:literal, $request:expr;)+) => {
        $(#[test]
        fn $name() {
            $check($status, $request);
        })+
    };
}

/// Named cases `name: answer;` for [`refuse_answer`].
#[macro_export]
macro_rules! refused_answers {
    ($($name:ident: $answer:expr;)+) => {
        $(#[test]
        fn $name() {
            $crate::support::refuse_answer($answer);
        })+
    };
}
