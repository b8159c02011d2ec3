//! A request that found no idle connection. If other shards have connections they get a moment to lend one; then a new
//! one is made for it, and all the while it stands in line for one that another request is done with. What comes first
//! serves it; what comes later is kept idle, for the next burst.

#![forbid(unsafe_code)]

use super::{
    Lease, Upstream, connection::Connection, dial::Dialling, lend::Wish, origins::Origin,
    tls::Offer,
};
use crate::{
    error::{Cause, Error, Party, Phase},
    limits::LEND_WITHIN_MIN,
    observe::latency::{Acquired, Cost},
    shard::{self, watch::Watch},
};
use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// One in line for a connection of an origin.
pub enum Waiting {
    /// A request of this shard.
    Here(Rc<Waiter>),
    /// One of another shard.
    There(Arc<Wish>),
}

impl Waiting {
    /// Whether it is still there. A request of this shard leaves the line by itself.
    pub fn is_open(&self) -> bool {
        match self {
            Waiting::Here(_) => true,
            Waiting::There(wish) => wish.claim.is_open(),
        }
    }
}

/// One request's wait for a connection.
#[derive(Default)]
pub struct Waiter {
    state: RefCell<State>,
    /// What other shards know of it.
    wish: OnceCell<Arc<Wish>>,
    /// Shards that may be asked when those that were have nothing.
    later: RefCell<Vec<usize>>,
    /// Its request must not be sent twice.
    safe: Cell<bool>,
    /// None of them has an idle connection.
    hopeless: Cell<bool>,
    /// Wakes the request.
    waker: Cell<Option<Waker>>,
    /// Wakes the dial, so that it sees that nobody wants it any more.
    dial_waker: Cell<Option<Waker>>,
    /// The dial that is made for this request.
    dialling: Dialling,
}

#[derive(Default)]
enum State {
    #[default]
    Waiting,
    /// There is an answer that the request has not taken yet.
    Answered(Answer),
    /// The request goes on with its connection.
    Over,
    /// The request was given up: its client went away, or a deadline passed.
    Withdrawn,
}

pub type Answer = Result<(Connection, Acquired), Error>;

