//! Deadlines of a client connection and the look after a client that went away.
//!
//! One sweeper a shard looks at all connections every `SWEEP_EVERY`. A deadline that passed ends the sockets it
//! concerns with shutdown(2): whatever waits on them completes at once, and no operation pays for being cancelable.
//! The reason is kept here, so that the end of the stream that the waiting code then sees is told apart from a
//! peer's.

#![forbid(unsafe_code)]

use super::sys::{self, Direction, Liveness, Socket};
use crate::{
    error::{Cause, Error, Party, Phase},
    limits::WATCH_CLIENT_AFTER,
};
use slab::Slab;
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// What is waited for; each may have one deadline at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The next request of an idle client.
    Idle,
    /// The end of a lingering close.
    Linger,
    /// The request, head and body (`--read-timeout`).
    Request,
    /// From the request sent whole to the origin's response head (`--proxy-read-timeout`).
    Origin,
    /// The whole response (`--write-timeout`).
    Response,
}

const DEADLINES: [Deadline; 5] =
    [Deadline::Idle, Deadline::Linger, Deadline::Request, Deadline::Origin, Deadline::Response];

/// Why the sweeper ended a connection's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Passed(Deadline),
    ClientGone,
}

/// Whether a request is under way, and how far the client's half of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exchange {
    None,
    Since(Instant),
}

/// What the sweeper knows of one client connection.
pub struct Watch {
    client: Rc<Socket>,
    /// The origin's socket while a lease is held.
    origin: RefCell<Option<Rc<Socket>>>,
    due: [Cell<Option<Instant>>; DEADLINES.len()],
    cut: Cell<Option<Cut>>,
    exchange: Cell<Exchange>,
    /// The client may get a `100 Continue` as a probe: it speaks HTTP/1.1, its request is in, no byte of the response
    /// is out.
    may_probe: Cell<bool>,
    response_begun: Cell<bool>,
    /// Wakes what does not wait on a socket (a look-up, a connect).
    waker: Cell<Option<Waker>>,
}

impl Watch {
    fn new(client: Rc<Socket>) -> Self {
        Self {
            client,
            origin: RefCell::new(None),
            due: [const { Cell::new(None) }; DEADLINES.len()],
            cut: Cell::new(None),
            exchange: Cell::new(Exchange::None),
            may_probe: Cell::new(false),
            response_begun: Cell::new(false),
            waker: Cell::new(None),
        }
    }

    pub fn set(&self, deadline: Deadline, due: Option<Instant>) {
        self.due[deadline as usize].set(due);
    }

    pub fn clear(&self, deadline: Deadline) {
        self.set(deadline, None);
    }

    /// A request is under way since `now`.
    pub fn begin_exchange(&self, now: Instant) {
        self.exchange.set(Exchange::Since(now));
        self.response_begun.set(false);
        self.may_probe.set(false);
        // The request came while the idle connection was being ended: it is served all the same.
        self.cut.set(None);
    }

    /// The exchange is over; its deadlines are too.
    pub fn end_exchange(&self) {
        self.exchange.set(Exchange::None);
        self.may_probe.set(false);
        for deadline in [Deadline::Request, Deadline::Origin, Deadline::Response] {
            self.clear(deadline);
        }
    }

    pub fn allow_probe(&self) {
        self.may_probe.set(true);
    }

    /// A byte of the response goes to the client: from here on a failure cannot be an answer any more.
    pub fn begin_response(&self) {
        self.response_begun.set(true);
        self.may_probe.set(false);
    }

    pub fn has_response_begun(&self) -> bool {
        self.response_begun.get()
    }

