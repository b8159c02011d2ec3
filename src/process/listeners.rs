//! The listening sockets: one a shard, all on the same address, so that the kernel spreads connections.

#![forbid(unsafe_code)]

use crate::limits::{BACKLOG, TCP_KEEPALIVE};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::{io, net::SocketAddr};

/// Binds `count` sockets to `address` with `SO_REUSEPORT`; with port 0 the kernel chooses one for all of them.
///
/// Returns them with the address in force. Errors: cause and remedy in words.
pub fn bind(
    address: SocketAddr,
    count: usize,
) -> Result<(Vec<std::net::TcpListener>, SocketAddr), String> {
    let explain = |e: io::Error| {
        let remedy = match e.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there; stop it, or give another --port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "no interface has this address; give one of this host, or 0.0.0.0"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or give another --port"
            }
            _ => "check --listen and --port",
        };
        format!("cannot listen on {address}: {e}. {remedy}")
    };
    refuse_taken(address).map_err(explain)?;
    let first = bind_one(address).map_err(explain)?;
    let bound = first.local_addr().map_err(explain)?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind_one(bound).map_err(explain)?);
    }
    Ok((listeners, bound))
}

/// `SO_REUSEPORT` would let this process share the port with another of the same user, and both would get half of the
/// connections. A first bind without it finds that out.
fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    probe.set_reuse_address(true)?;
    probe.bind(&address.into())
}

fn bind_one(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit both, which saves two system calls each.
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
