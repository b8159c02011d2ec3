//! Latencies of the origins: last byte of a request sent to first byte of its response.
//!
//! Each shard keeps one `OriginLatency` an origin and records into it without lock or atomic.
//! On demand it gives snapshots away; a `LatencyReport` merges those of all shards.

#![forbid(unsafe_code)]

mod hgrm;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::http2_use::Http2Use;
use super::paid::Paid;
use crate::limits::LATENCY_US_MAX;

/// Digits of a latency that are kept: 0.1 % of its value at worst.
const SIGNIFICANT_DIGITS: u8 = 3;

/// How a request came to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It was idle and at hand.
    Reused,
    /// It was idle at another shard.
    Lent,
    /// Another request was done with it while this one waited.
    Waited,
    /// Dialled for it.
    New,
}

impl Acquired {
    /// In the access log.
    pub fn word(self) -> &'static str {
        match self {
            Acquired::Reused => "reused",
            Acquired::Lent => "lent",
            Acquired::Waited => "waited",
            Acquired::New => "new",
        }
    }
}

/// What a request paid for its connection, in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub dns: Duration,
    pub connect: Duration,
    pub tls: Duration,
    /// All that was none of these: in line for a connection.
    pub wait: Duration,
}

/// The latencies of one origin on one shard, since the start. Memory: 16 KiB at first; it doubles
/// its range as needed, 80 KiB for up to 0.5 s, 184 KiB for an hour.
#[derive(Clone, Debug)]
pub struct OriginLatency {
    histogram: Histogram<u64>,
    reused: u64,
    lent: u64,
    waited: u64,
    new: u64,
    paid: Paid,
}

/// What one shard knows of one origin at one moment; may go to another thread.
#[derive(Clone, Debug)]
pub struct OriginSnapshot {
    origin: String,
    latency: OriginLatency,
    http2: Http2Use,
}

impl OriginSnapshot {
    pub fn with_http2(self, http2: Http2Use) -> Self {
        Self { http2, ..self }
    }
}

/// The latencies of all origins, merged over the shards.
#[derive(Clone, Debug, Default)]
pub struct LatencyReport {
    origins: BTreeMap<String, OriginLatency>,
    http2: BTreeMap<String, Http2Use>,
}

impl OriginLatency {
    /// Nothing recorded yet.
    pub fn new() -> OriginLatency {
        let histogram = Histogram::new(SIGNIFICANT_DIGITS).expect("3 digits are in range");
        OriginLatency { histogram, reused: 0, lent: 0, waited: 0, new: 0, paid: Paid::default() }
    }

    /// Takes one latency down, in microseconds; it counts as 1 us at least and as
    /// `LATENCY_US_MAX` at most. Allocates only when the value is beyond all before it.
    pub fn record(&mut self, rtt_us: u64, how: Acquired, cost: Cost) {
        let value = rtt_us.clamp(1, LATENCY_US_MAX);
        self.histogram.record(value).expect("the histogram grows and an hour fits");
        match how {
            Acquired::Reused => self.reused += 1,
            Acquired::Lent => self.lent += 1,
            Acquired::Waited => self.waited += 1,
            Acquired::New => self.new += 1,
        }
        // An idle connection at hand costs nothing, and the request that takes it should not pay for the count.
        if how != Acquired::Reused {
            self.paid.record(cost);
        }
    }

    /// A copy to give away, under the origin's name (as people read it, `https://name:port`).
    pub fn snapshot(&self, origin: &str) -> OriginSnapshot {
        let (origin, latency) = (origin.to_owned(), self.clone());
        OriginSnapshot { origin, latency, http2: Http2Use::default() }
    }

    fn add(&mut self, other: &OriginLatency) {
        self.histogram.add(&other.histogram).expect("the histogram grows and an hour fits");
        self.reused += other.reused;
        self.lent += other.lent;
        self.waited += other.waited;
        self.new += other.new;
        self.paid.add(&other.paid);
    }
}

impl Default for OriginLatency {
    fn default() -> OriginLatency {
        OriginLatency::new()
    }
}

impl LatencyReport {
    /// Adds what one shard knows of one origin; the same origin of several shards becomes one. One that never answered has
    /// no line: anybody's mistaken Host would make one.
    pub fn merge(&mut self, snapshot: OriginSnapshot) {
        if !snapshot.http2.is_nothing() {
            self.http2.entry(snapshot.origin.clone()).or_default().add(snapshot.http2);
        }
        if snapshot.latency.histogram.is_empty() {
            return;
        }
        match self.origins.get_mut(&snapshot.origin) {
            Some(latency) => latency.add(&snapshot.latency),
            None => {
                self.origins.insert(snapshot.origin, snapshot.latency);
            }
        }
    }
}

impl FromIterator<OriginSnapshot> for LatencyReport {
    fn from_iter<T: IntoIterator<Item = OriginSnapshot>>(snapshots: T) -> LatencyReport {
        let mut report = LatencyReport::default();
        for snapshot in snapshots {
            report.merge(snapshot);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn latency(values: impl IntoIterator<Item = u64>) -> OriginLatency {
        let mut latency = OriginLatency::new();
        for value in values {
            latency.record(value, Acquired::Reused, Cost::default());
        }
        latency
    }

    #[test]
    fn latencies_beyond_the_range_count_at_its_ends() {
        let latency = latency([0, LATENCY_US_MAX, LATENCY_US_MAX + 1, u64::MAX]);
        assert_eq!(latency.histogram.len(), 4);
        assert_eq!(latency.histogram.min(), 1);
        assert_eq!(latency.histogram.count_at(LATENCY_US_MAX), 3);
    }

    #[test]
    fn three_digits_are_kept_over_the_whole_range() {
        for exponent in 0..=31 {
            let value = 3 * (1_u64 << exponent) / 2 + 1;
            let value = value.min(LATENCY_US_MAX);
            let kept = latency([value]).histogram.value_at_quantile(0.5);
            assert!(kept >= value && (kept - value) * 1000 <= value, "{value} became {kept}");
        }
    }

    #[test]
    fn a_histogram_takes_the_memory_that_is_documented() {
        let bytes = |us| latency([us]).histogram.distinct_values() * 8;
        assert_eq!(bytes(1), 16 * 1024);
        assert_eq!(bytes(500_000), 80 * 1024);
        assert_eq!(bytes(LATENCY_US_MAX), 184 * 1024);
    }
}
