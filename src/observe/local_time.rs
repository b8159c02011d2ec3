//! Local time, through the C library: the zone's rules are its business (`TZ`, `/etc/localtime`).
//! The only unsafe code of `observe`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::MaybeUninit;

/// Bytes of the longest stamp kept; a longer zone name is cut. Date and time take 20, and POSIX
/// asks for zone names of at least 6; the longest in use have 6.
const STAMP_BYTES_MAX: usize = 47;

/// A time stamp of one second: `2006/01/02 15:04:05 MST`, in bytes without a terminator.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    bytes: [u8; STAMP_BYTES_MAX],
    len: u8,
}

impl Stamp {
    /// The stamp of a second since the Unix epoch in this host's zone; in UTC where the C library
    /// refuses (a year beyond 32 bits).
    ///
    /// The C library reads the zone's file at the first call of a process and takes a lock that
    /// only other callers of it take; one call is some hundreds of nanoseconds.
    pub fn new(unix_secs: i64) -> Stamp {
        let mut stamp = Stamp { bytes: [0; STAMP_BYTES_MAX], len: 0 };
        let Some(tm) = broken_down(unix_secs).or_else(|| broken_down(0)) else {
            return stamp;
        };
        stamp.append_padded(i64::from(tm.tm_year) + 1900, 4);
        stamp.append(b"/");
        stamp.append_padded(i64::from(tm.tm_mon) + 1, 2);
        stamp.append(b"/");
        stamp.append_padded(i64::from(tm.tm_mday), 2);
        stamp.append(b" ");
        stamp.append_padded(i64::from(tm.tm_hour), 2);
        stamp.append(b":");
        stamp.append_padded(i64::from(tm.tm_min), 2);
        stamp.append(b":");
        stamp.append_padded(i64::from(tm.tm_sec), 2);
        stamp.append(b" ");
        if tm.tm_zone.is_null() {
            stamp.append(b"UTC");
        } else {
            // SAFETY: localtime_r has set tm_zone to a string that ends with NUL and that the C
            // library keeps; it is read at once, and nothing in this process changes TZ.
            stamp.append(unsafe { CStr::from_ptr(tm.tm_zone) }.to_bytes());
        }
        stamp
    }

    /// The stamp's text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
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

    #[test]
    fn a_stamp_has_gos_layout() {
        let stamp = Stamp::new(1_795_482_123);
        let text = std::str::from_utf8(stamp.as_bytes()).expect("zone names are ASCII");
        let shape: String =
            text[..20].chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000/00/00 00:00:00 ");
        assert!(text.len() > 20, "a zone follows: {text}");
    }

    #[test]
    fn seconds_that_the_c_library_refuses_still_give_a_stamp() {
        assert!(!Stamp::new(i64::MAX).as_bytes().is_empty());
        assert!(!Stamp::new(i64::MIN).as_bytes().is_empty());
    }

    #[test]
    fn a_zone_name_too_long_is_cut() {
        let mut stamp = Stamp { bytes: [0; STAMP_BYTES_MAX], len: 0 };
        stamp.append(&[b'x'; STAMP_BYTES_MAX + 1]);
        assert_eq!(stamp.as_bytes(), [b'x'; STAMP_BYTES_MAX]);
    }
}
