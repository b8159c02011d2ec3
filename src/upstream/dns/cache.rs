//! What the resolver remembers of names, for all shards: the answer in force, and for each family the last addresses.
//!
//! The families are looked up apart. One whose look-up fails, or is slow, keeps its last addresses for
//! `NAME_STALE_MAX`; one that is said to have none has none (RFC 8767 §4).

#![forbid(unsafe_code)]

use super::{Answer, DnsError};
use crate::limits::{
    ADDRESSES_MAX, NAME_RETRY_AFTER, NAME_STALE_MAX, NAMES_CACHED_MAX, NEGATIVE_TTL_MAX,
    NEGATIVE_TTL_MIN, POSITIVE_TTL_MAX, POSITIVE_TTL_MIN,
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// What came of looking for one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Addresses(Vec<IpAddr>, Duration),
    /// There are none, says who should know; and for how long.
    Nothing(DnsError, Duration),
    Failed(DnsError),
    /// Not yet; the other family was not kept waiting for it.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What deserves a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// From now on old addresses are used; why.
    Stale(DnsError),
    /// The look-up succeeds again.
    Recovered,
}

#[derive(Default)]
pub struct Cache {
    names: HashMap<Arc<str>, Known>,
}

struct Known {
    answer: Answer,
    families: [Last; 2],
    stale: bool,
}

/// The last of one family.
struct Last {
    found: Found,
    at: Instant,
    /// The last addresses, and when they were found.
    good: Vec<IpAddr>,
    good_at: Instant,
}

impl Cache {
    /// The answer in force: one that was got after `newer_than`, if that is given, and has not expired.
    pub fn get(&self, name: &str, newer_than: Option<Instant>, now: Instant) -> Option<Answer> {
        let answer = &self.names.get(name)?.answer;
        let is_newer = newer_than.is_none_or(|than| answer.at > than);
        (is_newer && now < answer.at + answer.ttl).then(|| answer.clone())
    }

    /// Takes in a look-up and says what follows from it.
    pub fn take(
        &mut self,
        name: &Arc<str>,
        [v4, v6]: [Found; 2],
        now: Instant,
    ) -> (Answer, Option<News>) {
        if self.names.len() >= NAMES_CACHED_MAX && !self.names.contains_key(name) {
            self.make_room();
        }
        let known = self.names.entry(name.clone()).or_insert_with(|| Known::new(name, now));
        known.families[Family::V4 as usize].take(v4, now);
        known.families[Family::V6 as usize].take(v6, now);
        let news = known.conclude(now);
        (known.answer.clone(), news)
    }

    /// Takes in the family that was late. Whoever asks for something newer gets it.
    pub fn complete(&mut self, name: &str, family: Family, found: Found, now: Instant) {
        let Some(known) = self.names.get_mut(name) else { return };
        known.families[family as usize].take(found, now);
        // A family that was late is worth no line, nor is one that came.
        known.conclude(now);
    }

    /// Names may lead elsewhere by now, as the machine's configuration changed: no answer is in force any more. The
    /// addresses stay for the case that the look-up fails; a network that comes and goes changes resolv.conf, too.
    pub fn expire(&mut self) {
        self.names.values_mut().for_each(|known| known.answer.ttl = Duration::ZERO);
    }

    fn make_room(&mut self) {
        let oldest = self.names.iter().min_by_key(|(_, known)| known.answer.at);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.names.remove(&name);
        }
    }
}

impl Known {
    fn new(name: &Arc<str>, now: Instant) -> Self {
        let none = Err(DnsError::NoAddress);
        let answer = Answer { name: name.clone(), result: none, ttl: NEGATIVE_TTL_MIN, at: now };
        Self { answer, families: [Last::new(now), Last::new(now)], stale: false }
    }

