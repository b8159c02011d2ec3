//! One process: what it needs is probed and set up, shards are started, signals are answered, the end is orderly.

#![forbid(unsafe_code)]

mod advice;
mod check;
mod descriptors;
mod dumps;
mod inherited;
mod listeners;
mod notify;
mod pages;
mod pid_file;
mod shards;
mod start;
mod state_file;

pub use check::{check, check_host};

use crate::{
    config::{AccessLogTo, Config},
    limits::{DRAIN_LEAST, SAME_SIGNAL_WITHIN},
    observe::{
        diagnostics::Diagnostics,
        writer::{Writer, WriterHandle},
    },
    shard::{mailbox::Mailbox, sys::SignalSet},
};
use dumps::Dumps;
use notify::notify;
use pid_file::PidFile;
use shards::{Order, Report};
use start::start;
use state_file::StateSaver;
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

/// How long the log may take to be written at the end.
const LOG_WITHIN: Duration = Duration::from_secs(2);

/// How long the state file may take to be written at the end.
const STATE_WITHIN: Duration = Duration::from_secs(3);

/// What this process takes. Of the last two the kernel's default would end it at once, with all requests: the tools that
/// send them mean another program (other proxies exchange their binary at SIGUSR2), and chocon goes on, as every program
/// in Go does.
const SIGNALS: [i32; 7] = [
    libc::SIGUSR1,
    libc::SIGHUP,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR2,
    libc::SIGALRM,
];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// SIGUSR1: tell the latencies.
    Dump,
    /// SIGHUP: open log files anew.
    Reopen,
    /// SIGTERM, SIGINT, SIGQUIT: finish what is under way and end.
    End(i32),
    /// Nothing.
    Stray(&'static str),
}

impl From<i32> for Signal {
    fn from(number: i32) -> Self {
        match number {
            libc::SIGUSR1 => Self::Dump,
            libc::SIGHUP => Self::Reopen,
            libc::SIGUSR2 => Self::Stray("SIGUSR2"),
            libc::SIGALRM => Self::Stray("SIGALRM"),
            // Nothing else is taken (`SIGNALS`).
            number => Self::End(number),
        }
    }
}

/// Says that a signal changed nothing.
fn ignore(name: &str) {
    log::warn!(
        "{name} means nothing here and is ignored; SIGTERM ends, SIGHUP opens log files anew, SIGUSR1 tells latencies"
    );
}

/// What wakes the process.
enum Event {
    Signal(Signal),
    Shard(usize, Report),
}

/// Why nothing is served.
enum NotStarted {
    /// It was told to end while it waited for warm connections.
    Ended(i32),
    /// Cause and remedy in words.
    Failed(String),
}

impl From<String> for NotStarted {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// What came of the wait for a report of each shard.
enum Awaited {
    All,
    /// The deadline passed.
    NotAll,
    /// A signal asked for the end.
    Ended(i32),
}

/// Runs the proxy until it is told to end. Returns the exit status: 0 after an orderly end, 1 if it could not start, if
/// requests had to be cut, or if a shard died.
pub fn run(config: Config) -> i32 {
    // Before this process opens any descriptor of its own.
    let inherited = inherited::adopt();
    // Before any thread starts, so that all of them have these blocked and one takes them.
    let signals = match SignalSet::block(&SIGNALS) {
        Ok(signals) => signals,
        Err(e) => {
            eprintln!("chocon-uring: signals cannot be set up: {e}");
            return 1;
        }
    };
    let writer = match Writer::start(&config.access_log) {
        Ok(writer) => writer,
        Err(e) => {
            eprintln!("chocon-uring: {e}");
            return 1;
        }
    };
    // Fails only if a logger is installed already, which is nobody's but ours.
    Diagnostics::install(writer.handle(), config.log_level).ok();
    if !config.ignored_variables.is_empty() {
        log::warn!("variables that are not used: {}", config.ignored_variables.join(", "));
    }
    let started = inherited
        .map_err(NotStarted::from)
        .and_then(|inherited| start(config, &writer, signals, inherited));
    let status = match started {
        Ok(process) => process.serve(),
        Err(NotStarted::Ended(signal)) => {
            log::info!("ended by signal {signal} before it served: nothing was cut");
            0
        }
        Err(NotStarted::Failed(why)) => {
            log::error!("{why}");
            1
        }
    };
    writer.finish(LOG_WITHIN);
    status
}

struct Process {
    config: Arc<Config>,
    writer: WriterHandle,
    /// Held for its removal at the end.
    _pid_file: Option<PidFile>,
    orders: Vec<Mailbox<Order>>,
    dumps: Dumps,
    /// `--state-file`.
    state: Option<StateSaver>,
    events: Receiver<Event>,
}

impl Process {
    /// Lets the shards take clients once their connections are warm, or `within` is over; waits until all do.
    fn open(&self, within: Duration) -> Result<(), NotStarted> {
        let begun = Instant::now();
        let is_warm = |report: &Report| matches!(report, Report::Warm);
        match self.await_all(is_warm, Some(begun + within))? {
            Awaited::NotAll if !within.is_zero() => log::info!(
                "serving begins, though not all connections that are to be ready were made within {within:?} \
                 (--warm-wait)"
            ),
            Awaited::NotAll | Awaited::All => {}
            Awaited::Ended(signal) => return Err(NotStarted::Ended(signal)),
        }
        for orders in &self.orders {
            let told = orders.send(Order::Open);
            told.map_err(|_| "a shard is too busy to be told to open".to_owned())?;
        }
        match self.await_all(|report| matches!(report, Report::Ready), None)? {
            Awaited::All | Awaited::NotAll => Ok(()),
            // Some shards may have clients by now.
            Awaited::Ended(signal) => {
                Err(NotStarted::Failed(format!("ended by signal {signal} as it began to serve")))
            }
        }
    }

