//! The names that a shard knows: their addresses, how long they hold, and which are to be looked up again before that.

#![forbid(unsafe_code)]

use super::dns::{Answer, DnsError};
use crate::limits::{
    NAME_EXPIRED_USED_FOR, NAME_FRESH_MAX, NAME_FRESH_PER_USE, NAME_REFRESH_AHEAD, NAMES_CACHED_MAX,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(Default)]
pub struct KnownNames {
    names: HashMap<Arc<str>, Known>,
    /// Names that are looked up again at least this often, whether used or not.
    watched: HashMap<Arc<str>, Duration>,
}

struct Known {
    answer: Answer,
    used: Instant,
    uses: u32,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Holds.
    Fresh(Result<Arc<[IpAddr]>, DnsError>),
    /// Ceased to hold a moment ago: good enough for now, to be looked up meanwhile.
    Expired(Arc<[IpAddr]>),
    Unknown,
}

impl KnownNames {
    /// What a request that dials `name` goes by. Counts as a use.
    pub fn look(&mut self, name: &str, now: Instant) -> Look {
        let Some(known) = self.names.get_mut(name) else { return Look::Unknown };
        known.used = now;
        known.uses = known.uses.saturating_add(1);
        let until = known.answer.until();
        match &known.answer.result {
            result if now < until => Look::Fresh(result.clone()),
            Ok(addresses) if now < until + NAME_EXPIRED_USED_FOR => {
                Look::Expired(addresses.clone())
            }
            Ok(_) | Err(_) => Look::Unknown,
        }
    }

    /// The addresses of a name that connections are open to: keeps it fresh for as long as this is asked.
    pub fn stay(&mut self, name: &str, now: Instant) -> Option<Arc<[IpAddr]>> {
        let known = self.names.get_mut(name)?;
        known.used = now;
        let addresses = known.answer.result.as_ref().ok()?;
        (now < known.answer.until()).then(|| addresses.clone())
    }

    /// Whether there is an answer that has not expired, be it an error.
    pub fn holds(&self, name: &str, now: Instant) -> bool {
        self.names.get(name).is_some_and(|known| now < known.answer.until())
    }

    /// When the answer was got that is there, for whoever wants a newer one.
    pub fn answered_at(&self, name: &str) -> Option<Instant> {
        self.names.get(name).map(|known| known.answer.at)
    }

    /// Looks `name` up again every `every`, or more often where its TTL says so.
    pub fn watch(&mut self, name: Arc<str>, every: Duration) {
        self.watched.insert(name, every);
    }

    /// Remembers an answer. At the bound the name that was used least recently makes room. Returns whether the name leads
    /// elsewhere than was known.
    pub fn put(&mut self, answer: Answer, now: Instant) -> bool {
        if let Some(known) = self.names.get_mut(&answer.name) {
            let has_moved = leads_elsewhere(&known.answer, &answer);
            known.answer = answer;
            return has_moved;
        }
        if self.names.len() >= NAMES_CACHED_MAX {
            let oldest = self.names.iter().min_by_key(|(_, known)| known.used);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.names.remove(&name);
            }
        }
        self.names.insert(answer.name.clone(), Known { answer, used: now, uses: 1 });
        true
    }

    /// The names to look up now, so that none that is in use expires. Forgets those that nobody used for long.
    pub fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let watched = &self.watched;
        self.names.retain(|name, known| {
            now < known.answer.until() + NAME_EXPIRED_USED_FOR || watched.contains_key(name)
        });
        let is_due = |(name, known): &(&Arc<str>, &Known)| match watched.get(*name) {
            Some(every) => now >= known.refresh_at().min(known.answer.at + *every),
            None => known.is_in_use(now) && now >= known.refresh_at(),
        };
        self.names.iter().filter(is_due).map(|(name, _)| name.clone()).collect()
    }
}

/// Whether two answers have other addresses; their order says nothing. No answer leads nowhere else.
fn leads_elsewhere(old: &Answer, new: &Answer) -> bool {
    match (&old.result, &new.result) {
        (Ok(old), Ok(new)) => old.len() != new.len() || new.iter().any(|ip| !old.contains(ip)),
        (Err(_), Ok(_)) => true,
        (_, Err(_)) => false,
    }
}

impl Known {
    fn refresh_at(&self) -> Instant {
        let ahead = (self.answer.ttl / 4).min(NAME_REFRESH_AHEAD);
        self.answer.until() - ahead
    }

