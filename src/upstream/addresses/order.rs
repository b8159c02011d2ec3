//! The order in which the addresses of an origin are dialled.

#![forbid(unsafe_code)]

use super::Address;
use std::{
    cell::Cell, collections::hash_map::RandomState, hash::BuildHasher, rc::Rc, time::Instant,
};

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
    use super::super::tests::{ip, known, ms};
    use super::*;
    use crate::{
        limits::{ADDRESS_ASIDE_MIN, ADDRESS_LATENCY_HOLDS},
        upstream::addresses::AddressUse,
    };
    use std::net::IpAddr;

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
        all[0].succeeded(ms(10), ms(0));
        all[1].succeeded(ms(35), ms(0));
        assert_eq!(firsts(&all, now), [1000, 0]);
        let _busy: Vec<_> = (0..3).map(|_| AddressUse::of(&all[0])).collect();
        assert_eq!(firsts(&all, now), [0, 1000], "10 ms by 4 is more than 35 ms by 1");
    }

    #[test]
    fn the_time_to_the_first_byte_counts_more_than_the_connect() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2)], now);
        all[0].succeeded(ms(10), ms(0));
        all[1].succeeded(ms(11), ms(0));
        all[0].answered(ms(90));
        assert_eq!(firsts(&all, now), [1000, 0], "the other's is not known, so connects compare");
        all[1].answered(ms(30));
        assert_eq!(firsts(&all, now), [0, 1000]);
    }

    #[test]
    fn a_slow_address_is_tried_again_after_a_time_without_use() {
        let now = Instant::now();
        let (_, all) = known(&[ip(1), ip(2)], now);
        all[0].succeeded(ms(900), ms(0));
        all[1].succeeded(ms(10), ms(0));
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
        all[1].succeeded(ms(1), ms(0));
        assert!(addresses.to_probe(later).is_none());
        assert!(firsts(&all, later)[1] > 100);
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
    fn chance_stays_below_its_bound_and_reaches_it() {
        let chance = Chance::seeded(1);
        let drawn: Vec<usize> = (0..1000).map(|_| chance.below(3)).collect();
        assert!((0..3).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| *n < 3));
        assert_eq!(chance.below(1), 0);
    }
}
