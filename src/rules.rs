//! What the operator says of names that carry no ccnproxy label: which are mapped to an origin, and which a client may
//! name in an absolute-form target.

#![forbid(unsafe_code)]

use crate::authority::{OriginUrl, Scheme, canonical, check_name, split_port};
use std::sync::Arc;

/// The flags `--map`, `--upgrade-https`, `--forward` and `--upstream-http2`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub maps: Vec<Map>,
    pub upgrade_https: Vec<Pattern>,
    pub forward: Vec<Pattern>,
    pub http2: Vec<Http2Rule>,
}

/// A set of names, and perhaps one port of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    names: Names,
    /// None: any port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    /// `*`
    All,
    /// `*.suffix`: with its dot in front. Any depth, but not the suffix itself.
    Below(Box<str>),
    /// Canonical.
    One(Arc<str>),
}

/// How narrow a pattern is: the narrowest that matches decides.
type Narrowness = (usize, bool);

impl Pattern {
    /// Reads `NAME`, `*.SUFFIX` or `*`, each with or without `:PORT`. Errors: what it is not, for a message that names
    /// the value.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (names, port) = split_port(text)?;
        let names = match names.strip_prefix('*') {
            Some("") => Names::All,
            Some(suffix) => {
                let suffix = suffix.strip_prefix('.').ok_or("has a * that is not a whole label")?;
                Names::Below(format!(".{}", canonical(check_name(suffix)?)).into())
            }
            None => Names::One(canonical(check_name(names)?)),
        };
        if matches!(&names, Names::Below(suffix) if suffix.contains(':') || is_ipv4(&suffix[1..])) {
            return Err("has a * before an address");
        }
        Ok(Self { names, port })
    }

    /// How narrow this pattern is, if it matches. `name` is canonical.
    fn narrowness(&self, name: &str, port: u16) -> Option<Narrowness> {
        if self.port.is_some_and(|only| only != port) {
            return None;
        }
        let names = match &self.names {
            Names::All => 0,
            Names::Below(suffix) => {
                let before = name.strip_suffix(&**suffix)?;
                if before.is_empty() {
                    return None;
                }
                suffix.len()
            }
            Names::One(one) if **one == *name => usize::MAX,
            Names::One(_) => return None,
        };
        Some((names, self.port.is_some()))
    }
}

fn is_ipv4(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok()
}

/// `--map NAME=ORIGIN`: a Host that is the origin's true name already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    pub names: Pattern,
    to: To,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Origin(OriginUrl),
    /// The name itself, on the default port of the scheme.
    Itself(Scheme),
}

impl Map {
    /// Reads `NAME=ORIGIN`: a pattern, and `http[s]://name[:port]`, or `http` or `https` for the name itself. Errors:
    /// what it is not, for a message that names the value.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (names, origin) = text.split_once('=').ok_or("has no = between NAME and ORIGIN")?;
        let names = Pattern::parse(names)?;
        let to = match origin {
            "http" => To::Itself(Scheme::Http),
            "https" => To::Itself(Scheme::Https),
            url => To::Origin(OriginUrl::parse(url)?),
        };
        Ok(Self { names, to })
    }

    fn origin(&self, name: &Arc<str>) -> OriginUrl {
        match &self.to {
            To::Origin(origin) => origin.clone(),
            To::Itself(scheme) => {
                let (scheme, name) = (*scheme, name.clone());
                OriginUrl { scheme, name, port: scheme.default_port() }
            }
        }
    }
}

/// `--upstream-http2`: whether HTTP/2 is offered to origins over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Rule {
    origins: Pattern,
    offers: bool,
}

impl Http2Rule {
    /// Reads `auto` or `off` for all origins, or `PATTERN=auto` and `PATTERN=off` for some. Errors: what it is not, for a
    /// message that names the value.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (origins, when) = match text.rsplit_once('=') {
            Some((pattern, when)) => (Pattern::parse(pattern)?, when),
            None => (Pattern { names: Names::All, port: None }, text),
        };
        let offers = match when {
            "auto" => true,
            "off" => false,
            _neither => return Err("is neither auto nor off, and does not end in =auto or =off"),
        };
        Ok(Self { origins, offers })
    }
}

impl Rules {
    /// Whether HTTP/2 is offered to an origin over TLS. Of equally narrow patterns the last counts, as of a flag that is
    /// typed twice.
    pub fn speaks_http2(&self, name: &str, port: u16) -> bool {
        let matching = self
            .http2
            .iter()
            .filter_map(|rule| Some((rule.origins.narrowness(name, port)?, rule.offers)));
        matching.max_by_key(|(narrowness, _)| *narrowness).is_none_or(|(_, offers)| offers)
    }

