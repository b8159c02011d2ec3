//! What a flag is, and the groups in which the help shows them.
#![forbid(unsafe_code)]

use crate::cli::{deadlines, listening, logs, origins, other, routes};

/// A flag and its environment variable. `..Flag::value(..)` and its sisters fill in what is usual.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes in front.
    pub name: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    /// One line of the help, without the default.
    pub help: &'static str,
    /// As it would be typed, so that the help cannot say another one than is in force. None: the
    /// flag has no default, or one that cannot be typed; then `help` says it.
    pub default: Option<&'static str>,
    /// What to do about a mistake in the value; stands behind the cause and a semicolon.
    pub remedy: &'static str,
}

/// The words name the value in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One value; of a flag typed twice the last counts.
    Value(&'static str),
    /// A value each time it is typed; separated by commas in the environment.
    Values(&'static str),
    /// None needed; `--flag=false` turns off what the environment turned on.
    Switch,
}

/// Flags under one heading of the help.
pub struct Group {
    pub heading: &'static str,
    pub flags: &'static [&'static Flag],
}

/// All flags, in the order of the help.
pub const GROUPS: [Group; 6] =
    [listening::GROUP, origins::GROUP, routes::GROUP, deadlines::GROUP, logs::GROUP, other::GROUP];

pub fn all_flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags).copied()
}

impl Flag {
    pub const fn value(name: &'static str, word: &'static str) -> Self {
        Self::takes(name, Takes::Value(word))
    }

    pub const fn values(name: &'static str, word: &'static str) -> Self {
        Self::takes(name, Takes::Values(word))
    }

    pub const fn switch(name: &'static str) -> Self {
        Self {
            remedy: "give true or false, or no value for true",
            ..Self::takes(name, Takes::Switch)
        }
    }

    const fn takes(name: &'static str, takes: Takes) -> Self {
        Self { name, short: None, takes, help: "", default: None, remedy: "" }
    }

    /// `--read-timeout`
    pub fn typed(&self) -> String {
        format!("--{}", self.name)
    }

    /// `CHOCON_READ_TIMEOUT`
    pub fn variable(&self) -> String {
        format!("CHOCON_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}
