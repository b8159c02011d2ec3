//! Who grants a request's wish for a connection, when many may.
//!
//! Each shard that is asked looks for a connection first and claims the wish then; only the one that claimed it sends
//! one. A request that is served by other means claims its own wish, so that nobody sends a connection in vain.

#![forbid(unsafe_code)]

use super::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Acquire, Release},
};

pub struct Claim {
    claimed: AtomicBool,
    /// Shards that were asked and have not said no.
    hopes: AtomicUsize,
}

impl Claim {
    /// `hopes` shards are going to be asked.
    pub fn new(hopes: usize) -> Self {
        Self { claimed: AtomicBool::new(false), hopes: AtomicUsize::new(hopes) }
    }

    /// Returns whether nobody had claimed it.
    pub fn take(&self) -> bool {
        !self.claimed.swap(true, AcqRel)
    }

    pub fn is_taken(&self) -> bool {
        self.claimed.load(Acquire)
    }

    /// Undoes [`Claim::take`] where the connection could not be sent after all.
    pub fn give_back(&self) {
        self.claimed.store(false, Release);
    }

    /// One of those asked has nothing to send now. Returns whether all have said so.
    pub fn decline(&self) -> bool {
        self.hopes.fetch_sub(1, AcqRel) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_claims_and_may_give_back() {
        let claim = Claim::new(2);
        assert!(claim.take());
        assert!(!claim.take());
        claim.give_back();
        assert!(!claim.is_taken());
        assert!(claim.take());
    }

    #[test]
    fn the_last_no_is_told_apart() {
        let claim = Claim::new(2);
        assert!(!claim.decline());
        assert!(claim.decline());
    }
}
