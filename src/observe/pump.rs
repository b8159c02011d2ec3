//! An output's thread: takes texts from its queue, writes them, and says on stderr what could not be
//! written. Only this thread ever waits for its output.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::limits::{
    LOG_LOSS_REPORT_EVERY, LOG_LOSS_REPORT_EVERY_MAX, LOG_NOTES_MAX, LOG_QUEUE_MESSAGES_MAX,
    LOG_WRITE_RETRY_EVERY,
};
use crate::observe::log_files::{Changed, LogFiles, Moment};
use crate::observe::utc;
use crate::observe::writer::{Lane, Message, STREAMS, Stream, Tally};

/// What text is written to.
pub(super) enum Output {
    Stream { name: &'static str, stream: Box<dyn Write + Send> },
    Files(LogFiles),
}

pub(super) struct Pump {
    output: Output,
    queue: Receiver<Message>,
    tally: Arc<Tally>,
    losses: Losses,
    /// The last write failed amid a line: the next text starts a new one.
    torn: bool,
}

/// How a pump says what its output lost.
struct Losses {
    /// The output's name, for people.
    name: String,
    /// The lane of stderr; None for the pump that is stderr's own and writes there directly.
    stderr: Option<Lane>,
    last_error: Option<io::Error>,
    /// The last text was not written whole.
    failing: bool,
    said_at: Option<Instant>,
    /// Least time between two reports; longer while the output keeps failing.
    every: Duration,
    /// What else is to be said.
    notes: Vec<String>,
}

/// A text that was not written whole.
struct NotWritten {
    /// Whole lines that were, before the failure.
    whole_lines: u64,
    error: io::Error,
}

impl Output {
    pub(super) fn stream(name: &'static str, stream: impl Write + Send + 'static) -> Output {
        Output::Stream { name, stream: Box::new(stream) }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Output::Stream { name, .. } => (*name).to_owned(),
            Output::Files(files) => files.name(),
        }
    }

    /// What the next text is written to.
    fn writer(&mut self) -> io::Result<(&mut dyn Write, Changed)> {
        match self {
            Output::Stream { stream, .. } => Ok((&mut **stream, Changed::No)),
            Output::Files(files) => {
                let (file, changed) = files.current(Moment::now())?;
                Ok((file, changed))
            }
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({})", self.name())
    }
}

impl Pump {
    /// A pump and the queue that feeds it. `stderr` is where it says its losses; None: in `output`
    /// itself, which is stderr.
    pub(super) fn new(
        output: Output,
        tally: Arc<Tally>,
        stderr: Option<Lane>,
    ) -> (Pump, SyncSender<Message>) {
        let (sender, queue) = sync_channel(LOG_QUEUE_MESSAGES_MAX);
        let losses = Losses {
            name: output.name(),
            stderr,
            last_error: None,
            failing: false,
            said_at: None,
            every: LOG_LOSS_REPORT_EVERY,
            notes: Vec::new(),
        };
        (Pump { output, queue, tally, losses, torn: false }, sender)
    }

    /// Writes until it is told to stop, or all senders are gone.
    pub(super) fn run(mut self) {
        while let Some(message) = self.next_message() {
            match message {
                Message::Text { stream, bytes, lines } => self.write(stream, &bytes, lines),
                Message::Reopen => self.reopen(),
                Message::Stop => break,
            }
            self.report_if_due();
        }
        self.report();
    }

    /// The next message; None once all senders are gone. While something is unsaid it looks up in
    /// time to say it, and otherwise sleeps until something is sent.
    fn next_message(&mut self) -> Option<Message> {
        loop {
            match self.queue.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if !self.has_something_to_say() {
                return self.queue.recv().ok();
            }
            match self.queue.recv_timeout(LOG_LOSS_REPORT_EVERY) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.report_if_due(),
            }
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8], lines: u64) {
        match self.try_write(bytes) {
            Ok(()) if self.losses.failing => {
                self.losses.failing = false;
                self.losses.every = LOG_LOSS_REPORT_EVERY;
                self.losses.note(format!("{} is written to again", self.losses.name));
            }
            Ok(()) => {}
            Err(failed) => {
                // A reader that went away (EPIPE) or a full disk (ENOSPC) may come right again; so
                // every text is tried, and each failure counts.
                self.tally.count_failed(stream, lines.saturating_sub(failed.whole_lines));
                self.losses.failing = true;
                self.losses.last_error = Some(failed.error);
            }
        }
        if let Output::Files(files) = &mut self.output {
            for note in files.take_notes() {
                self.losses.note(format!("access log: {note}"));
            }
        }
        self.tally.no_longer_waiting(bytes.len(), lines);
    }

