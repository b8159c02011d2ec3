//! Flags for where clients are served, and by how many shards.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::cli::flag::{Flag, Group};
use crate::cli::values::read_duration;
use crate::config::ApiAt;
use crate::limits::BUSY_POLL_MAX;

pub const GROUP: Group =
    Group { heading: "Listening", flags: &[&LISTEN, &PORT, &API, &CORES, &BUSY_POLL] };

pub const LISTEN: Flag = Flag {
    short: Some('l'),
    help: "IP address to listen on",
    default: Some("0.0.0.0"),
    remedy: "give an IP address such as 0.0.0.0, 127.0.0.1 or ::",
    ..Flag::value("listen", "ADDR")
};

pub const PORT: Flag = Flag {
    short: Some('p'),
    help: "Port to listen on; 0: the kernel chooses",
    default: Some("3000"),
    remedy: "give 0 to 65535",
    ..Flag::value("port", "N")
};

pub const API: Flag = Flag {
    help: "Where /.api/stats and /.api/http-stats are: main (any Host), off, or an address",
    default: Some("main"),
    remedy: "give off, main, or an IP address and port such as 127.0.0.1:3001",
    ..Flag::value("api", "off|main|ADDR:PORT")
};

pub const CORES: Flag = Flag {
    help: "Shards, each a thread on a CPU of its own [default: every CPU this process may use]",
    remedy: "give 1 to 1024, or leave it out for every usable CPU",
    ..Flag::value("cores", "N")
};

pub const BUSY_POLL: Flag = Flag {
    help: "How long a shard without work looks for more before it sleeps; 0: it sleeps at once",
    default: Some("0"),
    remedy: "give 0, or a time with its unit up to 1s, such as 50us",
    ..Flag::value("busy-poll", "TIME")
};

pub fn read_address(text: &str) -> Result<IpAddr, &'static str> {
    if text.parse::<SocketAddr>().is_ok() {
        return Err("has a port, which belongs to --port");
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_not_an_address| "is not an IP address")
}

pub fn read_api(text: &str) -> Result<ApiAt, &'static str> {
    match text {
        "off" => Ok(ApiAt::Off),
        "main" => Ok(ApiAt::Main),
        address => address.parse().map(ApiAt::Address).map_err(|_no_address| "is not an address"),
    }
}

pub fn read_busy_poll(text: &str) -> Result<Duration, &'static str> {
    let time = read_duration(text)?;
    if time <= BUSY_POLL_MAX { Ok(time) } else { Err("is longer than 1s") }
}

pub fn read_port(text: &str) -> Result<u16, &'static str> {
    text.parse().map_err(|_not_a_port| "is not a port")
}