impl Waiter {
    /// Answers the request, unless it has its answer or was given up: then the answer comes back.
    pub fn answer(&self, answer: Answer) -> Result<(), Answer> {
        let state = &mut *self.state.borrow_mut();
        if !matches!(state, State::Waiting) {
            return Err(answer);
        }
        *state = State::Answered(answer);
        if self.dialling.is_in_line()
            && let Some(waker) = self.dial_waker.take()
        {
            waker.wake();
        }
        self.need_nobody();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Other shards are asked for this request.
    pub fn wishes(&self, wish: Arc<Wish>) {
        // A request asks once.
        self.wish.set(wish).ok();
    }

    pub fn wished(&self, wish: &Arc<Wish>) -> bool {
        self.wish.get().is_some_and(|own| Arc::ptr_eq(own, wish))
    }

    /// Only a connection will do that the origin does not close now.
    pub fn wants_safe(&self) -> bool {
        self.safe.get()
    }

    /// In the order in which they are to be asked.
    pub fn may_ask_later(&self, shards: Vec<usize>) {
        *self.later.borrow_mut() = shards;
    }

    /// Whom to ask now that those before had nothing, at most `max`.
    pub fn ask_next(&self, max: usize) -> Vec<usize> {
        let mut later = self.later.borrow_mut();
        let next = later.len().min(max);
        later.drain(..next).collect()
    }

    /// None of the shards that were asked has an idle connection.
    pub fn give_up_hope(&self) {
        self.hopeless.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Tells other shards not to send anything any more.
    fn need_nobody(&self) {
        if let Some(wish) = self.wish.get() {
            wish.claim.end();
        }
    }

    /// Waits for the answer. Cancel-safe: it stays where it is.
    async fn answered(&self) -> Answer {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Waits for the answer while there is hope that another shard gives it. Cancel-safe.
    async fn answered_or_hopeless(&self) -> Option<Answer> {
        poll_fn(|cx| match self.poll_answer(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if self.hopeless.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_answer(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let state = &mut *self.state.borrow_mut();
        match std::mem::replace(state, State::Over) {
            State::Answered(answer) => Poll::Ready(answer),
            before => {
                *state = before;
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Gives the request up, if it still waits. Returns the answer that it did not take.
    fn withdraw(&self) -> Option<Answer> {
        let state = &mut *self.state.borrow_mut();
        match std::mem::replace(state, State::Withdrawn) {
            State::Over => {
                *state = State::Over;
                None
            }
            State::Answered(answer) => Some(answer),
            State::Waiting | State::Withdrawn => {
                self.need_nobody();
                if let Some(waker) = self.dial_waker.take() {
                    waker.wake();
                }
                None
            }
        }
    }

    /// Runs the dial until it ends, or until the request is given up: then it is dropped and None returned. A request
    /// that was served by other means lets it go on, unless it still stands in line.
    async fn unless_withdrawn<F: Future>(&self, dial: F) -> Option<F::Output> {
        let mut dial = pin!(dial);
        poll_fn(|cx| {
            let is_needed = match *self.state.borrow() {
                State::Waiting => true,
                State::Answered(_) | State::Over => !self.dialling.is_in_line(),
                State::Withdrawn => false,
            };
            if !is_needed {
                return Poll::Ready(None);
            }
            self.dial_waker.set(Some(cx.waker().clone()));
            dial.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// A waiter's place in the line of its origin; left on drop.
struct InLine<'u> {
    upstream: &'u Upstream,
    origin: &'u Rc<Origin>,
    waiter: Rc<Waiter>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let is_own = |waiting: &Waiting| matches!(waiting, Waiting::Here(waiter) if Rc::ptr_eq(waiter, &self.waiter));
        self.origin.waiting.borrow_mut().retain(|waiting| !is_own(waiting));
        if let Some(wish) = self.waiter.wish.get() {
            self.upstream.waiters.borrow_mut().remove(wish.waiter());
        }
        if let Some(Ok((connection, _))) = self.waiter.withdraw() {
            self.upstream.keep(self.origin, connection, Instant::now());
        }
    }
}

impl Upstream {
    /// Gives the first connection that is lent, comes free or is made. With `fresh` only one that is made for this
    /// request.
    ///
    /// Errors: those of the dial. A wait ends when `watch` cuts. Cancel-safe: what was under way is closed.
    pub(super) async fn acquire(
        &self,
        origin: &Rc<Origin>,
        watch: &Watch,
        fresh: bool,
    ) -> Result<Lease, Error> {
        let begun = Instant::now();
        let line = InLine { upstream: self, origin, waiter: Rc::default() };
        let waiter = &line.waiter;
        waiter.dialling.must_be_fresh(fresh);
        let answered = watch.unless_cut(async {
            if !fresh {
                origin.waiting.borrow_mut().push_back(Waiting::Here(waiter.clone()));
                if let Some(answer) = self.borrow_from_others(origin, waiter).await {
                    return answer;
                }
            }
            self.dial_for(origin, waiter);
            waiter.answered().await
        });
        let answered = answered.await;
        let phase = waiter.dialling.phase();
        let answer =
            answered.ok_or_else(|| watch.explain(Party::Origin, phase, Cause::TimedOut))?;
        let (connection, acquired) = answer?;
        let cost = waiter.dialling.cost(acquired, begun.elapsed());
        let home = self.other_home(origin, connection.ip());
        let origin = home.unwrap_or_else(|| origin.clone());
        Ok(Lease { connection, acquired, cost, idle_ms: 0, origin })
    }

    /// Gives a connection for a request that must not be sent twice: one of another shard that the origin does not close now,
    /// or one that comes free here. None: there is none in time. Cancel-safe.
    pub(super) async fn borrow_safe(&self, origin: &Rc<Origin>, watch: &Watch) -> Option<Lease> {
        let begun = Instant::now();
        let line = InLine { upstream: self, origin, waiter: Rc::default() };
        let waiter = &line.waiter;
        waiter.safe.set(true);
        if !self.ask_others(origin, waiter) {
            return None;
        }
        origin.waiting.borrow_mut().push_back(Waiting::Here(waiter.clone()));
        let answered =
            monoio::time::timeout(self.lend_within(origin), waiter.answered_or_hopeless());
        let answer = watch.unless_cut(answered).await?.ok()??;
        // Nothing is dialled that could fail.
        let (connection, acquired) = answer.ok()?;
        let cost = Cost { wait: begun.elapsed(), ..Cost::default() };
        let home = self.other_home(origin, connection.ip());
        let origin = home.unwrap_or_else(|| origin.clone());
        Some(Lease { connection, acquired, cost, idle_ms: 0, origin })
    }

    /// Gives other shards a moment to lend a connection. None: they have none, or do not answer.
    async fn borrow_from_others(&self, origin: &Rc<Origin>, waiter: &Rc<Waiter>) -> Option<Answer> {
        if !self.ask_others(origin, waiter) {
            return None;
        }
        // Even a shard that has none idle gets this long: the client may have the last byte of an answer before the shard
        // has put the connection back.
        let answered = monoio::time::timeout(LEND_WITHIN_MIN, waiter.answered()).await;
        if let Ok(answer) = answered {
            return Some(answer);
        }
        let left = self.lend_within(origin).saturating_sub(LEND_WITHIN_MIN);
        if left == Duration::ZERO {
            return None;
        }
        monoio::time::timeout(left, waiter.answered_or_hopeless()).await.ok().flatten()
    }

    /// Makes a connection for `waiter`, on a task of its own: it goes on if the request is served by other means.
    fn dial_for(&self, origin: &Rc<Origin>, waiter: &Rc<Waiter>) {
        let upstream = self.this.upgrade().expect("the shard holds it while it runs");
        let (origin, waiter) = (origin.clone(), waiter.clone());
        shard::spawn("dial", async move {
            let unanswered = Unanswered(&waiter);
            let dial = upstream.dial(&origin, &waiter.dialling, Offer::Http1);
            let Some(dialled) = waiter.unless_withdrawn(dial).await else { return };
            let answer = dialled.map(|connection| (connection, waiter.dialling.acquired()));
            match unanswered.0.answer(answer) {
                Ok(()) => {}
                Err(Ok((connection, _))) => upstream.keep(&origin, connection, Instant::now()),
                Err(Err(error)) => log::debug!("{}: not needed any more: {error}", origin.label()),
            }
        });
    }

    /// Hands `connection` to the first who waits in line. Returns it if nobody does; None also if it is dead.
    pub(super) fn serve_waiting(
        &self,
        origin: &Origin,
        mut connection: Connection,
    ) -> Option<Connection> {
        if !connection.is_usable() {
            return None;
        }
        loop {
            let Some(first) = origin.waiting.borrow_mut().pop_front() else {
                return Some(connection);
            };
            let back = match first {
                Waiting::Here(waiter) => {
                    match waiter.answer(Ok((connection, Acquired::Waited))) {
                        // An error is not what was put in.
                        Ok(()) | Err(Err(_)) => None,
                        Err(Ok((back, _))) => Some(back),
                    }
                }
                Waiting::There(wish) if wish.claim.take() => {
                    self.lend(wish, connection, Instant::now())
                }
                Waiting::There(_granted) => Some(connection),
            };
            connection = back?;
        }
    }
}

/// Answers the waiter of a dial that panicked.
struct Unanswered<'w>(&'w Waiter);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let error = Error::proxy(Phase::Connect, Cause::Closed);
        // Whoever has an answer keeps it.
        self.0.answer(Err(error)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::origin(Phase::Connect, Cause::Io(std::io::ErrorKind::ConnectionRefused))
    }

    #[test]
    fn the_first_answer_counts_and_the_second_comes_back() {
        let waiter = Waiter::default();
        assert!(waiter.answer(Err(refused())).is_ok());
        assert!(waiter.answer(Err(refused())).is_err());
        assert!(matches!(waiter.withdraw(), Some(Err(_))), "nobody took it");
    }

    #[test]
    fn who_was_given_up_takes_no_answer() {
        let waiter = Waiter::default();
        assert!(waiter.withdraw().is_none());
        assert!(waiter.answer(Err(refused())).is_err());
    }

    #[test]
    fn who_was_not_asked_is_asked_later_each_once() {
        let waiter = Waiter::default();
        waiter.may_ask_later(vec![3, 1, 2]);
        assert_eq!(waiter.ask_next(2), [3, 1]);
        assert_eq!(waiter.ask_next(2), [2]);
        assert!(waiter.ask_next(2).is_empty());
    }
}
