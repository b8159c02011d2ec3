//! The fields of a head: what each is, which are for the next hop only, and what they say of the connection and of the
//! message's length.

#![forbid(unsafe_code)]

use super::{
    fields::{Field, told_timeout},
    framing::{Lengths, trim_ows},
    head::Version,
    scan,
};
use crate::{
    error::Cause,
    limits::{CONNECTION_NAMES_MAX, FIELDS_MAX},
};
use std::ops::Range;

pub(super) const NOT_A_HEAD: Cause =
    Cause::Malformed("the start line or a field line is not valid HTTP/1.1");

pub(super) const NOT_ITS_END: Cause = Cause::Malformed("the head ends before its empty line");

/// As many fields are read without an allocation. Most heads have fewer than twenty.
const FIELDS_USUAL: usize = 32;

/// Room for the places of one head's fields: the usual ones on the caller's stack, more of them on the heap.
pub struct FieldRoom {
    usual: [Place; FIELDS_USUAL],
    /// All of them, where there are more.
    many: Vec<Place>,
}

impl Default for FieldRoom {
    fn default() -> Self {
        const NOWHERE: Place = Place { kind: Field::Other, start: 0, colon: 0, end: 0 };
        Self { usual: [NOWHERE; FIELDS_USUAL], many: Vec::new() }
    }
}

/// Where one field line stands in its head, and what it is.
#[derive(Clone, Copy)]
struct Place {
    kind: Field,
    start: usize,
    colon: usize,
    /// Before its CRLF.
    end: usize,
}

impl Place {
    /// Reads the line that begins at `start` (RFC 9112 §5): no white space before the colon (§5.1), none in front of the
    /// name (§5.2), and CRLF at the end.
    fn read(bytes: &[u8], start: usize) -> Result<Self, Cause> {
        let colon = scan::token_end(bytes, start);
        if colon == start || bytes.get(colon) != Some(&b':') {
            return Err(NOT_A_HEAD);
        }
        let end = scan::text_end(bytes, colon + 1);
        if !bytes[end..].starts_with(b"\r\n") {
            return Err(NOT_A_HEAD);
        }
        Ok(Self { kind: Field::named(&bytes[start..colon]), start, colon, end })
    }

    fn name<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.start..self.colon]
    }

    fn value<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        trim_ows(&bytes[self.colon + 1..self.end])
    }
}

impl FieldRoom {
    /// The fields of a trailer section, with its empty line: `Connection` names none of them. Errors: no valid section.
    pub(super) fn lines<'b>(
        &mut self,
        section: &'b [u8],
    ) -> Result<impl Iterator<Item = Line<'b>>, Cause> {
        let places = self.read(section, 0)?;
        Ok(places.iter().map(|place| Line { bytes: section, place: *place, is_named: false }))
    }

    /// Reads all field lines from `at` on, and holds the end of `bytes` to be the empty line behind them.
    fn read(&mut self, bytes: &[u8], mut at: usize) -> Result<&[Place], Cause> {
        let mut count = 0;
        while bytes.get(at) != Some(&b'\r') {
            let place = Place::read(bytes, at)?;
            at = place.end + 2;
            match self.usual.get_mut(count) {
                Some(room) => *room = place,
                None if count == FIELDS_MAX => return Err(Cause::HeadTooLong),
                None => {
                    if count == FIELDS_USUAL {
                        self.many = self.usual.to_vec();
                    }
                    self.many.push(place);
                }
            }
            count += 1;
        }
        match &bytes[at..] {
            b"\r\n" => Ok(self.usual.get(..count).unwrap_or(&self.many)),
            [b'\r', b'\n', ..] => Err(NOT_ITS_END),
            _no_line_end => Err(NOT_A_HEAD),
        }
    }
}

/// A list of fields as received, with what each one is.
pub struct Fields<'r, 'b> {
    /// The whole head, which the fields point into.
    pub bytes: &'b [u8],
    /// Where the first of them begins, or the empty line.
    pub start: usize,
    places: &'r [Place],
    connection: Connection,
    named: Named,
    pub(super) lengths: Lengths,
}

/// What the `Connection` fields say of the connection.
#[derive(Clone, Copy, Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    /// They name other fields, too.
    names_fields: bool,
}

