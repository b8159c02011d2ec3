//! The accept loops of a shard, one a listener.

#![forbid(unsafe_code)]

use super::serve;
use crate::{
    client::Door,
    limits::{ACCEPT_PAUSE, DRAIN_BACKLOG_WITHIN},
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
    time::{Duration, Instant},
};

/// What the accept loops of a shard have in common, and the switch that ends them.
pub struct Acceptor {
    upstream: Rc<Upstream>,
    door: Door,
    clients_max: usize,
    canceller: RefCell<Canceller>,
    stopped: Cell<bool>,
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
        }
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
