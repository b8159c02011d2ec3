//! A request on an HTTP/2 connection of another shard, as the shard of its client has it.
//!
//! A connection serves one shard, and a burst comes in on all of them. A shard that has no connection to an origin, or no
//! room on it, asks one that has: that shard opens the stream (`lender`), and all that is said on it goes through
//! a bounded pipe. So a burst finds what is warm wherever it is, and no client and no body changes its shard. What the
//! origin may send is opened by what the client took, as on a connection of one's own.

#![forbid(unsafe_code)]

use super::exchange::{Broken, Fate, Head};
use crate::{
    error::Cause,
    limits::{HTTP2_BORROWED_MAX, HTTP2_BORROWED_MESSAGES_MAX, HTTP2_BORROWED_PER_SECOND},
    observe::access_log::TlsFacts,
    shard::pipe::{End, Loose, pipe},
    upstream::{Upstream, neighbours::Message, origins::Origin},
};
use bytes::Bytes;
use http::Request;
use std::{
    cell::Cell,
    future::poll_fn,
    net::IpAddr,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// From the shard of the client.
pub enum ToLender {
    /// The head; whether nothing follows it.
    Open(Box<Request<()>>, bool),
    /// A piece of the body; whether it is the last one.
    Data(Bytes, bool),
    /// Trailers, as lines.
    Trailers(Vec<u8>),
}

/// From the shard of the connection.
pub enum ToBorrower {
    /// There is a place.
    Granted(Facts),
    /// A head, interim or final.
    Head(Box<Head>),
    /// A piece of the body; whether the response is over.
    Data(Bytes, bool),
    /// The response is over. Its trailers, as lines.
    End(Vec<u8>),
    Broken(Broken),
}

/// What there is to say of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub ip: IpAddr,
    pub tls: Option<TlsFacts>,
}

/// The lender's end on its way.
pub type LenderEnd = Loose<ToBorrower, ToLender>;
type BorrowerEnd = End<ToLender, ToBorrower>;

/// How much a shard uses other shards' connections to one origin.
#[derive(Default)]
pub struct Borrowing {
    under_way: Cell<usize>,
    /// Requests since the second began.
    in_second: Cell<u32>,
    second: Cell<Option<Instant>>,
    /// When another shard had no place.
    refused: Cell<Option<Instant>>,
}

impl Borrowing {
    /// After a refusal others are left alone for this long: all that there is is probably taken.
    const PAUSE: Duration = Duration::from_millis(100);

    fn may_ask(&self, now: Instant) -> bool {
        let lately = |at| now.saturating_duration_since(at) < Self::PAUSE;
        self.under_way.get() < HTTP2_BORROWED_MAX && !self.refused.get().is_some_and(lately)
    }

    fn count(&self, now: Instant) {
        let is_over = |at| now.saturating_duration_since(at) >= Duration::from_secs(1);
        if self.second.get().is_none_or(is_over) {
            self.second.set(Some(now));
            self.in_second.set(0);
        }
        self.in_second.set(self.in_second.get().saturating_add(1));
    }

    /// Whether there were so many that a connection of one's own pays.
    pub fn is_often(&self) -> bool {
        self.in_second.get() > HTTP2_BORROWED_PER_SECOND
    }
}

/// A place on another shard's connection.
pub struct Borrowed {
    end: Rc<BorrowerEnd>,
    pub facts: Facts,
    counted: Counted,
}

/// Counts as under way.
struct Counted(Rc<Origin>);

