//! The bodies of a request in HTTP/2, under flow control: out as the origin's windows open, in as the client takes it.

#![forbid(unsafe_code)]

use super::{Plan, Request};
use crate::{
    error::{Cause, Error, Party, Phase},
    headers::{BodyOut, Out},
    http1::{
        body::{CHUNK_ROOM_BEFORE, Decoder},
        framing::{RequestBody, ResponseBody},
    },
    limits::{BODY_READ_BYTES, SMALL_BLOCK_BYTES},
    relay::{self, Ends, ROOM_AFTER},
    shard::blocks::{Block, Blocks, Outgoing},
    upstream::http2::exchange::{Piece, Receiving, Sending},
};
use std::{future::poll_fn, ops::Range, task::Poll, time::Instant};

/// As much of a body as came with its head.
#[derive(Default)]
pub struct Begin {
    data: Vec<u8>,
    trailers: Vec<u8>,
    /// It is all of it.
    ends: bool,
}

impl Begin {
    /// Takes it out of the framing that it has for HTTP/1.1.
    pub fn of(framed: &[u8], body: RequestBody, ends: bool) -> Self {
        let mut data = framed.to_vec();
        let mut decoder = Decoder::of_request(body);
        // This side has framed it.
        let step = decoder.advance(&mut data).expect("our own framing is sound");
        data.truncate(step.data.end);
        data.drain(..step.data.start);
        Self { data, trailers: decoder.trailers().to_vec(), ends }
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_empty()
    }
}

/// Sends the body: its begin, then the rest from the client, each piece as the origin's windows open.
///
/// Errors: as of [`relay::upload`].
pub async fn upload(
    ends: &Ends<'_>,
    request: &mut Request<'_>,
    sending: &mut Sending,
    begin: Begin,
) -> Result<(), Error> {
    let Request { input, decoder, .. } = request;
    send(ends, sending, &begin.data, &begin.trailers, begin.ends).await?;
    let mut block = ends.shard.blocks.large();
    while !decoder.is_complete() {
        let from_input = !input.unused().is_empty();
        let n = if from_input {
            let n = input.unused().len().min(BODY_READ_BYTES);
            block[..n].copy_from_slice(&input.unused()[..n]);
            n
        } else {
            let (received, back) = ends.client.recv(block, 0..BODY_READ_BYTES).await;
            block = back;
            let cause = match received {
                Ok(n @ 1..) => Ok(n),
                Ok(_) => Err(Cause::Closed),
                Err(e) => Err(Cause::Io(e.kind())),
            };
            cause.map_err(|cause| ends.watch.explain(Party::Client, Phase::Body, cause))?
        };
        let step =
            decoder.advance(&mut block[..n]).map_err(|cause| Error::client(Phase::Body, cause))?;
        if from_input {
            input.use_up(step.consumed);
        } else {
            // What follows the body is the next request.
            input.append(&block[step.consumed..n]);
        }
        if step.ended {
            ends.request_is_read(false);
            ends.request_is_sent(Instant::now());
        }
        send(ends, sending, &block[step.data], decoder.trailers(), step.ended).await?;
    }
    ends.shard.blocks.put(block);
    Ok(())
}

async fn send(
    ends: &Ends<'_>,
    sending: &mut Sending,
    data: &[u8],
    trailers: &[u8],
    is_last: bool,
) -> Result<(), Error> {
    let sent = async {
        sending.data(data, is_last && trailers.is_empty()).await?;
        if is_last && !trailers.is_empty() { sending.trailers(trailers).await } else { Ok(()) }
    };
    let cause = match ends.watch.unless_cut(sent).await {
        Some(Ok(())) => return Ok(()),
        Some(Err(broken)) => broken.cause,
        None => Cause::TimedOut,
    };
    Err(ends.watch.explain(Party::Origin, Phase::Send, cause))
}

