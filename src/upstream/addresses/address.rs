//! One address of an origin: how busy and how fast it is, and whether it failed of late.

#![forbid(unsafe_code)]

use crate::limits::{
    ADDRESS_ASIDE_MAX, ADDRESS_ASIDE_MIN, ADDRESS_LATENCY_HOLDS, NEAR_ROUND_TRIP_MAX,
};
use std::{
    cell::Cell,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// One address, and what came of using it.
pub struct Address {
    pub ip: IpAddr,
    /// Connections that are open or being made.
    pub(super) connections: Cell<u32>,
    pub(super) connect: Latency,
    first_byte: Latency,
    /// The shortest round trip of a TCP handshake, thus about the time that nothing can beat. Zero: not known.
    fastest: Cell<Duration>,
    /// Failures since the last success.
    pub(super) failures: Cell<u32>,
    pub(super) aside_until: Cell<Option<Instant>>,
    /// Since when a look found it without a connection.
    unused_since: Cell<Option<Instant>>,
    /// When an answer had it last.
    pub(super) seen: Cell<Instant>,
    /// Since when the name does not lead here any more.
    left: Cell<Option<Instant>>,
    pub(super) gone: Cell<bool>,
}

/// A connection's hold on its address, from the first SYN to the close.
pub struct AddressUse(Rc<Address>);

impl AddressUse {
    pub fn of(address: &Rc<Address>) -> Self {
        address.connections.set(address.connections.get() + 1);
        Self(address.clone())
    }

    pub fn address(&self) -> &Rc<Address> {
        &self.0
    }
}

impl Drop for AddressUse {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

impl Address {
    pub(super) fn new(ip: IpAddr, now: Instant) -> Self {
        Self {
            ip,
            connections: Cell::new(0),
            connect: Latency::default(),
            first_byte: Latency::default(),
            fastest: Cell::default(),
            failures: Cell::new(0),
            aside_until: Cell::new(None),
            unused_since: Cell::new(None),
            seen: Cell::new(now),
            left: Cell::new(None),
            gone: Cell::new(false),
        }
    }

    /// The name no longer leads here: its connections are to be replaced.
    pub fn is_left(&self) -> bool {
        self.left.get().is_some()
    }

    pub(super) fn left_for(&self, now: Instant) -> Duration {
        let since = |left| now.saturating_duration_since(left);
        self.left.get().map_or(Duration::ZERO, since)
    }

    /// An answer lacks it.
    pub(super) fn is_left_at(&self, now: Instant) {
        self.left.set(self.left.get().or(Some(now)));
    }

    /// An answer has it, perhaps again.
    pub(super) fn comes_back(&self, now: Instant) {
        self.seen.set(now);
        self.left.set(None);
        self.gone.set(false);
    }

    /// Its connections were replaced, or had their time: they carry no new request.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// A connection was made, all handshakes done. The TCP part of it `took` so long here, `round_trip` of it on the way, as
    /// the kernel measured it: a busy shard sees its end late. Zero: not measured.
    pub fn succeeded(&self, took: Duration, round_trip: Duration) {
        self.connect.record(took);
        let round_trip = if round_trip.is_zero() { took } else { round_trip.min(took) };
        let fastest = self.fastest.get();
        self.fastest.set(if fastest.is_zero() { round_trip } else { fastest.min(round_trip) });
        self.failures.set(0);
        self.aside_until.set(None);
    }

    /// Whether what came `took` after a request may have crossed it on its way. Of a far origin anything may: the path may
    /// be longer now than it ever was; so may it where this shard has made no connection. Of a near one what comes about as
    /// soon as an answer can: it gives so many that the look for each would cost.
    pub fn may_have_crossed(&self, took: Duration) -> bool {
        let fastest = self.fastest.get();
        fastest.is_zero() || fastest >= NEAR_ROUND_TRIP_MAX || took < fastest * 5 / 4
    }

    /// From a request sent to the first byte of its response.
    pub fn answered(&self, took: Duration) {
        self.first_byte.record(took);
    }

    /// A connection could not be made, or not in time. Puts the address aside, twice as long for each failure in a row.
    pub fn failed(&self, now: Instant) {
        let doublings = self.failures.get().min(16);
        self.failures.set(self.failures.get().saturating_add(1));
        let aside = (ADDRESS_ASIDE_MIN * (1 << doublings)).min(ADDRESS_ASIDE_MAX);
        self.aside_until.set(Some(now + aside));
    }

    /// It is being tried in the background; one probe at a time.
    pub fn begin_probe(&self, now: Instant) {
        self.aside_until.set(Some(now + ADDRESS_ASIDE_MAX));
    }

    pub(super) fn is_aside(&self, now: Instant) -> bool {
        self.aside_until.get().is_some_and(|until| now < until)
    }

    /// Forgets how fast it was if it has not been in use for long: it may be faster by now.
    pub(super) fn refresh(&self, now: Instant) {
        if self.connections.get() > 0 {
            self.unused_since.set(None);
            return;
        }
        let since = self.unused_since.get().unwrap_or(now);
        self.unused_since.set(Some(since));
        if now.saturating_duration_since(since) >= ADDRESS_LATENCY_HOLDS {
            self.connect.0.set(0);
            self.first_byte.0.set(0);
        }
    }

    /// Whether it promises the shorter wait. None where neither does.
    ///
    /// Latency times connections, as each of them takes its part; latencies of one kind are compared, and connections
    /// alone where one latency is not known.
    pub(super) fn is_better_than(&self, other: &Self) -> Option<bool> {
        let pair = |of: fn(&Address) -> &Latency| of(self).us().zip(of(other).us());
        let (a, b) = pair(|a| &a.first_byte).or_else(|| pair(|a| &a.connect)).unwrap_or((1, 1));
        let busy = |address: &Address| u64::from(address.connections.get()) + 1;
        let (a, b) = (u64::from(a) * busy(self), u64::from(b) * busy(other));
        (a != b).then_some(a < b)
    }
}

/// A moving average, in microseconds: each sample weighs an eighth, as in TCP's round-trip time (RFC 6298 §2). 0 is none.
#[derive(Default)]
pub(super) struct Latency(Cell<u32>);

impl Latency {
    fn record(&self, sample: Duration) {
        let us = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX).max(1);
        let old = self.0.get();
        self.0.set(if old == 0 { us } else { (old - old / 8).saturating_add(us / 8).max(1) });
    }

    pub(super) fn us(&self) -> Option<u32> {
        Some(self.0.get()).filter(|us| *us > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ip, known, ms};
    use super::*;

    #[test]
    fn round_trip_is_the_shortest_handshake_whatever_came_later() {
        let (now, ms, us) = (Instant::now(), Duration::from_millis, Duration::from_micros);
        let address = Address::new([192, 0, 2, 1].into(), now);
        assert!(address.may_have_crossed(us(0)), "nothing is known");
        for took in [160, 1150] {
            address.succeeded(ms(took), ms(0));
        }
        assert!(address.may_have_crossed(ms(1000)), "far, and the path may be longer now");
        address.succeeded(NEAR_ROUND_TRIP_MAX, us(0));
        assert!(address.may_have_crossed(ms(1000)), "just far");
        address.succeeded(us(999), us(0));
        assert!(!address.may_have_crossed(ms(1000)), "just near");
        address.succeeded(us(160), us(0));
        assert!(address.may_have_crossed(us(199)));
        assert!(!address.may_have_crossed(us(200)));
        address.succeeded(us(170), us(100));
        assert!(address.may_have_crossed(us(124)), "the shard was late, not the path slow");
        assert!(!address.may_have_crossed(us(125)));
    }

    #[test]
    fn an_average_follows_its_samples() {
        let latency = Latency::default();
        assert_eq!(latency.us(), None);
        latency.record(ms(80));
        assert_eq!(latency.us(), Some(80_000));
        (0..40).for_each(|_| latency.record(ms(8)));
        assert!((8_000..9_000).contains(&latency.us().unwrap()), "{:?}", latency.us());
        latency.record(Duration::MAX);
        latency.record(Duration::ZERO);
        assert!(latency.us().is_some());
    }

    #[test]
    fn the_time_aside_doubles_to_its_bound() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1)], now);
        let mut expected = ADDRESS_ASIDE_MIN;
        for _ in 0..40 {
            all[0].failed(now);
            assert!(all[0].is_aside(now + expected - ms(1)));
            assert!(!all[0].is_aside(now + expected));
            expected = (expected * 2).min(ADDRESS_ASIDE_MAX);
        }
    }
}
