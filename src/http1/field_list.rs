//! The fields of a head: what each is, which are for the next hop only, and what they say of the connection and of the
//! message's length.

#![forbid(unsafe_code)]

use super::{
    fields::{Field, told_timeout},
    framing::Lengths,
    head::Version,
};
use crate::{
    error::Cause,
    limits::{CONNECTION_NAMES_MAX, FIELDS_MAX},
};
use httparse::Header;
use std::{mem::MaybeUninit, ops::Range};

/// Room for the fields of one head, on the caller's stack. What is read refers to it, so that moving a head moves little.
pub struct FieldRoom<'b> {
    pub(super) headers: [MaybeUninit<Header<'b>>; FIELDS_MAX],
    pub(super) kinds: [Field; FIELDS_MAX],
}

impl Default for FieldRoom<'_> {
    fn default() -> Self {
        Self {
            headers: [const { MaybeUninit::uninit() }; FIELDS_MAX],
            kinds: [Field::Other; FIELDS_MAX],
        }
    }
}

/// A list of fields as received, with what each one is.
pub struct Fields<'r, 'b> {
    /// The whole head, which the fields point into.
    pub bytes: &'b [u8],
    pub(super) headers: &'r [Header<'b>],
    pub(super) kinds: &'r [Field],
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
    pub(super) fn new(
        bytes: &'b [u8],
        headers: &'r [Header<'b>],
        kinds: &'r mut [Field; FIELDS_MAX],
    ) -> Result<Self, Cause> {
        let kinds = &mut kinds[..headers.len()];
        let (mut connection, mut lengths) = (Connection::default(), Lengths::default());
        for (kind, header) in kinds.iter_mut().zip(headers) {
            *kind = Field::named(header.name.as_bytes());
            match *kind {
                Field::Connection => connection.read(header.value),
                Field::ContentLength => lengths.add_content_length(header.value)?,
                Field::TransferEncoding => lengths.add_transfer_encoding(header.value)?,
                _ => {} // No other field says where the message or the connection ends.
            }
        }
        let named =
            if connection.names_fields { Named::read(headers, kinds)? } else { Named::default() };
        Ok(Self { bytes, headers, kinds, connection, named, lengths })
    }

    /// Every field in order: kind, name, value, and the range of its whole line in `bytes`.
    pub fn iter(&self) -> impl Iterator<Item = Line<'b>> + '_ {
        let base = self.bytes.as_ptr() as usize;
        self.headers.iter().enumerate().map(move |(i, header)| {
            let start = header.name.as_ptr() as usize - base;
            let end = match self.headers.get(i + 1) {
                Some(next) => next.name.as_ptr() as usize - base,
                None => self.bytes.len() - 2,
            };
            Line {
                kind: self.kinds[i],
                name: header.name.as_bytes(),
                value: header.value,
                line: start..end,
                is_named: self.named.has(i),
            }
        })
    }

    /// How long the sender says it keeps the connection when idle, in seconds.
    pub fn idle_timeout(&self) -> Option<u64> {
        let at = self.kinds.iter().position(|kind| *kind == Field::KeepAlive)?;
        told_timeout(self.headers.get(at)?.value)
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
    fn read(headers: &[Header<'_>], kinds: &[Field]) -> Result<Self, Cause> {
        let mut names: [&[u8]; CONNECTION_NAMES_MAX] = [&[]; CONNECTION_NAMES_MAX];
        let mut count = 0;
        let connection = headers.iter().zip(kinds).filter(|(_, kind)| **kind == Field::Connection);
        for token in connection.flat_map(|(header, _)| connection_tokens(header.value)) {
            if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            let too_many = Cause::Malformed("Connection names too many fields");
            *names.get_mut(count).ok_or(too_many)? = token;
            count += 1;
        }
        let mut named = Self::default();
        for (at, header) in headers.iter().enumerate() {
            if names[..count].iter().any(|n| n.eq_ignore_ascii_case(header.name.as_bytes())) {
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
    pub kind: Field,
    pub name: &'b [u8],
    pub value: &'b [u8],
    pub line: Range<usize>,
    /// `Connection` names it.
    is_named: bool,
}

impl Line<'_> {
    /// Whether a field is for the next hop only: by what it is, or because `Connection` names it. Fields that frame,
    /// route or identify the message stay, whatever `Connection` says: naming them is an attack (RFC 9110 §7.6.1
    /// forbids it).
    pub fn is_hop_by_hop(&self) -> bool {
        match self.kind {
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
