//! ONE request, from its head to its last byte. Read this first.
//!
//! The head is read and admitted (`asked`), an origin connection is leased (`upstream`), the request goes out, the
//! response comes back (`respond`), both bodies under way at once where they have to be (`relay`). A clean end gives
//! the lease back; anything else closes it. Every request leaves one line in the access log, a failed one also its
//! cause.

#![forbid(unsafe_code)]

mod asked;
mod entry;
mod http2;
mod pages;
mod respond;

use crate::{
    client::{Client, Input},
    config::LogFormat,
    error::{Cause, Error, Party, Phase},
    headers::{self, BodyOut, Persistence},
    http1::{body::Decoder, framing::RequestBody, head::Version},
    limits::OWN_ANSWER_WITHIN,
    observe::latency::Acquired,
    relay::{self, Ends, Progress},
    shard::{
        blocks::Outgoing,
        watch::{Cut, Deadline},
    },
    upstream::{InFlight, Lease, Origin, Upstream, Wants},
};
use asked::{Asked, Goes};
use entry::Entry;
use respond::{Responded, respond};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Instant,
};

/// What becomes of the client's connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next request may come.
    KeepAlive,
    /// Nothing more is said or expected.
    Close,
    /// The client may still be sending: read on for a while, so that it can read the answer (RFC 9112 §9.6).
    Linger,
    /// The answer was cut where the client counts on its length, or on an orderly end: the close must not look like one.
    Reset,
}

/// Serves the request whose head is the first `head_bytes` of the client's input. `started` is when its first byte came,
/// `read` when its head was complete.
pub async fn serve(
    upstream: &Upstream,
    client: &mut Client,
    head_bytes: usize,
    started: Instant,
    read: Instant,
) -> Next {
    let shard = &*upstream.shard;
    let watch = &client.watch;
    watch.begin_exchange(started);
    watch.set(Deadline::Response, shard.config.write_timeout.map(|within| read + within));
    let mut out = Outgoing::new(&shard.blocks);
    let progress = Progress::default();
    let head = &client.input.all()[..head_bytes];
    let (asked, goes) = asked::read(upstream, client.door, head, started, &mut out);
    client.input.use_up(head_bytes);
    let ends = Ends { shard, watch, client: &client.socket, progress: &progress };
    let outcome = match &goes {
        Ok(Goes::To(to)) => {
            let input = &mut client.input;
            let responded = forward(upstream, &ends, input, &asked, &to.origin, &mut out).await;
            responded.map(|responded| after(&responded, &progress, &client.input))
        }
        Ok(Goes::Nowhere(own)) => Ok(pages::answer(&ends, &asked, *own, &mut out).await),
        Err(error) => {
            // A request without a body is read whole even if it goes nowhere: the connection can live on.
            if asked.body == RequestBody::None && error.status() != 501 {
                ends.request_is_read(false);
            }
            Err(error.clone())
        }
    };
    let (next, error) = match outcome {
        Ok(next) => (next, None),
        Err(error) => {
            let next = answer(&ends, &asked, &error, &mut out).await;
            (next, Some(error))
        }
    };
    watch.end_exchange();
    let head = &client.input.all()[..head_bytes];
    let entry = Entry { shard, client, asked: &asked, head, started, progress: &progress };
    let origin = match &goes {
        Ok(Goes::To(to)) => Some(&*to.origin),
        Ok(Goes::Nowhere(_)) | Err(_) => None,
    };
    client.idle_since = entry.record(error.as_ref(), origin);
    next
}

/// Answers a client whose bytes are no request (or came too late for one).
pub async fn refuse(
    upstream: &Upstream,
    client: &mut Client,
    error: Error,
    started: Instant,
) -> Next {
    let shard = &*upstream.shard;
    client.watch.begin_exchange(started);
    let asked = Asked::unreadable(shard.next_id(started));
    let progress = Progress::default();
    let ends = Ends { shard, watch: &client.watch, client: &client.socket, progress: &progress };
    let next = answer(&ends, &asked, &error, &mut Outgoing::new(&shard.blocks)).await;
    client.watch.end_exchange();
    let entry = Entry { shard, client, asked: &asked, head: &[], started, progress: &progress };
    client.idle_since = entry.record(Some(&error), None);
    next
}

