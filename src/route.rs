//! Where a request goes: from the Host that the client sent to the origin that it names.
//!
//! chocon: `httpproxy.go`, `rewriteHost`. The LAST label that is `ccnproxy`, `ccnproxy-https`, `ccnproxy-secure` or
//! `ccnproxy-ssl` splits the name: before it stands the origin, what follows is ignored, the port is the origin's.
//! Better than chocon: IPv6 literals, upper case and a trailing dot work.

#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

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
}

/// An origin as the client spelled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'h> {
    pub scheme: Scheme,
    /// Name, IPv4 address, or IPv6 address in brackets; checked, in the client's spelling, no trailing dot.
    pub name: &'h str,
    /// The port that the client gave, if any.
    pub port: Option<u16>,
}

impl Route<'_> {
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(self.scheme.default_port())
    }
}

pub const NO_LABEL: &str =
    "the Host has no ccnproxy label; send Host: NAME.ccnproxy-https or NAME.ccnproxy";
const NO_NAME: &str = "the Host has no origin name before its ccnproxy label";
const BAD_NAME: &str = "the origin name in the Host is not a valid host name or address";
const BAD_PORT: &str = "the port in the Host is not a number from 1 to 65535";

/// Finds the origin that an authority (Host value, or the authority of an absolute-form target) names.
///
/// Errors: a sentence for the log; the client gets 400.
pub fn route(authority: &[u8]) -> Result<Route<'_>, &'static str> {
    let authority = std::str::from_utf8(authority).map_err(|_| BAD_NAME)?;
    let (labels, port) = split_port(authority)?;
    let (scheme, name) = split_label(labels)?;
    Ok(Route { scheme, name: check_name(name)?, port })
}

/// Splits `host[:port]`, where the host may be or begin with a bracketed IPv6 literal.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let after_literal = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2).ok_or(BAD_NAME)?,
        None => 0,
    };
    let Some(colon) = authority[after_literal..].find(':').map(|at| at + after_literal) else {
        return Ok((authority, None));
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    if port.is_empty() {
        // RFC 9110 §4.2.3: an empty port is the default one.
        return Ok((host, None));
    }
    if port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BAD_PORT);
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(BAD_PORT),
        Ok(port) => Ok((host, Some(port))),
    }
}

/// Finds the last ccnproxy label and what stands before it.
fn split_label(host: &str) -> Result<(Scheme, &str), &'static str> {
    let mut end = host.len();
    loop {
        let start = host[..end].rfind('.').map_or(0, |dot| dot + 1);
        if let Some(scheme) = scheme_of(&host[start..end]) {
            // At index 0 there is no origin before it. chocon: 400.
            return if start == 0 { Err(NO_NAME) } else { Ok((scheme, &host[..start - 1])) };
        }
        if start == 0 {
            return Err(NO_LABEL);
        }
        end = start - 1;
    }
}

fn scheme_of(label: &str) -> Option<Scheme> {
    if label.len() < 8 || !label.as_bytes()[..8].eq_ignore_ascii_case(b"ccnproxy") {
        return None;
    }
    let suffix = &label.as_bytes()[8..];
    if suffix.is_empty() {
        return Some(Scheme::Http);
    }
    let https: [&[u8]; 3] = [b"-https", b"-secure", b"-ssl"];
    https.iter().any(|s| suffix.eq_ignore_ascii_case(s)).then_some(Scheme::Https)
}

