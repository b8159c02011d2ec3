//! The idle connections of one origin: last in, first out, so that the warmest is used and the others can age.
//!
//! Those that carried a request before go first: their windows are open. Those that never did are kept apart, because
//! origins often give them another time to live.

#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What an origin's limits differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It carried a request.
    Used,
    /// It never did.
    Fresh,
}

/// One of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByKind<T> {
    pub used: T,
    pub fresh: T,
}

impl<T> ByKind<T> {
    pub fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Used => &self.used,
            Kind::Fresh => &self.fresh,
        }
    }

    pub fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Used => &mut self.used,
            Kind::Fresh => &mut self.fresh,
        }
    }

    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> ByKind<U> {
        ByKind { used: f(&self.used), fresh: f(&self.fresh) }
    }
}

impl<T: Copy> ByKind<T> {
    pub fn both(value: T) -> Self {
        Self { used: value, fresh: value }
    }
}

/// Idle things, of each kind the oldest at the front.
pub struct IdleSet<T> {
    idle: ByKind<VecDeque<Idle<T>>>,
}

struct Idle<T> {
    what: T,
    since: Instant,
}

impl<T> Default for IdleSet<T> {
    fn default() -> Self {
        Self { idle: ByKind { used: VecDeque::new(), fresh: VecDeque::new() } }
    }
}

impl<T> IdleSet<T> {
    /// Keeps `what`, idle since `since`. Returns what has to go for it: the oldest, once `max` are kept; `what` itself if
    /// `max` is 0.
    pub fn put(&mut self, what: T, kind: Kind, since: Instant, max: usize) -> Option<T> {
        if max == 0 {
            return Some(what);
        }
        let out = if self.len() >= max { self.take_oldest() } else { None };
        let idle = self.idle.of_mut(kind);
        // Nearly always the last; one that comes from another shard may have been idle before.
        let at = idle.iter().rposition(|idle| idle.since <= since).map_or(0, |at| at + 1);
        idle.insert(at, Idle { what, since });
        out
    }

    /// Takes the one that was put last, a used one if there is one, unless it has been idle for the time in `usable`:
    /// then the others of its kind have, too. Returns also since when it was idle.
    pub fn take(&mut self, now: Instant, usable: ByKind<Duration>) -> Option<(T, Instant)> {
        let mut last = |kind| {
            let is_usable = |idle: &mut Idle<T>| age(idle, now) < *usable.of(kind);
            self.idle.of_mut(kind).pop_back_if(is_usable)
        };
        last(Kind::Used).or_else(|| last(Kind::Fresh)).map(|idle| (idle.what, idle.since))
    }

    /// Takes one that has been idle for the time in `usable`, oldest first.
    pub fn take_expired(&mut self, now: Instant, usable: ByKind<Duration>) -> Option<(T, Instant)> {
        let mut first = |kind| {
            let is_expired = |idle: &mut Idle<T>| age(idle, now) >= *usable.of(kind);
            self.idle.of_mut(kind).pop_front_if(is_expired)
        };
        first(Kind::Used).or_else(|| first(Kind::Fresh)).map(|idle| (idle.what, idle.since))
    }

    /// How many of each kind have been idle for so long.
    pub fn older_than(&self, ages: ByKind<Duration>, now: Instant) -> ByKind<usize> {
        let older = |kind| {
            let is_old = |idle: &&Idle<T>| age(idle, now) >= *ages.of(kind);
            self.idle.of(kind).iter().take_while(is_old).count()
        };
        ByKind { used: older(Kind::Used), fresh: older(Kind::Fresh) }
    }

    /// For how long the oldest of a kind has been idle.
    pub fn oldest_age(&self, kind: Kind, now: Instant) -> Option<Duration> {
        self.idle.of(kind).front().map(|idle| age(idle, now))
    }

    /// Takes the one that has been idle for longest.
    pub fn take_oldest(&mut self) -> Option<T> {
        let since = self.idle.map(|idle| idle.front().map(|idle| idle.since));
        let kind = match (since.used, since.fresh) {
            (Some(used), Some(fresh)) if fresh < used => Kind::Fresh,
            (Some(_), _) => Kind::Used,
            (None, _) => Kind::Fresh,
        };
        self.idle.of_mut(kind).pop_front().map(|idle| idle.what)
    }

    /// Takes those that `is_dead` says are, each with since when it was idle.
    pub fn take_dead(&mut self, mut is_dead: impl FnMut(&T) -> bool) -> Vec<(T, Instant)> {
        let mut taken = Vec::new();
        for kind in [Kind::Used, Kind::Fresh] {
            let idle = self.idle.of_mut(kind);
            let (dead, alive): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(idle).into_iter().partition(|idle| is_dead(&idle.what));
            *idle = alive;
            taken.extend(dead.into_iter().map(|idle| (idle.what, idle.since)));
        }
        taken
    }

