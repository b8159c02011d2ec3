//! What is counted of the requests, for `/.api/http-stats`: how many, their statuses, and how long a
//! sample of the latest took (chocon: mercari/go-httpstats).
//!
//! Each shard writes counters of its own, and no other thread does; so nothing is added with a locked
//! instruction, and no cache line is fought for. Whoever reads takes them as they are at the moment:
//! a value that is being replaced is the old one or the new one.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use crate::config::Sampling;

/// Statuses that are counted apart, as chocon does.
pub const STATUSES: [u16; 10] = [200, 400, 401, 403, 404, 500, 501, 502, 503, 504];

/// The counters of one shard, as others see them.
#[derive(Debug)]
#[repr(align(128))] // Two cache lines, as they are fetched in pairs: no neighbour shares one.
pub struct Counters {
    requests: AtomicU64,
    by_status: [AtomicU64; STATUSES.len()],
    clients: AtomicUsize,
    http2_connections: AtomicUsize,
    http2_requests: AtomicUsize,
    http2_goaways: AtomicUsize,
    /// Samples taken since the start; the latest stands at this less one, modulo the ring's length.
    sampled: AtomicU64,
    /// Each shard may have served all of the latest requests, so each keeps as many.
    ring: Box<[Slot]>,
    /// What sample times count from; the same for all shards.
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Slot {
    /// When its request ended, since the epoch.
    at_us: AtomicU64,
    took_ns: AtomicU64,
}

/// The shard's own hold on its counters.
#[derive(Debug)]
pub struct Recorder {
    counters: Arc<Counters>,
    one_in: u32,
    /// A xorshift generator: a regular choice would beat with requests that come in a regular order.
    chance: Cell<u32>,
}

/// HTTP/2 to the origins, of one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http2Counts {
    pub connections: usize,
    pub requests: usize,
    pub goaways: usize,
}

/// The counters of all shards together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub requests: u64,
    /// In the order of `STATUSES`.
    pub by_status: [u64; STATUSES.len()],
    pub times: Times,
}

/// How long the sampled requests took; zero without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub max: Duration,
    pub min: Duration,
    pub average: Duration,
    pub p90: Duration,
    pub p95: Duration,
    pub p99: Duration,
}

impl Counters {
    /// Nothing counted yet. 16 bytes for each sample that is kept.
    pub fn new(sampling: Sampling, epoch: Instant) -> Counters {
        Counters {
            requests: AtomicU64::new(0),
            by_status: Default::default(),
            clients: AtomicUsize::new(0),
            http2_connections: AtomicUsize::new(0),
            http2_requests: AtomicUsize::new(0),
            http2_goaways: AtomicUsize::new(0),
            sampled: AtomicU64::new(0),
            ring: (0..sampling.kept).map(|_| Slot::default()).collect(),
            epoch,
        }
    }

    /// Client connections that were open at the shard's last sweep, or later.
    pub fn clients(&self) -> usize {
        self.clients.load(Relaxed)
    }

    /// How HTTP/2 to the origins is used: connections and requests at the shard's last sweep, GOAWAYs so far.
    pub fn http2(&self) -> Http2Counts {
        Http2Counts {
            connections: self.http2_connections.load(Relaxed),
            requests: self.http2_requests.load(Relaxed),
            goaways: self.http2_goaways.load(Relaxed),
        }
    }

    /// The sample that was taken as the `back`-th last one, from 0; None beyond what is kept.
    fn latest(&self, sampled: u64, back: u64) -> Option<(u64, u64)> {
        let len = self.ring.len() as u64;
        if back >= sampled.min(len) {
            return None;
        }
        let slot = self.ring.get(((sampled - 1 - back) % len) as usize)?;
        Some((slot.at_us.load(Relaxed), slot.took_ns.load(Relaxed)))
    }
}

impl Recorder {
    /// The recorder of shard number `shard`.
    pub fn new(counters: &Arc<Counters>, sampling: Sampling, shard: usize) -> Recorder {
        // Xorshift stays at zero; and small seeds start alike.
        let seed = (shard as u32 + 1).wrapping_mul(0x9E37_79B9) | 1;
        Recorder {
            counters: Arc::clone(counters),
            one_in: sampling.one_in,
            chance: Cell::new(seed),
        }
    }

