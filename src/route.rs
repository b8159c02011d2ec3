//! Where a request goes: from the authority that the client named to the origin that it means.
//!
//! chocon: `httpproxy.go`, `rewriteHost`. The LAST label that is `ccnproxy`, `ccnproxy-https`, `ccnproxy-secure` or
//! `ccnproxy-ssl` splits the name: before it stands the origin, what follows is ignored, the port is the origin's.
//! Better than chocon: IPv6 literals, upper case and a trailing dot work.
//!
//! A name without such a label is the origin's true one. It goes where a `--map` says; else, if the client asks a proxy
//! for it (absolute-form), where `--upgrade-https` or `--forward` lets it go; else nowhere.

#![forbid(unsafe_code)]

use crate::{
    authority::{Invalid, OriginUrl, Scheme, canonical, check_name, is_host_spelling, split_port},
    rules::Rules,
};

/// Where the authority stood: the same one may lead elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In Host, with a target in origin-form (RFC 9112 §3.2.1).
    Host,
    /// In a target in absolute-form (RFC 9112 §3.2.2) of this scheme.
    Absolute(Scheme),
}

impl Form {
    pub const COUNT: usize = 3;

    /// Below `COUNT`, each its own.
    pub fn index(self) -> usize {
        match self {
            Form::Host => 0,
            Form::Absolute(Scheme::Http) => 1,
            Form::Absolute(Scheme::Https) => 2,
        }
    }
}

/// What an authority leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub origin: OriginUrl,
    pub host: HostOut,
}

/// What the origin sees as Host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOut {
    /// The origin's name and port in the client's spelling, without the ccnproxy label.
    Is(Box<[u8]>),
    /// The authority as the client wrote it: it may have signed it.
    AsSent,
}

pub const NO_LABEL: &str = "the Host has no ccnproxy label; send Host: NAME.ccnproxy-https or NAME.ccnproxy, or start \
    with --map HOST=https://ORIGIN if the name is the origin's own";
const NOT_ALLOWED: &str = "the target's name has no ccnproxy label; start with --upgrade-https NAME to send it over \
    TLS, with --forward NAME to send it as it is, or with --map NAME=ORIGIN";
const NO_ORIGIN: &str = "the Host or the target has no origin name before its ccnproxy label";
const BAD_ORIGIN: &str =
    "the origin name in the Host or the target is not a valid host name or address";
const BAD_ORIGIN_PORT: &str = "the port in the Host or the target is not a number from 1 to 65535";

/// Finds the origin that an authority names.
///
/// Errors: a sentence for the log; the client gets 400.
pub fn route(authority: &[u8], form: Form, rules: &Rules) -> Result<Route, &'static str> {
    let authority = std::str::from_utf8(authority).map_err(|_| BAD_ORIGIN)?;
    let (name, port) = split_port(authority).map_err(explain)?;
    let Some((scheme, origin)) = find_label(name) else {
        return true_name(name, port, form, rules);
    };
    // RFC 9112 §3.2: an invalid Host is a 400. What follows the label is not looked at but for this: with a user info, a path
    // or a space in it another reader could take it for another host.
    let ignored = &name.as_bytes()[origin.map_or(0, str::len)..];
    if !is_host_spelling(ignored) {
        return Err(BAD_ORIGIN);
    }
    let name = check_name(origin.ok_or(NO_ORIGIN)?).map_err(explain)?;
    let host = match port {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let port = port.unwrap_or(scheme.default_port());
    let origin = OriginUrl { scheme, name: canonical(name), port };
    Ok(Route { origin, host: HostOut::Is(host.into_bytes().into()) })
}

fn true_name(
    name: &str,
    port: Option<u16>,
    form: Form,
    rules: &Rules,
) -> Result<Route, &'static str> {
    let nowhere = match form {
        Form::Host => NO_LABEL,
        Form::Absolute(_) => NOT_ALLOWED,
    };
    let name = canonical(check_name(name).map_err(|_| nowhere)?);
    let http_port = port.unwrap_or(Scheme::Http.default_port());
    let origin = rules.mapped(&name, http_port).or_else(|| match form {
        Form::Host => None,
        Form::Absolute(scheme) => rules.allowed(scheme, &name, port),
    });
    Ok(Route { origin: origin.ok_or(nowhere)?, host: HostOut::AsSent })
}

fn explain(invalid: Invalid) -> &'static str {
    match invalid {
        Invalid::NoName => NO_ORIGIN,
        Invalid::Name => BAD_ORIGIN,
        Invalid::Port => BAD_ORIGIN_PORT,
    }
}

