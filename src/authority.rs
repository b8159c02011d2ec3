//! Authorities (RFC 3986 §3.2): `name[:port]` as clients and flags write it, and the origin that it means.

#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn word(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// The scheme that `url` begins with, in any case, and what follows its `://`.
    pub fn split(url: &str) -> Option<(Scheme, &str)> {
        [Scheme::Http, Scheme::Https].into_iter().find_map(|scheme| {
            let (word, rest) = url.split_at_checked(scheme.word().len())?;
            let rest = rest.strip_prefix("://")?;
            word.eq_ignore_ascii_case(scheme.word()).then_some((scheme, rest))
        })
    }
}

/// Where to connect, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OriginUrl {
    pub scheme: Scheme,
    /// As [`canonical`] makes it.
    pub name: Arc<str>,
    pub port: u16,
}

impl OriginUrl {
    /// Reads `http[s]://name[:port]`, with or without one slash at its end. Errors: what it is not, for a message that
    /// names the value.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = Scheme::split(url).ok_or("does not begin with http:// or https://")?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err("has a path, but only a name and a port count");
        }
        let (name, port) = split_port(rest)?;
        let name = canonical(check_name(name)?);
        Ok(Self { scheme, name, port: port.unwrap_or(scheme.default_port()) })
    }
}

/// Why a text is no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    NoName,
    Name,
    Port,
}

impl From<Invalid> for &'static str {
    /// For a message that names the value first.
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::NoName => "has no host name",
            Invalid::Name => "has no valid host name or address",
            Invalid::Port => "has a port that is not a number from 1 to 65535",
        }
    }
}

/// Splits `name[:port]`, where the name may be or begin with a bracketed IPv6 literal. The name is not checked.
pub fn split_port(authority: &str) -> Result<(&str, Option<u16>), Invalid> {
    let after_literal = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2).ok_or(Invalid::Name)?,
        None => 0,
    };
    let Some(colon) = authority[after_literal..].find(':').map(|at| at + after_literal) else {
        return Ok((authority, None));
    };
    let (name, port) = (&authority[..colon], &authority[colon + 1..]);
    if port.is_empty() {
        // RFC 9110 §4.2.3: an empty port is the default one.
        return Ok((name, None));
    }
    if port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::Port);
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(Invalid::Port),
        Ok(port) => Ok((name, Some(port))),
    }
}

/// Whether bytes are spelled as the host and port of an authority (RFC 3986 §3.2.2): for those that are passed on without
/// being looked at. What else they might hold (user info, a path, a space) another reader could take for another host.
pub fn is_host_spelling(host: &[u8]) -> bool {
    host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(b))
}

/// Checks that a name is one that can be dialled (host name, IPv4 address, or IPv6 address in brackets), and takes one
/// trailing dot away.
pub fn check_name(name: &str) -> Result<&str, Invalid> {
    if name.is_empty() || name == "." {
        return Err(Invalid::NoName);
    }
    if let Some(rest) = name.strip_prefix('[') {
        let literal = rest.strip_suffix(']').ok_or(Invalid::Name)?;
        return literal.parse::<Ipv6Addr>().map(|_| name).map_err(|_| Invalid::Name);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // RFC 1035 §2.3.4: 253 characters, labels of 1 to 63.
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(Invalid::Name);
    }
    // A name whose last label is a number is an address or nothing (WHATWG URL "ends in a number"): `0`,
    // `2130706433` and `127.1` must not reach a resolver that takes them for 127.0.0.1.
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.get(..2).is_some_and(|x| x.eq_ignore_ascii_case("0x"));
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(Invalid::Name);
    }
    Ok(name)
}

/// One spelling for one origin, so that it has one pool and one pattern finds it: lower case, addresses as Rust prints
/// them, no brackets. `name` is checked.
pub fn canonical(name: &str) -> Arc<str> {
    let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_string().into(),
        Err(_) => name.into(),
    }
}

/// Whether two authorities of URLs with `scheme` mean the same: case and the default port make no difference (RFC 9110
/// §4.2.3).
pub fn is_same(a: &[u8], b: &[u8], scheme: Scheme) -> bool {
    if a == b {
        return true;
    }
    let split = |text| {
        let (name, port) = split_port(std::str::from_utf8(text).ok()?).ok()?;
        Some((name, port.unwrap_or(scheme.default_port())))
    };
    match (split(a), split(b)) {
        (Some((a, port_a)), Some((b, port_b))) => a.eq_ignore_ascii_case(b) && port_a == port_b,
        (None, _) | (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_with_its_scheme_and_default_port() {
        let url = |scheme, name: &str, port| Ok(OriginUrl { scheme, name: name.into(), port });
        for (text, expected) in [
            ("https://Api.Example.com", url(Scheme::Https, "api.example.com", 443)),
            ("HTTP://api.example.com./", url(Scheme::Http, "api.example.com", 80)),
            ("https://[2001:DB8::0:1]:8443", url(Scheme::Https, "2001:db8::1", 8443)),
            ("http://127.0.0.1:1", url(Scheme::Http, "127.0.0.1", 1)),
            ("http://a:/", url(Scheme::Http, "a", 80)),
        ] {
            assert_eq!(OriginUrl::parse(text), expected, "{text}");
        }
        for bad in [
            "",
            "api.example.com",
            "ftp://a",
            "https://",
            "https:///",
            "https://a/b",
            "https://a//",
            "https://a?b",
            "https://a#",
            "https://u@a",
            "https://a:0",
            "https://a:65536",
            "https://2130706433",
            "https://[::1",
            "https://a b",
        ] {
            assert!(OriginUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn authorities_are_the_same_whatever_their_case_and_default_port() {
        let same = |a: &str, b: &str, scheme| is_same(a.as_bytes(), b.as_bytes(), scheme);
        assert!(same("a.b", "a.b", Scheme::Http));
        assert!(same("A.b:80", "a.B", Scheme::Http));
        assert!(same("a.b:443", "a.b", Scheme::Https));
        assert!(same("[::1]:", "[::1]:80", Scheme::Http));
        for (a, b) in [
            ("a.b:443", "a.b"),
            ("a.b", "a.c"),
            ("a.b:81", "a.b:82"),
            ("a.b.", "a.b"),
            ("a.b:x", "a.b:y"),
            ("", "a.b"),
        ] {
            assert!(!same(a, b, Scheme::Http), "{a} {b}");
        }
        assert!(!is_same(b"\xff", b"\xfe", Scheme::Http));
    }
}