impl Counted {
    fn new(origin: &Rc<Origin>) -> Self {
        let borrowing = &origin.streams.borrowing;
        borrowing.under_way.set(borrowing.under_way.get() + 1);
        Self(origin.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let borrowing = &self.0.streams.borrowing;
        borrowing.under_way.set(borrowing.under_way.get() - 1);
    }
}

impl Upstream {
    /// Asks another shard for a place, if one has a connection.
    pub(super) fn ask_stream(&self, origin: &Rc<Origin>) -> Option<Asking> {
        let (place, borrowing) = (&origin.seat.as_ref()?.place, &origin.streams.borrowing);
        if !borrowing.may_ask(Instant::now()) {
            return None;
        }
        let shards = self.neighbours.shards();
        let mut others = (1..shards).map(|step| (self.shard.index + step) % shards);
        let lender = others.find(|shard| place.is_multiplexed(*shard))?;
        let counted = Counted::new(origin);
        // Without descriptors, or with its mailbox full, it is as if there were none.
        let (near, far) = pipe(HTTP2_BORROWED_MESSAGES_MAX).ok()?;
        let end = Rc::new(near.attach().ok()?);
        self.neighbours.tell(lender, Message::Borrow(origin.key.clone(), Box::new(far))).ok()?;
        Some(Asking(Some((end, counted))))
    }
}

/// A question for a place. Dropping it takes it back, and a place that was granted meanwhile comes free.
pub struct Asking(Option<(Rc<BorrowerEnd>, Counted)>);

impl Asking {
    /// The place; None: there is none. Not to be polled after that.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Borrowed>> {
        let Some((end, _)) = &self.0 else { return Poll::Ready(None) };
        let Poll::Ready(answer) = poll_next(end, cx) else { return Poll::Pending };
        let (end, counted) = self.0.take().expect("it was there just now");
        let borrowing = &counted.0.streams.borrowing;
        let now = Instant::now();
        Poll::Ready(if let Some(ToBorrower::Granted(facts)) = answer {
            borrowing.count(now);
            Some(Borrowed { end, facts, counted })
        } else {
            borrowing.refused.set(Some(now));
            None
        })
    }
}

/// Ready when the lender did something. Both halves of a request wait for that in one task, and one may get the signal
/// that the other waits for: then the task looks again, once a signal.
fn poll_stirred(end: &Rc<BorrowerEnd>, cx: &mut Context<'_>) -> Poll<()> {
    let stirred = end.poll_stirred(cx);
    if stirred.is_ready() && Rc::strong_count(end) > 1 {
        cx.waker().wake_by_ref();
    }
    stirred
}

/// The next message; None: the lender is gone.
fn poll_next(end: &Rc<BorrowerEnd>, cx: &mut Context<'_>) -> Poll<Option<ToBorrower>> {
    loop {
        // In this order: what it sent before it left is still to be taken.
        let is_left = end.is_left();
        if let Some(message) = end.take() {
            return Poll::Ready(Some(message));
        }
        if is_left {
            return Poll::Ready(None);
        }
        if poll_stirred(end, cx).is_pending() {
            return Poll::Pending;
        }
    }
}

impl Borrowed {
    /// Sends the head; `ends` if nothing follows it. Errors: the lender is gone; nothing was sent.
    pub fn open(
        self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(BorrowedSend, BorrowedRecv), Broken> {
        let Self { end, counted, .. } = self;
        let gone = Broken { cause: Cause::Closed, fate: Fate::Unprocessed };
        if end.is_left() || end.send(ToLender::Open(Box::new(request), ends)).is_err() {
            return Err(gone);
        }
        let sending = BorrowedSend { end: (!ends).then(|| end.clone()) };
        let receiving = BorrowedRecv {
            end,
            has_head: false,
            is_over: false,
            trailers: Vec::new(),
            broken: None,
            _counted: counted,
        };
        Ok((sending, receiving))
    }
}

/// The request's half. Both halves are polled by one task.
pub struct BorrowedSend {
    /// None once the request is sent.
    end: Option<Rc<BorrowerEnd>>,
}

impl BorrowedSend {
    pub async fn data(&mut self, data: Bytes, ends: bool) -> Result<(), Broken> {
        self.send(ToLender::Data(data, ends)).await?;
        if ends {
            self.end = None;
        }
        Ok(())
    }

    pub async fn trailers(&mut self, lines: &[u8]) -> Result<(), Broken> {
        self.send(ToLender::Trailers(lines.to_vec())).await?;
        self.end = None;
        Ok(())
    }