    /// Waits for a report of each shard.
    fn await_all(
        &self,
        is: impl Fn(&Report) -> bool,
        deadline: Option<Instant>,
    ) -> Result<Awaited, String> {
        let mut count = 0;
        while count < self.orders.len() {
            let event = match deadline {
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.events.recv_timeout(left)
                }
            };
            match event {
                Ok(Event::Shard(index, Report::Died(why))) => {
                    return Err(format!("shard {index} cannot be started: {why}"));
                }
                Ok(Event::Shard(_, report)) => count += usize::from(is(&report)),
                Ok(Event::Signal(Signal::Dump | Signal::Reopen)) => {}
                Ok(Event::Signal(Signal::Stray(name))) => ignore(name),
                Ok(Event::Signal(Signal::End(signal))) => return Ok(Awaited::Ended(signal)),
                Err(RecvTimeoutError::Timeout) => return Ok(Awaited::NotAll),
                Err(RecvTimeoutError::Disconnected) => return Err("the shards are gone".to_owned()),
            }
        }
        Ok(Awaited::All)
    }

    fn serve(&self) -> i32 {
        loop {
            match self.events.recv() {
                Ok(Event::Signal(Signal::Dump)) => self.dumps.ask(),
                Ok(Event::Signal(Signal::Reopen)) => {
                    self.reopen();
                    self.state.iter().for_each(StateSaver::save);
                }
                Ok(Event::Signal(Signal::Stray(name))) => ignore(name),
                Ok(Event::Signal(Signal::End(signal))) => {
                    let status = self.drain(signal);
                    self.state.iter().for_each(|state| state.finish(STATE_WITHIN));
                    return status;
                }
                Ok(Event::Shard(index, Report::Died(why))) => return died(index, &why),
                Ok(Event::Shard(_, Report::Warm | Report::Ready | Report::Empty)) => {}
                Err(_) => return died(0, "all threads are gone"),
            }
        }
    }

    /// Has the log files opened by their names again, for whoever has moved them away.
    fn reopen(&self) {
        let unchanged = match &self.config.access_log {
            AccessLogTo::Directory(files) if self.writer.reopen() => {
                return log::info!("the access log in {} is opened anew", files.dir.display());
            }
            AccessLogTo::Directory(_) => {
                return log::warn!("the access log is too busy to be opened anew; try again");
            }
            AccessLogTo::Stderr => "goes to stderr, which stays as it is",
            AccessLogTo::Stdout => "goes to stdout, which stays as it is",
            AccessLogTo::Off => "is off",
        };
        log::info!("SIGHUP: nothing to reopen: the access log {unchanged}");
    }

    /// Lets the shards finish, as `first` asked. A second signal, or the end of `--shutdown-timeout`, ends at once.
    fn drain(&self, first: i32) -> i32 {
        let (begun, within) = (Instant::now(), self.config.shutdown_timeout);
        log::info!("ending: requests under way have {within:?} to finish");
        notify("STOPPING=1");
        // Now, and not at the end, which may be an hour away: what follows may read it already.
        self.state.iter().for_each(StateSaver::save_last);
        for orders in &self.orders {
            if orders.send(Order::Drain).is_err() {
                log::warn!("a shard is too busy to be told to end");
            }
        }
        let deadline = Instant::now() + within.max(DRAIN_LEAST);
        let mut left = self.orders.len();
        while left > 0 {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Shard(_, Report::Empty)) => left -= 1,
                Ok(Event::Shard(index, Report::Died(why))) => return died(index, &why),
                Ok(Event::Shard(_, Report::Warm | Report::Ready)) => {}
                Ok(Event::Signal(Signal::Dump)) => self.dumps.ask(),
                Ok(Event::Signal(Signal::Reopen)) => self.reopen(),
                Ok(Event::Signal(Signal::Stray(name))) => ignore(name),
                Ok(Event::Signal(Signal::End(signal)))
                    if signal == first && begun.elapsed() < SAME_SIGNAL_WITHIN => {}
                Ok(Event::Signal(Signal::End(_))) => {
                    log::warn!("ended at once by a second signal; what was under way was cut");
                    return 1;
                }
                Err(RecvTimeoutError::Timeout) => {
                    log::warn!("--shutdown-timeout passed; what was under way was cut");
                    return 1;
                }
                Err(RecvTimeoutError::Disconnected) => return died(0, "all threads are gone"),
            }
        }
        log::info!("ended: nothing was cut");
        0
    }
}

fn died(index: usize, why: &str) -> i32 {
    log::error!(
        "shard {index} died: {why}. The process ends; its supervisor should start it again"
    );
    1
}
