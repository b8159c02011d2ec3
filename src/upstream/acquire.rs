//! A request that found no idle connection: a new one is made for it, and meanwhile it stands in line for one that
//! another request is done with. What comes first serves it; what comes later is kept idle, for the next burst.

#![forbid(unsafe_code)]

use super::{Lease, Upstream, connection::Connection, dial::Dialling, origins::Origin};
use crate::{
    error::{Cause, Error, Party, Phase},
    observe::latency::Acquired,
    shard::{self, watch::Watch},
};
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::Instant,
};

/// One request's wait for a connection.
#[derive(Default)]
pub struct Waiter {
    state: RefCell<State>,
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

type Answer = Result<(Connection, Acquired), Error>;

impl Waiter {
    /// Answers the request, unless it has its answer or was given up: then the answer comes back.
    fn answer(&self, answer: Answer) -> Result<(), Answer> {
        let state = &mut *self.state.borrow_mut();
        if !matches!(state, State::Waiting) {
            return Err(answer);
        }
        *state = State::Answered(answer);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    /// Waits for the answer. Cancel-safe: it stays where it is.
    async fn answered(&self) -> Answer {
        poll_fn(|cx| {
            let state = &mut *self.state.borrow_mut();
            match std::mem::replace(state, State::Over) {
                State::Answered(answer) => Poll::Ready(answer),
                before => {
                    *state = before;
                    self.waker.set(Some(cx.waker().clone()));
                    Poll::Pending
                }
            }
        })
        .await
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
                if let Some(waker) = self.dial_waker.take() {
                    waker.wake();
                }
                None
            }
        }
    }

    /// Runs the dial until it ends, or until the request is given up: then it is dropped and None returned. A request
    /// that was served by other means lets it go on.
    async fn unless_withdrawn<F: Future>(&self, dial: F) -> Option<F::Output> {
        let mut dial = pin!(dial);
        poll_fn(|cx| {
            if matches!(*self.state.borrow(), State::Withdrawn) {
                return Poll::Ready(None);
            }
            self.dial_waker.set(Some(cx.waker().clone()));
            dial.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// A waiter's place in the line of its origin; left on drop.
struct Place<'u> {
    upstream: &'u Upstream,
    origin: &'u Rc<Origin>,
    waiter: Rc<Waiter>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.origin.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiter));
        if let Some(Ok((connection, _))) = self.waiter.withdraw() {
            self.upstream.keep(self.origin, connection, Instant::now());
        }
    }
}

impl Upstream {
    /// Gives the first connection that comes free or is made. With `fresh` only one that is made for this request.
    ///
    /// Errors: those of the dial. A wait ends when `watch` cuts. Cancel-safe: what was under way is closed.
    pub(super) async fn acquire(
        &self,
        origin: &Rc<Origin>,
        watch: &Watch,
        fresh: bool,
    ) -> Result<Lease, Error> {
        let begun = Instant::now();
        let place = Place { upstream: self, origin, waiter: Rc::default() };
        let waiter = &place.waiter;
        if !fresh {
            origin.waiting.borrow_mut().push_back(waiter.clone());
        }
        self.dial_for(origin, waiter);
        let answered = watch.unless_cut(waiter.answered()).await;
        let phase = waiter.dialling.phase();
        let answer =
            answered.ok_or_else(|| watch.explain(Party::Origin, phase, Cause::TimedOut))?;
        let (connection, acquired) = answer?;
        let cost = waiter.dialling.cost(acquired, begun.elapsed());
        let home = self.other_home(origin, connection.ip());
        let origin = home.unwrap_or_else(|| origin.clone());
        Ok(Lease { connection, acquired, cost, origin })
    }

    /// Makes a connection for `waiter`, on a task of its own: it goes on if the request is served by other means.
    fn dial_for(&self, origin: &Rc<Origin>, waiter: &Rc<Waiter>) {
        let upstream = self.this.upgrade().expect("the shard holds it while it runs");
        let (origin, waiter) = (origin.clone(), waiter.clone());
        shard::spawn("dial", async move {
            let unanswered = Unanswered(&waiter);
            let dial = upstream.dial(&origin, &waiter.dialling);
            let Some(dialled) = waiter.unless_withdrawn(dial).await else { return };
            let answer = dialled.map(|connection| (connection, Acquired::New));
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
        loop {
            let Some(first) = origin.waiting.borrow_mut().pop_front() else {
                return Some(connection);
            };
            if !connection.is_usable() {
                origin.waiting.borrow_mut().push_front(first);
                return None;
            }
            match first.answer(Ok((connection, Acquired::Waited))) {
                // An error is not what was put in.
                Ok(()) | Err(Err(_)) => return None,
                Err(Ok((back, _))) => connection = back,
            }
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
}
