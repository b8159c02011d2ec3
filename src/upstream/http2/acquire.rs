//! A place on an HTTP/2 connection for a request: on one that is there, or on the one that is dialled for all that wait.
//!
//! What an origin speaks is learned from its handshakes. Until it is known, and while it is HTTP/2, one dial serves every
//! request that waits; an origin that turns out to speak HTTP/1.1 only is dialled for each, as ever.

#![forbid(unsafe_code)]

use super::{
    begin,
    borrowed::{Asking, Borrowed},
    exchange::{Broken, Half, Receiving, Sending},
    multiplexed::Slot,
    speaks::{Speaks, TOLD_HTTP1, TOLD_HTTP2, learn},
    waiters::{Granted, Waiting},
};
use crate::{
    error::{Cause, Error, Party, Phase},
    limits::HTTP2_HELD_BYTES_MAX,
    observe::{
        access_log::{self, ConnectionFacts},
        latency::{Acquired, Cost},
    },
    shard::{self, watch::Watch},
    upstream::{
        Lease, Upstream,
        dial::Dialling,
        origins::Origin,
        tls::{Offer, Protocol},
    },
};
use http::Request;
use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Instant,
};

/// How a request goes to an origin that may speak HTTP/2.
pub enum Way {
    Http2(Stream),
    /// In HTTP/1.1; on this connection, if there is one.
    Http1(Option<Lease>),
}

enum Place {
    Own(Slot),
    Borrowed(Borrowed),
}

/// A request's place on an HTTP/2 connection.
pub struct Stream {
    place: Place,
    origin: Rc<Origin>,
    /// How the request got it: a connection that was not made for it may have been given up by the origin meanwhile.
    pub acquired: Acquired,
    pub cost: Cost,
}

impl Stream {
    /// For the access log.
    pub fn facts(&self) -> ConnectionFacts {
        let (ip, tls) = match &self.place {
            Place::Own(slot) => {
                let connection = &slot.on.wire.connection;
                (connection.ip(), connection.tls_facts())
            }
            Place::Borrowed(borrowed) => (borrowed.facts.ip, borrowed.facts.tls),
        };
        ConnectionFacts {
            origin: SocketAddr::new(ip, self.origin.key.dialled().1),
            acquired: self.acquired,
            cost: self.cost,
            protocol: access_log::Protocol::Http2,
            tls,
        }
    }

    /// Sends the head; `ends` if nothing follows it. Errors: the connection takes no more; nothing was sent.
    pub fn open(self, request: Request<()>, ends: bool) -> Result<(Sending, Receiving), Broken> {
        let (sending, half) = match self.place {
            Place::Own(slot) => {
                let (sending, receiving) = slot.open(request, ends)?;
                (Sending::Own(sending), Half::Own(receiving))
            }
            Place::Borrowed(borrowed) => {
                let (sending, receiving) = borrowed.open(request, ends)?;
                (Sending::Borrowed(sending), Half::Borrowed(receiving))
            }
        };
        Ok((sending, Receiving { half, of: (self.origin, self.acquired, self.cost) }))
    }
}

impl Upstream {
    /// Gives a place on an HTTP/2 connection to `origin`, if it speaks that.
    ///
    /// Errors: those of the dial; too many wait, or for too long. A wait ends when `watch` cuts. Cancel-safe.
    pub async fn stream(&self, origin: &Rc<Origin>, watch: &Watch) -> Result<Way, Error> {
        let begun = Instant::now();
        origin.used.set(begun);
        if origin.speaks.get() == Speaks::Unknown {
            match origin.seat.as_ref().map_or(0, |seat| seat.place.speaks()) {
                TOLD_HTTP1 => origin.speaks.set(Speaks::Http1(begun)),
                TOLD_HTTP2 => origin.speaks.set(Speaks::Http2),
                _ => {} // No shard knows.
            }
            if !origin.speaks.get().may_be_http2() || !origin.idle.borrow().is_empty() {
                return Ok(Way::Http1(None));
            }
        }
        origin.streams.uses(begun);
        origin.floor.note_request(origin.in_flight.get());
        if let Some(slot) = origin.streams.try_take() {
            self.dial_streams(origin);
            let (acquired, cost) = (Acquired::Reused, Cost::default());
            let place = Place::Own(slot);
            return Ok(Way::Http2(Stream { place, origin: origin.clone(), acquired, cost }));
        }
        let mut asking = self.ask_stream(origin);
        if let Some(asked) = &mut asking {
            // Most are answered long before, so that nothing is dialled in vain.
            let answer = poll_fn(|cx| asked.poll(cx));
            match monoio::time::timeout(self.lend_within(origin), answer).await {
                Ok(Some(borrowed)) => return Ok(self.borrowed(origin, borrowed)),
                Ok(None) => asking = None,
                Err(_elapsed) => {}
            }
        }
        let waiting = origin.streams.wait().ok_or_else(|| {
            busy("too many requests wait for this origin; it takes few of them at once")
        })?;
        self.dial_streams(origin);
        let config = &self.shard.config;
        let within = config.connect_timeout + config.tls_timeout;
        let granted = monoio::time::timeout(within, either(asking, waiting));
        match watch.unless_cut(granted).await {
            None => Err(watch.explain(Party::Origin, Phase::Connect, Cause::TimedOut)),
            Some(Err(_elapsed)) => {
                Err(busy("no request of this origin ended in time to make room"))
            }
            Some(Ok(Either::Borrowed(borrowed))) => Ok(self.borrowed(origin, borrowed)),
            Some(Ok(Either::Granted(granted))) => granted_way(origin, granted, begun),
        }
    }

