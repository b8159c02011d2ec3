//! Cases of [`super::table`] and [`super::claim`]. Not in these files: they are also compiled against a model checker's
//! atomics, which work only inside it.

use super::{
    claim::Claim,
    table::{Held, Place, Table},
};
use std::time::Duration;

fn open(place: &Place) -> Vec<u32> {
    place.counts().map(|counts| counts.open).collect()
}

#[test]
fn shards_meet_at_the_slot_of_an_origin() {
    let table = Table::new(64, 2);
    let (one, other) = (table.enter(7).unwrap(), table.enter(7).unwrap());
    let held = one.hold(1);
    assert_eq!(open(&other), [0, 1]);
    drop(held);
    assert_eq!(open(&other), [0, 0]);
}

#[test]
fn a_moved_connection_is_never_at_no_shard() {
    let table = Table::new(64, 2);
    let place = table.enter(7).unwrap();
    let held = place.hold(0);
    let moved = held.moved_to(1);
    assert_eq!(open(&place), [1, 1]);
    drop(held);
    assert_eq!(open(&place), [0, 1]);
    drop(moved);
}

#[test]
fn origins_that_fall_on_one_slot_get_a_slot_each() {
    let table = Table::new(4, 1);
    let places: Vec<Place> = (0..4).map(|n| table.enter(n << 40 | 1).unwrap()).collect();
    let held: Vec<Held> = places[..2].iter().map(|place| place.hold(0)).collect();
    assert_eq!(places.iter().map(|place| open(place)[0]).collect::<Vec<_>>(), [1, 1, 0, 0]);
    drop(held);
}

#[test]
fn a_full_table_refuses_and_a_left_slot_is_taken_again() {
    let table = Table::new(2, 1);
    let (one, two) = (table.enter(1 << 40), table.enter(2 << 40));
    assert!(one.is_some() && two.is_some());
    assert!(table.enter(3 << 40).is_none());
    let held = one.as_ref().map(|place| place.hold(0));
    drop(one);
    assert!(table.enter(3 << 40).is_none(), "a connection outlives its origin");
    drop(held);
    let three = table.enter(3 << 40).unwrap();
    assert_eq!(open(&three), [0]);
}

#[test]
fn the_cost_of_a_dial_is_a_mean_that_forgets() {
    let place = Table::new(1, 1).enter(1).unwrap();
    assert_eq!(place.dial_cost(), Duration::ZERO);
    place.tell_dial_cost(Duration::from_millis(300));
    assert_eq!(place.dial_cost(), Duration::from_millis(300));
    place.tell_dial_cost(Duration::from_millis(700));
    assert_eq!(place.dial_cost(), Duration::from_millis(350));
}

#[test]
fn one_of_many_claims_and_may_give_back() {
    let claim = Claim::new(2);
    assert!(claim.take());
    assert!(!claim.take());
    claim.give_back();
    assert!(claim.is_open() && claim.take());
}

#[test]
fn a_wish_that_ended_is_not_opened_by_who_gives_it_back() {
    let claim = Claim::new(1);
    assert!(claim.take());
    claim.end();
    claim.give_back();
    assert!(!claim.is_open() && !claim.take());
}

#[test]
fn the_last_no_is_told_apart() {
    let claim = Claim::new(2);
    assert!(!claim.decline());
    assert!(claim.decline());
}
