//! A connection in use by one request.

#![forbid(unsafe_code)]

use super::{InFlight, Upstream, Wants, connection::Connection, origins::Origin};
use crate::{
    authority::Scheme,
    observe::{
        access_log::{ConnectionFacts, Protocol},
        latency::{Acquired, Cost},
    },
    via::Proxy,
};
use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

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
    /// One that was waited for, made or lent.
    pub(super) fn new(
        connection: Connection,
        acquired: Acquired,
        cost: Cost,
        origin: Rc<Origin>,
    ) -> Self {
        Self { connection, acquired, cost, idle_ms: 0, origin }
    }

    /// One that was idle for `idle` before.
    pub(super) fn reused(
        connection: Connection,
        idle: Duration,
        cost: Cost,
        origin: Rc<Origin>,
    ) -> Self {
        let idle_ms = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
        Self { connection, acquired: Acquired::Reused, cost, idle_ms, origin }
    }

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
