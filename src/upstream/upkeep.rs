//! The sweeper's part: idle connections that ended or are too old go, limits are learned from them, floors are kept.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    connection::Connection,
    origins::Origin,
    pool::{ByKind, Kind},
    waiter::Waiting,
};
use crate::shard::sys;
use std::{
    rc::Rc,
    time::{Duration, Instant},
};

/// How often idle connections are looked at for an end, all of an origin in one system call. An ended one is found
/// at checkout anyway; this frees its descriptor, and lets the origin finish its close. Where a floor is kept, each
/// sweep looks, for what ended has to be replaced.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Upstream {
    /// For how long a connection of `origin` may be idle to be used.
    pub(super) fn usable_for(&self, origin: &Origin) -> ByKind<Duration> {
        let unlearned = || ByKind::both(self.shard.config.keepalive_timeout);
        origin.floor.usable_for.get().unwrap_or_else(unlearned)
    }

    /// For how long it may be idle to be used for a request that must not be sent twice. A fresh one may be older: it is
    /// not what such requests meet the close of.
    pub(super) fn safe_for(&self, origin: &Origin) -> ByKind<Duration> {
        let usable_for = self.usable_for(origin);
        ByKind { used: origin.floor.safe_for.get().used.min(usable_for.used), ..usable_for }
    }

    /// Closes idle connections that are too old, that their origin ended, and those to addresses that its name left; has
    /// new ones made where a floor is kept.
    pub fn sweep(&self, now: Instant) {
        let looks = now.saturating_duration_since(self.looked.get()) >= LOOK_EVERY;
        if looks {
            self.looked.set(now);
        }
        self.names.sweep(now);
        let looks_at_names = self.names.have_moved() || looks;
        self.look_after_fixed(now);
        self.sweep_streams(now);
        self.sweep_lines();
        let mut learned = 0;
        for origin in self.origins.borrow().by_key.values() {
            if looks_at_names || origin.addresses.borrow().are_unsettled() {
                self.look_after_addresses(origin, now);
            }
            // An address that `--upstream` left is gone at once, and found by the look.
            if looks || origin.addresses.borrow().are_changing() {
                self.leave_addresses(origin, now);
            }
            let is_needed = origin.floor.is_named() || self.learned(origin, now) > 0;
            let is_kept = is_needed && origin.floor.is_kept();
            if looks || is_kept {
                self.take_ended(origin, is_kept, now);
            }
            origin.hear();
            self.retire_old(origin, now);
            self.tell(origin, now);
            if is_needed {
                self.keep_floor(origin, &mut learned, now);
            }
            origin.waiting.borrow_mut().retain(Waiting::is_open);
        }
    }

    /// Gives up connections to addresses that the origin's name left, once there are others.
    fn leave_addresses(&self, origin: &Rc<Origin>, now: Instant) {
        // Only where something changes is it asked what there is.
        if origin.addresses.borrow().are_changing() {
            let is_replaced = self.is_floor_elsewhere(origin) && !self.moves_streams(origin);
            origin.addresses.borrow_mut().settle(is_replaced, now);
        }
        let gone = origin.idle.borrow_mut().take_dead(Connection::has_left);
        self.retire_all(gone);
    }

    /// Takes out idle connections that their origin ended, or spoke on unasked.
    fn take_ended(&self, origin: &Origin, is_kept: bool, now: Instant) {
        let mut idle = origin.idle.borrow_mut();
        let ended = if idle.is_empty() {
            Vec::new()
        } else {
            let fds: Vec<_> = idle.iter().map(|connection| connection.socket.fd()).collect();
            let mut spoke = sys::readable(&fds).into_iter();
            idle.take_dead(|c| spoke.next().unwrap_or(false) && !c.is_usable())
        };
        drop(idle);
        // It ended after it was last looked at.
        let unseen = now.saturating_duration_since(origin.floor.looked.replace(now));
        let age = |since: Instant| now.saturating_duration_since(since).saturating_sub(unseen);
        let mut shortest: ByKind<Option<Duration>> = ByKind::default();
        for (connection, since) in &ended {
            let shortest = shortest.of_mut(connection.kind());
            *shortest = Some(shortest.map_or(age(*since), |other| other.min(age(*since))));
        }
        for kind in [Kind::Used, Kind::Fresh] {
            if let Some(shortest) = *shortest.of(kind) {
                origin.saw_end(kind, shortest, now);
            }
            if let Some(oldest) = origin.idle.borrow().oldest_age(kind, now) {
                origin.learn(|limits| limits.saw_alive(kind, oldest, now));
            }
        }
        if is_kept {
            let youngest =
                ended.iter().map(|(_, since)| now.saturating_duration_since(*since)).min();
            self.judge_floor(origin, youngest, now);
        }
        self.retire_all(ended);
        self.look_apart(origin, unseen, now);
    }

    /// Retires idle connections that are too old. One that only the learned limit makes too old may be put apart.
    fn retire_old(&self, origin: &Origin, now: Instant) {
        let timeout = self.shard.config.keepalive_timeout;
        let limits = origin.floor.limits();
        let round_trip = self.round_trip(origin);
        let usable_for = limits.usable_for(round_trip, timeout);
        origin.floor.usable_for.set(Some(usable_for));
        origin.floor.safe_for.set(limits.safe_for(round_trip, timeout, now));
        let mut old = Vec::new();
        while let Some(expired) = origin.idle.borrow_mut().take_expired(now, usable_for) {
            old.push(expired);
        }
        for kind in [Kind::Used, Kind::Fresh] {
            let measures = *usable_for.of(kind) < timeout
                && limits.of(kind).wants_measuring(now)
                && origin.floor.apart.borrow().of(kind).is_none();
            let is_of_kind = |(connection, _): &(Connection, Instant)| connection.kind() == kind;
            if measures && let Some(at) = old.iter().rposition(is_of_kind) {
                self.idle.set(self.idle.get() - 1);
                origin.learn(|limits| limits.begin_measuring(kind, now));
                *origin.floor.apart.borrow_mut().of_mut(kind) = Some(old.swap_remove(at));
            }
        }
        self.retire_all(old);
    }

    /// What a round trip to the origin takes, as far as is known; from what others say, where none was timed here.
    fn round_trip(&self, origin: &Origin) -> Duration {
        let timed = origin.addresses.borrow().round_trip();
        match &origin.seat {
            // A connection takes two of them at least.
            Some(seat) if timed == Duration::ZERO => seat.place.dial_cost() / 2,
            Some(_) | None => timed,
        }
    }

    /// Looks at the connections that were put apart: their end is the origin's limit.
    fn look_apart(&self, origin: &Origin, unseen: Duration, now: Instant) {
        for kind in [Kind::Used, Kind::Fresh] {
            let apart = origin.floor.apart.borrow_mut().of_mut(kind).take();
            let Some((connection, since)) = apart else { continue };
            let idle = now.saturating_duration_since(since);
            if !connection.is_usable() {
                let idle = idle.saturating_sub(unseen);
                origin.learn(|limits| limits.measured(kind, Some(idle), now));
            } else if idle >= self.shard.config.keepalive_timeout {
                origin.learn(|limits| limits.measured(kind, None, now));
            } else {
                origin.learn(|limits| limits.saw_alive(kind, idle, now));
                *origin.floor.apart.borrow_mut().of_mut(kind) = Some((connection, since));
                continue;
            }
            connection.retire();
        }
    }

    fn retire_all(&self, gone: Vec<(Connection, Instant)>) {
        self.idle.set(self.idle.get() - gone.len());
        gone.into_iter().for_each(|(connection, _)| connection.retire());
    }
}
