//! Heads in: where a head ends, and what it says.
//!
//! httparse reads the grammar. Around it stands a guard for what it lets pass: a bare LF as line end, and a head that
//! ends earlier than the empty line that the guard found. Both would let two readers disagree (RFC 9112 §2.2).

#![forbid(unsafe_code)]

pub use super::field_list::{FieldRoom, Fields};
use super::{
    fields::Field,
    framing::{RequestBody, ResponseBody},
};
use crate::{
    error::Cause,
    limits::{EMPTY_LINES_MAX, HEAD_BYTES_MAX, ID_BYTES_MAX, TARGET_BYTES_MAX},
};
use httparse::Header;

pub const BARE_LF: Cause = Cause::Malformed("a line ends in LF without CR");
const NOT_A_HEAD: Cause = Cause::Malformed("the start line or a field line is not valid HTTP/1.1");

/// Looks for the end of a head in a buffer that grows, without reading any byte twice.
#[derive(Debug, Default)]
pub struct EndOfHead {
    scanned: usize,
    line: usize,
}

impl EndOfHead {
    /// Looks on where the last call stopped; `bytes` starts at the head's first byte and only ever grows.
    ///
    /// Returns the head's length with its empty line, or None while that is not there. Errors: a bare LF; a head of
    /// more than `HEAD_BYTES_MAX`, complete or not; a target of more than `TARGET_BYTES_MAX` whose line is still
    /// open (a complete one is measured when it is parsed).
    pub fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        for at in memchr::memchr_iter(b'\n', &bytes[self.scanned..]).map(|i| i + self.scanned) {
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(BARE_LF);
            }
            if at - 1 == self.line {
                let end = at + 1;
                return if end > HEAD_BYTES_MAX { Err(Cause::HeadTooLong) } else { Ok(Some(end)) };
            }
            self.line = at + 1;
        }
        self.scanned = bytes.len();
        if self.line == 0 && bytes.len() > TARGET_BYTES_MAX + 256 {
            return Err(Cause::TargetTooLong);
        }
        if bytes.len() >= HEAD_BYTES_MAX { Err(Cause::HeadTooLong) } else { Ok(None) }
    }
}

/// How many bytes of empty lines stand before a request (RFC 9112 §2.2). Errors: more than `EMPTY_LINES_MAX`.
pub fn empty_lines(bytes: &[u8]) -> Result<usize, Cause> {
    let mut skipped = 0;
    while bytes[skipped..].starts_with(b"\r\n") {
        skipped += 2;
        if skipped > EMPTY_LINES_MAX * 2 {
            return Err(Cause::Malformed("too many empty lines before the request line"));
        }
    }
    Ok(skipped)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// A request head that keeps RFC 9112.
pub struct RequestHead<'r, 'b> {
    pub method: &'b str,
    /// As sent, byte for byte.
    pub target: &'b str,
    pub version: Version,
    pub fields: Fields<'r, 'b>,
    pub host: Option<&'b [u8]>,
    pub id: Option<&'b [u8]>,
    pub user_agent: &'b [u8],
    pub body: RequestBody,
    pub keep_alive: bool,
    pub has_chocon_ver: bool,
}

impl<'r, 'b> RequestHead<'r, 'b> {
    /// Reads a whole head, as found by [`EndOfHead`].
    ///
    /// Errors: every cause that a client can give; none of them depends on how the bytes arrived.
    pub fn parse(bytes: &'b [u8], room: &'r mut FieldRoom<'b>) -> Result<Self, Cause> {
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, &mut room.headers);
        ended(parsed, bytes, start_line_is_other_version)?;
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(NOT_A_HEAD);
        };
        if target.len() > TARGET_BYTES_MAX {
            return Err(Cause::TargetTooLong);
        }
        let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
        let fields = Fields::new(bytes, request.headers, &mut room.kinds)?;
        let body = fields.lengths.of_request(version)?;
        let mut head = Self {
            method,
            target,
            version,
            host: None,
            id: None,
            user_agent: &[],
            body,
            keep_alive: fields.persists(version),
            has_chocon_ver: false,
            fields,
        };
        head.read_fields()?;
        Ok(head)
    }

    fn read_fields(&mut self) -> Result<(), Cause> {
        for (kind, Header { value, .. }) in self.fields.kinds.iter().zip(self.fields.headers) {
            match kind {
                // RFC 9112 §3.2: more than one Host is a 400.
                Field::Host if self.host.is_some() => {
                    return Err(Cause::Malformed("more than one Host"));
                }
                Field::Host => self.host = Some(value),
                Field::UserAgent => self.user_agent = value,
                Field::ChoconId if value.len() > ID_BYTES_MAX => {
                    return Err(Cause::Malformed("X-Chocon-Id is too long"));
                }
                Field::ChoconId if self.id.is_some() => {
                    return Err(Cause::Malformed("more than one X-Chocon-Id"));
                }
                Field::ChoconId if !value.is_empty() => self.id = Some(value),
                Field::ChoconVer => self.has_chocon_ver = true,
                Field::Other
                | Field::Expect
                | Field::ChoconId
                | Field::KeepAlive
                | Field::Connection
                | Field::ContentLength
                | Field::TransferEncoding
                | Field::HopByHop => {}
            }
        }
        // RFC 9112 §3.2: a request without Host is a 400 in HTTP/1.1.
        if self.host.is_none() && self.version == Version::Http11 {
            return Err(Cause::Malformed("no Host"));
        }
        Ok(())
    }
}

