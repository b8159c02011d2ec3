//! Body bytes from one side to the other, under back-pressure: one block a direction, and the next receive only after
//! the last send. A body ends clean or visibly cut, never in between.

#![forbid(unsafe_code)]

use crate::{
    client::Input,
    error::{Cause, Error, Party, Phase},
    headers::{BodyOut, Out},
    http1::body::{CHUNK_ROOM_AFTER, CHUNK_ROOM_BEFORE, Decoder, wrap_chunk},
    limits::{BODY_READ_BYTES, LARGE_BLOCK_BYTES, SMALL_BLOCK_BYTES, TRAILER_BYTES_MAX},
    observe::access_log::ConnectionFacts,
    shard::{
        Shard,
        blocks::{Block, Outgoing},
        sys::Socket,
        watch::{Deadline, Watch},
    },
    upstream::connection::Connection,
};
use std::{cell::Cell, ops::Range, time::Instant};

/// `0` CRLF CRLF.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Free bytes that a block needs behind received data, so that it becomes a chunk, and the last, in place.
pub const ROOM_AFTER: usize = CHUNK_ROOM_AFTER + LAST_CHUNK.len();

const _: () = assert!(CHUNK_ROOM_BEFORE + BODY_READ_BYTES + ROOM_AFTER <= LARGE_BLOCK_BYTES);

/// Both ends of an exchange, and how far it is.
pub struct Ends<'x> {
    pub shard: &'x Shard,
    pub watch: &'x Watch,
    pub client: &'x Socket,
    pub progress: &'x Progress,
}

/// How far an exchange is; both directions look at it.
#[derive(Default)]
pub struct Progress {
    /// When the last piece of the request went out: the round trip begins. None before that.
    pub request_sent: Cell<Option<Instant>>,
    /// When the first byte of the response came.
    pub response_begun: Cell<Option<Instant>>,
    /// How often a connection was asked for, and what is to be said of the last one.
    pub attempts: Cell<u32>,
    pub connection: Cell<Option<ConnectionFacts>>,
    /// The kernel took all of the request: the origin's connection is between messages when the response ends.
    pub request_taken: Cell<bool>,
    /// All of the request was read from the client.
    pub request_read: Cell<bool>,
    /// The final status, once its head goes to the client.
    pub status: Cell<Option<u16>>,
    /// The body goes out in chunks, so that an end without the last chunk shows a cut.
    pub chunked_out: Cell<bool>,
    /// When the response had ended; nothing is waited for behind it.
    pub ended: Cell<Option<Instant>>,
    /// Body bytes given to the client.
    pub body_bytes: Cell<u64>,
}

impl Progress {
    /// A connection is asked for; what an attempt before it has noted is void.
    pub fn begin_attempt(&self) {
        self.attempts.set(self.attempts.get() + 1);
        self.connection.set(None);
        self.request_sent.set(None);
        self.request_taken.set(false);
        self.response_begun.set(None);
    }
}

impl Ends<'_> {
    /// The request is read: its deadline is over. From here on a client that half-closed may be probed.
    pub fn request_is_read(&self, may_probe: bool) {
        self.progress.request_read.set(true);
        self.watch.clear(Deadline::Request);
        if may_probe {
            self.watch.allow_probe();
        }
    }

    /// The request goes out whole: the origin's time begins.
    pub fn request_is_sent(&self, now: Instant) {
        self.progress.request_sent.set(Some(now));
        let within = self.shard.config.proxy_read_timeout;
        self.watch.set(Deadline::Origin, within.map(|within| now + within));
    }

    /// Sends `out` to the client and empties it.
    pub async fn flush(&self, out: &mut Outgoing<'_>) -> Result<(), Error> {
        let range = 0..std::mem::take(&mut out.len);
        let block = std::mem::take(&mut out.block);
        out.block = self.to_client(block, range).await?;
        Ok(())
    }

    /// Sends an interim head to a client of HTTP/1.1. The response is still to come: a client that half-closed may be
    /// probed as before.
    pub async fn flush_interim(&self, out: &mut Outgoing<'_>) -> Result<(), Error> {
        self.flush(out).await?;
        if self.progress.request_read.get() {
            self.watch.allow_probe();
        }
        Ok(())
    }

    /// Sends `block[range]` to the client. Errors: the client's (gone, late).
    pub async fn to_client(&self, block: Block, range: Range<usize>) -> Result<Block, Error> {
        self.watch.begin_response();
        let (sent, block) = self.client.send(block, range).await;
        match sent {
            Ok(()) => Ok(block),
            Err(e) => Err(self.watch.explain(Party::Client, Phase::Body, Cause::Io(e.kind))),
        }
    }
}

