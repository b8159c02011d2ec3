//! The requests of one shard that wait for a place on an origin's HTTP/2 connections, first come, first served.

#![forbid(unsafe_code)]

use super::{multiplexed::Slot, streams::Streams};
use crate::{
    error::Error,
    limits::HTTP2_WAITING_MAX,
    upstream::{connection::Connection, dial::Dialling},
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

#[derive(Default)]
pub struct Waiters {
    queue: RefCell<VecDeque<Rc<Waiter>>>,
    /// Those in the queue that are still wanted.
    wanted: Cell<usize>,
}

/// What a request that waited gets.
pub enum Granted {
    Slot(Slot),
    /// The origin speaks HTTP/1.1 only; the first who waits gets the connection on which it said so.
    Http1(Option<(Connection, Dialling)>),
    Failed(Error),
}

struct Waiter {
    granted: RefCell<Option<Granted>>,
    waker: RefCell<Option<Waker>>,
    is_gone: Cell<bool>,
}

impl Waiters {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.wanted.get()
    }

    /// None: too many wait already.
    fn join(&self) -> Option<Rc<Waiter>> {
        if self.len() >= HTTP2_WAITING_MAX {
            return None;
        }
        let waiter = Rc::new(Waiter {
            granted: RefCell::default(),
            waker: RefCell::default(),
            is_gone: Cell::new(false),
        });
        let mut queue = self.queue.borrow_mut();
        if queue.len() > 2 * self.len() + 16 {
            queue.retain(|waiter| !waiter.is_gone.get());
        }
        queue.push_back(waiter.clone());
        self.wanted.set(self.len() + 1);
        Some(waiter)
    }

    fn next(&self) -> Option<Rc<Waiter>> {
        loop {
            let waiter = self.queue.borrow_mut().pop_front()?;
            if !waiter.is_gone.get() {
                self.wanted.set(self.len() - 1);
                return Some(waiter);
            }
        }
    }
}

impl Streams {
    /// Waits for a place. None: too many wait already. Cancel-safe: a place that was granted meanwhile goes to the next.
    pub fn wait(self: &Rc<Self>) -> Option<Waiting> {
        let waiter = self.waiters.join()?;
        self.is_wanted();
        Some(Waiting { streams: self.clone(), waiter })
    }

    /// Gives those who wait what there is.
    pub(super) fn serve_waiting(&self) {
        while self.waiters.len() > 0 {
            let Some(slot) = self.try_take() else { return };
            let waiter = self.waiters.next().expect("those that wait are in the queue");
            waiter.grant(Granted::Slot(slot));
        }
    }

    /// A dial failed. Those that wait learn it, unless there is something else to wait for.
    pub fn dial_failed(&self, error: &Error) {
        self.failure.replace(Some(error.clone()));
        if !self.has_any() {
            while let Some(waiter) = self.waiters.next() {
                waiter.grant(Granted::Failed(error.clone()));
            }
        }
    }

    /// The origin chose HTTP/1.1 on `connection`. Returns it if nobody waits for one.
    pub fn is_http1(&self, connection: Connection, dialling: Dialling) -> Option<Connection> {
        let Some(first) = self.waiters.next() else { return Some(connection) };
        first.grant(Granted::Http1(Some((connection, dialling))));
        // Where others speak HTTP/2 they are waited for.
        while !self.has_connections()
            && let Some(waiter) = self.waiters.next()
        {
            waiter.grant(Granted::Http1(None));
        }
        None
    }
}

impl Waiter {
    fn grant(&self, granted: Granted) {
        *self.granted.borrow_mut() = Some(granted);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A request's place in the queue.
pub struct Waiting {
    streams: Rc<Streams>,
    waiter: Rc<Waiter>,
}

impl Future for Waiting {
    type Output = Granted;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Granted> {
        if let Some(granted) = self.waiter.granted.borrow_mut().take() {
            // Not in the queue any more: nothing to take back.
            self.waiter.is_gone.set(true);
            return Poll::Ready(granted);
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A slot that was granted and not fetched is dropped here, outside the borrow, and goes to the next.
        let granted = self.waiter.granted.borrow_mut().take();
        if granted.is_none() && !self.waiter.is_gone.replace(true) {
            self.streams.waiters.wanted.set(self.streams.waiters.len() - 1);
            if self.streams.waiters.len() == 0 {
                self.streams.abandon();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Cause, Phase};

    fn poll(waiting: &mut Waiting) -> Poll<Granted> {
        Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_line_is_bounded_and_who_leaves_makes_room() {
        let streams = Rc::new(Streams::default());
        let mut line: Vec<_> = (0..HTTP2_WAITING_MAX).map_while(|_| streams.wait()).collect();
        assert_eq!(line.len(), HTTP2_WAITING_MAX);
        assert!(streams.wait().is_none());
        line.swap_remove(7);
        assert!(streams.wait().is_some());
        line.clear();
        assert_eq!(streams.waiters.len(), 0);
        // Those who left do not pile up.
        for _ in 0..1000 {
            drop(streams.wait());
        }
        assert!(streams.waiters.queue.borrow().len() < 100);
    }

    #[test]
    fn a_failed_dial_is_told_once_there_is_nothing_else_to_wait_for() {
        let streams = Rc::new(Streams::default());
        let mut waiting = streams.wait().unwrap();
        streams.dial_begins();
        streams.dial_begins();
        let error = Error::origin(Phase::Connect, Cause::TimedOut);
        streams.dial_ends();
        streams.dial_failed(&error);
        assert!(poll(&mut waiting).is_pending());
        streams.dial_ends();
        streams.dial_failed(&error);
        assert!(matches!(poll(&mut waiting), Poll::Ready(Granted::Failed(_))));
    }
}
