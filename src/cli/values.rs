//! One value of a flag, from text to what it means. An error is the cause in words, made to stand
//! behind the quoted value: `"99999" is not a port`. Pure, but for `try_directory`.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::limits::FLAG_DURATION_MAX;

/// Remedies for durations.
pub const TIME: &str = "give seconds (90) or a duration with units (500ms, 90s, 1h30m)";
pub const TIME_ABOVE_ZERO: &str =
    "give seconds (90) or a duration with units (500ms, 90s, 1h30m), above zero";

pub fn whole_number(text: &str, range: RangeInclusive<usize>) -> Option<usize> {
    text.parse().ok().filter(|number| range.contains(number))
}

/// As Go's `strconv.ParseBool`, in lower case.
pub fn read_switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Ok(true),
        "false" | "f" | "0" => Ok(false),
        _neither => Err("is neither true nor false"),
    }
}

/// Whole seconds, or a duration as Go's `time.ParseDuration` reads it; what is finer than a
/// nanosecond is cut. Errors: what is wrong with it.
pub fn read_duration(text: &str) -> Result<Duration, &'static str> {
    if text.starts_with('-') {
        return Err("is negative");
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err("is not a duration");
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, behind) = split_digits(rest);
        if behind.is_empty() && whole == text.trim_start_matches('+') {
            nanos = digits_to_number(whole).saturating_mul(1_000_000_000);
            break;
        }
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => split_digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err("is not a duration");
        }
        let unit_len = behind.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, behind) = behind.split_at(unit_len.unwrap_or(behind.len()));
        let unit_nanos = nanos_of_unit(unit)?;
        // 18 places of the largest unit, 3.6 x 10^12, stay within 128 bits.
        let fraction = fraction.get(..18).unwrap_or(fraction);
        let part_nanos =
            digits_to_number(fraction) * unit_nanos / 10_u128.pow(fraction.len() as u32);
        nanos = nanos
            .saturating_add(digits_to_number(whole).saturating_mul(unit_nanos))
            .saturating_add(part_nanos);
        rest = behind;
    }
    if nanos > FLAG_DURATION_MAX.as_nanos() {
        return Err("is longer than 100 years");
    }
    let (secs, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    Ok(Duration::new(secs as u64, nanos as u32)) // Checked: at most 100 years.
}

fn nanos_of_unit(unit: &str) -> Result<u128, &'static str> {
    match unit {
        "ns" => Ok(1),
        // Go takes the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => Ok(1_000),
        "ms" => Ok(1_000_000),
        "s" => Ok(1_000_000_000),
        "m" => Ok(60_000_000_000),
        "h" => Ok(3_600_000_000_000),
        "" => Err("has a number without a unit"),
        _unknown => Err("has an unknown unit"),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn digits_to_number(digits: &str) -> u128 {
    digits.bytes().fold(0, |number: u128, digit| {
        number.saturating_mul(10).saturating_add(u128::from(digit.saturating_sub(b'0')))
    })
}

/// Makes and removes a file there: permission bits alone do not tell of a read-only or full disk.
pub fn try_directory(dir: &Path) -> Result<(), String> {
    let metadata = fs::metadata(dir).map_err(|error| format!("cannot be found: {error}"))?;
    if !metadata.is_dir() {
        return Err("is not a directory".to_owned());
    }
    let probe = dir.join(format!(".chocon-uring-probe-{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    made.map_err(|error| format!("cannot be written to: {error}"))?;
    fs::remove_file(&probe).map_err(|error| format!("keeps a file that was removed: {error}"))
}

/// Tries whether a file may be written at `path`: in place of what stands there, which must therefore be a file. Somebody who
/// wants none may give /dev/null, and root would replace the host's.
pub fn try_place(path: &Path) -> Result<(), String> {
    let standing = fs::metadata(path).ok();
    // What ends in a slash names one, there or not (path_resolution(7)).
    if standing.as_ref().is_some_and(fs::Metadata::is_dir)
        || path.as_os_str().as_bytes().ends_with(b"/")
    {
        return Err("is a directory".to_owned());
    }
    if standing.is_some_and(|standing| !standing.is_file()) {
        return Err("is a device, a pipe or a socket".to_owned());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _bare_name => Path::new("."),
    };
    try_directory(parent).map_err(|cause| format!("stands in a directory that {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let nanos = |text| read_duration(text).map(|duration| duration.as_nanos());
        for (text, expected) in [
            ("0", 0),
            ("90", 90_000_000_000),
            ("+5", 5_000_000_000),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("1478s", 1_478_000_000_000),
            ("5.0s", 5_000_000_000),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.00000000000000000000000001s", 1_000_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("13ms", 13_000_000),
            ("15m", 900_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("3h30m1.5s2ms3us4ns", 12_601_502_003_004),
            ("0.1ns", 0),
            ("0.333333333333333333333s", 333_333_333),
            ("876000h", 876_000 * 3_600_000_000_000),
        ] {
            assert_eq!(nanos(text), Ok(expected), "{text}");
        }
        for (text, cause) in [
            ("", "is not a duration"),
            ("+", "is not a duration"),
            ("s", "is not a duration"),
            (".", "is not a duration"),
            (".s", "is not a duration"),
            (" 1s", "is not a duration"),
            ("-1s", "is negative"),
            ("-5", "is negative"),
            ("1.5", "has a number without a unit"),
            ("1h30", "has a number without a unit"),
            ("1d", "has an unknown unit"),
            ("1 s", "has an unknown unit"),
            ("1S", "has an unknown unit"),
            ("1é", "has an unknown unit"),
            ("++1s", "is not a duration"),
            ("876000h1ns", "is longer than 100 years"),
            ("3153600001", "is longer than 100 years"),
            ("99999999999999999999999999999999999999999999h", "is longer than 100 years"),
            ("99999999999999999999999999999999999999999999", "is longer than 100 years"),
        ] {
            assert_eq!(nanos(text), Err(cause), "{text}");
        }
        assert_eq!(read_duration("3153600000"), Ok(FLAG_DURATION_MAX));
    }
}
