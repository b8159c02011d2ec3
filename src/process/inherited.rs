//! Listening sockets that a supervisor made and keeps open across restarts: Server::Starter and systemd.
//!
//! Both pass descriptors and name them in the environment. What is named is adopted before this process opens any
//! descriptor of its own, so that a wrong number cannot name one of ours.

#![forbid(unsafe_code)]

use crate::{
    limits::{INHERITED_MAX, TCP_KEEPALIVE},
    shard::sys,
};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use std::{io, net::SocketAddr, os::fd::RawFd};

/// A socket that listens already.
pub struct Inherited {
    pub socket: Socket,
    pub address: SocketAddr,
    /// As messages name it: `descriptor 3 of Server::Starter ("3000")`.
    pub name: String,
}

/// What the environment says of descriptors.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    fds: Vec<(RawFd, String)>,
    /// What is told to the operator though it is no mistake.
    note: Option<String>,
}

/// Sockets passed by a supervisor, and what is to be told about that.
pub type Adopted = (Vec<Inherited>, Option<String>);

/// Takes over all sockets that the environment names.
///
/// Errors: cause and remedy of all that is wrong, in words.
pub fn adopt() -> Result<Adopted, String> {
    let variable =
        |name: &str| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned());
    let Named { fds, note } = named(variable, std::process::id())?;
    let mut wrong = Vec::new();
    let mut inherited = Vec::new();
    for (fd, name) in fds {
        match adopt_one(fd) {
            Ok((socket, address)) => inherited.push(Inherited { socket, address, name }),
            Err(why) => wrong.push(format!("{name} {why}")),
        }
    }
    if wrong.is_empty() { Ok((inherited, note)) } else { Err(wrong.join("; ")) }
}

fn named(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Result<Named, String> {
    let given = |name: &str| variable(name).filter(|text| !text.is_empty());
    // start_server itself may run below systemd: who started this process last counts.
    if let Some(ports) = given("SERVER_STARTER_PORT") {
        return of_server_starter(&ports).map(|fds| Named { fds, note: None });
    }
    match given("LISTEN_FDS") {
        Some(count) => of_systemd(&count, given("LISTEN_PID"), given("LISTEN_FDNAMES"), pid),
        None => Ok(Named::default()),
    }
}

/// `3000=3;127.0.0.1:8080=4`: what each descriptor listens on, as it was typed, and its number.
fn of_server_starter(ports: &str) -> Result<Vec<(RawFd, String)>, String> {
    const FORM: &str = "start_server sets it; it looks like 3000=3;127.0.0.1:8080=4";
    let mut fds: Vec<(RawFd, String)> = Vec::new();
    let mut wrong = Vec::new();
    for entry in ports.split(';').filter(|entry| !entry.is_empty()) {
        let (port, fd) = entry.rsplit_once('=').unwrap_or((entry, ""));
        match fd.parse() {
            // 0 to 2 are the standard streams.
            Err(_) | Ok(..3) => wrong.push(format!("\"{entry}\" names no descriptor ({FORM})")),
            Ok(fd) if fds.iter().any(|(other, _)| *other == fd) => {
                wrong.push(format!("\"{entry}\" names descriptor {fd} a second time ({FORM})"));
            }
            Ok(_) if port.contains('/') => wrong.push(format!(
                "\"{entry}\" is a unix socket, which is not served; give start_server --port instead of --path"
            )),
            Ok(fd) => fds.push((fd, format!("descriptor {fd} of Server::Starter (\"{port}\")"))),
        }
    }
    if fds.len() > INHERITED_MAX {
        wrong.push(format!("{} sockets are too many; pass {INHERITED_MAX} at most", fds.len()));
    }
    if wrong.is_empty() {
        Ok(fds)
    } else {
        Err(format!("SERVER_STARTER_PORT: {}", wrong.join("; ")))
    }
}

/// Descriptors from 3 on (sd_listen_fds(3)), if they are meant for process `pid`.
fn of_systemd(
    count: &str,
    meant_for: Option<String>,
    names: Option<String>,
    pid: u32,
) -> Result<Named, String> {
    const FIRST: RawFd = 3;
    let Some(meant_for) = meant_for else {
        let note = "LISTEN_FDS is set without LISTEN_PID, so that nobody knows whom it is for; it is not used".into();
        return Ok(Named { fds: Vec::new(), note: Some(note) });
    };
    if meant_for.parse() != Ok(pid) {
        // The man page: a process that inherits the variables from its parent by chance must leave them alone.
        let note = format!(
            "LISTEN_FDS is meant for process {meant_for}, and this is {pid}: it is not used. If a shell starts this \
             program, let it do so with exec"
        );
        return Ok(Named { fds: Vec::new(), note: Some(note) });
    }
    let count =
        count.parse::<usize>().ok().filter(|count| *count <= INHERITED_MAX).ok_or_else(|| {
            format!(
                "LISTEN_FDS: \"{count}\" is not a number of sockets; pass {INHERITED_MAX} at most"
            )
        })?;
    let names = names.unwrap_or_default();
    let mut names = names.split(':');
    let name = |fd| match names.next().filter(|name| !name.is_empty()) {
        Some(name) => (fd, format!("descriptor {fd} of systemd (\"{name}\")")),
        None => (fd, format!("descriptor {fd} of systemd")),
    };
    Ok(Named { fds: (FIRST..).take(count).map(name).collect(), note: None })
}

/// Makes sure that `fd` is what this program can accept on. Errors: why not, and what to do, made to stand behind its
/// name.
fn adopt_one(fd: RawFd) -> Result<(Socket, SocketAddr), String> {
    let owned = sys::adopt(fd).map_err(|e| {
        format!("is not open ({e}); let the supervisor start this program itself, and nothing in between close it")
    })?;
    let socket = Socket::from(owned);
    let failed = |e: io::Error| format!("cannot be used: {e}");
    let kind = socket.r#type().map_err(|e| {
        format!("is no socket ({e}); the numbers in the environment are not those of this process")
    })?;
    let domain = socket.domain().map_err(failed)?;
    if domain == Domain::UNIX {
        return Err("is a unix socket, which is not served; give an address and a port".to_owned());
    }
    if domain != Domain::IPV4 && domain != Domain::IPV6 {
        return Err("is neither IPv4 nor IPv6; give an address and a port".to_owned());
    }
    if kind != Type::STREAM {
        return Err("is not TCP; give a TCP port (systemd: ListenStream=)".to_owned());
    }
    if !socket.is_listener().map_err(failed)? {
        return Err("does not listen: it is a connection, or nobody called listen(2); systemd needs Accept=no".to_owned());
    }
    socket.set_cloexec(true).map_err(failed)?;
    tune(&socket).map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    let address = address.as_socket().ok_or("has an address that is not an IP address")?;
    Ok((socket, address))
}

