//! The same request, to an origin that speaks HTTP/2.
//!
//! What differs from HTTP/1.1: a request has a stream, not a connection, so that a deadline or a client that left ends the
//! stream alone; an origin can say that it did nothing with a request, which then goes again whatever its method; and a
//! body ends with a frame, not by its framing.

#![forbid(unsafe_code)]

use super::{
    asked::Asked,
    both,
    respond::{Responded, persistence},
};
use crate::{
    client::Input,
    config::LogFormat,
    error::{Cause, Error, Party, Phase},
    headers::{BodyOut, Out, Persistence},
    http1::{
        body::{CHUNK_ROOM_BEFORE, Decoder},
        framing::ResponseBody,
        head::{EndOfHead, Version},
    },
    limits::{BODY_READ_BYTES, HTTP2_RESENDS_MAX, INTERIM_HEADS_MAX, SMALL_BLOCK_BYTES},
    observe::latency::Acquired,
    relay::{self, Ends, ROOM_AFTER},
    shard::{
        blocks::{Block, Blocks, Outgoing},
        watch::Deadline,
    },
    upstream::{
        Lease, Origin, Upstream,
        http2::{
            acquire::{Stream, Way},
            exchange::{Broken, Fate, Head, Piece, Receiving, Sending},
            translate,
        },
    },
};
use std::{cell::RefCell, future::poll_fn, ops::Range, rc::Rc, task::Poll, time::Instant};

/// What is needed of the client's request.
pub struct Request<'r> {
    pub input: &'r mut Input,
    pub asked: &'r Asked,
    pub decoder: &'r mut Decoder,
}

/// What became of it.
pub enum Went {
    Responded(Responded),
    /// It cannot go, or is not wanted, in HTTP/2; perhaps here is a connection for it. `out` is as it was.
    ToHttp1(Option<Lease>),
}

/// An attempt that failed.
struct Failed {
    error: Error,
    next: Next,
}

/// What may be done about it, as long as the client got nothing and the whole request is still here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The origin may have acted on it.
    GiveUp,
    /// It did not, by its own word (RFC 9113 §8.7).
    Resend,
    /// Acting twice is as good as once (RFC 9110 §9.2.2).
    Repeat,
    ToHttp1,
}

/// Sends the request in `out`, as it would go to an HTTP/1.1 origin, and what follows of its body, and passes the response
/// on.
pub async fn forward(
    upstream: &Upstream,
    ends: &Ends<'_>,
    origin: &Rc<Origin>,
    mut request: Request<'_>,
    out: &mut Outgoing<'_>,
) -> Result<Went, Error> {
    let (mut resends, mut repeats) = (0, 0);
    loop {
        let stream = match upstream.stream(origin, ends.watch).await {
            Ok(Way::Http2(stream)) => Ok(stream),
            Ok(Way::Http1(lease)) => return Ok(Went::ToHttp1(lease)),
            Err(error) => Err(error),
        };
        ends.progress.begin_attempt();
        let stream = stream?;
        if ends.shard.config.access_log_format == LogFormat::JsonPlus {
            ends.progress.connection.set(Some(stream.facts()));
        }
        if ends.watch.cut().is_some() {
            return Err(ends.watch.explain(Party::Origin, Phase::Connect, Cause::TimedOut));
        }
        let failed = match attempt(ends, &mut request, stream, out).await {
            Ok(went) => return Ok(went),
            Err(failed) => failed,
        };
        match failed.next {
            Next::Resend if resends < HTTP2_RESENDS_MAX => resends += 1,
            Next::Repeat if repeats == 0 => repeats += 1,
            Next::ToHttp1 => return Ok(Went::ToHttp1(None)),
            Next::Resend | Next::Repeat | Next::GiveUp => return Err(failed.error),
        }
    }
}

async fn attempt(
    ends: &Ends<'_>,
    request: &mut Request<'_>,
    stream: Stream,
    out: &mut Outgoing<'_>,
) -> Result<Went, Failed> {
    let asked = request.asked;
    let acquired = stream.acquired;
    let written = &out.block[..out.len];
    let Ok(Some(end)) = EndOfHead::default().find(written) else { return Ok(Went::ToHttp1(None)) };
    let takes_trailers = translate::takes_trailers(request.input.all());
    let Some(head) = translate::request(&written[..end], takes_trailers) else {
        return Ok(Went::ToHttp1(None));
    };
    let whole = request.decoder.is_complete();
    let begin = Begin::of(&written[end..], asked, whole);
    if whole {
        ends.request_is_sent(Instant::now());
    }
    let failed = |broken: Broken, phase| {
        let may_go_again = whole && !ends.watch.has_response_begun();
        let next = match broken.fate {
            _ if !may_go_again => Next::GiveUp,
            Fate::Unprocessed => Next::Resend,
            Fate::WantsHttp1 => Next::ToHttp1,
            Fate::Reset if asked.is_idempotent => Next::Repeat,
            Fate::Lost if asked.is_idempotent && acquired != Acquired::New => Next::Repeat,
            Fate::Reset | Fate::Lost | Fate::Malformed => Next::GiveUp,
        };
        let error = ends.watch.explain(Party::Origin, phase, broken.cause);
        // A cut has its own reason, and its own answer.
        let next = if ends.watch.cut().is_some() { Next::GiveUp } else { next };
        Failed { error, next }
    };
    let opened = stream.open(head, whole && begin.is_empty());
    let (mut sending, mut receiving) = opened.map_err(|broken| failed(broken, Phase::Send))?;
    // Why the response's head did not come, if it did not.
    let headless = RefCell::new(None);
    let respond = respond(ends, asked, &mut receiving, out, &headless);
    let responded = if whole && begin.is_empty() {
        respond.await
    } else {
        let upload = upload(ends, request, &mut sending, begin);
        Box::pin(both(upload, respond)).await
    };
    match responded {
        Ok(responded) => {
            receiving.finish();
            Ok(Went::Responded(responded))
        }
        Err(error) => Err(match headless.into_inner() {
            Some(broken) => failed(broken, Phase::Wait),
            None => Failed { error, next: Next::GiveUp },
        }),
    }
}

