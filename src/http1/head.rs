//! Heads in: where a head ends, and what it says.
//!
//! The end is looked for first, and what is read must end just there: a bare LF as line end, or a head that ends earlier,
//! would let two readers disagree (RFC 9112 §2.2).

#![forbid(unsafe_code)]

pub use super::field_list::{FieldRoom, Fields};
use super::{
    field_list::NOT_A_HEAD,
    fields::Field,
    framing::{RequestBody, ResponseBody},
    scan,
};
use crate::{
    error::Cause,
    limits::{EMPTY_LINES_MAX, HEAD_BYTES_MAX, ID_BYTES_MAX, TARGET_BYTES_MAX},
};

pub const BARE_LF: Cause = Cause::Malformed("a line ends in LF without CR");

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
        for at in scan::line_feeds(bytes, self.scanned) {
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

impl Version {
    fn read(bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"HTTP/1.1" => Some(Version::Http11),
            b"HTTP/1.0" => Some(Version::Http10),
            _other => None,
        }
    }
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
    pub fn parse(bytes: &'b [u8], room: &'r mut FieldRoom) -> Result<Self, Cause> {
        // RFC 9112 §3: method, target and version, one space between each.
        let method = 0..scan::token_end(bytes, 0);
        let target = method.end + 1..scan::target_end(bytes, method.end + 1);
        let spaces = [method.end, target.end].map(|at| bytes.get(at));
        if method.is_empty() || target.is_empty() || spaces != [Some(&b' '); 2] {
            return Err(NOT_A_HEAD);
        }
        let line_end = target.end + " HTTP/1.1".len();
        let text = |part| std::str::from_utf8(part).map_err(|_| NOT_A_HEAD);
        let (method, target) = (text(&bytes[method])?, text(&bytes[target])?);
        let version = match bytes.get(line_end - 8..line_end).and_then(Version::read) {
            Some(version) => version,
            None if start_line_is_other_version(bytes) => return Err(Cause::VersionNotSupported),
            None => return Err(NOT_A_HEAD),
        };
        if !bytes[line_end..].starts_with(b"\r\n") {
            return Err(NOT_A_HEAD);
        }
        if target.len() > TARGET_BYTES_MAX {
            return Err(Cause::TargetTooLong);
        }
        let fields = Fields::read(bytes, line_end + 2, room)?;
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
        for field in self.fields.iter() {
            match field.kind() {
                // RFC 9112 §3.2: more than one Host is a 400.
                Field::Host if self.host.is_some() => {
                    return Err(Cause::Malformed("more than one Host"));
                }
                Field::Host => self.host = Some(field.value()),
                Field::UserAgent => self.user_agent = field.value(),
                Field::ChoconId if field.value().len() > ID_BYTES_MAX => {
                    return Err(Cause::Malformed("X-Chocon-Id is too long"));
                }
                Field::ChoconId if self.id.is_some() => {
                    return Err(Cause::Malformed("more than one X-Chocon-Id"));
                }
                Field::ChoconId if !field.value().is_empty() => self.id = Some(field.value()),
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
    pub fn parse(bytes: &'b [u8], room: &'r mut FieldRoom) -> Result<Self, Cause> {
        // RFC 9112 §4: `HTTP/1.x`, a space, three digits; then nothing, or a space and perhaps a reason.
        let version = bytes.get(..8).and_then(Version::read).ok_or(NOT_A_HEAD)?;
        let status = match bytes.get(8..12) {
            Some([b' ', digits @ ..]) if digits.iter().all(u8::is_ascii_digit) => {
                digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
            }
            Some(_) | None => return Err(NOT_A_HEAD),
        };
        let line_end = scan::text_end(bytes, 12);
        let has_space = line_end == 12 || bytes[12] == b' ';
        if !has_space || !bytes[line_end..].starts_with(b"\r\n") {
            return Err(NOT_A_HEAD);
        }
        let fields = Fields::read(bytes, line_end + 2, room)?;
        if status < 100 {
            return Err(Cause::Malformed("the status is below 100"));
        }
        let status_and_reason = &bytes[8..line_end];
        let keep_alive = fields.persists(version);
        Ok(Self { status, status_and_reason, version, fields, keep_alive })
    }

    /// Which body follows, given the request's method. Errors: framing that two readers could read in two ways.
    pub fn body(&self, to_head_request: bool) -> Result<ResponseBody, Cause> {
        self.fields.lengths.of_response(self.version, self.status, to_head_request)
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