    /// The origin that a Host is mapped to. `name` is canonical; a Host without a port has `port` 80, for it came by
    /// http. The port says where the client found the proxy, and nothing of the origin's.
    pub fn mapped(&self, name: &Arc<str>, port: u16) -> Option<OriginUrl> {
        let matching =
            self.maps.iter().filter_map(|map| Some((map.names.narrowness(name, port)?, map)));
        // There are no equals: flags that map one name twice are refused.
        let narrowest = matching.max_by_key(|(narrowness, _)| *narrowness);
        narrowest.map(|(_, map)| map.origin(name))
    }

    /// Where a client that names `scheme://name[:port]` is sent, if it may go there. A pattern's port is the one that is
    /// dialled.
    pub fn allowed(&self, scheme: Scheme, name: &Arc<str>, port: Option<u16>) -> Option<OriginUrl> {
        let narrowest = |patterns: &[Pattern], port| {
            patterns.iter().filter_map(|pattern| pattern.narrowness(name, port)).max()
        };
        let tls_port = match (scheme, port) {
            // RFC 9110 §4.2.1: port 80 is what an http URL without a port means; over TLS it is as little meant.
            (Scheme::Http, None | Some(80)) => Scheme::Https.default_port(),
            (Scheme::Http | Scheme::Https, port) => port.unwrap_or(Scheme::Https.default_port()),
        };
        let plain_port = port.unwrap_or(scheme.default_port());
        let upgrade = narrowest(&self.upgrade_https, tls_port);
        let forward = narrowest(&self.forward, plain_port);
        let (scheme, port) = match (scheme, upgrade, forward) {
            (_, None, None) => return None,
            // What the client wants over TLS never goes without it.
            (Scheme::Https, _, _) => (Scheme::Https, tls_port),
            (Scheme::Http, upgrade, forward) if upgrade >= forward => (Scheme::Https, tls_port),
            (Scheme::Http, _, _) => (Scheme::Http, plain_port),
        };
        Some(OriginUrl { scheme, name: name.clone(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str, port: u16) -> bool {
        Pattern::parse(pattern).unwrap().narrowness(&canonical(name), port).is_some()
    }

    #[test]
    fn a_name_matches_itself_in_any_spelling_on_any_port() {
        assert!(matches("Sts.AmazonAWS.com", "sts.amazonaws.com", 80));
        assert!(matches("sts.amazonaws.com.", "STS.amazonaws.com", 8080));
        assert!(matches("[2001:DB8:0::1]", "[2001:db8::1]", 80));
        assert!(matches("127.0.0.1", "127.0.0.1", 80));
        assert!(!matches("sts.amazonaws.com", "x.sts.amazonaws.com", 80));
        assert!(!matches("sts.amazonaws.com", "amazonaws.com", 80));
    }

    #[test]
    fn http2_is_offered_but_where_the_narrowest_pattern_says_off() {
        let offers = |flags: &[&str], name: &str| {
            let http2 = flags.iter().map(|flag| Http2Rule::parse(flag).unwrap()).collect();
            Rules { http2, ..Rules::default() }.speaks_http2(name, 443)
        };
        assert!(offers(&[], "a.example"));
        assert!(offers(&["auto"], "a.example"));
        assert!(!offers(&["off"], "a.example"));
        assert!(!offers(&["auto", "off"], "a.example"));
        assert!(!offers(&["a.example=off"], "a.example"));
        assert!(offers(&["a.example=off"], "b.example"));
        assert!(offers(&["a.example:8443=off"], "a.example"));
        assert!(offers(&["*.example=off", "a.example=auto"], "a.example"));
        assert!(offers(&["a.example=auto", "off"], "a.example"));
        for bad in ["on", "", "=off", "a.example=", "a.example", "a*=off", "a=b=off"] {
            assert!(Http2Rule::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_suffix_matches_at_any_depth_but_not_itself() {
        assert!(matches("*.amazonaws.com", "sts.amazonaws.com", 80));
        assert!(matches("*.AmazonAWS.com", "b.s3.us-east-1.amazonaws.com", 80));
        assert!(!matches("*.amazonaws.com", "amazonaws.com", 80));
        assert!(!matches("*.amazonaws.com", "evilamazonaws.com", 80));
        assert!(!matches("*.amazonaws.com", "amazonaws.com.evil.example", 80));
    }

    #[test]
    fn an_asterisk_alone_matches_names_and_addresses() {
        assert!(matches("*", "a", 80) && matches("*", "1.2.3.4", 1) && matches("*", "[::1]", 1));
    }

    #[test]
    fn a_port_narrows_a_pattern() {
        assert!(matches("*.a.b:8080", "x.a.b", 8080));
        assert!(!matches("*.a.b:8080", "x.a.b", 80));
        assert!(matches("*:443", "x", 443) && !matches("*:443", "x", 444));
        assert!(matches("[::1]:1", "[::1]", 1) && !matches("[::1]:1", "[::1]", 2));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            ".",
            "*.",
            "*..a",
            "*a",
            "*a.b",
            "a.*",
            "a.*.b",
            "**",
            "*.*",
            "*.*.a",
            ".a.b",
            "*.1.2.3.4",
            "*.[::1]",
            "*.3.4",
            "a:0",
            "a:65536",
            "*:x",
            "a b",
            "http://a",
            "a/b",
            "*.a/",
            "[::1",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
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

    /// `scheme://name:port`, or nothing.
    fn show(origin: Option<OriginUrl>) -> String {
        origin.map_or_else(String::new, |o| format!("{}://{}:{}", o.scheme.word(), o.name, o.port))
    }

    #[test]
    fn a_mapped_name_leads_to_its_origin_or_to_itself() {
        let rules = rules(
            &[
                "sts.a.com=https://vpce.a.com:8443",
                "*.s3.a.com=https",
                "plain.b=http",
                "*.b=https://c",
            ],
            &[],
            &[],
        );
        let mapped = |name: &str| show(rules.mapped(&name.into(), 3000));
        assert_eq!(mapped("sts.a.com"), "https://vpce.a.com:8443");
        assert_eq!(mapped("bucket.s3.a.com"), "https://bucket.s3.a.com:443");
        assert_eq!(mapped("plain.b"), "http://plain.b:80");
        assert_eq!(mapped("other.b"), "https://c:443");
        assert_eq!(mapped("s3.a.com"), "");
    }

    #[test]
    fn the_narrowest_map_decides() {
        let rules = rules(
            &[
                "*=http://all",
                "*.b=http://b",
                "*.a.b=http://ab",
                "x.a.b=http://x",
                "x.a.b:81=http://x81",
            ],
            &[],
            &[],
        );
        let mapped = |name: &str, port| show(rules.mapped(&name.into(), port));
        assert_eq!(mapped("y", 80), "http://all:80");
        assert_eq!(mapped("y.b", 80), "http://b:80");
        assert_eq!(mapped("y.a.b", 80), "http://ab:80");
        assert_eq!(mapped("x.a.b", 80), "http://x:80");
        assert_eq!(mapped("x.a.b", 81), "http://x81:80");
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for bad in [
            "",
            "a",
            "=https://a",
            "a=",
            "a=b",
            "a=https://",
            "a=HTTPS",
            "a*=https",
            "a=https://b/c",
        ] {
            assert!(Map::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_upgrade_goes_to_443_or_to_the_port_that_the_client_names() {
        let rules = rules(&[], &["*.a"], &[]);
        let allowed = |scheme, port| show(rules.allowed(scheme, &"x.a".into(), port));
        assert_eq!(allowed(Scheme::Http, None), "https://x.a:443");
        assert_eq!(allowed(Scheme::Http, Some(80)), "https://x.a:443");
        assert_eq!(allowed(Scheme::Http, Some(8443)), "https://x.a:8443");
        assert_eq!(allowed(Scheme::Https, None), "https://x.a:443");
        assert_eq!(allowed(Scheme::Https, Some(80)), "https://x.a:80");
        assert_eq!(show(rules.allowed(Scheme::Http, &"x.b".into(), None)), "");
    }

    #[test]
    fn a_forwarded_name_keeps_its_scheme_and_port() {
        let rules = rules(&[], &[], &["*.a"]);
        let allowed = |scheme, port| show(rules.allowed(scheme, &"x.a".into(), port));
        assert_eq!(allowed(Scheme::Http, None), "http://x.a:80");
        assert_eq!(allowed(Scheme::Http, Some(443)), "http://x.a:443");
        assert_eq!(allowed(Scheme::Https, None), "https://x.a:443");
        assert_eq!(allowed(Scheme::Https, Some(80)), "https://x.a:80");
    }

    #[test]
    fn a_patterns_port_is_the_one_that_is_dialled() {
        let rules = rules(&[], &["u.a:443"], &["f.a:80"]);
        let allowed = |scheme, name: &str, port| show(rules.allowed(scheme, &name.into(), port));
        assert_eq!(allowed(Scheme::Http, "u.a", None), "https://u.a:443");
        assert_eq!(allowed(Scheme::Http, "u.a", Some(8443)), "");
        assert_eq!(allowed(Scheme::Http, "f.a", None), "http://f.a:80");
        assert_eq!(allowed(Scheme::Http, "f.a", Some(22)), "");
        assert_eq!(allowed(Scheme::Https, "f.a", None), "");
    }

    #[test]
    fn the_narrower_flag_decides_and_of_equals_the_safer() {
        let both = rules(&[], &["*", "x.b"], &["*", "*.b"]);
        let allowed = |name: &str| show(both.allowed(Scheme::Http, &name.into(), None));
        assert_eq!(allowed("a"), "https://a:443");
        assert_eq!(allowed("y.b"), "http://y.b:80");
        assert_eq!(allowed("x.b"), "https://x.b:443");
    }
}
