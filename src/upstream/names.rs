//! Names on a shard: its own cache, and one look-up at a time for each name that many requests wait for.
//!
//! The look-up itself runs on the resolver's thread; the answer comes through a mailbox.

#![forbid(unsafe_code)]

use super::{
    dns::{Answer, Resolver},
    dns_cache::Cache,
};
use crate::{error::Cause, limits::LOOKUPS_PER_SHARD_MAX, shard::mailbox::Mailbox};
use std::{
    cell::RefCell,
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

pub struct Names {
    resolver: Resolver,
    answers: Mailbox<Answer>,
    cache: RefCell<Cache>,
    waiting: RefCell<HashMap<Arc<str>, Vec<Waker>>>,
}

impl Names {
    /// `answers` is where the resolver's thread leaves what [`Names::deliver`] then gets.
    pub fn new(resolver: Resolver, answers: Mailbox<Answer>) -> Self {
        Self { resolver, answers, cache: RefCell::default(), waiting: RefCell::default() }
    }

    /// The addresses of `name` (lower case, no trailing dot), from the cache or by a look-up.
    ///
    /// Errors: [`Cause::Name`] with the resolver's text, [`Cause::Busy`] at a bound. Cancel-safe: the answer still gets
    /// into the cache.
    pub async fn lookup(&self, name: &Arc<str>) -> Result<Arc<[IpAddr]>, Cause> {
        poll_fn(|cx| self.poll_lookup(name, cx)).await
    }

    fn poll_lookup(
        &self,
        name: &Arc<str>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<[IpAddr]>, Cause>> {
        if let Some(known) = self.cache.borrow().get(name, Instant::now()) {
            return Poll::Ready(known.map_err(|e| Cause::Name(e.to_string())));
        }
        let mut waiting = self.waiting.borrow_mut();
        let asked = waiting.len();
        match waiting.entry(name.clone()) {
            Entry::Occupied(mut entry) => {
                if !entry.get().iter().any(|waker| waker.will_wake(cx.waker())) {
                    entry.get_mut().push(cx.waker().clone());
                }
            }
            Entry::Vacant(_) if asked >= LOOKUPS_PER_SHARD_MAX => {
                return Poll::Ready(Err(Cause::Busy("too many names are being looked up")));
            }
            Entry::Vacant(entry) => {
                let answers = self.answers.clone();
                let reply = move |answer| {
                    if answers.send(answer).is_err() {
                        // The mailbox holds more than all look-ups that a shard may have under way.
                        log::error!("a look-up's answer found a full mailbox");
                    }
                };
                if self.resolver.ask(name.clone(), reply).is_err() {
                    return Poll::Ready(Err(Cause::Busy("the resolver's queue is full")));
                }
                entry.insert(vec![cx.waker().clone()]);
            }
        }
        Poll::Pending
    }

    /// The addresses that `name` leads to, as far as they are known now.
    pub fn known(&self, name: &str, now: Instant) -> Option<Arc<[IpAddr]>> {
        self.cache.borrow().get(name, now)?.ok()
    }

    /// Takes in an answer and wakes those who wait for it.
    pub fn deliver(&self, answer: Answer) {
        let wakers = self.waiting.borrow_mut().remove(&answer.name).unwrap_or_default();
        self.cache.borrow_mut().put(answer, Instant::now());
        wakers.into_iter().for_each(Waker::wake);
    }
}