/// Frames the data at `data` in `block` for its receiver, in place; `ends` with this piece. Trailers, if any, are not
/// in it: see [`last_chunk`].
pub fn frame(block: &mut [u8], data: Range<usize>, out: BodyOut, ends: bool) -> Range<usize> {
    match out {
        BodyOut::AsIs | BodyOut::ToClose => data,
        BodyOut::Chunked => {
            let mut framed = wrap_chunk(block, data);
            if ends {
                let last = framed.end..framed.end + LAST_CHUNK.len();
                block[last.clone()].copy_from_slice(LAST_CHUNK);
                framed.end = last.end;
            }
            framed
        }
    }
}

/// Writes the last chunk with its trailer fields (RFC 9112 §7.1.2).
pub fn last_chunk(out: &mut impl Out, trailers: &[u8]) {
    out.push(b"0\r\n");
    out.push(trailers);
    out.push(b"\r\n");
}

/// Adds to a request in `out` as much of its body as has come with its head, so that both leave in one send.
///
/// Errors: the body's framing is broken.
pub fn append_read_body(
    input: &mut Input,
    decoder: &mut Decoder,
    body_out: BodyOut,
    out: &mut Outgoing<'_>,
) -> Result<(), Cause> {
    let (before, after) = match body_out {
        BodyOut::Chunked => (CHUNK_ROOM_BEFORE, ROOM_AFTER),
        BodyOut::AsIs | BodyOut::ToClose => (0, 0),
    };
    while !decoder.is_complete() && !input.unused().is_empty() {
        // Trailers must still fit behind it, whatever came before.
        let most = LARGE_BLOCK_BYTES.saturating_sub(out.len + before + after + TRAILER_BYTES_MAX);
        let n = input.unused().len().min(most);
        if n == 0 || !out.reserve(before + n + after) {
            return Ok(());
        }
        let start = out.len + before;
        out.block[start..start + n].copy_from_slice(&input.unused()[..n]);
        let step = decoder.advance(&mut out.block[start..start + n])?;
        input.use_up(step.consumed);
        let data = start + step.data.start..start + step.data.end;
        let trailers = decoder.trailers();
        let framed = frame(&mut out.block, data, body_out, step.ended && trailers.is_empty());
        out.block.copy_within(framed.clone(), out.len);
        out.len += framed.len();
        if body_out == BodyOut::Chunked && step.ended && !trailers.is_empty() {
            last_chunk(out, trailers);
        }
    }
    Ok(())
}

/// Carries the rest of a request body from the client to the origin.
///
/// Returns once the body is sent whole. Errors: the client's (cut, late, malformed), or the origin's, which may yet have
/// answered. Dropping the future ends both connections' use.
pub async fn upload(
    ends: &Ends<'_>,
    input: &mut Input,
    decoder: &mut Decoder,
    body_out: BodyOut,
    connection: &Connection,
) -> Result<(), Error> {
    let Ends { shard, watch, client, progress } = ends;
    let mut block = shard.blocks.large();
    while !decoder.is_complete() {
        let start = CHUNK_ROOM_BEFORE;
        let from_input = !input.unused().is_empty();
        let n = if from_input {
            let n = input.unused().len().min(BODY_READ_BYTES);
            block[start..start + n].copy_from_slice(&input.unused()[..n]);
            n
        } else {
            let room = start..start + BODY_READ_BYTES;
            let (received, back) = client.recv(block, room).await;
            block = back;
            let cause = match received {
                Ok(n @ 1..) => Ok(n),
                Ok(_) => Err(Cause::Closed),
                Err(e) => Err(Cause::Io(e.kind())),
            };
            cause.map_err(|cause| watch.explain(Party::Client, Phase::Body, cause))?
        };
        let step = decoder
            .advance(&mut block[start..start + n])
            .map_err(|cause| Error::client(Phase::Body, cause))?;
        if from_input {
            input.use_up(step.consumed);
        } else {
            // What follows the body is the next request.
            input.append(&block[start + step.consumed..start + n]);
        }
        if step.ended {
            ends.request_is_read(false);
        }
        let data = start + step.data.start..start + step.data.end;
        let trailers = decoder.trailers();
        let framed = frame(&mut block, data, body_out, step.ended && trailers.is_empty());
        if step.ended && trailers.is_empty() {
            ends.request_is_sent(Instant::now());
        }
        block = send_up(ends, connection, block, framed).await?;
        if body_out == BodyOut::Chunked && step.ended && !trailers.is_empty() {
            let mut out = Outgoing::new(&shard.blocks);
            last_chunk(&mut out, trailers);
            ends.request_is_sent(Instant::now());
            let range = 0..out.len;
            out.block = send_up(ends, connection, std::mem::take(&mut out.block), range).await?;
        }
    }
    shard.blocks.put(block);
    progress.request_taken.set(true);
    Ok(())
}

