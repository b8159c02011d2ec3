//! What one core owns, and nobody else touches: runtime, deadlines, buffers, log batch, identifiers.
//!
//! A shard never blocks and never takes a lock. What it shares with other threads is immutable (the configuration),
//! a queue that it does not wait for (mailboxes, the log writer, the API's thread), written by it alone (its counters),
//! or a word that is changed when a connection begins or ends (`upstream::table`, `downstream::balance`), never by a
//! request on connections that are there.

pub mod blocks;
pub mod mailbox;
pub mod pipe;
pub mod runtime;
pub mod spin;
pub mod sys;
pub mod watch;

use crate::{
    config::Config,
    limits::{DRAIN_IDLE, SWEEP_EVERY},
    observe::{
        access_log::LogSink,
        api::Api,
        counters::Recorder,
        id::{Id, IdSource},
    },
};
use blocks::Blocks;
use pin_project_lite::pin_project;
use std::{
    cell::{Cell, RefCell},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use watch::Watches;

pub struct Shard {
    pub index: usize,
    pub config: Arc<Config>,
    pub blocks: Blocks,
    pub watches: Rc<Watches>,
    pub log: RefCell<LogSink>,
    pub recorder: Recorder,
    /// Makes the proxy's own pages; None: there are none.
    pub api: Option<Api>,
    ids: RefCell<IdSource>,
    /// The process ends: no new requests on old connections.
    draining: Cell<bool>,
    /// Monotonic clock and wall clock, since 1970, at the last sweep: one reading serves many requests.
    clock: Cell<(Instant, Duration)>,
}

impl Shard {
    pub fn new(
        index: usize,
        config: Arc<Config>,
        log: LogSink,
        recorder: Recorder,
        api: Option<Api>,
    ) -> Self {
        Self {
            index,
            config,
            blocks: Blocks::default(),
            watches: Rc::default(),
            log: RefCell::new(log),
            recorder,
            api,
            ids: RefCell::new(IdSource::new(index)),
            draining: Cell::new(false),
            clock: Cell::new((Instant::now(), since_1970())),
        }
    }

    /// The wall clock at `now`, in microseconds since 1970. Follows clock steps within a sweep.
    pub fn unix_us(&self, now: Instant) -> i64 {
        i64::try_from(self.unix(now).as_micros()).unwrap_or(0)
    }

    fn unix(&self, now: Instant) -> Duration {
        let (swept, wall) = self.clock.get();
        wall.saturating_add(now.saturating_duration_since(swept))
    }

    /// A fresh X-Chocon-Id.
    pub fn next_id(&self, now: Instant) -> Id {
        // xid counts seconds in 32 bits; it wraps in 2106.
        self.ids.borrow_mut().next(self.unix(now).as_secs() as u32)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Ends what is open: each connection after its next answer, or once it has been idle for a while.
    pub fn drain(&self) {
        self.draining.set(true);
        self.watches.shorten_idle(
            Instant::now(),
            self.config.client_idle_timeout,
            self.idle_within(),
        );
    }

    /// How long a client's connection may be idle.
    pub fn idle_within(&self) -> Duration {
        let config = &self.config;
        match self.is_draining() {
            // Less than the grace, which a client without a request must not use up.
            true => config.client_idle_timeout.min(DRAIN_IDLE).min(config.shutdown_timeout / 2),
            false => config.client_idle_timeout,
        }
    }

    /// Looks at deadlines, hands the log on, gives memory back; `also` is done each time too. Runs until the shard
    /// ends.
    pub async fn sweep(self: Rc<Self>, mut also: impl FnMut(Instant)) {
        let mut round = 0u32;
        loop {
            monoio::time::sleep(SWEEP_EVERY).await;
            let now = Instant::now();
            self.clock.set((now, since_1970()));
            self.watches.sweep(now);
            self.log.borrow_mut().flush();
            self.recorder.set_clients(self.watches.count());
            also(now);
            round = round.wrapping_add(1);
            // Each second: a burst's blocks are gone within ten.
            if round.is_multiple_of(10) {
                self.blocks.trim();
                sys::return_free_memory();
            }
        }
    }
}

/// A clock that is set to before 1970 counts as at 1970.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Runs a task of its own. A panic ends the task and is logged; the shard lives on.
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + 'static) {
    monoio::spawn(Caught { future, name });
}

pin_project! {
    /// A task whose panic goes no further. A struct, because an async block around `future` would hold it twice: two
    /// kilobytes for each idle client.
    struct Caught<F> {
        #[pin]
        future: F,
        name: &'static str,
    }
}

impl<F: Future<Output = ()>> Future for Caught<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        spin::task_runs();
        let this = self.project();
        // The task's state is dropped after a panic, so nobody sees it half-changed; what it shares with the shard is
        // changed only between its waits, and never left half-made (see the borrows).
        let polled = catch_unwind(AssertUnwindSafe(|| this.future.poll(cx)));
        polled.unwrap_or_else(|_| {
            log::error!("{}: ended in a panic; the shard goes on. Please report this", this.name);
            Poll::Ready(())
        })
    }
}