/// Checks that a name is one that can be dialled, and takes one trailing dot away.
fn check_name(name: &str) -> Result<&str, &'static str> {
    if name.is_empty() || name == "." {
        return Err(NO_NAME);
    }
    if let Some(rest) = name.strip_prefix('[') {
        let literal = rest.strip_suffix(']').ok_or(BAD_NAME)?;
        return literal.parse::<Ipv6Addr>().map(|_| name).map_err(|_| BAD_NAME);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // RFC 1035 §2.3.4: 253 characters, labels of 1 to 63.
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(BAD_NAME);
    }
    // A name whose last label is a number is an address or nothing (WHATWG URL "ends in a number"): `0`,
    // `2130706433` and `127.1` must not reach a resolver that takes them for 127.0.0.1.
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last.get(..2).is_some_and(|x| x.eq_ignore_ascii_case("0x"));
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(BAD_NAME);
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(name: &str, port: Option<u16>) -> Result<Route<'_>, &'static str> {
        Ok(Route { scheme: Scheme::Http, name, port })
    }

    fn https(name: &str, port: Option<u16>) -> Result<Route<'_>, &'static str> {
        Ok(Route { scheme: Scheme::Https, name, port })
    }

    #[test]
    fn the_reference_table_holds() {
        assert_eq!(route(b"example.com.ccnproxy:3000"), http("example.com", Some(3000)));
        assert_eq!(route(b"example.com.ccnproxy"), http("example.com", None));
        assert_eq!(route(b"example.com.ccnproxy.local:3000"), http("example.com", Some(3000)));
        assert_eq!(route(b"example.com.ccnproxy.local"), http("example.com", None));
        assert_eq!(route(b"example.com.ccnproxy-ssl:3000"), https("example.com", Some(3000)));
        assert_eq!(route(b"example.com.ccnproxy-ssl"), https("example.com", None));
        assert_eq!(route(b"example.com.ccnproxy-https"), https("example.com", None));
        assert_eq!(route(b"example.com.ccnproxy-secure"), https("example.com", None));
    }

    #[test]
    fn the_last_label_wins() {
        assert_eq!(route(b"a.ccnproxy.b.ccnproxy-https.c"), https("a.ccnproxy.b", None));
        assert_eq!(route(b"a.ccnproxy-https.ccnproxy"), http("a.ccnproxy-https", None));
    }

    #[test]
    fn mended_faults_work() {
        assert_eq!(route(b"[::1].ccnproxy:8080"), http("[::1]", Some(8080)));
        assert_eq!(route(b"[2001:DB8::1].CCNPROXY-HTTPS"), https("[2001:DB8::1]", None));
        assert_eq!(route(b"Example.COM.CcnProxy-SSL."), https("Example.COM", None));
        assert_eq!(route(b"example.com..ccnproxy"), http("example.com", None));
        assert_eq!(route(b"example.com.ccnproxy:"), http("example.com", None));
        assert_eq!(route(b"127.0.0.1.ccnproxy:9001"), http("127.0.0.1", Some(9001)));
    }

    #[test]
    fn what_names_no_origin_is_refused() {
        for host in [
            "",
            ".",
            "ccnproxy",
            "ccnproxy-https:80",
            ".ccnproxy",
            "..ccnproxy",
            "example.com",
            "ccnproxyx",
            "a.ccnproxy-http",
            "a.b-ccnproxy",
            "a..b.ccnproxy",
            "-_ .ccnproxy",
            "a b.ccnproxy",
            "[::1].x",
            "[::1.ccnproxy",
            "[::1%25lo].ccnproxy",
            "[1.2.3.4].ccnproxy",
            "::1.ccnproxy",
            "user@a.ccnproxy",
            "0.ccnproxy",
            "127.1.ccnproxy",
            "2130706433.ccnproxy",
            "0x7f000001.ccnproxy",
            "1.2.3.4.5.ccnproxy",
            "256.1.1.1.ccnproxy",
            "0177.0.0.1.ccnproxy",
        ] {
            assert!(route(host.as_bytes()).is_err(), "{host}");
        }
        assert!(route(b"\xff.ccnproxy").is_err());
    }

    #[test]
    fn ports_are_checked_at_the_bounds() {
        assert_eq!(route(b"a.ccnproxy:1"), http("a", Some(1)));
        assert_eq!(route(b"a.ccnproxy:65535"), http("a", Some(65535)));
        for bad in ["0", "65536", "00080x", "-1", "+80", "80a", "99999", "000080", "80:80"] {
            assert_eq!(route(format!("a.ccnproxy:{bad}").as_bytes()), Err(BAD_PORT), "{bad}");
        }
    }

    #[test]
    fn labels_are_checked_at_the_bounds() {
        let label = "a".repeat(63);
        assert!(route(format!("{label}.ccnproxy").as_bytes()).is_ok());
        assert!(route(format!("{label}a.ccnproxy").as_bytes()).is_err());
        let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(name.len(), 253);
        assert!(route(format!("{name}.ccnproxy").as_bytes()).is_ok());
        assert!(route(format!("{name}a.ccnproxy").as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics_and_an_accepted_name_is_clean(host in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(route) = route(&host) {
                prop_assert!(!route.name.is_empty());
                prop_assert!(route.name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'@'));
            }
        }

        #[test]
        fn any_name_before_the_label_is_found(name in "[a-z][a-z0-9]{0,10}(\\.[a-z]{1,10}){0,3}", port in 1u16.., tail in "(\\.[a-z]{1,7}){0,2}") {
            let host = format!("{name}.ccnproxy-https{tail}:{port}");
            prop_assert_eq!(route(host.as_bytes()), https(&name, Some(port)));
        }
    }
}