async fn send_up(
    ends: &Ends<'_>,
    connection: &Connection,
    block: Block,
    range: Range<usize>,
) -> Result<Block, Error> {
    if range.is_empty() {
        return Ok(block);
    }
    let (sent, block) = connection.send(&ends.shard.blocks, block, range).await;
    match sent {
        Ok(()) => Ok(block),
        Err(failed) => Err(ends.watch.explain(Party::Origin, Phase::Send, failed.cause)),
    }
}

/// Whether the origin sent more than its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    None,
    /// Bytes behind the response: the connection must not be used again.
    Bytes,
}

/// Carries a response body to the client: first what is at `piece` in `block`, behind the head that waits in `out`, then
/// what the origin sends.
///
/// Returns once the body ended clean. Errors: the origin's (cut, late, malformed) or the client's (gone, late).
pub async fn download(
    ends: &Ends<'_>,
    connection: &Connection,
    mut block: Block,
    mut piece: Range<usize>,
    decoder: &mut Decoder,
    body_out: BodyOut,
    out: &mut Outgoing<'_>,
) -> Result<Excess, Error> {
    let Ends { shard, watch, progress, .. } = ends;
    loop {
        let step = decoder.advance(&mut block[piece.clone()]);
        let step = match step {
            Ok(step) => step,
            Err(cause) => {
                // What came before is good; the head must not be held back for what is not.
                ends.flush(out).await?;
                return Err(Error::origin(Phase::Body, cause));
            }
        };
        let data = piece.start + step.data.start..piece.start + step.data.end;
        progress.body_bytes.set(progress.body_bytes.get() + data.len() as u64);
        let has_trailers = body_out == BodyOut::Chunked && !decoder.trailers().is_empty();
        let framed = frame(&mut block, data, body_out, step.ended && !has_trailers);
        if out.len > 0 && out.reserve(framed.len()) {
            out.push(&block[framed]);
        } else if !framed.is_empty() {
            if out.len > 0 {
                ends.flush(out).await?;
            }
            block = ends.to_client(block, framed).await?;
        }
        if step.ended && has_trailers {
            if out.room() < decoder.trailers().len() + LAST_CHUNK.len() && out.len > 0 {
                ends.flush(out).await?;
            }
            last_chunk(out, decoder.trailers());
        }
        if out.len > 0 {
            ends.flush(out).await?;
        }
        if step.ended {
            shard.blocks.put(block);
            let all_used = step.consumed == piece.len();
            return Ok(if all_used { Excess::None } else { Excess::Bytes });
        }
        let start = CHUNK_ROOM_BEFORE;
        if block.len() <= SMALL_BLOCK_BYTES && wants_large(decoder) {
            shard.blocks.put(std::mem::replace(&mut block, shard.blocks.large()));
        }
        let most = (block.len() - start - ROOM_AFTER).min(BODY_READ_BYTES);
        let (received, back) = connection.recv(&shard.blocks, block, start..start + most).await;
        block = back;
        match received {
            Ok(n @ 1..) => piece = start..start + n,
            Ok(_) => {
                let end = if watch.cut().is_some() {
                    Err(Cause::Closed)
                } else {
                    decoder.end_of_stream()
                };
                end.map_err(|cause| watch.explain(Party::Origin, Phase::Body, cause))?;
                if body_out == BodyOut::Chunked {
                    out.push(LAST_CHUNK);
                    ends.flush(out).await?;
                }
                shard.blocks.put(block);
                return Ok(Excess::None);
            }
            Err(cause) => return Err(watch.explain(Party::Origin, Phase::Body, cause)),
        }
    }
}

/// Whether what is still to come may be more than a small block holds.
fn wants_large(decoder: &Decoder) -> bool {
    match decoder {
        Decoder::Fixed { left } => {
            *left > (SMALL_BLOCK_BYTES - CHUNK_ROOM_BEFORE - ROOM_AFTER) as u64
        }
        Decoder::Chunked(_) | Decoder::ToClose => true,
    }
}
