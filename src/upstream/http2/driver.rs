//! The one task that drives a connection: it alone owns the library's connection and starts the socket's operations.
//!
//! One task instead of a pair of pumps: each turn takes in what was received, lets the library answer it, and sends all
//! that piled up as one piece, so that a burst of requests costs few sends and no task wakes another. A turn reads at most
//! one receive's bytes, so that an origin which never pauses still leaves the shard to others.

#![forbid(unsafe_code)]

use super::{
    io::{self, Wire},
    multiplexed::{Connection, Multiplexed, Windows},
};
use crate::limits::HTTP2_FAREWELL_WITHIN;
use h2::{Ping, PingPong};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

/// Drives `connection` to its end.
pub async fn drive(shared: Rc<Multiplexed>, connection: Connection) {
    let ended = Ended(shared);
    let shared = &*ended.0;
    let wire: &Wire = &shared.wire;
    let mut library = Library::new(connection);
    let (mut receive, mut send) = (pin!(io::receive(wire)), pin!(io::send(wire)));
    let mut pause = pin!(io::pause(wire));
    let (mut receiving, mut sending, mut pausing) = (false, false, false);
    let result = poll_fn(|cx| {
        shared.remember_driver(cx.waker());
        loop {
            receiving = receiving && receive.as_mut().poll(cx).is_pending();
            sending = sending && send.as_mut().poll(cx).is_pending();
            pausing = pausing && pause.as_mut().poll(cx).is_pending();
            let turned = match wire.send_opened(|| library.turn(shared, cx)) {
                // A second turn would find nothing to read.
                Some(turned) if turned.is_ready() || !wire.is_unread() => turned,
                Some(_) | None => library.turn(shared, cx),
            };
            if let Poll::Ready(result) = turned {
                return Poll::Ready(result);
            }
            shared.observe();
            let mut again = false;
            if !receiving && wire.wants_receive() {
                receive.set(io::receive(wire));
                receiving = receive.as_mut().poll(cx).is_pending();
                again |= !receiving;
            }
            if !pausing && wire.is_holding() {
                pause.set(io::pause(wire));
                pausing = pause.as_mut().poll(cx).is_pending();
                again |= !pausing;
            }
            if !sending && wire.wants_send() {
                send.set(io::send(wire));
                sending = send.as_mut().poll(cx).is_pending();
                again |= !sending;
            }
            if !again {
                return Poll::Pending;
            }
        }
    })
    .await;
    if let Err(error) = result {
        log::debug!("an HTTP/2 connection ended: {error}");
    }
    // An origin that has nothing under way ends with its GOAWAY.
    shared.observe();
    shared.end();
    // GOAWAY and resets are still to leave.
    let farewell = async {
        if sending {
            send.as_mut().await;
        }
        while wire.wants_send() {
            io::send(wire).await;
        }
    };
    // The origin is left in any case.
    monoio::time::timeout(HTTP2_FAREWELL_WITHIN, farewell).await.ok();
    wire.close();
}

/// Tells the pool, also after a panic of the library.
struct Ended(Rc<Multiplexed>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The library's connection, and what was asked of it last.
struct Library {
    connection: Connection,
    pings: Option<PingPong>,
    is_pinging: bool,
    windows: Windows,
}

impl Library {
    fn new(mut connection: Connection) -> Self {
        let pings = connection.ping_pong();
        Self { connection, pings, is_pinging: false, windows: Windows::default() }
    }

    fn turn(&mut self, shared: &Multiplexed, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.set_windows(shared.windows());
        self.ping(shared, cx);
        #[cfg(debug_assertions)]
        self.panic_if_told(shared.wire.received());
        Pin::new(&mut self.connection).poll(cx)
    }

    /// In builds for tests: panics once so many bytes have come, to show what such a panic ends.
    #[cfg(debug_assertions)]
    fn panic_if_told(&self, received: u64) {
        let told = std::env::var("CHOCON_URING_HTTP2_PANIC_AT");
        let at = told.ok().and_then(|bytes| bytes.parse().ok()).unwrap_or(u64::MAX);
        assert!(received < at, "told to panic");
    }

    fn set_windows(&mut self, wanted: Windows) {
        if self.windows.connection != wanted.connection {
            self.connection.set_target_window_size(wanted.connection);
            self.windows.connection = wanted.connection;
        }
        // Refused while the origin has not acknowledged the last change; then the next turn tries again.
        if self.windows.stream != wanted.stream
            && self.connection.set_initial_window_size(wanted.stream).is_ok()
        {
            self.windows.stream = wanted.stream;
        }
    }

    /// Asks for signs of life, of which any byte is one ([`Wire::heard`]), and measures the windows.
    fn ping(&mut self, shared: &Multiplexed, cx: &mut Context<'_>) {
        let Some(pings) = &mut self.pings else { return };
        if self.is_pinging {
            self.is_pinging = pings.poll_pong(cx).is_pending();
            if !self.is_pinging {
                shared.pong_came(Instant::now());
            }
        }
        if !self.is_pinging && shared.take_ping_wish(Instant::now()) {
            self.is_pinging = pings.send_ping(Ping::opaque()).is_ok();
            if self.is_pinging {
                self.is_pinging = pings.poll_pong(cx).is_pending();
            }
        }
    }
}
