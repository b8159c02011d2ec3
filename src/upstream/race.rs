//! Happy eyeballs (RFC 8305 §5): one address after the other is tried, a further one beside those under way as soon as
//! one failed or let `CONNECT_ATTEMPT_DELAY` pass. The first that answers wins, the others are closed.

#![forbid(unsafe_code)]

use super::addresses::{Address, AddressUse};
use crate::limits::{CONNECT_ATTEMPT_DELAY, CONNECT_ATTEMPTS_MAX};
use monoio::net::TcpStream;
use std::{
    fmt::Write,
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
    vec,
};

/// A connection, and what it took.
pub struct Reached {
    pub stream: TcpStream,
    pub used: AddressUse,
    pub took: Duration,
}

/// Why no address answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreached {
    /// The deadline passed while an address had not answered; else all of them refused.
    pub timed_out: bool,
    /// Each address with what became of it.
    pub text: String,
}

/// An attempt under way.
struct Attempt<P> {
    connect: Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>,
    used: AddressUse,
    since: Instant,
    /// Held for its drop.
    _place: Option<P>,
}

struct Race<P, F> {
    waiting: vec::IntoIter<Rc<Address>>,
    running: Vec<Attempt<P>>,
    failed: Vec<(IpAddr, Failure)>,
    port: u16,
    place: F,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    Refused(String),
    Silent(Duration),
}

/// Connects to the first of `order` that answers before `deadline`. `place` is asked for a descriptor for each attempt
/// beside the first; without one no further attempt is made beside those under way.
///
/// Errors: none answered. Cancel-safe: what is under way is closed.
pub async fn race<P>(
    order: Vec<Rc<Address>>,
    port: u16,
    deadline: Instant,
    place: impl FnMut() -> Option<P>,
) -> Result<Reached, Unreached> {
    let waiting = order.into_iter();
    let mut race = Race { waiting, running: Vec::new(), failed: Vec::new(), port, place };
    race.start_next(Instant::now());
    let mut next_at = Instant::now() + CONNECT_ATTEMPT_DELAY;
    while !race.running.is_empty() {
        let more = !race.waiting.as_slice().is_empty();
        let wake = if more { next_at.min(deadline) } else { deadline };
        let ended = race.next_end(wake).await;
        let now = Instant::now();
        match ended {
            Some((attempt, Ok(stream))) => {
                race.give_up_overtaken(now);
                let took = now.saturating_duration_since(attempt.since);
                return Ok(Reached { stream, used: attempt.used, took });
            }
            Some((attempt, Err(e))) => race.refused(&attempt, &e, now),
            None if now >= deadline => return Err(race.timed_out(now)),
            None => {}
        }
        race.start_next(now);
        next_at = now + CONNECT_ATTEMPT_DELAY;
    }
    Err(Unreached { timed_out: false, text: race.text() })
}

impl<P, F: FnMut() -> Option<P>> Race<P, F> {
    fn start_next(&mut self, now: Instant) {
        let place = if self.running.is_empty() { None } else { (self.place)() };
        if place.is_none() && !self.running.is_empty() {
            return;
        }
        let Some(address) = self.waiting.next() else { return };
        if self.running.len() >= CONNECT_ATTEMPTS_MAX {
            let oldest = self.running.remove(0);
            self.silent(&oldest, now);
        }
        let to = SocketAddr::new(address.ip, self.port);
        self.running.push(Attempt {
            connect: Box::pin(TcpStream::connect_addr(to)),
            used: AddressUse::of(&address),
            since: now,
            _place: place,
        });
    }

    /// The next attempt that ended, or None at `wake`.
    async fn next_end(&mut self, wake: Instant) -> Option<(Attempt<P>, io::Result<TcpStream>)> {
        let mut sleep = pin!(monoio::time::sleep_until(wake.into()));
        poll_fn(|cx| {
            for at in 0..self.running.len() {
                if let Poll::Ready(result) = self.running[at].connect.as_mut().poll(cx) {
                    return Poll::Ready(Some((self.running.remove(at), result)));
                }
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    fn refused(&mut self, attempt: &Attempt<P>, error: &io::Error, now: Instant) {
        let address = attempt.used.address();
        // A process without descriptors or ports says nothing about the address.
        let own = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL];
        if error.raw_os_error().is_none_or(|code| !own.contains(&code)) {
            address.failed(now);
        }
        self.failed.push((address.ip, Failure::Refused(error.kind().to_string())));
    }

    fn silent(&mut self, attempt: &Attempt<P>, now: Instant) {
        let address = attempt.used.address();
        address.failed(now);
        let waited = now.saturating_duration_since(attempt.since);
        self.failed.push((address.ip, Failure::Silent(waited)));
    }

    /// Those that had so long that another was tried, and won, are not the ones to begin with next time.
    fn give_up_overtaken(&mut self, now: Instant) {
        for attempt in std::mem::take(&mut self.running) {
            if now.saturating_duration_since(attempt.since) >= CONNECT_ATTEMPT_DELAY {
                attempt.used.address().failed(now);
            }
        }
    }

    fn timed_out(&mut self, now: Instant) -> Unreached {
        for attempt in std::mem::take(&mut self.running) {
            self.silent(&attempt, now);
        }
        Unreached { timed_out: true, text: self.text() }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (ip, failure) in &self.failed {
            let (separator, at) =
                (if text.is_empty() { "" } else { "; " }, SocketAddr::new(*ip, self.port));
            let written = match failure {
                Failure::Refused(why) => write!(text, "{separator}{at}: {why}"),
                Failure::Silent(waited) => {
                    write!(text, "{separator}{at}: no answer in {waited:.1?}")
                }
            };
            // Writing to a String cannot fail.
            written.ok();
        }
        let untried = self.waiting.as_slice().len();
        if untried > 0 {
            write!(text, "; {untried} more were not tried").ok();
        }
        text
    }
}
