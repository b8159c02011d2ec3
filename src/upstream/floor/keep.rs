//! The floor as the sweeper keeps it: counts what there is, dials what is missing.

#![forbid(unsafe_code)]

use super::census::Census;
use crate::{
    error::Error,
    limits::{
        DEMAND_LEARNED_AFTER, FLOOR_LEARNED_MAX, FLOOR_OPEN_PERCENT_MAX, IDLE_LIMIT_LEARNED_MIN,
        IDLE_PER_SHARD_MAX, SWEEP_EVERY,
    },
    shard,
    upstream::{
        Upstream,
        dial::Dialling,
        http2::speaks::Speaks,
        origins::{Key, Origin},
        pool::ByKind,
        table::Told,
        tls::Offer,
    },
};
use std::{
    rc::Rc,
    time::{Duration, Instant},
};

/// What an origin's home is to keep of it.
struct Wanted {
    /// Connections, in all shards.
    ready: usize,
    /// Those of them that never carried a request, at least.
    fresh: usize,
    census: Census,
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

impl Upstream {
    /// Makes the origins of `--warm` known, and their connections.
    pub fn begin_warm(&self) {
        let now = Instant::now();
        for warm in &self.shard.config.warm {
            let origins = match self.is_spread(&warm.origin) {
                // They have their names already.
                true => self.spread_origins(),
                false => {
                    let origin = self.origin(self.key_of(warm.origin.clone()));
                    self.name_floor(&origin, warm.connections.max(origin.floor.named.get()));
                    vec![origin]
                }
            };
            for origin in origins {
                self.expect_warm(&origin, origin.floor.keeps.get());
                self.keep_floor(&origin, &mut 0, now);
            }
        }
    }

    /// Has so many connections to `origin` kept ready by its home, as `--warm` says; 0: none.
    pub(in crate::upstream) fn name_floor(&self, origin: &Origin, connections: usize) {
        origin.floor.named.set(connections);
        let is_home = self.first_for(&origin.key) == self.shard.index;
        origin.floor.keeps.set(if is_home { connections } else { 0 });
        self.tell(origin, Instant::now());
    }

    /// Idle connections that this shard may keep of `origin`. Its home keeps all that `--warm` says, the others what is left
    /// of `--keepalive-conns`: it may be nothing.
    pub(in crate::upstream) fn idle_max(&self, origin: &Origin) -> usize {
        let (share, named) = (self.idle_per_origin_max, origin.floor.named.get());
        if named <= share {
            share
        } else if origin.floor.keeps.get() > 0 {
            named
        } else {
            self.shard.config.keepalive_conns.saturating_sub(named) / (self.shards - 1).max(1)
        }
    }

    /// Where the search for the home of an origin begins.
    pub(in crate::upstream) fn first_for(&self, key: &Key) -> usize {
        (self.neighbours.hash(key) % self.shards as u64) as usize
    }

    /// What recent peaks of this shard needed, if that is to be kept.
    pub(in crate::upstream) fn learned(&self, origin: &Origin, now: Instant) -> usize {
        if self.shard.config.warm_learned { origin.floor.demand(now) } else { 0 }
    }

    /// Tells the other shards what there is of `origin`, and what it needs.
    pub(in crate::upstream) fn tell(&self, origin: &Origin, now: Instant) {
        let Some(seat) = &origin.seat else { return };
        let floor = &origin.floor;
        // At least one, so that a named origin has a home, and always the same.
        let needed = self.learned(origin, now).max(floor.keeps.get().min(1));
        let dial = seat.place.dial_cost();
        let idle = origin.idle.borrow();
        let aged = self.usable_for(origin).map(|usable_for| floor.aged(*usable_for, dial));
        let aging = idle.older_than(aged, now);
        let fresh = idle.fresh() - aging.fresh;
        // One that is put apart serves nobody any more, though it is open.
        let apart = floor.apart.borrow().map(|apart| usize::from(apart.is_some()));
        let aging = aging.used + aging.fresh + apart.used + apart.fresh
            // Busy ones, too: they are retired with their request.
            + origin.addresses.borrow().connections_left();
        let [idle, aging, needed, fresh] =
            [idle.len(), aging, needed, fresh].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let uses = match floor.demand.get().uses() {
            0 => 0,
            // The connection of a single request is kept as long as any; if the origin closes it sooner it is replaced.
            _ if now.saturating_duration_since(origin.used.get())
                < floor.aged(self.shard.config.keepalive_timeout, dial) =>
            {
                DEMAND_LEARNED_AFTER
            }
            uses => uses.min(DEMAND_LEARNED_AFTER),
        };
        let uses = if self.shard.config.warm_learned { uses } else { 0 };
        let careful = u32::from(floor.is_careful(now));
        seat.tell(Told { idle, aging, needed, uses, fresh, careful });
    }

