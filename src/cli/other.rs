//! Flags that are about the process. `--version` and `--help` stand with clap: they are questions,
//! not settings, and have no environment variable.
#![forbid(unsafe_code)]

use crate::cli::flag::{Flag, Group};

pub const GROUP: Group = Group { heading: "Other", flags: &[&PID_FILE, &CHECK] };

pub const PID_FILE: Flag = Flag {
    help: "File for the process's id, removed at its end [default: none]",
    remedy: "give a path in an existing directory that this user may write to",
    ..Flag::value("pid-file", "FILE")
};

pub const CHECK: Flag = Flag {
    help: "Check flags, addresses, directories, certificates and io_uring; serve nothing",
    ..Flag::switch("check")
};
