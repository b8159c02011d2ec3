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

use super::{
    Upstream,
    connection::Connection,
    demand::Demand,
    dial::Dialling,
    dial_budget::DialBudget,
    http2::acquire::Speaks,
    idle_limit::IdleLimit,
    origins::Origin,
    table::{Counts, Told},
    tls::Offer,
};
use crate::{
    error::Error,
    limits::{
        DEMAND_LEARNED_AFTER, FLOOR_LEARNED_MAX, FLOOR_OPEN_PERCENT_MAX, FLOOR_REPLACE_AHEAD,
        IDLE_LIMIT_LEARNED_MIN, IDLE_PER_SHARD_MAX, SWEEP_EVERY,
    },
    shard,
};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
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

    /// How long before its end a connection is replaced; never so long that a new one would be too old at once.
    pub(super) fn replace_ahead(&self, usable_for: Duration) -> Duration {
        // Twice, for the dial may be slower than the last.
        (FLOOR_REPLACE_AHEAD + 2 * self.dial_took.get()).min(usable_for / 2)
    }
}

/// A dial for a floor, from its beginning to its end.
struct UnderWay(Rc<Origin>);

impl UnderWay {
    fn begin(origin: &Rc<Origin>) -> Self {
        origin.floor.dialling.set(origin.floor.dialling.get() + 1);
        Self(origin.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.floor.dialling.set(self.0.floor.dialling.get() - 1);
    }
}

/// What all shards have of an origin, and whether this one keeps the floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Census {
    is_home: bool,
    open: usize,
    aging: usize,
    needed: usize,
    uses: usize,
}

impl Census {
    /// `first` is where the search for the home begins.
    fn take(counts: impl Iterator<Item = Counts>, shard: usize, first: usize) -> Self {
        let counts: Vec<Counts> = counts.collect();
        let mut in_turn = counts.iter().cycle().skip(first).take(counts.len());
        let home = in_turn.find(|counts| counts.told.needed > 0);
        let sum = |of: fn(&Counts) -> u32| counts.iter().map(|counts| of(counts) as usize).sum();
        Self {
            is_home: home.is_some_and(|home| home.shard == shard),
            open: sum(|counts| counts.open),
            aging: sum(|counts| counts.told.aging.min(counts.open)),
            needed: sum(|counts| counts.told.needed),
            uses: sum(|counts| counts.told.uses),
        }
    }
}

impl Upstream {
    /// Makes the origins of `--warm` known, and their connections.
    pub fn begin_warm(&self) {
        let now = Instant::now();
        for warm in &self.shard.config.warm {
            let origin = self.origin(self.key_of(warm.origin.clone()));
            let floor = &origin.floor;
            floor.named.set(warm.connections.max(floor.named.get()));
            if self.first(&origin) == self.shard.index {
                floor.keeps.set(floor.named.get());
            }
            self.tell(&origin, now);
            self.keep_floor(&origin, &mut 0, now);
        }
    }

    /// Idle connections that this shard may keep of `origin`. Its home keeps all that `--warm` says.
    pub(super) fn idle_max(&self, origin: &Origin) -> usize {
        self.idle_per_origin_max.max(origin.floor.keeps.get())
    }

    /// Where the search for the home of an origin begins.
    fn first(&self, origin: &Origin) -> usize {
        (self.neighbours.hash(&origin.key) % self.shards as u64) as usize
    }

    /// What recent peaks of this shard needed, if that is to be kept.
    pub(super) fn learned(&self, origin: &Origin, now: Instant) -> usize {
        if self.shard.config.warm_learned { origin.floor.demand(now) } else { 0 }
    }

    /// Tells the other shards what there is of `origin`, and what it needs.
    pub(super) fn tell(&self, origin: &Origin, now: Instant) {
        let Some(seat) = &origin.seat else { return };
        let floor = &origin.floor;
        // At least one, so that a named origin has a home, and always the same.
        let needed = self.learned(origin, now).max(floor.keeps.get().min(1));
        let usable_for = self.usable_for(origin);
        let aged = usable_for.saturating_sub(floor.replace_ahead(usable_for));
        let idle = origin.idle.borrow();
        // One that is put apart serves nobody any more, though it is open.
        let aging = idle.older_than(aged, now) + usize::from(floor.apart.borrow().is_some());
        let [idle, aging, needed] =
            [idle.len(), aging, needed].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let uses = floor.demand.get().uses().min(DEMAND_LEARNED_AFTER);
        let uses = if self.shard.config.warm_learned { uses } else { 0 };
        seat.tell(Told { idle, aging, needed, uses });
    }

