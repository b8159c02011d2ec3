//! What a shard tells of its origins to be remembered, and what it does with what was: the home of an origin makes its
//! connections before the first request, and each shard that meets one knows its idle limit.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    floor::Remembered,
    http2::speaks::Speaks,
    origins::Origin,
    state::{Known, Part, Spoken, State},
};
use crate::{authority::OriginUrl, limits::DEMAND_LEARNED_AFTER};
use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

impl Upstream {
    /// What this shard knows of its origins.
    pub fn parts(&self, now: Instant) -> Vec<Part> {
        let unix_us = self.shard.unix_us(now);
        let seen = |origin: &Origin| {
            let ago = now.saturating_duration_since(origin.used.get()).as_secs();
            u64::try_from(unix_us / 1_000_000).unwrap_or(0).saturating_sub(ago)
        };
        let part = |origin: &Rc<Origin>| {
            let Remembered { needs, uses, open, idle_limit } = origin.floor.to_remember(now);
            let needs = if self.shard.config.warm_learned { needs } else { 0.0 };
            if needs == 0.0 && idle_limit.is_none() {
                return None;
            }
            let speaks = match origin.speaks.get() {
                Speaks::Http2 => Some(Spoken::Http2),
                Speaks::Http1(_) => Some(Spoken::Http1),
                Speaks::Unknown | Speaks::Http1Only => None,
            };
            let known = Known { needs, speaks, idle_limit, seen: seen(origin) };
            let counts = origin.seat.iter().flat_map(|seat| seat.place.counts());
            let open = open.max(counts.map(|counts| counts.open as usize).sum());
            // One HTTP/2 connection has room for many requests; a floor keeps one.
            let open = if speaks == Some(Spoken::Http2) { open.max(1) } else { open };
            let uses = uses.min(DEMAND_LEARNED_AFTER);
            Some(Part { at: at(origin), known, uses, open })
        };
        self.origins.borrow().by_key.values().filter_map(part).collect()
    }

    /// Takes in what was remembered. Before any origin is made known.
    pub fn recall(&self, state: Arc<State>) {
        // A shard is told once.
        self.recalled.set(state).ok();
    }

    /// Makes the connections of remembered origins whose home this shard is.
    pub fn begin_recalled(&self) {
        let Some(state) = self.recalled.get() else { return };
        if !self.shard.config.warm_learned {
            return;
        }
        let now = Instant::now();
        let mut learned = 0;
        for (at, known) in state.in_order() {
            if known.needs < 0.5 || !self.may_be_kept(at) {
                continue;
            }
            // With `--upstream` no other origin is reached.
            let origins = match &self.fixed {
                Some(_) if self.is_spread(at) => self.spread_origins(),
                Some(fixed) if !fixed.leads_to(at) => continue,
                Some(_) | None => {
                    let key = self.key_of(at.clone());
                    let is_home = self.first_for(&key) == self.shard.index;
                    if is_home { vec![self.origin(key)] } else { Vec::new() }
                }
            };
            // One at least; one that has nearly decayed is no more than it was.
            let each = (known.needs / origins.len().max(1) as f64).max(known.needs.min(1.0));
            for origin in origins {
                if self.first_for(&origin.key) == self.shard.index {
                    origin.floor.recall_need(each, now);
                    self.tell(&origin, now);
                    self.keep_floor(&origin, &mut learned, now);
                    self.expect_warm(&origin, each.round() as usize);
                }
            }
        }
    }

    /// Whether connections may be made to what a file names: the check of each dial, here for addresses, so that one that
    /// is always refused is not dialled again and again.
    fn may_be_kept(&self, at: &OriginUrl) -> bool {
        at.name
            .parse::<IpAddr>()
            .map_or(true, |ip| self.policy.check(SocketAddr::new(ip, at.port)).is_ok())
    }

    /// A new origin gets what was known of it before the start.
    pub(super) fn recall_origin(&self, origin: &Origin, now: Instant) {
        let Some(state) = self.recalled.get() else { return };
        let Some(known) = state.0.get(&at(origin)) else { return };
        if let Some(limit) = known.idle_limit {
            origin.recall_limit(limit);
        }
        if origin.speaks.get() == Speaks::Unknown {
            match known.speaks {
                Some(Spoken::Http1) => origin.speaks.set(Speaks::Http1(now)),
                Some(Spoken::Http2) => origin.speaks.set(Speaks::Http2),
                None => {}
            }
        }
        // Its last use stays what it was: a start is none.
        let unix_seconds = u64::try_from(self.shard.unix_us(now) / 1_000_000).unwrap_or(0);
        let ago = Duration::from_secs(unix_seconds.saturating_sub(known.seen));
        origin.used.set(now.checked_sub(ago).unwrap_or(now));
    }
}

/// Where an origin is, whichever of its addresses and through whatever proxy.
fn at(origin: &Origin) -> OriginUrl {
    let key = &origin.key;
    OriginUrl { scheme: key.scheme, name: key.name.clone(), port: key.port }
}
