//! The other shards: what they say to each other, and what all of them see.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    claim::Claim,
    connection::Transfer,
    http2::borrowed::LenderEnd,
    line::Permit,
    origins::Key,
    permits::{Permits, Ticket},
    table::Table,
};
use crate::{limits::TRACKED_ORIGINS_MAX, shard::mailbox::Mailbox};
use std::{collections::hash_map::RandomState, hash::BuildHasher, sync::Arc};

/// What shards say to each other.
pub enum Message {
    /// A request of another shard has no connection.
    Wanted(Arc<Wish>),
    /// Here is one.
    Lent(Arc<Wish>, Box<Transfer>),
    /// Nobody who was asked has an idle one.
    NothingIdle(Arc<Wish>),
    /// Who stands in line may dial.
    Permitted(Ticket, Permit),
    /// Who stands in line gets a connection.
    Handed(Ticket, Key, Box<Transfer>),
    /// An idle one that its origin's home has room for, and the sender has not.
    Home(Key, Box<Transfer>),
    /// An origin speaks HTTP/2 and is in use.
    Warm(Key),
    /// A request asks for a place on an HTTP/2 connection to the origin.
    Borrow(Key, Box<LenderEnd>),
}

/// A request without a connection, as other shards see it.
pub struct Wish {
    pub key: Key,
    /// The shard of the request, and which of its waiters it is.
    pub asker: usize,
    pub waiter: usize,
    /// For a request that must not be sent twice.
    pub is_safe: bool,
    pub claim: Claim,
}

/// The other shards: their mailboxes, and what all of them see.
pub struct Neighbours {
    mailboxes: Vec<Mailbox<Message>>,
    pub table: Arc<Table>,
    /// `--max-conns-per-host`; None: no bound.
    pub permits: Option<Permits>,
    hasher: RandomState,
}

impl Neighbours {
    /// One mailbox for each shard, by its index; 0 connections a host: no bound.
    pub fn new(mailboxes: Vec<Mailbox<Message>>, conns_per_host_max: usize) -> Arc<Self> {
        let table = Table::new(TRACKED_ORIGINS_MAX, mailboxes.len());
        let permits = (conns_per_host_max > 0).then(|| Permits::new(conns_per_host_max));
        Arc::new(Self { mailboxes, table, permits, hasher: RandomState::new() })
    }

    pub fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key)
    }

    pub fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    /// Leaves a message for a shard. Errors: it comes back if the mailbox is full.
    pub(super) fn tell(&self, shard: usize, message: Message) -> Result<(), Message> {
        self.mailboxes[shard].send(message)
    }
}

impl Upstream {
    /// Takes in what another shard says.
    pub fn deliver(&self, message: Message) {
        match message {
            Message::Wanted(wish) => self.grant(wish),
            Message::Warm(key) => self.warm_up(key),
            Message::Borrow(key, end) => self.lend_stream(&key, *end),
            Message::Lent(wish, transfer) => self.lent(&wish, *transfer),
            Message::Home(key, transfer) => self.arrive(key, None, *transfer),
            Message::Permitted(ticket, permit) => self.permitted(ticket, permit),
            Message::Handed(ticket, key, transfer) => self.handed(ticket, key, *transfer),
            Message::NothingIdle(wish) => self.nothing_idle(&wish),
        }
    }
}
