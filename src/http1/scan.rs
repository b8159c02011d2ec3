//! How far bytes of one kind reach: what a head is read with, sixteen bytes at a step.

#![forbid(unsafe_code)]

use wide::u8x16;

/// Bytes that are looked at in one step.
const STEP: usize = 16;

/// Where each LF is from `at` on.
pub fn line_feeds(bytes: &[u8], at: usize) -> impl Iterator<Item = usize> {
    let (mut begin, mut next, mut marks) = (at, at, 0);
    std::iter::from_fn(move || {
        while marks == 0 {
            let rest = bytes.get(next..).filter(|rest| !rest.is_empty())?;
            marks = match rest.first_chunk() {
                Some(step) => equal(u8x16::new(*step), b'\n').to_bitmask(),
                None => equal(padded(rest), b'\n').to_bitmask(),
            };
            (begin, next) = (next, next + STEP);
        }
        let at = begin + marks.trailing_zeros() as usize;
        marks &= marks - 1;
        Some(at)
    })
}

/// Where the token that begins at `at` ends (RFC 9110 §5.6.2). It may be empty.
#[inline]
pub fn token_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        // Letters, digits and hyphens by the step; what else may stand in a token is rare.
        at = first(bytes, at, |step| {
            // No byte but a letter becomes one by this bit.
            let letter = between(step | u8x16::splat(0x20), b'a', b'z');
            !(letter | between(step, b'0', b'9') | equal(step, b'-'))
        });
        if !bytes.get(at).is_some_and(|byte| b"!#$%&'*+.^_`|~".contains(byte)) {
            return at;
        }
        at += 1;
    }
}

/// Where the text that begins at `at` ends, as it may stand in a field's value or a reason phrase: HTAB, SP, VCHAR and
/// obs-text (RFC 9110 §5.5).
#[inline]
pub fn text_end(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, |step| (at_most(step, 0x1f) & !equal(step, b'\t')) | equal(step, 0x7f))
}

/// Where the request target that begins at `at` ends: at a space, or at what may not stand in one. Bytes that are not
/// ASCII are left to the caller.
#[inline]
pub fn target_end(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, |step| at_most(step, b' ') | equal(step, 0x7f))
}

/// Where the first byte is, at or after `at`, that `found` marks; the length if there is none.
#[inline(always)]
fn first(bytes: &[u8], mut at: usize, found: impl Fn(u8x16) -> u8x16) -> usize {
    while let Some(step) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let marks = found(u8x16::new(*step)).to_bitmask();
        if marks != 0 {
            return at + marks.trailing_zeros() as usize;
        }
        at += STEP;
    }
    let (marks, begin) = match bytes.last_chunk() {
        // Overlaps the step before it.
        Some(last) => (found(u8x16::new(*last)).to_bitmask(), bytes.len() - STEP),
        None => (found(padded(bytes)).to_bitmask(), 0),
    };
    // Less what lies before `at`, which is at most the whole step.
    let marks = marks >> (at - begin).min(STEP);
    if marks == 0 { bytes.len() } else { bytes.len().min(at + marks.trailing_zeros() as usize) }
}

/// A step of fewer bytes, with NULs behind them.
#[cold]
fn padded(bytes: &[u8]) -> u8x16 {
    let mut step = [0; STEP];
    step[..bytes.len()].copy_from_slice(bytes);
    u8x16::new(step)
}

fn equal(step: u8x16, byte: u8) -> u8x16 {
    step.simd_eq(u8x16::splat(byte))
}

fn at_most(step: u8x16, byte: u8) -> u8x16 {
    step.min(u8x16::splat(byte)).simd_eq(step)
}

fn between(step: u8x16, from: u8, to: u8) -> u8x16 {
    at_most(step - u8x16::splat(from), to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_feed_is_found() {
        let mut bytes = vec![b'\n'; 2 * STEP + 5];
        (bytes[3], bytes[STEP]) = (b'a', b'\r');
        let places: Vec<usize> = (1..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
        assert_eq!(line_feeds(&bytes, 1).collect::<Vec<_>>(), places);
        assert_eq!(line_feeds(&bytes, bytes.len()).count(), 0);
    }

    #[test]
    fn a_run_ends_at_the_first_byte_of_another_kind_wherever_it_is() {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        for len in 0..3 * STEP {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'a'; len];
                    bytes[at] = byte;
                    let ends = |other: bool| if other { at } else { len };
                    for from in [0, at / 2, at] {
                        assert_eq!(token_end(&bytes, from), ends(!is_token(byte)), "{byte}");
                        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                        assert_eq!(text_end(&bytes, from), ends(!text), "{byte}");
                        let target = byte > b' ' && byte != 0x7f;
                        assert_eq!(target_end(&bytes, from), ends(!target), "{byte}");
                        let feeds: Vec<usize> = line_feeds(&bytes, from).collect();
                        let one = if byte == b'\n' { vec![at] } else { vec![] };
                        assert_eq!(feeds, one, "{byte}");
                    }
                    // What lies behind is not looked at.
                    assert_eq!(text_end(&bytes, len), len);
                    assert_eq!(text_end(&bytes, at + 1), len);
                }
            }
        }
    }
}