    /// How many connections to `origin` are to be ready, in all shards, with this one its home; None: another one is, or it
    /// needs none. `learned` sums what is kept of origins that nobody named.
    fn wanted(
        &self,
        origin: &Origin,
        learned: &mut usize,
        now: Instant,
    ) -> Option<(usize, Census)> {
        let seat = origin.seat.as_ref()?;
        let census = Census::take(seat.place.counts(), self.shard.index, self.first(origin));
        let floor = &origin.floor;
        let mut open = floor.open.get();
        open.note(census.open, 0, now);
        floor.open.set(open);
        // Whichever shards they came to.
        let is_learned = census.uses >= DEMAND_LEARNED_AFTER as usize;
        floor.is_kept.set(is_learned);
        if !census.is_home {
            return None;
        }
        let needed = if is_learned { census.needed } else { 0 };
        let left = (FLOOR_LEARNED_MAX / self.shards).max(1).saturating_sub(*learned);
        let needed = needed.min(open.size(now)).min(self.shard.config.keepalive_conns).min(left);
        *learned += needed;
        Some((needed.max(floor.named.get()), census))
    }

    /// Begins dials for what is missing of the origin's floor.
    pub(super) fn keep_floor(&self, origin: &Rc<Origin>, learned: &mut usize, now: Instant) {
        if self.shard.is_draining() || self.shard.config.keepalive_conns == 0 {
            return;
        }
        let Some((wanted, census)) = self.wanted(origin, learned, now) else { return };
        if wanted > 0 && origin.speaks.get().may_be_http2() && origin.idle.borrow().is_empty() {
            return self.keep_stream(origin, now);
        }
        let floor = &origin.floor;
        floor.tried.set(None);
        let under_way = floor.dialling.get();
        let room = self.idle_max(origin) + census.aging;
        let room = room.saturating_sub(origin.idle.borrow().len() + under_way);
        let room = room.min(IDLE_PER_SHARD_MAX.saturating_sub(self.idle.get()));
        // Under `--max-conns-per-host` a dial would stand in line, before requests.
        let room = match self.shard.config.max_conns_per_host {
            0 => room,
            max => room.min(max.saturating_sub(census.open + under_way)),
        };
        let ready = census.open - census.aging + under_way;
        let missing = wanted.saturating_sub(ready).min(room);
        let is_crowded = self.open.get() >= self.open_max * FLOOR_OPEN_PERCENT_MAX / 100;
        if missing == 0 || is_crowded {
            return;
        }
        let mut budget = floor.budget.get();
        let granted = budget.grant(missing, under_way, now);
        floor.budget.set(budget);
        // Replacements that are due together need not come together.
        let apart = if census.open > 0 { SWEEP_EVERY } else { Duration::ZERO };
        for _ in 0..granted {
            self.dial_for_floor(origin, apart.mul_f64(self.chance()));
        }
    }

    /// Keeps one HTTP/2 connection ready, which has room for many requests; or finds out whether the origin speaks that.
    fn keep_stream(&self, origin: &Rc<Origin>, now: Instant) {
        let (floor, streams) = (&origin.floor, &origin.streams);
        if origin.speaks.get() == Speaks::Http2 {
            streams.keep_until(now + self.shard.config.keepalive_timeout);
        }
        if streams.has_any() {
            let lasts = |tried| now.saturating_duration_since(tried) >= IDLE_LIMIT_LEARNED_MIN;
            if !streams.is_empty() && floor.tried.get().is_some_and(lasts) {
                floor.tried.set(None);
                self.floor_lasts(origin);
            }
            return;
        }
        if floor.tried.take().is_some() {
            return self.floor_failed(origin, Failure::Stream);
        }
        let mut budget = floor.budget.get();
        if budget.grant(1, 0, now) > 0 {
            floor.budget.set(budget);
            floor.tried.set(Some(now));
            self.dial_stream(origin);
        }
    }

