//! The response: from the origin's first byte to the client's last.

#![forbid(unsafe_code)]

use super::asked::Asked;
use crate::{
    error::{Cause, Error, Party, Phase},
    headers::{self, BodyOut, Persistence},
    http1::{
        body::Decoder,
        framing::{RequestBody, ResponseBody},
        head::{EndOfHead, FieldRoom, ResponseHead, Version},
    },
    limits::INTERIM_HEADS_MAX,
    observe::latency::Acquired,
    relay::{self, Ends, Excess, ROOM_AFTER},
    shard::{
        blocks::{Block, Outgoing},
        watch::Deadline,
    },
    upstream::Lease,
};
use memchr::memmem;
use std::{ops::Range, time::Instant};

/// A response that reached the client whole.
pub struct Responded {
    /// What the client was told about its connection.
    pub persistence: Persistence,
    /// The origin's connection is clean and may carry another request.
    pub origin_persists: bool,
}

/// Reads the origin's response and passes it on. `out` is empty room for heads.
///
/// Errors: with no byte received, phase wait; the client has then got nothing but interim heads. So also where the answer
/// is about the connection; `out` is then untouched.
pub async fn respond(
    ends: &Ends<'_>,
    asked: &Asked,
    lease: &Lease,
    out: &mut Outgoing<'_>,
) -> Result<Responded, Error> {
    let mut reader =
        HeadReader { block: ends.shard.blocks.small(), filled: 0, progress: Received::Nothing };
    for heads in 0..=INTERIM_HEADS_MAX {
        let end = reader.read(ends, lease).await?;
        if heads == 0 && is_about_idleness(asked, lease, &reader.block[..end]) {
            return Err(Error::origin(Phase::Wait, Cause::Closed));
        }
        let (head, rest) = reader.block[..reader.filled].split_at_mut(end);
        let came = Came { head, rest, is_first: heads == 0 };
        match read_head(ends, asked, lease, came, out)? {
            Head::Interim => {
                if out.len > 0 {
                    ends.flush_interim(out).await?;
                }
                reader.take(end);
            }
            Head::Final(plan) => {
                ends.watch.clear(Deadline::Origin);
                if let Some(seconds) = plan.idle_timeout {
                    lease.told_idle_timeout(seconds);
                }
                let mut decoder = Decoder::of_response(plan.body);
                let rest = end..reader.filled;
                let excess = relay::download(
                    ends,
                    &lease.connection,
                    reader.block,
                    rest,
                    &mut decoder,
                    plan.body_out,
                    out,
                )
                .await?;
                return Ok(Responded {
                    persistence: plan.persistence,
                    origin_persists: plan.origin_persists
                        && plan.body != ResponseBody::ToClose
                        && excess == Excess::None,
                });
            }
        }
    }
    Err(Error::origin(Phase::Head, Cause::Malformed("too many interim responses")))
}

/// Whether a head says that no request came in time, though one was sent that may be sent again. Some origins (HAProxy on
/// connections that never carried one) say so before they close, and it crosses the request; RFC 9110 §15.5.9: it may then
/// be repeated on another connection. Only a request without a body: it was sent whole.
fn is_about_idleness(asked: &Asked, lease: &Lease, bytes: &[u8]) -> bool {
    // `HTTP/1.x ` is 9 bytes.
    if bytes.get(9..12) != Some(b"408") {
        return false;
    }
    let can_repeat = asked.body == RequestBody::None && asked.is_idempotent;
    let mut room = FieldRoom::default();
    can_repeat
        && lease.acquired != Acquired::New
        && ResponseHead::parse(bytes, &mut room).is_ok_and(|head| !head.keep_alive)
}

/// Receives until a whole head is there.
struct HeadReader {
    block: Block,
    filled: usize,
    progress: Received,
}

/// Whether the origin has said anything: once it has, the request was received.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    Nothing,
    Something,
}

impl HeadReader {
    /// Returns the length of the head at the block's start.
    async fn read(&mut self, ends: &Ends<'_>, lease: &Lease) -> Result<usize, Error> {
        let mut end_of_head = EndOfHead::default();
        loop {
            let found = end_of_head.find(&self.block[..self.filled]);
            if let Some(end) = found.map_err(|cause| Error::origin(Phase::Head, cause))? {
                return Ok(end);
            }
            self.receive(ends, lease).await?;
            if self.progress == Received::Nothing {
                self.progress = Received::Something;
                record_round_trip(ends, lease)?;
            }
        }
    }

    async fn receive(&mut self, ends: &Ends<'_>, lease: &Lease) -> Result<(), Error> {
        if self.filled + ROOM_AFTER >= self.block.len() {
            // A large block holds the longest head, and then some.
            let mut larger = ends.shard.blocks.large();
            larger[..self.filled].copy_from_slice(&self.block[..self.filled]);
            ends.shard.blocks.put(std::mem::replace(&mut self.block, larger));
        }
        let free = self.free();
        let block = std::mem::take(&mut self.block);
        let (received, block) = lease.connection.recv(&ends.shard.blocks, block, free).await;
        self.block = block;
        let phase = match self.progress {
            Received::Nothing => Phase::Wait,
            Received::Something => Phase::Head,
        };
        let cause = match received {
            Ok(n @ 1..) => {
                self.filled += n;
                return Ok(());
            }
            Ok(_) => Cause::Closed,
            Err(cause) => cause,
        };
        Err(ends.watch.explain(Party::Origin, phase, cause))
    }

    /// Leaves room for the chunk framing behind what is received.
    fn free(&self) -> Range<usize> {
        self.filled..self.block.len() - ROOM_AFTER
    }

