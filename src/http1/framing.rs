//! How long is this body? (RFC 9112 §6.3)
//!
//! One answer or none: whatever could be read in two ways is malformed, because the peer behind us may read it the
//! other way.

#![forbid(unsafe_code)]

use super::head::Version;
use crate::error::Cause;

/// The longest body that can be announced, in bytes: what every peer can count in a signed 64-bit number.
const CONTENT_LENGTH_MAX: u64 = i64::MAX as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    None,
    Fixed(u64),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    None,
    Fixed(u64),
    Chunked,
    /// Until the origin closes.
    ToClose,
}

/// What Content-Length and Transfer-Encoding say, gathered line by line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lengths {
    content_length: Option<u64>,
    transfer_encoding: Option<Coding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// Another coding below `chunked`: framed, but not ours to decode.
    OtherThenChunked,
}

impl Lengths {
    /// RFC 9110 §8.6: digits only; repeated lines only if identical. A list in one line is refused too: some readers
    /// take its first member, some its last.
    pub fn add_content_length(&mut self, value: &[u8]) -> Result<(), Cause> {
        const BAD: Cause = Cause::Malformed("Content-Length is not one number");
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(BAD);
        }
        let length = value
            .iter()
            .try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .filter(|length| *length <= CONTENT_LENGTH_MAX)
            .ok_or(Cause::BodyTooLong)?;
        match self.content_length.replace(length) {
            Some(other) if other != length => {
                Err(Cause::Malformed("Content-Length differs from itself"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// RFC 9112 §6.1: `chunked` exactly once and last, in one line. Two lines are refused though they are a list:
    /// some readers look at the first only.
    pub fn add_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Cause> {
        const BAD: Cause = Cause::Malformed("Transfer-Encoding is not one chunked, and last");
        if self.transfer_encoding.is_some() {
            return Err(BAD);
        }
        let mut tokens = value.rsplit(|b| *b == b',').map(trim_ows);
        if !tokens.next().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) {
            return Err(BAD);
        }
        let mut coding = Coding::Chunked;
        for token in tokens {
            if token.is_empty() || token.eq_ignore_ascii_case(b"chunked") {
                return Err(BAD);
            }
            coding = Coding::OtherThenChunked;
        }
        self.transfer_encoding = Some(coding);
        Ok(())
    }

    pub fn of_request(&self, version: Version) -> Result<RequestBody, Cause> {
        match (self.chunked(version)?, self.content_length) {
            (true, _) => Ok(RequestBody::Chunked),
            (false, Some(length)) => Ok(RequestBody::Fixed(length)),
            // RFC 9112 §6.3 item 7.
            (false, None) => Ok(RequestBody::None),
        }
    }

    pub fn of_response(
        &self,
        version: Version,
        status: u16,
        to_head_request: bool,
    ) -> Result<ResponseBody, Cause> {
        let chunked = self.chunked(version)?;
        // RFC 9112 §6.3 item 1: whatever the fields say.
        if to_head_request || status < 200 || status == 204 || status == 304 {
            return Ok(ResponseBody::None);
        }
        Ok(match (chunked, self.content_length) {
            (true, _) => ResponseBody::Chunked,
            (false, Some(length)) => ResponseBody::Fixed(length),
            // RFC 9112 §6.3 item 8.
            (false, None) => ResponseBody::ToClose,
        })
    }

    fn chunked(&self, version: Version) -> Result<bool, Cause> {
        let Some(coding) = self.transfer_encoding else { return Ok(false) };
        // RFC 9112 §6.1: Transfer-Encoding with Content-Length may be smuggling. It may be refused, though the length
        // could also be dropped.
        if self.content_length.is_some() {
            return Err(Cause::Malformed("both Transfer-Encoding and Content-Length"));
        }
        // RFC 9112 §6.1: in HTTP/1.0 its framing is faulty.
        if version == Version::Http10 {
            return Err(Cause::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        match coding {
            Coding::Chunked => Ok(true),
            Coding::OtherThenChunked => {
                Err(Cause::NotImplemented("a transfer coding other than chunked"))
            }
        }
    }
}

/// Optional white space is SP and HTAB only (RFC 9110 §5.6.3); `trim_ascii` would take more.
pub(super) fn trim_ows(mut token: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = token {
        token = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = token {
        token = rest;
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{Http10, Http11};

    fn lengths(content_lengths: &[&str], codings: &[&str]) -> Result<Lengths, Cause> {
        let mut lengths = Lengths::default();
        for value in content_lengths {
            lengths.add_content_length(value.as_bytes())?;
        }
        for value in codings {
            lengths.add_transfer_encoding(value.as_bytes())?;
        }
        Ok(lengths)
    }

    #[test]
    fn one_number_is_a_length() {
        for (value, length) in
            [("0", 0), ("5", 5), ("0005", 5), ("9223372036854775807", i64::MAX as u64)]
        {
            let body = lengths(&[value], &[]).unwrap().of_request(Http11);
            assert_eq!(body, Ok(RequestBody::Fixed(length)), "{value}");
        }
        assert_eq!(
            lengths(&["7", "007"], &[]).unwrap().of_request(Http10),
            Ok(RequestBody::Fixed(7))
        );
    }

    #[test]
    fn anything_else_is_no_length() {
        for value in ["", "+5", "-5", "5 5", "5,5", "5, 5", "0x5", "5;", "٥"] {
            assert!(matches!(lengths(&[value], &[]), Err(Cause::Malformed(_))), "{value}");
        }
        assert!(matches!(lengths(&["5", "6"], &[]), Err(Cause::Malformed(_))));
        for value in ["9223372036854775808", "18446744073709551616", "99999999999999999999999"] {
            assert_eq!(lengths(&[value], &[]).unwrap_err(), Cause::BodyTooLong, "{value}");
        }
    }

    #[test]
    fn only_one_chunked_and_last_is_chunked() {
        for value in ["chunked", "Chunked", " chunked", "chunked\t"] {
            let body = lengths(&[], &[value]).unwrap().of_request(Http11);
            assert_eq!(body, Ok(RequestBody::Chunked), "{value}");
        }
        for value in ["gzip, chunked", "x,CHUNKED"] {
            let body = lengths(&[], &[value]).unwrap().of_request(Http11);
            assert!(matches!(body, Err(Cause::NotImplemented(_))), "{value}");
        }
        for value in [
            "",
            ",",
            "identity",
            "gzip",
            "xchunked",
            "chunked, identity",
            "chunked, chunked",
            "chunked,",
            ", chunked",
            "chunked;q=1",
            "\"chunked\"",
            "\x0bchunked",
        ] {
            assert!(matches!(lengths(&[], &[value]), Err(Cause::Malformed(_))), "{value}");
        }
        assert!(lengths(&[], &["chunked", "chunked"]).is_err());
        assert!(lengths(&[], &["gzip", "chunked"]).is_err());
    }

    #[test]
    fn both_or_chunked_in_http_1_0_is_refused() {
        assert!(lengths(&["5"], &["chunked"]).unwrap().of_request(Http11).is_err());
        assert!(lengths(&["5"], &["chunked"]).unwrap().of_response(Http11, 200, false).is_err());
        assert!(lengths(&[], &["chunked"]).unwrap().of_request(Http10).is_err());
        assert!(lengths(&[], &["chunked"]).unwrap().of_response(Http10, 200, false).is_err());
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        let five = lengths(&["5"], &[]).unwrap();
        for status in [100, 103, 204, 304] {
            assert_eq!(five.of_response(Http11, status, false), Ok(ResponseBody::None), "{status}");
        }
        assert_eq!(five.of_response(Http11, 200, true), Ok(ResponseBody::None));
        assert_eq!(five.of_response(Http11, 200, false), Ok(ResponseBody::Fixed(5)));
    }

    #[test]
    fn without_fields_a_request_ends_and_a_response_runs_to_the_close() {
        let none = Lengths::default();
        assert_eq!(none.of_request(Http11), Ok(RequestBody::None));
        assert_eq!(none.of_response(Http11, 200, false), Ok(ResponseBody::ToClose));
        assert_eq!(none.of_response(Http10, 200, false), Ok(ResponseBody::ToClose));
    }
}