/// Finds the last ccnproxy label: the scheme that it means, and what stands before it, if anything does.
pub fn find_label(name: &str) -> Option<(Scheme, Option<&str>)> {
    let mut end = name.len();
    loop {
        let start = name[..end].rfind('.').map_or(0, |dot| dot + 1);
        if let Some(scheme) = scheme_of(&name[start..end]) {
            // At index 0 there is no origin before it. chocon: 400.
            return Some((scheme, (start > 0).then(|| &name[..start - 1])));
        }
        if start == 0 {
            return None;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Map, Pattern};
    use proptest::prelude::*;

    fn by_label(host: &[u8]) -> Result<Route, &'static str> {
        let route = route(host, Form::Host, &Rules::default());
        // A target in absolute-form is routed by the same convention.
        for scheme in [Scheme::Http, Scheme::Https] {
            let absolute = super::route(host, Form::Absolute(scheme), &Rules::default());
            assert_eq!(absolute.ok(), route.clone().ok());
        }
        route
    }

    fn to(scheme: Scheme, name: &str, port: Option<u16>) -> Result<Route, &'static str> {
        let host = port.map_or(name.to_owned(), |port| format!("{name}:{port}"));
        let port = port.unwrap_or(scheme.default_port());
        let origin = OriginUrl { scheme, name: canonical(name), port };
        Ok(Route { origin, host: HostOut::Is(host.into_bytes().into()) })
    }

    fn http(name: &str, port: Option<u16>) -> Result<Route, &'static str> {
        to(Scheme::Http, name, port)
    }

    fn https(name: &str, port: Option<u16>) -> Result<Route, &'static str> {
        to(Scheme::Https, name, port)
    }

    #[test]
    fn the_reference_table_holds() {
        assert_eq!(by_label(b"example.com.ccnproxy:3000"), http("example.com", Some(3000)));
        assert_eq!(by_label(b"example.com.ccnproxy"), http("example.com", None));
        assert_eq!(by_label(b"example.com.ccnproxy.local:3000"), http("example.com", Some(3000)));
        assert_eq!(by_label(b"example.com.ccnproxy.local"), http("example.com", None));
        assert_eq!(by_label(b"example.com.ccnproxy-ssl:3000"), https("example.com", Some(3000)));
        assert_eq!(by_label(b"example.com.ccnproxy-ssl"), https("example.com", None));
        assert_eq!(by_label(b"example.com.ccnproxy-https"), https("example.com", None));
        assert_eq!(by_label(b"example.com.ccnproxy-secure"), https("example.com", None));
    }

    #[test]
    fn the_last_label_wins() {
        assert_eq!(by_label(b"a.ccnproxy.b.ccnproxy-https.c"), https("a.ccnproxy.b", None));
        assert_eq!(by_label(b"a.ccnproxy-https.ccnproxy"), http("a.ccnproxy-https", None));
    }

    #[test]
    fn mended_faults_work() {
        assert_eq!(by_label(b"[::1].ccnproxy:8080"), http("[::1]", Some(8080)));
        assert_eq!(by_label(b"[2001:DB8::1].CCNPROXY-HTTPS"), https("[2001:DB8::1]", None));
        assert_eq!(by_label(b"Example.COM.CcnProxy-SSL."), https("Example.COM", None));
        assert_eq!(by_label(b"example.com..ccnproxy"), http("example.com", None));
        assert_eq!(by_label(b"example.com.ccnproxy:"), http("example.com", None));
        assert_eq!(by_label(b"127.0.0.1.ccnproxy:9001"), http("127.0.0.1", Some(9001)));
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
            "a.ccnproxy.u@b",
            "a.ccnproxy.b c",
            "a.ccnproxy/b",
            "a.ccnproxy.b/c",
            "a.ccnproxy.b?c",
            "a.ccnproxy.b#c",
            "a.ccnproxy.b\\c",
            "a.ccnproxy.\u{e9}",
            "0177.0.0.1.ccnproxy",
        ] {
            assert!(by_label(host.as_bytes()).is_err(), "{host}");
        }
        assert!(by_label(b"\xff.ccnproxy").is_err());
    }

    #[test]
    fn ports_are_checked_at_the_bounds() {
        assert_eq!(by_label(b"a.ccnproxy:1"), http("a", Some(1)));
        assert_eq!(by_label(b"a.ccnproxy:65535"), http("a", Some(65535)));
        for bad in ["0", "65536", "00080x", "-1", "+80", "80a", "99999", "000080", "80:80"] {
            assert_eq!(
                by_label(format!("a.ccnproxy:{bad}").as_bytes()),
                Err(BAD_ORIGIN_PORT),
                "{bad}"
            );
        }
    }

    #[test]
    fn labels_are_checked_at_the_bounds() {
        let label = "a".repeat(63);
        assert!(by_label(format!("{label}.ccnproxy").as_bytes()).is_ok());
        assert!(by_label(format!("{label}a.ccnproxy").as_bytes()).is_err());
        let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(name.len(), 253);
        assert!(by_label(format!("{name}.ccnproxy").as_bytes()).is_ok());
        assert!(by_label(format!("{name}a.ccnproxy").as_bytes()).is_err());
    }

    fn rules(maps: &[&str], upgrade: &[&str], forward: &[&str]) -> Rules {
        let patterns = |list: &[&str]| list.iter().map(|p| Pattern::parse(p).unwrap()).collect();
        Rules {
            maps: maps.iter().map(|map| Map::parse(map).unwrap()).collect(),
            upgrade_https: patterns(upgrade),
            forward: patterns(forward),
            ..Rules::default()
        }
    }

    fn as_sent(url: &str) -> Result<Route, &'static str> {
        Ok(Route { origin: OriginUrl::parse(url)?, host: HostOut::AsSent })
    }

    const ABSOLUTE: Form = Form::Absolute(Scheme::Http);

    #[test]
    fn a_true_name_goes_where_a_flag_says_and_keeps_its_host() {
        let rules = rules(&["m.a=https://o.b:8443"], &["*.u.a"], &["*.f.a"]);
        let go = |host: &str, form| route(host.as_bytes(), form, &rules);
        assert_eq!(go("M.a:3000", Form::Host), as_sent("https://o.b:8443"));
        assert_eq!(go("m.a", ABSOLUTE), as_sent("https://o.b:8443"));
        assert_eq!(go("X.u.a", ABSOLUTE), as_sent("https://x.u.a"));
        assert_eq!(go("x.f.a:81", ABSOLUTE), as_sent("http://x.f.a:81"));
        assert_eq!(go("x.f.a", Form::Absolute(Scheme::Https)), as_sent("https://x.f.a"));
    }

    #[test]
    fn a_host_alone_is_led_by_maps_only() {
        let rules = rules(&[], &["*"], &["*"]);
        assert_eq!(route(b"x.u.a", Form::Host, &rules), Err(NO_LABEL));
    }

    #[test]
    fn a_label_follows_the_convention_whatever_the_flags_say() {
        let rules = rules(&["*=https://o.b"], &["*"], &["*"]);
        for form in [Form::Host, ABSOLUTE, Form::Absolute(Scheme::Https)] {
            assert_eq!(route(b"a.ccnproxy:81", form, &rules), http("a", Some(81)));
            assert_eq!(route(b"ccnproxy.a", form, &rules), Err(NO_ORIGIN));
        }
    }

    #[test]
    fn what_is_no_name_goes_nowhere_whatever_the_flags_say() {
        let rules = rules(&["*=https"], &["*"], &["*"]);
        for host in [
            "",
            ".",
            "a b",
            "u@a",
            "a..b",
            "127.1",
            "2130706433",
            "[::1",
            "a:0",
            "a:1:2",
            "a/b",
            "[fe80::1%25lo]",
        ] {
            for form in [Form::Host, ABSOLUTE] {
                assert!(route(host.as_bytes(), form, &rules).is_err(), "{host}");
            }
        }
    }

    #[test]
    fn refusals_name_the_flags() {
        let go = |form| route(b"example.com", form, &Rules::default()).unwrap_err();
        assert!(go(Form::Host).contains("--map"));
        assert!(go(ABSOLUTE).contains("--upgrade-https") && go(ABSOLUTE).contains("--forward"));
    }

    proptest! {
        #[test]
        fn no_input_panics_and_an_accepted_name_is_clean(host in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(route) = by_label(&host) {
                let HostOut::Is(host) = route.host else { panic!("by the label") };
                for name in [route.origin.name.as_bytes(), &host] {
                    prop_assert!(!name.is_empty());
                    prop_assert!(name.iter().all(|b| b.is_ascii_graphic() && *b != b'/' && *b != b'@'));
                }
            }
        }

        #[test]
        fn any_name_before_the_label_is_found(name in "[a-z][a-z0-9]{0,10}(\\.[a-z]{1,10}){0,3}", port in 1u16.., tail in "(\\.[a-z]{1,7}){0,2}") {
            let host = format!("{name}.ccnproxy-https{tail}:{port}");
            prop_assert_eq!(by_label(host.as_bytes()), https(&name, Some(port)));
        }
    }
}
