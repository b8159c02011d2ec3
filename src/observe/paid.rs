//! What requests paid for their connections: how many, and for what. The dump says it above the latencies, which begin
//! only when a request has its connection.

#![forbid(unsafe_code)]

use super::latency::Cost;
use std::{fmt::Write, time::Duration};

/// From here on a request counts as one that paid. Another shard lends a connection in a tenth of it; a round trip
/// between regions is seventy times as long.
const PAYS_FROM: Duration = Duration::from_millis(1);

/// The payments of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paid {
    requests: u64,
    /// Of all of them together.
    total: Cost,
    worst: Duration,
}

impl Paid {
    /// Takes down what one request paid.
    pub fn record(&mut self, cost: Cost) {
        let Cost { dns, connect, tls, wait } = cost;
        let sum =
            [dns, connect, tls, wait].into_iter().fold(Duration::ZERO, Duration::saturating_add);
        if sum >= PAYS_FROM {
            self.add(&Self { requests: 1, total: cost, worst: sum });
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.worst = self.worst.max(other.worst);
        let (own, more) = (&mut self.total, &other.total);
        own.dns = own.dns.saturating_add(more.dns);
        own.connect = own.connect.saturating_add(more.connect);
        own.tls = own.tls.saturating_add(more.tls);
        own.wait = own.wait.saturating_add(more.wait);
    }

    /// The line for all origins: the share of `answered` requests that paid anything.
    pub fn append_share(&self, text: &mut String, answered: u64) {
        let share =
            if answered == 0 { 0.0 } else { self.requests as f64 / answered as f64 * 100.0 };
        let requests = self.requests;
        writeln!(
            text,
            "{requests} of {answered} requests ({share:.3} %) waited 1 ms or more for a connection"
        )
        .expect("a String takes every write");
    }

    /// The line for one origin; none if nobody paid.
    pub fn append(&self, text: &mut String, origin: &str, answered: u64) {
        if self.requests == 0 {
            return;
        }
        let Cost { dns, connect, tls, wait } = self.total;
        let mean = |total: Duration| total.as_secs_f64() * 1e3 / self.requests as f64;
        writeln!(
            text,
            "paid at {origin}: {} of {answered} requests; ms on average: dns {:.1}, connect {:.1}, tls {:.1}, \
             in line {:.1}; at worst {:.1}",
            self.requests,
            mean(dns),
            mean(connect),
            mean(tls),
            mean(wait),
            self.worst.as_secs_f64() * 1e3,
        )
        .expect("a String takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn only_what_reaches_a_millisecond_in_sum_counts() {
        let just_below = Duration::from_nanos(999_999);
        let half = Duration::from_micros(500);
        let mut paid = Paid::default();
        paid.record(Cost::default());
        paid.record(Cost { wait: just_below, ..Cost::default() });
        assert_eq!(paid, Paid::default());
        paid.record(Cost { dns: half, connect: half, ..Cost::default() });
        assert_eq!((paid.requests, paid.worst), (1, ms(1)));
    }

    #[test]
    fn shards_add_up_and_the_worst_stays() {
        let mut paid = Paid::default();
        paid.record(Cost { dns: ms(10), connect: ms(150), tls: ms(160), wait: ms(0) });
        let mut other = Paid::default();
        other.record(Cost { wait: ms(20), ..Cost::default() });
        paid.add(&other);
        let mut text = String::new();
        paid.append_share(&mut text, 400);
        paid.append(&mut text, "https://a:443", 400);
        let expected = "2 of 400 requests (0.500 %) waited 1 ms or more for a connection\n\
            paid at https://a:443: 2 of 400 requests; ms on average: dns 5.0, connect 75.0, tls 80.0, in line \
            10.0; at worst 320.0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn nobody_paid_is_said_once_and_of_no_origin() {
        let mut text = String::new();
        Paid::default().append_share(&mut text, 0);
        Paid::default().append(&mut text, "https://a:443", 7);
        assert_eq!(text, "0 of 0 requests (0.000 %) waited 1 ms or more for a connection\n");
    }
}