/// Sends the request in `out`, and what follows of its body, to the origin, and the response to the client.
async fn forward(
    upstream: &Upstream,
    ends: &Ends<'_>,
    input: &mut Input,
    asked: &Asked,
    origin: &Rc<Origin>,
    out: &mut Outgoing<'_>,
) -> Result<Responded, Error> {
    let mut decoder = Decoder::of_request(asked.body);
    let body_out = match asked.body {
        RequestBody::Chunked => BodyOut::Chunked,
        RequestBody::None | RequestBody::Fixed(_) => BodyOut::AsIs,
    };
    relay::append_read_body(input, &mut decoder, body_out, out)
        .map_err(|cause| Error::client(Phase::Body, cause))?;
    if decoder.is_complete() {
        ends.request_is_read(asked.version == Version::Http11);
    }
    let mut at_hand = None;
    if origin.speaks.get().may_be_http2() {
        // On the heap: a request that goes in HTTP/1.1 should not carry the room for it.
        let request = http2::Request { input, asked, decoder: &mut decoder };
        match Box::pin(http2::forward(upstream, ends, origin, request, out)).await? {
            http2::Went::Responded(responded) => return Ok(responded),
            http2::Went::ToHttp1(lease) => at_hand = lease,
        }
    }
    let mut again = Again::MayBe;
    let mut _in_flight = InFlight::of(origin);
    loop {
        ends.progress.begin_attempt();
        let wants = match again {
            Again::Is => Wants::Fresh,
            // By the same rule as below.
            Again::MayBe if decoder.is_complete() && asked.is_idempotent => Wants::Any,
            Again::MayBe => Wants::Safe,
        };
        let lease = match at_hand.take() {
            Some(lease) => lease.for_one_that(wants),
            None => upstream.lease(origin, ends.watch, wants).await?,
        };
        _in_flight = lease.count();
        if ends.shard.config.access_log_format == LogFormat::JsonPlus {
            ends.progress.connection.set(Some(lease.facts()));
        }
        let guard = ends.watch.lease(lease.connection.socket.clone());
        if ends.watch.cut().is_some() {
            return Err(ends.watch.explain(Party::Origin, Phase::Connect, Cause::TimedOut));
        }
        let result = attempt(ends, input, asked, &mut decoder, body_out, &lease, out).await;
        drop(guard);
        if let Err(failed) = &result
            && failed.error.is_stale_connection()
            && failed.error.cause != Cause::Unasked
        {
            lease.was_given_up(Instant::now());
        }
        match result {
            Ok(responded) => {
                if responded.origin_persists && ends.progress.request_taken.get() {
                    let now = Instant::now();
                    ends.progress.ended.set(Some(now));
                    lease.finish(upstream, now);
                }
                return Ok(responded);
            }
            Err(Failed { harmless: true, .. }) if again == Again::MayBe => again = Again::Is,
            Err(failed) => return Err(failed.error),
        }
    }
}

/// Whether a request is sent for the second time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    MayBe,
    Is,
}

/// An attempt that failed.
struct Failed {
    error: Error,
    /// The origin cannot have acted on it, or acting twice is as good as once, and all of it is still here to be sent
    /// again.
    harmless: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, harmless: false }
    }
}

