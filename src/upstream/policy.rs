//! Which addresses may be dialled at all.
//!
//! A client names the origin, so without this any client could reach what only this host can: above all the metadata
//! service that hands out its credentials. The check is on the very address that is dialled, after resolution.

#![forbid(unsafe_code)]

use super::own::{self, Own};
use crate::error::Cause;
use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The exceptions that `--allow-cidr` makes, and what none can be made for.
pub struct Policy {
    allowed: Vec<IpNet>,
    own: Own,
}

/// What helps where a name leads to this proxy itself.
pub const LEADS_BACK: &str = "this proxy listens on that address; if /etc/hosts points the name here for its clients, \
    start with --resolver dns; if a name server does, with --dns-server another";

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 169.254.0.0/16, fe80::/10 (RFC 3927, RFC 4291 §2.5.6): clouds serve metadata and credentials there.
    LinkLocal,
    /// Where clouds serve metadata outside the link-local range.
    Metadata,
    /// 0.0.0.0/8, :: (RFC 1122 §3.2.1.3): this host, in disguise.
    Unspecified,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 240.0.0.0/4 (RFC 1112 §4), 255.255.255.255 included.
    Reserved,
    /// Where this proxy listens.
    ThisProxy,
}

impl Refused {
    /// What the client and the log are told. `at` was refused.
    pub fn cause(self, at: SocketAddr) -> Cause {
        match self {
            Refused::LinkLocal
            | Refused::Metadata
            | Refused::Unspecified
            | Refused::Multicast
            | Refused::Reserved => Cause::Forbidden(format!("{}: {self}", at.ip())),
            Refused::ThisProxy => Cause::LeadsBack(format!("{at}: {self}")),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Refused::LinkLocal => "link-local, where clouds serve credentials",
            Refused::Metadata => "a cloud's metadata service, which serves credentials",
            Refused::Unspecified => "unspecified, which leads to this host itself",
            Refused::Multicast => "multicast, which no HTTP origin has",
            Refused::Reserved => "reserved or broadcast, which no HTTP origin has",
            Refused::ThisProxy => {
                return f.write_str(LEADS_BACK);
            }
        };
        write!(f, "the address is {what}; --allow-cidr opens it if it is meant")
    }
}

impl Policy {
    pub fn new(allowed: Vec<IpNet>, own: Own) -> Self {
        Self { allowed, own }
    }

    /// Whether `at` may be dialled: the address is none of those refused, or an exception covers it, and this proxy does not
    /// listen there.
    pub fn check(&self, at: SocketAddr) -> Result<(), Refused> {
        self.check_ip(at.ip())?;
        if self.own.is(at, own::is_local) { Err(Refused::ThisProxy) } else { Ok(()) }
    }

    /// Whether this proxy listens on `ip`, on whatever port.
    pub fn listens_on(&self, ip: IpAddr) -> bool {
        self.own.is_on(ip, own::is_local)
    }

    /// Whether `ip` may be dialled.
    ///
    /// An address that carries an IPv4 address inside (NAT64, 6to4, ...) is judged by both. An exception opens what it
    /// covers: the address as it is dialled, or the one inside; an IPv4 exception thus opens its embeddings too, for
    /// they lead to the same place.
    fn check_ip(&self, ip: IpAddr) -> Result<(), Refused> {
        let inside = embedded(ip);
        let covers = |ip: IpAddr| self.allowed.iter().any(|net| net.contains(&ip));
        let judge = |ip: IpAddr| match refused(ip) {
            Some(why) if !covers(ip) => Err(why),
            Some(_) | None => Ok(()),
        };
        if covers(ip) {
            return Ok(());
        }
        judge(ip)?;
        if let Some(inside) = inside {
            judge(IpAddr::V4(inside))?;
        }
        // Other bytes in these places may be of the operator's prefix, or of a suffix.
        let counts = |why: &Refused| matches!(why, Refused::LinkLocal | Refused::Metadata);
        let perhaps = inside_local_nat64(ip).into_iter();
        perhaps
            .filter_map(|inside| judge(IpAddr::V4(inside)).err())
            .find(counts)
            .map_or(Ok(()), Err)
    }
}

fn refused(ip: IpAddr) -> Option<Refused> {
    match ip {
        IpAddr::V4(ip) => refused_v4(ip),
        IpAddr::V6(ip) => refused_v6(ip),
    }
}

fn refused_v4(ip: Ipv4Addr) -> Option<Refused> {
    // Alibaba Cloud; Oracle Cloud (RFC 7534 addresses that it took); Azure's WireServer, which hands out a host's settings.
    const METADATA: [Ipv4Addr; 3] = [
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
        Ipv4Addr::new(168, 63, 129, 16),
    ];
    match ip.octets() {
        [0, ..] => Some(Refused::Unspecified),
        [169, 254, ..] => Some(Refused::LinkLocal),
        [224..=239, ..] => Some(Refused::Multicast),
        [240..=255, ..] => Some(Refused::Reserved),
        _ if METADATA.contains(&ip) => Some(Refused::Metadata),
        _ => None,
    }
}

fn refused_v6(ip: Ipv6Addr) -> Option<Refused> {
    // Google Cloud. AWS serves metadata, time and names from fd00:ec2::/32.
    const GOOGLE: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refused::Unspecified),
        [0xfe80..=0xfebf, ..] => Some(Refused::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Refused::Multicast),
        [0xfd00, 0xec2, ..] => Some(Refused::Metadata),
        _ if ip == GOOGLE => Some(Refused::Metadata),
        _ => None,
    }
}

