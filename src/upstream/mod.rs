//! The way to the origins: from a Host value to a connection that a request can use.
//!
//! [`Upstream::destination`] says which origin, [`Upstream::lease`] gives a connection: an idle one of this shard, else
//! one that another shard lends, else the first that comes free or is made. A lease that is dropped closes its
//! connection; only [`Lease::finish`] keeps it.

#![forbid(unsafe_code)]

mod acquire;
mod addresses;
mod atomic;
mod claim;
pub mod connection;
mod demand;
mod dial;
mod dial_budget;
pub mod dns;
pub mod fixed;
mod floor;
pub mod http2;
mod idle_limit;
mod known_names;
pub mod lend;
mod line;
pub mod names;
mod origins;
pub mod own;
pub mod permits;
pub mod policy;
mod pool;
mod race;
mod recall;
#[cfg(test)]
mod shared_tests;
pub mod state;
mod table;
pub mod tls;
mod tunnel;
mod upkeep;
mod warming;

use crate::{
    authority::{OriginUrl, Scheme},
    error::{Cause, Error, Phase},
    limits::{IDLE_PER_SHARD_MAX, ROUTES_CACHED_MAX},
    observe::{
        access_log::{ConnectionFacts, Protocol},
        latency::{Acquired, Cost, OriginSnapshot},
    },
    route::{Form, Route, route},
    shard::{Shard, watch::Watch},
    via::Proxy,
};
use acquire::Waiter;
use addresses::Chance;
use connection::Connection;
use fixed::Fixed;
pub use fixed::InFlight;
use http2::speaks::Speaks;
use lend::Neighbours;
use line::Standing;
use names::Names;
pub use origins::{Destination, Origin};
use origins::{Key, Origins, Seat};
use own::Own;
use policy::Policy;
use pool::ByKind;
use slab::Slab;
use state::State;
use std::{
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};
use tls::Tls;
use warming::Warming;

/// A shard's way to the origins.
pub struct Upstream {
    /// For tasks that outlive the request they were begun for.
    this: Weak<Self>,
    pub shard: Rc<Shard>,
    pub names: Names,
    tls: Tls,
    policy: Policy,
    chance: Chance,
    neighbours: Arc<Neighbours>,
    origins: RefCell<Origins>,
    /// `--upstream`.
    fixed: Option<Fixed>,
    /// Requests of which other shards know that they wait.
    waiters: RefCell<Slab<Rc<Waiter>>>,
    /// Requests that stand in line for a connection (`--max-conns-per-host`).
    standing: Standing,
    /// Idle connections that this shard may keep of one origin: its share of `--keepalive-conns`.
    idle_per_origin_max: usize,
    idle: Cell<usize>,
    open: Rc<Cell<usize>>,
    open_max: usize,
    shards: usize,
    looked: Cell<Instant>,
    /// What was known before the start.
    recalled: OnceCell<Arc<State>>,
    /// What the start waits for.
    warming: Warming,
    /// Too much waits for slow clients of HTTP/2 origins.
    is_under_pressure: Cell<bool>,
}

/// For what a request needs its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// It can be sent again if the origin just closes the connection.
    Any,
    /// It must not be sent twice: rather one that the origin does not close now.
    Safe,
    /// It is sent again: only one that is made for it.
    Fresh,
}

/// Histograms copied without a pause: 2 µs each (PERF.md).
const SNAPSHOTS_AT_ONCE: usize = 16;

/// A connection in use by one request. Dropping it closes the connection, whatever state it is in; after a clean end
/// [`Lease::finish`] gives it back.
pub struct Lease {
    pub connection: Connection,
    /// How the request got it: one that was not made for it may have been given up by the origin meanwhile.
    pub acquired: Acquired,
    pub cost: Cost,
    /// How long it was idle before, in milliseconds; small, because a lease is moved about.
    idle_ms: u32,
    origin: Rc<Origin>,
}

impl Lease {
    /// For the access log.
    pub fn facts(&self) -> ConnectionFacts {
        ConnectionFacts {
            origin: SocketAddr::new(self.connection.ip(), self.origin.key.dialled().1),
            acquired: self.acquired,
            cost: self.cost,
            protocol: Protocol::Http11,
            tls: self.connection.tls_facts(),
        }
    }

    /// Records the time from the request sent to the first byte of the response.
    pub fn record(&self, round_trip: Duration) {
        let us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.origin.latency.borrow_mut().record(us, self.acquired, self.cost);
        self.connection.address.address().answered(round_trip);
    }

    /// The proxy that answers in the origin's name, if the request went to one.
    pub fn asked_proxy(&self) -> Option<&Proxy> {
        let key = &self.origin.key;
        key.via.as_deref().filter(|_| key.scheme == Scheme::Http)
    }

