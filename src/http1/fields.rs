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
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        // By length and first letter: no comparison for most fields, one for the others.
        match (name.len(), name.first().copied().unwrap_or_default() | 0x20) {
            (2, b't') if is(b"te") => Field::HopByHop,
            (4, b'h') if is(b"host") => Field::Host,
            (6, b'e') if is(b"expect") => Field::Expect,
            (7, b'u') if is(b"upgrade") => Field::HopByHop,
            (10, b'c') if is(b"connection") => Field::Connection,
            (10, b'u') if is(b"user-agent") => Field::UserAgent,
            (10, b'k') if is(b"keep-alive") => Field::KeepAlive,
            (11, b'x') if is(b"x-chocon-id") => Field::ChoconId,
            (12, b'x') if is(b"x-chocon-ver") => Field::ChoconVer,
            (14, b'c') if is(b"content-length") => Field::ContentLength,
            (14, b'h') if is(b"http2-settings") => Field::HopByHop,
            (16, b'p') if is(b"proxy-connection") => Field::HopByHop,
            (17, b't') if is(b"transfer-encoding") => Field::TransferEncoding,
            (18, b'p') if is(b"proxy-authenticate") => Field::HopByHop,
            (19, b'p') if is(b"proxy-authorization") => Field::HopByHop,
            (25, b'p') if is(b"proxy-authentication-info") => Field::HopByHop,
            _ => Field::Other,
        }
    }
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
