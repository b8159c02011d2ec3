//! Flags for names without a ccnproxy label, and for where addresses of names come from.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use crate::authority::OriginUrl;
use crate::cli::flag::{Flag, Group};
use crate::route::find_label;
use crate::rules::{Map, Pattern};

pub const GROUP: Group = Group {
    heading: "Names",
    flags: &[&UPSTREAM, &MAP, &UPGRADE_HTTPS, &FORWARD, &RESOLVER, &DNS_SERVER],
};

const PATTERN_REMEDY: &str = "give a name, *.SUFFIX or *, each with or without :PORT";

pub const UPSTREAM: Flag = Flag {
    help: "Send all requests to the addresses of URL, Host unchanged; its path does not count",
    remedy: "give http://NAME[:PORT]/ or https://NAME[:PORT]/",
    ..Flag::value("upstream", "URL")
};

pub const MAP: Flag = Flag {
    help: "Lead a Host that is the origin's own name to ORIGIN, a URL, or http or https for the same \
           name; may be repeated",
    remedy: "give NAME=https://ORIGIN, or *.SUFFIX=https for names that lead to themselves",
    ..Flag::values("map", "NAME=ORIGIN")
};

pub const UPGRADE_HTTPS: Flag = Flag {
    help: "Send a target http://NAME/ over TLS to port 443 where the name matches; may be repeated",
    remedy: PATTERN_REMEDY,
    ..Flag::values("upgrade-https", "PATTERN")
};

pub const FORWARD: Flag = Flag {
    help: "Send a target http://NAME/ as it is where the name matches; may be repeated",
    remedy: PATTERN_REMEDY,
    ..Flag::values("forward", "PATTERN")
};

pub const RESOLVER: Flag = Flag {
    help: "Where addresses come from: hosts,dns or dns, which skips /etc/hosts",
    default: Some("hosts,dns"),
    remedy: "give hosts,dns or dns",
    ..Flag::value("resolver", "WHERE")
};

pub const DNS_SERVER: Flag = Flag {
    help: "Ask this name server, and none of /etc/resolv.conf; may be repeated",
    remedy: "give an IP address, with or without :PORT",
    ..Flag::values("dns-server", "ADDR[:PORT]")
};

/// chocon: the path of the URL is ignored.
pub fn read_upstream(text: &str) -> Result<OriginUrl, &'static str> {
    let after_scheme = text.find("://").map_or(0, |at| at + 3);
    let path =
        text[after_scheme..].find(['/', '?', '#']).map_or(text.len(), |at| at + after_scheme);
    OriginUrl::parse(&text[..path])
}

/// Reads the values of `--map` one after the other. A name that two of them lead somewhere is a mistake: only one would
/// count.
pub fn read_maps() -> impl Fn(&str) -> Result<Map, &'static str> {
    let seen = RefCell::new(Vec::new());
    move |text| {
        let map = read_map(text)?;
        let mut seen = seen.borrow_mut();
        if seen.contains(&map.names) {
            return Err("has a name that an earlier one leads somewhere already");
        }
        seen.push(map.names.clone());
        Ok(map)
    }
}

fn read_map(text: &str) -> Result<Map, &'static str> {
    let name = text.split(['=', ':']).next().unwrap_or_default();
    if find_label(name).is_some() {
        return Err("has a ccnproxy label, which leads to its origin by itself");
    }
    Map::parse(text)
}

pub fn read_pattern(text: &str) -> Result<Pattern, &'static str> {
    Pattern::parse(text)
}

/// Whether the hosts file counts.
pub fn read_resolver(text: &str) -> Result<bool, &'static str> {
    match text {
        "hosts,dns" => Ok(true),
        "dns" => Ok(false),
        _neither => Err("is no way to find addresses"),
    }
}

pub fn read_dns_server(text: &str) -> Result<SocketAddr, &'static str> {
    const PORT: u16 = 53;
    let within_brackets = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let alone = within_brackets.unwrap_or(text).parse::<IpAddr>();
    let with_port = || text.parse::<SocketAddr>().ok().filter(|server| server.port() != 0);
    alone.ok().map(|ip| (ip, PORT).into()).or_else(with_port).ok_or("is not an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_has_port_53_unless_it_says_otherwise() {
        let at = |text| read_dns_server(text).map(|at| at.to_string());
        assert_eq!(at("10.0.0.2"), Ok("10.0.0.2:53".to_owned()));
        assert_eq!(at("10.0.0.2:5353"), Ok("10.0.0.2:5353".to_owned()));
        assert_eq!(at("fd00::2"), Ok("[fd00::2]:53".to_owned()));
        assert_eq!(at("[fd00::2]"), Ok("[fd00::2]:53".to_owned()));
        assert_eq!(at("[fd00::2]:5353"), Ok("[fd00::2]:5353".to_owned()));
        for bad in ["", "dns.example", "10.0.0.2:0", "10.0.0.2:65536", "10.0.0.2:", "[fd00::2"] {
            assert!(read_dns_server(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_map_of_a_name_with_a_label_would_never_count_and_is_refused() {
        for bad in ["a.ccnproxy=https", "a.CCNPROXY-HTTPS.local:80=https", "*.ccnproxy=https"] {
            assert!(read_map(bad).is_err_and(|cause| cause.contains("label")), "{bad}");
        }
        assert!(read_map("a.example=http://b.ccnproxyx").is_ok());
    }

    #[test]
    fn a_resolver_is_one_of_two() {
        assert_eq!((read_resolver("hosts,dns"), read_resolver("dns")), (Ok(true), Ok(false)));
        assert!(read_resolver("hosts").is_err() && read_resolver("dns,hosts").is_err());
    }
}