    /// Looks after all HTTP/2 connections.
    pub(in crate::upstream) fn sweep_streams(&self, now: Instant) {
        let origins = self.origins.borrow();
        let used = origins.by_key.values().filter(|origin| origin.speaks.get().may_be_http2());
        // Between the bounds it stays as it is, so that windows do not change with every sweep.
        let held: usize = used.clone().map(|origin| origin.streams.held_bytes()).sum();
        if held > HTTP2_HELD_BYTES_MAX {
            self.is_under_pressure.set(true);
        } else if held < HTTP2_HELD_BYTES_MAX / 2 {
            self.is_under_pressure.set(false);
        }
        let timeout = self.shard.config.keepalive_timeout;
        let (mut connections, mut requests) = (0, 0);
        for origin in used {
            if origin.speaks.get() == Speaks::Http2 && origin.streams.has_any() {
                self.warm_sibling(origin, now);
            }
            origin.streams.sweep(now, timeout, self.is_under_pressure.get());
            connections += origin.streams.len();
            requests += origin.streams.in_flight();
        }
        self.shard.recorder.set_http2(connections, requests);
        for origin in origins.by_key.values() {
            // What the others were told is forgotten with it, or it would be believed at once.
            let asks_again = origin.speaks.get().after(now) != origin.speaks.get();
            if asks_again && origin.idle.borrow().is_empty() && origin.waiting.borrow().is_empty() {
                origin.speaks.set(Speaks::Unknown);
                if let Some(seat) = &origin.seat {
                    seat.place.tell_speaks(0);
                }
            }
        }
    }

    /// Whether all HTTP/2 connections lead to addresses that the origin's name left; then another one is made, for they are
    /// given up soon.
    pub(in crate::upstream) fn moves_streams(&self, origin: &Rc<Origin>) -> bool {
        let are_left = origin.streams.are_left();
        if are_left && !origin.streams.is_dialling() && !self.shard.is_draining() {
            self.dial_stream(origin);
        }
        are_left
    }

    /// Puts another shard's place to use. Makes a connection of this shard's own where it uses others' too often, or where
    /// its own are nearly full.
    fn borrowed(&self, origin: &Rc<Origin>, borrowed: Borrowed) -> Way {
        if origin.streams.has_any() {
            self.dial_streams(origin);
        } else if origin.streams.borrowing.is_often() {
            self.dial_stream(origin);
        }
        let (place, origin) = (Place::Borrowed(borrowed), origin.clone());
        let (acquired, cost) = (Acquired::Lent, Cost::default());
        Way::Http2(Stream { place, origin, acquired, cost })
    }

    /// Dials as many connections as the origin's requests want now.
    pub(super) fn dial_streams(&self, origin: &Rc<Origin>) {
        let wanted = match origin.speaks.get() {
            Speaks::Http2 => origin.streams.dials_wanted(),
            Speaks::Unknown => usize::from(!origin.streams.has_any()),
            Speaks::Http1(_) | Speaks::Http1Only => 0,
        };
        for _ in 0..wanted {
            self.dial_stream(origin);
        }
    }

