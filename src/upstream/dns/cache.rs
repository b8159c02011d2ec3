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
mod tests;