    /// What is to be ready of `origin`, with this shard its home; None: another one is, or it needs nothing.
    /// `learned` sums what is kept of origins that nobody named.
    fn wanted(&self, origin: &Origin, learned: &mut usize, now: Instant) -> Option<Wanted> {
        let seat = origin.seat.as_ref()?;
        let census =
            Census::take(seat.place.counts(), self.shard.index, self.first_for(&origin.key));
        let floor = &origin.floor;
        let mut open = floor.open.get();
        // A replacement stands beside what it replaces for a while, and a fresh one was not needed yet.
        let used = census.open.saturating_sub(census.aging + census.fresh);
        open.note(used, 0, now);
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
        let ready = needed.max(floor.named.get());
        // What must not be sent twice shall not have to go where the origin may be about to close.
        let is_unproven = floor.safe_for.get().used < self.usable_for(origin).used;
        let fresh = usize::from(ready > 0 && census.is_careful && is_unproven && left > needed);
        *learned += needed + fresh;
        Some(Wanted { ready, fresh, census })
    }

    /// Whether what is to be ready of `origin` is, without the connections to addresses that its name left. As far as the
    /// shards have told each other.
    pub(in crate::upstream) fn is_floor_elsewhere(&self, origin: &Origin) -> bool {
        let Some(seat) = &origin.seat else { return true };
        let census =
            Census::take(seat.place.counts(), self.shard.index, self.first_for(&origin.key));
        let is_learned = census.uses >= DEMAND_LEARNED_AFTER as usize;
        let needed = if is_learned { census.needed.min(census.open) } else { 0 };
        census.open - census.aging >= needed.max(origin.floor.named.get())
    }

    /// Begins dials for what is missing of the origin's floor.
    pub(in crate::upstream) fn keep_floor(
        &self,
        origin: &Rc<Origin>,
        learned: &mut usize,
        now: Instant,
    ) {
        if self.shard.is_draining() || self.shard.config.keepalive_conns == 0 {
            return;
        }
        // An address that `--upstream` no longer leads to: a dial would go to another one.
        if origin.key.at.is_some() && origin.addresses.borrow().current().next().is_none() {
            return;
        }
        let Some(Wanted { ready: wanted, fresh, census }) = self.wanted(origin, learned, now)
        else {
            return;
        };
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
        let fresh_missing = fresh.saturating_sub(census.fresh + under_way);
        let missing = wanted.saturating_sub(ready).max(fresh_missing).min(room);
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
                    if upstream.other_home(&origin, connection.ip()).is_some() {
                        // It serves another address. Without a pause this one would be dialled on and on.
                        upstream.floor_failed(&origin, Failure::Elsewhere);
                    }
                    upstream.keep(&origin, connection, Instant::now());
                }
                Err(error) => upstream.floor_failed(&origin, Failure::Dial(&error)),
            }
        });
    }

    /// An idle connection of a floor ended or lasted: the budget is told.
    pub(in crate::upstream) fn judge_floor(
        &self,
        origin: &Origin,
        shortest: Option<Duration>,
        now: Instant,
    ) {
        if shortest.is_some_and(|idle| idle < IDLE_LIMIT_LEARNED_MIN) {
            return self.floor_failed(origin, Failure::ClosedAtOnce);
        }
        let lasting = origin.idle.borrow().older_than(ByKind::both(IDLE_LIMIT_LEARNED_MIN), now);
        if lasting != ByKind::both(0) {
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
            Failure::Elsewhere => "the address does not answer, another one did".to_owned(),
            Failure::Stream => match origin.streams.take_failure() {
                Some(why) => why,
                None => "it ended at once".to_owned(),
            },
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
    /// Another address of the name answered in its place.
    Elsewhere,
    /// An HTTP/2 connection; its dial has noted why.
    Stream,
}
