//! The addresses of one origin on a shard: how fast each is, how busy, which failed of late, which are gone.
//!
//! All of them are used: of two taken at random the one that is less busy for its speed is dialled first. One that
//! failed is put aside for a while. One that the name no longer leads to is gone, and so are its connections, as soon
//! as their request is over.

#![forbid(unsafe_code)]

use crate::limits::{
    ADDRESS_ASIDE_MAX, ADDRESS_ASIDE_MIN, ADDRESS_LATENCY_HOLDS, ADDRESSES_MAX, ROTATION_CHANGES,
    ROTATION_KEPT_FOR,
};
use std::{
    cell::Cell,
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a shard knows of the addresses that one name led to.
#[derive(Default)]
pub struct Addresses {
    known: Vec<Rc<Address>>,
    answer: Option<Arc<[IpAddr]>>,
    /// An address came in that no answer has been asked about.
    is_unsettled: bool,
    /// Which of the last eight answers differed from the one before; the newest is the lowest bit.
    changes: u8,
}

/// One address, and what came of using it.
pub struct Address {
    pub ip: IpAddr,
    /// Connections that are open or being made.
    connections: Cell<u32>,
    connect: Latency,
    first_byte: Latency,
    /// Failures since the last success.
    failures: Cell<u32>,
    aside_until: Cell<Option<Instant>>,
    /// Since when a look found it without a connection.
    unused_since: Cell<Option<Instant>>,
    /// When an answer had it last.
    seen: Cell<Instant>,
    gone: Cell<bool>,
}

/// A moving average, in microseconds: each sample weighs an eighth, as in TCP's round-trip time (RFC 6298 §2). 0 is none.
#[derive(Default)]
struct Latency(Cell<u32>);

impl Latency {
    fn record(&self, sample: Duration) {
        let us = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX).max(1);
        let old = self.0.get();
        self.0.set(if old == 0 { us } else { (old - old / 8).saturating_add(us / 8).max(1) });
    }

    fn us(&self) -> Option<u32> {
        Some(self.0.get()).filter(|us| *us > 0)
    }
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

impl Addresses {
    /// Takes in what the name leads to now. The same answer again (the same allocation) changes nothing, unless an address
    /// was [found](Self::find) meanwhile.
    ///
    /// An address that the answer lacks is gone at once. Only where answers keep changing (a large service that names a
    /// few of its many addresses at a time) is it kept for `ROTATION_KEPT_FOR`: there a missing one is no sign of its end.
    pub fn update(&mut self, answer: &Arc<[IpAddr]>, now: Instant) {
        let is_known = self.answer.as_ref().is_some_and(|known| Arc::ptr_eq(known, answer));
        if is_known && !self.is_unsettled {
            return;
        }
        self.is_unsettled = false;
        self.current().for_each(|address| address.seen.set(now));
        let old = self.answer.replace(answer.clone());
        let changed = old.is_some_and(|old| {
            old.len() != answer.len() || answer.iter().any(|ip| !old.contains(ip))
        });
        self.changes = (self.changes << 1) | u8::from(changed);
        for ip in answer.iter().take(ADDRESSES_MAX) {
            match self.known.iter().find(|address| address.ip == *ip) {
                Some(known) => known.seen.set(now),
                None => self.known.push(Rc::new(Address::new(*ip, now))),
            }
        }
        let rotates = self.changes.count_ones() >= ROTATION_CHANGES;
        let stays = |address: &Address| {
            answer.contains(&address.ip)
                || (rotates
                    && now.saturating_duration_since(address.seen.get()) < ROTATION_KEPT_FOR)
        };
        self.known.retain(|address| {
            let stays = stays(address);
            address.gone.set(!stays);
            stays
        });
        while self.known.len() > ADDRESSES_MAX {
            let oldest =
                self.known.iter().enumerate().min_by_key(|(_, address)| address.seen.get());
            let Some((at, _)) = oldest else { break };
            self.known.swap_remove(at).gone.set(true);
        }
    }

    /// The longest round trip to an address in use, by what connecting took. Zero: none is known.
    pub fn round_trip(&self) -> Duration {
        let us = self.current().filter_map(|address| address.connect.us()).max();
        Duration::from_micros(us.unwrap_or(0).into())
    }

    /// Whether a connection is open, or being made, to an address that is not gone.
    pub fn are_in_use(&self) -> bool {
        self.known.iter().any(|address| address.connections.get() > 0)
    }

    /// Whether the last attempt on each of them failed.
    pub fn has_failed(&self) -> bool {
        self.current().all(|address| address.failures.get() > 0)
    }

    /// The name leads to none of them any more.
    pub fn leave(&mut self) {
        self.known.drain(..).for_each(|address| address.gone.set(true));
        self.answer = None;
    }

    /// Those that the last answer names: what may be dialled.
    pub fn current(&self) -> impl Iterator<Item = &Rc<Address>> {
        let answer = self.answer.as_deref().unwrap_or_default();
        self.known.iter().filter(|address| answer.contains(&address.ip))
    }

    /// The address of a connection that was made at another shard. Where it is not known here the next look at an answer
    /// says whether it is gone: the other shard's may be newer than what is known here, or older.
    pub fn find(&mut self, ip: IpAddr, now: Instant) -> Rc<Address> {
        if let Some(known) = self.known.iter().find(|address| address.ip == ip) {
            return known.clone();
        }
        let stranger = Rc::new(Address::new(ip, now));
        self.known.push(stranger.clone());
        self.is_unsettled = true;
        stranger
    }

    /// One that failed, whose time aside is over, and that should be tried before a request needs it.
    pub fn to_probe(&self, now: Instant) -> Option<&Rc<Address>> {
        self.current().find(|address| address.failures.get() > 0 && !address.is_aside(now))
    }
}

impl Address {
    fn new(ip: IpAddr, now: Instant) -> Self {
        Self {
            ip,
            connections: Cell::new(0),
            connect: Latency::default(),
            first_byte: Latency::default(),
            failures: Cell::new(0),
            aside_until: Cell::new(None),
            unused_since: Cell::new(None),
            seen: Cell::new(now),
            gone: Cell::new(false),
        }
    }

    /// The name no longer leads here: its connections carry no new request.
    pub fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// A connection was made, all handshakes done; `took` is the TCP part of it.
    pub fn succeeded(&self, took: Duration) {
        self.connect.record(took);
        self.failures.set(0);
        self.aside_until.set(None);
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

    fn is_aside(&self, now: Instant) -> bool {
        self.aside_until.get().is_some_and(|until| now < until)
    }

    /// Forgets how fast it was if it has not been in use for long: it may be faster by now.
    fn refresh(&self, now: Instant) {
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
    fn is_better_than(&self, other: &Self) -> Option<bool> {
        let pair = |of: fn(&Address) -> &Latency| of(self).us().zip(of(other).us());
        let (a, b) = pair(|a| &a.first_byte).or_else(|| pair(|a| &a.connect)).unwrap_or((1, 1));
        let busy = |address: &Address| u64::from(address.connections.get()) + 1;
        let (a, b) = (u64::from(a) * busy(self), u64::from(b) * busy(other));
        (a != b).then_some(a < b)
    }
}

/// Puts addresses into the order in which they are dialled: the best of two first, then the families in turn (RFC 8305
/// §4), those that failed of late last.
pub fn order(candidates: Vec<Rc<Address>>, now: Instant, chance: &Chance) -> Vec<Rc<Address>> {
    candidates.iter().for_each(|address| address.refresh(now));
    let (mut good, mut failed): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|address| address.failures.get() == 0);
    failed.sort_by_key(|address| address.aside_until.get());
    let mut ordered = Vec::with_capacity(good.len() + failed.len());
    if !good.is_empty() {
        let first = best_of_two(&good, chance);
        ordered.push(good.remove(first));
    }
    good.sort_by_key(|address| address.connections.get());
    while let Some(last) = ordered.last().filter(|_| !good.is_empty()) {
        let other = good.iter().position(|address| address.ip.is_ipv4() != last.ip.is_ipv4());
        let next = good.remove(other.unwrap_or(0));
        ordered.push(next);
    }
    ordered.append(&mut failed);
    ordered
}

fn best_of_two(among: &[Rc<Address>], chance: &Chance) -> usize {
    if among.len() < 2 {
        return 0;
    }
    let one = chance.below(among.len());
    let other = (one + 1 + chance.below(among.len() - 1)) % among.len();
    match among[one].is_better_than(&among[other]) {
        Some(false) => other,
        // Both were taken at random, so the first of them is as good as a coin.
        Some(true) | None => one,
    }
}

/// Random numbers that need not be secret (xorshift64*).
pub struct Chance(Cell<u64>);

impl Chance {
    pub fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }

    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&self, bound: usize) -> usize {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        let high = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32;
        // `high` is below 2^32 and so is any bound here; the product's upper half is below the bound.
        ((high * bound as u64) >> 32) as usize
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn answer(ips: &[IpAddr]) -> Arc<[IpAddr]> {
        ips.into()
    }

    fn known(ips: &[IpAddr], now: Instant) -> (Addresses, Vec<Rc<Address>>) {
        let mut addresses = Addresses::default();
        addresses.update(&answer(ips), now);
        let list = addresses.current().cloned().collect();
        (addresses, list)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// How often each of `of` came first in 1,000 orders.
    fn firsts(of: &[Rc<Address>], now: Instant) -> Vec<usize> {
        let chance = Chance::seeded(7);
        let mut counts = vec![0; of.len()];
        for _ in 0..1000 {
            let first = order(of.to_vec(), now, &chance).remove(0);
            counts[of.iter().position(|a| Rc::ptr_eq(a, &first)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn equals_are_taken_equally_often() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2), ip(3), ip(4)], now);
        assert!(
            firsts(&all, now).iter().all(|n| (150..350).contains(n)),
            "{:?}",
            firsts(&all, now)
        );
    }

    #[test]
    fn the_faster_of_two_is_first_until_it_is_busier() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2)], now);
        all[0].succeeded(ms(10));
        all[1].succeeded(ms(35));
        assert_eq!(firsts(&all, now), [1000, 0]);
        let _busy: Vec<_> = (0..3).map(|_| AddressUse::of(&all[0])).collect();
        assert_eq!(firsts(&all, now), [0, 1000], "10 ms by 4 is more than 35 ms by 1");
    }

    #[test]
    fn the_time_to_the_first_byte_counts_more_than_the_connect() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2)], now);
        all[0].succeeded(ms(10));
        all[1].succeeded(ms(11));
        all[0].answered(ms(90));
        assert_eq!(firsts(&all, now), [1000, 0], "the other's is not known, so connects compare");
        all[1].answered(ms(30));
        assert_eq!(firsts(&all, now), [0, 1000]);
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
    fn a_slow_address_is_tried_again_after_a_time_without_use() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2)], now);
        all[0].succeeded(ms(900));
        all[1].succeeded(ms(10));
        let _in_use = AddressUse::of(&all[1]);
        assert_eq!(firsts(&all, now), [0, 1000]);
        assert_eq!(firsts(&all, now + ADDRESS_LATENCY_HOLDS - ms(1)), [0, 1000]);
        assert_eq!(firsts(&all, now + ADDRESS_LATENCY_HOLDS), [1000, 0], "the less busy");
    }

    #[test]
    fn a_failed_address_is_last_and_comes_back_by_a_success() {
        let now = Instant::now();
        let (addresses, all) = known(&[ip(1), ip(2), ip(3)], now);
        all[1].failed(now);
        let chance = Chance::seeded(3);
        for _ in 0..50 {
            assert_eq!(order(all.clone(), now, &chance)[2].ip, ip(2));
        }
        assert!(addresses.to_probe(now).is_none(), "it is aside");
        let later = now + ADDRESS_ASIDE_MIN;
        assert_eq!(addresses.to_probe(later).unwrap().ip, ip(2));
        assert_eq!(order(all.clone(), later, &chance)[2].ip, ip(2), "no request is the probe");
        all[1].begin_probe(later);
        assert!(addresses.to_probe(later + ms(1)).is_none(), "one probe at a time");
        all[1].succeeded(ms(1));
        assert!(addresses.to_probe(later).is_none());
        assert!(firsts(&all, later)[1] > 100);
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

    #[test]
    fn where_all_failed_the_one_that_is_aside_for_the_shortest_is_first() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2)], now);
        all[0].failed(now);
        all[0].failed(now);
        all[1].failed(now);
        assert_eq!(order(all, now, &Chance::seeded(1))[0].ip, ip(2));
    }

    #[test]
    fn families_take_turns_whichever_is_first() {
        let now = Instant::now();
        let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let (_, all) = known(&[ip(1), ip(2), v6(1), v6(2)], now);
        let chance = Chance::seeded(5);
        for _ in 0..100 {
            let order = order(all.clone(), now, &chance);
            let families: Vec<bool> = order.iter().map(|address| address.ip.is_ipv4()).collect();
            assert!(
                families == [true, false, true, false] || families == [false, true, false, true]
            );
        }
    }

    #[test]
    fn an_address_that_an_answer_lacks_is_gone_and_one_that_stays_keeps_what_is_known() {
        let now = Instant::now();
        let (mut addresses, all) = known(&[ip(1), ip(2)], now);
        all[1].succeeded(ms(7));
        addresses.update(&answer(&[ip(2), ip(3)]), now);
        assert!(all[0].is_gone() && !all[1].is_gone());
        let ips: Vec<_> = addresses.current().map(|address| address.ip).collect();
        assert_eq!(ips, [ip(2), ip(3)]);
        assert_eq!(addresses.find(ip(2), now).connect.us(), Some(7_000));
    }

    #[test]
    fn addresses_that_are_left_are_gone_and_may_come_back_as_others() {
        let now = Instant::now();
        let (mut addresses, all) = known(&[ip(1)], now);
        all[0].failed(now);
        assert!(addresses.has_failed());
        addresses.leave();
        assert!(all[0].is_gone() && addresses.current().next().is_none());
        addresses.update(&answer(&[ip(1)]), now);
        assert!(!addresses.has_failed() && !addresses.current().next().unwrap().is_gone());
    }

    #[test]
    fn an_address_from_elsewhere_is_neither_gone_nor_dialled_before_an_answer_is_looked_at() {
        let now = Instant::now();
        let mut addresses = Addresses::default();
        let stranger = addresses.find(ip(1), now);
        assert!(!addresses.are_in_use());
        let _in_use = AddressUse::of(&stranger);
        assert!(!stranger.is_gone() && addresses.are_in_use());
        assert_eq!(addresses.current().count(), 0);
        let lacks_it = answer(&[ip(2)]);
        addresses.update(&lacks_it, now);
        assert!(stranger.is_gone());
        // The same answer decides about the next one, too.
        let late = addresses.find(ip(1), now);
        assert!(!late.is_gone());
        addresses.update(&lacks_it, now);
        assert!(late.is_gone());
        assert_eq!(addresses.changes, 0);
    }

    #[test]
    fn the_same_answer_twice_is_no_change() {
        let now = Instant::now();
        let mut addresses = Addresses::default();
        let same = answer(&[ip(1)]);
        (0..9).for_each(|_| addresses.update(&same, now));
        (0..9).for_each(|_| addresses.update(&answer(&[ip(1)]), now));
        assert_eq!(addresses.changes, 0);
    }

    #[test]
    fn where_answers_rotate_a_missing_address_stays_for_a_while_and_is_not_dialled() {
        let mut now = Instant::now();
        let (mut addresses, mut last) = known(&[ip(0)], now);
        for n in 1..=ROTATION_CHANGES as u8 {
            now += Duration::from_secs(5);
            let gone = last.remove(0);
            addresses.update(&answer(&[ip(n)]), now);
            last = addresses.current().cloned().collect();
            assert_eq!(gone.is_gone(), u32::from(n) < ROTATION_CHANGES, "answer {n}");
        }
        let kept = addresses.find(ip(ROTATION_CHANGES as u8 - 1), now);
        assert!(!kept.is_gone());
        assert_eq!(addresses.current().count(), 1);
        let seen = kept.seen.get();
        assert_eq!(seen, now, "it was in the answer up to the next");
        addresses.update(&answer(&[ip(200)]), seen + ROTATION_KEPT_FOR - ms(1));
        assert!(!kept.is_gone());
        addresses.update(&answer(&[ip(201)]), seen + ROTATION_KEPT_FOR);
        assert!(kept.is_gone());
    }

    #[test]
    fn what_is_known_of_rotating_addresses_is_bounded() {
        let now = Instant::now();
        let mut addresses = Addresses::default();
        for n in 0..200 {
            addresses.update(&answer(&[ip(n)]), now + ms(u64::from(n)));
        }
        assert_eq!(addresses.known.len(), ADDRESSES_MAX);
        let oldest = 200 - ADDRESSES_MAX as u8;
        assert!((oldest..200).all(|n| addresses.known.iter().any(|address| address.ip == ip(n))));
    }

    #[test]
    fn chance_stays_below_its_bound_and_reaches_it() {
        let chance = Chance::seeded(1);
        let drawn: Vec<usize> = (0..1000).map(|_| chance.below(3)).collect();
        assert!((0..3).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| *n < 3));
        assert_eq!(chance.below(1), 0);
    }
}
