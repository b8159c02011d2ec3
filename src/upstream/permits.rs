//! `--max-conns-per-host`: how many connections the whole process has to one origin, and who stands in line for one.
//!
//! A lock, because the order between shards counts and nobody comes here on the way of a request that finds an idle
//! connection: it is taken when a connection is made or closed, and where requests stand in line. Without the flag none
//! of this exists.
//!
//! What a shard gives up goes to the first in line and to nobody else: its permit travels in a message, so that a wake-up
//! and the right to dial are one thing. The sweeper of each shard looks after the line as well, for what a full mailbox
//! could not take.

#![forbid(unsafe_code)]

use super::origins::Key;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// A request's place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub shard: usize,
    pub number: u64,
    /// It needs a connection of its own, after another one turned out to be dead.
    pub fresh: bool,
}

/// What a connection that came free is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Nobody stands in line.
    Nobody,
    /// This one takes it; it stands in line no more.
    Takes(Ticket),
    /// The first needs one of its own: the permit is what it waits for.
    NeedsFresh,
}

/// Counts the connections of each origin.
pub struct Permits {
    max: usize,
    hosts: Mutex<HashMap<Key, Host>>,
    /// How many stand in any line: a look at it costs no lock.
    standing: AtomicUsize,
}

#[derive(Default)]
struct Host {
    taken: usize,
    line: VecDeque<Ticket>,
}

impl Host {
    fn try_take(&mut self, max: usize) -> bool {
        let is_free = self.taken < max && self.line.is_empty();
        self.taken += usize::from(is_free);
        is_free
    }
}

impl Permits {
    /// `max` is above 0.
    pub fn new(max: usize) -> Self {
        Self { max, hosts: Mutex::default(), standing: AtomicUsize::new(0) }
    }

    /// Takes a permit if one is left and nobody stands in line for it.
    pub fn try_take(&self, host: &Key) -> bool {
        self.hosts().entry(host.clone()).or_default().try_take(self.max)
    }

    /// As [`Permits::try_take`]; else `ticket` stands in line.
    pub fn take_or_stand(&self, host: &Key, ticket: Ticket) -> bool {
        // One lock for both: between them the last permit could come back and find nobody.
        let mut hosts = self.hosts();
        let of_host = hosts.entry(host.clone()).or_default();
        let is_taken = of_host.try_take(self.max);
        if !is_taken {
            of_host.line.push_back(ticket);
            self.standing.fetch_add(1, Relaxed);
        }
        is_taken
    }

    /// Takes `ticket` out of its line, if it still stands there.
    pub fn leave(&self, host: &Key, ticket: Ticket) {
        let mut hosts = self.hosts();
        let Some(of_host) = hosts.get_mut(host) else { return };
        let before = of_host.line.len();
        of_host.line.retain(|other| *other != ticket);
        self.standing.fetch_sub(before - of_host.line.len(), Relaxed);
    }

    /// Gives a permit back: it is the returned one's, who stood first, or free.
    pub fn release(&self, host: &Key) -> Option<Ticket> {
        let mut hosts = self.hosts();
        let of_host = hosts.get_mut(host)?;
        if let Some(first) = of_host.line.pop_front() {
            self.standing.fetch_sub(1, Relaxed);
            return Some(first);
        }
        of_host.taken = of_host.taken.saturating_sub(1);
        if of_host.taken == 0 {
            hosts.remove(host);
        }
        None
    }

    /// Puts one back to the front that could not be told, and frees the permit that was meant for it.
    pub fn put_back(&self, host: &Key, ticket: Ticket) {
        let mut hosts = self.hosts();
        let of_host = hosts.entry(host.clone()).or_default();
        of_host.line.push_front(ticket);
        of_host.taken = of_host.taken.saturating_sub(1);
        self.standing.fetch_add(1, Relaxed);
    }

    /// Puts one back to the front for whom a connection was meant that did not arrive. To be called before its permit is
    /// given back, which then is for this one.
    pub fn stand_first(&self, host: &Key, ticket: Ticket) {
        self.hosts().entry(host.clone()).or_default().line.push_front(ticket);
        self.standing.fetch_add(1, Relaxed);
    }

    /// Whether anybody stands in any line.
    pub fn has_line(&self) -> bool {
        self.standing.load(Relaxed) > 0
    }

