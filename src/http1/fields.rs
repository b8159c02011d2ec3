//! The fields that a proxy must know, found by name.

#![forbid(unsafe_code)]

/// What a field is to this proxy. Everything else passes unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Other,
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Expect,
    UserAgent,
    ChoconId,
    ChoconVer,
    /// For the next hop only, too, but what an origin says in it is of use.
    KeepAlive,
    /// Meant for the next hop only, whether or not `Connection` names it (RFC 9110 §7.6.1), or for a proxy
    /// (RFC 9110 §11.7).
    HopByHop,
}

impl Field {
    pub fn named(name: &[u8]) -> Field {
        // By length and first letter: no comparison for most fields, one for the others.
        match (name.len(), name.first().copied().unwrap_or_default() | 0x20) {
            (2, b't') if is(name, b"te") => Field::HopByHop,
            (4, b'h') if is(name, b"host") => Field::Host,
            (6, b'e') if is(name, b"expect") => Field::Expect,
            (7, b'u') if is(name, b"upgrade") => Field::HopByHop,
            (10, b'c') if is(name, b"connection") => Field::Connection,
            (10, b'u') if is(name, b"user-agent") => Field::UserAgent,
            (10, b'k') if is(name, b"keep-alive") => Field::KeepAlive,
            (11, b'x') if is(name, b"x-chocon-id") => Field::ChoconId,
            (12, b'x') if is(name, b"x-chocon-ver") => Field::ChoconVer,
            (14, b'c') if is(name, b"content-length") => Field::ContentLength,
            (14, b'h') if is(name, b"http2-settings") => Field::HopByHop,
            (16, b'p') if is(name, b"proxy-connection") => Field::HopByHop,
            (17, b't') if is(name, b"transfer-encoding") => Field::TransferEncoding,
            (18, b'p') if is(name, b"proxy-authenticate") => Field::HopByHop,
            (19, b'p') if is(name, b"proxy-authorization") => Field::HopByHop,
            (25, b'p') if is(name, b"proxy-authentication-info") => Field::HopByHop,
            _ => Field::Other,
        }
    }
}

/// Whether the token `name` is `known`, which consists of small letters, digits and hyphens. As a comparison of all bytes it
/// takes a few instructions where one byte after the other takes as many for each.
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    // No other byte of a token becomes one of those by this bit.
    let differs = |name: &[u8; N]| (0..N).fold(0, |all, at| all | ((name[at] | 0x20) ^ known[at]));
    name.try_into().is_ok_and(|name| differs(name) == 0)
}

/// Reads the seconds of `timeout=` in a Keep-Alive field's value.
pub fn told_timeout(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    let parameters = value.split(',').filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) =
        { parameters }.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().trim_matches('"').parse().ok()
}

/// Whether a trailer field may be merged into a message that was already acted upon: never what frames, routes,
/// authenticates or modifies it (RFC 9110 §6.5.1).
pub fn is_trailer_allowed(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 21] = [
        b"age",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"expires",
        b"location",
        b"max-forwards",
        b"pragma",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"te",
        b"trailer",
        b"vary",
        b"warning",
        b"www-authenticate",
    ];
    Field::named(name) == Field::Other
        && !FORBIDDEN.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_fields_are_found_in_any_case() {
        assert_eq!(Field::named(b"HOST"), Field::Host);
        assert_eq!(Field::named(b"Transfer-encoding"), Field::TransferEncoding);
        assert_eq!(Field::named(b"te"), Field::HopByHop);
        assert_eq!(Field::named(b"Trailer"), Field::Other);
        assert_eq!(Field::named(b"X-Chocon-Idx"), Field::Other);
    }

    #[test]
    fn a_name_is_known_by_every_byte() {
        const KNOWN: [&str; 4] = ["te", "host", "content-length", "http2-settings"];
        let others = (b'!'..=b'~').filter(|byte| !b"\"(),/:;<=>?@[\\]{}".contains(byte));
        for other in others {
            for known in KNOWN {
                for at in 0..known.len() {
                    let mut name = known.as_bytes().to_vec();
                    name[at] = other;
                    let same = name.eq_ignore_ascii_case(known.as_bytes());
                    let is_known = Field::named(&name) != Field::Other;
                    assert_eq!(is_known, same, "{}", String::from_utf8_lossy(&name));
                }
            }
        }
    }

    #[test]
    fn trailers_that_frame_route_or_authenticate_are_not_allowed() {
        for name in [
            "Content-Length",
            "Host",
            "Transfer-Encoding",
            "Authorization",
            "Connection",
            "X-Chocon-Id",
        ] {
            assert!(!is_trailer_allowed(name.as_bytes()), "{name}");
        }
        assert!(is_trailer_allowed(b"X-Checksum"));
        assert!(is_trailer_allowed(b"Server-Timing"));
    }

    #[test]
    fn the_timeout_of_a_keep_alive_field_is_found() {
        for (value, expected) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100, Timeout = 15", Some(15)),
            ("timeout=\"7\"", Some(7)),
            ("", None),
            ("timeout", None),
            ("timeout=", None),
            ("timeout=-1", None),
            ("timeout=99999999999999999999999", None),
            ("max=5", None),
        ] {
            assert_eq!(told_timeout(value.as_bytes()), expected, "{value}");
        }
        assert_eq!(told_timeout(b"timeout=\xff"), None);
    }
}