async fn attempt(
    ends: &Ends<'_>,
    input: &mut Input,
    asked: &Asked,
    decoder: &mut Decoder,
    body_out: BodyOut,
    lease: &Lease,
    out: &mut Outgoing<'_>,
) -> Result<Responded, Failed> {
    let whole = decoder.is_complete();
    if whole {
        ends.request_is_sent(Instant::now());
    }
    let request = 0..out.len;
    lease.connection.begin_request();
    let block = std::mem::take(&mut out.block);
    let (sent, block) = lease.connection.send(&ends.shard.blocks, block, request).await;
    out.block = block;
    if let Err(failed) = &sent
        && failed.nothing_sent
    {
        let error = ends.watch.explain(Party::Origin, Phase::Send, failed.cause.clone());
        return Err(Failed { harmless: error.is_stale_connection(), error });
    }
    if whole && sent.is_ok() {
        ends.progress.request_taken.set(true);
    }
    // An origin that refuses a body closes before it has read it all: the answer may be there although sending failed.
    let responded = if whole || sent.is_err() {
        respond(ends, asked, lease, out).await
    } else {
        let upload = relay::upload(ends, input, decoder, body_out, &lease.connection);
        // On the heap: most requests have no body to stream and should not carry the room for it.
        Box::pin(both(upload, respond(ends, asked, lease, out))).await
    };
    responded.map_err(|error| Failed {
        // Nothing was received (phase wait) on a connection that was there before: the origin had closed it. RFC 9110
        // §9.2.2: only an idempotent request may be sent again by itself.
        harmless: whole
            && asked.is_idempotent
            && lease.acquired != Acquired::New
            && !ends.watch.has_response_begun()
            && error.is_stale_connection(),
        error,
    })
}

/// Runs both directions until the response is done, or the client's side of the request fails. An origin that takes no
/// more of the body may still answer, so that failure alone ends nothing.
async fn both(
    upload: impl Future<Output = Result<(), Error>>,
    respond: impl Future<Output = Result<Responded, Error>>,
) -> Result<Responded, Error> {
    let (mut upload, mut respond) = (pin!(upload), pin!(respond));
    let mut uploading = true;
    poll_fn(|cx| {
        if uploading && let Poll::Ready(uploaded) = upload.as_mut().poll(cx) {
            uploading = false;
            if let Err(error) = uploaded
                && error.party == Party::Client
            {
                return Poll::Ready(Err(error));
            }
        }
        respond.as_mut().poll(cx)
    })
    .await
}

fn after(responded: &Responded, progress: &Progress, input: &Input) -> Next {
    match responded.persistence {
        Persistence::Persists | Persistence::KeepAliveToHttp10 => Next::KeepAlive,
        Persistence::Closes if progress.request_read.get() && input.unused().is_empty() => {
            Next::Close
        }
        Persistence::Closes => Next::Linger,
    }
}

/// Tells the client what went wrong, if it can still be told; else makes the cut visible.
async fn answer(ends: &Ends<'_>, asked: &Asked, error: &Error, out: &mut Outgoing<'_>) -> Next {
    let Ends { watch, progress, .. } = ends;
    let status = error.status();
    if let Some(begun) = progress.status.get() {
        log::debug!("the answer {begun} was cut: {error}");
        let shows = progress.chunked_out.get();
        return if shows { Next::Close } else { Next::Reset };
    }
    if status == 499 {
        // A client that cut its own request may still read (half-closed); RFC 9112 §8: the message is incomplete.
        return Next::Close;
    }
    // A client that sent what is malformed may mean something else by what follows, too.
    let in_step =
        error.party != Party::Client || matches!(error.cause, Cause::NoRoute(_) | Cause::Loop);
    let persists = in_step && persists(ends, asked);
    let persistence = persistence(persists, asked.version);
    out.clear();
    headers::write_own(out, status, persistence, asked.id.bytes());
    progress.status.set(Some(status));
    watch.forget_cut();
    watch.set(Deadline::Response, Some(Instant::now() + OWN_ANSWER_WITHIN));
    match (ends.flush(out).await, persists) {
        (Ok(()), true) => Next::KeepAlive,
        (Ok(()), false) => Next::Linger,
        (Err(_), _) => Next::Reset,
    }
}

/// Whether a next request can come after an answer of the proxy's own: not where the request was not read to its end, or
/// the sweeper ended the client's half.
fn persists(ends: &Ends<'_>, asked: &Asked) -> bool {
    let client_was_cut = !matches!(ends.watch.cut(), None | Some(Cut::Passed(Deadline::Origin)));
    asked.keep_alive
        && ends.progress.request_read.get()
        && !client_was_cut
        && !ends.shard.is_draining()
}

fn persistence(persists: bool, version: Version) -> Persistence {
    match (persists, version) {
        (false, _) => Persistence::Closes,
        (true, Version::Http11) => Persistence::Persists,
        (true, Version::Http10) => Persistence::KeepAliveToHttp10,
    }
}
