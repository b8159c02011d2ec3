//! The same request, to an origin that speaks HTTP/2.
//!
//! What differs from HTTP/1.1: a request has a stream, not a connection, so that a deadline or a client that left ends the
//! stream alone; an origin can say that it did nothing with a request, which then goes again whatever its method; and a
//! body ends with a frame, not by its framing.

#![forbid(unsafe_code)]

mod bodies;

use super::{
    asked::Asked,
    both,
    respond::{Responded, persistence},
};
use crate::{
    client::Input,
    config::LogFormat,
    error::{Cause, Error, Party, Phase},
    headers::{BodyOut, Persistence},
    http1::{
        body::Decoder,
        framing::ResponseBody,
        head::{EndOfHead, Version},
    },
    limits::{HTTP2_RESENDS_MAX, INTERIM_HEADS_MAX},
    observe::latency::Acquired,
    relay::Ends,
    shard::{blocks::Outgoing, watch::Deadline},
    upstream::{
        Lease, Origin, Upstream,
        http2::{
            acquire::{Stream, Way},
            exchange::{Broken, Fate, Head, Receiving},
            translate,
        },
    },
};
use bodies::{Begin, download, upload};
use std::{cell::RefCell, rc::Rc, time::Instant};

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
    let begin = Begin::of(&written[end..], asked.body, whole);
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
    let (mut sending, mut receiving) = opened.map_err(|broken| {
        let is_sent = broken.fate != Fate::Unprocessed;
        let failed = failed(broken, Phase::Send);
        // Not even its head was sent: what is to come of its body is still to come.
        let next = if is_sent || ends.watch.cut().is_some() { failed.next } else { Next::Resend };
        Failed { next, ..failed }
    })?;
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
                    ends.flush_interim(out).await?;
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
