//! One request on its stream, as the shard of the connection has it: each half with its flow control.
//!
//! Dropping either half before its end resets the stream (CANCEL): the origin stops, and the connection lives on.

#![forbid(unsafe_code)]

use super::{
    exchange::{Broken, Fate, Head},
    multiplexed::{Multiplexed, Slot},
    translate,
};
use crate::error::Cause;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::Request;
use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// The request's half.
pub struct SendHalf {
    stream: SendStream<Bytes>,
    on: Rc<Multiplexed>,
}

/// The response's half.
pub struct RecvHalf {
    state: State,
    slot: Slot,
}

enum State {
    Waiting(ResponseFuture),
    Body {
        stream: RecvStream,
        /// Its place among the connection's responses.
        key: usize,
    },
}

impl Slot {
    /// Sends a request's head; `ends` if nothing follows it. Errors: the connection ended just now, or takes no more; where
    /// the fate is [`Fate::Unprocessed`], nothing was sent.
    pub(super) fn open(
        self,
        mut request: Request<()>,
        ends: bool,
    ) -> Result<(SendHalf, RecvHalf), Broken> {
        if self.on.opens_first() {
            translate::teach_id(&mut request);
        }
        // It retired between the choice of it and now.
        let gone = || Broken { cause: Cause::Closed, fate: Fate::Unprocessed };
        let mut requests = self.on.requests().ok_or_else(gone)?;
        // SETTINGS that allow no stream (RFC 9113 §5.1.2) may have come in between, too. The library would keep the request
        // back until others do, which may be never.
        if requests.current_max_send_streams() == 0 {
            return Err(gone());
        }
        let (response, stream) = requests.send_request(request, ends).map_err(|error| {
            let broken = broken(&self.on, &error);
            // The library has not taken it, whatever its reason.
            if broken.fate == Fate::Malformed { broken } else { gone() }
        })?;
        self.on.wire.meter.borrow_mut().earn_stream();
        self.on.wire.sends_first();
        let sending = SendHalf { stream, on: self.on.clone() };
        Ok((sending, RecvHalf { state: State::Waiting(response), slot: self }))
    }
}

fn broken(on: &Multiplexed, error: &h2::Error) -> Broken {
    let rules = Cause::Malformed("the origin broke the rules of HTTP/2");
    let (fate, cause) = match (error.reason(), error.is_remote()) {
        (Some(Reason::REFUSED_STREAM), true) if error.is_reset() => {
            (Fate::Unprocessed, Cause::Io(io::ErrorKind::ConnectionReset))
        }
        (Some(Reason::HTTP_1_1_REQUIRED), true) => {
            (Fate::WantsHttp1, Cause::Io(io::ErrorKind::ConnectionReset))
        }
        // The library tells only those above the last stream that the origin looked at.
        (_, true) if error.is_go_away() => (Fate::Unprocessed, Cause::Closed),
        (_, true) if error.is_reset() => (Fate::Reset, Cause::Io(io::ErrorKind::ConnectionReset)),
        (_, false) if error.is_reset() => (Fate::Malformed, rules),
        (_, false) if error.is_go_away() => (Fate::Lost, on.wire.fault().unwrap_or(rules)),
        _ if error.is_io() => (Fate::Lost, on.wire.fault().unwrap_or(Cause::Closed)),
        _ => (Fate::Malformed, rules), // Something that this side did wrong.
    };
    Broken { cause, fate }
}

