//! Where this proxy listens itself: a name that leads there would make it its own client.
//!
//! Names lead back where a hosts file or a name server points the origin's true name at the proxy (`--map`). The loop
//! check of the request's head would end such a loop as well, but only after a second pass, and without saying why.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The addresses that this process listens on.
#[derive(Clone, Debug, Default)]
pub struct Own {
    listening: Vec<SocketAddr>,
}

impl Own {
    pub fn new(listening: Vec<SocketAddr>) -> Self {
        Self { listening }
    }

    /// Whether a connection to `at` would arrive at this process. `is_local` tells whether an address is one of this
    /// host; it is asked only where the port is the same and the listener takes any address.
    pub fn is(&self, at: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let same_port = |own: &&SocketAddr| own.port() == at.port();
        self.listening.iter().filter(same_port).any(|own| takes(*own, at.ip(), &is_local))
    }

    /// Whether this process listens on `ip`, on whatever port.
    pub fn is_on(&self, ip: IpAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        self.listening.iter().any(|own| takes(*own, ip, &is_local))
    }
}

fn takes(own: SocketAddr, ip: IpAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
    // ::ffff:a.b.c.d is a.b.c.d on the wire (RFC 4291 §2.5.5.2).
    let ip = ip.to_canonical();
    match own.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.is_ipv4() && is_local(ip),
        // It takes both families: an inherited one that does not is rare, and an origin there rarer.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => is_local(ip),
        own => own == ip,
    }
}

/// Whether an address is one of this host. Three system calls, none of which waits for anything: connecting a datagram
/// socket only looks the route up, and a route to oneself comes from the very address that it goes to. (Binding to it
/// would ask less directly: `ip_nonlocal_bind` lets any address pass.)
pub fn is_local(ip: IpAddr) -> bool {
    // 0.0.0.0 and :: lead to loopback; on loopback, 127.0.0.2 is reached from 127.0.0.1.
    if ip.is_loopback() || ip.is_unspecified() {
        return true;
    }
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        // Port 9, discard: no datagram is sent.
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    // Where there is no route, there is no connection either.
    from.is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listening: &[&str]) -> Own {
        Own::new(listening.iter().map(|at| at.parse().unwrap()).collect())
    }

    fn local(ip: IpAddr) -> bool {
        ip.is_loopback() || ip.to_string() == "10.0.0.5"
    }

    #[test]
    fn a_listener_on_any_address_takes_every_local_one() {
        let own = own(&["0.0.0.0:3000"]);
        let is = |at: &str| own.is(at.parse().unwrap(), local);
        assert!(is("127.0.0.1:3000") && is("127.9.9.9:3000") && is("10.0.0.5:3000"));
        assert!(is("[::ffff:10.0.0.5]:3000"), "it is IPv4 on the wire");
        assert!(!is("10.0.0.6:3000") && !is("10.0.0.5:3001"));
        assert!(!is("[::1]:3000"), "an IPv4 socket takes no IPv6");
    }

    #[test]
    fn a_listener_on_any_ipv6_address_takes_both_families() {
        let own = own(&["[::]:3000"]);
        assert!(own.is("[::1]:3000".parse().unwrap(), local));
        assert!(own.is("10.0.0.5:3000".parse().unwrap(), local));
    }

    #[test]
    fn a_listener_on_one_address_takes_that_one() {
        let own = own(&["10.0.0.5:80", "[::1]:81"]);
        let is = |at: &str| own.is(at.parse().unwrap(), |_| panic!("no need to ask"));
        assert!(is("10.0.0.5:80") && is("[::1]:81"));
        assert!(!is("127.0.0.1:80") && !is("10.0.0.5:81"));
        let is_on = |ip: &str| own.is_on(ip.parse().unwrap(), |_| panic!("no need to ask"));
        assert!(is_on("10.0.0.5") && is_on("::1") && !is_on("127.0.0.1"));
    }

    #[test]
    fn loopback_is_local_and_an_address_of_a_test_network_is_not() {
        for ip in ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0"] {
            assert!(is_local(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_local(ip.parse().unwrap()), "{ip}");
        }
    }
}