    /// Makes the answer of what is known of both families.
    fn conclude(&mut self, now: Instant) -> Option<News> {
        let [v4, v6] = &self.families;
        let addresses = interleave(v4.usable(now), v6.usable(now));
        self.answer.at = now;
        let was_stale = self.stale;
        if addresses.is_empty() {
            self.stale = false;
            (self.answer.result, self.answer.ttl) = {
                let (error, ttl) = why_none(v4, v6);
                (Err(error), ttl)
            };
            return None;
        }
        self.answer.ttl = v4.holds_for(now).min(v6.holds_for(now));
        let same = self.answer.result.as_ref().is_ok_and(|known| {
            known.len() == addresses.len() && addresses.iter().all(|ip| known.contains(ip))
        });
        if !same {
            // The same addresses stay the same allocation, by which shards see that nothing changed.
            self.answer.result = Ok(addresses.into());
        }
        let why_stale = v4.why_stale(now).or_else(|| v6.why_stale(now));
        self.stale = why_stale.is_some();
        match why_stale {
            Some(why) if !was_stale => Some(News::Stale(why)),
            None if was_stale => Some(News::Recovered),
            Some(_) | None => None,
        }
    }
}

impl Last {
    fn new(now: Instant) -> Self {
        Self { found: Found::Late, at: now, good: Vec::new(), good_at: now }
    }

    fn take(&mut self, found: Found, now: Instant) {
        match &found {
            Found::Addresses(addresses, _) => {
                self.good.clone_from(addresses);
                self.good_at = now;
            }
            Found::Nothing(..) => self.good.clear(),
            Found::Failed(_) | Found::Late => {}
        }
        (self.found, self.at) = (found, now);
    }

    fn usable(&self, now: Instant) -> &[IpAddr] {
        let age = now.saturating_duration_since(self.good_at);
        if self.found.is_sure() || age < NAME_STALE_MAX { &self.good } else { &[] }
    }

    /// How long an answer may be used that this family is part of.
    fn holds_for(&self, now: Instant) -> Duration {
        match &self.found {
            Found::Addresses(_, ttl) => (self.at
                + (*ttl).clamp(POSITIVE_TTL_MIN, POSITIVE_TTL_MAX))
            .saturating_duration_since(now)
            .max(POSITIVE_TTL_MIN),
            // That a name has no address of one family says nothing of the other's.
            Found::Nothing(..) => POSITIVE_TTL_MAX,
            Found::Failed(_) | Found::Late => NAME_RETRY_AFTER,
        }
    }

    fn why_stale(&self, now: Instant) -> Option<DnsError> {
        match &self.found {
            Found::Failed(why) if !self.usable(now).is_empty() => Some(why.clone()),
            Found::Failed(_) | Found::Addresses(..) | Found::Nothing(..) | Found::Late => None,
        }
    }
}

impl Found {
    fn is_sure(&self) -> bool {
        match self {
            Found::Addresses(..) | Found::Nothing(..) => true,
            Found::Failed(_) | Found::Late => false,
        }
    }
}

/// Why there is no address at all, and for how long that holds.
fn why_none(v4: &Last, v6: &Last) -> (DnsError, Duration) {
    // A failure is a better reason than a family that the name never had.
    for last in [v4, v6] {
        if let Found::Failed(why) = &last.found {
            return (why.clone(), NEGATIVE_TTL_MIN);
        }
    }
    let mut reason = (DnsError::NoAddress, NEGATIVE_TTL_MAX);
    for last in [v4, v6] {
        if let Found::Nothing(why, ttl) = &last.found {
            reason.1 = reason.1.min((*ttl).clamp(NEGATIVE_TTL_MIN, NEGATIVE_TTL_MAX));
            if *why == DnsError::NoSuchName {
                reason.0 = DnsError::NoSuchName;
            }
        }
    }
    reason
}

