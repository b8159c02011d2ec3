//! Standing in line for a connection under `--max-conns-per-host`: a request waits for a permit to dial, or for a
//! connection that another request, on this shard or another, is done with.
//!
//! On one shard requests are served in the order in which they came; between shards a connection that comes free goes to
//! its own shard's requests first.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    addresses::AddressUse,
    connection::{Connection, OpenCount, Transfer},
    dial::Dialling,
    neighbours::{Message, Neighbours},
    origins::{Key, Origin},
    permits::{First, Ticket},
};
use crate::error::{Cause, Error, Phase};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Instant,
};

/// The right to have one connection to a host; given back on drop.
pub struct Permit {
    neighbours: Arc<Neighbours>,
    /// None: it was put back.
    host: Option<Key>,
}

impl Permit {
    fn new(neighbours: &Arc<Neighbours>, host: Key) -> Self {
        Self { neighbours: neighbours.clone(), host: Some(host) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (Some(host), Some(permits)) = (self.host.take(), &self.neighbours.permits) else {
            return;
        };
        let Some(first) = permits.release(&host) else { return };
        let permit = Self::new(&self.neighbours, host);
        let told = self.neighbours.tell(first.shard, Message::Permitted(first, permit));
        if let Err(Message::Permitted(ticket, mut permit)) = told
            && let Some(host) = permit.host.take()
        {
            // Its shard is busy; its sweeper finds the ticket in its place.
            permits.put_back(&host, ticket);
        }
    }
}

/// What a place in line leads to.
pub enum Granted {
    Permit(Permit),
    Connection(Connection),
}

/// The requests of a shard that stand in line, by their tickets.
#[derive(Default)]
pub struct Standing {
    next: Cell<u64>,
    all: RefCell<HashMap<u64, Rc<Stand>>>,
}

struct Stand {
    granted: Cell<Option<Granted>>,
    waker: Cell<Option<Waker>>,
}

/// A place in line; left on drop. What was granted and not taken goes to the next.
struct Place<'u> {
    upstream: &'u Upstream,
    host: Key,
    ticket: Ticket,
    stand: Rc<Stand>,
    origin: &'u Origin,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Self { upstream, host, ticket, stand, origin } = self;
        upstream.standing.all.borrow_mut().remove(&ticket.number);
        if let Some(permits) = &upstream.neighbours.permits {
            permits.leave(host, *ticket);
        }
        match stand.granted.take() {
            Some(Granted::Connection(connection)) => {
                upstream.keep(origin, connection, Instant::now());
            }
            Some(Granted::Permit(_)) | None => {}
        }
    }
}

