//! Flags for what is written: access log, diagnostics, latencies.
#![forbid(unsafe_code)]

use log::LevelFilter;

use crate::cli::flag::{Flag, Group};
use crate::config::AccessLogTo;

pub const GROUP: Group =
    Group { heading: "Logs and latencies", flags: &[&ACCESS_LOG_DIR, &LOG_LEVEL, &HDR_DIR] };

pub const ACCESS_LOG_DIR: Flag = Flag {
    help: "Access log to: \"\" or stderr, stdout, none",
    default: Some(""),
    remedy: "use stderr (or \"\"), stdout or none, and let the supervisor rotate",
    ..Flag::value("access-log-dir", "WHERE")
};

pub const LOG_LEVEL: Flag = Flag {
    help: "Diagnostics to stderr: error, warn, info, debug",
    default: Some("info"),
    remedy: "give error, warn, info or debug",
    ..Flag::value("log-level", "LEVEL")
};

pub const HDR_DIR: Flag = Flag {
    help: "Directory for one .hgrm file per origin at SIGUSR1 [default: none, table only]",
    remedy: "give an existing directory that this user may write to",
    ..Flag::value("hdr-dir", "DIR")
};

pub fn read_access_log(text: &str) -> Result<AccessLogTo, &'static str> {
    match text {
        "" | "stderr" => Ok(AccessLogTo::Stderr),
        "stdout" => Ok(AccessLogTo::Stdout),
        "none" => Ok(AccessLogTo::Off),
        _directory => Err("is taken for a directory, and files are not written yet"),
    }
}

pub fn read_level(text: &str) -> Result<LevelFilter, &'static str> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        _unknown => Err("is not a level"),
    }
}