/// Which fields `Connection` names, by their place: one bit each.
#[derive(Clone, Copy, Default)]
struct Named([u64; FIELDS_MAX.div_ceil(64)]);

impl<'r, 'b> Fields<'r, 'b> {
    /// Reads the fields of the head `bytes`, whose first line begins at `at`.
    pub(super) fn read(bytes: &'b [u8], at: usize, room: &'r mut FieldRoom) -> Result<Self, Cause> {
        let places = room.read(bytes, at)?;
        let (mut connection, mut lengths) = (Connection::default(), Lengths::default());
        for place in places {
            match place.kind {
                Field::Connection => connection.read(place.value(bytes)),
                Field::ContentLength => lengths.add_content_length(place.value(bytes))?,
                Field::TransferEncoding => lengths.add_transfer_encoding(place.value(bytes))?,
                _ => {} // No other field says where the message or the connection ends.
            }
        }
        let named =
            if connection.names_fields { Named::read(bytes, places)? } else { Named::default() };
        Ok(Self { bytes, start: at, places, connection, named, lengths })
    }

    /// Every field in order.
    pub fn iter(&self) -> impl Iterator<Item = Line<'b>> + '_ {
        let bytes = self.bytes;
        self.places.iter().enumerate().map(move |(at, place)| Line {
            bytes,
            place: *place,
            is_named: self.named.has(at),
        })
    }

    /// How long the sender says it keeps the connection when idle, in seconds.
    pub fn idle_timeout(&self) -> Option<u64> {
        let place = self.places.iter().find(|place| place.kind == Field::KeepAlive)?;
        told_timeout(place.value(self.bytes))
    }

    /// RFC 9112 §9.3: whether the connection persists after this message.
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.connection.close
            && match version {
                Version::Http11 => true,
                Version::Http10 => self.connection.keep_alive,
            }
    }
}

/// The names in a `Connection` field's value.
fn connection_tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

impl Connection {
    fn read(&mut self, value: &[u8]) {
        for token in connection_tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else {
                self.names_fields = true;
            }
        }
    }
}

impl Named {
    fn read(bytes: &[u8], places: &[Place]) -> Result<Self, Cause> {
        let mut names: [&[u8]; CONNECTION_NAMES_MAX] = [&[]; CONNECTION_NAMES_MAX];
        let mut count = 0;
        let connection = places.iter().filter(|place| place.kind == Field::Connection);
        for token in connection.flat_map(|place| connection_tokens(place.value(bytes))) {
            if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let too_many = Cause::Malformed("Connection names too many fields");
            *names.get_mut(count).ok_or(too_many)? = token;
            count += 1;
        }
        let mut named = Self::default();
        for (at, place) in places.iter().enumerate() {
            if names[..count].iter().any(|name| name.eq_ignore_ascii_case(place.name(bytes))) {
                named.0[at / 64] |= 1 << (at % 64);
            }
        }
        Ok(named)
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }
}

/// One field line.
pub struct Line<'b> {
    bytes: &'b [u8],
    place: Place,
    /// `Connection` names it.
    is_named: bool,
}

impl<'b> Line<'b> {
    pub fn kind(&self) -> Field {
        self.place.kind
    }

    pub fn name(&self) -> &'b [u8] {
        self.place.name(self.bytes)
    }

    /// Without the white space around it.
    pub fn value(&self) -> &'b [u8] {
        self.place.value(self.bytes)
    }

    /// Where the whole line stands in the head, with its CRLF.
    pub fn range(&self) -> Range<usize> {
        self.place.start..self.place.end + 2
    }

    /// Whether a field is for the next hop only: by what it is, or because `Connection` names it. Fields that frame,
    /// route or identify the message stay, whatever `Connection` says: naming them is an attack (RFC 9110 §7.6.1
    /// forbids it).
    pub fn is_hop_by_hop(&self) -> bool {
        match self.place.kind {
            Field::Connection | Field::HopByHop | Field::KeepAlive => true,
            Field::Other | Field::Expect | Field::UserAgent => self.is_named,
            Field::Host
            | Field::ContentLength
            | Field::TransferEncoding
            | Field::ChoconId
            | Field::ChoconVer => false,
        }
    }
}
