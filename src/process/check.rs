//! `--check`: what would keep the process from serving, found out without serving.

#![forbid(unsafe_code)]

use super::{
    advice, descriptors, inherited, listeners,
    start::{count_of_shards, start_resolver},
    state_file,
};
use crate::{
    config::{ApiAt, Config},
    shard::{runtime, sys},
    upstream::{fixed, tls::Tls},
};

/// Tries everything that a start needs, and serves nothing. Returns the exit status: 0, or 2 when something is
/// missing; all of it is said.
pub fn check(config: &Config) -> i32 {
    let mut mistakes = Vec::new();
    let mut is_successor = false;
    // First, as in `run`.
    match inherited::adopt() {
        Ok((none, note)) if none.is_empty() => {
            mistakes.extend(listeners::bind(config.listen, 1).err());
            if let Some(note) = note {
                eprintln!("warning: {note}");
            }
        }
        Ok((_inherited, _note)) => is_successor = true,
        Err(why) => mistakes.push(why),
    }
    if let ApiAt::Address(address) = config.api {
        mistakes.extend(listeners::bind_api(address, is_successor).err());
    }
    mistakes.extend(check_host());
    let cpus = runtime::cpus().len();
    let count = count_of_shards(config, cpus);
    let limit = sys::raise_descriptor_limit().map_err(|e| e.to_string());
    mistakes.extend(limit.and_then(|limit| descriptors::share(limit, count, count)).err());
    let resolver = start_resolver(config);
    mistakes.extend(resolver.and_then(|resolver| fixed::resolve(&resolver, config)).err());
    let state = config.state_file.as_deref().map(state_file::read).unwrap_or_default();
    if let Some(note) = state.note {
        eprintln!("warning: {note}");
    }
    for note in advice::on_flags(config).into_iter().chain(advice::on_shards(count, cpus)) {
        eprintln!("warning: {note}");
    }
    for variable in &config.ignored_variables {
        eprintln!("warning: this variable is not used: {variable}");
    }
    for mistake in &mistakes {
        eprintln!("{mistake}");
    }
    if mistakes.is_empty() {
        println!("chocon-uring: flags, addresses, directories and certificates are in order");
        return 0;
    }
    2
}

/// What is missing whatever the flags say.
pub fn check_host() -> Vec<String> {
    let mut mistakes = Vec::new();
    mistakes.extend(runtime::probe().err());
    mistakes.extend(Tls::new().err());
    mistakes
}