    /// It was had before it was known what for.
    pub fn for_one_that(self, wants: Wants) -> Self {
        if wants == Wants::Safe {
            self.origin.floor.note_careful(Instant::now());
        }
        self
    }

    /// Counts the request for the origin that its connection leads to.
    pub fn count(&self) -> InFlight {
        InFlight::of(&self.origin)
    }

    /// The connection turned out to have been closed by the origin while it was idle.
    pub fn was_given_up(&self, now: Instant) {
        let idle = match self.acquired {
            Acquired::Reused => Duration::from_millis(self.idle_ms.into()),
            Acquired::Lent => self.connection.idle_when_lent(now),
            Acquired::Waited | Acquired::New => return,
        };
        self.origin.saw_end(self.connection.kind(), idle, now);
    }

    /// What a response said about how long its connection may be idle, in seconds.
    pub fn told_idle_timeout(&self, seconds: u64) {
        let now = Instant::now();
        self.origin.learn(|limits| limits.told(seconds, now));
    }

    /// Gives the connection back after a clean end: the response ended by its framing, the origin lets it persist, the
    /// request was sent whole, and no byte too many came.
    pub fn finish(mut self, upstream: &Upstream, now: Instant) {
        self.connection.was_used();
        if self.connection.is_clean() {
            upstream.keep(&self.origin, self.connection, now);
        }
    }
}

/// How much a shard may hold.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    pub shards: usize,
    pub idle_per_origin_max: usize,
    pub open_max: usize,
}

