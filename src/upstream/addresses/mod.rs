//! The addresses of one origin on a shard: how fast each is, how busy, which failed of late, which are gone.
//!
//! All of them are used: of two taken at random the one that is less busy for its speed is dialled first. One that
//! failed is put aside for a while. One that the name no longer leads to is left: its connections serve until there are
//! others, or for `ADDRESS_LEFT_USED_FOR`. Then it is gone, and so are they, as soon as their request is over.

#![forbid(unsafe_code)]

mod address;
mod order;

use crate::limits::{
    ADDRESS_LEFT_KNOWN_FOR, ADDRESS_LEFT_USED_AT_LEAST, ADDRESS_LEFT_USED_FOR, ADDRESSES_MAX,
    ROTATION_CHANGES, ROTATION_KEPT_FOR,
};
pub use address::{Address, AddressUse};
pub use order::{Chance, order};
use std::{
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a shard knows of the addresses that one name led to.
#[derive(Default)]
pub struct Addresses {
    known: Vec<Rc<Address>>,
    /// Those that the name left of late: other shards may still send connections to them.
    left: Vec<Rc<Address>>,
    answer: Option<Arc<[IpAddr]>>,
    /// An address came in that no answer has been asked about.
    is_unsettled: bool,
    /// Which of the last eight answers differed from the one before; the newest is the lowest bit.
    changes: u8,
}

impl Addresses {
    /// Takes in what the name leads to now. The same answer again (the same allocation) changes nothing, unless an address
    /// was [found](Self::find) meanwhile.
    ///
    /// An address that the answer lacks is left. Only where answers keep changing (a large service that names a
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
                None => {
                    let back = self.left.iter().position(|address| address.ip == *ip);
                    let address = match back.map(|at| self.left.swap_remove(at)) {
                        Some(back) => back,
                        None => Rc::new(Address::new(*ip, now)),
                    };
                    address.comes_back(now);
                    self.known.push(address);
                }
            }
        }
        let rotates = self.changes.count_ones() >= ROTATION_CHANGES;
        let stays = |address: &Address| {
            answer.contains(&address.ip)
                || (rotates
                    && now.saturating_duration_since(address.seen.get()) < ROTATION_KEPT_FOR)
        };
        self.left.extend(self.known.extract_if(.., |address| !stays(address)));
        while self.known.len() > ADDRESSES_MAX {
            let oldest =
                self.known.iter().enumerate().min_by_key(|(_, address)| address.seen.get());
            let Some((at, _)) = oldest else { break };
            self.left.push(self.known.swap_remove(at));
        }
        self.left.iter().for_each(|address| address.is_left_at(now));
        // The first to go is the one that was left first.
        let too_many = self.left.len().saturating_sub(ADDRESSES_MAX);
        self.left.drain(..too_many).for_each(|address| address.gone.set(true));
    }

    /// Whether an address came in that the answer has not been asked about.
    pub fn are_unsettled(&self) -> bool {
        self.is_unsettled
    }

    /// Whether an address was left of late: [`Addresses::settle`] is to be called.
    pub fn are_changing(&self) -> bool {
        !self.left.is_empty()
    }

    /// Connections to addresses that the name left: they are to be replaced.
    pub fn connections_left(&self) -> usize {
        self.left.iter().map(|address| address.connections.get() as usize).sum()
    }

    /// Ends the use of addresses that were left: when what leads there is replaced, but not before the other shards have
    /// learned of it, too; in any case after `ADDRESS_LEFT_USED_FOR`.
    pub fn settle(&mut self, is_replaced: bool, now: Instant) {
        self.left.retain(|address| {
            let age = address.left_for(now);
            if age >= ADDRESS_LEFT_USED_FOR || (is_replaced && age >= ADDRESS_LEFT_USED_AT_LEAST) {
                address.gone.set(true);
            }
            age < ADDRESS_LEFT_KNOWN_FOR
        });
    }

    /// The longest round trip to an address in use, by what connecting took. Zero: none is known.
    pub fn round_trip(&self) -> Duration {
        let us = self.current().filter_map(|address| address.connect.us()).max();
        Duration::from_micros(us.unwrap_or(0).into())
    }

    /// Whether a connection is open, or being made, to an address that is known, or was until it was left.
    pub fn are_in_use(&self) -> bool {
        let mut all = self.known.iter().chain(&self.left);
        all.any(|address| address.connections.get() > 0)
    }

    /// Whether the last attempt on each of them failed.
    pub fn has_failed(&self) -> bool {
        self.current().all(|address| address.failures.get() > 0)
    }

    /// The name leads to none of them any more.
    pub fn leave(&mut self) {
        self.known.drain(..).chain(self.left.drain(..)).for_each(|address| address.gone.set(true));
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
        if let Some(known) = self.known.iter().chain(&self.left).find(|known| known.ip == ip) {
            return known.clone();
        }
        let stranger = Rc::new(Address::new(ip, now));
        self.known.push(stranger.clone());
        // Without an answer, the first decides.
        self.is_unsettled = self.answer.is_some();
        stranger
    }

    /// One that failed, whose time aside is over, and that should be tried before a request needs it.
    pub fn to_probe(&self, now: Instant) -> Option<&Rc<Address>> {
        self.current().find(|address| address.failures.get() > 0 && !address.is_aside(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn ip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn answer(ips: &[IpAddr]) -> Arc<[IpAddr]> {
        ips.into()
    }

    pub(super) fn known(ips: &[IpAddr], now: Instant) -> (Addresses, Vec<Rc<Address>>) {
        let mut addresses = Addresses::default();
        addresses.update(&answer(ips), now);
        let list = addresses.current().cloned().collect();
        (addresses, list)
    }

    pub(super) fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn an_address_that_an_answer_lacks_is_left_and_one_that_stays_keeps_what_is_known() {
        let now = Instant::now();
        let (mut addresses, all) = known(&[ip(1), ip(2)], now);
        all[1].succeeded(ms(7), ms(0));
        addresses.update(&answer(&[ip(2), ip(3)]), now);
        assert!(all[0].is_left() && !all[1].is_left());
        let ips: Vec<_> = addresses.current().map(|address| address.ip).collect();
        assert_eq!(ips, [ip(2), ip(3)]);
        assert_eq!(addresses.find(ip(2), now).connect.us(), Some(7_000));
    }

    #[test]
    fn a_left_address_is_used_until_it_is_replaced_within_its_bounds() {
        let now = Instant::now();
        let gone_after = |is_replaced, age| {
            let (mut addresses, all) = known(&[ip(1)], now);
            let _in_use = AddressUse::of(&all[0]);
            addresses.update(&answer(&[ip(2)]), now);
            assert_eq!(addresses.connections_left(), 1);
            addresses.settle(is_replaced, now + age);
            assert!(addresses.find(ip(1), now).is_left(), "it is known for longer");
            all[0].is_gone()
        };
        assert!(!gone_after(true, ADDRESS_LEFT_USED_AT_LEAST - ms(1)));
        assert!(gone_after(true, ADDRESS_LEFT_USED_AT_LEAST));
        assert!(!gone_after(false, ADDRESS_LEFT_USED_FOR - ms(1)));
        assert!(gone_after(false, ADDRESS_LEFT_USED_FOR));
    }

    #[test]
    fn a_left_address_that_an_answer_has_again_is_as_it_was() {
        let now = Instant::now();
        let (mut addresses, all) = known(&[ip(1)], now);
        addresses.update(&answer(&[ip(2)]), now);
        addresses.settle(false, now + ADDRESS_LEFT_USED_FOR);
        addresses.update(&answer(&[ip(1), ip(2)]), now + ADDRESS_LEFT_USED_FOR);
        assert!(!all[0].is_gone() && !all[0].is_left() && !addresses.are_changing());
    }

    #[test]
    fn a_left_address_is_forgotten_after_a_while() {
        let now = Instant::now();
        let (mut addresses, _) = known(&[ip(1)], now);
        addresses.update(&answer(&[ip(2)]), now);
        addresses.settle(false, now + ADDRESS_LEFT_KNOWN_FOR - ms(1));
        assert!(addresses.are_changing());
        addresses.settle(false, now + ADDRESS_LEFT_KNOWN_FOR);
        assert!(!addresses.are_changing() && addresses.connections_left() == 0);
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
        assert!(!addresses.are_in_use() && !addresses.are_unsettled());
        let _in_use = AddressUse::of(&stranger);
        assert!(!stranger.is_gone() && addresses.are_in_use());
        assert_eq!(addresses.current().count(), 0);
        let lacks_it = answer(&[ip(2)]);
        addresses.update(&lacks_it, now);
        assert!(stranger.is_left() && addresses.are_in_use());
        // The same answer decides about the next one, too.
        let late = addresses.find(ip(3), now);
        assert!(!late.is_left() && addresses.are_unsettled());
        addresses.update(&lacks_it, now);
        assert!(late.is_left());
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
            assert_eq!(gone.is_left(), u32::from(n) < ROTATION_CHANGES, "answer {n}");
        }
        let kept = addresses.find(ip(ROTATION_CHANGES as u8 - 1), now);
        assert!(!kept.is_left());
        assert_eq!(addresses.current().count(), 1);
        let seen = kept.seen.get();
        assert_eq!(seen, now, "it was in the answer up to the next");
        addresses.update(&answer(&[ip(200)]), seen + ROTATION_KEPT_FOR - ms(1));
        assert!(!kept.is_left());
        addresses.update(&answer(&[ip(201)]), seen + ROTATION_KEPT_FOR);
        assert!(kept.is_left());
    }

    #[test]
    fn what_is_known_of_rotating_addresses_is_bounded() {
        let now = Instant::now();
        let mut addresses = Addresses::default();
        for n in 0..200 {
            addresses.update(&answer(&[ip(n)]), now + ms(u64::from(n)));
        }
        assert_eq!(addresses.known.len(), ADDRESSES_MAX);
        assert_eq!(addresses.left.len(), ADDRESSES_MAX);
        let oldest = 200 - ADDRESSES_MAX as u8;
        assert!((oldest..200).all(|n| addresses.known.iter().any(|address| address.ip == ip(n))));
    }
}
