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
    connection::Connection,
    demand::Demand,
    dial_budget::DialBudget,
    idle_limit::IdleLimits,
    origins::Origin,
    pool::{ByKind, Kind},
};
use crate::limits::{
    DEMAND_HALF_LIFE, DEMAND_LEARNED_AFTER, FLOOR_REPLACE_AHEAD, IDLE_LIMIT_LEARNED_MIN,
};
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
    limits: Cell<IdleLimits>,
    /// For how long an idle connection is used; None before the first sweep.
    pub(super) usable_for: Cell<Option<ByKind<Duration>>>,
    /// For how long it is used for what must not meet its close.
    pub(super) safe_for: Cell<ByKind<Duration>>,
    /// When such a request came last.
    careful: Cell<Option<Instant>>,
    /// When idle connections were last looked at for their end.
    pub(super) looked: Cell<Instant>,
    /// A connection of each kind past its limit, put apart to measure it, and since when it is idle.
    pub(super) apart: RefCell<ByKind<Option<(Connection, Instant)>>>,
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
            limits: Cell::default(),
            usable_for: Cell::new(None),
            safe_for: Cell::new(ByKind::both(IDLE_LIMIT_LEARNED_MIN)),
            careful: Cell::new(None),
            looked: Cell::new(now),
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

    /// A request comes that must not be sent twice.
    pub fn note_careful(&self, now: Instant) {
        self.careful.set(Some(now));
    }

    /// Whether such requests came of late.
    fn is_careful(&self, now: Instant) -> bool {
        let is_recent = |at| now.saturating_duration_since(at) < DEMAND_HALF_LIFE;
        self.careful.get().is_some_and(is_recent)
    }

    pub(super) fn limits(&self) -> IdleLimits {
        self.limits.get()
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
            idle_limit: self.limits.get().known(),
        }
    }

    /// What the origin needed before a restart, decayed as far as it had; there was enough use of it to be kept.
    pub(super) fn recall_need(&self, needs: f64, now: Instant) {
        self.demand.set(Demand::recalled(needs, DEMAND_LEARNED_AFTER, now));
        self.open.set(Demand::recalled(needs, 0, now));
    }

    /// How old a connection is when it has to be replaced, where a new one costs `dial`; never so young that its
    /// replacement would be too old at once.
    pub(super) fn aged(&self, usable_for: Duration, dial: Duration) -> Duration {
        // Twice, for the dial may be slower than the last.
        let ahead = FLOOR_REPLACE_AHEAD + 2 * dial.max(self.dial_took.get());
        usable_for - ahead.min(usable_for / 2)
    }
}

impl Origin {
    /// Takes in what was seen of the origin's idle limits; other shards hear of it.
    pub(super) fn learn(&self, learn: impl Fn(&mut IdleLimits)) {
        let floor = &self.floor;
        let mut limits = floor.limits.get();
        learn(&mut limits);
        // What is known already must not cost a look at the table: it may be told with each response.
        if limits == floor.limits.get() {
            return;
        }
        if let Some(seat) = &self.seat {
            // Others may have learned more meanwhile.
            self.hear();
            limits = floor.limits.get();
            learn(&mut limits);
            seat.place.tell_limits(limits.to_words(seat.place.epoch()));
        }
        floor.limits.set(limits);
    }

    /// Takes in what other shards know of the origin's idle limits.
    pub(super) fn hear(&self) {
        let Some(seat) = &self.seat else { return };
        let told = IdleLimits::from_words(seat.place.limits(), seat.place.epoch());
        if !told.is_nothing() {
            self.floor.limits.set(told);
        }
    }

    /// What was known before a restart, unless more is known by now.
    pub(super) fn recall_limit(&self, limit: Duration) {
        self.hear();
        self.learn(|limits| {
            if limits.is_nothing() {
                *limits = IdleLimits::recalled(limit);
            }
        });
    }

    /// The origin closed a connection that was idle for `idle` at least.
    pub(super) fn saw_end(&self, kind: Kind, idle: Duration, now: Instant) {
        self.learn(|limits| limits.saw_end(kind, idle, now));
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
        let ms = Duration::from_millis;
        let floor = Floor::new(Instant::now());
        assert_eq!(floor.aged(ms(50_000), ms(450)), ms(48_850));
        assert_eq!(floor.aged(ms(750), ms(450)), ms(375));
        floor.dial_took.set(ms(900));
        assert_eq!(floor.aged(ms(50_000), ms(450)), ms(47_950), "the last dial took longer");
    }
}
