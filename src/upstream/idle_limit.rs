//! After how long an origin closes an idle connection, learned from those that it closed and from what it says.
//!
//! A connection is retired before that, so that no request meets the close half-way. The limit falls at once with each
//! earlier close. It grows by measurement only: now and then a connection past the limit is put apart, where it carries no
//! request, and looked at until the origin closes it.
//!
//! While no limit is known, an idle time counts as safe once a connection was seen alive that had been idle for longer: the
//! oldest idle one is the pilot of all others. A request that must not be sent twice goes to a safe one if there is any.
//!
//! Connections that carried a request and those that never did have a limit each, as with most servers. Until a fresh one
//! is seen to live longer it is taken to have the other's.

#![forbid(unsafe_code)]

use super::pool::{ByKind, Kind};
use crate::limits::{
    IDLE_LIMIT_LEARNED_MIN, IDLE_LIMIT_MARGIN_MIN, IDLE_LIMIT_PROBE_EVERY, IDLE_LIMIT_TOLD_MAX,
};
use std::time::{Duration, Instant};

/// What is known of one origin, by kind of connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleLimits(ByKind<IdleLimit>);

/// An origin's limits in the form in which shards tell each other.
pub type Words = [u64; 4];

impl IdleLimits {
    /// Those of connections in use, as known before a restart.
    pub fn recalled(limit: Duration) -> Self {
        let used = IdleLimit { limit: Some(limit), ..IdleLimit::default() };
        let mut limits = Self(ByKind { used, fresh: IdleLimit::default() });
        limits.take_over();
        limits
    }

    /// The limit of connections that carried a request.
    pub fn known(&self) -> Option<Duration> {
        self.0.used.limit
    }

    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    pub fn of(&self, kind: Kind) -> &IdleLimit {
        self.0.of(kind)
    }

    /// The origin closed a connection that was idle for `idle` at least.
    pub fn saw_end(&mut self, kind: Kind, idle: Duration, now: Instant) {
        self.0.of_mut(kind).saw_end(idle, now);
        self.take_over();
    }

    /// A connection is alive that has been idle for `idle`.
    pub fn saw_alive(&mut self, kind: Kind, idle: Duration, now: Instant) {
        self.0.of_mut(kind).saw_alive(idle, now);
    }

    /// A response said for how long its connection may be idle.
    pub fn told(&mut self, seconds: u64, now: Instant) {
        self.0.used.told(seconds, now);
        self.take_over();
    }

    pub fn begin_measuring(&mut self, kind: Kind, now: Instant) {
        self.0.of_mut(kind).seen = Some(now);
    }

    pub fn measured(&mut self, kind: Kind, idle: Option<Duration>, now: Instant) {
        self.0.of_mut(kind).measured(idle, now);
        self.take_over();
    }

    /// How long a connection of each kind may be idle to be used.
    pub fn usable_for(&self, rtt: Duration, timeout: Duration) -> ByKind<Duration> {
        self.0.map(|limit| limit.usable_for(rtt, timeout))
    }

    /// How long a connection of each kind may be idle to be used for what must not meet its close.
    pub fn safe_for(&self, rtt: Duration, timeout: Duration, now: Instant) -> ByKind<Duration> {
        self.0.map(|limit| limit.safe_for(rtt, timeout, now))
    }

    /// Fresh connections get the limit of used ones while nothing is known of them but how long they lived.
    fn take_over(&mut self) {
        let ByKind { used, fresh } = &mut self.0;
        if fresh.limit.is_none() && fresh.seen.is_none() {
            let lived = fresh.alive.map_or(Duration::ZERO, |(idle, _)| idle);
            fresh.limit = used.limit.map(|limit| limit.max(lived));
        }
    }

    /// Times become seconds since `epoch`.
    pub fn to_words(self, epoch: Instant) -> Words {
        let ByKind { used, fresh } = self.0;
        let ([a, b], [c, d]) = (used.to_words(epoch), fresh.to_words(epoch));
        [a, b, c, d]
    }

    pub fn from_words([a, b, c, d]: Words, epoch: Instant) -> Self {
        let [used, fresh] = [[a, b], [c, d]].map(|words| IdleLimit::from_words(words, epoch));
        Self(ByKind { used, fresh })
    }
}

/// What is known of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleLimit {
    limit: Option<Duration>,
    /// When the limit was last seen to hold, or began to be measured; None: it is so new that it may be a mistake.
    seen: Option<Instant>,
    /// The longest idle time of a connection that was alive then, while no limit is known.
    alive: Option<(Duration, Instant)>,
}