    /// Lets the sweeper end `origin` too until the guard is dropped.
    pub fn lease(&self, origin: Rc<Socket>) -> LeaseGuard<'_> {
        *self.origin.borrow_mut() = Some(origin);
        LeaseGuard(self)
    }

    pub fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// Forgets a cut, so that an answer about it can be sent under a deadline of its own.
    pub fn forget_cut(&self) {
        self.cut.set(None);
    }

    /// Says why an operation failed: the sweeper's reason if it had one, else the party's own doing.
    pub fn explain(&self, party: Party, phase: Phase, cause: Cause) -> Error {
        match self.cut.get() {
            None => Error { party, phase, cause },
            Some(Cut::Passed(Deadline::Request)) => Error::client(Phase::Body, Cause::TimedOut),
            Some(Cut::Passed(Deadline::Idle | Deadline::Linger)) => {
                Error::client(Phase::Head, Cause::TimedOut)
            }
            Some(Cut::Passed(Deadline::Origin)) => Error::origin(phase, Cause::TimedOut),
            Some(Cut::Passed(Deadline::Response)) => Error { party, phase, cause: Cause::TimedOut },
            Some(Cut::ClientGone) => Error::client(Phase::Wait, Cause::Closed),
        }
    }

    /// Runs `future` unless the sweeper cuts first; then it is dropped and None returned. For work that does not wait
    /// on the sockets known here.
    pub async fn unless_cut<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if self.cut.get().is_some() {
                return Poll::Ready(None);
            }
            self.waker.set(Some(cx.waker().clone()));
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn fire(&self, cut: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(cut));
        }
        if let Some(origin) = &*self.origin.borrow() {
            origin.shutdown(Direction::Both);
        }
        match cut {
            // The answer (504) still has to reach the client.
            Cut::Passed(Deadline::Origin) => {}
            Cut::Passed(Deadline::Response) if self.response_begun.get() => {
                self.client.reset_on_close();
                self.client.shutdown(Direction::Both);
            }
            Cut::Passed(
                Deadline::Idle | Deadline::Linger | Deadline::Request | Deadline::Response,
            ) => self.client.shutdown(Direction::Read),
            Cut::ClientGone => self.client.shutdown(Direction::Both),
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn sweep(&self, now: Instant) {
        for deadline in DEADLINES {
            if self.due[deadline as usize].get().is_some_and(|due| now >= due) {
                self.clear(deadline);
                self.fire(Cut::Passed(deadline));
            }
        }
    }

    fn is_slow(&self, now: Instant) -> bool {
        match self.exchange.get() {
            Exchange::None => false,
            Exchange::Since(began) => now.saturating_duration_since(began) >= WATCH_CLIENT_AFTER,
        }
    }

    /// A FIN alone does not tell a client that half-closed (and waits for its answer) from one that closed. A byte
    /// does: a closed socket answers it with a reset. `100 Continue` may be sent to any HTTP/1.1 client at any time
    /// (RFC 9110 §15.2).
    fn look(&self, liveness: Liveness) {
        match liveness {
            Liveness::Open => {}
            Liveness::Gone => self.fire(Cut::ClientGone),
            Liveness::HalfClosed if self.may_probe.replace(false) => {
                if self.client.send_now(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                    self.fire(Cut::ClientGone);
                }
            }
            Liveness::HalfClosed => {}
        }
    }
}

/// Ends the sweeper's hold on the origin's socket.
pub struct LeaseGuard<'w>(&'w Watch);

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        self.0.origin.borrow_mut().take();
    }
}

/// All watched connections of a shard.
#[derive(Default)]
pub struct Watches {
    all: RefCell<Slab<Rc<Watch>>>,
    looked: Cell<Option<Instant>>,
}

/// How often slow exchanges are looked at, all in one system call.
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Watches {
    /// Watches a client connection until the guard is dropped.
    pub fn watch(self: &Rc<Self>, client: Rc<Socket>) -> Watched {
        let watch = Rc::new(Watch::new(client));
        let key = self.all.borrow_mut().insert(watch.clone());
        Watched { watch, key, watches: self.clone() }
    }

    /// How many client connections there are.
    pub fn count(&self) -> usize {
        self.all.borrow().len()
    }

    /// Ends what is overdue, and what nobody waits for any more.
    pub fn sweep(&self, now: Instant) {
        let all = self.all.borrow();
        for (_, watch) in all.iter() {
            watch.sweep(now);
        }
        if self.looked.get().is_some_and(|last| now.saturating_duration_since(last) < LOOK_EVERY) {
            return;
        }
        self.looked.set(Some(now));
        let slow: Vec<&Rc<Watch>> =
            all.iter().map(|(_, watch)| watch).filter(|watch| watch.is_slow(now)).collect();
        if slow.is_empty() {
            return;
        }
        let fds: Vec<_> = slow.iter().map(|watch| watch.client.fd()).collect();
        for (watch, liveness) in slow.iter().zip(sys::liveness(&fds)) {
            watch.look(liveness);
        }
    }

    /// Idle connections, which were allowed `before`, are allowed `within` from now on, counted from when they became
    /// idle.
    pub fn shorten_idle(&self, now: Instant, before: Duration, within: Duration) {
        for (_, watch) in self.all.borrow().iter() {
            let due = &watch.due[Deadline::Idle as usize];
            due.set(due.get().map(|due| (due + within).checked_sub(before).unwrap_or(now)));
        }
    }
}

/// A connection's place among the watched ones.
pub struct Watched {
    watch: Rc<Watch>,
    key: usize,
    watches: Rc<Watches>,
}

impl std::ops::Deref for Watched {
    type Target = Watch;

    fn deref(&self) -> &Watch {
        &self.watch
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watches.all.borrow_mut().remove(self.key);
    }
}
