//! TCP options of the connections to origins, read from the proxy's own sockets.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::support::{Client, OK, Origin, Proxy};

/// The proxy's connected sockets whose other end is `origin`, as descriptors of this process (pidfd_getfd(2)).
fn sockets_to(origin: &Origin, proxy: &Proxy) -> Option<Vec<OwnedFd>> {
    // SAFETY: plain system calls; results are checked before they are owned.
    let owned = |fd: i64| (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) });
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, proxy.pid(), 0) })?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", proxy.pid())).ok()? {
        let number: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let pid = process.as_raw_fd();
        let Some(fd) = owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pid, number, 0) })
        else {
            continue;
        };
        let socket = socket2::SockRef::from(&fd);
        let peer = socket.peer_addr().ok().and_then(|addr| addr.as_socket());
        if peer == Some(origin.addr()) {
            sockets.push(fd);
        }
    }
    Some(sockets)
}

fn option(socket: &OwnedFd, level: i32, name: i32) -> Vec<u8> {
    let mut value = [0u8; 16];
    let mut len = 16;
    // SAFETY: pointers and length describe `value` and `len`.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len)
    };
    assert_eq!(failed, 0, "option {name}: {}", std::io::Error::last_os_error());
    value[..len as usize].to_vec()
}

fn number(socket: &OwnedFd, level: i32, name: i32) -> i32 {
    i32::from_ne_bytes(option(socket, level, name).try_into().expect("four bytes"))
}

fn one_socket(proxy: &Proxy) -> Option<(Origin, OwnedFd)> {
    let origin = Origin::answering(OK);
    let mut client = Client::connect(proxy);
    client.get(&origin, "/");
    assert_eq!(client.read_response().status, 200);
    let Some(mut sockets) = sockets_to(&origin, proxy) else {
        crate::support::not_run("no right to look at the sockets of a child process");
        return None;
    };
    assert_eq!(sockets.len(), 1, "one connection to the origin");
    sockets.pop().map(|socket| (origin, socket))
}

#[test]
fn origin_connection_is_tuned_for_a_long_and_idle_path() {
    let proxy = Proxy::start(&[]);
    let Some((_origin, socket)) = one_socket(&proxy) else { return };
    let tcp = |name| number(&socket, libc::IPPROTO_TCP, name);
    assert_eq!(tcp(libc::TCP_NODELAY), 1);
    assert_eq!(number(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
    assert_eq!(tcp(libc::TCP_KEEPIDLE), 30);
    assert_eq!(tcp(libc::TCP_KEEPINTVL), 10);
    assert_eq!(tcp(libc::TCP_USER_TIMEOUT), 60_000);
    assert_eq!(tcp(libc::TCP_NOTSENT_LOWAT), 128 * 1024);
}

fn congestion(socket: &OwnedFd) -> String {
    let name = option(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION);
    String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
}

fn kernel_says(setting: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}"))
        .expect("a setting")
        .trim()
        .to_owned()
}

#[test]
fn congestion_control_is_the_kernels_unless_the_flag_names_one() {
    let proxy = Proxy::start(&[]);
    let Some((_origin, socket)) = one_socket(&proxy) else { return };
    let default = kernel_says("tcp_congestion_control");
    assert_eq!(congestion(&socket), default);
    let allowed = kernel_says("tcp_allowed_congestion_control");
    let Some(other) = allowed.split(' ').find(|name| *name != default) else {
        crate::support::not_run("the kernel allows one congestion control alone");
        return;
    };
    let proxy = Proxy::start(&["--tcp-congestion", other]);
    let Some((_origin, socket)) = one_socket(&proxy) else { return };
    assert_eq!(congestion(&socket), other);
}

#[test]
fn congestion_control_that_the_kernel_lacks_fails_with_what_it_has() {
    let (status, _, stderr) = Proxy::options(&["--tcp-congestion", "warp"]).run_to_end();
    assert_eq!(status.code(), Some(2), "{stderr}");
    let first = kernel_says("tcp_available_congestion_control");
    let first = first.split(' ').next().expect("a name");
    for word in ["--tcp-congestion", "warp", "is not known to the kernel", first] {
        assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
    }
}
