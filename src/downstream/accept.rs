//! The accept loops of a shard, one a listener.

#![forbid(unsafe_code)]

use super::serve;
use crate::{
    client::Door,
    limits::{ACCEPT_PAUSE, ACCEPT_YIELD, CLIENTS_UNEVEN_MAX, DRAIN_BACKLOG_WITHIN},
    observe::counters::Counters,
    shard::{self, sys},
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
    os::fd::AsRawFd,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the accept loops of a shard have in common, and the switch that ends them.
pub struct Acceptor {
    upstream: Rc<Upstream>,
    door: Door,
    clients_max: usize,
    canceller: RefCell<Canceller>,
    stopped: Cell<bool>,
    /// All shards, where they accept on the same sockets.
    sharing: Option<Arc<[Arc<Counters>]>>,
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
            sharing: None,
        }
    }

    /// As [`Acceptor::new`], on sockets that the shards behind `counters` accept on, too.
    pub fn sharing(self, counters: Arc<[Arc<Counters>]>) -> Self {
        Self { sharing: Some(counters), ..self }
    }

    /// Accepts until [`Acceptor::stop`]. What the kernel has already taken in is served, then the listener closes.
    pub async fn run(&self, listener: TcpListener) {
        while !self.stopped.get() {
            if self.upstream.shard.watches.count() >= self.clients_max {
                monoio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            if self.has_more_than_its_share() {
                monoio::time::sleep(ACCEPT_YIELD).await;
                // Once only: the others may be busy, and a client must not wait for that.
                if self.stopped.get() {
                    break;
                }
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

    /// Whoever runs first takes a whole burst out of a shared queue, and keeps those clients for as long as they stay.
    fn has_more_than_its_share(&self) -> bool {
        let Some(all) = &self.sharing else { return false };
        let shard = &self.upstream.shard;
        let own = shard.watches.count();
        shard.recorder.set_clients(own);
        let mean = all.iter().map(|shard| shard.clients()).sum::<usize>() / all.len().max(1);
        own > mean + mean / 8 + CLIENTS_UNEVEN_MAX
    }

    /// Ends the accept loops, now or as soon as they look.
    pub fn stop(&self) {
        self.stopped.set(true);
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

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let upstream = self.upstream.clone();
        shard::spawn("client connection", serve(upstream, stream, peer, self.door));
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
