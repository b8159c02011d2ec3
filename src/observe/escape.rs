//! Escapes of the formats that are not JSON. Pure; appends to bytes.
#![forbid(unsafe_code)]

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends what stands between quotes in an Apache-like line: `"` and `\` with a backslash,
/// `\b \n \r \t \v` so, other controls and all that is not ASCII as `\xhh` (Apache:
/// ap_escape_logitem).
pub fn append_quoted(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(plain) {
        out.extend_from_slice(bytes);
        return;
    }
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x08 => out.extend_from_slice(br"\b"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            0x0b => out.extend_from_slice(br"\v"),
            0x20..0x7f => out.push(byte),
            _ => append_hex(out, byte),
        }
    }
}

/// Appends a value of LTSV, which must hold neither tab nor line end and knows no escape of its own:
/// controls, the backslash and each byte that is not UTF-8 become `\xhh`, so that nothing is lost;
/// all else stays (nginx escapes alike, but all that is not ASCII).
pub fn append_ltsv(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'\\';
    if bytes.iter().all(plain) {
        out.extend_from_slice(bytes);
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                0..0x20 | b'\\' | 0x7f => append_hex(out, byte),
                0x20..0x7f | 0x80.. => out.push(byte),
            }
        }
        for &byte in chunk.invalid() {
            append_hex(out, byte);
        }
    }
}

fn append_hex(out: &mut Vec<u8>, byte: u8) {
    let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]);
    out.extend_from_slice(&[b'\\', b'x', high, low]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quoted(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        append_quoted(&mut out, bytes);
        String::from_utf8(out).expect("ASCII")
    }

    fn ltsv(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        append_ltsv(&mut out, bytes);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn quoted_values_are_escaped_as_apache_does() {
        assert_eq!(quoted(b""), "");
        assert_eq!(quoted(b"/a?b=c d"), "/a?b=c d");
        assert_eq!(quoted(br#"a"b\c"#), r#"a\"b\\c"#);
        assert_eq!(quoted(b"\x08\n\r\t\x0b\x00\x1f\x7f"), r"\b\n\r\t\v\x00\x1f\x7f");
        assert_eq!(quoted("é".as_bytes()), r"\xc3\xa9");
        assert_eq!(quoted(b"\xff"), r"\xff");
    }

    #[test]
    fn ltsv_values_hold_no_tab_no_line_end_and_lose_nothing() {
        assert_eq!(ltsv(b"a\"b c:d"), "a\"b c:d");
        assert_eq!(ltsv(b"a\tb\nc\rd\\x09"), r"a\x09b\x0ac\x0dd\x5cx09");
        assert_eq!(ltsv("é漢😀\u{fffd}".as_bytes()), "é漢😀\u{fffd}");
        assert_eq!(ltsv(b"a\xffb\xe2\x82\x7f\x00"), r"a\xffb\xe2\x82\x7f\x00");
    }

    #[test]
    fn every_byte_comes_back_from_either_escape() {
        let all: Vec<u8> = (0..=255).collect();
        for text in [quoted(&all), ltsv(&all)] {
            assert!(!text.contains(['\n', '\t', '\0', '\r']), "{text}");
            assert_eq!(unescaped(&text), all);
        }
    }

    fn unescaped(text: &str) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), text.as_bytes());
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if byte != b'\\' {
                out.push(byte);
                continue;
            }
            let (&kind, tail) = rest.split_first().expect("an escape is whole");
            rest = tail;
            out.push(match kind {
                b'x' => {
                    let (digits, tail) = rest.split_at(2);
                    rest = tail;
                    let digits = std::str::from_utf8(digits).expect("ASCII");
                    u8::from_str_radix(digits, 16).expect("hex digits")
                }
                b'b' => 0x08,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 0x0b,
                b'"' | b'\\' => kind,
                other => panic!("\\{}", char::from(other)),
            });
        }
        out
    }
}
