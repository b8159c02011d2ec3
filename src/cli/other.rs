//! Flags that are about the process. `--version` and `--help` stand with clap: they are questions,
//! not settings, and have no environment variable.
#![forbid(unsafe_code)]

use crate::cli::flag::{Flag, Group};

pub const GROUP: Group = Group { heading: "Other", flags: &[&CHECK] };

pub const CHECK: Flag = Flag {
    help: "Check flags, addresses, directories, certificates and io_uring; serve nothing",
    ..Flag::switch("check")
};
