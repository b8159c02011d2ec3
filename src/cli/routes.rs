//! Flags for names without a ccnproxy label, and for where addresses of names come from.
#![forbid(unsafe_code)]

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

pub fn read_map(text: &str) -> Result<Map, &'static str> {
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
    let with_port = || text.parse::<SocketAddr>().ok().filter(|server| server.port() != 0);
    let alone = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    alone.ok().map(|ip| (ip, PORT).into()).or_else(with_port).ok_or("is not an address")
}