impl Upstream {
    pub fn new(
        shard: Rc<Shard>,
        names: Names,
        tls: Tls,
        neighbours: Arc<Neighbours>,
        shares: Shares,
        own: Own,
    ) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            this: this.clone(),
            policy: Policy::new(shard.config.allow_cidr.clone(), own),
            fixed: shard.config.upstream.clone().map(Fixed::new),
            shard,
            names,
            tls,
            chance: Chance::new(),
            neighbours,
            origins: RefCell::default(),
            waiters: RefCell::default(),
            standing: Standing::default(),
            idle_per_origin_max: shares.idle_per_origin_max,
            idle: Cell::new(0),
            open: Rc::default(),
            open_max: shares.open_max,
            shards: shares.shards,
            looked: Cell::new(Instant::now()),
            recalled: OnceCell::new(),
            warming: Warming::default(),
            is_under_pressure: Cell::new(false),
        })
    }

    /// Which origin an authority names. Errors: it names none; the text says why.
    pub fn destination(&self, authority: &[u8], form: Form) -> Result<Rc<Destination>, Error> {
        if let Some(known) = self.origins.borrow().by_authority[form.index()].get(authority) {
            return Ok(known.clone());
        }
        let Route { origin, host } = route(authority, form, &self.shard.config.rules)
            .map_err(|why| Error::client(Phase::Route, Cause::NoRoute(why)))?;
        let origin = self.origin(self.key_of(origin));
        let known = &mut self.origins.borrow_mut().by_authority[form.index()];
        if known.len() >= ROUTES_CACHED_MAX {
            known.clear();
        }
        let destination = Rc::new(Destination::new(origin, host));
        known.insert(authority.into(), destination.clone());
        Ok(destination)
    }

    pub(super) fn origin(&self, key: Key) -> Rc<Origin> {
        // Where each address is an origin of its own, a request is spread over them as HTTP/1.1 has it.
        // An HTTP/2 connection serves one shard alone; under a bound the others would wait for it in vain.
        let config = &self.shard.config;
        let http2 = self.fixed.is_none()
            && config.max_conns_per_host == 0
            && config.rules.speaks_http2(&key.name, key.port);
        let speaks = Speaks::at_first(key.scheme, http2);
        let mut is_new = false;
        let origin = self.origins.borrow_mut().get_or_add(key, &self.idle, speaks, |key| {
            is_new = true;
            let place = self.neighbours.table.enter(self.neighbours.hash(key))?;
            Some(Seat::new(place, self.shard.index))
        });
        if is_new {
            self.recall_origin(&origin, Instant::now());
        }
        origin
    }

    fn key_of(&self, OriginUrl { scheme, name, port }: OriginUrl) -> Key {
        let via = self.shard.config.proxies.before(scheme, &name, port).cloned();
        Key { scheme, name, port, at: None, via }
    }

    /// Gives a connection to `origin` that is good for what `wants` says: idle, or else the first that is lent, comes free or
    /// is made.
    ///
    /// Where an idle one is at hand nothing is touched that other shards use; builds for tests hold that.
    ///
    /// Errors, by phase: route (address refused), dns, connect, tls; each also by its deadline. A wait ends when `watch`
    /// cuts. Cancel-safe: what was under way is closed.
    pub async fn lease(
        &self,
        origin: &Rc<Origin>,
        watch: &Watch,
        wants: Wants,
    ) -> Result<Lease, Error> {
        let now = Instant::now();
        origin.used.set(now);
        origin.floor.note_request(origin.in_flight.get());
        let mut cost = Cost::default();
        let idle = match wants {
            Wants::Any => self.take_idle(origin, now, self.usable_for(origin)),
            Wants::Safe => {
                origin.floor.note_careful(now);
                let safe = self.take_idle(origin, now, self.safe_for(origin));
                if safe.is_none() && self.may_borrow_safe(origin) {
                    if let Some(lease) = Box::pin(self.borrow_safe(origin, watch)).await {
                        return Ok(lease);
                    }
                    cost.wait = now.elapsed();
                }
                // One that may be about to be closed is as good as any other proxy's.
                safe.or_else(|| self.take_idle(origin, Instant::now(), self.usable_for(origin)))
            }
            Wants::Fresh => None,
        };
        if let Some((connection, since)) = idle {
            let idle_ms = now.saturating_duration_since(since).as_millis();
            let idle_ms = u32::try_from(idle_ms).unwrap_or(u32::MAX);
            let acquired = Acquired::Reused;
            return Ok(Lease { connection, acquired, cost, idle_ms, origin: origin.clone() });
        }
        // On the heap: a wait's state is large, and requests that wait for an answer should not carry it.
        Box::pin(self.acquire(origin, watch, wants == Wants::Fresh)).await
    }

    /// Takes a connection between requests, idle since `since`: for one that waits in line, else idle.
    fn keep(&self, origin: &Origin, mut connection: Connection, since: Instant) {
        if connection.has_left() {
            return connection.retire();
        }
        if let Some(home) = self.other_home(origin, connection.ip()) {
            return self.keep(&home, connection, since);
        }
        if !origin.waiting.borrow().is_empty() {
            match self.serve_waiting(origin, connection) {
                Some(back) => connection = back,
                None => return,
            }
        }
        if let Some(connection) = self.hand_on(origin, connection, since) {
            self.put_idle(origin, connection, since);
        }
    }

    fn put_idle(&self, origin: &Origin, connection: Connection, since: Instant) {
        if origin.forgotten.get() || self.idle.get() >= IDLE_PER_SHARD_MAX {
            return;
        }
        let (shared, max) = (table::accesses(), self.idle_max(origin));
        if max == 0 && origin.floor.is_named() {
            return self.send_home(origin, connection, since);
        }
        let kind = connection.kind();
        match origin.idle.borrow_mut().put(connection, kind, since, max) {
            Some(oldest) => oldest.retire(),
            None => {
                debug_assert_eq!(shared, table::accesses(), "a hit used the shared table");
                self.idle.set(self.idle.get() + 1);
            }
        }
    }

    /// The idle connection that was used last, if it is younger than its kind may be, and since when it is idle.
    fn take_idle(
        &self,
        origin: &Origin,
        now: Instant,
        within: ByKind<Duration>,
    ) -> Option<(Connection, Instant)> {
        loop {
            // A dead one is not counted any more once it is dropped; that is no part of a hit.
            let shared = table::accesses();
            let (connection, since) = origin.idle.borrow_mut().take(now, within)?;
            self.idle.set(self.idle.get() - 1);
            if connection.is_usable() {
                debug_assert_eq!(shared, table::accesses(), "a hit used the shared table");
                return Some((connection, since));
            }
            // It ended after it was last looked at.
            let seen = origin.floor.looked.get().max(since);
            origin.saw_end(connection.kind(), seen.saturating_duration_since(since), now);
        }
    }

    /// Gives up the idle connection, of all origins, whose origin was not used for longest.
    fn retire_oldest_idle(&self) {
        let origins = self.origins.borrow();
        let with_idle = origins.by_key.values().filter(|origin| !origin.idle.borrow().is_empty());
        let Some(origin) = with_idle.min_by_key(|origin| origin.used.get()) else {
            origins.by_key.values().any(|origin| origin.streams.retire_idle());
            return;
        };
        if let Some(oldest) = origin.idle.borrow_mut().take_oldest() {
            self.idle.set(self.idle.get() - 1);
            oldest.retire();
        }
    }

    /// Sends a copy of every origin's latency histogram, some at a time, so that no request waits for all of them.
    pub async fn send_latency(&self, to: Sender<Vec<OriginSnapshot>>) {
        let origins: Vec<Rc<Origin>> = self.origins.borrow().by_key.values().cloned().collect();
        for some in origins.chunks(SNAPSHOTS_AT_ONCE) {
            let snapshot = |origin: &Rc<Origin>| {
                let latency = origin.latency.borrow().snapshot(&origin.label());
                latency.with_http2(origin.streams.snapshot())
            };
            if to.send(some.iter().map(snapshot).collect()).is_err() {
                return;
            }
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
