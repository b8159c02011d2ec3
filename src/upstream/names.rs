//! Names on a shard: what it knows of them, and one look-up at a time for each name that many requests wait for.
//!
//! The look-up itself runs on the resolver's thread; the answer comes through a mailbox. Names in use are looked up
//! again before they expire, so that a request waits for a name only once.

#![forbid(unsafe_code)]

use super::{
    dns::{Answer, Resolver},
    known_names::{KnownNames, Look},
};
use crate::{
    error::Cause,
    limits::{LOOKUPS_PER_SHARD_MAX, NAME_REFRESHES_MAX},
    shard::mailbox::Mailbox,
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

pub struct Names {
    resolver: Resolver,
    answers: Mailbox<Answer>,
    known: RefCell<KnownNames>,
    /// Names that are being looked up, and who waits for each; nobody where it is for later.
    asked: RefCell<HashMap<Arc<str>, Vec<Waker>>>,
    looked: Cell<Instant>,
    /// A name led elsewhere than before, and nobody has looked at that yet.
    moved: Cell<bool>,
}

/// How often a shard looks for names that are to be looked up again: less than a quarter of the shortest TTL.
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Names {
    /// `answers` is where the resolver's thread leaves what [`Names::deliver`] then gets.
    pub fn new(resolver: Resolver, answers: Mailbox<Answer>) -> Self {
        Self {
            resolver,
            answers,
            known: RefCell::default(),
            asked: RefCell::default(),
            looked: Cell::new(Instant::now()),
            moved: Cell::new(false),
        }
    }

    /// The addresses of `name` (lower case, no trailing dot): those that are known, or by a look-up.
    ///
    /// Errors: [`Cause::Name`] with the resolver's text, [`Cause::Busy`] at a bound. Cancel-safe: the answer is still
    /// remembered.
    pub async fn lookup(&self, name: &Arc<str>) -> Result<Arc<[IpAddr]>, Cause> {
        poll_fn(|cx| self.poll_lookup(name, cx)).await
    }

    fn poll_lookup(
        &self,
        name: &Arc<str>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<[IpAddr]>, Cause>> {
        let look = self.known.borrow_mut().look(name, Instant::now());
        match look {
            Look::Fresh(known) => Poll::Ready(known.map_err(|e| Cause::Name(e.to_string()))),
            Look::Expired(addresses) => {
                // At a bound the next request, or the next sweep, asks.
                self.ask(name).ok();
                Poll::Ready(Ok(addresses))
            }
            Look::Unknown => {
                if let Err(cause) = self.ask(name) {
                    return Poll::Ready(Err(cause));
                }
                if let Some(wakers) = self.asked.borrow_mut().get_mut(name)
                    && !wakers.iter().any(|waker| waker.will_wake(cx.waker()))
                {
                    wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Has `name` looked up, unless it is being looked up already.
    fn ask(&self, name: &Arc<str>) -> Result<(), Cause> {
        let mut asked = self.asked.borrow_mut();
        if asked.contains_key(name) {
            return Ok(());
        }
        if asked.len() >= LOOKUPS_PER_SHARD_MAX {
            return Err(Cause::Busy("too many names are being looked up"));
        }
        let answers = self.answers.clone();
        let reply = move |answer| {
            if answers.send(answer).is_err() {
                // The mailbox holds more than all look-ups that a shard may have under way.
                log::error!("a look-up's answer found a full mailbox");
            }
        };
        let newer_than = self.known.borrow().answered_at(name);
        self.resolver
            .ask(name.clone(), newer_than, reply)
            .map_err(|_busy| Cause::Busy("the resolver's queue is full"))?;
        asked.insert(name.clone(), Vec::new());
        Ok(())
    }

    /// The addresses that `name` leads to, where that is known and holds. Keeps the name fresh for as long as it is asked
    /// for once in a while: for names that connections are open to. One that is not known (the connections came from
    /// another shard) is looked up.
    pub fn stay(&self, name: &Arc<str>, now: Instant) -> Option<Arc<[IpAddr]>> {
        let addresses = self.known.borrow_mut().stay(name, now);
        if addresses.is_none() && !self.known.borrow().holds(name, now) {
            // At a bound: the next look asks.
            self.ask_ahead(name).ok();
        }
        addresses
    }

    /// As [`Names::ask`] for later, which leaves places to those who wait.
    fn ask_ahead(&self, name: &Arc<str>) -> Result<(), Cause> {
        if self.asked.borrow().len() >= NAME_REFRESHES_MAX {
            return Err(Cause::Busy("too many names are being looked up"));
        }
        self.ask(name)
    }

    /// Has `name` looked up at least every `every` from its first answer on.
    pub fn watch(&self, name: Arc<str>, every: Duration) {
        self.known.borrow_mut().watch(name, every);
    }

    /// Has names looked up again that would expire.
    pub fn sweep(&self, now: Instant) {
        if now.saturating_duration_since(self.looked.get()) < LOOK_EVERY {
            return;
        }
        self.looked.set(now);
        let due = self.known.borrow_mut().due(now);
        for name in due {
            if self.ask_ahead(&name).is_err() {
                // The rest has its turn at the next sweep.
                return;
            }
        }
    }

    /// Whether a name came to lead elsewhere since this was asked last.
    pub fn have_moved(&self) -> bool {
        self.moved.take()
    }

    /// Takes in an answer and wakes those who wait for it.
    pub fn deliver(&self, answer: Answer) {
        let wakers = self.asked.borrow_mut().remove(&answer.name).unwrap_or_default();
        if self.known.borrow_mut().put(answer, Instant::now()) {
            self.moved.set(true);
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}