    /// Forgets a head; what came behind it moves to the front.
    fn take(&mut self, end: usize) {
        self.block.copy_within(end..self.filled, 0);
        self.filled -= end;
    }
}

/// An answer that comes before the request is sent whole says nothing about the round trip.
///
/// Errors: it came before the request can have been there. An origin that said more than it was asked, after the look at
/// the idle connection, would else answer a request that it has not seen, with what may be another user's.
fn record_round_trip(ends: &Ends<'_>, lease: &Lease) -> Result<(), Error> {
    let now = Instant::now();
    let took = ends.progress.request_sent.get().map(|sent| now.saturating_duration_since(sent));
    if lease.connection.cannot_have_answered(took) {
        return Err(Error::origin(Phase::Wait, Cause::Unasked));
    }
    if let Some(took) = took {
        lease.record(took);
    }
    ends.progress.response_begun.set(Some(now));
    Ok(())
}

/// Whether a second response stands behind the first. Where this shard was late, the one that nobody asked for and the
/// answer are read together, and the acknowledgement tells nothing any more ([`record_round_trip`]): either may be meant.
/// Bytes that are no response, such as an empty line too many, only end the connection. RFC 9112 §9.2.
fn is_another_behind(body: ResponseBody, rest: &[u8]) -> bool {
    let length = match body {
        ResponseBody::None => 0,
        ResponseBody::Fixed(length) => usize::try_from(length).unwrap_or(usize::MAX),
        ResponseBody::Chunked => match chunked_body_before_another(rest) {
            Some(length) => length,
            None => return false,
        },
        ResponseBody::ToClose => return false,
    };
    rest.get(length..).is_some_and(begins_a_response)
}

/// Whether this is a response, as far as it came, behind empty lines or not.
fn begins_a_response(bytes: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/";
    let bytes = bytes.trim_ascii_start();
    let seen = bytes.len().min(START.len());
    seen > 0 && bytes[..seen] == START[..seen]
}

/// How long the chunked body at the start of `rest` is, if it may be that a response stands behind it.
fn chunked_body_before_another(rest: &[u8]) -> Option<usize> {
    // Hardly any has this, so hardly any is read twice.
    memmem::find(rest, b"\r\n\r\nH")?;
    // What breaks the coding is found again, and told, when the body is passed on.
    let step = Decoder::of_response(ResponseBody::Chunked).advance(&mut rest.to_vec()).ok()?;
    step.ended.then_some(step.consumed)
}

enum Head {
    Interim,
    Final(Plan),
}

/// How a final response reaches the client.
struct Plan {
    body: ResponseBody,
    body_out: BodyOut,
    persistence: Persistence,
    origin_persists: bool,
    /// How long the origin says it keeps the connection when idle, in seconds.
    idle_timeout: Option<u64>,
}

/// What the origin sent so far.
struct Came<'b> {
    head: &'b mut [u8],
    /// What came behind it.
    rest: &'b [u8],
    /// No other head came before it.
    is_first: bool,
}

/// Reads one head and writes what the client gets of it to `out`: nothing, for an interim head that it must not get.
fn read_head(
    ends: &Ends<'_>,
    asked: &Asked,
    lease: &Lease,
    came: Came<'_>,
    out: &mut Outgoing<'_>,
) -> Result<Head, Error> {
    let malformed = |cause| Error::origin(Phase::Head, cause);
    let mut room = FieldRoom::default();
    let head = ResponseHead::parse(came.head, &mut room).map_err(malformed)?;
    let body = head.body(asked.is_head).map_err(malformed)?;
    if lease.acquired != Acquired::New && head.status >= 200 && is_another_behind(body, came.rest) {
        // Behind an interim head it is too late to ask anew: the client may have that.
        let phase = if came.is_first { Phase::Wait } else { Phase::Head };
        return Err(Error::origin(phase, Cause::Unasked));
    }
    out.clear();
    if head.status == 101 {
        // RFC 9110 §15.2.2: only in answer to Upgrade, which is never passed on.
        return Err(malformed(Cause::Malformed("101 though no upgrade was asked for")));
    }
    if let (407, Some(proxy)) = (head.status, lease.asked_proxy()) {
        // RFC 9110 §11.7.1: the challenge is for this proxy and goes no further.
        let text = format!("the proxy {proxy} wants HTTP_PROXY=http://USER:PASSWORD@NAME:PORT");
        return Err(malformed(Cause::Proxy(text)));
    }
    if head.status < 200 {
        // RFC 9110 §15.2: not to HTTP/1.0.
        if asked.version == Version::Http11 {
            headers::write_interim(out, &head);
        }
        return Ok(Head::Interim);
    }
    let body_out = BodyOut::of(body, asked.version);
    let persistence = persistence(ends, asked, body_out);
    headers::write_response(out, &head, body_out, persistence, asked.id.bytes());
    ends.progress.status.set(Some(head.status));
    ends.progress.chunked_out.set(body_out == BodyOut::Chunked);
    Ok(Head::Final(Plan {
        body,
        body_out,
        persistence,
        origin_persists: head.keep_alive,
        idle_timeout: head.fields.idle_timeout(),
    }))
}

/// What the client's connection does after the response.
pub fn persistence(ends: &Ends<'_>, asked: &Asked, body_out: BodyOut) -> Persistence {
    // An answer before the request was read whole leaves the client's stream at an unknown place.
    let persists = asked.keep_alive
        && body_out != BodyOut::ToClose
        && ends.progress.request_read.get()
        && !ends.shard.is_draining();
    match (persists, asked.version) {
        (false, _) => Persistence::Closes,
        (true, Version::Http11) => Persistence::Persists,
        (true, Version::Http10) => Persistence::KeepAliveToHttp10,
    }
}
