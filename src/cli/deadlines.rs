//! Flags for how long each phase may take.
#![forbid(unsafe_code)]

use crate::cli::flag::{Flag, Group};
use crate::cli::values::{TIME, TIME_ABOVE_ZERO};

pub const GROUP: Group = Group {
    heading: "Deadlines",
    flags: &[
        &READ_TIMEOUT,
        &WRITE_TIMEOUT,
        &PROXY_READ_TIMEOUT,
        &CONNECT_TIMEOUT,
        &TLS_TIMEOUT,
        &CLIENT_IDLE_TIMEOUT,
        &SHUTDOWN_TIMEOUT,
    ],
};

pub const READ_TIMEOUT: Flag = Flag {
    help: "Whole request from the client, head and body; 0: no deadline",
    default: Some("30s"),
    remedy: TIME,
    ..Flag::value("read-timeout", "TIME")
};

pub const WRITE_TIMEOUT: Flag = Flag {
    help: "From the end of the request head to the end of the response; 0: none",
    default: Some("90s"),
    remedy: TIME,
    ..Flag::value("write-timeout", "TIME")
};

pub const PROXY_READ_TIMEOUT: Flag = Flag {
    help: "From the request sent whole to the origin's response head; 0: no deadline",
    default: Some("60s"),
    remedy: TIME,
    ..Flag::value("proxy-read-timeout", "TIME")
};

pub const CONNECT_TIMEOUT: Flag = Flag {
    help: "Look-up and TCP connection to an origin, and the wait in line under --max-conns-per-host",
    default: Some("30s"),
    remedy: TIME_ABOVE_ZERO,
    ..Flag::value("connect-timeout", "TIME")
};

pub const TLS_TIMEOUT: Flag = Flag {
    help: "TLS handshake with an origin",
    default: Some("10s"),
    remedy: TIME_ABOVE_ZERO,
    ..Flag::value("tls-timeout", "TIME")
};

pub const CLIENT_IDLE_TIMEOUT: Flag = Flag {
    help: "A client's connection without a request",
    default: Some("60s"),
    remedy: TIME_ABOVE_ZERO,
    ..Flag::value("client-idle-timeout", "TIME")
};

pub const SHUTDOWN_TIMEOUT: Flag = Flag {
    help: "Requests in flight after SIGTERM; 0: cut at once",
    default: Some("1h"),
    remedy: TIME,
    ..Flag::value("shutdown-timeout", "TIME")
};
