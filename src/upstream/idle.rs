//! Idle connections: one is put here after a clean end, and taken for the next request.

#![forbid(unsafe_code)]

use super::{Upstream, connection::Connection, origins::Origin, pool::ByKind, table};
use crate::limits::IDLE_PER_SHARD_MAX;
use std::time::{Duration, Instant};

impl Upstream {
    /// Takes a connection between requests, idle since `since`: for one that waits in line, else idle.
    pub(super) fn keep(&self, origin: &Origin, mut connection: Connection, since: Instant) {
        if connection.has_left() {
            return connection.retire();
        }
        if let Some(home) = self.other_home(origin, connection.ip()) {
            return self.keep(&home, connection, since);
        }
        if !origin.waiting.borrow().is_empty() {
            match self.serve_waiting(origin, connection) {
                Some(back) => connection = back,
                None => return,
            }
        }
        if let Some(connection) = self.hand_on(origin, connection, since) {
            self.put_idle(origin, connection, since);
        }
    }

    pub(super) fn put_idle(&self, origin: &Origin, connection: Connection, since: Instant) {
        if origin.forgotten.get() || self.idle.get() >= IDLE_PER_SHARD_MAX {
            return;
        }
        let (shared, max) = (table::accesses(), self.idle_max(origin));
        if max == 0 && origin.floor.is_named() {
            return self.send_home(origin, connection, since);
        }
        let kind = connection.kind();
        match origin.idle.borrow_mut().put(connection, kind, since, max) {
            Some(oldest) => oldest.retire(),
            None => {
                debug_assert_eq!(shared, table::accesses(), "a hit used the shared table");
                self.idle.set(self.idle.get() + 1);
            }
        }
    }

    /// The idle connection that was used last, if it is younger than its kind may be, and since when it is idle.
    pub(super) fn take_idle(
        &self,
        origin: &Origin,
        now: Instant,
        within: ByKind<Duration>,
    ) -> Option<(Connection, Instant)> {
        loop {
            // A dead one is not counted any more once it is dropped; that is no part of a hit.
            let shared = table::accesses();
            let (connection, since) = origin.idle.borrow_mut().take(now, within)?;
            self.idle.set(self.idle.get() - 1);
            if connection.is_usable() {
                debug_assert_eq!(shared, table::accesses(), "a hit used the shared table");
                return Some((connection, since));
            }
            // It ended after it was last looked at.
            let seen = origin.floor.looked.get().max(since);
            origin.saw_end(connection.kind(), seen.saturating_duration_since(since), now);
        }
    }

    /// Gives up the idle connection, of all origins, whose origin was not used for longest.
    pub(super) fn retire_oldest_idle(&self) {
        let origins = self.origins.borrow();
        let with_idle = origins.by_key.values().filter(|origin| !origin.idle.borrow().is_empty());
        let Some(origin) = with_idle.min_by_key(|origin| origin.used.get()) else {
            origins.by_key.values().any(|origin| origin.streams.retire_idle());
            return;
        };
        if let Some(oldest) = origin.idle.borrow_mut().take_oldest() {
            self.idle.set(self.idle.get() - 1);
            oldest.retire();
        }
    }
}