    /// An error is looked up again when a request wants to know.
    fn is_in_use(&self, now: Instant) -> bool {
        let fresh_for = NAME_FRESH_PER_USE.saturating_mul(self.uses).min(NAME_FRESH_MAX);
        self.answer.result.is_ok() && now.saturating_duration_since(self.used) < fresh_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TTL: Duration = Duration::from_secs(60);

    fn answer(name: &str, now: Instant) -> Answer {
        let result = Ok([IpAddr::from([192, 0, 2, 1])].into());
        Answer { name: name.into(), result, ttl: TTL, at: now }
    }

    fn known(now: Instant) -> KnownNames {
        let mut names = KnownNames::default();
        names.put(answer("a", now), now);
        names
    }

    #[test]
    fn an_answer_is_fresh_for_its_ttl_then_expired_then_unknown() {
        let now = Instant::now();
        let mut names = known(now);
        assert!(matches!(names.look("a", now + TTL - MS), Look::Fresh(Ok(_))));
        assert!(matches!(names.look("a", now + TTL), Look::Expired(_)));
        assert!(matches!(
            names.look("a", now + TTL + NAME_EXPIRED_USED_FOR - MS),
            Look::Expired(_)
        ));
        assert_eq!(names.look("a", now + TTL + NAME_EXPIRED_USED_FOR), Look::Unknown);
        assert_eq!(names.look("b", now), Look::Unknown);
    }

    #[test]
    fn an_error_holds_for_its_time_and_is_not_looked_up_again_by_itself() {
        let now = Instant::now();
        let mut names = KnownNames::default();
        names.put(Answer { result: Err(DnsError::NoSuchName), ..answer("a", now) }, now);
        assert_eq!(names.look("a", now + TTL - MS), Look::Fresh(Err(DnsError::NoSuchName)));
        assert_eq!(names.look("a", now + TTL), Look::Unknown);
        assert!(names.due(now + TTL - MS).is_empty());
    }

    #[test]
    fn a_name_in_use_is_due_before_it_expires() {
        let now = Instant::now();
        let mut names = known(now);
        let due_at = now + TTL - NAME_REFRESH_AHEAD;
        names.look("a", due_at - MS);
        assert!(names.due(due_at - MS).is_empty());
        assert_eq!(names.due(due_at), ["a".into()]);
        names.put(Answer { ttl: Duration::from_secs(4), ..answer("a", now) }, now);
        assert!(names.due(now + Duration::from_secs(3) - MS).is_empty());
        assert_eq!(names.due(now + Duration::from_secs(3)).len(), 1, "a quarter of a short TTL");
    }

    #[test]
    fn the_more_a_name_is_used_the_longer_it_is_kept_fresh() {
        let now = Instant::now();
        let mut names = known(now);
        let due = |names: &mut KnownNames, after: Duration| {
            let at = now + after;
            names.put(answer("a", at - TTL + MS), at);
            !names.due(at).is_empty()
        };
        assert!(due(&mut names, NAME_FRESH_PER_USE - MS));
        assert!(!due(&mut names, NAME_FRESH_PER_USE));
        names.look("a", now);
        assert!(due(&mut names, NAME_FRESH_PER_USE * 2 - MS));
        assert!(!due(&mut names, NAME_FRESH_PER_USE * 2));
        (0..1000).for_each(|_| drop(names.look("a", now)));
        assert!(due(&mut names, NAME_FRESH_MAX - MS));
        assert!(!due(&mut names, NAME_FRESH_MAX));
    }

    #[test]
    fn a_name_with_connections_stays_fresh_without_requests() {
        let now = Instant::now();
        let mut names = known(now);
        let later = now + NAME_FRESH_MAX * 2;
        names.put(answer("a", later - TTL + MS), later);
        assert!(names.due(later).is_empty());
        assert!(names.stay("a", later).is_some());
        assert_eq!(names.due(later).len(), 1);
        assert!(names.holds("a", later) && !names.holds("a", later + TTL));
        assert!(names.stay("a", later + TTL).is_none(), "expired addresses decide nothing");
    }

    #[test]
    fn a_watched_name_is_due_at_its_pace_used_or_not() {
        let now = Instant::now();
        let (mut names, every) = (known(now), Duration::from_secs(3));
        names.watch("a".into(), every);
        assert!(names.due(now + every - MS).is_empty());
        assert_eq!(names.due(now + every).len(), 1);
        assert_eq!(names.due(now + NAME_FRESH_MAX * 2).len(), 1, "it is never forgotten");
        let brief = Answer { ttl: Duration::from_secs(2), ..answer("a", now) };
        names.put(brief, now);
        assert_eq!(names.due(now + Duration::from_millis(1500)).len(), 1, "its TTL is shorter");
    }

    #[test]
    fn other_addresses_are_a_move_and_the_same_in_another_order_are_none() {
        let now = Instant::now();
        let [one, two] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let to = |ips: &[IpAddr]| Answer { result: Ok(ips.into()), ..answer("a", now) };
        let mut names = KnownNames::default();
        assert!(names.put(to(&[one, two]), now), "it was not known");
        assert!(!names.put(to(&[two, one]), now));
        assert!(names.put(to(&[two]), now));
        assert!(names.put(to(&[one]), now));
        let failed = Answer { result: Err(DnsError::NoSuchName), ..answer("a", now) };
        assert!(!names.put(failed, now));
        assert!(names.put(to(&[one]), now));
    }

    #[test]
    fn a_name_that_nobody_uses_is_forgotten() {
        let now = Instant::now();
        let mut names = known(now);
        let at = now + TTL + NAME_EXPIRED_USED_FOR;
        names.due(at - MS);
        assert!(names.answered_at("a").is_some());
        names.due(at);
        assert_eq!(names.answered_at("a"), None);
    }

    #[test]
    fn at_the_bound_the_least_recently_used_goes() {
        let now = Instant::now();
        let mut names = KnownNames::default();
        for n in 0..NAMES_CACHED_MAX as u32 {
            names.put(answer(&format!("n{n}"), now), now + MS * n);
        }
        names.look("n0", now + TTL);
        names.put(answer("one-more", now), now + TTL);
        assert_eq!(names.names.len(), NAMES_CACHED_MAX);
        assert!(names.answered_at("n0").is_some() && names.answered_at("n1").is_none());
    }
}
