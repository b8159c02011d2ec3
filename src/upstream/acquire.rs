//! A request that found no idle connection. If other shards have connections they get a moment to lend one; then a new
//! one is made for it, and all the while it stands in line for one that another request is done with. What comes first
//! serves it; what comes later is kept idle, for the next burst.

#![forbid(unsafe_code)]

use super::{
    Lease, Upstream,
    connection::Connection,
    origins::Origin,
    tls::Offer,
    waiter::{Answer, Waiter, Waiting},
};
use crate::{
    error::{Cause, Error, Party, Phase},
    limits::LEND_WITHIN_MIN,
    observe::latency::{Acquired, Cost},
    shard::{self, watch::Watch},
};
use std::{
    rc::Rc,
    time::{Duration, Instant},
};

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
        if let Some(wish) = self.waiter.wish() {
            self.upstream.waiters.borrow_mut().remove(wish.waiter);
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
        Ok(Lease::new(connection, acquired, cost, origin))
    }

    /// Gives a connection for a request that must not be sent twice: one of another shard that the origin does not close now,
    /// or one that comes free here. None: there is none in time. Cancel-safe.
    pub(super) async fn borrow_safe(&self, origin: &Rc<Origin>, watch: &Watch) -> Option<Lease> {
        let begun = Instant::now();
        let line = InLine { upstream: self, origin, waiter: Rc::default() };
        let waiter = &line.waiter;
        waiter.must_be_safe();
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
        Some(Lease::new(connection, acquired, cost, origin))
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
        let error = Error::proxy(Phase::Connect, Cause::Panicked);
        // Whoever has an answer keeps it.
        self.0.answer(Err(error)).ok();
    }
}
