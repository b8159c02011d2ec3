//! What the shards tell each other of their connections: one table of counters, the only memory that they all write.
//!
//! An origin has a slot, a slot a cell for each shard. A connection is counted when it is made, moved to another shard
//! or closed; a request that finds one idle and gives it back touches nothing here. So the counts say how many a shard
//! has, not how many are idle at this moment; what is idle is told by the sweeper, as a hint.
//!
//! All of it serves as hints: a wrong count costs a question in vain or a connection too many, never correctness. This
//! is why a slot knows its origin by a hash, and why an origin that finds no slot does without.
//!
//! `super::atomic` is the standard library's; a test puts a model checker's in its place.

#![forbid(unsafe_code)]

use super::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub struct Table {
    slots: Box<[Slot]>,
    /// A row for each slot, a cell in it for each shard.
    cells: Box<[Cell]>,
    shards: usize,
    /// What times in it count from.
    epoch: Instant,
}

#[derive(Default)]
struct Slot {
    /// The origin's tag, and in the low `USERS_BITS` how many use the slot. Nobody: the slot is free, its cells are 0.
    word: AtomicU64,
    /// What a new connection costs, in microseconds; 0: not known.
    dial_us: AtomicU32,
    /// What the origin was last heard to speak; 0: not known.
    speaks: AtomicU32,
    /// What is known of the origin's idle limits; all 0: nothing.
    limits: [AtomicU64; 4],
}

#[derive(Default)]
struct Cell {
    open: AtomicU32,
    idle: AtomicU32,
    aging: AtomicU32,
    needed: AtomicU32,
    uses: AtomicU32,
    /// HTTP/2 connections that take requests. They are no part of `open`, as none of them is ever lent.
    multiplexed: AtomicU32,
    fresh: AtomicU32,
    careful: AtomicU32,
}

/// What a shard has of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub shard: usize,
    /// Connections, idle or in use.
    pub open: u32,
    /// What the shard's sweeper told last.
    pub told: Told,
}

/// What a shard's sweeper tells the others of an origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Connections that are idle.
    pub idle: u32,
    /// Those of them that have to be retired soon.
    pub aging: u32,
    /// What is to be kept ready for the shard's requests.
    pub needed: u32,
    /// Requests from which that follows, up to as many as count.
    pub uses: u32,
    /// Idle connections that never carried a request, but those to be retired soon.
    pub fresh: u32,
    /// 1: requests that must not be sent twice came of late.
    pub careful: u32,
}

/// More than all descriptors of a process and all origins of all shards.
const USERS_BITS: u32 = 28;
const USERS: u64 = (1 << USERS_BITS) - 1;

/// How many slots are looked at for an origin. In a table half full, one in a million finds none.
const PROBES_MAX: usize = 16;

impl Table {
    pub fn new(slots: usize, shards: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            cells: (0..slots * shards).map(|_| Cell::default()).collect(),
            shards,
            epoch: Instant::now(),
        })
    }

    /// Takes a place at the slot of the origin with this hash. None: all slots where it could be are in use.
    pub fn enter(self: &Arc<Self>, hash: u64) -> Option<Place> {
        count_access();
        let tag = (hash | 1 << 63) & !USERS;
        let probes = (0..PROBES_MAX.min(self.slots.len()))
            .map(|i| (hash as usize).wrapping_add(i) % self.slots.len());
        // The origin's own slot first, however far; only if it has none, the first that is free.
        let own = probes.clone().find(|slot| self.join(*slot, tag));
        // Another shard may take a free one for the same origin in this very moment.
        let slot = own.or_else(|| {
            probes.clone().find(|slot| self.claim(*slot, tag) || self.join(*slot, tag))
        })?;
        Some(Place { table: self.clone(), slot })
    }

    /// One user more, if the slot is this origin's.
    fn join(&self, slot: usize, tag: u64) -> bool {
        let is_ours = |word: u64| word & !USERS == tag && word & USERS > 0;
        let one_more = |word| is_ours(word).then_some(word + 1);
        self.slots[slot].word.fetch_update(AcqRel, Acquire, one_more).is_ok()
    }

    /// Makes a free slot this origin's.
    fn claim(&self, slot: usize, tag: u64) -> bool {
        let first = |word: u64| (word & USERS == 0).then_some(tag + 1);
        let claimed = self.slots[slot].word.fetch_update(AcqRel, Acquire, first).is_ok();
        if claimed {
            self.slots[slot].dial_us.store(0, Relaxed);
            self.slots[slot].speaks.store(0, Relaxed);
            self.slots[slot].limits.iter().for_each(|word| word.store(0, Relaxed));
        }
        claimed
    }

    fn cell(&self, slot: usize, shard: usize) -> &Cell {
        &self.cells[slot * self.shards + shard]
    }
}

/// A use of an origin's slot, given up on drop.
pub struct Place {
    table: Arc<Table>,
    slot: usize,
}

impl Clone for Place {
    fn clone(&self) -> Self {
        count_access();
        self.table.slots[self.slot].word.fetch_add(1, AcqRel);
        Self { table: self.table.clone(), slot: self.slot }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        count_access();
        self.table.slots[self.slot].word.fetch_sub(1, AcqRel);
    }
}