    /// All, in the order that `take_dead` asks about them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.idle.used.iter().chain(&self.idle.fresh).map(|idle| &idle.what)
    }

    pub fn len(&self) -> usize {
        self.idle.used.len() + self.idle.fresh.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many never carried a request.
    pub fn fresh(&self) -> usize {
        self.idle.fresh.len()
    }
}

fn age<T>(idle: &Idle<T>, now: Instant) -> Duration {
    now.saturating_duration_since(idle.since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: ByKind<Duration> =
        ByKind { used: Duration::from_secs(50), fresh: Duration::from_secs(50) };

    fn first(taken: (i32, Instant)) -> i32 {
        taken.0
    }

    fn put(set: &mut IdleSet<i32>, n: i32, since: Instant) {
        assert_eq!(set.put(n, Kind::Used, since, 8), None);
    }

    #[test]
    fn one_that_was_idle_before_stands_before() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        let before = now - Duration::from_secs(1);
        put(&mut set, 1, now);
        put(&mut set, 2, before);
        put(&mut set, 3, now);
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), [2, 1, 3]);
        assert_eq!(set.oldest_age(Kind::Used, now), Some(Duration::from_secs(1)));
        assert_eq!(set.take(now, TIMEOUT), Some((3, now)));
        assert_eq!(set.take(now, TIMEOUT), Some((1, now)));
        assert_eq!(set.take(now, TIMEOUT), Some((2, before)));
    }

    #[test]
    fn the_last_in_is_the_first_out() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        for n in 0..3 {
            put(&mut set, n, now);
        }
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(2));
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(1));
    }

    #[test]
    fn those_that_carried_a_request_go_before_those_that_never_did() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        put(&mut set, 1, now);
        assert_eq!(set.put(2, Kind::Fresh, now + Duration::from_secs(1), 8), None);
        assert_eq!((set.len(), set.fresh()), (2, 1));
        let later = now + Duration::from_secs(2);
        assert_eq!(set.take(later, TIMEOUT).map(first), Some(1));
        assert_eq!(set.take(later, TIMEOUT).map(first), Some(2));
        assert!(set.is_empty());
    }

    #[test]
    fn each_kind_has_its_own_time() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        put(&mut set, 1, now);
        assert_eq!(set.put(2, Kind::Fresh, now, 8), None);
        let usable = ByKind { used: Duration::from_secs(5), fresh: Duration::from_secs(60) };
        let later = now + Duration::from_secs(5);
        assert_eq!(set.older_than(usable, later), ByKind { used: 1, fresh: 0 });
        assert_eq!(set.take(later, usable).map(first), Some(2), "the used one is too old");
        assert_eq!(set.take_expired(later, usable).map(first), Some(1));
        assert_eq!(set.take_expired(later, usable), None);
    }

    #[test]
    fn at_the_bound_the_oldest_goes_of_whichever_kind() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(set.put(1, Kind::Used, at(1), 2), None);
        assert_eq!(set.put(2, Kind::Fresh, at(2), 2), None);
        assert_eq!(set.put(3, Kind::Used, at(3), 2), Some(1));
        assert_eq!(set.put(4, Kind::Used, at(4), 2), Some(2));
        assert_eq!(set.len(), 2);
        assert_eq!(IdleSet::default().put(1, Kind::Used, now, 0), Some(1));
    }

    #[test]
    fn what_was_idle_for_the_timeout_is_not_used() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        put(&mut set, 1, now);
        put(&mut set, 2, now + Duration::from_secs(1));
        let later = now + TIMEOUT.used;
        assert_eq!(set.older_than(TIMEOUT, later).used, 1);
        assert_eq!(set.take_expired(later, TIMEOUT).map(first), Some(1));
        assert_eq!(set.take_expired(later, TIMEOUT), None);
        assert_eq!(set.take(later, TIMEOUT).map(first), Some(2));
        put(&mut set, 3, now);
        assert_eq!(set.take(later, TIMEOUT), None);
    }

    #[test]
    fn the_dead_are_taken_out_and_the_order_stays() {
        let (mut set, now) = (IdleSet::default(), Instant::now());
        for n in 0..4 {
            put(&mut set, n, now);
        }
        assert_eq!(set.put(4, Kind::Fresh, now, 8), None);
        assert_eq!(set.take_dead(|n| n % 2 == 0), vec![(0, now), (2, now), (4, now)]);
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(3));
        assert_eq!(set.take(now, TIMEOUT).map(first), Some(1));
        assert!(set.is_empty());
    }
}
