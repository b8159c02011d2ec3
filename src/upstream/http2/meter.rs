//! How much an origin may say without carrying anything.
//!
//! Frames other than DATA with content are bookkeeping; each is answered or stored, and costs more to read than to send.
//! The HTTP/2 library bounds what they take in memory, but not the CPU time of PING, SETTINGS, WINDOW_UPDATE, PRIORITY,
//! RST_STREAM, unknown or empty frames (RFC 9113 §10.5). So the frame heads are read here once more, before the library
//! sees them, and each such frame costs one from a budget that requests, sent data and time fill up again.

#![forbid(unsafe_code)]

use crate::limits::{HTTP2_CONTROL_FRAMES_MAX, HTTP2_CONTROL_FRAMES_PER_SECOND};
use std::time::{Duration, Instant};

/// RFC 9113 §4.1.
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// RFC 9113 §6.5.
const ACK: u8 = 1;

/// RFC 9113 §6.1.
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// What padding can take of a payload, its length included (RFC 9113 §6.1).
const PADDING_BYTES_MAX: usize = 256;

/// Frames that a stream may take: interim and final head, trailers, its window and its end.
const PER_STREAM: u32 = 32;

/// An origin may answer each DATA frame, and each so many bytes, with two WINDOW_UPDATEs and more.
const PER_DATA: u32 = 4;
const BYTES_PER_FRAME: usize = 1024;

/// Follows the frames of one connection, and counts.
pub struct Meter {
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that are there.
    filled: usize,
    /// Bytes of the payload still to come.
    payload_left: usize,
    budget: u32,
    refilled: Instant,
    /// SETTINGS came since this was last asked.
    settings: bool,
    is_going_away: bool,
}

impl Meter {
    pub fn new(now: Instant) -> Self {
        Self {
            head: [0; HEAD_BYTES],
            filled: 0,
            payload_left: 0,
            budget: HTTP2_CONTROL_FRAMES_MAX,
            refilled: now,
            settings: false,
            is_going_away: false,
        }
    }

    /// Reads on in the origin's bytes. Errors: the budget is used up.
    pub fn see(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(bytes.len());
                self.payload_left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD_BYTES - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), &'static str> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.payload_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let padding = if flags & PADDED == 0 { 0 } else { PADDING_BYTES_MAX };
        match kind {
            // Content, or the end of a stream, which is earned by the stream's begin.
            DATA if self.payload_left > padding || (padding == 0 && flags & END_STREAM != 0) => {
                return Ok(());
            }
            SETTINGS if flags & ACK == 0 => self.settings = true,
            GOAWAY => self.is_going_away = true,
            _ => {} // No other kind means anything here.
        }
        match self.budget.checked_sub(1) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err("the origin floods the connection with HTTP/2 frames that carry nothing"),
        }
    }

    fn earn(&mut self, frames: u32) {
        self.budget = self.budget.saturating_add(frames).min(HTTP2_CONTROL_FRAMES_MAX);
    }

    /// A stream was opened.
    pub fn earn_stream(&mut self) {
        self.earn(PER_STREAM);
    }

    /// `n` bytes of a request's body went out.
    pub fn earn_data(&mut self, n: usize) {
        self.earn(PER_DATA.saturating_add(u32::try_from(n / BYTES_PER_FRAME).unwrap_or(u32::MAX)));
    }

    /// Fills the budget up for the time that passed.
    pub fn refill(&mut self, now: Instant) {
        const EACH: Duration =
            Duration::from_nanos(1_000_000_000 / HTTP2_CONTROL_FRAMES_PER_SECOND as u64);
        let passed = now.saturating_duration_since(self.refilled);
        let frames = passed.as_nanos() / EACH.as_nanos();
        if frames > 0 {
            self.refilled = now;
            self.earn(u32::try_from(frames).unwrap_or(u32::MAX));
        }
    }

    /// Whether SETTINGS came since the last call.
    pub fn take_settings(&mut self) -> bool {
        std::mem::take(&mut self.settings)
    }

    /// Whether a GOAWAY came.
    pub fn is_going_away(&self) -> bool {
        self.is_going_away
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + payload, 0xff);
        bytes
    }

    const PING: u8 = 6;

    #[test]
    fn frames_that_carry_nothing_are_bounded_at_any_split() {
        for step in [1, 2, 8, 9, 10, 17, 1000] {
            let mut meter = Meter::new(Instant::now());
            let pings = frame(PING, 0, 8).repeat(HTTP2_CONTROL_FRAMES_MAX as usize);
            for piece in pings.chunks(step) {
                assert_eq!(meter.see(piece), Ok(()), "{step}");
            }
            assert!(meter.see(&frame(PING, 0, 8)).is_err(), "{step}");
        }
    }

    #[test]
    fn content_costs_nothing_and_data_that_may_have_none_does() {
        let mut meter = Meter::new(Instant::now());
        for content in [frame(DATA, 0, 1), frame(DATA, PADDED, PADDING_BYTES_MAX + 1)] {
            let many = content.repeat(5 * HTTP2_CONTROL_FRAMES_MAX as usize);
            assert_eq!(meter.see(&many), Ok(()));
        }
        assert_eq!(meter.see(&frame(DATA, END_STREAM, 0)), Ok(()));
        assert_eq!(meter.budget, HTTP2_CONTROL_FRAMES_MAX);
        for costly in [frame(DATA, 0, 0), frame(DATA, PADDED, PADDING_BYTES_MAX)] {
            let before = meter.budget;
            meter.see(&costly).unwrap();
            assert_eq!(meter.budget, before - 1);
        }
    }

    #[test]
    fn time_streams_and_data_fill_the_budget_up_to_its_bound() {
        let now = Instant::now();
        let mut meter = Meter::new(now);
        meter.budget = 0;
        meter.refill(now + Duration::from_secs(1));
        assert_eq!(meter.budget, HTTP2_CONTROL_FRAMES_PER_SECOND);
        meter.earn_stream();
        meter.earn_data(2 * BYTES_PER_FRAME);
        assert_eq!(meter.budget, HTTP2_CONTROL_FRAMES_PER_SECOND + PER_STREAM + PER_DATA + 2);
        meter.refill(now + Duration::from_secs(86_400));
        assert_eq!(meter.budget, HTTP2_CONTROL_FRAMES_MAX);
    }

    #[test]
    fn settings_and_goaway_are_seen() {
        let mut meter = Meter::new(Instant::now());
        meter.see(&frame(SETTINGS, ACK, 0)).unwrap();
        assert!(!meter.take_settings(), "an acknowledgement says nothing");
        meter.see(&frame(SETTINGS, 0, 6)).unwrap();
        assert!(meter.take_settings() && !meter.take_settings() && !meter.is_going_away());
        meter.see(&frame(GOAWAY, 0, 8)).unwrap();
        assert!(meter.is_going_away());
    }
}
