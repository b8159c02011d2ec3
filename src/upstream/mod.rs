//! The way to the origins: from a Host value to a connection that a request can use.
//!
//! [`Upstream::destination`] says which origin, [`Upstream::lease`] gives a connection: an idle one of this shard, else
//! one that another shard lends, else the first that comes free or is made. A lease that is dropped closes its
//! connection; only [`Lease::finish`] keeps it.
//!
//! | step | files |
//! |---|---|
//! | which origin | `origins`, `fixed` (`--upstream`); what must not be dialled: `policy`, `own` |
//! | an idle connection | `pool` (the set), `idle` (put and take), `lease`, `connection`, `tls` |
//! | none is idle | `acquire`, `waiter`; of other shards: `lend`, `claim`, `neighbours`, `table`; `--max-conns-per-host`: `line`, `permits` |
//! | a new one | `dial`; `names`, `known_names`, `dns`; `addresses`, `race` (happy eyeballs), `tunnel` (CONNECT) |
//! | kept ready | `floor`, `demand`, `dial_budget`, `idle_limit`, `warming`, `upkeep` (the sweeper's part); after a restart: `recall`, `state` |
//! | HTTP/2 | [`http2`] |

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
mod idle;
mod idle_limit;
mod known_names;
mod lease;
mod lend;
mod line;
pub mod names;
pub mod neighbours;
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
mod waiter;
mod warming;

use crate::{
    authority::OriginUrl,
    error::{Cause, Error, Phase},
    limits::{ROUTE_CACHED_BYTES_MAX, ROUTES_CACHED_MAX},
    observe::latency::{Cost, OriginSnapshot},
    route::{Form, Route, route},
    shard::{Shard, watch::Watch},
};
use addresses::Chance;
use fixed::Fixed;
pub use fixed::InFlight;
use http2::speaks::Speaks;
pub use lease::Lease;
use line::Standing;
use names::Names;
use neighbours::Neighbours;
pub use origins::{Destination, Origin};
use origins::{Key, Origins, Seat};
use own::Own;
use policy::Policy;
use slab::Slab;
use state::State;
use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::{Rc, Weak},
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};
use tls::Tls;
use waiter::Waiter;
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

/// Histograms copied without a pause. One whose slowest answer took half a second is 80 KiB, so this is a copy of about
/// a megabyte: less than a millisecond.
const SNAPSHOTS_AT_ONCE: usize = 16;

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
        let destination = Rc::new(Destination::new(origin, host));
        if authority.len() > ROUTE_CACHED_BYTES_MAX {
            return Ok(destination);
        }
        let known = &mut self.origins.borrow_mut().by_authority[form.index()];
        if known.len() >= ROUTES_CACHED_MAX {
            known.clear();
        }
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
            let idle = now.saturating_duration_since(since);
            return Ok(Lease::reused(connection, idle, cost, origin.clone()));
        }
        // On the heap: a wait's state is large, and requests that wait for an answer should not carry it.
        Box::pin(self.acquire(origin, watch, wants == Wants::Fresh)).await
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
