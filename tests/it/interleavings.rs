//! What shards share, under every order in which their steps can fall (loom).
//!
//! The code is the proxy's own; only the atomics are the checker's. The mailbox is checked by its protocol: the kernel's
//! counter cannot be put under the checker.

use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::collections::VecDeque;
use std::sync::Arc;

use balance::Balance;
use claim::Claim;
use table::{Place, Table};

mod atomic {
    pub use loom::sync::atomic::*;
}

#[allow(dead_code, reason = "each case needs a part of it")]
#[path = "../../src/downstream/balance.rs"]
mod balance;

#[allow(dead_code, reason = "each case needs a part of it")]
#[path = "../../src/upstream/claim.rs"]
mod claim;

#[allow(dead_code, reason = "each case needs a part of it")]
#[path = "../../src/upstream/table.rs"]
mod table;

const ORIGIN: u64 = 1 << 40;
const OTHER: u64 = 2 << 40;

fn open(place: &Place) -> u32 {
    place.counts().map(|counts| counts.open).sum()
}

/// Does `what` with the shared thing on a thread of its own.
fn beside<T: Clone + 'static, R: 'static>(
    shared: &T,
    what: impl FnOnce(T) -> R + 'static,
) -> thread::JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || what(shared))
}

#[test]
fn shards_that_meet_an_origin_at_once_share_its_slot() {
    loom::model(|| {
        let table = Table::new(2, 2);
        let at_once = beside(&table, move |table| table.enter(ORIGIN).expect("a slot"));
        let here = table.enter(ORIGIN).expect("a slot");
        let there = at_once.join().expect("no panic");
        let held = here.hold(0);
        assert_eq!(open(&there), 1);
        drop(held);
    });
}

#[test]
fn slot_that_changes_hands_brings_no_counts_along() {
    loom::model(|| {
        let table = Table::new(1, 2);
        let place = table.enter(ORIGIN).expect("the slot");
        let held = place.hold(0);
        let leaving = thread::spawn(move || {
            drop(place);
            drop(held);
        });
        if let Some(other) = table.enter(OTHER) {
            assert_eq!(open(&other), 0);
        }
        leaving.join().expect("no panic");
        let other = table.enter(OTHER).expect("the slot is left");
        assert_eq!(open(&other), 0);
    });
}

#[test]
fn slot_is_never_two_origins() {
    loom::model(|| {
        let table = Table::new(1, 2);
        let at_once =
            beside(&table, move |table| table.enter(OTHER).map(|place| place.hold(1)).is_some());
        let here = table.enter(ORIGIN);
        if let Some(here) = &here {
            assert_eq!(open(here), 0, "what the other origin has");
        }
        let there = at_once.join().expect("no panic");
        assert!(here.is_some() || there, "one of them gets it");
    });
}

#[test]
fn connection_that_moves_counts_once_in_the_end() {
    loom::model(|| {
        let table = Table::new(1, 2);
        let place = table.enter(ORIGIN).expect("the slot");
        let held = place.hold(0);
        let moving = thread::spawn(move || held.moved_to(1));
        assert!(open(&place) <= 2);
        let moved = moving.join().expect("no panic");
        assert_eq!(open(&place), 1);
        drop(moved);
        assert_eq!(open(&place), 0);
    });
}

#[test]
fn one_lender_of_two_grants_a_wish() {
    loom::model(|| {
        let claim = Arc::new(Claim::new(2));
        let other = beside(&claim, move |claim| claim.take());
        let here = claim.take();
        assert!(here != other.join().expect("no panic"), "both or neither granted it");
    });
}

#[test]
fn wish_that_is_given_back_can_be_granted() {
    loom::model(|| {
        let claim = Arc::new(Claim::new(2));
        let failing = beside(&claim, move |claim| {
            if claim.take() {
                claim.give_back();
            }
        });
        let granted = claim.take();
        failing.join().expect("no panic");
        assert_eq!(claim.is_open(), !granted, "taken by nobody, or granted and open");
    });
}

#[test]
fn wish_of_a_request_that_is_over_stays_over() {
    loom::model(|| {
        let claim = Arc::new(Claim::new(2));
        let failing = beside(&claim, move |claim| {
            if claim.take() {
                claim.give_back();
            }
        });
        claim.end();
        failing.join().expect("no panic");
        assert!(!claim.is_open() && !claim.take());
    });
}

#[test]
fn last_of_those_who_decline_says_so_once() {
    loom::model(|| {
        let claim = Arc::new(Claim::new(2));
        let other = beside(&claim, move |claim| claim.decline());
        let here = claim.decline();
        assert!(here != other.join().expect("no panic"));
    });
}

#[test]
fn shards_that_accept_at_once_give_none_more_than_its_share() {
    loom::model(|| {
        let balance = Balance::new(3, 10);
        let at_once = beside(&balance, move |balance| [balance.place(0), balance.place(0)]);
        let here = balance.place(1);
        let there = at_once.join().expect("no panic");
        assert_eq!([0, 1, 2].map(|shard| balance.clients(shard)), [1, 1, 1]);
        drop((here, there));
        assert_eq!([0, 1, 2].map(|shard| balance.clients(shard)), [0, 0, 0]);
    });
}

#[test]
fn shard_that_found_itself_without_clients_at_its_end_gets_none() {
    loom::model(|| {
        let balance = Balance::new(2, 10);
        let own = balance.keep(0);
        let handing_on = beside(&balance, move |balance| balance.place(0));
        balance.close(1);
        let ends = balance.clients(1) == 0;
        let placed = handing_on.join().expect("no panic");
        assert!(!ends || placed.shard() == 0, "it may be gone already");
        drop((own, placed));
    });
}

/// A queue and a counter that wakes, as in `shard::mailbox`: leave, then add; take all, then wait for the counter.
#[derive(Default)]
struct Mailbox {
    queue: Mutex<VecDeque<u32>>,
    counter: Mutex<u64>,
    woken: Condvar,
}

impl Mailbox {
    fn send(&self, message: u32) {
        self.queue.lock().unwrap().push_back(message);
        *self.counter.lock().unwrap() += 1;
        self.woken.notify_one();
    }

    fn read_counter(&self) {
        let mut counter = self.counter.lock().unwrap();
        while *counter == 0 {
            counter = self.woken.wait(counter).unwrap();
        }
        *counter = 0;
    }
}

#[test]
fn message_is_never_left_lying_while_the_shard_sleeps() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let senders = [1, 2].map(|message| {
            let mailbox = mailbox.clone();
            thread::spawn(move || mailbox.send(message))
        });
        let mut seen = 0;
        while seen < 2 {
            // Never two locks at once, as the real queue has none.
            while mailbox.queue.lock().unwrap().pop_front().is_some() {
                seen += 1;
            }
            if seen < 2 {
                // A wake-up that was lost would be a deadlock, which the checker reports.
                mailbox.read_counter();
            }
        }
        senders.into_iter().for_each(|sender| sender.join().expect("no panic"));
    });
}
