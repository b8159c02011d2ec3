//! One HTTP/2 connection as its requests, its pool and its driver see it: how many requests are on it, whether it takes
//! more, whether the origin is still there, and how much it may send.

#![forbid(unsafe_code)]

use super::{
    growth::Growth,
    io::{Io, Wire},
    streams::Streams,
};
use crate::{
    error::Cause,
    limits::{
        HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_PONG_WITHIN, HTTP2_SILENCE_MAX,
        HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAM_WINDOW_SMALL_BYTES, HTTP2_STREAMS_AT_FIRST,
        HTTP2_STREAMS_MAX,
    },
    shard::sys::Direction,
    upstream::{dial::Dialling, table::Multiplexes},
};
use bytes::Bytes;
use h2::{FlowControl, client::SendRequest};
use slab::Slab;
use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
    task::Waker,
    time::{Duration, Instant},
};

pub struct Multiplexed {
    pub(super) wire: Rc<Wire>,
    /// What its dial took.
    pub(super) dialling: Dialling,
    began: Instant,
    /// None once it takes no more requests. Without this handle and without streams, the library ends the connection.
    requests: RefCell<Option<SendRequest<Bytes>>>,
    in_flight: Cell<usize>,
    /// How many the origin takes at once.
    streams_max: Cell<usize>,
    /// The origin has said how many.
    is_settled: Cell<bool>,
    has_ended: Cell<bool>,
    /// Requests that got a response.
    served: Cell<u64>,
    /// A request was opened.
    is_opened: Cell<bool>,
    /// Other shards see that there is one, as long as it takes requests.
    offered: RefCell<Option<Multiplexes>>,
    /// When the first of the requests that are under way began, or the last one ended.
    since: Cell<Instant>,
    liveness: Cell<Liveness>,
    growth: Cell<Growth>,
    windows: Cell<Windows>,
    /// The flow control of each response whose bytes may wait for their client.
    responses: RefCell<Slab<FlowControl>>,
    driver: RefCell<Option<Waker>>,
    streams: Weak<Streams>,
}

/// What the origin may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windows {
    pub connection: u32,
    pub stream: u32,
}

impl Default for Windows {
    fn default() -> Self {
        Self { connection: HTTP2_CONNECTION_WINDOW_BYTES, stream: HTTP2_STREAM_WINDOW_BYTES }
    }
}

/// Whether a sign of life is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    No,
    /// The driver is to send it.
    Wanted,
    Sent(Instant),
}

#[derive(Clone, Copy, Debug)]
struct Liveness {
    ping: Ping,
    /// How long the origin may be silent before the next one.
    patience: Duration,
}

impl Multiplexed {
    pub(super) fn new(
        wire: Rc<Wire>,
        dialling: Dialling,
        requests: SendRequest<Bytes>,
        streams: &Rc<Streams>,
        now: Instant,
    ) -> Self {
        Self {
            wire,
            dialling,
            began: now,
            requests: RefCell::new(Some(requests)),
            in_flight: Cell::new(0),
            streams_max: Cell::new(HTTP2_STREAMS_AT_FIRST),
            is_settled: Cell::new(false),
            has_ended: Cell::new(false),
            served: Cell::new(0),
            is_opened: Cell::new(false),
            offered: RefCell::default(),
            since: Cell::new(now),
            liveness: Cell::new(Liveness { ping: Ping::No, patience: HTTP2_SILENCE_MAX }),
            growth: Cell::default(),
            windows: Cell::default(),
            responses: RefCell::default(),
            driver: RefCell::default(),
            streams: Rc::downgrade(streams),
        }
    }

    /// Lets other shards see it.
    pub(super) fn offer(&self, offered: Option<Multiplexes>) {
        *self.offered.borrow_mut() = offered;
    }

