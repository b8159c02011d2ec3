//! Time stamps in UTC, made from a count of microseconds. Pure: no clock, no zone.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch; negative before it, clamped to what an i64 holds.
pub fn unix_us(at: SystemTime) -> i64 {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// Appends `2026-11-24T01:02:03.456Z` (RFC 3339, milliseconds cut, not rounded).
pub fn append_stamp(out: &mut String, unix_us: i64) {
    use std::fmt::Write;
    let day_us = 86_400_000_000;
    let (day, in_day_ms) = (unix_us.div_euclid(day_us), unix_us.rem_euclid(day_us) / 1000);
    let (year, month, day) = civil_from_days(day);
    let (hour, minute) = (in_day_ms / 3_600_000, in_day_ms / 60_000 % 60);
    let (second, ms) = (in_day_ms / 1000 % 60, in_day_ms % 1000);
    write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
        .expect("a String takes every write");
}

/// Year, month and day of a count of days since 1970-01-01, in the proleptic Gregorian calendar.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // Counted from 0000-03-01: the leap day ends a year.
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stamp(unix_us: i64) -> String {
        let mut out = String::new();
        append_stamp(&mut out, unix_us);
        out
    }

    #[test]
    fn known_instants_are_written_as_rfc_3339() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(stamp(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(stamp(951_782_400_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(stamp(1_795_482_123_456_789), "2026-11-24T01:02:03.456Z");
        assert_eq!(stamp(4_107_542_399_999_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(stamp(4_107_542_400_000_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn the_ends_of_the_range_do_not_panic() {
        assert!(stamp(i64::MAX).ends_with('Z'));
        assert!(stamp(i64::MIN).ends_with('Z'));
    }

    #[test]
    fn system_time_becomes_microseconds_on_both_sides_of_the_epoch() {
        assert_eq!(unix_us(UNIX_EPOCH + Duration::from_micros(7)), 7);
        assert_eq!(unix_us(UNIX_EPOCH - Duration::from_micros(7)), -7);
    }
}
