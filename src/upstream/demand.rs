//! What an origin needed of late: a maximum of requests in flight that decays, so that quiet hours give connections up.

#![forbid(unsafe_code)]

use crate::limits::DEMAND_HALF_LIFE;
use std::time::Instant;

/// The decaying maximum of one number.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    peak: f64,
    at: Instant,
    /// Requests since the maximum was last nothing.
    uses: u32,
}

impl Demand {
    pub fn new(now: Instant) -> Self {
        Self { peak: 0.0, at: now, uses: 0 }
    }

    /// As it was when it had decayed to `left`.
    pub fn recalled(left: f64, uses: u32, now: Instant) -> Self {
        Self { peak: left, at: now, uses }
    }

    /// `uses` requests came, at most `in_flight` of them at a time.
    pub fn note(&mut self, in_flight: usize, uses: u32, now: Instant) {
        let left = self.left(now);
        if left < 0.5 {
            self.uses = 0;
        }
        self.uses = self.uses.saturating_add(uses);
        if in_flight as f64 >= left {
            (self.peak, self.at) = (in_flight as f64, now);
        }
    }

    /// How many connections are worth keeping. One that is below a half is none.
    pub fn size(&self, now: Instant) -> usize {
        self.left(now).round() as usize
    }

    pub fn uses(&self) -> u32 {
        self.uses
    }

    pub fn left(&self, now: Instant) -> f64 {
        let halves = now.saturating_duration_since(self.at).div_duration_f64(DEMAND_HALF_LIFE);
        self.peak * (-halves).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_peak_is_halved_with_each_half_life_and_one_ends_after_the_first() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        demand.note(16, 16, now);
        let sizes = [0, 1, 2, 3, 4, 5].map(|n| demand.size(now + n * DEMAND_HALF_LIFE));
        assert_eq!(sizes, [16, 8, 4, 2, 1, 1]);
        assert_eq!(demand.size(now + 5 * DEMAND_HALF_LIFE + Duration::from_secs(1)), 0);
    }

    #[test]
    fn a_lower_peak_does_not_replace_a_higher_one_until_that_has_decayed() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        demand.note(8, 8, now);
        demand.note(3, 3, now + Duration::from_secs(1));
        assert_eq!(demand.size(now + Duration::from_secs(1)), 8);
        let later = now + 2 * DEMAND_HALF_LIFE;
        demand.note(3, 3, later);
        assert_eq!(demand.size(later), 3);
    }

    #[test]
    fn uses_count_until_what_they_needed_is_forgotten() {
        let now = Instant::now();
        let mut demand = Demand::new(now);
        demand.note(1, 1, now);
        demand.note(1, 1, now);
        assert_eq!(demand.uses(), 2);
        let later = now + DEMAND_HALF_LIFE + Duration::from_secs(1);
        demand.note(1, 1, later);
        assert_eq!((demand.size(later), demand.uses()), (1, 1));
    }
}