    /// Opens at once and not with the next text: whoever moved the file may look for the new one.
    fn reopen(&mut self) {
        if let Output::Files(files) = &mut self.output {
            files.close();
            if let Err(error) = files.current(Moment::now()) {
                let name = files.name();
                self.losses.note(format!("access log: {name} could not be opened anew: {error}"));
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> Result<(), NotWritten> {
        let not_written = |whole_lines, error| NotWritten { whole_lines, error };
        let (output, changed) = self.output.writer().map_err(|error| not_written(0, error))?;
        if self.torn && changed == Changed::No {
            write_whole(output, b"\n").map_err(|(_, error)| not_written(0, error))?;
        }
        self.torn = false;
        write_whole(output, bytes).map_err(|(written, error)| {
            let written = bytes.get(..written).unwrap_or_default();
            self.torn = written.last().is_some_and(|&last| last != b'\n');
            not_written(memchr::memchr_iter(b'\n', written).count() as u64, error)
        })
    }

    fn has_something_to_say(&self) -> bool {
        self.tally.has_unsaid_losses() || !self.losses.notes.is_empty()
    }

    fn report_if_due(&mut self) {
        if self.losses.said_at.is_none_or(|at| at.elapsed() >= self.losses.every) {
            self.report();
        }
    }

    /// Says what was lost since it was last said, and what else there is. What cannot be said now
    /// stays counted.
    fn report(&mut self) {
        if !self.has_something_to_say() {
            return;
        }
        self.losses.said_at = Some(Instant::now());
        if self.losses.failing {
            // A disk may stay full for days: less and less often.
            self.losses.every = (self.losses.every * 2).min(LOG_LOSS_REPORT_EVERY_MAX);
        }
        let name = self.losses.name.clone();
        let cause = match &self.losses.last_error {
            Some(error) => error.to_string(),
            None => "unknown error".to_owned(),
        };
        for stream in STREAMS {
            let what = stream.name();
            let dropped = self.tally.dropped[stream as usize].swap(0, Relaxed);
            let because = format!("dropped because the output could not keep up ({name})");
            if dropped > 0 && !self.say(&format!("{what}: {dropped} lines {because}")) {
                self.tally.dropped[stream as usize].fetch_add(dropped, Relaxed);
            }
            let failed = self.tally.failed[stream as usize].swap(0, Relaxed);
            let because = format!("lost because {name} could not be written: {cause}");
            if failed > 0 && !self.say(&format!("{what}: {failed} lines {because}")) {
                self.tally.failed[stream as usize].fetch_add(failed, Relaxed);
            }
        }
        for note in std::mem::take(&mut self.losses.notes) {
            // If it cannot be said now it is out of date by the time it can.
            let _said = self.say(&note);
        }
    }

    /// Whether the line is written, or on its way.
    fn say(&mut self, text: &str) -> bool {
        let line = warning(text);
        match (&self.losses.stderr, &mut self.output) {
            (Some(stderr), _) => stderr.send(Stream::Diagnostics, line, 1),
            (None, Output::Stream { stream, .. }) => write_whole(&mut **stream, &line).is_ok(),
            (None, Output::Files(_)) => unreachable!("files are never stderr"),
        }
    }
}

impl Losses {
    fn note(&mut self, note: String) {
        if self.notes.len() < LOG_NOTES_MAX {
            self.notes.push(note);
        }
    }
}

/// One diagnostic line of level WARN, as `diagnostics` makes them.
pub(super) fn warning(text: &str) -> Vec<u8> {
    let mut line = String::new();
    utc::append_stamp(&mut line, utc::unix_us(SystemTime::now()));
    line.push_str(" WARN  ");
    line.push_str(text);
    line.push('\n');
    line.into_bytes()
}

/// As `write_all`, but waits where the output is non-blocking and full: an inherited stderr may be
/// so, because the flag belongs to the open file and not to this process.
///
/// Errors: with the bytes that were written before.
fn write_whole(output: &mut dyn Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match output.write(rest) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => thread::sleep(LOG_WRITE_RETRY_EVERY),
                _ => return Err((written, error)),
            },
        }
    }
    Ok(())
}
