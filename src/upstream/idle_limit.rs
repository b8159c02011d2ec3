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
mod tests {
    use super::*;

    const NONE: Duration = Duration::from_secs(50);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn usable(limit: &IdleLimit, rtt: u64) -> Duration {
        limit.usable_for(ms(rtt), NONE)
    }

    #[test]
    fn an_unknown_origin_gets_the_timeout() {
        assert_eq!(usable(&IdleLimit::default(), 150), NONE);
    }

    #[test]
    fn a_close_teaches_the_limit_and_the_margin_is_the_largest_of_three() {
        let now = Instant::now();
        let mut limit = IdleLimit::default();
        limit.saw_end(ms(5000), now);
        assert_eq!(usable(&limit, 1), ms(4750));
        assert_eq!(usable(&limit, 150), ms(4700));
        let mut long = IdleLimit::default();
        long.saw_end(ms(40_000), now);
        assert_eq!(usable(&long, 150), ms(38_000));
    }

    #[test]
    fn an_earlier_close_lowers_it_and_a_later_one_does_not_raise_it() {
        let now = Instant::now();
        let mut limit = IdleLimit::default();
        limit.saw_end(ms(15_000), now);
        limit.saw_end(ms(5000), now);
        limit.saw_end(ms(9000), now);
        assert_eq!(limit.limit, Some(ms(5000)));
    }

    #[test]
    fn closes_too_soon_for_a_limit_teach_nothing() {
        let mut limit = IdleLimit::default();
        limit.saw_end(IDLE_LIMIT_LEARNED_MIN - ms(1), Instant::now());
        assert_eq!(limit.limit, None);
        limit.saw_end(IDLE_LIMIT_LEARNED_MIN, Instant::now());
        assert_eq!(limit.limit, Some(IDLE_LIMIT_LEARNED_MIN));
    }

    #[test]
    fn a_short_limit_leaves_half_of_it_to_use() {
        let mut limit = IdleLimit::default();
        limit.saw_end(ms(1000), Instant::now());
        assert_eq!(usable(&limit, 1), ms(750));
        assert_eq!(usable(&limit, 400), ms(500));
    }

    #[test]
    fn a_limit_beyond_the_timeout_changes_nothing() {
        let mut limit = IdleLimit::default();
        limit.saw_end(ms(90_000), Instant::now());
        assert_eq!(usable(&limit, 1), NONE);
    }

    #[test]
    fn a_limit_from_before_a_restart_holds_and_is_measured_soon() {
        let now = Instant::now();
        let mut limits = IdleLimits::recalled(ms(5000));
        assert_eq!(limits.known(), Some(ms(5000)));
        assert_eq!(limits.usable_for(ms(150), NONE), ByKind::both(ms(4700)));
        assert!(limits.of(Kind::Used).wants_measuring(now));
        limits.saw_end(Kind::Used, ms(4000), now);
        assert_eq!(limits.known(), Some(ms(4000)));
    }

    #[test]
    fn what_the_origin_says_counts_unless_it_was_seen_to_close_sooner() {
        let now = Instant::now();
        let mut limit = IdleLimit::default();
        limit.told(15, now);
        assert_eq!(limit.limit, Some(ms(15_000)));
        limit.saw_end(ms(4000), now);
        limit.told(15, now);
        assert_eq!(limit.limit, Some(ms(4000)));
        limit.told(u64::MAX, now);
        limit.told(0, now);
        assert_eq!(limit.limit, Some(IDLE_LIMIT_LEARNED_MIN));
        let mut other = IdleLimit::default();
        other.told(u64::MAX, now);
        assert_eq!(other.limit, None);
    }

    #[test]
    fn it_is_measured_anew_after_a_while_and_may_grow_or_end() {
        let now = Instant::now();
        let mut limit = IdleLimit::default();
        assert!(!limit.wants_measuring(now), "there is nothing to measure");
        limit.saw_end(ms(5000), now);
        assert!(limit.wants_measuring(now), "it may have been a restart");
        limit.saw_end(ms(4900), now);
        assert!(!limit.wants_measuring(now + IDLE_LIMIT_PROBE_EVERY - ms(1)));
        let later = now + IDLE_LIMIT_PROBE_EVERY;
        assert!(limit.wants_measuring(later));
        limit.seen = Some(later);
        assert!(!limit.wants_measuring(later), "one at a time");
        limit.measured(Some(ms(15_000)), later);
        assert_eq!(limit.limit, Some(ms(15_000)));
        limit.measured(None, later);
        assert_eq!(limit.limit, None);
        limit.seen = Some(later);
        limit.saw_end(ms(700), later);
        limit.measured(Some(ms(15_000)), later);
        assert_eq!(limit.limit, Some(ms(700)), "what came meanwhile is not undone");
    }

