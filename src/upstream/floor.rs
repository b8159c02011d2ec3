//! What is kept ready of an origin: connections with all handshakes done, before a request needs them.
//!
//! The floor is one for the whole process, not one for each shard: `--warm URL=4` makes four connections with one shard
//! and with sixty-four. One shard, the origin's home, makes them; requests of other shards get theirs by lending, which
//! costs less than a millisecond, and what was lent counts for the floor wherever it is. Home is the first shard that
//! needs the origin, counted from a place that the origin's hash gives, so that homes are spread over the shards and
//! no shard has to be asked: all see it in the table.
//!
//! What is needed: as many as `--warm` says; and of origins in use, as many as recent peaks had in flight. The sum of the
//! shards' peaks may be too much, as they were not all at one time; but no more than were open of late, because
//! connections are made only where none was idle anywhere.
//!
//! A connection that has to be retired soon no longer counts, so that its replacement is there before it goes.

#![forbid(unsafe_code)]

mod census;
mod keep;

use super::{
    connection::Connection, demand::Demand, dial_budget::DialBudget, idle_limit::IdleLimit,
};
use crate::limits::{DEMAND_LEARNED_AFTER, FLOOR_REPLACE_AHEAD};
use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

/// What a shard knows about keeping one origin warm.
pub struct Floor {
    /// What `--warm` says; 0: nothing.
    named: Cell<usize>,
    /// The same, on the shard that keeps it.
    keeps: Cell<usize>,
    /// Requests since the last sweep, and the most of them in flight at a time.
    uses: Cell<u32>,
    peak: Cell<u32>,
    demand: Cell<Demand>,
    /// Connections that all shards had open of late.
    open: Cell<Demand>,
    /// It was worth keeping at the last sweep.
    is_kept: Cell<bool>,
    budget: Cell<DialBudget>,
    /// Dials under way that no request asked for.
    dialling: Cell<usize>,
    /// When an HTTP/2 connection was dialled that has not lasted yet.
    tried: Cell<Option<Instant>>,
    /// What such a dial took last.
    dial_took: Cell<Duration>,
    idle_limit: Cell<IdleLimit>,
    /// For how long an idle connection is used; None before the first sweep.
    pub(super) usable_for: Cell<Option<Duration>>,
    /// A connection past the limit, put apart to measure it, and since when it is idle.
    pub(super) apart: RefCell<Option<(Connection, Instant)>>,
}

impl Floor {
    pub fn new(now: Instant) -> Self {
        Self {
            named: Cell::new(0),
            keeps: Cell::new(0),
            uses: Cell::new(0),
            peak: Cell::new(0),
            demand: Cell::new(Demand::new(now)),
            open: Cell::new(Demand::new(now)),
            is_kept: Cell::new(false),
            budget: Cell::new(DialBudget::new(now)),
            dialling: Cell::new(0),
            tried: Cell::new(None),
            dial_took: Cell::new(Duration::ZERO),
            idle_limit: Cell::default(),
            usable_for: Cell::new(None),
            apart: RefCell::default(),
        }
    }

    /// Whether it is one of `--warm`.
    pub fn is_named(&self) -> bool {
        self.named.get() > 0
    }

    /// The last connection for it could not be made, or was closed at once.
    pub(super) fn is_failing(&self) -> bool {
        self.budget.get().is_failing()
    }

    /// Whether connections of it are replaced, so that their ends have to be seen at once.
    pub(super) fn is_kept(&self) -> bool {
        self.is_named() || self.is_kept.get()
    }

    /// A request comes, with which so many are in flight; it may not be counted itself yet.
    pub fn note_request(&self, in_flight: u32) {
        self.uses.set(self.uses.get().saturating_add(1));
        self.peak.set(self.peak.get().max(in_flight.max(1)));
    }

    /// The origin closed a connection that was idle for so long.
    pub fn saw_end(&self, idle: Duration, now: Instant) {
        self.learn(|limit| limit.saw_end(idle, now));
    }

    pub fn told_idle_timeout(&self, seconds: u64, now: Instant) {
        self.learn(|limit| limit.told(seconds, now));
    }

    pub(super) fn idle_limit(&self) -> IdleLimit {
        self.idle_limit.get()
    }

    pub(super) fn learn(&self, learn: impl FnOnce(&mut IdleLimit)) {
        let mut limit = self.idle_limit.get();
        learn(&mut limit);
        self.idle_limit.set(limit);
    }

    /// What this shard's requests need, by recent peaks.
    fn demand(&self, now: Instant) -> usize {
        let mut demand = self.demand.get();
        if self.uses.get() > 0 {
            demand.note(self.peak.take() as usize, self.uses.take(), now);
            self.demand.set(demand);
        }
        demand.size(now)
    }

    pub(super) fn to_remember(&self, now: Instant) -> Remembered {
        // What came since the last sweep counts, too.
        self.demand(now);
        let demand = self.demand.get();
        Remembered {
            needs: if demand.size(now) > 0 { demand.left(now) } else { 0.0 },
            uses: demand.uses(),
            open: self.open.get().size(now),
            idle_limit: self.idle_limit.get().known(),
        }
    }

    /// What the origin needed before a restart, decayed as far as it had; there was enough use of it to be kept.
    pub(super) fn recall_need(&self, needs: f64, now: Instant) {
        self.demand.set(Demand::recalled(needs, DEMAND_LEARNED_AFTER, now));
        self.open.set(Demand::recalled(needs, 0, now));
    }

    pub(super) fn recall_limit(&self, limit: Duration) {
        self.idle_limit.set(IdleLimit::recalled(limit));
    }

    /// How long before its end a connection is replaced; never so long that a new one would be too old at once.
    pub(super) fn replace_ahead(&self, usable_for: Duration) -> Duration {
        // Twice, for the dial may be slower than the last.
        (FLOOR_REPLACE_AHEAD + 2 * self.dial_took.get()).min(usable_for / 2)
    }
}

/// What is worth remembering of an origin across a restart.
pub struct Remembered {
    /// By this shard's recent peaks, and from how many requests.
    pub needs: f64,
    pub uses: u32,
    /// Connections that all shards had open of late.
    pub open: usize,
    pub idle_limit: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_comes_no_earlier_than_half_of_a_connections_time() {
        let floor = Floor::new(Instant::now());
        floor.dial_took.set(Duration::from_millis(450));
        assert_eq!(floor.replace_ahead(Duration::from_secs(50)), Duration::from_millis(1150));
        assert_eq!(floor.replace_ahead(Duration::from_millis(750)), Duration::from_millis(375));
    }
}