impl SendHalf {
    /// Sends `data`, in pieces as the origin's windows open; `ends` the request. A wait for the origin: the caller bounds
    /// it. Dropping the future leaves a part sent.
    pub async fn data(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        let is_empty = data.is_empty();
        let mut rest = data;
        while !rest.is_empty() {
            self.stream.reserve_capacity(rest.len());
            let capacity = poll_fn(|cx| self.poll_capacity(cx)).await?;
            let piece = rest.split_to(capacity.min(rest.len()));
            self.on.wire.meter.borrow_mut().earn_data(piece.len());
            let last = rest.is_empty() && ends;
            self.stream.send_data(piece, last).map_err(|e| broken(&self.on, &e))?;
        }
        if is_empty && ends {
            self.stream.send_data(Bytes::new(), true).map_err(|e| broken(&self.on, &e))?;
        }
        Ok(())
    }

    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        loop {
            // The library tells of an increase only once; what was left over before counts, too.
            let n = self.stream.capacity();
            if n > 0 {
                return Poll::Ready(Ok(n));
            }
            return match self.stream.poll_capacity(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => Poll::Ready(Err(broken(&self.on, &error))),
                // The stream does not send any more: reset, or the connection is over.
                Poll::Ready(None) => {
                    let cause = self.on.wire.fault().unwrap_or(Cause::Closed);
                    Poll::Ready(Err(Broken { cause, fate: Fate::Reset }))
                }
            };
        }
    }

    /// Ends the request with its trailers, given as lines.
    pub fn trailers(&mut self, lines: &[u8]) -> Result<(), Broken> {
        let fields = translate::request_trailers(lines);
        if fields.is_empty() {
            return self.stream.send_data(Bytes::new(), true).map_err(|e| broken(&self.on, &e));
        }
        self.stream.send_trailers(fields).map_err(|e| broken(&self.on, &e))
    }
}

impl RecvHalf {
    /// A response took so long.
    pub fn record(&self, round_trip: Duration) {
        self.slot.on.wire.connection.address.address().answered(round_trip);
    }

    /// The next head, interim or final. Errors: the stream broke. Cancel-safe.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Broken>> {
        let on = &self.slot.on;
        let State::Waiting(response) = &mut self.state else {
            let rules = Cause::Malformed("a second response on one stream");
            return Poll::Ready(Err(Broken { cause: rules, fate: Fate::Malformed }));
        };
        match response.poll_informational(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(on, &error))),
            Poll::Ready(Some(Ok(interim))) => {
                let (parts, ()) = interim.into_parts();
                let (status, fields) = (parts.status, parts.headers);
                return Poll::Ready(Ok(Head { status, fields, ends: false }));
            }
            Poll::Ready(None) => {}
        }
        match Pin::new(response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(on, &error))),
            Poll::Ready(Ok(response)) => {
                on.count_served();
                let (parts, mut stream) = response.into_parts();
                let ends = stream.is_end_stream();
                let key = on.add_response(stream.flow_control().clone());
                self.state = State::Body { stream, key };
                Poll::Ready(Ok(Head { status: parts.status, fields: parts.headers, ends }))
            }
        }
    }

    /// The next bytes of the body, None at its end. Not empty. Cancel-safe.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let State::Body { stream, .. } = &mut self.state else { return Poll::Ready(None) };
        loop {
            return match stream.poll_data(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                // RFC 9113 §6.1: an empty frame carries nothing; in HTTP/1.1 it would be the last chunk.
                Poll::Ready(Some(Ok(data))) if data.is_empty() => continue,
                Poll::Ready(Some(Ok(data))) => Poll::Ready(Some(Ok(data))),
                Poll::Ready(Some(Err(error))) => {
                    Poll::Ready(Some(Err(broken(&self.slot.on, &error))))
                }
            };
        }
    }

    /// The client has taken `n` more bytes: the origin may send as many.
    pub fn release(&mut self, n: usize) {
        if let State::Body { stream, .. } = &mut self.state {
            // Refused only for more than was received.
            stream.flow_control().release_capacity(n).ok();
        }
    }

    /// Whether the response is known to be over, trailers and all.
    pub fn is_over(&self) -> bool {
        match &self.state {
            State::Waiting(_) => false,
            State::Body { stream, .. } => stream.is_end_stream(),
        }
    }

    /// The trailers, as lines for the client, once the body is over.
    pub async fn trailers(&mut self) -> Result<Vec<u8>, Broken> {
        let State::Body { stream, .. } = &mut self.state else { return Ok(Vec::new()) };
        match stream.trailers().await {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(fields)) => translate::response_trailers(&fields)
                .map_err(|cause| Broken { cause, fate: Fate::Malformed }),
            Err(error) => Err(broken(&self.slot.on, &error)),
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        if let State::Body { key, .. } = self.state {
            self.slot.on.remove_response(key);
        }
    }
}