    fn safe(limits: &IdleLimits, kind: Kind, now: Instant) -> Duration {
        *limits.safe_for(ms(150), NONE, now).of(kind)
    }

    #[test]
    fn without_a_limit_only_what_a_pilot_lived_through_is_safe() {
        let now = Instant::now();
        let mut limits = IdleLimits::default();
        assert_eq!(safe(&limits, Kind::Used, now), IDLE_LIMIT_LEARNED_MIN);
        limits.saw_alive(Kind::Used, ms(700), now);
        assert_eq!(safe(&limits, Kind::Used, now), IDLE_LIMIT_LEARNED_MIN);
        limits.saw_alive(Kind::Used, ms(10_000), now);
        limits.saw_alive(Kind::Used, ms(3000), now);
        assert_eq!(safe(&limits, Kind::Used, now), ms(9500));
        assert_eq!(safe(&limits, Kind::Fresh, now), IDLE_LIMIT_LEARNED_MIN, "it is another limit");
        limits.saw_alive(Kind::Used, NONE, now);
        assert_eq!(safe(&limits, Kind::Used, now), NONE, "it is as old as any gets");
    }

    #[test]
    fn a_proof_is_forgotten_and_given_anew() {
        let now = Instant::now();
        let mut limits = IdleLimits::default();
        limits.saw_alive(Kind::Used, NONE, now);
        let later = now + IDLE_LIMIT_PROBE_EVERY;
        assert_eq!(safe(&limits, Kind::Used, later - ms(1)), NONE);
        assert_eq!(safe(&limits, Kind::Used, later), IDLE_LIMIT_LEARNED_MIN);
        limits.saw_alive(Kind::Used, ms(8000), later);
        assert_eq!(safe(&limits, Kind::Used, later), ms(7600));
    }

    #[test]
    fn a_known_limit_is_safe_up_to_its_margin() {
        let now = Instant::now();
        let mut limits = IdleLimits::default();
        limits.saw_end(Kind::Used, ms(5000), now);
        assert_eq!(safe(&limits, Kind::Used, now), ms(4700));
    }

    #[test]
    fn fresh_ones_have_the_limit_of_used_ones_until_they_live_longer() {
        let now = Instant::now();
        let mut limits = IdleLimits::default();
        limits.saw_end(Kind::Used, ms(5000), now);
        assert_eq!(limits.usable_for(ms(1), NONE), ByKind::both(ms(4750)));
        assert!(limits.of(Kind::Fresh).wants_measuring(now));
        limits.begin_measuring(Kind::Fresh, now);
        limits.saw_alive(Kind::Fresh, ms(9000), now);
        let grown = ByKind { used: ms(4750), fresh: ms(8550) };
        assert_eq!(limits.usable_for(ms(1), NONE), grown, "while it is measured");
        limits.measured(Kind::Fresh, None, now);
        limits.saw_end(Kind::Used, ms(4000), now);
        let apart = ByKind { used: ms(3750), fresh: NONE };
        assert_eq!(limits.usable_for(ms(1), NONE), apart);
    }

    #[test]
    fn a_fresh_one_that_lived_longer_is_not_taken_for_a_used_one() {
        let now = Instant::now();
        let mut limits = IdleLimits::default();
        limits.saw_alive(Kind::Fresh, ms(20_000), now);
        limits.saw_end(Kind::Used, ms(5000), now);
        assert_eq!(limits.usable_for(ms(1), NONE).fresh, ms(19_000));
    }

    #[test]
    fn limits_are_the_same_for_the_shard_that_is_told() {
        let epoch = Instant::now();
        let now = epoch + Duration::from_secs(7);
        let mut limits = IdleLimits::default();
        assert_eq!(limits.to_words(epoch), Words::default());
        limits.saw_alive(Kind::Fresh, ms(1234), now);
        limits.told(15, now);
        assert_eq!(IdleLimits::from_words(limits.to_words(epoch), epoch), limits);
        limits.measured(Kind::Used, None, now);
        let told = IdleLimits::from_words(limits.to_words(epoch), epoch);
        assert_eq!(told.safe_for(ms(1), NONE, now), limits.safe_for(ms(1), NONE, now));
    }
}