impl Place {
    /// Counts a connection of `shard`.
    pub fn hold(&self, shard: usize) -> Held {
        self.table.cell(self.slot, shard).open.fetch_add(1, AcqRel);
        Held { place: self.clone(), shard }
    }

    /// Tells what the sweeper of `shard` found.
    pub fn tell(&self, shard: usize, told: Told) {
        count_access();
        let cell = self.table.cell(self.slot, shard);
        cell.idle.store(told.idle, Release);
        cell.aging.store(told.aging, Release);
        cell.needed.store(told.needed, Release);
        cell.uses.store(told.uses, Release);
        cell.fresh.store(told.fresh, Release);
        cell.careful.store(told.careful, Release);
    }

    /// What each shard has.
    pub fn counts(&self) -> impl Iterator<Item = Counts> {
        count_access();
        (0..self.table.shards).map(|shard| {
            let cell = self.table.cell(self.slot, shard);
            let told = Told {
                idle: cell.idle.load(Acquire),
                aging: cell.aging.load(Acquire),
                needed: cell.needed.load(Acquire),
                uses: cell.uses.load(Acquire),
                fresh: cell.fresh.load(Acquire),
                careful: cell.careful.load(Acquire),
            };
            Counts { shard, open: cell.open.load(Acquire), told }
        })
    }

    /// Counts an HTTP/2 connection of `shard` for as long as it takes requests.
    pub fn multiplex(&self, shard: usize) -> Multiplexes {
        self.table.cell(self.slot, shard).multiplexed.fetch_add(1, AcqRel);
        Multiplexes { place: self.clone(), shard }
    }

    /// Whether `shard` has an HTTP/2 connection that takes requests.
    pub fn is_multiplexed(&self, shard: usize) -> bool {
        count_access();
        self.table.cell(self.slot, shard).multiplexed.load(Acquire) > 0
    }

    /// What a new connection took lately. Zero: not known.
    pub fn dial_cost(&self) -> Duration {
        count_access();
        Duration::from_micros(self.table.slots[self.slot].dial_us.load(Acquire).into())
    }

    /// What was told last of the protocol that the origin speaks, in the numbers of those who tell it; 0: nothing.
    pub fn speaks(&self) -> u32 {
        count_access();
        self.table.slots[self.slot].speaks.load(Acquire)
    }

    pub fn tell_speaks(&self, number: u32) {
        count_access();
        self.table.slots[self.slot].speaks.store(number, Release);
    }

    /// What was told last of the origin's idle limits, in the form of those who tell it.
    pub fn limits(&self) -> [u64; 4] {
        count_access();
        self.table.slots[self.slot].limits.each_ref().map(|word| word.load(Acquire))
    }

    /// Of two shards that learn at once, one may have to learn again.
    pub fn tell_limits(&self, words: [u64; 4]) {
        count_access();
        let limits = self.table.slots[self.slot].limits.iter();
        limits.zip(words).for_each(|(word, told)| word.store(told, Release));
    }

    /// What times in the table count from.
    pub fn epoch(&self) -> Instant {
        self.table.epoch
    }

    /// Takes down what a new connection took.
    pub fn tell_dial_cost(&self, took: Duration) {
        count_access();
        let cell = &self.table.slots[self.slot].dial_us;
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let before = cell.load(Acquire);
        // A mean that forgets: seven parts old, one part new. Two shards at once lose one of two values.
        let mean = if before == 0 { took } else { before - before / 8 + took / 8 };
        cell.store(mean, Release);
    }
}

/// A connection that counts for a shard; it may go to another one with the connection.
pub struct Held {
    place: Place,
    shard: usize,
}

impl Held {
    /// Counts the connection for `shard` too, until the old count is dropped. A shard that adds all up meanwhile may find
    /// one too many, or one too few if it looks at both cells in the wrong moment.
    pub fn moved_to(&self, shard: usize) -> Self {
        self.place.hold(shard)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Before the place is given up: the cells of a slot that nobody uses are 0.
        self.place.table.cell(self.place.slot, self.shard).open.fetch_sub(1, AcqRel);
    }
}

/// An HTTP/2 connection that counts for a shard.
pub struct Multiplexes {
    place: Place,
    shard: usize,
}

impl Drop for Multiplexes {
    fn drop(&mut self) {
        // Before the place is given up: the cells of a slot that nobody uses are 0.
        self.place.table.cell(self.place.slot, self.shard).multiplexed.fetch_sub(1, AcqRel);
    }
}

/// How often this thread used the table, in builds for tests: a request that is served by an idle connection must not.
/// In others 0.
pub fn accesses() -> u64 {
    #[cfg(debug_assertions)]
    return ACCESSES.get();
    #[cfg(not(debug_assertions))]
    0
}

#[cfg(debug_assertions)]
thread_local!(static ACCESSES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });

fn count_access() {
    #[cfg(debug_assertions)]
    ACCESSES.set(ACCESSES.get() + 1);
}