/// As much of a body as came with its head.
#[derive(Default)]
struct Begin {
    data: Vec<u8>,
    trailers: Vec<u8>,
    /// It is all of it.
    ends: bool,
}

impl Begin {
    /// Takes it out of the framing that it has for HTTP/1.1.
    fn of(framed: &[u8], asked: &Asked, ends: bool) -> Self {
        let mut data = framed.to_vec();
        let mut decoder = Decoder::of_request(asked.body);
        // This side has framed it.
        let step = decoder.advance(&mut data).expect("our own framing is sound");
        data.truncate(step.data.end);
        data.drain(..step.data.start);
        Self { data, trailers: decoder.trailers().to_vec(), ends }
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_empty()
    }
}

/// Sends the body: its begin, then the rest from the client, each piece as the origin's windows open.
///
/// Errors: as of [`relay::upload`].
async fn upload(
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
        if is_last && !trailers.is_empty() { sending.trailers(trailers) } else { Ok(()) }
    };
    let cause = match ends.watch.unless_cut(sent).await {
        Some(Ok(())) => return Ok(()),
        Some(Err(broken)) => broken.cause,
        None => Cause::TimedOut,
    };
    Err(ends.watch.explain(Party::Origin, Phase::Send, cause))
}

/// Passes the response on. `headless` gets the reason if not even its head came.
async fn respond(
    ends: &Ends<'_>,
    asked: &Asked,
    receiving: &mut Receiving,
    out: &mut Outgoing<'_>,
    headless: &RefCell<Option<Broken>>,
) -> Result<Responded, Error> {
    let malformed = |cause| Error::origin(Phase::Head, cause);
    for nth in 0..=INTERIM_HEADS_MAX {
        let head = match ends.watch.unless_cut(receiving.head()).await {
            Some(Ok(head)) => head,
            Some(Err(broken)) => {
                let cause = broken.cause.clone();
                *headless.borrow_mut() = Some(broken);
                return Err(ends.watch.explain(Party::Origin, Phase::Wait, cause));
            }
            None => {
                return Err(ends.watch.explain(Party::Origin, Phase::Wait, Cause::TimedOut));
            }
        };
        if nth == 0 {
            let now = Instant::now();
            ends.progress.response_begun.set(Some(now));
            // An answer that comes before the request is sent whole says nothing about the round trip.
            if let Some(sent) = ends.progress.request_sent.get() {
                receiving.record(now.saturating_duration_since(sent));
            }
        }
        match head.status() {
            // RFC 9113 §8.6.
            101 => return Err(malformed(Cause::Malformed("101 in HTTP/2"))),
            ..200 => {
                // RFC 9110 §15.2: not to HTTP/1.0.
                if asked.version == Version::Http11 {
                    out.clear();
                    head.write_interim(out).map_err(malformed)?;
                    ends.flush(out).await?;
                }
            }
            _ => {
                let plan = write_head(ends, asked, &head, out).map_err(malformed)?;
                download(ends, receiving, &plan, out).await?;
                let Plan { persistence, .. } = plan;
                return Ok(Responded { persistence, origin_persists: true });
            }
        }
    }
    Err(malformed(Cause::Malformed("too many interim responses")))
}

/// How a final response reaches the client.
struct Plan {
    body: ResponseBody,
    body_out: BodyOut,
    persistence: Persistence,
}

fn write_head(
    ends: &Ends<'_>,
    asked: &Asked,
    head: &Head,
    out: &mut Outgoing<'_>,
) -> Result<Plan, Cause> {
    let body = head.body(asked.is_head)?;
    let body_out = BodyOut::of(body, asked.version);
    let persistence = persistence(ends, asked, body_out);
    out.clear();
    head.write(out, (body, body_out), persistence, asked.id.bytes())?;
    ends.watch.clear(Deadline::Origin);
    ends.progress.status.set(Some(head.status()));
    ends.progress.chunked_out.set(body_out == BodyOut::Chunked);
    Ok(Plan { body, body_out, persistence })
}

/// Carries a response body to the client, behind the head that waits in `out`. What the client took, and no more, the
/// origin may send anew.
async fn download(
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
                Some(Ok(trailers)) => trailers,
                Some(Err(trouble)) => return Err(broken(trouble.cause)),
                None => return Err(broken(Cause::TimedOut)),
            }
        } else {
            Vec::new()
        };
        gather.send(ends, data, plan.body_out, trailers.is_empty(), out).await?;
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
