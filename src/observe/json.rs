//! JSON as Go's zap writes it, so that what reads chocon's logs reads ours. Pure; appends to bytes.
#![forbid(unsafe_code)]

use crate::headers::push_number;
use std::time::Duration;

/// Appends `bytes` as a quoted JSON string, escaped as zap does: `"` and `\` with a backslash,
/// `\n \r \t` so, other controls as `\u00xx`, all valid UTF-8 as it is, and `\ufffd` for each byte
/// that is not (chocon: zapcore jsonEncoder.safeAddString).
pub fn append_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    // Nearly all strings need no escape. Without an early exit this test is vectorised, and the
    // string is then copied whole.
    let plain = bytes.iter().fold(true, |plain, &byte| plain & is_plain(byte));
    if plain {
        out.extend_from_slice(bytes);
    } else {
        append_escaped(out, bytes);
    }
    out.push(b'"');
}

/// Appends a whole number.
pub fn append_u64(out: &mut Vec<u8>, number: u64) {
    push_number(out, number);
}

/// Appends a duration in seconds as Go's shortest float without exponent
/// (`strconv.FormatFloat(d.Seconds(), 'f', -1, 64)`): `0.00088578`, `0`, `1.5`.
pub fn append_seconds(out: &mut Vec<u8>, duration: Duration) {
    if duration.as_secs() == 0 {
        // Below one second the float is the one nearest to a decimal of nine places, and no two
        // such decimals share a float: its shortest form is that decimal without trailing zeros.
        append_nanoseconds_below_one_second(out, duration.subsec_nanos());
    } else {
        append_f64(out, duration.as_secs_f64());
    }
}

/// Appends a finite float as Go's `strconv.FormatFloat(v, 'f', -1, 64)` does: the shortest decimal
/// that reads back as the same float, never an exponent. Rust's `Display` is defined the same way.
pub fn append_f64(out: &mut Vec<u8>, number: f64) {
    use std::io::Write;
    debug_assert!(number.is_finite(), "JSON has no NaN and no infinity");
    write!(out, "{number}").expect("a Vec takes every write");
}

fn append_nanoseconds_below_one_second(out: &mut Vec<u8>, nanoseconds: u32) {
    out.push(b'0');
    if nanoseconds == 0 {
        return;
    }
    let mut digits = [b'0'; 10];
    digits[0] = b'.';
    let mut rest = nanoseconds;
    for digit in digits[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let end = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
    out.extend_from_slice(&digits[..end]);
}

fn is_plain(byte: u8) -> bool {
    (byte >= 0x20) & (byte != b'"') & (byte != b'\\') & (byte < 0x80)
}

fn append_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for &byte in chunk.valid().as_bytes() {
            append_valid_byte(out, byte);
        }
        // Go decodes an invalid sequence byte by byte; so one mark for each byte of it.
        for _ in chunk.invalid() {
            out.extend_from_slice(br"\ufffd");
        }
    }
}

fn append_valid_byte(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(br"\n"),
        b'\r' => out.extend_from_slice(br"\r"),
        b'\t' => out.extend_from_slice(br"\t"),
        0..0x20 => {
            out.extend_from_slice(br"\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 0xf)]);
        }
        0x20..=0xff => out.push(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        append_string(&mut out, bytes);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    fn seconds(duration: Duration) -> String {
        let mut out = Vec::new();
        append_seconds(&mut out, duration);
        String::from_utf8(out).expect("digits")
    }

    #[test]
    fn strings_are_escaped_as_zap_does() {
        assert_eq!(string(b""), r#""""#);
        assert_eq!(string(b"curl/7.88.1 <a&b>'\x7f"), "\"curl/7.88.1 <a&b>'\x7f\"");
        assert_eq!(string(b"a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(string(b"\n\r\t\x00\x08\x0c\x1f"), r#""\n\r\t\u0000\u0008\u000c\u001f""#);
        assert_eq!(string("é漢😀\u{2028}\u{fffd}".as_bytes()), "\"é漢😀\u{2028}\u{fffd}\"");
    }

    #[test]
    fn each_byte_that_is_not_utf8_gets_its_own_mark() {
        assert_eq!(string(b"a\xffb"), r#""a\ufffdb""#);
        assert_eq!(string(b"\xe2\x82x"), r#""\ufffd\ufffdx""#); // a character cut short
        assert_eq!(string(b"\xed\xa0\x80"), r#""\ufffd\ufffd\ufffd""#); // a surrogate
        assert_eq!(string(b"\xc0\xaf"), r#""\ufffd\ufffd""#); // overlong
        assert_eq!(string(b"\xf0\x9f\x98"), r#""\ufffd\ufffd\ufffd""#);
    }

    #[test]
    fn whole_numbers_are_written_in_full() {
        for number in [0, 1, 9, 10, 99, 200, 65_535, u64::MAX] {
            let mut out = Vec::new();
            append_u64(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn seconds_look_as_go_prints_them() {
        assert_eq!(seconds(Duration::ZERO), "0");
        assert_eq!(seconds(Duration::from_nanos(885_780)), "0.00088578");
        assert_eq!(seconds(Duration::from_nanos(1)), "0.000000001");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5");
        assert_eq!(seconds(Duration::from_secs(3)), "3");
        assert_eq!(seconds(Duration::from_millis(100)), "0.1");
        assert_eq!(seconds(Duration::from_nanos(999_999_999)), "0.999999999");
    }

    #[test]
    fn the_short_way_below_one_second_equals_the_float() {
        // A stride that is prime to every power of ten visits all shapes of trailing zeros.
        for nanoseconds in (0..1_000_000_000_u64).step_by(999_983).chain(0..3000) {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(seconds(duration), duration.as_secs_f64().to_string());
        }
    }

    #[test]
    fn floats_never_have_an_exponent() {
        let mut out = Vec::new();
        append_f64(&mut out, 1_795_482_123.456_789);
        out.push(b' ');
        append_f64(&mut out, 1e21);
        assert_eq!(out, b"1795482123.456789 1000000000000000000000");
    }
}
