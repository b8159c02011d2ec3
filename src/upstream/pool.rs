//! The idle connections of one origin: last in, first out, so that the warmest is used and the others can age.

#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Idle things, oldest at the front.
pub struct IdleSet<T> {
    idle: VecDeque<Idle<T>>,
}

struct Idle<T> {
    what: T,
    since: Instant,
}

impl<T> Default for IdleSet<T> {
    fn default() -> Self {
        Self { idle: VecDeque::new() }
    }
}

impl<T> IdleSet<T> {
    /// Keeps `what`, idle since `since`. Returns what has to go for it: the oldest, once `max` are kept; `what` itself if
    /// `max` is 0.
    pub fn put(&mut self, what: T, since: Instant, max: usize) -> Option<T> {
        if max == 0 {
            return Some(what);
        }
        let out = if self.idle.len() >= max { self.idle.pop_front() } else { None };
        // Nearly always the last; one that comes from another shard may have been idle before.
        let at = self.idle.iter().rposition(|idle| idle.since <= since).map_or(0, |at| at + 1);
        self.idle.insert(at, Idle { what, since });
        out.map(|idle| idle.what)
    }

    /// Takes the one that was put last, unless it has been idle for `timeout`: then the others have, too. Returns also
    /// since when it was idle.
    pub fn take(&mut self, now: Instant, timeout: Duration) -> Option<(T, Instant)> {
        self.idle
            .pop_back_if(|idle| now.saturating_duration_since(idle.since) < timeout)
            .map(|idle| (idle.what, idle.since))
    }

    /// Takes one that has been idle for `timeout`, oldest first.
    pub fn take_expired(&mut self, now: Instant, timeout: Duration) -> Option<(T, Instant)> {
        self.idle
            .pop_front_if(|idle| now.saturating_duration_since(idle.since) >= timeout)
            .map(|idle| (idle.what, idle.since))
    }

    /// How many have been idle for `age`.
    pub fn older_than(&self, age: Duration, now: Instant) -> usize {
        let is_old = |idle: &&Idle<T>| now.saturating_duration_since(idle.since) >= age;
        self.idle.iter().take_while(is_old).count()
    }

    /// Takes the one that has been idle for longest.
    pub fn take_oldest(&mut self) -> Option<T> {
        self.idle.pop_front().map(|idle| idle.what)
    }

    /// Takes those that `is_dead` says are, each with since when it was idle.
    pub fn take_dead(&mut self, mut is_dead: impl FnMut(&T) -> bool) -> Vec<(T, Instant)> {
        let (dead, alive): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.idle).into_iter().partition(|idle| is_dead(&idle.what));
        self.idle = alive;
        dead.into_iter().map(|idle| (idle.what, idle.since)).collect()
    }

    /// All, in the order that `take_dead` asks about them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.idle.iter().map(|idle| &idle.what)
    }

    pub fn len(&self) -> usize {
        self.idle.len()
    }

    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(50);

    fn first(taken: (i32, Instant)) -> i32 {
        taken.0
    }

    #[test]
    fn one_that_was_idle_before_stands_before() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        let before = now - Duration::from_secs(1);
        set.put(1, now, 8);
        set.put(2, before, 8);
        set.put(3, now, 8);
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(set.take(now, TIMEOUT), Some((3, now)));
        assert_eq!(set.take(now, TIMEOUT), Some((1, now)));
        assert_eq!(set.take(now, TIMEOUT), Some((2, before)));
    }

    #[test]
    fn the_last_in_is_the_first_out() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        for n in 0..3 {
            assert_eq!(set.put(n, now, 8), None);
        }
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(2));
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(1));
    }

    #[test]
    fn at_the_bound_the_oldest_goes() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        assert_eq!(set.put(1, now, 2), None);
        assert_eq!(set.put(2, now, 2), None);
        assert_eq!(set.put(3, now, 2), Some(1));
        assert_eq!(set.len(), 2);
        assert_eq!(IdleSet::default().put(1, now, 0), Some(1));
    }

    #[test]
    fn what_was_idle_for_the_timeout_is_not_used() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        set.put(1, now, 8);
        set.put(2, now + Duration::from_secs(1), 8);
        let later = now + TIMEOUT;
        assert_eq!(set.older_than(TIMEOUT, later), 1);
        assert_eq!(set.take_expired(later, TIMEOUT).map(first), Some(1));
        assert_eq!(set.take_expired(later, TIMEOUT), None);
        assert_eq!(set.take(later, TIMEOUT).map(first), Some(2));
        set.put(3, now, 8);
        assert_eq!(set.take(later, TIMEOUT), None);
    }

    #[test]
    fn the_dead_are_taken_out_and_the_order_stays() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        for n in 0..4 {
            set.put(n, now, 8);
        }
        assert_eq!(set.take_dead(|n| n % 2 == 0), vec![(0, now), (2, now)]);
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(3));
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(1));
        assert!(set.is_empty());
    }
}
