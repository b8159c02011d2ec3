//! provisional
use super::dns::{Answer, DnsError};
use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Instant};
type Known = (Result<Arc<[IpAddr]>, DnsError>, Instant);
#[derive(Default)]
pub struct Cache(HashMap<Arc<str>, Known>);
impl Cache {
    pub fn get(&mut self, name: &str, now: Instant) -> Option<Result<Arc<[IpAddr]>, DnsError>> {
        self.0.get(name).filter(|k| k.1 > now).map(|k| k.0.clone())
    }
    pub fn put(&mut self, a: Answer, now: Instant) {
        self.0.insert(a.name, (a.result, now + a.ttl));
    }
}
