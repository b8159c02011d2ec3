//! How often connections may be made that no request asked for: so many a second for an origin, fewer and fewer while it
//! fails.

#![forbid(unsafe_code)]

use crate::limits::{FLOOR_BACKOFF_MAX, FLOOR_BACKOFF_MIN, FLOOR_DIALS_PER_SECOND};
use std::time::{Duration, Instant};

/// One origin's budget.
#[derive(Clone, Copy, Debug)]
pub struct DialBudget {
    /// Dials since `since`, which moves on each second.
    spent: u32,
    since: Instant,
    /// Failures since the last success.
    failures: u32,
    not_before: Instant,
}

impl DialBudget {
    pub fn new(now: Instant) -> Self {
        Self { spent: 0, since: now, failures: 0, not_before: now }
    }

    /// How many of `wanted` dials may begin now, with `under_way` begun already. After a failure one at a time, and only
    /// once its pause is over.
    pub fn grant(&mut self, wanted: usize, under_way: usize, now: Instant) -> usize {
        if now < self.not_before || (self.failures > 0 && under_way > 0) {
            return 0;
        }
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.spent) = (now, 0);
        }
        let at_once = if self.failures > 0 { 1 } else { usize::MAX };
        let left = FLOOR_DIALS_PER_SECOND.saturating_sub(self.spent);
        let granted = wanted.min(at_once).min(left as usize);
        self.spent += granted as u32; // No more than was left.
        granted
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A dial failed, or what it made was closed at once. The pause doubles with each failure in a row; `jitter`, from 0 up
    /// to 1, makes it up to a half longer, so that the shards of many proxies do not come back together. Failures of dials
    /// that were under way together count once. Returns the pause, if there is a new one.
    pub fn failed(&mut self, jitter: f64, now: Instant) -> Option<Duration> {
        if now < self.not_before {
            return None;
        }
        let pause = FLOOR_BACKOFF_MIN.saturating_mul(1 << self.failures.min(16));
        let pause = pause.min(FLOOR_BACKOFF_MAX).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + pause;
        Some(pause)
    }

    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_dials_and_the_next_as_many() {
        let now = Instant::now();
        let mut budget = DialBudget::new(now);
        let max = FLOOR_DIALS_PER_SECOND as usize;
        assert_eq!(budget.grant(max - 1, 0, now), max - 1);
        assert_eq!(budget.grant(5, 0, now), 1);
        assert_eq!(budget.grant(5, 0, now + Duration::from_millis(999)), 0);
        assert_eq!(budget.grant(5, 0, now + Duration::from_secs(1)), 5);
    }

    #[test]
    fn failures_double_the_pause_up_to_the_bound_and_a_success_ends_it() {
        let mut now = Instant::now();
        let mut budget = DialBudget::new(now);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert_eq!(budget.grant(4, 0, now), if pauses.is_empty() { 4 } else { 1 });
            let pause = budget.failed(0.0, now).unwrap();
            assert_eq!(budget.grant(4, 0, now + pause - Duration::from_millis(1)), 0);
            now += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(budget.is_failing());
        budget.succeeded();
        assert_eq!(budget.grant(4, 0, now), 4);
        assert_eq!(budget.failed(0.0, now), Some(FLOOR_BACKOFF_MIN));
    }

    #[test]
    fn after_a_failure_one_dial_is_under_way_at_a_time() {
        let now = Instant::now();
        let mut budget = DialBudget::new(now);
        let later = now + budget.failed(0.0, now).unwrap();
        assert_eq!(budget.grant(4, 1, later), 0);
        assert_eq!(budget.grant(4, 0, later), 1);
    }

    #[test]
    fn dials_that_fail_together_are_one_failure() {
        let now = Instant::now();
        let mut budget = DialBudget::new(now);
        assert!(budget.failed(0.0, now).is_some());
        assert!(budget.failed(0.0, now).is_none());
    }

    #[test]
    fn jitter_makes_the_pause_longer_by_a_half_at_most() {
        let now = Instant::now();
        let pause = |jitter| DialBudget::new(now).failed(jitter, now);
        assert_eq!(pause(0.5), Some(FLOOR_BACKOFF_MIN.mul_f64(1.25)));
        assert_eq!(pause(9.0), Some(FLOOR_BACKOFF_MIN.mul_f64(1.5)));
    }
}
