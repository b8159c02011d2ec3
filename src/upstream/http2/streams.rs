//! The HTTP/2 connections of one shard to one origin. Who waits for a place on one is in `waiters`.

#![forbid(unsafe_code)]

use super::{
    borrowed::Borrowing,
    multiplexed::{Multiplexed, Slot},
    waiters::Waiters,
};
use crate::{
    error::Error,
    limits::{HTTP2_DIALS_AT_ONCE, HTTP2_SIBLING_AFTER, HTTP2_STREAMS_EXPECTED},
    observe::http2_use::Http2Use,
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

#[derive(Default)]
pub struct Streams {
    /// Those that take requests, oldest first.
    connections: RefCell<Vec<Rc<Multiplexed>>>,
    /// Those that finish what they have.
    leaving: RefCell<Vec<Rc<Multiplexed>>>,
    pub(super) waiters: Waiters,
    dials: Cell<usize>,
    /// All who waited for the first connection have left; dials that see it end.
    is_abandoned: Cell<bool>,
    dial_wakers: RefCell<Vec<Waker>>,
    /// Why the last dial failed, until it is told.
    pub(super) failure: RefCell<Option<Error>>,
    goaways: Cell<u64>,
    /// When a request of this shard last asked for a place.
    used: Cell<Option<Instant>>,
    /// When another shard was last told that this one uses the origin.
    sibling_due: Cell<Option<Instant>>,
    /// Another shard uses it: one connection stays until then, though it is idle.
    kept_until: Cell<Option<Instant>>,
    /// The use of other shards' connections.
    pub(super) borrowing: Borrowing,
    /// Called when the origin gave up a connection that had served.
    on_lost: OnceCell<Box<dyn Fn()>>,
}

impl Streams {
    /// A place on a connection, if one has room: the oldest that is not nearly full, else any.
    pub fn try_take(&self) -> Option<Slot> {
        let connections = self.connections.borrow();
        connections
            .iter()
            .find(|c| !is_nearly_full(c))
            .and_then(Slot::take)
            .or_else(|| connections.iter().find_map(Slot::take))
    }

    /// Why the last dial failed, if it did and was not asked for before.
    pub fn take_failure(&self) -> Option<String> {
        self.failure.take().map(|error| error.to_string())
    }

    /// A request asks for a place.
    pub(super) fn uses(&self, now: Instant) {
        self.used.set(Some(now));
    }

    /// Whether another shard should be told that this one uses the origin: while it does, once in `every`.
    pub(super) fn may_tell_sibling(&self, now: Instant, every: Duration) -> bool {
        let Some(used) = self.used.get() else { return false };
        // Its handshake must not take the time of a burst that comes right after the first request.
        let due = self.sibling_due.get().unwrap_or(used + HTTP2_SIBLING_AFTER);
        let may = now >= due && now.saturating_duration_since(used) < every;
        self.sibling_due.set(Some(if may { now + every } else { due }));
        may
    }

    pub(in crate::upstream) fn keep_until(&self, until: Instant) {
        self.kept_until.set(Some(until));
    }

    /// Whether one connection is wanted though this shard does not use it.
    pub fn is_kept(&self, now: Instant) -> bool {
        self.kept_until.get().is_some_and(|until| now < until)
    }

    /// Whether a connection is there or on its way.
    pub fn has_any(&self) -> bool {
        self.dials.get() > 0 || !self.connections.borrow().is_empty()
    }

    /// Whether there are connections, and all of them lead to addresses that the origin's name left.
    pub fn are_left(&self) -> bool {
        let connections = self.connections.borrow();
        !connections.is_empty() && connections.iter().all(|connection| connection.is_left())
    }

    /// Whether there is a connection for the next request.
    pub fn takes_requests(&self) -> bool {
        !self.connections.borrow().is_empty()
    }

    pub fn is_dialling(&self) -> bool {
        self.dials.get() > 0
    }

    /// How many connections to dial now: enough for those that wait, and one before the last place is taken.
    pub fn dials_wanted(&self) -> usize {
        let connections = self.connections.borrow();
        let waiting = self.waiters.len();
        let room: usize =
            connections.iter().map(|c| c.streams_max().saturating_sub(c.in_flight())).sum();
        // One that takes none for the moment (RFC 9113 §6.5.2) is not asked for more and more connections.
        let refusing = connections.iter().filter(|c| c.is_settled() && c.streams_max() == 0);
        if refusing.count() >= HTTP2_DIALS_AT_ONCE {
            return 0;
        }
        // An origin that has not said how many it takes is about to.
        let is_settling = connections.iter().any(|c| !c.is_settled());
        let is_nearly_full = !connections.is_empty() && connections.iter().all(is_nearly_full);
        let coming = room + self.dials.get() * HTTP2_STREAMS_EXPECTED;
        let short = if is_settling {
            0
        } else if waiting > coming {
            (waiting - coming).div_ceil(HTTP2_STREAMS_EXPECTED)
        } else {
            usize::from(is_nearly_full && self.dials.get() == 0)
        };
        short.min(HTTP2_DIALS_AT_ONCE - self.dials.get().min(HTTP2_DIALS_AT_ONCE))
    }

    pub fn dial_begins(&self) {
        self.dials.set(self.dials.get() + 1);
        self.is_abandoned.set(false);
        self.failure.take();
    }

    /// A dial has ended, in whatever way.
    pub fn dial_ends(&self) {
        self.dials.set(self.dials.get() - 1);
        if self.dials.get() == 0 {
            self.dial_wakers.borrow_mut().clear();
        }
    }

    /// Runs a dial unless all who waited for a first connection leave: then it is dropped and None returned.
    pub async fn unless_abandoned<F: Future>(&self, dial: F) -> Option<F::Output> {
        let mut dial = pin!(dial);
        poll_fn(|cx| {
            if self.is_abandoned.get() {
                return Poll::Ready(None);
            }
            self.remember_dial(cx.waker());
            dial.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn remember_dial(&self, waker: &Waker) {
        let mut wakers = self.dial_wakers.borrow_mut();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    /// Somebody waits for a place.
    pub(super) fn is_wanted(&self) {
        self.is_abandoned.set(false);
    }

    /// All who waited have left: the dials end, unless there was a connection before.
    pub(super) fn abandon(&self) {
        if !self.has_connections() {
            self.is_abandoned.set(true);
            self.dial_wakers.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }

    /// Whether there is one that takes requests.
    pub fn has_connections(&self) -> bool {
        !self.connections.borrow().is_empty()
    }

    /// Puts a connection to use.
    pub fn add(&self, connection: Rc<Multiplexed>) {
        self.connections.borrow_mut().push(connection);
        self.serve_waiting();
    }

    pub(super) fn count_goaway(&self) {
        self.goaways.set(self.goaways.get() + 1);
    }

    /// What to do when the origin gives up a connection that had served.
    pub fn on_lost(&self, replace: impl Fn() + 'static) {
        self.on_lost.get_or_init(|| Box::new(replace));
    }

    /// The origin gave up `connection`.
    pub(super) fn lost(&self, connection: &Multiplexed) {
        if self.leaves(connection)
            && connection.served() > 0
            && let Some(replace) = self.on_lost.get()
        {
            replace();
        }
    }

    /// `connection` takes no more requests. Returns whether it did before.
    fn leaves(&self, connection: &Multiplexed) -> bool {
        let is_it = |c: &Rc<Multiplexed>| std::ptr::eq(&**c, connection);
        let at = self.connections.borrow().iter().position(is_it);
        let mut leaving = self.leaving.borrow_mut();
        if let Some(at) = at {
            leaving.push(self.connections.borrow_mut().remove(at));
        }
        // What has ended is held by its requests only: its descriptor goes with the last of them.
        leaving.retain(|c| c.in_flight() > 0 && !c.has_ended());
        at.is_some()
    }

    /// Response bytes that wait for slow clients.
    pub fn held_bytes(&self) -> usize {
        self.connections.borrow().iter().map(|c| c.held_bytes()).sum()
    }

    /// Looks after every connection; retires those that were idle for `timeout`.
    pub fn sweep(&self, now: Instant, timeout: Duration, is_under_pressure: bool) {
        let connections = self.connections.borrow().clone();
        let leaving = self.leaving.borrow().clone();
        for connection in connections.iter().chain(&leaving) {
            connection.sweep(now, is_under_pressure);
        }
        let kept = usize::from(self.is_kept(now));
        for (nth, connection) in connections.iter().enumerate() {
            let idle = connection.idle_since();
            let too_long = |since| now.saturating_duration_since(since) >= timeout;
            if (nth >= kept && idle.is_some_and(too_long))
                || connection.is_used_up()
                || connection.has_left()
            {
                connection.retire();
                self.leaves(connection);
            }
        }
    }

    /// Requests under way on all of them.
    pub fn in_flight(&self) -> usize {
        let (connections, leaving) = (self.connections.borrow(), self.leaving.borrow());
        connections.iter().chain(&*leaving).map(|connection| connection.in_flight()).sum()
    }

    /// How many connections there are, those that finish included.
    pub fn len(&self) -> usize {
        self.connections.borrow().len() + self.leaving.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What an operator sees of the origin's connections.
    pub fn snapshot(&self) -> Http2Use {
        let connections = self.connections.borrow();
        Http2Use {
            connections: connections.iter().map(|c| (c.in_flight(), c.streams_max())).collect(),
            leaving: self.leaving.borrow().len(),
            goaways: self.goaways.get(),
        }
    }

    /// Gives up one connection that has nothing to do. Returns whether there was one.
    pub fn retire_idle(&self) -> bool {
        let idle = self.connections.borrow().iter().find(|c| c.in_flight() == 0).cloned();
        if let Some(connection) = &idle {
            connection.retire();
            self.leaves(connection);
        }
        idle.is_some()
    }

    /// Takes no more requests on any of them.
    pub fn retire_all(&self) {
        let connections = std::mem::take(&mut *self.connections.borrow_mut());
        for connection in &connections {
            connection.retire();
        }
        self.leaving.borrow_mut().extend(connections);
    }
}

/// Four fifths of its places are taken: another connection should be there before the last is.
fn is_nearly_full(connection: &Rc<Multiplexed>) -> bool {
    connection.in_flight() * 5 >= connection.streams_max() * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{pin::Pin, task::Context};

    #[test]
    fn dials_are_as_many_as_those_who_wait_want_and_never_too_many() {
        let streams = Rc::new(Streams::default());
        assert_eq!(streams.dials_wanted(), 0);
        let mut line = vec![streams.wait()];
        assert_eq!(streams.dials_wanted(), 1);
        streams.dial_begins();
        line.extend((1..HTTP2_STREAMS_EXPECTED).map(|_| streams.wait()));
        assert_eq!(streams.dials_wanted(), 0, "one brings room for all of them");
        line.push(streams.wait());
        assert_eq!(streams.dials_wanted(), 1);
        line.extend((0..100 * HTTP2_STREAMS_EXPECTED).map(|_| streams.wait()));
        assert_eq!(streams.dials_wanted(), HTTP2_DIALS_AT_ONCE - 1);
    }

    #[test]
    fn a_dial_ends_when_all_who_waited_have_left() {
        let streams = Rc::new(Streams::default());
        let waiting = [streams.wait(), streams.wait()];
        streams.dial_begins();
        let mut dial = pin!(streams.unless_abandoned(std::future::pending::<()>()));
        let look = |dial: Pin<&mut _>| {
            let dial: Pin<&mut dyn Future<Output = Option<()>>> = dial;
            dial.poll(&mut Context::from_waker(Waker::noop()))
        };
        let [first, second] = waiting;
        drop(first);
        assert!(look(dial.as_mut()).is_pending());
        drop(second);
        assert!(matches!(look(dial.as_mut()), Poll::Ready(None)));
    }

    #[test]
    fn a_sibling_is_told_while_the_origin_is_in_use_and_not_too_often() {
        let (streams, now) = (Streams::default(), Instant::now());
        let every = Duration::from_secs(25);
        assert!(!streams.may_tell_sibling(now, every), "nobody asked");
        streams.uses(now);
        assert!(!streams.may_tell_sibling(now, every), "what comes next goes first");
        let now = now + HTTP2_SIBLING_AFTER;
        assert!(streams.may_tell_sibling(now, every));
        assert!(!streams.may_tell_sibling(now + every / 2, every));
        assert!(!streams.may_tell_sibling(now + every, every), "not in use any more");
        streams.uses(now + every);
        assert!(streams.may_tell_sibling(now + every, every));
    }
}
