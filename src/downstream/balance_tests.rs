//! How clients are placed, without a model checker: that one compiles `balance` with atomics of its own.

use super::balance::{Balance, Counted};
use std::{sync::Arc, thread};

/// Shards with so many clients each.
fn with(clients: &[u32]) -> (Arc<Balance>, Vec<Counted>) {
    let balance = Balance::new(clients.len(), 100);
    let of = |(shard, &n): (usize, &u32)| (0..n).map(move |_| shard);
    let shards = clients.iter().enumerate().flat_map(of);
    let counted = shards.map(|shard| balance.keep(shard)).collect();
    (balance, counted)
}

fn chosen(clients: &[u32], shard: usize) -> usize {
    with(clients).0.place(shard).shard()
}

#[test]
fn client_stays_up_to_the_share_and_goes_to_the_one_with_fewest_beyond_it() {
    assert_eq!(chosen(&[0, 0, 9], 0), 0);
    assert_eq!(chosen(&[1, 1, 0], 0), 2);
    assert_eq!(chosen(&[1, 1, 1], 0), 0, "somebody has to have two");
    assert_eq!(chosen(&[2, 1, 1], 0), 1);
    assert_eq!(chosen(&[2, 3, 1], 0), 0, "seven are three at most, by share");
    assert_eq!(chosen(&[3, 3, 1], 0), 2);
    assert_eq!(chosen(&[5], 0), 0);
}

#[test]
fn equals_take_turns_by_who_asks() {
    assert_eq!(chosen(&[1, 0, 0, 0], 0), 1);
    assert_eq!(chosen(&[0, 0, 1, 0], 2), 3);
    assert_eq!(chosen(&[0, 0, 0, 1], 3), 0);
}

#[test]
fn clients_are_spread_evenly_wherever_they_arrive() {
    for clients in [8, 16, 64] {
        let balance = Balance::new(8, 100);
        // All of them by one socket: the worst that a hash can do.
        let _counted: Vec<_> = (0..clients).map(|_| balance.place(3)).collect();
        assert!((0..8).all(|shard| balance.clients(shard) == clients / 8));
    }
}

#[test]
fn shards_that_accept_at_once_give_none_more_than_its_share() {
    let balance = Balance::new(8, 1000);
    let accept = |shard| {
        let balance = balance.clone();
        // Half of the shards get all connections.
        thread::spawn(move || (0..200).map(|_| balance.place(shard)).collect::<Vec<_>>())
    };
    let threads: Vec<_> = (0..4).map(accept).collect();
    let counted: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let clients: Vec<_> = (0..8).map(|shard| balance.clients(shard)).collect();
    assert_eq!(clients, [100; 8]);
    drop(counted);
    assert!((0..8).all(|shard| balance.clients(shard) == 0));
}

#[test]
fn shard_that_ends_is_not_chosen_and_does_not_count() {
    let (balance, counted) = with(&[2, 0, 2]);
    balance.close(1);
    let third = balance.place(0);
    assert_eq!(third.shard(), 0, "five on two shards: three at most");
    assert_eq!(balance.place(0).shard(), 2);
    drop((counted, third));
    assert_eq!(balance.clients(1), 0);
}

#[test]
fn shard_that_has_all_it_can_serve_is_not_chosen() {
    assert_eq!(chosen(&[101, 99], 0), 1);
    assert_eq!(chosen(&[101, 100], 0), 0);
    assert_eq!(chosen(&[101, 100, 99], 0), 2);
}

#[test]
fn client_counts_until_it_ends() {
    let (balance, counted) = with(&[3, 0]);
    let handed = balance.place(0);
    assert_eq!((balance.clients(0), balance.clients(1)), (3, 1));
    drop(handed);
    drop(counted);
    assert_eq!((balance.clients(0), balance.clients(1)), (0, 0));
}