    async fn send(&self, message: ToLender) -> Result<(), Broken> {
        // Nothing follows the end of a request.
        let Some(end) = &self.end else { return Ok(()) };
        let mut message = Some(message);
        poll_fn(|cx| {
            loop {
                if end.is_left() {
                    // The response's half knows why.
                    return Poll::Ready(Err(Broken { cause: Cause::Closed, fate: Fate::Reset }));
                }
                let Some(next) = message.take() else { return Poll::Ready(Ok(())) };
                message = end.send(next).err();
                if message.is_some() && poll_stirred(end, cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// The response's half.
pub struct BorrowedRecv {
    end: Rc<BorrowerEnd>,
    has_head: bool,
    is_over: bool,
    trailers: Vec<u8>,
    broken: Option<Broken>,
    _counted: Counted,
}

impl BorrowedRecv {
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Broken>> {
        if !self.has_head {
            return self.poll(cx).map(|message| match message {
                Ok(ToBorrower::Head(head)) => {
                    self.has_head = head.status() >= 200;
                    self.is_over = head.ends;
                    Ok(*head)
                }
                Ok(_) => Err(self.breaks(out_of_turn())),
                Err(broken) => Err(broken),
            });
        }
        Poll::Ready(Err(out_of_turn()))
    }

    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.poll(cx).map(|message| match message {
            Ok(ToBorrower::Data(data, is_over)) => {
                self.is_over = is_over;
                Some(Ok(data))
            }
            Ok(ToBorrower::End(trailers)) => {
                self.is_over = true;
                self.trailers = trailers;
                None
            }
            Ok(_) => Some(Err(self.breaks(out_of_turn()))),
            Err(broken) => Some(Err(broken)),
        })
    }

    /// The next message that is no failure. A failure comes again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ToBorrower, Broken>> {
        if let Some(broken) = &self.broken {
            return Poll::Ready(Err(broken.clone()));
        }
        let Poll::Ready(message) = poll_next(&self.end, cx) else {
            return Poll::Pending;
        };
        Poll::Ready(match message {
            Some(ToBorrower::Broken(broken)) => Err(self.breaks(broken)),
            Some(message) => Ok(message),
            // As with a connection that was lost.
            None => Err(self.breaks(Broken { cause: Cause::Closed, fate: Fate::Lost })),
        })
    }

    fn breaks(&mut self, broken: Broken) -> Broken {
        self.broken = Some(broken.clone());
        broken
    }

    pub fn release(&mut self, n: usize) {
        if !self.is_over {
            self.end.grant(n);
        }
    }

    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn take_trailers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trailers)
    }
}

fn out_of_turn() -> Broken {
    let cause = Cause::Malformed("a second response on one stream");
    Broken { cause, fate: Fate::Malformed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_64_is_not_often_and_one_more_within_a_second_is() {
        let (borrowing, now) = (Borrowing::default(), Instant::now());
        (0..HTTP2_BORROWED_PER_SECOND).for_each(|_| borrowing.count(now));
        assert!(!borrowing.is_often());
        borrowing.count(now + Duration::from_millis(999));
        assert!(borrowing.is_often());
        borrowing.count(now + Duration::from_secs(1));
        assert!(!borrowing.is_often(), "another second");
    }

    #[test]
    fn others_are_left_alone_after_a_refusal_and_beyond_the_bound() {
        let (borrowing, now) = (Borrowing::default(), Instant::now());
        assert!(borrowing.may_ask(now));
        borrowing.refused.set(Some(now));
        assert!(!borrowing.may_ask(now + Borrowing::PAUSE / 2));
        assert!(borrowing.may_ask(now + Borrowing::PAUSE));
        borrowing.under_way.set(HTTP2_BORROWED_MAX - 1);
        assert!(borrowing.may_ask(now + Borrowing::PAUSE));
        borrowing.under_way.set(HTTP2_BORROWED_MAX);
        assert!(!borrowing.may_ask(now + Borrowing::PAUSE));
    }
}
