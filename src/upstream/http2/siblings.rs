//! An HTTP/2 connection serves one shard; the others borrow places on it ([`super::borrowed`]). A second connection, on a
//! second shard, is kept as long as the origin is in use anywhere: when the origin gives up one of them, the other carries
//! the requests of all. Further ones are made by shards that have many requests, for themselves.

#![forbid(unsafe_code)]

use super::speaks::Speaks;
use crate::upstream::{
    Upstream,
    neighbours::Message,
    origins::{Key, Origin},
};
use std::{rc::Rc, time::Instant};

impl Upstream {
    /// Tells another shard that `origin` speaks HTTP/2 and is in use, unless it was told not long ago: one that has a
    /// connection, else the next one, which makes it.
    pub(super) fn warm_sibling(&self, origin: &Origin, now: Instant) {
        // Told again before its connection would be given up.
        let every = self.shard.config.keepalive_timeout / 2;
        if origin.forgotten.get() || !origin.streams.may_tell_sibling(now, every) {
            return;
        }
        let shards = self.neighbours.shards();
        let others = || (1..shards).map(|step| (self.shard.index + step) % shards);
        let has_one = |shard: &usize| {
            origin.seat.as_ref().is_some_and(|seat| seat.place.is_multiplexed(*shard))
        };
        if let Some(sibling) = others().find(has_one).or_else(|| others().next()) {
            // A shard whose mailbox is full has other cares.
            self.neighbours.tell(sibling, Message::Warm(origin.key.clone())).ok();
        }
    }

    /// Another shard uses an origin: makes a connection to it, if there is none, and keeps it for a while.
    pub(in crate::upstream) fn warm_up(&self, key: Key) {
        let origin: Rc<Origin> = self.origin(key);
        if origin.speaks.get() == Speaks::Unknown {
            origin.speaks.set(Speaks::Http2);
        }
        if origin.speaks.get() == Speaks::Http2 {
            origin.streams.keep_until(Instant::now() + self.shard.config.keepalive_timeout);
            if !origin.streams.has_any() {
                self.dial_stream(&origin);
            }
        }
    }
}