    /// Counts a request that ended at `now` with `status`.
    pub fn record(&self, status: u16, took: Duration, now: Instant) {
        let counters = &*self.counters;
        add_one(&counters.requests);
        if let Some(position) = STATUSES.iter().position(|&known| known == status) {
            add_one(&counters.by_status[position]);
        }
        if self.is_sampled() {
            let sampled = counters.sampled.load(Relaxed);
            let len = counters.ring.len() as u64;
            if let Some(slot) = counters.ring.get((sampled % len) as usize) {
                let at = now.saturating_duration_since(counters.epoch);
                slot.at_us.store(u64::try_from(at.as_micros()).unwrap_or(u64::MAX), Relaxed);
                slot.took_ns.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
                // Whoever sees this count sees the sample, too.
                counters.sampled.store(sampled + 1, Release);
            }
        }
    }

    /// Takes down how many client connections are open.
    pub fn set_clients(&self, clients: usize) {
        self.counters.clients.store(clients, Relaxed);
    }

    /// Takes down how many HTTP/2 connections to origins are open, and how many requests are under way on them.
    pub fn set_http2(&self, connections: usize, requests: usize) {
        self.counters.http2_connections.store(connections, Relaxed);
        self.counters.http2_requests.store(requests, Relaxed);
    }

    /// An origin said that it takes no more requests on a connection.
    pub fn count_goaway(&self) {
        let goaways = &self.counters.http2_goaways;
        goaways.store(goaways.load(Relaxed) + 1, Relaxed);
    }

    fn is_sampled(&self) -> bool {
        let mut x = self.chance.get();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.chance.set(x);
        x.is_multiple_of(self.one_in)
    }
}

/// One writer: no instruction has to hold the line for others.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

impl Summary {
    /// Merges the counters of all shards; the times are those of the latest `kept` samples.
    pub fn of(shards: &[Arc<Counters>], kept: usize) -> Summary {
        let sum = |one: &dyn Fn(&Counters) -> u64| shards.iter().map(|shard| one(shard)).sum();
        let mut by_status = [0; STATUSES.len()];
        for (position, count) in by_status.iter_mut().enumerate() {
            *count = sum(&|shard| shard.by_status[position].load(Relaxed));
        }
        Summary {
            requests: sum(&|shard| shard.requests.load(Relaxed)),
            by_status,
            times: Times::of(latest(shards, kept)),
        }
    }
}

/// The latest `kept` samples of all shards. Each shard's are in the order of time, so the latest of
/// all is among the latest of each.
fn latest(shards: &[Arc<Counters>], kept: usize) -> Vec<u64> {
    let sampled: Vec<u64> = shards.iter().map(|shard| shard.sampled.load(Acquire)).collect();
    let mut heads = BinaryHeap::with_capacity(shards.len());
    let sample = |shard: usize, back: u64| {
        let (at_us, took_ns) = shards[shard].latest(sampled[shard], back)?;
        Some((at_us, shard, back, took_ns))
    };
    heads.extend((0..shards.len()).filter_map(|shard| sample(shard, 0)));
    let mut samples = Vec::new();
    while samples.len() < kept
        && let Some((_, shard, back, took_ns)) = heads.pop()
    {
        samples.push(took_ns);
        heads.extend(sample(shard, back + 1));
    }
    samples
}

