//! How far bytes of one kind reach: what a head is read with, sixteen bytes at a step.

#![forbid(unsafe_code)]

/// Bytes that are looked at in one step.
const STEP: usize = 16;

/// Where the next LF is at or after `at`; the length if there is none.
pub fn lf(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, |byte| byte == b'\n')
}

/// Where the token that begins at `at` ends (RFC 9110 §5.6.2). It may be empty.
pub fn token_end(bytes: &[u8], mut at: usize) -> usize {
    loop {
        // Letters, digits and hyphens by the step; what else may stand in a token is rare.
        at = first(bytes, at, |byte| {
            let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
            let is_digit = byte.wrapping_sub(b'0') < 10;
            !(is_letter | is_digit | (byte == b'-'))
        });
        if !bytes.get(at).is_some_and(|byte| b"!#$%&'*+.^_`|~".contains(byte)) {
            return at;
        }
        at += 1;
    }
}

/// Where the text that begins at `at` ends, as it may stand in a field's value or a reason phrase: HTAB, SP, VCHAR and
/// obs-text (RFC 9110 §5.5).
pub fn text_end(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, |byte| (byte < b' ') & (byte != b'\t') | (byte == 0x7f))
}

/// Where the request target that begins at `at` ends: at a space, or at what may not stand in one. Bytes that are not
/// ASCII are left to the caller.
pub fn target_end(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, |byte| (byte <= b' ') | (byte == 0x7f))
}

/// Where the first byte is, at or after `at`, that `found` is true of; the length if there is none.
///
/// `found` must not branch: then compilers look at all bytes of a step at once.
#[inline(always)]
fn first(bytes: &[u8], mut at: usize, found: impl Fn(u8) -> bool) -> usize {
    // A byte of ones for each that is found.
    let marks = |step: &[u8; STEP]| {
        u128::from_le_bytes(step.map(|byte| if found(byte) { u8::MAX } else { 0 }))
    };
    let place = |marks: u128| marks.trailing_zeros() as usize / 8;
    while let Some(step) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let marks = marks(step);
        if marks != 0 {
            return at + place(marks);
        }
        at += STEP;
    }
    let (marks, begin) = match bytes.last_chunk() {
        // Overlaps the step before it.
        Some(last) => (marks(last), bytes.len() - STEP),
        None => {
            let mut padded = [0; STEP];
            padded[..bytes.len()].copy_from_slice(bytes);
            (marks(&padded), 0)
        }
    };
    // Less what lies before `at`, which is at most the whole step.
    let marks = marks.checked_shr(8 * (at - begin).min(STEP) as u32).unwrap_or_default();
    bytes.len().min(at.saturating_add(place(marks)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
                        assert_eq!(lf(&bytes, from), ends(byte == b'\n'), "{byte}");
                    }
                    // What lies behind is not looked at.
                    assert_eq!(text_end(&bytes, len), len);
                    assert_eq!(lf(&bytes, at + 1), len);
                }
            }
        }
    }
}
