//! The way out for all text of a running process: one thread for each output, fed by a bounded
//! queue. Whoever sends never waits; what does not fit is dropped, counted and said on stderr.
//!
//! stderr always has its thread. The access log has one of its own where it goes elsewhere, so that
//! a stdout which nobody reads, or a disk that is slow, never holds back the diagnostics. Start the
//! threads before shards are pinned: a thread inherits the CPUs of the one that starts it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::AccessLogTo;
use crate::limits::LOG_QUEUE_BYTES_MAX;
use crate::observe::log_files::{LogFiles, Moment};
use crate::observe::pump::{Output, Pump, warning};

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// File descriptor 2.
    Stderr,
    /// The access log's own output: stdout or files. Text for it is dropped and counted unless it
    /// was opened at the start.
    AccessLog,
}

/// What a text is part of; losses are counted and said for each apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// One line a request.
    AccessLog,
    /// One line a request that failed.
    ProxyErrors,
    /// What the process says of itself.
    Diagnostics,
}

/// The threads that write. Whoever holds it ends them with [`Writer::finish`]; dropped without,
/// they go on until the process ends.
#[derive(Debug)]
pub struct Writer {
    handle: WriterHandle,
    stderr_thread: JoinHandle<()>,
    access_thread: Option<JoinHandle<()>>,
}

/// What senders hold; cheap to clone, shared by all shards.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    stderr: Lane,
    access: Option<Lane>,
    /// Lines that had nowhere to go, because the access log has no output of its own.
    homeless: Arc<AtomicU64>,
}

/// One output's queue, seen from its senders.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// The output's name, for people.
    name: Arc<str>,
    queue: SyncSender<Message>,
    tally: Arc<Tally>,
}

/// One output's counts. Senders touch them once a batch, never once a request.
#[derive(Debug, Default)]
pub(super) struct Tally {
    waiting_bytes: AtomicUsize,
    waiting_lines: AtomicU64,
    /// By stream: lines refused since that was last said, because the queue was full.
    pub(super) dropped: [AtomicU64; STREAMS.len()],
    /// By stream: lines lost since that was last said, because a write failed.
    pub(super) failed: [AtomicU64; STREAMS.len()],
    /// Lines refused or lost since the start.
    lost: AtomicU64,
}

pub(super) enum Message {
    Text {
        stream: Stream,
        bytes: Vec<u8>,
        lines: u64,
    },
    /// Close the file and open it by its name.
    Reopen,
    Stop,
}

pub(super) const STREAMS: [Stream; 3] =
    [Stream::AccessLog, Stream::ProxyErrors, Stream::Diagnostics];

impl Writer {
    /// Starts the thread for stderr and, where `to` says stdout or files, the one for them. Both
    /// descriptors are duplicated, and everything is written without further buffering.
    ///
    /// Errors, in words: no descriptor or no thread to be had; the log's directory cannot be written
    /// to.
    pub fn start(to: &AccessLogTo) -> Result<Writer, String> {
        let not_started = |error| format!("the log thread cannot be started: {error}");
        let duplicate = |fd: io::Result<_>| fd.map(File::from).map_err(not_started);
        let stderr = duplicate(io::stderr().as_fd().try_clone_to_owned())?;
        let access = match to {
            AccessLogTo::Stdout => {
                let stdout = duplicate(io::stdout().as_fd().try_clone_to_owned())?;
                Some(Output::stream("stdout", stdout))
            }
            AccessLogTo::Directory(directory) => {
                Some(Output::Files(LogFiles::open(directory.clone(), Moment::now())?))
            }
            AccessLogTo::Stderr | AccessLogTo::Off => None,
        };
        Writer::start_on(stderr, access).map_err(not_started)
    }

    /// As [`Writer::start`], on any two outputs.
    pub(super) fn start_on(
        stderr: impl Write + Send + 'static,
        access: Option<Output>,
    ) -> io::Result<Writer> {
        let stderr = Output::stream("stderr", stderr);
        let (stderr_lane, stderr_thread) = Lane::start("log-stderr", stderr, None)?;
        let (access_lane, access_thread) = match access {
            Some(output) => {
                let (lane, thread) = Lane::start("log-access", output, Some(stderr_lane.clone()))?;
                (Some(lane), Some(thread))
            }
            None => (None, None),
        };
        let handle =
            WriterHandle { stderr: stderr_lane, access: access_lane, homeless: Arc::default() };
        Ok(Writer { handle, stderr_thread, access_thread })
    }

    /// What senders need.
    pub fn handle(&self) -> WriterHandle {
        self.handle.clone()
    }

