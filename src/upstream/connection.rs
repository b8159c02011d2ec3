//! One connection to an origin, plain or TLS.

#![forbid(unsafe_code)]

use super::{
    addresses::AddressUse,
    line::Permit,
    pool::Kind,
    table::Held,
    tls::{NotSent, Parked, Protocol, Session},
};
use crate::{
    error::Cause,
    observe::access_log::TlsFacts,
    shard::{
        blocks::{Block, Blocks},
        sys::{Direction, Peek, SendError, Socket},
    },
};
use std::{
    cell::Cell,
    io,
    net::IpAddr,
    ops::Range,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

/// An established connection. Dropping it closes it.
pub struct Connection {
    pub socket: Rc<Socket>,
    session: Option<Box<Session>>,
    /// The origin's address at the other end, and what is known of it.
    pub address: AddressUse,
    /// What other shards see of it; None if the origin is not among those they know of.
    held: Option<Held>,
    /// Held for its drop: a permit under `--max-conns-per-host`, which few have.
    permit: Option<Box<Permit>>,
    /// It carried a request: origins may let such ones live for another time.
    is_used: bool,
    /// How much had been sent when the request under way began.
    request_begins: Cell<u64>,
    /// Since when it had been idle when another shard lent it.
    lent_since: Option<Instant>,
    /// Held for its drop: the shard counts its open connections.
    _open: OpenCount,
}

/// A connection on its way to another shard: nothing is under way on it, and nothing unread.
pub struct Transfer {
    fd: OwnedFd,
    session: Option<Parked>,
    held: Option<Held>,
    permit: Option<Box<Permit>>,
    is_used: bool,
    pub ip: IpAddr,
    /// Since when it is idle.
    pub since: Instant,
}

impl Connection {
    pub fn new(
        socket: Rc<Socket>,
        session: Option<Session>,
        address: AddressUse,
        held: Option<Held>,
        open: OpenCount,
    ) -> Self {
        Self {
            socket,
            session: session.map(Box::new),
            address,
            held,
            permit: None,
            is_used: false,
            request_begins: Cell::new(0),
            lent_since: None,
            _open: open,
        }
    }

    /// Counts it among those that `--max-conns-per-host` allows.
    pub fn with_permit(self, permit: Option<Permit>) -> Self {
        Self { permit: permit.map(Box::new), ..self }
    }

    /// Takes an idle connection, that was found usable just now, out of this shard. It comes back if it is not at rest, or
    /// if there is no descriptor for it.
    ///
    /// The descriptor is doubled and this shard's closed: monoio gives one away only by a call that panics where a
    /// cancelled operation is not quite over.
    pub fn depart(mut self, shard: usize, since: Instant) -> Result<Transfer, Self> {
        let at_rest = Rc::strong_count(&self.socket) == 1 && self.is_clean();
        let (true, Ok(fd)) = (at_rest, self.socket.duplicate()) else { return Err(self) };
        Ok(Transfer {
            fd,
            session: self.session.take().map(|session| session.park()),
            held: self.held.as_ref().map(|held| held.moved_to(shard)),
            permit: self.permit.take(),
            is_used: self.is_used,
            ip: self.address.address().ip,
            since,
        })
    }

    /// Takes a connection into this shard. Errors: the runtime refuses the descriptor; it is closed.
    pub fn arrive(transfer: Transfer, open: OpenCount, address: AddressUse) -> io::Result<Self> {
        let Transfer { fd, session, held, permit, is_used, since, .. } = transfer;
        let socket = Rc::new(Socket::from_fd(fd)?);
        let connection = Self::new(socket, session.map(Parked::resume), address, held, open);
        Ok(Self { permit, is_used, lent_since: Some(since), ..connection })
    }

    /// What is sent from now on belongs to another request.
    pub fn begin_request(&self) {
        self.request_begins.set(self.socket.begun());
    }

    /// Whether what came `took` after the request was sent whole (None: it is not yet) cannot be its answer: the peer's
    /// kernel, which acknowledges with whatever it sends (RFC 9293 §3.10.7.4), had seen nothing of the request. Sends that
    /// the kernel has not taken count as acknowledged: an answer that comes early may be one.
    pub fn cannot_have_answered(&self, took: Option<Duration>) -> bool {
        let bytes = self.socket.begun() - self.request_begins.get();
        let may_be = took.is_none_or(|took| self.address.address().may_have_crossed(took));
        may_be && bytes > 0 && self.socket.unacknowledged() as u64 >= bytes
    }

    /// A request went over it to its clean end.
    pub fn was_used(&mut self) {
        (self.is_used, self.lent_since) = (true, None);
    }

    /// By which of the origin's limits it lives while it is idle.
    pub fn kind(&self) -> Kind {
        if self.is_used { Kind::Used } else { Kind::Fresh }
    }

    /// For how long it had been idle when another shard lent it for the request that has it now.
    pub fn idle_when_lent(&self, now: Instant) -> Duration {
        self.lent_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// It serves this shard alone, and is not one that other shards could ask for.
    pub fn stays_here(&mut self) {
        self.held = None;
    }

    /// What the handshake chose to speak.
    pub fn protocol(&self) -> Protocol {
        self.session.as_ref().map_or(Protocol::Http1, |session| session.protocol())
    }

    /// The session of a connection over TLS, for those who do not read message by message.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_deref()
    }

    /// The origin's name no longer leads to the address of this connection: no new request on it.
    pub fn has_left(&self) -> bool {
        self.address.address().is_gone()
    }

    /// The origin's address.
    pub fn ip(&self) -> IpAddr {
        self.address.address().ip
    }

    /// What the handshake came to; None: it is not encrypted.
    pub fn tls_facts(&self) -> Option<TlsFacts> {
        self.session.as_ref().map(|session| session.facts())
    }

    /// Receives at least one byte of the origin's into `block[range]`, or 0 at an orderly end.
    ///
    /// Errors: the stream broke, or a TLS stream ended without close_notify. Dropping the future may lose bytes: the
    /// connection must not be used again.
    pub async fn recv(
        &self,
        blocks: &Blocks,
        block: Block,
        range: Range<usize>,
    ) -> (Result<usize, Cause>, Block) {
        match &self.session {
            None => {
                let (received, block) = self.socket.recv(block, range).await;
                (received.map_err(|e| Cause::Io(e.kind())), block)
            }
            Some(session) => session.recv(&self.socket, blocks, block, range).await,
        }
    }

    /// Sends all of `block[range]`. May run while a `recv` is under way. Dropping the future may leave a part sent.
    pub async fn send(
        &self,
        blocks: &Blocks,
        block: Block,
        range: Range<usize>,
    ) -> (Result<(), NotSent>, Block) {
        match &self.session {
            None => {
                let (sent, block) = self.socket.send(block, range).await;
                let not_sent = |e: SendError| NotSent {
                    cause: Cause::Io(e.kind),
                    nothing_sent: e.nothing_sent,
                };
                (sent.map_err(not_sent), block)
            }
            Some(session) => {
                let sent = session.send(&self.socket, blocks, &block[range]).await;
                (sent, block)
            }
        }
    }

    /// Whether the last response left nothing behind in the session.
    pub fn is_clean(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_clean())
    }

    /// Whether an idle connection can carry a request: nothing arrived on it that was not asked for, and it has not ended.
    pub fn is_usable(&self) -> bool {
        match (self.socket.peek(), &self.session) {
            (Peek::Quiet, _) => true,
            // Between messages only TLS itself may speak (session tickets, key updates).
            (Peek::Bytes, Some(session)) => session.absorb_idle(&self.socket),
            // RFC 9112 §9.2: bytes that answer no request are not to be believed.
            (Peek::Bytes, None) | (Peek::Ended, _) => false,
        }
    }

    /// Closes an idle connection politely.
    pub fn retire(self) {
        match &self.session {
            Some(session) => session.close(&self.socket),
            None => self.socket.shutdown(Direction::Both),
        }
    }
}

/// A place among the shard's open origin connections; given back on drop.
pub struct OpenCount(Rc<Cell<usize>>);

impl OpenCount {
    /// Takes a place, if fewer than `max` are taken.
    pub fn take(count: &Rc<Cell<usize>>, max: usize) -> Option<Self> {
        if count.get() >= max {
            return None;
        }
        Some(Self::add(count))
    }

    /// Takes a place even if there is none, for a connection that is open already.
    pub fn add(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(count.clone())
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
