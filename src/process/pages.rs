//! What the proxy's own pages need: counters that every shard writes, the thread that makes them, and a listener where
//! they are apart.

#![forbid(unsafe_code)]

use super::listeners;
use crate::{
    config::{ApiAt, Config},
    observe::{
        api::{Api, Sources},
        counters::Counters,
    },
};
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Instant,
};

pub struct Pages {
    /// One a shard.
    pub counters: Arc<[Arc<Counters>]>,
    pub api: Option<Api>,
    /// Where they are apart, with the address in force.
    pub apart: Option<(TcpListener, SocketAddr)>,
}

/// Errors: cause and remedy in words.
pub fn set_up(
    config: &Config,
    shards: usize,
    cpus: usize,
    is_successor: bool,
) -> Result<Pages, String> {
    let epoch = Instant::now();
    let counters = (0..shards).map(|_| Arc::new(Counters::new(config.sampling, epoch)));
    let counters: Arc<[_]> = counters.collect();
    let (is_on, apart) = match config.api {
        ApiAt::Off => (false, None),
        ApiAt::Main => (true, None),
        ApiAt::Address(address) => (true, Some(listeners::bind_api(address, is_successor)?)),
    };
    let sources = Sources { counters: counters.to_vec(), kept: config.sampling.kept, cpus };
    let started = is_on.then(|| Api::start(sources)).transpose();
    let api = started.map_err(|e| format!("the thread of the API cannot be started: {e}"))?;
    Ok(Pages { counters, api, apart })
}
