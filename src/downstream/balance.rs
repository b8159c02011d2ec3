//! How many clients each shard has, and which one is to serve the next.
//!
//! The kernel chooses a shard's socket by a hash, which spreads thousands of connections well and few badly: of eight on
//! eight shards the busiest gets 2.6 times the mean, and a third of the shards none. So a shard that has its share hands
//! a fresh connection on to the one with fewest. One word a shard, on cache lines of its own: written when a connection
//! begins or ends, read by others when they accept one. A request touches nothing here.
//!
//! `super::atomic` is the standard library's; a test puts a model checker's in its place.

#![forbid(unsafe_code)]

use super::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::Arc;

pub struct Balance {
    lines: Box<[Line]>,
    clients_max: u32,
}

/// Two cache lines, as they are fetched in pairs.
#[repr(align(128))]
struct Line {
    /// Its clients, and `CLOSED`: one word, so that nobody gives a client to a shard that has just found that it has
    /// none left and may end.
    word: AtomicU32,
}

/// How often a shard looks for a place while others take it away. Then the client stays.
const ATTEMPTS_MAX: u32 = 8;

/// The shard takes no clients from others any more.
const CLOSED: u32 = 1 << 31;

impl Balance {
    /// For so many shards, each of which takes at most `clients_max` clients with those that others hand on to it.
    pub fn new(shards: usize, clients_max: usize) -> Arc<Self> {
        let lines = (0..shards).map(|_| Line { word: AtomicU32::new(0) }).collect();
        Arc::new(Self { lines, clients_max: u32::try_from(clients_max).unwrap_or(CLOSED - 1) })
    }

    /// Counts a client that `shard` serves, however many it has.
    pub fn keep(self: &Arc<Self>, shard: usize) -> Counted {
        self.lines[shard].word.fetch_add(1, Relaxed);
        Counted { balance: self.clone(), shard }
    }

    /// Counts a client that `shard` accepted for the shard where it belongs: `shard` itself, or the one with fewest if
    /// `shard` has its share already. The share is that of an even spread, rounded up; among shards that take clients at
    /// the same moment none gets more.
    pub fn place(self: &Arc<Self>, shard: usize) -> Counted {
        for _ in 0..ATTEMPTS_MAX {
            let own = self.clients(shard);
            let target = self.fewest(shard, own).unwrap_or(shard);
            // What others place meanwhile counts: then all is looked at anew.
            let fits = |word| match target == shard {
                true => word == own,
                false => word < own.min(self.clients_max),
            };
            let one_more = |word| fits(word).then_some(word + 1);
            if self.lines[target].word.fetch_update(AcqRel, Relaxed, one_more).is_ok() {
                return Counted { balance: self.clone(), shard: target };
            }
        }
        self.keep(shard)
    }

    /// The other shard with fewest clients, if `shard` with its `own` ones has its share.
    fn fewest(&self, shard: usize, own: u32) -> Option<usize> {
        if own == 0 {
            return None;
        }
        let (mut total, mut open) = (1 + own, 1);
        let mut least = None;
        // Each begins behind itself, so that not all find the same one among equals.
        for other in (1..self.lines.len()).map(|n| (shard + n) % self.lines.len()) {
            let word = self.lines[other].word.load(Relaxed);
            if word & CLOSED != 0 {
                continue;
            }
            (total, open) = (total + word, open + 1);
            if word < self.clients_max && least.is_none_or(|(_, fewest)| word < fewest) {
                least = Some((other, word));
            }
        }
        let (other, clients) = least?;
        (own >= total.div_ceil(open) && clients < own).then_some(other)
    }

    /// Keeps others from choosing `shard` from now on.
    pub fn close(&self, shard: usize) {
        self.lines[shard].word.fetch_or(CLOSED, AcqRel);
    }

    /// The clients that `shard` serves or is about to. After [`Balance::close`] others add none.
    pub fn clients(&self, shard: usize) -> u32 {
        self.lines[shard].word.load(Acquire) & !CLOSED
    }
}

/// A client that counts for a shard, until this is dropped.
pub struct Counted {
    balance: Arc<Balance>,
    shard: usize,
}

impl Counted {
    pub fn shard(&self) -> usize {
        self.shard
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.balance.lines[self.shard].word.fetch_sub(1, AcqRel);
    }
}
