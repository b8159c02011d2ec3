//! The accept loops of a shard, one a listener, and the clients that other shards hand on to it.

#![forbid(unsafe_code)]

use super::{
    balance::{Balance, Counted},
    serve,
};
use crate::{
    client::Door,
    limits::{ACCEPT_PAUSE, DRAIN_BACKLOG_WITHIN},
    shard::{
        self,
        mailbox::Mailbox,
        sys::{self, Socket},
    },
    upstream::Upstream,
};
use monoio::{
    io::{CancelHandle, Canceller},
    net::{TcpListener, TcpStream},
};
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// All shards as an accept loop sees them: how many clients each has, and where to leave one more.
pub struct Spread {
    pub balance: Arc<Balance>,
    /// By the shard's index.
    pub mailboxes: Vec<Mailbox<Arrival>>,
}

/// A client's connection that one shard accepted and another one serves. Nothing of it was read.
pub struct Arrival {
    connection: OwnedFd,
    peer: SocketAddr,
    counted: Counted,
}

/// What the accept loops of a shard have in common, and the switch that ends them.
pub struct Acceptor {
    upstream: Rc<Upstream>,
    door: Door,
    clients_max: usize,
    canceller: RefCell<Canceller>,
    stopped: Cell<bool>,
    /// None: all clients stay on this shard.
    spread: Option<Arc<Spread>>,
}

impl Acceptor {
    /// `clients_max` connections are served at once; further ones wait in the kernel's backlog. Each loop may have one
    /// more under way.
    pub fn new(upstream: Rc<Upstream>, door: Door, clients_max: usize) -> Self {
        Self {
            upstream,
            door,
            clients_max,
            canceller: RefCell::new(Canceller::new()),
            stopped: Cell::new(false),
            spread: None,
        }
    }

    /// As [`Acceptor::new`], for clients that are spread over the shards.
    pub fn spreading(self, spread: Arc<Spread>) -> Self {
        Self { spread: Some(spread), ..self }
    }

    /// Accepts until [`Acceptor::stop`]. What the kernel has already taken in is served, then the listener closes.
    pub async fn run(&self, listener: TcpListener) {
        while !self.stopped.get() {
            if self.upstream.shard.watches.count() >= self.clients_max {
                monoio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            let handle: CancelHandle = self.canceller.borrow().handle();
            // Never dropped while pending: a dropped accept may leak the descriptor that it got.
            match listener.cancelable_accept(handle).await {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(_) if self.stopped.get() => break,
                Err(e) if is_of_one_client(&e) => {}
                Err(e) => {
                    log::warn!("accept failed ({e}); clients wait. Raise the limit of open files?");
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.accept_backlog(&listener).await;
    }

    /// Ends the accept loops, now or as soon as they look.
    pub fn stop(&self) {
        self.stopped.set(true);
        if let Some(spread) = &self.spread {
            spread.balance.close(self.upstream.shard.index);
        }
        let canceller = self.canceller.take();
        self.canceller.replace(canceller.cancel());
    }

    /// Closing the last descriptor of a listener resets the connections in its queue, so they are taken out first. A
    /// listener that other processes hold too may never run empty, so that this ends after `DRAIN_BACKLOG_WITHIN`.
    async fn accept_backlog(&self, listener: &TcpListener) {
        let until = Instant::now() + DRAIN_BACKLOG_WITHIN;
        while Instant::now() < until {
            if self.upstream.shard.watches.count() >= self.clients_max {
                monoio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            match accept_now(listener).await {
                Ok((stream, peer)) => self.admit(stream, peer),
                // The kernel wakes one waiter a connection. If it woke the accept that was cancelled, nobody else, in
                // no process, knows of that connection.
                Err(_) if sys::readable(&[listener.as_raw_fd()]) == [true] => {
                    monoio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return,
            }
        }
    }

    /// Whether this shard has clients, here or on their way from other shards.
    pub fn has_clients(&self) -> bool {
        let shard = &self.upstream.shard;
        shard.watches.count() > 0
            || self.spread.as_ref().is_some_and(|spread| spread.balance.clients(shard.index) > 0)
    }

    /// Serves a client here, or has it served where it belongs.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(spread) = &self.spread else { return self.serve(Socket::new(stream), peer, None) };
        let here = self.upstream.shard.index;
        let counted = match self.stopped.get() {
            // A shard that ends hands on nothing: the others may have ended.
            true => spread.balance.keep(here),
            false => spread.balance.place(here),
        };
        if counted.shard() == here {
            return self.serve(Socket::new(stream), peer, Some(counted));
        }
        let mailbox = &spread.mailboxes[counted.shard()];
        let arrival = Arrival { connection: sys::release(stream), peer, counted };
        if let Err(Arrival { connection, peer, counted: _ }) = mailbox.send(arrival) {
            // That shard has more to take in than it gets done.
            self.take_in(Arrival { connection, peer, counted: spread.balance.keep(here) });
        }
    }

    /// Serves a client that another shard accepted. It stays here, whatever happened meanwhile.
    pub fn take_in(&self, arrival: Arrival) {
        let Arrival { connection, peer, counted } = arrival;
        match Socket::from_fd(connection) {
            Ok(socket) => self.serve(socket, peer, Some(counted)),
            Err(e) => log::warn!("a client of another shard cannot be served, it is closed: {e}"),
        }
    }

    fn serve(&self, socket: Socket, peer: SocketAddr, counted: Option<Counted>) {
        let upstream = self.upstream.clone();
        shard::spawn("client connection", serve(upstream, socket, peer, self.door, counted));
    }
}

/// Accepts what is in the queue already. Errors: nothing is, or accept failed.
async fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let canceller = Canceller::new();
    let mut accept = pin!(listener.cancelable_accept(canceller.handle()));
    let mut canceller = Some(canceller);
    poll_fn(|cx| {
        let accepted = accept.as_mut().poll(cx);
        // The kernel tries the accept before it comes to the cancellation: what is there completes all the same.
        if accepted.is_pending()
            && let Some(canceller) = canceller.take()
        {
            canceller.cancel();
        }
        accepted
    })
    .await
}

/// Errors of a connection that ended before it was accepted (accept(2)).
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::EPERM
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}
