//! The listening sockets: what each shard accepts on.
//!
//! Own ones are one a shard, all on the same address, so that the kernel spreads connections. Inherited ones belong to
//! a supervisor, which keeps them open across restarts: none may be added to them, or a restart would lose what the
//! kernel put into its queue. So shards share them.

#![forbid(unsafe_code)]

use super::inherited::{Inherited, tune};
use crate::limits::BACKLOG;
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr};

/// What the shards accept on.
pub struct Listeners {
    pub of_shard: Vec<Vec<std::net::TcpListener>>,
    /// Each address in force, with the name of whom it comes from.
    pub addresses: Vec<(SocketAddr, Option<String>)>,
}

/// Binds `count` sockets to `address` with `SO_REUSEPORT`; with port 0 the kernel chooses one for all of them.
///
/// Errors: cause and remedy in words.
pub fn bind(address: SocketAddr, count: usize) -> Result<Listeners, String> {
    let explain = |e| explain(address, "--port", e);
    refuse_taken(address).map_err(explain)?;
    let first = bind_one(address).map_err(explain)?;
    let bound = first.local_addr().map_err(explain)?;
    let mut of_shard = vec![vec![first]];
    for _ in 1..count {
        of_shard.push(vec![bind_one(bound).map_err(explain)?]);
    }
    Ok(Listeners { of_shard, addresses: vec![(bound, None)] })
}

/// Gives every shard a listener on each address, and every socket at least one shard.
///
/// Errors: a descriptor could not be copied.
pub fn share(inherited: Vec<Inherited>, count: usize) -> Result<Listeners, String> {
    let mut of_shard: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    let mut addresses: Vec<(SocketAddr, Option<String>)> = Vec::new();
    let mut by_address: Vec<Vec<&Inherited>> = Vec::new();
    for one in &inherited {
        match addresses.iter().position(|(address, _)| *address == one.address) {
            Some(same) => by_address[same].push(one),
            None => {
                addresses.push((one.address, Some(one.name.clone())));
                by_address.push(vec![one]);
            }
        }
    }
    for sockets in by_address {
        for (shard, socket) in pairs(count, sockets.len()) {
            let copy = sockets[socket].socket.try_clone();
            let copy = copy.map_err(|e| format!("a listening socket cannot be shared: {e}"))?;
            of_shard[shard].push(copy.into());
        }
    }
    Ok(Listeners { of_shard, addresses })
}

/// Which shard takes which socket of one address, so that none on either side is left out.
fn pairs(shards: usize, sockets: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..shards.max(sockets)).map(move |n| (n % shards, n % sockets))
}

/// Binds one socket for `--api`. With `is_successor` another process may listen there: the one that this one takes over
/// from.
///
/// Returns it with the address in force. Errors: cause and remedy in words.
pub fn bind_api(
    address: SocketAddr,
    is_successor: bool,
) -> Result<(std::net::TcpListener, SocketAddr), String> {
    let explain = |e| explain(address, "--api", e);
    if !is_successor {
        refuse_taken(address).map_err(explain)?;
    }
    let listener = bind_one(address).map_err(explain)?;
    let bound = listener.local_addr().map_err(explain)?;
    Ok((listener, bound))
}

/// Why an address cannot be listened on, and what to do with `flag`.
fn explain(address: SocketAddr, flag: &str, error: io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another process listens there; stop it, or give another {flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface has this address; give one of this host, or 0.0.0.0".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need CAP_NET_BIND_SERVICE; grant it, or give another {flag}")
        }
        _ => format!("check {flag} and its address"),
    };
    format!("cannot listen on {address}: {error}. {remedy}")
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
    tune(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_and_every_socket_has_its_part() {
        let pairs = |shards, sockets| pairs(shards, sockets).collect::<Vec<_>>();
        assert_eq!(pairs(3, 1), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(pairs(2, 2), [(0, 0), (1, 1)]);
        assert_eq!(pairs(3, 2), [(0, 0), (1, 1), (2, 0)]);
        assert_eq!(pairs(2, 5), [(0, 0), (1, 1), (0, 2), (1, 3), (0, 4)]);
    }
}
