//! Lending: an idle connection goes to the shard whose request found none.
//!
//! The shard that misses one asks those that have connections of the origin; the first that has an idle one sends it,
//! descriptor and TLS state, with no operation under way and nothing unread. Those that have only busy ones remember
//! the wish and grant it if one comes free in time.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    addresses::AddressUse,
    claim::Claim,
    connection::{Connection, OpenCount, Transfer},
    neighbours::{Message, Wish},
    origins::{Key, Origin},
    table::Counts,
    waiter::{Answer, Waiter, Waiting},
};
use crate::{
    limits::{LEND_WITHIN_MAX, LEND_WITHIN_MIN, LENDERS_ASKED_MAX, WISHES_HELD_MAX},
    observe::latency::Acquired,
    shard,
};
use std::{
    collections::VecDeque,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

impl Upstream {
    /// Asks other shards for an idle connection. Returns whether there is hope for one.
    pub(super) fn ask_others(&self, origin: &Origin, waiter: &Rc<Waiter>) -> bool {
        let Some(seat) = &origin.seat else { return false };
        let mut lenders = lenders(seat.place.counts(), self.shard.index);
        let rest = lenders.split_off(lenders.len().min(LENDERS_ASKED_MAX));
        if lenders.is_empty() {
            return false;
        }
        waiter.may_ask_later(rest);
        let wish = Arc::new(Wish {
            key: origin.key.clone(),
            asker: self.shard.index,
            waiter: self.waiters.borrow_mut().insert(waiter.clone()),
            is_safe: waiter.wants_safe(),
            claim: Claim::new(lenders.len()),
        });
        waiter.wishes(wish.clone());
        self.ask(&wish, lenders)
    }

    /// Asks these, for whom the claim has a hope each. Returns whether there is hope left.
    fn ask(&self, wish: &Arc<Wish>, lenders: Vec<usize>) -> bool {
        let mut hope = false;
        for lender in lenders {
            let told = self.neighbours.tell(lender, Message::Wanted(wish.clone())).is_ok();
            hope |= told || !wish.claim.decline();
        }
        hope
    }

    /// All who were asked have nothing: asks the next, if the request still waits and there are any.
    pub(super) fn nothing_idle(&self, wish: &Arc<Wish>) {
        let Some(waiter) = self.waiter_of(wish) else { return };
        let next = waiter.ask_next(LENDERS_ASKED_MAX);
        wish.claim.hope_for(next.len());
        if next.is_empty() || !self.ask(wish, next) {
            waiter.give_up_hope();
        }
    }

    /// Whether another shard may have an idle connection for a request that must not be sent twice.
    pub(super) fn may_borrow_safe(&self, origin: &Origin) -> bool {
        let own = self.shard.index;
        let has_idle =
            |counts: Counts| counts.shard != own && counts.told.idle.min(counts.open) > 0;
        origin.seat.as_ref().is_some_and(|seat| seat.place.counts().any(has_idle))
    }

    /// How long a request waits for a lender before it makes a connection.
    pub(super) fn lend_within(&self, origin: &Origin) -> Duration {
        let cost = origin.seat.as_ref().map_or(Duration::ZERO, |seat| seat.place.dial_cost());
        lend_within(cost)
    }

    /// Sends an idle connection to the shard that wishes one, or remembers the wish.
    pub(super) fn grant(&self, wish: Arc<Wish>) {
        let origin = self.origins.borrow().by_key.get(&wish.key).cloned();
        let Some(origin) = origin else { return self.decline(wish) };
        while wish.claim.is_open() {
            let within =
                if wish.is_safe { self.safe_for(&origin) } else { self.usable_for(&origin) };
            let idle = self.take_idle(&origin, Instant::now(), within);
            let Some((connection, since)) = idle else {
                remember(&mut origin.waiting.borrow_mut(), &wish);
                return self.decline(wish);
            };
            // Only now, so that a shard with nothing to send never keeps one from sending.
            let kept = if wish.claim.take() {
                self.lend(wish.clone(), connection, since)
            } else {
                Some(connection)
            };
            if let Some(connection) = kept {
                return self.put_idle(&origin, connection, since);
            }
        }
    }

    /// Sends a connection, idle since `since`, to a wish that was claimed for it. If it cannot be sent it comes back.
    pub(super) fn lend(
        &self,
        wish: Arc<Wish>,
        connection: Connection,
        since: Instant,
    ) -> Option<Connection> {
        let asker = wish.asker;
        let transfer = match connection.depart(asker, since) {
            Ok(transfer) => transfer,
            Err(connection) => {
                wish.claim.give_back();
                return Some(connection);
            }
        };
        let message = Message::Lent(wish, Box::new(transfer));
        if let Err(Message::Lent(wish, _closed)) = self.neighbours.tell(asker, message) {
            log::warn!("shard {asker} is too busy to take a connection; it is closed");
            wish.claim.give_back();
        }
        None
    }

    /// Sends an idle connection that there is no room for here to the shard that keeps the floor of its origin.
    pub(super) fn send_home(&self, origin: &Origin, connection: Connection, since: Instant) {
        let home = self.first_for(&origin.key);
        match connection.depart(home, since) {
            Ok(transfer) => {
                let message = Message::Home(origin.key.clone(), Box::new(transfer));
                // A mailbox that is full takes none; it is closed, and the floor is made good.
                self.neighbours.tell(home, message).ok();
            }
            Err(connection) => connection.retire(),
        }
    }

    fn decline(&self, wish: Arc<Wish>) {
        if wish.claim.decline() {
            let asker = wish.asker;
            // A mailbox that is full tells nothing; the request's own patience ends soon.
            self.neighbours.tell(asker, Message::NothingIdle(wish)).ok();
        }
    }

    /// Takes in a connection for the request that made the wish.
    pub(super) fn lent(&self, wish: &Arc<Wish>, transfer: Transfer) {
        self.arrive(wish.key.clone(), self.waiter_of(wish), transfer);
    }

    /// Takes in a connection that another shard sent: for the request that wished it, else for any other.
    pub(super) fn arrive(&self, key: Key, waiter: Option<Rc<Waiter>>, transfer: Transfer) {
        let origin = self.origin(key);
        let now = Instant::now();
        let since = transfer.since;
        let open = OpenCount::take(&self.open, self.open_max).unwrap_or_else(|| {
            // It is open already; to close it would waste it. One too many for a moment.
            self.retire_oldest_idle();
            OpenCount::add(&self.open)
        });
        let address = origin.addresses.borrow_mut().find(transfer.ip, now);
        let connection = match Connection::arrive(transfer, open, AddressUse::of(&address)) {
            Ok(connection) => connection,
            Err(e) => return log::warn!("a connection from another shard cannot be used: {e}"),
        };
        // The origin may have closed it on the way.
        if !connection.is_usable() {
            origin.saw_end(connection.kind(), now.saturating_duration_since(since), now);
            return waiter.into_iter().for_each(|waiter| waiter.give_up_hope());
        }
        self.learn_name(&origin, now);
        let answer: Answer = Ok((connection, Acquired::Lent));
        let left = match waiter {
            Some(waiter) => waiter.answer(answer),
            None => Err(answer),
        };
        if let Err(Ok((connection, _))) = left {
            self.keep(&origin, connection, since);
        }
    }

    /// Looks the origin's name up if this shard never did, so that it sees when the name leads elsewhere.
    fn learn_name(&self, origin: &Origin, now: Instant) {
        let name = origin.key.name.clone();
        if name.parse::<IpAddr>().is_ok() || self.names.stay(&name, now).is_some() {
            return;
        }
        let upstream = self.this.upgrade().expect("the shard holds it while it runs");
        shard::spawn("look-up of a lent origin", async move {
            // Nobody waits for it; a request that needs the name gets its own error.
            upstream.names.lookup(&name).await.ok();
        });
    }

    /// The request that made the wish, if it still waits.
    fn waiter_of(&self, wish: &Arc<Wish>) -> Option<Rc<Waiter>> {
        let waiters = self.waiters.borrow();
        waiters.get(wish.waiter).filter(|waiter| waiter.wished(wish)).cloned()
    }
}

/// Puts a wish of another shard in line, behind all who wait already, unless they are too many.
fn remember(line: &mut VecDeque<Waiting>, wish: &Arc<Wish>) {
    if line.len() < WISHES_HELD_MAX {
        line.push_back(Waiting::There(wish.clone()));
    }
}

/// Whom to ask: who had an idle one lately first, then who has most connections.
fn lenders(counts: impl Iterator<Item = Counts>, asker: usize) -> Vec<usize> {
    let mut others: Vec<Counts> =
        counts.filter(|counts| counts.shard != asker && counts.open > 0).collect();
    others
        .sort_by_key(|counts| std::cmp::Reverse((counts.told.idle.min(counts.open), counts.open)));
    others.into_iter().map(|counts| counts.shard).collect()
}

/// An eighth of what a new connection costs: what is risked is small against what may be saved.
fn lend_within(dial_cost: Duration) -> Duration {
    (dial_cost / 8).clamp(LEND_WITHIN_MIN, LEND_WITHIN_MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::table::Told, *};
    use crate::authority::Scheme;

    fn ask(counts: &[(u32, u32)], asker: usize) -> Vec<usize> {
        let counts = counts.iter().enumerate();
        let told = |idle| Told { idle, ..Told::default() };
        let counts = counts.map(|(shard, &(open, idle))| Counts { shard, open, told: told(idle) });
        lenders(counts, asker)
    }

    #[test]
    fn those_with_idle_ones_are_asked_first_then_those_with_most() {
        assert_eq!(ask(&[(3, 0), (1, 1), (9, 0), (2, 2)], 8), [3, 1, 2, 0]);
    }

    #[test]
    fn neither_the_asker_nor_those_without_a_connection_are_asked() {
        assert_eq!(ask(&[(3, 3), (0, 2), (1, 0)], 0), [2]);
        assert!(ask(&[(3, 3), (0, 0)], 0).is_empty());
    }

    #[test]
    fn an_idle_count_that_is_out_of_date_counts_no_more_than_what_is_open() {
        assert_eq!(ask(&[(0, 0), (1, 7), (2, 2)], 0), [2, 1]);
    }

    #[test]
    fn patience_is_a_small_part_of_what_a_dial_costs_within_its_bounds() {
        assert_eq!(lend_within(Duration::ZERO), LEND_WITHIN_MIN);
        assert_eq!(lend_within(Duration::from_millis(160)), Duration::from_millis(20));
        assert_eq!(lend_within(Duration::from_secs(9)), LEND_WITHIN_MAX);
    }
    #[test]
    fn wish_is_remembered_unless_too_many_stand_in_line() {
        let name = "origin.test".into();
        let key = Key { scheme: Scheme::Https, name, port: 443, at: None, via: None };
        let claim = Claim::new(1);
        let wish = Arc::new(Wish { key, asker: 1, waiter: 0, is_safe: false, claim });
        let here = || Waiting::Here(Rc::default());
        let mut line: VecDeque<_> = (1..WISHES_HELD_MAX).map(|_| here()).collect();
        remember(&mut line, &wish);
        assert!(matches!(line.back(), Some(Waiting::There(held)) if Arc::ptr_eq(held, &wish)));
        remember(&mut line, &wish);
        assert_eq!(line.len(), WISHES_HELD_MAX);
    }
}