/// A response head that keeps RFC 9112.
pub struct ResponseHead<'r, 'b> {
    /// 100 to 999.
    pub status: u16,
    /// What follows the version in the status line, from the space before the status to before CRLF.
    pub status_and_reason: &'b [u8],
    pub version: Version,
    pub fields: Fields<'r, 'b>,
    /// The origin lets the connection persist.
    pub keep_alive: bool,
}

impl<'r, 'b> ResponseHead<'r, 'b> {
    /// Reads a whole head, as found by [`EndOfHead`]. Errors: as for requests.
    pub fn parse(bytes: &'b [u8], room: &'r mut FieldRoom<'b>) -> Result<Self, Cause> {
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut room.headers,
        );
        ended(parsed, bytes, |_| false)?;
        let (Some(status), Some(minor)) = (response.code, response.version) else {
            return Err(NOT_A_HEAD);
        };
        if status < 100 {
            return Err(Cause::Malformed("the status is below 100"));
        }
        let line_end = memchr::memchr(b'\r', bytes).ok_or(NOT_A_HEAD)?;
        // `HTTP/1.x` is 8 bytes; httparse has read them and the status behind them.
        let status_and_reason = bytes.get(8..line_end).ok_or(NOT_A_HEAD)?;
        let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
        let fields = Fields::new(bytes, response.headers, &mut room.kinds)?;
        let keep_alive = fields.persists(version);
        Ok(Self { status, status_and_reason, version, fields, keep_alive })
    }

    /// Which body follows, given the request's method. Errors: framing that two readers could read in two ways.
    pub fn body(&self, to_head_request: bool) -> Result<ResponseBody, Cause> {
        self.fields.lengths.of_response(self.version, self.status, to_head_request)
    }
}

/// Translates httparse's verdict, and holds it to the end that the guard found.
fn ended(
    parsed: httparse::Result<usize>,
    bytes: &[u8],
    is_other_version: impl Fn(&[u8]) -> bool,
) -> Result<(), Cause> {
    match parsed {
        Ok(httparse::Status::Complete(n)) if n == bytes.len() => Ok(()),
        Ok(_) => Err(Cause::Malformed("the head ends before its empty line")),
        Err(httparse::Error::TooManyHeaders) => Err(Cause::HeadTooLong),
        Err(httparse::Error::Version) if is_other_version(bytes) => Err(Cause::VersionNotSupported),
        Err(_) => Err(NOT_A_HEAD),
    }
}

/// Whether the request line ends in `HTTP/` digit `.` digit: another version, not another protocol.
fn start_line_is_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or(bytes);
    let Some(version) = line.len().checked_sub(8).map(|at| &line[at..]) else { return false };
    // A space in the target makes the parser stumble over the version, too.
    version.starts_with(b"HTTP/")
        && version[5].is_ascii_digit()
        && version[6] == b'.'
        && version[7].is_ascii_digit()
        && !matches!(version, b"HTTP/1.0" | b"HTTP/1.1")
}

#[cfg(test)]
mod tests;
