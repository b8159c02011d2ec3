//! The sweeper's part: idle connections that ended or are too old go, limits are learned from them, floors are kept.

#![forbid(unsafe_code)]

use super::{Upstream, acquire::Waiting, connection::Connection, origins::Origin};
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
    pub(super) fn usable_for(&self, origin: &Origin) -> Duration {
        origin.floor.usable_for.get().unwrap_or(self.shard.config.keepalive_timeout)
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
            let are_changing = origin.addresses.borrow().are_changing();
            if looks_at_names || are_changing {
                self.look_after_addresses(origin, now);
            }
            if looks || are_changing {
                self.leave_addresses(origin, now);
            }
            let is_needed = origin.floor.is_named() || self.learned(origin, now) > 0;
            let is_kept = is_needed && origin.floor.is_kept();
            if looks || is_kept {
                self.take_ended(origin, is_kept, now);
            }
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
        let age = |(_, since): &(Connection, Instant)| now.saturating_duration_since(*since);
        let shortest = ended.iter().map(age).min();
        if let Some(shortest) = shortest {
            origin.floor.saw_end(shortest, now);
        }
        if is_kept {
            self.judge_floor(origin, shortest, now);
        }
        self.retire_all(ended);
        self.look_apart(origin, now);
    }

    /// Retires idle connections that are too old. One that only the learned limit makes too old may be put apart.
    fn retire_old(&self, origin: &Origin, now: Instant) {
        let timeout = self.shard.config.keepalive_timeout;
        let round_trip = origin.addresses.borrow().round_trip();
        let limit = origin.floor.idle_limit();
        let usable_for = limit.usable_for(round_trip, timeout);
        origin.floor.usable_for.set(Some(usable_for));
        let mut old = Vec::new();
        while let Some(expired) = origin.idle.borrow_mut().take_expired(now, usable_for) {
            old.push(expired);
        }
        let measures = usable_for < timeout
            && limit.wants_measuring(now)
            && origin.floor.apart.borrow().is_none();
        if measures && let Some((connection, since)) = old.pop() {
            self.idle.set(self.idle.get() - 1);
            origin.floor.learn(|limit| limit.begin_measuring(now));
            *origin.floor.apart.borrow_mut() = Some((connection, since));
        }
        self.retire_all(old);
    }

    /// Looks at the connection that was put apart: its end is the origin's limit.
    fn look_apart(&self, origin: &Origin, now: Instant) {
        let mut apart = origin.floor.apart.borrow_mut();
        let Some((connection, since)) = apart.take() else { return };
        let idle = now.saturating_duration_since(since);
        if !connection.is_usable() {
            origin.floor.learn(|limit| limit.measured(Some(idle), now));
        } else if idle >= self.shard.config.keepalive_timeout {
            origin.floor.learn(|limit| limit.measured(None, now));
        } else {
            *apart = Some((connection, since));
            return;
        }
        connection.retire();
    }

    fn retire_all(&self, gone: Vec<(Connection, Instant)>) {
        self.idle.set(self.idle.get() - gone.len());
        gone.into_iter().for_each(|(connection, _)| connection.retire());
    }
}