/// The IPv4 address that an IPv6 address leads to, if it is a form that gateways translate.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match ip.segments() {
        // ::1 is loopback, not 0.0.0.1; :: is judged as it is.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // IPv4-mapped (RFC 4291 §2.5.5.2), IPv4-translated (RFC 2765 §2.1), IPv4-compatible (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        // NAT64 (RFC 6052 §2.1, RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => {
            v4(high, low)
        }
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo (RFC 4380 §4): the client's address, inverted.
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        // ISATAP (RFC 5214 §6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        _ => None,
    }
}

/// The IPv4 addresses that one below 64:ff9b:1::/48 (RFC 8215) leads to, if the gateway's prefix has 48, 56 or 64 bits
/// (RFC 6052 §2.2: byte 8 is left out). With one of 96 bits it is in the last four bytes, as [`embedded`] has it.
fn inside_local_nat64(ip: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return Vec::new() };
    let at = ip.octets();
    if at[..6] != [0, 0x64, 0xff, 0x9b, 0, 1] {
        return Vec::new();
    }
    let places = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12]];
    places.map(|place| Ipv4Addr::from(place.map(|byte| at[byte]))).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ip: &str) -> Result<(), Refused> {
        Policy::new(Vec::new(), Own::default()).check_ip(ip.parse().unwrap())
    }

    fn with(allowed: &str, ip: &str) -> Result<(), Refused> {
        Policy::new(vec![allowed.parse().unwrap()], Own::default()).check_ip(ip.parse().unwrap())
    }

    #[test]
    fn ranges_are_refused_from_first_to_last_and_not_beside() {
        use Refused::*;
        for (why, first, last) in [
            (Unspecified, "0.0.0.0", "0.255.255.255"),
            (LinkLocal, "169.254.0.0", "169.254.255.255"),
            (Multicast, "224.0.0.0", "239.255.255.255"),
            (Reserved, "240.0.0.0", "255.255.255.255"),
            (LinkLocal, "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            (Multicast, "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            (Metadata, "fd00:ec2::", "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff"),
            (Metadata, "fd00:ec2::254", "fd20:ce::254"),
            (Metadata, "100.100.100.200", "192.0.0.192"),
            (Metadata, "168.63.129.16", "168.63.129.16"),
        ] {
            assert_eq!(check(first), Err(why), "{first}");
            assert_eq!(check(last), Err(why), "{last}");
        }
        for beside in [
            "1.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "100.100.100.199",
            "fe7f::",
            "fec0::",
            "feff::1",
            "fd00:ec1:ffff::",
            "fd00:ec3::",
            "fd20:ce::253",
            "192.0.0.191",
            "168.63.129.15",
            "168.63.129.17",
        ] {
            assert_eq!(check(beside), Ok(()), "{beside}");
        }
    }

    #[test]
    fn loopback_and_private_networks_are_where_origins_live() {
        for ip in
            ["127.0.0.1", "::1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "fd12::1", "8.8.8.8"]
        {
            assert_eq!(check(ip), Ok(()), "{ip}");
        }
    }

    #[test]
    fn embeddings_are_judged_by_what_they_lead_to() {
        for ip in [
            "::ffff:169.254.169.254",
            "::ffff:0:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:2:3:4:169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2001:0:1:2:3:4:5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
        ] {
            assert_eq!(check(ip), Err(Refused::LinkLocal), "{ip}");
        }
        // RFC 8215 leaves the length of the local prefix to the operator; RFC 6052 §2.2 says where the bytes are.
        for ip in [
            "64:ff9b:1:a9fe:a9:fe00:101:101",
            "64:ff9b:1:a9:fe:a9fe:101:101",
            "64:ff9b:1:5:a9:fea9:fe01:101",
        ] {
            assert!(check(ip).is_err(), "{ip}");
        }
        assert_eq!(check("64:ff9b:1::8.8.8.8"), Ok(()));
        assert_eq!(check("64:ff9b:1:e000::8.8.8.8"), Ok(()), "the operator's prefix");
        for ip in ["::ffff:127.0.0.1", "64:ff9b::8.8.8.8", "2002:808:808::1", "2001:db8::1"] {
            assert_eq!(check(ip), Ok(()), "{ip}");
        }
        assert_eq!(check("::ffff:0.0.0.0"), Err(Refused::Unspecified));
    }

    #[test]
    fn an_exception_opens_what_it_covers() {
        assert_eq!(with("169.254.169.254/32", "169.254.169.254"), Ok(()));
        assert_eq!(with("169.254.169.254/32", "::ffff:169.254.169.254"), Ok(()));
        assert_eq!(with("169.254.169.254/32", "169.254.169.253"), Err(Refused::LinkLocal));
        assert_eq!(with("64:ff9b::/96", "64:ff9b::169.254.169.254"), Ok(()));
        assert_eq!(with("64:ff9b::/96", "169.254.169.254"), Err(Refused::LinkLocal));
        assert_eq!(with("fe80::/10", "fe80::1"), Ok(()));
    }

    #[test]
    fn no_exception_lets_the_proxy_dial_itself() {
        let own = Own::new(vec!["0.0.0.0:3000".parse().unwrap()]);
        let policy = Policy::new(vec!["0.0.0.0/0".parse().unwrap()], own);
        assert_eq!(policy.check("127.0.0.1:3000".parse().unwrap()), Err(Refused::ThisProxy));
        assert_eq!(policy.check("0.0.0.0:3000".parse().unwrap()), Err(Refused::ThisProxy));
        assert_eq!(policy.check("127.0.0.1:3001".parse().unwrap()), Ok(()));
    }
}
