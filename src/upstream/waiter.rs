//! A request's wait for a connection: whoever has one first answers it, and the rest learn that it needs nothing more.

#![forbid(unsafe_code)]

use super::{connection::Connection, dial::Dialling, neighbours::Wish};
use crate::{error::Error, observe::latency::Acquired};
use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
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
    pub dialling: Dialling,
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

    /// What other shards were asked for, if they were.
    pub fn wish(&self) -> Option<&Arc<Wish>> {
        self.wish.get()
    }

    pub fn wished(&self, wish: &Arc<Wish>) -> bool {
        self.wish.get().is_some_and(|own| Arc::ptr_eq(own, wish))
    }

    /// Only a connection will do that the origin does not close now.
    pub fn must_be_safe(&self) {
        self.safe.set(true);
    }

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
    pub async fn answered(&self) -> Answer {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    /// Waits for the answer while there is hope that another shard gives it. Cancel-safe.
    pub async fn answered_or_hopeless(&self) -> Option<Answer> {
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
    pub fn withdraw(&self) -> Option<Answer> {
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
    pub async fn unless_withdrawn<F: Future>(&self, dial: F) -> Option<F::Output> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Cause, Phase};

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