/// What accepted connections inherit from a listener, which saves two system calls each.
pub fn tune(listener: &Socket) -> io::Result<()> {
    listener.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    listener.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_by(variables: &[(&str, &str)]) -> Result<Named, String> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name);
        named(|name| find(name).map(|(_, text)| (*text).to_owned()), 77)
    }

    fn fds(variables: &[(&str, &str)]) -> Vec<RawFd> {
        let named = named_by(variables).expect("sound variables");
        named.fds.into_iter().map(|(fd, _)| fd).collect()
    }

    #[test]
    fn server_starter_names_ports_addresses_and_ipv6() {
        let starter = |ports| fds(&[("SERVER_STARTER_PORT", ports)]);
        assert_eq!(starter("3000=3"), [3]);
        assert_eq!(starter("3000=3;127.0.0.1:8080=4;[::1]:80=12"), [3, 4, 12]);
        assert_eq!(starter("3000=3;"), [3]);
        assert!(starter("").is_empty() && fds(&[]).is_empty());
        let named = named_by(&[("SERVER_STARTER_PORT", "[::1]:80=12")]).expect("sound");
        assert_eq!(named.fds, [(12, "descriptor 12 of Server::Starter (\"[::1]:80\")".to_owned())]);
    }

    #[test]
    fn every_mistake_of_server_starter_is_said_with_its_remedy() {
        let said =
            named_by(&[("SERVER_STARTER_PORT", "3000;80=3;81=3;82=x;83=-1;84=2;/run/a=b.sock=4")])
                .expect_err("mistakes");
        for part in [
            "\"3000\" names no descriptor",
            "\"81=3\" names descriptor 3 a second time",
            "\"82=x\" names no descriptor",
            "\"83=-1\" names no descriptor",
            "\"84=2\" names no descriptor",
            "\"/run/a=b.sock=4\" is a unix socket, which is not served; give start_server --port",
        ] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert!(said.starts_with("SERVER_STARTER_PORT: ") && !said.contains("80=3\" names"));
    }

    #[test]
    fn systemd_names_descriptors_from_3_on_for_this_process_only() {
        let mine = |count, names| {
            named_by(&[("LISTEN_FDS", count), ("LISTEN_PID", "77"), ("LISTEN_FDNAMES", names)])
        };
        assert_eq!(
            mine("2", "http:").expect("sound").fds,
            [
                (3, "descriptor 3 of systemd (\"http\")".into()),
                (4, "descriptor 4 of systemd".into())
            ]
        );
        assert_eq!(mine("0", "").expect("sound"), Named::default());
        for count in ["-1", "x", "1x", "99999999999"] {
            assert!(mine(count, "").expect_err("a mistake").starts_with("LISTEN_FDS: "), "{count}");
        }
        for other in [&[("LISTEN_FDS", "1")][..], &[("LISTEN_FDS", "1"), ("LISTEN_PID", "78")]] {
            let named = named_by(other).expect("no mistake");
            assert!(named.fds.is_empty() && named.note.is_some(), "{named:?}");
        }
        let named = named_by(&[("LISTEN_FDS", "x"), ("LISTEN_PID", "78")]).expect("not ours");
        assert!(named.note.expect("a note").contains("process 78, and this is 77"));
    }

    #[test]
    fn server_starter_goes_before_systemd() {
        let both = [("LISTEN_FDS", "5"), ("LISTEN_PID", "77"), ("SERVER_STARTER_PORT", "3000=9")];
        assert_eq!(fds(&both), [9]);
    }

    #[test]
    fn number_of_sockets_is_bounded_at_and_one_past() {
        let ports = |count: usize| {
            (0..count).map(|n| format!("{n}={}", n + 3)).collect::<Vec<_>>().join(";")
        };
        let starter = |count| named_by(&[("SERVER_STARTER_PORT", ports(count).as_str())]);
        let systemd = |count: usize| {
            named_by(&[("LISTEN_FDS", count.to_string().as_str()), ("LISTEN_PID", "77")])
        };
        assert_eq!(starter(INHERITED_MAX).expect("at the bound").fds.len(), INHERITED_MAX);
        assert!(starter(INHERITED_MAX + 1).is_err());
        assert_eq!(systemd(INHERITED_MAX).expect("at the bound").fds.len(), INHERITED_MAX);
        assert!(systemd(INHERITED_MAX + 1).is_err());
    }
}