/// Families in turn, first come first, each address once: neither family starves where not all are used.
pub fn interleave(v4: &[IpAddr], v6: &[IpAddr]) -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = Vec::new();
    for i in 0..v4.len().max(v6.len()) {
        for address in [v4.get(i), v6.get(i)].into_iter().flatten() {
            if out.len() < ADDRESSES_MAX && !out.contains(address) {
                out.push(*address);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);
    const MS: Duration = Duration::from_millis(1);

    fn v4(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn v6(n: u16) -> IpAddr {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into()
    }

    fn found(addresses: &[IpAddr]) -> Found {
        Found::Addresses(addresses.to_vec(), TTL)
    }

    fn none() -> Found {
        Found::Nothing(DnsError::NoAddress, TTL)
    }

    fn failed() -> Found {
        Found::Failed(DnsError::TimedOut)
    }

    fn take(
        cache: &mut Cache,
        found: [Found; 2],
        now: Instant,
    ) -> (Result<Vec<IpAddr>, DnsError>, Duration) {
        let (answer, _) = cache.take(&"a.test".into(), found, now);
        (answer.result.map(|addresses| addresses.to_vec()), answer.ttl)
    }

    fn learn(cache: &mut Cache, found: [Found; 2], now: Instant) {
        cache.take(&"a.test".into(), found, now);
    }

    #[test]
    fn an_answer_is_in_force_for_its_ttl_and_for_whoever_has_an_older_one() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        assert!(cache.get("a.test", None, now).is_none());
        learn(&mut cache, [found(&[v4(1)]), none()], now);
        assert!(cache.get("a.test", None, now + TTL - MS).is_some());
        assert!(cache.get("a.test", None, now + TTL).is_none());
        assert!(cache.get("a.test", Some(now - MS), now + MS).is_some());
        assert!(cache.get("a.test", Some(now), now + MS).is_none(), "it is no newer");
        cache.expire();
        assert!(cache.get("a.test", None, now).is_none());
        assert_eq!(take(&mut cache, [failed(), failed()], now).0, Ok(vec![v4(1)]));
    }

    #[test]
    fn a_family_without_addresses_does_not_shorten_the_answer_of_the_other() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let nothing = Found::Nothing(DnsError::NoAddress, Duration::from_secs(1));
        assert_eq!(take(&mut cache, [found(&[v4(1)]), nothing], now), (Ok(vec![v4(1)]), TTL));
    }

    #[test]
    fn the_shorter_ttl_of_two_families_counts_and_both_are_clamped() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let zero = Found::Addresses(vec![v6(1)], Duration::ZERO);
        let (addresses, ttl) = take(&mut cache, [found(&[v4(1)]), zero], now);
        assert_eq!((addresses, ttl), (Ok(vec![v4(1), v6(1)]), POSITIVE_TTL_MIN));
        let year = Found::Addresses(vec![v4(1)], Duration::from_secs(31_536_000));
        assert_eq!(take(&mut cache, [year, none()], now).1, POSITIVE_TTL_MAX);
    }

    #[test]
    fn a_family_that_is_late_is_asked_for_soon_and_counts_once_it_is_there() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (addresses, ttl) = take(&mut cache, [found(&[v4(1)]), Found::Late], now);
        assert_eq!((addresses, ttl), (Ok(vec![v4(1)]), NAME_RETRY_AFTER));
        cache.complete("a.test", Family::V6, found(&[v6(1)]), now + MS);
        let answer = cache.get("a.test", Some(now), now + MS).unwrap();
        assert_eq!(answer.result.as_deref(), Ok(&[v4(1), v6(1)][..]));
        cache.complete("other.test", Family::V6, found(&[v6(1)]), now);
        assert!(cache.get("other.test", None, now).is_none(), "nobody asked for it");
    }

    #[test]
    fn a_family_that_is_late_later_on_keeps_its_last_addresses() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        learn(&mut cache, [found(&[v4(1)]), found(&[v6(1)])], now);
        let later = take(&mut cache, [found(&[v4(2)]), Found::Late], now + TTL);
        assert_eq!(later.0, Ok(vec![v4(2), v6(1)]));
    }

    #[test]
    fn old_addresses_are_used_while_the_resolver_fails_and_no_longer_than_the_bound() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        learn(&mut cache, [found(&[v4(1)]), none()], now);
        let just = now + NAME_STALE_MAX - MS;
        assert_eq!(
            take(&mut cache, [failed(), failed()], just),
            (Ok(vec![v4(1)]), NAME_RETRY_AFTER)
        );
        let over = now + NAME_STALE_MAX;
        let timed_out = Err(DnsError::TimedOut);
        assert_eq!(take(&mut cache, [failed(), failed()], over), (timed_out, NEGATIVE_TTL_MIN));
    }

    #[test]
    fn a_name_that_ceases_to_exist_has_no_old_addresses() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        learn(&mut cache, [found(&[v4(1)]), found(&[v6(1)])], now);
        let gone = || Found::Nothing(DnsError::NoSuchName, TTL);
        let (result, ttl) = take(&mut cache, [gone(), gone()], now + TTL);
        assert_eq!((result, ttl), (Err(DnsError::NoSuchName), NEGATIVE_TTL_MAX));
        assert_eq!(take(&mut cache, [failed(), failed()], now + TTL).0, Err(DnsError::TimedOut));
    }

    #[test]
    fn a_family_that_ends_takes_its_addresses_with_it() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        learn(&mut cache, [found(&[v4(1)]), found(&[v6(1)])], now);
        assert_eq!(take(&mut cache, [found(&[v4(1)]), none()], now).0, Ok(vec![v4(1)]));
        assert_eq!(take(&mut cache, [found(&[v4(1)]), failed()], now).0, Ok(vec![v4(1)]));
    }

    #[test]
    fn a_failure_explains_better_than_a_family_that_was_never_there() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        assert_eq!(take(&mut cache, [failed(), none()], now).0, Err(DnsError::TimedOut));
        assert_eq!(take(&mut cache, [none(), none()], now).0, Err(DnsError::NoAddress));
        let short = Found::Nothing(DnsError::NoSuchName, Duration::ZERO);
        let expected = (Err(DnsError::NoSuchName), NEGATIVE_TTL_MIN);
        assert_eq!(take(&mut cache, [none(), short], now), expected);
    }

    #[test]
    fn going_stale_and_coming_back_are_news_once() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let name: Arc<str> = "a.test".into();
        let mut news = |found| cache.take(&name, found, now).1;
        assert_eq!(news([failed(), failed()]), None, "there is nothing old to use");
        assert_eq!(news([found(&[v4(1)]), failed()]), None, "what is used is new");
        assert_eq!(news([failed(), failed()]), Some(News::Stale(DnsError::TimedOut)));
        assert_eq!(news([failed(), Found::Late]), None);
        assert_eq!(news([found(&[v4(1)]), none()]), Some(News::Recovered));
        assert_eq!(news([found(&[v4(1)]), none()]), None);
    }

    #[test]
    fn the_same_addresses_in_another_order_are_the_same_answer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let name: Arc<str> = "a.test".into();
        let mut addresses = |found| cache.take(&name, found, now).0.result.unwrap();
        let first = addresses([found(&[v4(1), v4(2)]), none()]);
        let turned = addresses([found(&[v4(2), v4(1)]), none()]);
        assert!(Arc::ptr_eq(&first, &turned));
        assert!(!Arc::ptr_eq(&first, &addresses([found(&[v4(2), v4(3)]), none()])));
    }

    #[test]
    fn at_the_bound_the_oldest_answer_goes() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..=NAMES_CACHED_MAX {
            let name = format!("n{n}").into();
            cache.take(&name, [found(&[v4(1)]), none()], now + MS * n as u32);
        }
        assert_eq!(cache.names.len(), NAMES_CACHED_MAX);
        assert!(!cache.names.contains_key("n0") && cache.names.contains_key("n1"));
    }

    #[test]
    fn families_take_turns_and_the_bound_holds() {
        let mixed = interleave(&[v4(1), v4(2), v4(1)], &[v6(1)]);
        assert_eq!(mixed, [v4(1), v6(1), v4(2)]);
        let many: Vec<IpAddr> = (0..100).map(v4).collect();
        assert_eq!(interleave(&many, &[]).len(), ADDRESSES_MAX);
    }
}