    pub(in crate::upstream) fn dial_stream(&self, origin: &Rc<Origin>) {
        let upstream = self.this.upgrade().expect("the shard holds it while it runs");
        self.replace_lost_streams(origin);
        // It needs as long for its own as this one does.
        if origin.speaks.get() == Speaks::Http2 {
            self.warm_sibling(origin, Instant::now());
        }
        let mut ending = Ending::of_dial(origin);
        shard::spawn("HTTP/2 dial", async move {
            let origin = ending.origin.clone();
            let streams = &origin.streams;
            let dialling = Dialling::default();
            let dial = upstream.dial(&origin, &dialling, Offer::Either);
            let Some(dialled) = streams.unless_abandoned(dial).await else { return };
            ending.failed = match dialled {
                Ok(connection) if connection.protocol() == Protocol::Http2 => {
                    learn(&origin, Protocol::Http2);
                    upstream.warm_sibling(&origin, Instant::now());
                    let begun = begin(&upstream.shard, &origin, connection, dialling).await;
                    begun.err().map(|cause| Error::origin(Phase::Tls, cause))
                }
                Ok(connection) => {
                    if streams.is_empty() {
                        learn(&origin, Protocol::Http1);
                    }
                    if let Some(unasked) = streams.is_http1(connection, dialling) {
                        upstream.keep(&origin, unasked, Instant::now());
                    }
                    None
                }
                Err(error) => Some(error),
            };
            drop(ending);
        });
    }

    /// From now on, where the origin gives up a connection that is in use, the next one is made before it is asked for.
    fn replace_lost_streams(&self, origin: &Rc<Origin>) {
        let (upstream, weak) = (self.this.clone(), Rc::downgrade(origin));
        origin.streams.on_lost(move || {
            let (Some(upstream), Some(origin)) = (upstream.upgrade(), weak.upgrade()) else {
                return;
            };
            let unused = Instant::now().saturating_duration_since(origin.used.get());
            let in_use = unused < upstream.shard.config.keepalive_timeout
                || origin.streams.is_kept(Instant::now());
            if in_use && !origin.forgotten.get() && !origin.streams.has_any() {
                upstream.dial_stream(&origin);
            }
        });
    }
}

fn busy(text: &'static str) -> Error {
    Error::proxy(Phase::Connect, Cause::Busy(text))
}

/// What a request may do with what it got, for which it has waited since `begun`.
fn granted_way(origin: &Rc<Origin>, granted: Granted, begun: Instant) -> Result<Way, Error> {
    let origin = origin.clone();
    match granted {
        Granted::Failed(error) => Err(error),
        Granted::Http1(None) => Ok(Way::Http1(None)),
        Granted::Http1(Some((connection, dialling))) => {
            let acquired = Acquired::New;
            let cost = dialling.cost(acquired, begun.elapsed());
            let lease = Lease::new(connection, acquired, cost, origin);
            Ok(Way::Http1(Some(lease)))
        }
        Granted::Slot(slot) => {
            let is_new = slot.on.began() >= begun;
            let acquired = if is_new { Acquired::New } else { Acquired::Waited };
            let cost = slot.on.dialling.cost(acquired, begun.elapsed());
            Ok(Way::Http2(Stream { place: Place::Own(slot), origin, acquired, cost }))
        }
    }
}

/// What a request gets that waits and has asked another shard.
enum Either {
    Granted(Granted),
    Borrowed(Borrowed),
}

/// What comes first. The other is given up.
async fn either(mut asking: Option<Asking>, mut waiting: Waiting) -> Either {
    poll_fn(|cx| {
        if let Some(asked) = &mut asking
            && let Poll::Ready(answer) = asked.poll(cx)
        {
            match answer {
                Some(borrowed) => return Poll::Ready(Either::Borrowed(borrowed)),
                None => asking = None,
            }
        }
        Pin::new(&mut waiting).poll(cx).map(Either::Granted)
    })
    .await
}

/// The end of a dial, whatever became of it.
struct Ending {
    origin: Rc<Origin>,
    failed: Option<Error>,
}

impl Ending {
    fn of_dial(origin: &Rc<Origin>) -> Self {
        origin.streams.dial_begins();
        // What is said of a dial that panicked.
        let failed = Some(Error::proxy(Phase::Connect, Cause::Panicked));
        Self { origin: origin.clone(), failed }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.origin.streams.dial_ends();
        if let Some(error) = &self.failed {
            self.origin.streams.dial_failed(error);
        }
    }
}
