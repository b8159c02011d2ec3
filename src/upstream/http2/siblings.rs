//! An HTTP/2 connection serves one shard. When a shard uses an origin, some others make theirs ahead, and keep it while it
//! is in use anywhere: the next burst comes in on all shards at once.

#![forbid(unsafe_code)]

use super::acquire::Speaks;
use crate::{
    limits::HTTP2_SIBLINGS_MAX,
    upstream::{
        Upstream,
        lend::Message,
        origins::{Key, Origin},
    },
};
use std::{rc::Rc, time::Instant};

impl Upstream {
    /// Tells other shards that `origin` speaks HTTP/2 and is in use, unless they were told not long ago.
    pub(super) fn warm_siblings(&self, origin: &Origin, now: Instant) {
        // Told again before their connections would be given up.
        let every = self.shard.config.keepalive_timeout / 2;
        let shards = self.neighbours.shards();
        if origin.forgotten.get() || !origin.streams.may_tell_siblings(now, every) {
            return;
        }
        for step in 1..shards.min(HTTP2_SIBLINGS_MAX + 1) {
            let sibling = (self.shard.index + step) % shards;
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