    fn dial_for_floor(&self, origin: &Rc<Origin>, after: Duration) {
        let upstream = self.this.upgrade().expect("the shard holds it while it runs");
        let under_way = UnderWay::begin(origin);
        shard::spawn("dial of a floor", async move {
            if after > Duration::ZERO {
                monoio::time::sleep(after).await;
            }
            let begun = Instant::now();
            let origin = under_way.0.clone();
            match upstream.dial(&origin, &Dialling::default(), Offer::Http1).await {
                Ok(connection) => {
                    origin.floor.dial_took.set(begun.elapsed());
                    drop(under_way);
                    upstream.keep(&origin, connection, Instant::now());
                }
                Err(error) => upstream.floor_failed(&origin, Failure::Dial(&error)),
            }
        });
    }

    /// An idle connection of a floor ended or lasted: the budget is told.
    pub(super) fn judge_floor(&self, origin: &Origin, shortest: Option<Duration>, now: Instant) {
        if shortest.is_some_and(|idle| idle < IDLE_LIMIT_LEARNED_MIN) {
            return self.floor_failed(origin, Failure::ClosedAtOnce);
        }
        if origin.idle.borrow().older_than(IDLE_LIMIT_LEARNED_MIN, now) > 0 {
            self.floor_lasts(origin);
        }
    }

    fn floor_lasts(&self, origin: &Origin) {
        let mut budget = origin.floor.budget.get();
        if budget.is_failing() {
            budget.succeeded();
            origin.floor.budget.set(budget);
            log::info!("{}: connections can be kept ready again", origin.label());
        }
    }

    fn floor_failed(&self, origin: &Origin, failure: Failure<'_>) {
        let mut budget = origin.floor.budget.get();
        let is_news = !budget.is_failing();
        let Some(pause) = budget.failed(self.chance(), Instant::now()) else { return };
        origin.floor.budget.set(budget);
        let why = match failure {
            Failure::Dial(error) => error.to_string(),
            Failure::ClosedAtOnce => "the origin closes it at once".to_owned(),
            Failure::Stream => "it failed, or ended at once".to_owned(),
        };
        let label = origin.label();
        let text = format!("{label}: no connection can be kept ready: {why}; again in {pause:.1?}");
        if is_news && origin.floor.is_named() {
            log::warn!("{text}");
        } else {
            log::debug!("{text}");
        }
    }

    /// From 0 up to 1.
    fn chance(&self) -> f64 {
        self.chance.below(1000) as f64 / 1000.0
    }
}

/// Why a floor is not kept.
enum Failure<'e> {
    Dial(&'e Error),
    ClosedAtOnce,
    /// An HTTP/2 connection, whose dial has logged why.
    Stream,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(open_needed: &[(u32, u32)]) -> impl Iterator<Item = Counts> {
        open_needed.iter().enumerate().map(|(shard, &(open, needed))| Counts {
            shard,
            open,
            told: Told { idle: open, aging: 0, needed, uses: 2 },
        })
    }

    #[test]
    fn home_is_the_first_that_needs_it_counted_from_its_place() {
        let home = |needs: &[(u32, u32)], first| {
            let homes: Vec<usize> = (0..needs.len())
                .filter(|shard| Census::take(counts(needs), *shard, first).is_home)
                .collect();
            homes
        };
        assert_eq!(home(&[(0, 1), (0, 0), (0, 1)], 0), [0]);
        assert_eq!(home(&[(0, 1), (0, 0), (0, 1)], 1), [2]);
        assert_eq!(home(&[(0, 1), (0, 0), (0, 0)], 2), [0]);
        assert!(home(&[(9, 0), (0, 0)], 1).is_empty());
    }

    #[test]
    fn a_census_sums_over_all_shards_and_a_stale_count_is_no_more_than_what_is_open() {
        let told = |aging| Told { idle: 0, aging, needed: 1, uses: 1 };
        let two = [
            Counts { shard: 0, open: 2, told: told(1) },
            Counts { shard: 1, open: 1, told: told(5) },
        ];
        let census = Census::take(two.into_iter(), 1, 0);
        assert_eq!(census, Census { is_home: false, open: 3, aging: 2, needed: 2, uses: 2 });
    }

    #[test]
    fn a_replacement_comes_no_earlier_than_half_of_a_connections_time() {
        let floor = Floor::new(Instant::now());
        floor.dial_took.set(Duration::from_millis(450));
        assert_eq!(floor.replace_ahead(Duration::from_secs(50)), Duration::from_millis(1150));
        assert_eq!(floor.replace_ahead(Duration::from_millis(750)), Duration::from_millis(375));
    }
}
