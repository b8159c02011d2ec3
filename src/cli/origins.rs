//! Flags for connections to origins, and which may be reached.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::authority::OriginUrl;
use crate::cli::flag::{Flag, Group};
use crate::cli::values::{TIME, TIME_ABOVE_ZERO, whole_number};
use crate::config::{Config, Warm};
use crate::limits::WARM_CONNECTIONS_MAX;
use crate::rules::Http2Rule;
use crate::shard::sys::try_congestion;

pub const GROUP: Group = Group {
    heading: "Origins",
    flags: &[
        &KEEPALIVE_CONNS,
        &MAX_CONNS_PER_HOST,
        &KEEPALIVE_TIMEOUT,
        &WARM,
        &WARM_LEARNED,
        &WARM_WAIT,
        &STATE_FILE,
        &UPSTREAM_HTTP2,
        &ALLOW_CIDR,
        &TCP_CONGESTION,
    ],
};

pub const UPSTREAM_HTTP2: Flag = Flag {
    help: "Whether https origins may choose HTTP/2: auto (they may) or off, or PATTERN=off for \
           some; may be repeated (default: auto)",
    remedy: "give auto, off, PATTERN=auto or PATTERN=off; a pattern is a name, *.SUFFIX or *, with or \
             without :PORT",
    ..Flag::values("upstream-http2", "WHEN")
};

pub fn read_http2(text: &str) -> Result<Http2Rule, &'static str> {
    Http2Rule::parse(text)
}

pub const KEEPALIVE_CONNS: Flag = Flag {
    short: Some('c'),
    help: "Idle connections kept per origin, process-wide; 0: none",
    default: Some("256"),
    remedy: "give 0 to 1000000",
    ..Flag::value("keepalive-conns", "N")
};

pub const MAX_CONNS_PER_HOST: Flag = Flag {
    help: "Connections to one origin, process-wide, all of them HTTP/1.1; beyond it requests wait \
           in line; 0: no bound",
    default: Some("0"),
    remedy: "give 0 to 1000000",
    ..Flag::value("max-conns-per-host", "N")
};

pub const KEEPALIVE_TIMEOUT: Flag = Flag {
    help: "How long an idle connection to an origin is kept",
    default: Some("50s"),
    remedy: TIME_ABOVE_ZERO,
    ..Flag::value("keepalive-timeout", "TIME")
};

pub const WARM: Flag = Flag {
    help: "Keep N connections to an origin ready at all times, process-wide [N: 1]; may be repeated",
    remedy: "give an origin and a number, such as https://api.example.com=4, no more than --keepalive-conns and 1024",
    ..Flag::values("warm", "URL[=N]")
};

pub const WARM_LEARNED: Flag = Flag {
    help: "Keep as many connections ready as an origin's recent peaks needed: on or off",
    default: Some("on"),
    remedy: "give on or off",
    ..Flag::value("warm-learned", "SWITCH")
};

pub const WARM_WAIT: Flag = Flag {
    help: "At the start, how long clients wait for connections that are to be ready; 0: not at all",
    default: Some("1s"),
    remedy: TIME,
    ..Flag::value("warm-wait", "TIME")
};

pub const STATE_FILE: Flag = Flag {
    help: "File in which learned origins and their idle limits survive a restart [default: none]",
    remedy: "give a path in an existing directory that this user may write to",
    ..Flag::value("state-file", "FILE")
};

pub const ALLOW_CIDR: Flag = Flag {
    help: "Reach addresses in CIDR though they are refused by default; may be repeated",
    remedy: "give a network such as 169.254.10.0/24 or fd00::/8, or one address",
    ..Flag::values("allow-cidr", "CIDR")
};

pub const TCP_CONGESTION: Flag = Flag {
    help: "Congestion control of connections to origins, for example bbr [default: the kernel's]",
    remedy: "give one of those, or leave it out for the kernel's default",
    ..Flag::value("tcp-congestion", "NAME")
};

/// Asks the kernel, so that a start fails and not each dial.
pub fn read_congestion(name: &str) -> Result<String, String> {
    let kernel = |kind: &str| {
        let path = format!("/proc/sys/net/ipv4/tcp_{kind}_congestion_control");
        let names = std::fs::read_to_string(path).unwrap_or_default();
        names.split_whitespace().collect::<Vec<_>>().join(", ")
    };
    // tcp(7): the kernel looks at no more than 15 bytes of a name.
    let tried = match name.len() {
        1..=15 => try_congestion(name),
        _ => Err(ErrorKind::NotFound.into()),
    };
    match tried {
        Ok(()) => Ok(name.to_owned()),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(format!(
            "needs CAP_NET_ADMIN; allowed to all are {} (net.ipv4.tcp_allowed_congestion_control)",
            kernel("allowed")
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(format!(
            "is not known to the kernel; it has {} (net.ipv4.tcp_available_congestion_control)",
            kernel("available")
        )),
        Err(e) => Err(format!("is refused by the kernel: {e}; it has {}", kernel("available"))),
    }
}

/// `keepalive_conns` is the most that are kept of an origin. If it keeps none, nothing can be kept ready, which is said at
/// the start.
pub fn read_warm(text: &str, keepalive_conns: usize) -> Result<Warm, &'static str> {
    let (url, connections) = match text.rsplit_once('=') {
        Some((url, number)) => {
            let number = whole_number(number, 1..=WARM_CONNECTIONS_MAX);
            (url, number.ok_or("has no number of connections behind its =")?)
        }
        None => (text, 1),
    };
    let origin = OriginUrl::parse(url)?;
    if keepalive_conns > 0 && connections > keepalive_conns {
        return Err("asks for more connections than --keepalive-conns lets be idle");
    }
    Ok(Warm { origin, connections })
}

/// Origins of `--warm` that no request reaches, because `--upstream` leads all of them elsewhere.
pub fn warm_in_vain(config: &Config) -> Vec<String> {
    let Some(upstream) = &config.upstream else { return Vec::new() };
    let others = config.warm.iter().filter(|warm| warm.origin != *upstream);
    let said = |Warm { origin, .. }: &Warm| {
        format!(
            "--warm: {} is reached by no request, for --upstream leads them all to {}; name that one, or leave --warm out",
            shown(origin),
            shown(upstream)
        )
    };
    others.map(said).collect()
}

fn shown(OriginUrl { scheme, name, port }: &OriginUrl) -> String {
    let (open, close) = if name.contains(':') { ("[", "]") } else { ("", "") };
    format!("{}://{open}{name}{close}:{port}", scheme.word())
}

pub fn read_on_off(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _neither => Err("is neither on nor off"),
    }
}

pub fn read_network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_neither| "is not a network")
}
