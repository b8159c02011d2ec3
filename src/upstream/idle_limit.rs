//! After how long an origin closes an idle connection, learned from those that it closed and from what it says.
//!
//! A connection is retired before that, so that no request meets the close half-way. The limit falls at once with each
//! earlier close. It grows by measurement only: now and then a connection past the limit is put apart, where it carries no
//! request, and looked at until the origin closes it.

#![forbid(unsafe_code)]

use crate::limits::{
    IDLE_LIMIT_LEARNED_MIN, IDLE_LIMIT_MARGIN_MIN, IDLE_LIMIT_PROBE_EVERY, IDLE_LIMIT_TOLD_MAX,
};
use std::time::{Duration, Instant};

/// What is known of one origin.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdleLimit {
    limit: Option<Duration>,
    /// When the limit was last seen to hold, or began to be measured; None: it is so new that it may be a mistake.
    seen: Option<Instant>,
}

impl IdleLimit {
    /// As it was known before a restart: believed, and measured soon, for the origin may be another by now.
    pub fn recalled(limit: Duration) -> Self {
        Self { limit: Some(limit), seen: None }
    }

    pub fn known(&self) -> Option<Duration> {
        self.limit
    }

    /// The origin closed a connection that was idle for `idle`. Closes that come sooner than any origin's limit mean
    /// something else: a restart, a refusal.
    pub fn saw_end(&mut self, idle: Duration, now: Instant) {
        if idle < IDLE_LIMIT_LEARNED_MIN {
            return;
        }
        // A first close, or a much earlier one, may be a restart in disguise: it is believed, and measured soon.
        let seen = self.limit.is_some_and(|limit| idle >= limit - limit / 10).then_some(now);
        if self.limit.is_none_or(|limit| idle <= limit) {
            (self.limit, self.seen) = (Some(idle), seen);
        }
    }

    /// A response said `Keep-Alive: timeout=` that many seconds (RFC 2068 §19.7.1.1; in use, though no standard defines it
    /// now). What was seen counts for more than what is said, unless it is longer.
    pub fn told(&mut self, seconds: u64, now: Instant) {
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

    pub fn begin_measuring(&mut self, now: Instant) {
        self.seen = Some(now);
    }

    /// The connection that was put apart was closed after `idle`. None: it was not, for as long as any is kept.
    pub fn measured(&mut self, idle: Option<Duration>, now: Instant) {
        // Closes came much earlier meanwhile.
        if self.seen.is_none() {
            return;
        }
        self.limit = idle.map(|idle| idle.max(IDLE_LIMIT_LEARNED_MIN));
        self.seen = Some(now);
    }

    /// How long a connection may be idle to be used again, where a round trip takes `rtt`: the close that the origin sends
    /// is half a round trip away, the request as much, and its last answer as much again. Never less than half the limit.
    pub fn usable_for(&self, rtt: Duration, timeout: Duration) -> Duration {
        let Some(limit) = self.limit else { return timeout };
        let margin = (2 * rtt).max(limit / 20).max(IDLE_LIMIT_MARGIN_MIN);
        limit.saturating_sub(margin).max(limit / 2).min(timeout)
    }
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
        assert_eq!(limit.known(), Some(ms(5000)));
    }

    #[test]
    fn closes_too_soon_for_a_limit_teach_nothing() {
        let mut limit = IdleLimit::default();
        limit.saw_end(IDLE_LIMIT_LEARNED_MIN - ms(1), Instant::now());
        assert_eq!(limit.known(), None);
        limit.saw_end(IDLE_LIMIT_LEARNED_MIN, Instant::now());
        assert_eq!(limit.known(), Some(IDLE_LIMIT_LEARNED_MIN));
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
        let mut limit = IdleLimit::recalled(ms(5000));
        assert_eq!((limit.known(), usable(&limit, 150)), (Some(ms(5000)), ms(4700)));
        assert!(limit.wants_measuring(now));
        limit.saw_end(ms(4000), now);
        assert_eq!(limit.known(), Some(ms(4000)));
    }

    #[test]
    fn what_the_origin_says_counts_unless_it_was_seen_to_close_sooner() {
        let now = Instant::now();
        let mut limit = IdleLimit::default();
        limit.told(15, now);
        assert_eq!(limit.known(), Some(ms(15_000)));
        limit.saw_end(ms(4000), now);
        limit.told(15, now);
        assert_eq!(limit.known(), Some(ms(4000)));
        limit.told(u64::MAX, now);
        limit.told(0, now);
        assert_eq!(limit.known(), Some(IDLE_LIMIT_LEARNED_MIN));
        let mut other = IdleLimit::default();
        other.told(u64::MAX, now);
        assert_eq!(other.known(), None);
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
        limit.begin_measuring(later);
        assert!(!limit.wants_measuring(later), "one at a time");
        limit.measured(Some(ms(15_000)), later);
        assert_eq!(limit.known(), Some(ms(15_000)));
        limit.measured(None, later);
        assert_eq!(limit.known(), None);
        limit.begin_measuring(later);
        limit.saw_end(ms(700), later);
        limit.measured(Some(ms(15_000)), later);
        assert_eq!(limit.known(), Some(ms(700)), "what came meanwhile is not undone");
    }
}
