//! How large the windows of a connection have to be for its path: measured, as gRPC does it.
//!
//! A window that is smaller than what the path holds (bandwidth × round trip) makes the origin pause in each round trip.
//! While data flows, a PING is sent; what comes until its answer is what one round trip brought. If that is most of a
//! stream's window, the window may be what bounds it, and it doubles. PINGs are few: none without a flow, none where the
//! window is at its bound, and ever fewer where it proves large enough.

#![forbid(unsafe_code)]

use crate::limits::{
    HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_CONNECTION_WINDOW_MAX_BYTES, HTTP2_STREAM_WINDOW_BYTES,
    HTTP2_STREAM_WINDOW_MAX_BYTES,
};
use std::time::{Duration, Instant};

/// Pause after a sample that showed the window large enough; doubled with each.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Growth {
    stream: u32,
    sample: Sample,
    /// What had been received at the last look.
    seen: u64,
    pause: Duration,
    /// No sample before.
    rests_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sample {
    No,
    Wanted,
    /// The PING left when so many bytes had been received.
    From(u64),
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            stream: HTTP2_STREAM_WINDOW_BYTES,
            sample: Sample::No,
            seen: 0,
            pause: PAUSE_MIN,
            rests_until: None,
        }
    }
}

impl Growth {
    /// The sweeper's look: `received` bytes came on the connection so far. Returns whether a PING is wanted.
    pub fn look(&mut self, received: u64, now: Instant) -> bool {
        let since = received - std::mem::replace(&mut self.seen, received);
        // A path whose round trip is a hundred looks long fills the window at no less.
        let flows = since >= u64::from(self.stream / 64);
        let rests = self.rests_until.is_some_and(|until| now < until);
        if self.sample == Sample::No
            && flows
            && !rests
            && self.stream < HTTP2_STREAM_WINDOW_MAX_BYTES
        {
            self.sample = Sample::Wanted;
        }
        self.wants_ping()
    }

    pub fn wants_ping(&self) -> bool {
        self.sample == Sample::Wanted
    }

    /// A PING leaves.
    pub fn ping_leaves(&mut self, received: u64) {
        if self.sample == Sample::Wanted {
            self.sample = Sample::From(received);
        }
    }

    /// Its answer came.
    pub fn pong_came(&mut self, received: u64, now: Instant) {
        let Sample::From(before) = std::mem::replace(&mut self.sample, Sample::No) else { return };
        if received - before >= u64::from(self.stream) / 3 * 2 {
            self.stream = (self.stream * 2).min(HTTP2_STREAM_WINDOW_MAX_BYTES);
            self.pause = PAUSE_MIN;
        } else {
            self.rests_until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// What the origin may send on one stream.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// What it may have under way on all of them.
    pub fn connection(&self) -> u32 {
        (self.stream * 2).clamp(HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_CONNECTION_WINDOW_MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(100);

    /// A flow of so many bytes a look, and an answer after two looks. Returns the window at the end, and the PINGs.
    fn flow(bytes_each: u64, looks: u32) -> (u32, usize) {
        let (mut growth, mut now, mut received) = (Growth::default(), Instant::now(), 0);
        let (mut pings, mut answer_in) = (0, None);
        for _ in 0..looks {
            received += bytes_each;
            now += LOOK;
            if growth.look(received, now) {
                growth.ping_leaves(received);
                pings += 1;
                answer_in = Some(2);
            }
            answer_in = answer_in.and_then(|left: u32| {
                if left == 0 {
                    growth.pong_came(received, now);
                }
                left.checked_sub(1)
            });
        }
        (growth.stream(), pings)
    }

    #[test]
    fn window_grows_to_twice_what_a_round_trip_brings_and_no_further_than_its_bound() {
        // 8 MiB in two looks: more than two thirds of 8, less than two thirds of 16.
        assert_eq!(flow(4 << 20, 100).0, 16 << 20);
        let (stream, pings) = flow(1 << 30, 1000);
        assert_eq!(stream, HTTP2_STREAM_WINDOW_MAX_BYTES);
        assert_eq!(pings, 3, "none once the bound is reached");
    }

    #[test]
    fn window_that_is_large_enough_stays_and_is_asked_about_ever_less() {
        let (stream, pings) = flow(512 << 10, 6000);
        assert_eq!(stream, HTTP2_STREAM_WINDOW_BYTES);
        // Ten minutes: after 1, 2, 4, … 60 s.
        assert!((10..=20).contains(&pings), "{pings}");
    }

    #[test]
    fn trickle_is_not_asked_about_at_all() {
        assert_eq!(flow(10_000, 1000), (HTTP2_STREAM_WINDOW_BYTES, 0));
    }

    #[test]
    fn connections_window_grows_with_the_streams_within_its_bounds() {
        let mut growth = Growth::default();
        assert_eq!(growth.connection(), HTTP2_CONNECTION_WINDOW_BYTES);
        growth.stream = HTTP2_STREAM_WINDOW_MAX_BYTES;
        assert_eq!(growth.connection(), HTTP2_CONNECTION_WINDOW_MAX_BYTES);
    }
}
