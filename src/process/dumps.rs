//! What SIGUSR1 asks for: the latency of all origins, merged over the shards, as a table and as files.
//!
//! On a thread of its own: formatting and files take their time, and neither shards nor signals wait for it. One dump is
//! made at a time, and one more may be asked for meanwhile, which then tells of all that came before the last signal. So a
//! flood of signals costs the shards no more than one copy of their histograms a dump.

#![forbid(unsafe_code)]

use super::shards::Order;
use crate::{
    config::Config,
    observe::{diagnostics, latency::LatencyReport},
    shard::mailbox::Mailbox,
};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

/// How long shards may take to send their histograms; one that is busy longer is left out of the dump.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(5);

/// The thread that dumps.
pub struct Dumps {
    asks: SyncSender<()>,
}

impl Dumps {
    /// Makes dumps of what the shards behind `orders` know, when asked. Errors: there is no thread.
    pub fn start(config: Arc<Config>, orders: Vec<Mailbox<Order>>) -> io::Result<Self> {
        let (asks, asked) = mpsc::sync_channel(1);
        thread::Builder::new().name("dump".into()).spawn(move || {
            for () in asked {
                if catch_unwind(AssertUnwindSafe(|| dump(&config, &orders))).is_err() {
                    log::error!("the latency dump ended in a panic. Please report this");
                }
            }
        })?;
        Ok(Self { asks })
    }

    /// Asks for a dump, unless one that has not begun yet was asked for already.
    pub fn ask(&self) {
        // Full: that one will tell all there is to tell now.
        self.asks.try_send(()).ok();
    }
}

fn dump(config: &Config, orders: &[Mailbox<Order>]) {
    let (to, snapshots) = mpsc::channel();
    for orders in orders {
        if orders.send(Order::Snapshot(to.clone())).is_err() {
            log::warn!("a shard is too busy for the latency dump; it is left out");
        }
    }
    drop(to);
    let mut report = LatencyReport::default();
    let deadline = Instant::now() + SNAPSHOT_WITHIN;
    while let Ok(of_shard) =
        snapshots.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        of_shard.into_iter().for_each(|snapshot| report.merge(snapshot));
    }
    for line in report.table().lines() {
        diagnostics::say(line);
    }
    if let Some(dir) = &config.hdr_dir {
        match report.write_hgrm(dir) {
            Ok(files) => {
                diagnostics::say(&format!("{files} histograms written to {}", dir.display()));
            }
            Err(e) => log::error!("histograms cannot be written to {}: {e}", dir.display()),
        }
    }
}
