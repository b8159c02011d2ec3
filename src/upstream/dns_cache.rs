//! What a shard remembers of names: addresses, or that there are none, for as long as the answer holds.

#![forbid(unsafe_code)]

use super::dns::{Answer, DnsError};
use crate::limits::NAMES_CACHED_MAX;
use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Instant};

#[derive(Default)]
pub struct Cache {
    names: HashMap<Arc<str>, Known>,
}

struct Known {
    result: Result<Arc<[IpAddr]>, DnsError>,
    until: Instant,
}

impl Cache {
    /// What is known of `name`; None if nothing, or nothing any more.
    pub fn get(&self, name: &str, now: Instant) -> Option<Result<Arc<[IpAddr]>, DnsError>> {
        self.names.get(name).filter(|known| now < known.until).map(|known| known.result.clone())
    }

    /// Remembers an answer. At the bound the entry that expires first makes room.
    pub fn put(&mut self, answer: Answer, now: Instant) {
        if self.names.len() >= NAMES_CACHED_MAX && !self.names.contains_key(&answer.name) {
            self.names.retain(|_, known| now < known.until);
        }
        if self.names.len() >= NAMES_CACHED_MAX && !self.names.contains_key(&answer.name) {
            let first = self.names.iter().min_by_key(|(_, known)| known.until);
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                self.names.remove(&name);
            }
        }
        let known = Known { result: answer.result, until: now + answer.ttl };
        self.names.insert(answer.name, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn answer(name: &str, ttl_secs: u64) -> Answer {
        Answer {
            name: name.into(),
            result: Ok([IpAddr::from([192, 0, 2, 1])].into()),
            ttl: Duration::from_secs(ttl_secs),
        }
    }

    #[test]
    fn an_answer_holds_for_its_ttl_and_no_longer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(answer("a", 5), now);
        assert!(cache.get("a", now + Duration::from_millis(4999)).is_some());
        assert!(cache.get("a", now + Duration::from_secs(5)).is_none());
        assert!(cache.get("b", now).is_none());
    }

    #[test]
    fn errors_are_remembered_too() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(Answer { result: Err(DnsError::NoSuchName), ..answer("a", 1) }, now);
        assert_eq!(cache.get("a", now), Some(Err(DnsError::NoSuchName)));
    }

    #[test]
    fn at_the_bound_the_next_to_expire_goes() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..NAMES_CACHED_MAX {
            cache.put(answer(&format!("n{n}"), 10 + n as u64), now);
        }
        cache.put(answer("one-more", 9), now);
        assert_eq!(cache.names.len(), NAMES_CACHED_MAX);
        assert!(cache.get("n0", now).is_none());
        assert!(cache.get("n1", now).is_some());
        // Expired ones go before any that still holds.
        cache.put(answer("later", 99), now + Duration::from_secs(20));
        assert!(cache.get("n12", now + Duration::from_secs(20)).is_some());
        assert!(cache.names.len() < NAMES_CACHED_MAX);
    }
}
