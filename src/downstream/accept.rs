//! The accept loop of a shard.

#![forbid(unsafe_code)]

use super::serve;
use crate::{limits::ACCEPT_PAUSE, shard, upstream::Upstream};
use monoio::{
    io::{CancelHandle, Canceller},
    net::{TcpListener, TcpStream},
};
use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    rc::Rc,
};

/// A shard's listener, and the switch that ends it.
pub struct Acceptor {
    upstream: Rc<Upstream>,
    clients_max: usize,
    canceller: RefCell<Canceller>,
    stopped: Cell<bool>,
}

impl Acceptor {
    /// `clients_max` connections are served at once; further ones wait in the kernel's backlog.
    pub fn new(upstream: Rc<Upstream>, clients_max: usize) -> Self {
        Self {
            upstream,
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

    /// Ends the accept loop, now or as soon as it looks.
    pub fn stop(&self) {
        self.stopped.set(true);
        let canceller = self.canceller.take();
        self.canceller.replace(canceller.cancel());
    }

    /// Closing a listener resets the connections in its queue, so they are taken out first.
    async fn accept_backlog(&self, listener: &TcpListener) {
        while self.upstream.shard.watches.count() < self.clients_max {
            let canceller = Canceller::new();
            let accept = listener.cancelable_accept(canceller.handle());
            // Cancelled at once: what is there completes all the same, what is not comes back as cancelled.
            let cancel = async {
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
                canceller.cancel();
                std::future::pending::<()>().await;
            };
            let mut cancel = std::pin::pin!(cancel);
            let mut accept = std::pin::pin!(accept);
            let accepted = std::future::poll_fn(|cx| {
                // Only accept ends this; the cancelling half never does.
                let _ = cancel.as_mut().poll(cx);
                accept.as_mut().poll(cx)
            })
            .await;
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(_) => return,
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        shard::spawn("client connection", serve(self.upstream.clone(), stream, peer));
    }
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
