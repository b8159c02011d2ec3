//! One direction of the link, without clock or device: what becomes of a packet that enters now.
//!
//! The model is a line of a fixed rate with a queue in front of it, and then the distance. A packet
//! waits until the line is free, takes its length ÷ rate to get on it, and arrives half a round
//! trip later. Order is kept, even when the round trip is made shorter while packets are under way.

use std::time::{Duration, Instant};

/// How the link behaves, both ways alike but for black holes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub rtt: Duration,
    /// Share of packets that are lost at random, 0 to 1.
    pub loss: f64,
    pub bits_per_second: u64,
    /// Bytes that may wait for the line; `None`: as many as fill the line for one round trip.
    pub queue_bytes: Option<u64>,
    pub black_hole: BlackHole,
}

/// Where packets vanish without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlackHole {
    None,
    ToFar,
    ToNear,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    Far,
    Near,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// It found the queue full.
    Dropped,
    /// Chance took it.
    Lost,
    BlackHoled,
}

impl Shape {
    fn queue_bytes(&self) -> u64 {
        self.queue_bytes.unwrap_or_else(|| self.bytes_in(self.rtt))
    }

    fn bytes_in(&self, time: Duration) -> u64 {
        (u128::from(self.bits_per_second) * time.as_nanos() / 8_000_000_000) as u64
    }

    /// How long `bytes` take to get on the line.
    fn time_of(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 8_000_000_000 / self.bits_per_second.max(1))
    }

    fn swallows(&self, toward: Toward) -> bool {
        match (self.black_hole, toward) {
            (BlackHole::Both, _)
            | (BlackHole::ToFar, Toward::Far)
            | (BlackHole::ToNear, Toward::Near) => true,
            (BlackHole::None | BlackHole::ToFar | BlackHole::ToNear, _) => false,
        }
    }
}

/// One direction, with what it must remember of the packets before.
pub struct Link {
    toward: Toward,
    /// When the line has sent all that was admitted.
    free_at: Instant,
    /// When the newest packet arrives.
    newest_arrives: Instant,
    random: u64,
}

impl Link {
    /// `seed` makes the losses the same in each run.
    pub fn new(toward: Toward, seed: u64, now: Instant) -> Self {
        // The generator needs a state other than zero.
        Self { toward, free_at: now, newest_arrives: now, random: seed | 1 << 63 }
    }

    pub fn enter(&mut self, bytes: usize, shape: &Shape, now: Instant) -> Fate {
        if shape.swallows(self.toward) {
            return Fate::BlackHoled;
        }
        if self.draw() < shape.loss {
            return Fate::Lost;
        }
        let waiting = shape.bytes_in(self.free_at.saturating_duration_since(now));
        // An empty queue takes a packet of any length, as a real one does.
        if waiting > 0 && waiting + bytes as u64 > shape.queue_bytes() {
            return Fate::Dropped;
        }
        self.free_at = self.free_at.max(now) + shape.time_of(bytes);
        self.newest_arrives = self.newest_arrives.max(self.free_at + shape.rtt / 2);
        Fate::Arrives(self.newest_arrives)
    }

    /// A number from 0 up to 1 (xorshift64*, Vigna 2016: <https://arxiv.org/abs/1402.6246>).
    fn draw(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let bits = self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// 8 Mbit/s: a packet of 1000 bytes takes a millisecond to get on the line.
    fn shape() -> Shape {
        Shape {
            rtt: 100 * MS,
            loss: 0.0,
            bits_per_second: 8_000_000,
            queue_bytes: None,
            black_hole: BlackHole::None,
        }
    }

    fn arrival(fate: Fate) -> Instant {
        let Fate::Arrives(at) = fate else { panic!("{fate:?}") };
        at
    }

    #[test]
    fn packet_arrives_half_a_round_trip_after_it_got_on_the_line() {
        let now = Instant::now();
        let mut link = Link::new(Toward::Far, 1, now);
        assert_eq!(link.enter(1000, &shape(), now), Fate::Arrives(now + 51 * MS));
        assert_eq!(link.enter(1000, &shape(), now), Fate::Arrives(now + 52 * MS));
        // The line is free again by then.
        assert_eq!(link.enter(1000, &shape(), now + 10 * MS), Fate::Arrives(now + 61 * MS));
    }

    #[test]
    fn queue_holds_one_round_trip_of_the_rate_and_drops_the_next() {
        let now = Instant::now();
        let mut link = Link::new(Toward::Far, 1, now);
        // 100 ms at 8 Mbit/s are 100 packets of 1000 bytes.
        for _ in 0..100 {
            arrival(link.enter(1000, &shape(), now));
        }
        assert_eq!(link.enter(1000, &shape(), now), Fate::Dropped);
        arrival(link.enter(1000, &shape(), now + MS));
        assert_eq!(link.enter(1000, &shape(), now + MS), Fate::Dropped);
    }

    #[test]
    fn empty_queue_takes_a_packet_longer_than_itself() {
        let now = Instant::now();
        let mut link = Link::new(Toward::Far, 1, now);
        let small = Shape { queue_bytes: Some(100), ..shape() };
        arrival(link.enter(1500, &small, now));
        assert_eq!(link.enter(1500, &small, now), Fate::Dropped);
    }

    #[test]
    fn shorter_round_trip_keeps_the_order() {
        let now = Instant::now();
        let mut link = Link::new(Toward::Far, 1, now);
        let before = arrival(link.enter(1000, &shape(), now));
        let shorter = Shape { rtt: 10 * MS, ..shape() };
        assert_eq!(arrival(link.enter(1000, &shorter, now)), before);
    }

    #[test]
    fn losses_have_their_share() {
        let now = Instant::now();
        let mut link = Link::new(Toward::Far, 7, now);
        let lossy = Shape { loss: 0.01, bits_per_second: u64::MAX, ..shape() };
        let lost = (0..100_000).filter(|_| link.enter(100, &lossy, now) == Fate::Lost).count();
        assert!((900..1100).contains(&lost), "{lost} of 100000");
        let sound = Shape { loss: 0.0, ..lossy };
        assert!((0..1000).all(|_| link.enter(100, &sound, now) != Fate::Lost));
    }

    #[test]
    fn black_hole_swallows_its_direction_only() {
        let now = Instant::now();
        for (hole, far, near) in [
            (BlackHole::None, false, false),
            (BlackHole::ToFar, true, false),
            (BlackHole::ToNear, false, true),
            (BlackHole::Both, true, true),
        ] {
            let shape = Shape { black_hole: hole, ..shape() };
            for (toward, swallowed) in [(Toward::Far, far), (Toward::Near, near)] {
                let fate = Link::new(toward, 1, now).enter(100, &shape, now);
                assert_eq!(fate == Fate::BlackHoled, swallowed, "{hole:?} {toward:?}");
            }
        }
    }
}
