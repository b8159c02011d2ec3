//! Local time, through the C library: the zone's rules are its business (`TZ`, `/etc/localtime`).
//! The only unsafe code of `observe`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;

/// Bytes of the longest stamp kept; a longer zone name is cut. Date and time take 20, and POSIX
/// asks for zone names of at least 6; the longest in use have 6.
const STAMP_BYTES_MAX: usize = 47;

/// A time stamp of one second, in bytes without a terminator.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    bytes: [u8; STAMP_BYTES_MAX],
    len: u8,
}

/// How a stamp looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `2006/01/02 15:04:05 MST`, as chocon's JSON has it.
    Slashes,
    /// `02/Jan/2006:15:04:05 -0700`, the Common Log Format's, without its brackets.
    Common,
}

impl Stamp {
    /// The stamp of a second since the Unix epoch in this host's zone; in UTC where the C library
    /// refuses (a year beyond 32 bits).
    ///
    /// The C library reads the zone's file at the first call of a process and takes a lock that
    /// only other callers of it take; one call is some hundreds of nanoseconds.
    pub fn new(unix_secs: i64, layout: Layout) -> Stamp {
        let mut stamp = Stamp { bytes: [0; STAMP_BYTES_MAX], len: 0 };
        if let Some(tm) = broken_down(unix_secs).or_else(|| broken_down(0)) {
            match layout {
                Layout::Slashes => stamp.append_slashes(&tm),
                Layout::Common => stamp.append_common(&tm),
            }
        }
        stamp
    }

    /// The stamp's text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn append_slashes(&mut self, tm: &libc::tm) {
        self.append_padded(year(tm), 4);
        self.append(b"/");
        self.append_padded(i64::from(tm.tm_mon) + 1, 2);
        self.append(b"/");
        self.append_padded(i64::from(tm.tm_mday), 2);
        self.append(b" ");
        self.append_time_of_day(tm);
        self.append(b" ");
        if tm.tm_zone.is_null() {
            self.append(b"UTC");
        } else {
            // SAFETY: localtime_r has set tm_zone to a string that ends with NUL and that the C
            // library keeps; it is read at once, and nothing in this process changes TZ.
            self.append(unsafe { CStr::from_ptr(tm.tm_zone) }.to_bytes());
        }
    }

    fn append_common(&mut self, tm: &libc::tm) {
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = usize::try_from(tm.tm_mon).ok().and_then(|month| MONTHS.get(month));
        self.append_padded(i64::from(tm.tm_mday), 2);
        self.append(b"/");
        self.append(month.expect("the C library counts months from 0 to 11").as_bytes());
        self.append(b"/");
        self.append_padded(year(tm), 4);
        self.append(b":");
        self.append_time_of_day(tm);
        let minutes = tm.tm_gmtoff / 60;
        self.append(if minutes < 0 { b" -" } else { b" +" });
        self.append_padded(minutes.abs() / 60 * 100 + minutes.abs() % 60, 4);
    }

    fn append_time_of_day(&mut self, tm: &libc::tm) {
        self.append_padded(i64::from(tm.tm_hour), 2);
        self.append(b":");
        self.append_padded(i64::from(tm.tm_min), 2);
        self.append(b":");
        self.append_padded(i64::from(tm.tm_sec), 2);
    }

    fn append(&mut self, text: &[u8]) {
        for &byte in text {
            if let Some(free) = self.bytes.get_mut(usize::from(self.len)) {
                *free = byte;
                self.len += 1;
            }
        }
    }

    fn append_padded(&mut self, number: i64, width: usize) {
        self.append(format!("{number:0width$}").as_bytes());
    }
}

/// What this host's clocks on the wall are ahead of UTC at a second since the Unix epoch, in
/// seconds; 0 where the C library refuses.
pub fn ahead_of_utc_secs(unix_secs: i64) -> i64 {
    broken_down(unix_secs).map_or(0, |tm| tm.tm_gmtoff)
}

fn year(tm: &libc::tm) -> i64 {
    i64::from(tm.tm_year) + 1900
}

fn broken_down(unix_secs: i64) -> Option<libc::tm> {
    let mut tm = MaybeUninit::<libc::tm>::zeroed();
    let seconds: libc::time_t = unix_secs;
    // SAFETY: both pointers are to live values of the types asked for; localtime_r keeps neither.
    let filled = unsafe { libc::localtime_r(&raw const seconds, tm.as_mut_ptr()) };
    if filled.is_null() {
        return None;
    }
    // SAFETY: all of it was zeroed, which is valid for every field, and then filled.
    Some(unsafe { tm.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(stamp: &Stamp) -> String {
        let text = std::str::from_utf8(stamp.as_bytes()).expect("zone names are ASCII");
        text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect()
    }

    #[test]
    fn a_stamp_has_gos_layout() {
        let shape = shape(&Stamp::new(1_795_482_123, Layout::Slashes));
        assert!(shape.starts_with("0000/00/00 00:00:00 "), "{shape}");
        assert!(shape.len() > 20, "a zone follows: {shape}");
    }

    #[test]
    fn a_stamp_has_the_common_logs_layout() {
        // Mid-month, so that it is June in every zone.
        let shape = shape(&Stamp::new(1_497_492_722, Layout::Common));
        assert_eq!(shape.replace('-', "+"), "00/Jun/0000:00:00:00 +0000");
    }

    #[test]
    fn zones_east_and_west_of_utc_have_their_sign() {
        let mut tm = broken_down(0).expect("the epoch has a date");
        for (secs, text) in [(19_800, " +0530"), (-12_600, " -0330"), (0, " +0000")] {
            let mut stamp = Stamp { bytes: [0; STAMP_BYTES_MAX], len: 0 };
            tm.tm_gmtoff = secs;
            stamp.append_common(&tm);
            assert!(stamp.as_bytes().ends_with(text.as_bytes()), "{stamp:?}");
        }
    }

    #[test]
    fn seconds_that_the_c_library_refuses_still_give_a_stamp() {
        for layout in [Layout::Slashes, Layout::Common] {
            assert!(!Stamp::new(i64::MAX, layout).as_bytes().is_empty());
            assert!(!Stamp::new(i64::MIN, layout).as_bytes().is_empty());
        }
        assert_eq!(ahead_of_utc_secs(i64::MAX), 0);
    }

    #[test]
    fn a_zone_name_too_long_is_cut() {
        let mut stamp = Stamp { bytes: [0; STAMP_BYTES_MAX], len: 0 };
        stamp.append(&[b'x'; STAMP_BYTES_MAX + 1]);
        assert_eq!(stamp.as_bytes(), [b'x'; STAMP_BYTES_MAX]);
    }
}
