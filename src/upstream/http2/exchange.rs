//! One request on its stream: head and body out, head, body and trailers in, each with its flow control. The stream is on
//! a connection of this shard, or of another one that carries it.
//!
//! Dropping either half before its end resets the stream (CANCEL): the origin stops, and the connection lives on.

#![forbid(unsafe_code)]

use super::{
    borrowed::{BorrowedRecv, BorrowedSend},
    stream::{RecvHalf, SendHalf},
    translate,
};
use crate::{
    error::Cause,
    headers::{BodyOut, Out, Persistence},
    http1::framing::ResponseBody,
    limits::HTTP2_TAIL_WITHIN,
    observe::latency::{Acquired, Cost},
    shard,
    upstream::origins::Origin,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// A piece of a body.
pub type Piece = Bytes;

/// What became of a request whose stream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The origin said that it did nothing with it (RFC 9113 §8.7).
    Unprocessed,
    /// The origin wants it on HTTP/1.1 (RFC 9113 §7, HTTP_1_1_REQUIRED).
    WantsHttp1,
    /// The origin gave it up.
    Reset,
    /// The connection was lost.
    Lost,
    /// What came was no response.
    Malformed,
}

#[derive(Clone, Debug)]
pub struct Broken {
    pub cause: Cause,
    pub fate: Fate,
}

/// The request's half.
pub enum Sending {
    Own(SendHalf),
    Borrowed(BorrowedSend),
}

/// The response's half.
pub struct Receiving {
    pub(super) half: Half,
    pub(super) of: (Rc<Origin>, Acquired, Cost),
}

pub(super) enum Half {
    Own(RecvHalf),
    Borrowed(BorrowedRecv),
}

/// A response's head.
pub struct Head {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    /// Nothing follows it.
    pub(super) ends: bool,
}

impl Sending {
    /// Sends `data`, in pieces as the origin's windows open; `ends` the request. A wait for the origin: the caller bounds
    /// it. Dropping the future leaves a part sent.
    pub async fn data(&mut self, data: &[u8], ends: bool) -> Result<(), Broken> {
        let data = Bytes::copy_from_slice(data);
        match self {
            Self::Own(half) => half.data(data, ends).await,
            Self::Borrowed(half) => half.data(data, ends).await,
        }
    }

    /// Ends the request with its trailers, given as lines. As [`Sending::data`].
    pub async fn trailers(&mut self, lines: &[u8]) -> Result<(), Broken> {
        match self {
            Self::Own(half) => half.trailers(lines),
            Self::Borrowed(half) => half.trailers(lines).await,
        }
    }
}

impl Receiving {
    /// Records the time from the request sent to the first byte of the response.
    pub fn record(&self, round_trip: Duration) {
        let us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        let (origin, acquired, cost) = &self.of;
        origin.latency.borrow_mut().record(us, *acquired, *cost);
        if let Half::Own(half) = &self.half {
            half.record(round_trip);
        }
    }

    /// Waits for a head, interim or final.
    ///
    /// Errors: the stream broke. Cancel-safe.
    pub async fn head(&mut self) -> Result<Head, Broken> {
        match &mut self.half {
            Half::Own(half) => poll_fn(|cx| half.poll_head(cx)).await,
            Half::Borrowed(half) => poll_fn(|cx| half.poll_head(cx)).await,
        }
    }

    /// The next bytes of the body, None at its end. Not empty. Cancel-safe.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match &mut self.half {
            Half::Own(half) => half.poll_data(cx),
            Half::Borrowed(half) => half.poll_data(cx),
        }
    }

    /// The client has taken `n` more bytes: the origin may send as many.
    pub fn release(&mut self, n: usize) {
        match &mut self.half {
            Half::Own(half) => half.release(n),
            Half::Borrowed(half) => half.release(n),
        }
    }

    /// Whether the response is known to be over, trailers and all.
    pub fn is_over(&self) -> bool {
        match &self.half {
            Half::Own(half) => half.is_over(),
            Half::Borrowed(half) => half.is_over(),
        }
    }

    /// The trailers, as lines for the client, once the body is over.
    pub async fn trailers(&mut self) -> Result<Vec<u8>, Broken> {
        match &mut self.half {
            Half::Own(half) => half.trailers().await,
            // They came with the end of the body.
            Half::Borrowed(half) => Ok(half.take_trailers()),
        }
    }

    /// Lets the stream end by itself where the client has its whole response already: a reset for each would look like an
    /// attack to the origin (CVE-2023-44487). What comes beyond the response is thrown away.
    pub fn finish(mut self) {
        if self.is_over() {
            return;
        }
        let deadline = Instant::now() + HTTP2_TAIL_WITHIN;
        shard::spawn("HTTP/2 stream's tail", async move {
            let tail = async {
                while let Some(Ok(data)) = poll_fn(|cx| self.poll_data(cx)).await {
                    self.release(data.len());
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            // Beyond it, dropping the stream resets it.
            monoio::time::timeout(left, tail).await.ok();
        });
    }
}

impl Head {
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// How long the body is, or that it goes out in chunks.
    pub fn body(&self, to_head_request: bool) -> Result<ResponseBody, Cause> {
        translate::response_body(self.status, &self.fields, to_head_request, self.ends)
    }

    pub fn write_interim(&self, out: &mut impl Out) -> Result<(), Cause> {
        translate::write_interim(out, self.status, &self.fields)
    }

    pub fn write(
        &self,
        out: &mut impl Out,
        body: (ResponseBody, BodyOut),
        persistence: Persistence,
        id: &[u8],
    ) -> Result<(), Cause> {
        translate::write_response(out, self.status, &self.fields, body, persistence, id)
    }
}
