//! What an origin speaks, as this shard and the others learned it from handshakes.

#![forbid(unsafe_code)]

use crate::{
    authority::Scheme,
    limits::HTTP2_ASK_AGAIN_AFTER,
    upstream::{origins::Origin, tls::Protocol},
};
use std::time::Instant;

/// What shards tell each other of an origin.
pub(super) const TOLD_HTTP1: u32 = 1;
pub(super) const TOLD_HTTP2: u32 = 2;

/// What an origin speaks, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// It has not been asked.
    Unknown,
    Http2,
    /// When asked at that time, it chose HTTP/1.1.
    Http1(Instant),
    /// HTTP/1.1, because it is not over TLS, or was told to be.
    Http1Only,
}

impl Speaks {
    /// What is known at first.
    pub fn at_first(scheme: Scheme, http2: bool) -> Self {
        if http2 && scheme == Scheme::Https { Self::Unknown } else { Self::Http1Only }
    }

    /// Whether a request should ask for a place on an HTTP/2 connection.
    pub fn may_be_http2(self) -> bool {
        match self {
            Self::Unknown | Self::Http2 => true,
            Self::Http1(_) | Self::Http1Only => false,
        }
    }

    /// Forgets an old answer: the origin may have learned HTTP/2.
    pub fn after(self, now: Instant) -> Self {
        match self {
            Self::Http1(asked) if now.saturating_duration_since(asked) >= HTTP2_ASK_AGAIN_AFTER => {
                Self::Unknown
            }
            other => other,
        }
    }
}

/// Takes down what a handshake chose, for this shard and the others.
pub(super) fn learn(origin: &Origin, protocol: Protocol) {
    let (speaks, told) = match protocol {
        Protocol::Http1 => (Speaks::Http1(Instant::now()), TOLD_HTTP1),
        Protocol::Http2 => (Speaks::Http2, TOLD_HTTP2),
    };
    origin.speaks.set(speaks);
    if let Some(seat) = &origin.seat {
        seat.place.tell_speaks(told);
    }
}
