//! Busy polling (`--busy-poll`): a shard that has run out of work looks at its ring for a while before it sleeps, and so
//! answers what comes meanwhile without a wake-up. It costs the CPU that it runs on.
//!
//! The runtime waits in the kernel whenever no task can run, and has no hook before that. So a task of its own keeps an
//! operation under way that completes at once: the runtime then takes in what else has completed, timers too, and goes
//! on without a wait.

#![forbid(unsafe_code)]

use monoio::net::UnixStream;
use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    io,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// What the shard's tasks do, as the one that spins sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tasks {
    /// None has run since it looked last.
    Quiet,
    /// Some have.
    Ran,
    /// It does not look: it is to be woken by the first that runs.
    Unseen,
}

thread_local! {
    static TASKS: Cell<Tasks> = const { Cell::new(Tasks::Quiet) };
    /// Apart, because access to what has to be dropped is slower.
    static SPINNER: Cell<Option<Waker>> = const { Cell::new(None) };
}

/// A task of this shard runs. Where nothing spins this costs a load and a store.
pub(super) fn task_runs() {
    if TASKS.replace(Tasks::Ran) == Tasks::Unseen
        && let Some(spinner) = SPINNER.take()
    {
        spinner.wake();
    }
}

/// Has this shard look at its ring for `within` after each task that ran.
pub fn begin(within: Duration) {
    // Not by `shard::spawn`, by which it would count as one of the tasks itself. Nothing in it panics.
    monoio::spawn(async move {
        let Err(e) = spin(within).await;
        log::error!("--busy-poll ended on this shard, it sleeps as without it: {e}");
    });
}

async fn spin(within: Duration) -> Result<Infallible, io::Error> {
    // Nothing is sent, so that one can always send.
    let (writable, _other_end) = UnixStream::pair()?;
    loop {
        some_task_runs().await;
        let mut until = Instant::now() + within;
        loop {
            TASKS.set(Tasks::Quiet);
            writable.writable(true).await?;
            let now = Instant::now();
            if TASKS.get() == Tasks::Ran {
                until = now + within;
            } else if now >= until {
                break;
            }
        }
    }
}

/// Waits without spinning.
async fn some_task_runs() {
    TASKS.set(Tasks::Unseen);
    poll_fn(|cx| {
        if TASKS.get() != Tasks::Unseen {
            return Poll::Ready(());
        }
        SPINNER.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}