impl Times {
    fn of(mut samples: Vec<u64>) -> Times {
        samples.sort_unstable();
        let (Some(&min), Some(&max)) = (samples.first(), samples.last()) else {
            return Times::default();
        };
        let total: u128 = samples.iter().map(|&ns| u128::from(ns)).sum();
        // The nearest rank: the least sample that so many of a hundred do not exceed.
        let percentile = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100);
            Duration::from_nanos(samples[rank - 1])
        };
        Times {
            max: Duration::from_nanos(max),
            min: Duration::from_nanos(min),
            average: Duration::from_nanos((total / samples.len() as u128) as u64),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: Sampling = Sampling { kept: 1000, one_in: 1 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn shards(count: u32, sampling: Sampling) -> (Instant, Vec<Arc<Counters>>, Vec<Recorder>) {
        let epoch = Instant::now();
        let all: Vec<_> = (0..count).map(|_| Arc::new(Counters::new(sampling, epoch))).collect();
        let recorder =
            |(counters, shard): (&Arc<Counters>, usize)| Recorder::new(counters, sampling, shard);
        let recorders = all.iter().zip(0..).map(recorder).collect();
        (epoch, all, recorders)
    }

    #[test]
    fn nothing_counted_is_zero_everywhere() {
        let (_, all, _) = shards(2, EACH);
        assert_eq!(Summary::of(&all, EACH.kept), Summary::default());
        assert_eq!(Summary::of(&[], EACH.kept), Summary::default());
    }

    #[test]
    fn requests_of_all_shards_are_counted_by_status() {
        let (epoch, all, recorders) = shards(2, EACH);
        for status in STATUSES {
            recorders[0].record(status, ms(1), epoch);
        }
        recorders[1].record(200, ms(1), epoch);
        recorders[1].record(201, ms(1), epoch);
        recorders[1].record(499, ms(1), epoch);
        let summary = Summary::of(&all, EACH.kept);
        assert_eq!((summary.requests, summary.by_status), (13, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]));
    }

    #[test]
    fn times_are_those_of_the_samples_alone() {
        let (epoch, all, recorders) = shards(1, EACH);
        for n in 1..=200 {
            recorders[0].record(200, ms(n), epoch + ms(n));
        }
        let expected = Times {
            max: ms(200),
            min: ms(1),
            average: Duration::from_micros(100_500),
            p90: ms(180),
            p95: ms(190),
            p99: ms(198),
        };
        assert_eq!(Summary::of(&all, EACH.kept).times, expected);
    }

    #[test]
    fn one_sample_is_every_time() {
        let (epoch, all, recorders) = shards(1, EACH);
        recorders[0].record(200, ms(7), epoch);
        let Times { max, min, average, p90, p95, p99 } = Summary::of(&all, EACH.kept).times;
        assert_eq!([max, min, average, p90, p95, p99], [ms(7); 6]);
    }

    #[test]
    fn the_latest_of_all_shards_count_and_older_ones_do_not() {
        let sampling = Sampling { kept: 10, one_in: 1 };
        let (epoch, all, recorders) = shards(3, sampling);
        // A slow start on shard 0, then nothing there; later ones alternate between the others.
        for n in 0..10 {
            recorders[0].record(200, ms(9000), epoch + ms(n));
        }
        for n in 0..9 {
            recorders[1 + n as usize % 2].record(200, ms(n), epoch + ms(100 + n));
        }
        let times = Summary::of(&all, sampling.kept).times;
        assert_eq!((times.max, times.min), (ms(9000), ms(0)), "nine, and one of the old");
        recorders[1].record(200, ms(20), epoch + ms(200));
        let times = Summary::of(&all, sampling.kept).times;
        assert_eq!((times.max, times.min), (ms(20), ms(0)), "ten new ones");
        for n in 0..25 {
            recorders[2].record(200, ms(50), epoch + ms(300 + n));
        }
        let times = Summary::of(&all, sampling.kept).times;
        assert_eq!((times.max, times.min), (ms(50), ms(50)), "a ring that went round");
    }

    #[test]
    fn one_request_in_so_many_is_sampled_and_all_are_counted() {
        let sampling = Sampling { kept: 1_000_000, one_in: 3 };
        let (epoch, all, recorders) = shards(2, sampling);
        for _ in 0..30_000 {
            recorders[0].record(200, ms(1), epoch);
            recorders[1].record(200, ms(1), epoch);
        }
        assert_eq!(Summary::of(&all, sampling.kept).requests, 60_000);
        let sampled: Vec<_> = all.iter().map(|one| one.sampled.load(Relaxed)).collect();
        // 82 is the standard deviation of the count; seven of them never happen.
        assert!(sampled.iter().all(|count| (9400..10_600).contains(count)), "{sampled:?}");
        assert_ne!(sampled[0], sampled[1], "shards choose apart");
    }

    #[test]
    fn a_regular_pattern_of_requests_does_not_hide_from_the_sample() {
        let sampling = Sampling { kept: 1000, one_in: 3 };
        let (epoch, all, recorders) = shards(1, sampling);
        for n in 0..900 {
            let slow_every_third = if n % 3 == 0 { ms(100) } else { ms(1) };
            recorders[0].record(200, slow_every_third, epoch + ms(n));
        }
        let times = Summary::of(&all, sampling.kept).times;
        assert!(times.average > ms(20) && times.average < ms(50), "{times:?}");
    }

    #[test]
    fn times_beyond_any_sense_do_not_panic() {
        let (epoch, all, recorders) = shards(1, EACH);
        recorders[0].record(200, Duration::MAX, epoch - ms(1));
        recorders[0].record(200, Duration::MAX, epoch);
        assert_eq!(Summary::of(&all, EACH.kept).times.max, Duration::from_nanos(u64::MAX));
    }
}