/// Carries a response body to the client, behind the head that waits in `out`. What the client took, and no more, the
/// origin may send anew.
pub async fn download(
    ends: &Ends<'_>,
    receiving: &mut Receiving,
    plan: &Plan,
    out: &mut Outgoing<'_>,
) -> Result<(), Error> {
    let mut left = match plan.body {
        ResponseBody::None => Some(0),
        ResponseBody::Fixed(length) => Some(length),
        ResponseBody::Chunked | ResponseBody::ToClose => None,
    };
    let broken = |cause| ends.watch.explain(Party::Origin, Phase::Body, cause);
    let mut gather = Gather::new(ends);
    while left != Some(0) {
        // What is there goes with the head in one piece; it does not wait for more.
        let wait = if out.len > 0 { Wait::No } else { Wait::Yes };
        let data = match ends.watch.unless_cut(gather.fill(receiving, wait)).await {
            Some(Ok(data)) => data,
            Some(Err(cause)) => {
                // The head must not be held back for what is not there.
                ends.flush(out).await?;
                return Err(broken(cause));
            }
            None => return Err(broken(Cause::TimedOut)),
        };
        let n = data.len();
        ends.progress.body_bytes.set(ends.progress.body_bytes.get() + n as u64);
        if let Some(left) = &mut left {
            *left = left.checked_sub(n as u64).ok_or_else(|| {
                Error::origin(Phase::Body, Cause::Malformed("more content than its length says"))
            })?;
        }
        let trailers = if gather.ended {
            match ends.watch.unless_cut(receiving.trailers()).await {
                Some(Ok(trailers)) => Ok(trailers),
                Some(Err(trouble)) => Err(broken(trouble.cause)),
                None => Err(broken(Cause::TimedOut)),
            }
        } else {
            Ok(Vec::new())
        };
        // What came reaches the client, too, where the end that it has does not.
        let is_plain_end = trailers.as_ref().is_ok_and(Vec::is_empty);
        gather.send(ends, data, plan.body_out, is_plain_end, out).await?;
        let trailers = trailers?;
        receiving.release(n);
        if gather.ended {
            if left.is_some_and(|left| left > 0) {
                ends.flush(out).await?;
                return Err(broken(Cause::Closed));
            }
            if plan.body_out == BodyOut::Chunked && !trailers.is_empty() {
                relay::last_chunk(out, &trailers);
            }
            break;
        }
        gather.grow();
    }
    if out.len > 0 {
        ends.flush(out).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

/// Frames of a body gathered in one block, so that they leave in one send.
struct Gather<'x> {
    blocks: &'x Blocks,
    block: Block,
    /// What did not fit.
    rest: Piece,
    ended: bool,
}

impl<'x> Gather<'x> {
    fn new(ends: &Ends<'x>) -> Self {
        let blocks = &ends.shard.blocks;
        Self { blocks, block: blocks.small(), rest: Piece::new(), ended: false }
    }

    /// Fills the block with what is there, or with what comes next. Returns where it is: nothing, if nothing is there or
    /// the body ended.
    ///
    /// Errors: the stream broke; what came before was returned earlier. Cancel-safe, but for the block's content.
    async fn fill(&mut self, receiving: &mut Receiving, wait: Wait) -> Result<Range<usize>, Cause> {
        let start = CHUNK_ROOM_BEFORE;
        let most = (self.block.len() - start - ROOM_AFTER).min(BODY_READ_BYTES);
        let mut n = 0;
        poll_fn(|cx| {
            while n < most {
                if self.rest.is_empty() {
                    match receiving.poll_data(cx) {
                        Poll::Pending if n == 0 && wait == Wait::Yes => return Poll::Pending,
                        Poll::Pending => break,
                        Poll::Ready(Some(Ok(data))) => self.rest = data,
                        Poll::Ready(None) => {
                            self.ended = true;
                            break;
                        }
                        // It comes again at the next call.
                        Poll::Ready(Some(Err(_))) if n > 0 => break,
                        Poll::Ready(Some(Err(broken))) => return Poll::Ready(Err(broken.cause)),
                    }
                }
                let piece = self.rest.split_to(self.rest.len().min(most - n));
                self.block[start + n..start + n + piece.len()].copy_from_slice(&piece);
                n += piece.len();
            }
            Poll::Ready(Ok(start..start + n))
        })
        .await
    }

    /// Sends the data, behind a head in `out` if there is one. `is_plain_end`: if the body ended, no trailers follow.
    async fn send(
        &mut self,
        ends: &Ends<'_>,
        data: Range<usize>,
        body_out: BodyOut,
        is_plain_end: bool,
        out: &mut Outgoing<'_>,
    ) -> Result<(), Error> {
        let framed = relay::frame(&mut self.block, data, body_out, self.ended && is_plain_end);
        if out.len > 0 && out.reserve(framed.len()) {
            out.push(&self.block[framed]);
        } else if !framed.is_empty() {
            if out.len > 0 {
                ends.flush(out).await?;
            }
            self.block = ends.to_client(std::mem::take(&mut self.block), framed).await?;
        }
        // Trailers go with what is left of it.
        if out.len > 0 && !(self.ended && is_plain_end) {
            ends.flush(out).await?;
        }
        Ok(())
    }

    /// Takes a large block where more waits than a small one holds.
    fn grow(&mut self) {
        if !self.rest.is_empty() && self.block.len() <= SMALL_BLOCK_BYTES {
            self.blocks.put(std::mem::replace(&mut self.block, self.blocks.large()));
        }
    }
}

impl Drop for Gather<'_> {
    fn drop(&mut self) {
        self.blocks.put(std::mem::take(&mut self.block));
    }
}