    /// Writes all that was sent before, says on stderr what was lost, and ends the threads; what
    /// is sent after it is dropped. Blocks the caller, for `within` at most.
    ///
    /// Returns the lines that the outputs did not take in that time (0: everything is out). Their
    /// threads stay blocked in the kernel until the process ends.
    pub fn finish(self, within: Duration) -> u64 {
        let started = Instant::now();
        let mut unwritten = 0;
        // The access log first, with three quarters of the time: its losses are still to be said on
        // stderr.
        if let (Some(lane), Some(thread)) = (&self.handle.access, self.access_thread) {
            unwritten += lane.finish(thread, started + within / 4 * 3);
            if unwritten > 0 {
                let (name, lost) = (&lane.name, lane.tally.lost.load(Relaxed));
                let text = format!(
                    "{name} did not take its last {unwritten} lines in time; \
                     {lost} were lost since the start"
                );
                // A refusal is counted by the lane, and there is no one left to say it to.
                let _taken = self.handle.stderr.send(Stream::Diagnostics, warning(&text), 1);
            }
        }
        unwritten + self.handle.stderr.finish(self.stderr_thread, started + within)
    }
}

impl WriterHandle {
    /// Hands over whole lines (`lines` of them, each ended by `\n`) and returns at once. They are
    /// written in one piece, in the order sent; or, where too much is waiting already
    /// (`LOG_QUEUE_MESSAGES_MAX`, `LOG_QUEUE_BYTES_MAX`), dropped and counted.
    pub fn send(&self, to: Destination, stream: Stream, bytes: Vec<u8>, lines: u64) {
        // Each lane counts what it refuses; there is nothing for the sender to do about it.
        match (to, &self.access) {
            (Destination::Stderr, _) => drop(self.stderr.send(stream, bytes, lines)),
            (Destination::AccessLog, Some(lane)) => drop(lane.send(stream, bytes, lines)),
            (Destination::AccessLog, None) => drop(self.homeless.fetch_add(lines, Relaxed)),
        }
    }

    /// Has log files opened anew by their names, after all that was sent before is written. Returns
    /// at once. Streams have no name to be opened by, and stay as they are.
    ///
    /// Returns whether the order was taken: not while the queue is full.
    pub fn reopen(&self) -> bool {
        let Some(lane) = &self.access else { return true };
        lane.queue.try_send(Message::Reopen).is_ok()
    }

    /// Lines sent to `to` since the start that were dropped or that its output refused.
    #[cfg(test)]
    pub fn lost_lines(&self, to: Destination) -> u64 {
        match (to, &self.access) {
            (Destination::Stderr, _) => self.stderr.tally.lost.load(Relaxed),
            (Destination::AccessLog, Some(lane)) => lane.tally.lost.load(Relaxed),
            (Destination::AccessLog, None) => self.homeless.load(Relaxed),
        }
    }
}

impl Lane {
    fn start(
        thread_name: &str,
        output: Output,
        stderr: Option<Lane>,
    ) -> io::Result<(Lane, JoinHandle<()>)> {
        let name: Arc<str> = output.name().into();
        let tally = Arc::new(Tally::default());
        let (pump, queue) = Pump::new(output, Arc::clone(&tally), stderr);
        let thread = thread::Builder::new().name(thread_name.to_owned()).spawn(|| pump.run())?;
        Ok((Lane { name, queue, tally }, thread))
    }

    /// Whether the text was taken; if not, it is counted as dropped.
    pub(super) fn send(&self, stream: Stream, bytes: Vec<u8>, lines: u64) -> bool {
        let len = bytes.len();
        let waiting = self.tally.waiting_bytes.fetch_add(len, Relaxed);
        self.tally.waiting_lines.fetch_add(lines, Relaxed);
        // One text longer than the bound passes an empty queue; else it could never pass.
        let fits = waiting == 0 || waiting.saturating_add(len) <= LOG_QUEUE_BYTES_MAX;
        let message = Message::Text { stream, bytes, lines };
        let taken = fits && self.queue.try_send(message).is_ok();
        if !taken {
            self.tally.no_longer_waiting(len, lines);
            self.tally.lost.fetch_add(lines, Relaxed);
            self.tally.dropped[stream as usize].fetch_add(lines, Relaxed);
        }
        taken
    }

    /// Lets the pump write what is queued and joins it; returns the lines still waiting at the
    /// deadline.
    fn finish(&self, thread: JoinHandle<()>, deadline: Instant) -> u64 {
        let mut asked = false;
        loop {
            if !asked {
                asked = match self.queue.try_send(Message::Stop) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => true,
                    Err(TrySendError::Full(_)) => false,
                };
            }
            if thread.is_finished() {
                // A pump that panicked has left its lines waiting; they are counted below.
                drop(thread.join());
                break;
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.tally.waiting_lines.load(Relaxed)
    }
}

impl Tally {
    pub(super) fn no_longer_waiting(&self, bytes: usize, lines: u64) {
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
        self.waiting_lines.fetch_sub(lines, Relaxed);
    }

    pub(super) fn count_failed(&self, stream: Stream, lines: u64) {
        self.failed[stream as usize].fetch_add(lines, Relaxed);
        self.lost.fetch_add(lines, Relaxed);
    }

    pub(super) fn has_unsaid_losses(&self) -> bool {
        self.dropped.iter().chain(&self.failed).any(|count| count.load(Relaxed) > 0)
    }
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Stream::AccessLog => "access log",
            Stream::ProxyErrors => "proxy errors",
            Stream::Diagnostics => "diagnostics",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