impl IdleLimit {
    /// The origin closed a connection that was idle for `idle`. Closes that come sooner than any origin's limit mean
    /// something else: a restart, a refusal.
    fn saw_end(&mut self, idle: Duration, now: Instant) {
        if idle < IDLE_LIMIT_LEARNED_MIN {
            return;
        }
        // A first close, or a much earlier one, may be a restart in disguise: it is believed, and measured soon.
        let seen = self.limit.is_some_and(|limit| idle >= limit - limit / 10).then_some(now);
        if self.limit.is_none_or(|limit| idle <= limit) {
            (self.limit, self.seen) = (Some(idle), seen);
        }
    }

    fn saw_alive(&mut self, idle: Duration, now: Instant) {
        if let Some(limit) = &mut self.limit {
            // Only one that is put apart lives so long.
            *limit = idle.max(*limit);
        } else if self.proof(now).is_none_or(|longest| idle > longest) {
            self.alive = Some((idle, now));
        }
    }

    /// The longest idle time that is known to be safe. Not for ever: configurations change.
    fn proof(&self, now: Instant) -> Option<Duration> {
        let is_recent = |at| now.saturating_duration_since(at) < IDLE_LIMIT_PROBE_EVERY;
        self.alive.filter(|(_, at)| is_recent(*at)).map(|(idle, _)| idle)
    }

    /// A response said `Keep-Alive: timeout=` that many seconds (RFC 2068 §19.7.1.1; in use, though no standard defines it
    /// now). What was seen counts for more than what is said, unless it is longer.
    fn told(&mut self, seconds: u64, now: Instant) {
        let told = Duration::from_secs(seconds).max(IDLE_LIMIT_LEARNED_MIN);
        // Longer ones than any connection is kept for say nothing.
        if told <= IDLE_LIMIT_TOLD_MAX && self.limit.is_none_or(|limit| told < limit) {
            (self.limit, self.seen) = (Some(told), Some(now));
        }
    }

    /// Whether a connection past the limit is to be put apart and measured.
    pub fn wants_measuring(&self, now: Instant) -> bool {
        let long_ago = |seen| now.saturating_duration_since(seen) >= IDLE_LIMIT_PROBE_EVERY;
        self.limit.is_some() && self.seen.is_none_or(long_ago)
    }

    /// The connection that was put apart was closed after `idle`. None: it was not, for as long as any is kept.
    fn measured(&mut self, idle: Option<Duration>, now: Instant) {
        // Closes came much earlier meanwhile.
        if self.seen.is_none() {
            return;
        }
        self.limit = idle.map(|idle| idle.max(IDLE_LIMIT_LEARNED_MIN));
        self.seen = Some(now);
        self.alive = Some((idle.unwrap_or(Duration::MAX), now));
    }

    /// How long a connection may be idle to be used again, where a round trip takes `rtt`: the close that the origin sends
    /// is half a round trip away, the request as much, and its last answer as much again. Never less than half the limit.
    fn usable_for(&self, rtt: Duration, timeout: Duration) -> Duration {
        let Some(limit) = self.limit else { return timeout };
        limit.saturating_sub(margin(limit, rtt)).max(limit / 2).min(timeout)
    }

    /// How long it may be idle to be used for what must not meet its close.
    fn safe_for(&self, rtt: Duration, timeout: Duration, now: Instant) -> Duration {
        if self.limit.is_some() {
            return self.usable_for(rtt, timeout);
        }
        let longest = self.proof(now).unwrap_or_default();
        if longest >= timeout {
            return timeout;
        }
        longest.saturating_sub(margin(longest, rtt)).max(IDLE_LIMIT_LEARNED_MIN).min(timeout)
    }

    fn to_words(self, epoch: Instant) -> [u64; 2] {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let seconds = |at: Instant| {
            u32::try_from(at.saturating_duration_since(epoch).as_secs()).unwrap_or(u32::MAX - 1) + 1
        };
        let word = |duration: u32, at: u32| u64::from(duration) << 32 | u64::from(at);
        let (alive, at) = self.alive.map_or((0, 0), |(idle, at)| (ms(idle), seconds(at)));
        [word(self.limit.map_or(0, ms), self.seen.map_or(0, seconds)), word(alive, at)]
    }

    fn from_words([limit, alive]: [u64; 2], epoch: Instant) -> Self {
        let ms = |word: u64| Duration::from_millis(word >> 32);
        let at = |word: u64| {
            let seconds = (word & u64::from(u32::MAX)).checked_sub(1)?;
            Some(epoch + Duration::from_secs(seconds))
        };
        Self {
            limit: Some(ms(limit)).filter(|limit| *limit > Duration::ZERO),
            seen: at(limit),
            alive: at(alive).map(|at| (ms(alive), at)),
        }
    }
}

/// What lies between the last use of a connection and its close.
fn margin(limit: Duration, rtt: Duration) -> Duration {
    (2 * rtt).max(limit / 20).max(IDLE_LIMIT_MARGIN_MIN)
}

#[cfg(test)]
mod tests;