impl Upstream {
    /// Waits for the right to make a connection to `origin`, at most the connect time-out. None: there is no bound.
    ///
    /// Errors: the wait was in vain (503). Cancel-safe: the place in line is left.
    pub(super) async fn stand_in_line(
        &self,
        origin: &Origin,
        dialling: &Dialling,
    ) -> Result<Option<Granted>, Error> {
        let Some(permits) = &self.neighbours.permits else { return Ok(None) };
        let host = origin.key.host();
        let ticket = Ticket {
            shard: self.shard.index,
            number: self.standing.next.get(),
            fresh: dialling.is_fresh(),
        };
        self.standing.next.set(ticket.number + 1);
        let stand = Rc::new(Stand { granted: Cell::default(), waker: Cell::default() });
        self.standing.all.borrow_mut().insert(ticket.number, stand.clone());
        let place = Place { upstream: self, host: host.clone(), ticket, stand, origin };
        if permits.take_or_stand(&host, ticket) {
            return Ok(Some(Granted::Permit(Permit::new(&self.neighbours, host))));
        }
        dialling.stands_in_line(true);
        let granted = poll_fn(|cx| match place.stand.granted.take() {
            Some(granted) => Poll::Ready(granted),
            None => {
                place.stand.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        });
        let granted = monoio::time::timeout(self.shard.config.connect_timeout, granted).await;
        dialling.stands_in_line(false);
        let text = "all connections that --max-conns-per-host allows were in use for too long";
        granted.map(Some).map_err(|_elapsed| Error::proxy(Phase::Connect, Cause::Busy(text)))
    }

    /// A permit at once, or none; for what can do without.
    pub(super) fn permit_at_once(&self, origin: &Origin) -> Option<Option<Permit>> {
        let Some(permits) = &self.neighbours.permits else { return Some(None) };
        let host = origin.key.host();
        permits.try_take(&host).then(|| Some(Permit::new(&self.neighbours, host)))
    }

    /// Takes in a permit for one who stands in line. If it left meanwhile, the permit goes on.
    pub(super) fn permitted(&self, ticket: Ticket, permit: Permit) {
        self.grant_to(ticket, Granted::Permit(permit));
    }

    /// Takes in a connection for one who stands in line; if it left meanwhile, for any other.
    pub(super) fn handed(&self, ticket: Ticket, key: Key, transfer: Transfer) {
        let origin = self.origin(key);
        let (now, since) = (Instant::now(), transfer.since);
        let open = OpenCount::add(&self.open);
        let address = origin.addresses.borrow_mut().find(transfer.ip, now);
        let connection = match Connection::arrive(transfer, open, AddressUse::of(&address)) {
            Ok(connection) => connection,
            Err(e) => {
                log::warn!("a connection from another shard cannot be used: {e}");
                // Its permit is back already; the sweeper finds this one at the front.
                if self.standing.all.borrow().contains_key(&ticket.number)
                    && let Some(permits) = &self.neighbours.permits
                {
                    permits.stand_first(&origin.key.host(), ticket);
                }
                return;
            }
        };
        if let Some(Granted::Connection(connection)) =
            self.grant_to(ticket, Granted::Connection(connection))
        {
            self.keep(&origin, connection, since);
        }
    }

    /// Returns what was to be granted if nobody with this ticket waits any more.
    fn grant_to(&self, ticket: Ticket, granted: Granted) -> Option<Granted> {
        let stand = self.standing.all.borrow_mut().remove(&ticket.number);
        let Some(stand) = stand else { return Some(granted) };
        stand.granted.set(Some(granted));
        if let Some(waker) = stand.waker.take() {
            waker.wake();
        }
        None
    }

    /// Gives a connection that nobody on this shard waits for to the first in line for its host. Returns it if nobody is.
    pub(super) fn hand_on(
        &self,
        origin: &Origin,
        connection: Connection,
        since: Instant,
    ) -> Option<Connection> {
        let permits = self.neighbours.permits.as_ref().filter(|permits| permits.has_line());
        let Some(permits) = permits else { return Some(connection) };
        let first = match permits.first(&origin.key.host()) {
            First::Nobody => return Some(connection),
            First::Takes(first) => first,
            First::NeedsFresh => {
                connection.retire();
                return None;
            }
        };
        if first.shard == self.shard.index {
            return match self.grant_to(first, Granted::Connection(connection)) {
                Some(Granted::Connection(connection)) => Some(connection),
                Some(Granted::Permit(_)) | None => None,
            };
        }
        match connection.depart(first.shard, since) {
            Ok(transfer) => {
                let message = Message::Handed(first, origin.key.clone(), Box::new(transfer));
                if let Err(unsent) = self.neighbours.tell(first.shard, message) {
                    log::warn!(
                        "shard {} is too busy to take a connection; it is closed",
                        first.shard
                    );
                    permits.stand_first(&origin.key.host(), first);
                    drop(unsent);
                }
                None
            }
            Err(connection) => {
                // It cannot leave this shard: closed, so that its permit goes to the one that it was for.
                permits.stand_first(&origin.key.host(), first);
                connection.retire();
                None
            }
        }
    }

    /// Looks after the lines: what a full mailbox could not take, and idle connections that somebody waits for.
    pub(super) fn sweep_lines(&self) {
        let permits = self.neighbours.permits.as_ref().filter(|permits| permits.has_line());
        let Some(permits) = permits else { return };
        for (host, ticket) in permits.due(self.shard.index) {
            self.permitted(ticket, Permit::new(&self.neighbours, host));
        }
        let origins: Vec<Rc<Origin>> = self.origins.borrow().by_key.values().cloned().collect();
        for origin in origins {
            let now = Instant::now();
            while permits.has_line()
                && let Some((connection, since)) =
                    self.take_idle(&origin, now, self.usable_for(&origin))
            {
                if let Some(kept) = self.hand_on(&origin, connection, since) {
                    self.put_idle(&origin, kept, since);
                    break;
                }
            }
        }
    }
}