    /// Takes the first out of the line of `host`, for a connection that is at hand and has its permit already.
    pub fn first(&self, host: &Key) -> First {
        let mut hosts = self.hosts();
        let Some(of_host) = hosts.get_mut(host) else { return First::Nobody };
        match of_host.line.front() {
            None => First::Nobody,
            Some(first) if first.fresh => First::NeedsFresh,
            Some(&first) => {
                of_host.line.pop_front();
                self.standing.fetch_sub(1, Relaxed);
                First::Takes(first)
            }
        }
    }

    /// Takes permits that are free for those of `shard` who stand first.
    pub fn due(&self, shard: usize) -> Vec<(Key, Ticket)> {
        let mut due = Vec::new();
        for (host, of_host) in self.hosts().iter_mut() {
            while of_host.taken < self.max
                && let Some(first) = of_host.line.pop_front_if(|first| first.shard == shard)
            {
                of_host.taken += 1;
                self.standing.fetch_sub(1, Relaxed);
                due.push((host.clone(), first));
            }
        }
        due
    }

    /// The counts are whole between any two statements, so a panic elsewhere leaves nothing half-made.
    fn hosts(&self) -> MutexGuard<'_, HashMap<Key, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Scheme;

    fn host(name: &str) -> Key {
        Key { scheme: Scheme::Http, name: name.into(), port: 80, at: None, via: None }
    }

    fn ticket(shard: usize, number: u64) -> Ticket {
        Ticket { shard, number, fresh: false }
    }

    #[test]
    fn the_bound_holds_for_each_host() {
        let permits = Permits::new(2);
        assert!(permits.try_take(&host("a")) && permits.try_take(&host("a")));
        assert!(!permits.try_take(&host("a")));
        assert!(permits.try_take(&host("b")));
        assert_eq!(permits.release(&host("a")), None);
        assert!(permits.try_take(&host("a")));
    }

    #[test]
    fn what_is_given_back_is_the_firsts_in_line_and_nobody_overtakes() {
        let permits = Permits::new(1);
        assert!(permits.take_or_stand(&host("a"), ticket(0, 1)));
        for number in 2..5 {
            assert!(!permits.take_or_stand(&host("a"), ticket(number as usize, number)));
        }
        assert!(permits.has_line());
        permits.leave(&host("a"), ticket(3, 3));
        assert_eq!(permits.release(&host("a")), Some(ticket(2, 2)));
        assert!(!permits.try_take(&host("a")), "somebody stands in line");
        assert_eq!(permits.release(&host("a")), Some(ticket(4, 4)));
        assert!(!permits.has_line());
        assert_eq!(permits.release(&host("a")), None);
        assert!(permits.hosts().is_empty(), "a host without connections is forgotten");
    }

    #[test]
    fn who_could_not_be_told_is_first_again_and_its_shard_finds_it() {
        let permits = Permits::new(1);
        assert!(permits.try_take(&host("a")));
        permits.take_or_stand(&host("a"), ticket(1, 1));
        permits.take_or_stand(&host("a"), ticket(2, 2));
        let first = permits.release(&host("a")).unwrap();
        permits.put_back(&host("a"), first);
        assert_eq!(permits.due(2), []);
        assert_eq!(permits.due(1), [(host("a"), ticket(1, 1))]);
        assert_eq!(permits.due(2), [], "the one permit is taken");
    }

    #[test]
    fn a_connection_at_hand_goes_to_the_first() {
        let permits = Permits::new(1);
        assert!(permits.try_take(&host("a")));
        assert_eq!(permits.first(&host("a")), First::Nobody);
        permits.take_or_stand(&host("a"), ticket(1, 1));
        let fresh = Ticket { fresh: true, ..ticket(2, 2) };
        permits.take_or_stand(&host("a"), fresh);
        assert_eq!(permits.first(&host("a")), First::Takes(ticket(1, 1)));
        assert_eq!(permits.first(&host("a")), First::NeedsFresh);
        permits.stand_first(&host("a"), ticket(1, 1));
        assert_eq!(
            permits.release(&host("a")),
            Some(ticket(1, 1)),
            "its connection did not arrive"
        );
        assert_eq!(permits.release(&host("a")), Some(fresh));
        assert!(!permits.try_take(&host("a")), "its permit goes with it");
    }
}
