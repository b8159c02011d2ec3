//! When a short write waits for company.
//!
//! Linux counts the congestion window in segments, and a short one counts as a long one (RFC 5681 §3 counts bytes). Ten
//! are all that a connection which is new, or was idle, may have under way. Of a burst of 64 requests, each sent as it
//! comes, ten would leave and the others wait a round trip for an acknowledgement. And each in a TLS record of its own is
//! read, answered and sent by itself, so that the origin fills its own ten, whatever the window is here. So in each round
//! trip the first few writes go at once, and after them what does not fill a segment waits a moment, before it is
//! encrypted. On a path as short as a few such moments nothing waits: there an acknowledgement comes as soon.

#![forbid(unsafe_code)]

use crate::limits::{HTTP2_GATHER_BYTES, HTTP2_GATHER_ROUND_TRIP_MIN, HTTP2_SHORT_WRITES};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub struct Gather {
    round_trip: Duration,
    /// When the first of the writes was that are counted.
    began: Instant,
    short_writes: u32,
    hold: Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    No,
    /// A write was put off.
    Holding,
    /// It has waited long enough.
    Over,
}

impl Gather {
    /// None: the path is too short for waits.
    pub fn new(round_trip: Duration, now: Instant) -> Option<Self> {
        let is_far = round_trip >= HTTP2_GATHER_ROUND_TRIP_MIN;
        is_far.then_some(Self { round_trip, began: now, short_writes: 0, hold: Hold::No })
    }

    /// Whether a write of so many bytes is put off; it is asked for again, with what came meanwhile.
    pub fn holds(&mut self, bytes: usize, now: Instant) -> bool {
        if bytes >= HTTP2_GATHER_BYTES || self.hold == Hold::Over {
            self.hold = Hold::No;
            return false;
        }
        if self.hold == Hold::Holding {
            return true;
        }
        if self.short_writes == 0 || now.saturating_duration_since(self.began) >= self.round_trip {
            (self.began, self.short_writes) = (now, 0);
        }
        if self.short_writes < HTTP2_SHORT_WRITES {
            self.short_writes += 1;
            return false;
        }
        self.hold = Hold::Holding;
        true
    }

    pub fn is_holding(&self) -> bool {
        self.hold == Hold::Holding
    }

    /// What is put off has waited long enough.
    pub fn release(&mut self) {
        if self.hold == Hold::Holding {
            self.hold = Hold::Over;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_millis(150);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn first_writes_of_a_round_trip_go_at_once_and_the_next_wait_until_released() {
        let now = Instant::now();
        let mut gather = Gather::new(FAR, now).unwrap();
        for begin in [now + FAR, now + 3 * FAR] {
            for nth in 0..HTTP2_SHORT_WRITES {
                assert!(!gather.holds(70, begin + nth * MS));
            }
            assert!(gather.holds(70, begin + 5 * MS) && gather.is_holding());
            assert!(gather.holds(HTTP2_GATHER_BYTES - 1, begin + 5 * MS), "not full yet");
            gather.release();
            assert!(!gather.is_holding() && !gather.holds(140, begin + 6 * MS));
            assert!(gather.holds(70, begin + FAR - MS), "still the same round trip");
            gather.release();
            assert!(!gather.holds(70, begin + FAR));
        }
    }

    #[test]
    fn what_fills_a_segment_goes_at_once() {
        let now = Instant::now();
        let mut gather = Gather::new(FAR, now).unwrap();
        while !gather.holds(70, now) {}
        assert!(!gather.holds(HTTP2_GATHER_BYTES, now) && !gather.is_holding());
        // A timer that comes late lets nothing through.
        gather.release();
        assert!(gather.holds(70, now));
    }

    #[test]
    fn nothing_waits_on_a_near_origin() {
        let now = Instant::now();
        assert!(Gather::new(HTTP2_GATHER_ROUND_TRIP_MIN - Duration::from_micros(1), now).is_none());
        let mut far = Gather::new(HTTP2_GATHER_ROUND_TRIP_MIN, now).unwrap();
        assert!((0..100).any(|_| far.holds(70, now)));
    }

    #[test]
    fn burst_of_64_fits_into_the_windows_of_new_connections() {
        let now = Instant::now();
        let mut gather = Gather::new(FAR, now).unwrap();
        let (mut segments, mut answers, mut unsent) = (0, 0, 0usize);
        for _ in 0..64 {
            unsent += 50;
            if !gather.holds(unsent, now) {
                segments += unsent.div_ceil(1448);
                // As long as nginx's answers to them.
                answers += (unsent / 50 * 80).div_ceil(1448);
                unsent = 0;
            }
        }
        assert!(segments < 10 && answers < 10, "{segments}, {answers}, and the last one");
    }
}
