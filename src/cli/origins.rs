//! Flags for connections to origins, and which may be reached.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cli::flag::{Flag, Group};
use crate::cli::values::TIME_ABOVE_ZERO;

pub const GROUP: Group =
    Group { heading: "Origins", flags: &[&KEEPALIVE_CONNS, &KEEPALIVE_TIMEOUT, &ALLOW_CIDR] };

pub const KEEPALIVE_CONNS: Flag = Flag {
    short: Some('c'),
    help: "Idle connections kept per origin, process-wide; 0: none",
    default: Some("256"),
    remedy: "give 0 to 1000000",
    ..Flag::value("keepalive-conns", "N")
};

pub const KEEPALIVE_TIMEOUT: Flag = Flag {
    help: "How long an idle connection to an origin is kept",
    default: Some("50s"),
    remedy: TIME_ABOVE_ZERO,
    ..Flag::value("keepalive-timeout", "TIME")
};

pub const ALLOW_CIDR: Flag = Flag {
    help: "Reach addresses in CIDR though they are refused by default; may be repeated",
    remedy: "give a network such as 169.254.10.0/24 or fd00::/8, or one address",
    ..Flag::values("allow-cidr", "CIDR")
};

pub fn read_network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_neither| "is not a network")
}