    /// When it was put to use.
    pub fn began(&self) -> Instant {
        self.began
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// How many requests it takes at once.
    pub fn streams_max(&self) -> usize {
        self.streams_max.get()
    }

    pub fn is_settled(&self) -> bool {
        self.is_settled.get()
    }

    pub fn served(&self) -> u64 {
        self.served.get()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    pub fn takes_requests(&self) -> bool {
        !self.has_ended.get() && self.requests.borrow().is_some()
    }

    /// Stream numbers have 31 bits, half of them the client's (RFC 9113 §5.1.1); they never come again.
    pub(super) fn is_used_up(&self) -> bool {
        self.served.get() >= 1 << 29
    }

    pub fn has_room(&self) -> bool {
        self.in_flight.get() < self.streams_max.get() && self.takes_requests()
    }

    /// When its last request ended; None while one is under way.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.in_flight.get() == 0).then(|| self.since.get())
    }

    /// A handle to open a stream with.
    pub(super) fn requests(&self) -> Option<SendRequest<Bytes>> {
        self.requests.borrow().clone()
    }

    /// Opens a request. Returns whether it is the first.
    pub(super) fn opens_first(&self) -> bool {
        !self.is_opened.replace(true)
    }

    pub(super) fn count_served(&self) {
        self.served.set(self.served.get() + 1);
    }

    pub(super) fn enter(&self, now: Instant) {
        if self.in_flight.get() == 0 {
            self.since.set(now);
            // One that was silent for long may be gone without a word; it is asked while the request is on its way.
            let silent = now.saturating_duration_since(self.wire.heard());
            let ping = if silent >= HTTP2_SILENCE_MAX { Ping::Wanted } else { Ping::No };
            self.liveness.set(Liveness { ping, patience: HTTP2_SILENCE_MAX });
        }
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(super) fn leave(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        if self.in_flight.get() == 0 {
            self.since.set(Instant::now());
        }
        if let Some(streams) = self.streams.upgrade() {
            streams.serve_waiting();
        }
    }

    /// The origin's name no longer leads to where this connection goes: it is to be replaced.
    pub fn is_left(&self) -> bool {
        self.wire.connection.address.address().is_left()
    }

    /// As [`Multiplexed::is_left`], and it had its time.
    pub fn has_left(&self) -> bool {
        self.wire.connection.has_left()
    }

    /// Takes no more requests; those under way finish, then the connection ends.
    pub fn retire(&self) {
        self.requests.borrow_mut().take();
        self.offered.borrow_mut().take();
    }

    /// Ends it now, with all that is under way.
    pub fn cut(&self) {
        self.wire.connection.socket.shutdown(Direction::Both);
    }

    // Liveness and windows: looked at by the sweeper, carried out by the driver.

    /// Asks for a sign of life where one is due, cuts the connection where it did not come, and sets the windows.
    pub fn sweep(&self, now: Instant, is_under_pressure: bool) {
        let mut liveness = self.liveness.get();
        let heard = self.wire.heard();
        match liveness.ping {
            Ping::Sent(at) if heard > at => {
                liveness.ping = Ping::No;
                liveness.patience *= 4;
            }
            Ping::Sent(at) if now.saturating_duration_since(at) >= HTTP2_PONG_WITHIN => {
                log::debug!("an HTTP/2 connection gave no sign of life and is cut");
                self.wire.fail(Cause::TimedOut);
                self.cut();
            }
            Ping::No if self.in_flight.get() > 0 => {
                let silent = now.saturating_duration_since(heard.max(self.since.get()));
                if silent >= liveness.patience {
                    liveness.ping = Ping::Wanted;
                    self.wake_driver();
                }
            }
            Ping::No | Ping::Wanted | Ping::Sent(_) => {}
        }
        self.liveness.set(liveness);
        let mut growth = self.growth.get();
        if growth.look(self.wire.received(), now) {
            self.wake_driver();
        }
        self.growth.set(growth);
        self.set_windows(is_under_pressure);
    }

    pub(super) fn take_ping_wish(&self, now: Instant) -> bool {
        let liveness = self.liveness.get();
        let asks_life = liveness.ping == Ping::Wanted;
        if asks_life {
            self.liveness.set(Liveness { ping: Ping::Sent(now), ..liveness });
        }
        let mut growth = self.growth.get();
        let measures = growth.wants_ping();
        growth.ping_leaves(self.wire.received());
        self.growth.set(growth);
        asks_life || measures
    }

    /// The answer to a PING came.
    pub(super) fn pong_came(&self, now: Instant) {
        let mut growth = self.growth.get();
        growth.pong_came(self.wire.received(), now);
        self.growth.set(growth);
    }

    /// Response bytes that are here and that no client has taken yet.
    ///
    /// The library panics here once it has panicked elsewhere (its lock is poisoned). The sweeper, which asks, must not go
    /// with it: such a connection is cut instead.
    pub fn held_bytes(&self) -> usize {
        let responses = self.responses.borrow();
        let held = || responses.iter().map(|(_, response)| response.used_capacity()).sum();
        catch_unwind(AssertUnwindSafe(held)).unwrap_or_else(|_| {
            self.cut();
            0
        })
    }

    /// What waits for slow clients must not use up the window that all others share: it comes on top.
    fn set_windows(&self, is_under_pressure: bool) {
        const STEP: usize = 1024 * 1024;
        let held = u32::try_from(self.held_bytes().next_multiple_of(STEP)).unwrap_or(u32::MAX);
        let growth = self.growth.get();
        let windows = Windows {
            // RFC 9113 §6.9.1: a window has 31 bits.
            connection: growth.connection().saturating_add(held).min(i32::MAX as u32),
            stream: if is_under_pressure {
                HTTP2_STREAM_WINDOW_SMALL_BYTES
            } else {
                growth.stream()
            },
        };
        if self.windows.replace(windows) != windows {
            self.wake_driver();
        }
    }

    pub(super) fn windows(&self) -> Windows {
        self.windows.get()
    }

    pub(super) fn add_response(&self, flow: FlowControl) -> usize {
        self.responses.borrow_mut().insert(flow)
    }

    pub(super) fn remove_response(&self, key: usize) {
        self.responses.borrow_mut().remove(key);
    }

    // The driver's side.

    pub(super) fn remember_driver(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    fn wake_driver(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    /// Looks at what the origin's frames changed.
    pub(super) fn observe(&self) {
        let (settings, going_away) = {
            let mut meter = self.wire.meter.borrow_mut();
            (meter.take_settings(), meter.is_going_away())
        };
        let mut has_more_room = false;
        if let Some(requests) = &*self.requests.borrow() {
            // The library may put SETTINGS into force a turn after they came.
            let streams_max = requests.current_max_send_streams().min(HTTP2_STREAMS_MAX);
            has_more_room = self.streams_max.replace(streams_max) < streams_max;
            self.is_settled.set(self.is_settled.get() || settings);
        }
        if going_away && self.requests.borrow().is_some() {
            self.retire();
            self.wire.count_goaway();
            if let Some(streams) = self.streams.upgrade() {
                streams.count_goaway();
                streams.lost(self);
            }
        } else if (settings || has_more_room)
            && let Some(streams) = self.streams.upgrade()
        {
            streams.serve_waiting();
        }
    }

    /// The connection is over; what is under way on it has been told.
    pub(super) fn end(&self) {
        self.has_ended.set(true);
        self.retire();
        if let Some(streams) = self.streams.upgrade() {
            streams.lost(self);
        }
    }
}

/// A request's place on a connection. Dropping it makes room for the next one.
pub struct Slot {
    pub(super) on: Rc<Multiplexed>,
}

impl Slot {
    /// Takes a place, if there is one.
    pub(super) fn take(on: &Rc<Multiplexed>) -> Option<Self> {
        on.has_room().then(|| {
            on.enter(Instant::now());
            Self { on: on.clone() }
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.on.leave();
    }
}

/// What an [`Io`] is driven by.
pub(super) type Connection = h2::client::Connection<Io, Bytes>;
