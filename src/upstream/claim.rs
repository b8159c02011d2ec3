//! Who grants a request's wish for a connection, when many may.
//!
//! Each shard that is asked looks for a connection first and claims the wish then; only the one that claimed it sends
//! one. A request that is served by other means ends its wish, so that nobody sends a connection in vain.

#![forbid(unsafe_code)]

use super::atomic::{
    AtomicU8, AtomicUsize,
    Ordering::{AcqRel, Acquire},
};

pub struct Claim {
    state: AtomicU8,
    /// Shards that were asked and have not said no.
    hopes: AtomicUsize,
}

/// Nobody grants it yet.
const OPEN: u8 = 0;
/// Somebody sends a connection.
const TAKEN: u8 = 1;
/// The request is served, or given up.
const OVER: u8 = 2;

impl Claim {
    /// `hopes` shards are going to be asked.
    pub fn new(hopes: usize) -> Self {
        Self { state: AtomicU8::new(OPEN), hopes: AtomicUsize::new(hopes) }
    }

    /// Takes it on to send a connection. Returns whether it was open.
    pub fn take(&self) -> bool {
        self.state.compare_exchange(OPEN, TAKEN, AcqRel, Acquire).is_ok()
    }

    /// Undoes [`Claim::take`] where the connection could not be sent after all.
    pub fn give_back(&self) {
        // A request that is over stays over.
        self.state.compare_exchange(TAKEN, OPEN, AcqRel, Acquire).ok();
    }

    /// The request needs no connection any more. One that is on its way is kept idle.
    pub fn end(&self) {
        self.state.swap(OVER, AcqRel);
    }

    pub fn is_open(&self) -> bool {
        self.state.load(Acquire) == OPEN
    }

    /// So many more are going to be asked, after all before have said no.
    pub fn hope_for(&self, more: usize) {
        self.hopes.fetch_add(more, AcqRel);
    }

    /// One of those asked has nothing to send now. Returns whether all have said so.
    pub fn decline(&self) -> bool {
        self.hopes.fetch_sub(1, AcqRel) == 1
    }
}
