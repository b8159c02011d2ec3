//! Flags for what is written: access log, diagnostics, latencies.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::cli::flag::{Flag, Group};
use crate::config::{AccessLogTo, LogDirectory, LogFormat};
use crate::observe::log_files::try_directory;

pub const GROUP: Group = Group {
    heading: "Logs and latencies",
    flags: &[
        &ACCESS_LOG_DIR,
        &ACCESS_LOG_FORMAT,
        &ACCESS_LOG_ROTATE,
        &ACCESS_LOG_ROTATE_TIME,
        &LOG_LEVEL,
        &HDR_DIR,
        &STSIZE,
        &SPFACTOR,
    ],
};

pub const ACCESS_LOG_DIR: Flag = Flag {
    help: "Access log to: \"\" or stderr, stdout, none, or files in a directory",
    default: Some(""),
    remedy: "give stderr (or \"\"), stdout, none, or a directory that this user may write to",
    ..Flag::value("access-log-dir", "WHERE")
};

pub const ACCESS_LOG_FORMAT: Flag = Flag {
    help: "Lines of the access log: json, json+, apache, ltsv",
    default: Some("json"),
    remedy: "give json, json+, apache or ltsv",
    ..Flag::value("access-log-format", "FORMAT")
};

pub const ACCESS_LOG_ROTATE: Flag = Flag {
    help: "Log files kept: those of so many rotations; 0: those of seven days",
    default: Some("30"),
    remedy: "give 0 to 1000000",
    ..Flag::value("access-log-rotate", "N")
};

pub const ACCESS_LOG_ROTATE_TIME: Flag = Flag {
    help: "Minutes between two log files",
    default: Some("1440"),
    remedy: "give minutes, 0 to 5256000",
    ..Flag::value("access-log-rotate-time", "MINUTES")
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

pub const STSIZE: Flag = Flag {
    help: "Samples of request times kept for /.api/http-stats",
    default: Some("1000"),
    remedy: "give 2 to 1000000",
    ..Flag::value("stsize", "N")
};

pub const SPFACTOR: Flag = Flag {
    help: "One request in so many is sampled for /.api/http-stats",
    default: Some("3"),
    remedy: "give 1 to 1000000",
    ..Flag::value("spfactor", "N")
};

pub fn read_access_log(text: &str, minutes: usize, kept: usize) -> Result<AccessLogTo, String> {
    match text {
        "" | "stderr" => Ok(AccessLogTo::Stderr),
        "stdout" => Ok(AccessLogTo::Stdout),
        "none" => Ok(AccessLogTo::Off),
        directory => {
            let dir = PathBuf::from(directory);
            try_directory(&dir)?;
            let rotate_every = Duration::from_secs(minutes as u64 * 60);
            // chocon: rotatelogs.New takes an age of 0 for seven days.
            let keep_for = match rotate_every * kept as u32 {
                Duration::ZERO => Duration::from_secs(7 * 86_400),
                age => age,
            };
            Ok(AccessLogTo::Directory(LogDirectory { dir, rotate_every, keep_for }))
        }
    }
}

pub fn read_format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "json" => Ok(LogFormat::Json),
        "json+" => Ok(LogFormat::JsonPlus),
        "apache" => Ok(LogFormat::Apache),
        "ltsv" => Ok(LogFormat::Ltsv),
        _unknown => Err("is not a format"),
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
