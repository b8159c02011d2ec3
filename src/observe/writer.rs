//! The way out for all text of a running process: one thread for each output, fed by a bounded
//! queue. Whoever sends never waits; what does not fit is dropped, counted and said on stderr.
//!
//! stderr always has its thread. stdout has one only when the access log goes there, so that a
//! stdout which nobody reads never holds back the diagnostics. Start the threads before shards are
//! pinned: a thread inherits the CPUs of the one that starts it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::limits::{
    LOG_LOSS_REPORT_EVERY, LOG_QUEUE_BYTES_MAX, LOG_QUEUE_MESSAGES_MAX, LOG_WRITE_RETRY_EVERY,
};
use crate::observe::utc;

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// File descriptor 2.
    Stderr,
    /// File descriptor 1. Text for it is dropped and counted unless it was opened at the start.
    Stdout,
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
    stdout_thread: Option<JoinHandle<()>>,
}

/// What senders hold; cheap to clone, shared by all shards.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    stderr: Lane,
    stdout: Option<Lane>,
    /// Lines that had nowhere to go, because stdout was not opened.
    homeless: Arc<AtomicU64>,
}

/// One output's queue, seen from its senders.
#[derive(Clone, Debug)]
struct Lane {
    queue: SyncSender<Message>,
    tally: Arc<Tally>,
}

/// One output's counts. Senders touch them once a batch, never once a request.
#[derive(Debug, Default)]
struct Tally {
    waiting_bytes: AtomicUsize,
    waiting_lines: AtomicU64,
    /// By stream: lines refused since that was last said, because the queue was full.
    dropped: [AtomicU64; STREAMS.len()],
    /// By stream: lines lost since that was last said, because a write failed.
    failed: [AtomicU64; STREAMS.len()],
    /// Lines refused or lost since the start.
    lost: AtomicU64,
}

enum Message {
    Text { stream: Stream, bytes: Vec<u8>, lines: u64 },
    Stop,
}

/// An output's thread.
struct Pump {
    output: Box<dyn Write + Send>,
    queue: Receiver<Message>,
    tally: Arc<Tally>,
    losses: Losses,
}

/// How a pump says what its output lost.
struct Losses {
    /// The output's name, for people.
    name: &'static str,
    /// The lane of stderr; None for the pump that is stderr's own and writes there directly.
    stderr: Option<Lane>,
    last_error: Option<io::Error>,
    said_at: Option<Instant>,
}

const STREAMS: [Stream; 3] = [Stream::AccessLog, Stream::ProxyErrors, Stream::Diagnostics];

impl Writer {
    /// Starts the thread for stderr and, if `stdout` says so, the one for stdout. Both descriptors
    /// are duplicated, and written without further buffering.
    ///
    /// Errors: no descriptor or no thread to be had.
    pub fn start(stdout: bool) -> io::Result<Writer> {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let stdout = if stdout {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            Some(Box::new(file) as Box<dyn Write + Send>)
        } else {
            None
        };
        Writer::start_on(Box::new(stderr), stdout)
    }

    /// As [`Writer::start`], on any two outputs.
    pub fn start_on(
        stderr: Box<dyn Write + Send>,
        stdout: Option<Box<dyn Write + Send>>,
    ) -> io::Result<Writer> {
        let (stderr_lane, stderr_thread) = Pump::start("stderr", stderr, None)?;
        let (stdout_lane, stdout_thread) = match stdout {
            Some(output) => {
                let (lane, thread) = Pump::start("stdout", output, Some(stderr_lane.clone()))?;
                (Some(lane), Some(thread))
            }
            None => (None, None),
        };
        let handle =
            WriterHandle { stderr: stderr_lane, stdout: stdout_lane, homeless: Arc::default() };
        Ok(Writer { handle, stderr_thread, stdout_thread })
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
        // stdout first, with three quarters of the time: its losses are still to be said on stderr.
        if let (Some(lane), Some(thread)) = (&self.handle.stdout, self.stdout_thread) {
            unwritten += lane.finish(thread, started + within / 4 * 3);
            if unwritten > 0 {
                let lost = lane.tally.lost.load(Relaxed);
                let text = format!(
                    "stdout did not take its last {unwritten} lines in time; \
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
        match (to, &self.stdout) {
            (Destination::Stderr, _) => drop(self.stderr.send(stream, bytes, lines)),
            (Destination::Stdout, Some(lane)) => drop(lane.send(stream, bytes, lines)),
            (Destination::Stdout, None) => drop(self.homeless.fetch_add(lines, Relaxed)),
        }
    }

    /// Lines sent to `to` since the start that were dropped or that its output refused.
    pub fn lost_lines(&self, to: Destination) -> u64 {
        match (to, &self.stdout) {
            (Destination::Stderr, _) => self.stderr.tally.lost.load(Relaxed),
            (Destination::Stdout, Some(lane)) => lane.tally.lost.load(Relaxed),
            (Destination::Stdout, None) => self.homeless.load(Relaxed),
        }
    }
}

impl Lane {
    /// Whether the text was taken; if not, it is counted as dropped.
    fn send(&self, stream: Stream, bytes: Vec<u8>, lines: u64) -> bool {
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
    fn no_longer_waiting(&self, bytes: usize, lines: u64) {
        self.waiting_bytes.fetch_sub(bytes, Relaxed);
        self.waiting_lines.fetch_sub(lines, Relaxed);
    }

    fn has_unsaid_losses(&self) -> bool {
        self.dropped.iter().chain(&self.failed).any(|count| count.load(Relaxed) > 0)
    }
}

impl Pump {
    fn start(
        name: &'static str,
        output: Box<dyn Write + Send>,
        stderr: Option<Lane>,
    ) -> io::Result<(Lane, JoinHandle<()>)> {
        let (sender, queue) = sync_channel(LOG_QUEUE_MESSAGES_MAX);
        let tally = Arc::new(Tally::default());
        let losses = Losses { name, stderr, last_error: None, said_at: None };
        let pump = Pump { output, queue, tally: Arc::clone(&tally), losses };
        let thread = thread::Builder::new().name(format!("log-{name}")).spawn(|| pump.run())?;
        Ok((Lane { queue: sender, tally }, thread))
    }

    fn run(mut self) {
        while let Some(message) = self.next_message() {
            match message {
                Message::Text { stream, bytes, lines } => self.write(stream, &bytes, lines),
                Message::Stop => break,
            }
            if self.losses.said_at.is_none_or(|at| at.elapsed() >= LOG_LOSS_REPORT_EVERY) {
                self.say_losses();
            }
        }
        self.say_losses();
    }

    /// The next message; None once all senders are gone. While losses are unsaid it looks up in
    /// time to say them, and otherwise sleeps until something is sent.
    fn next_message(&mut self) -> Option<Message> {
        loop {
            match self.queue.try_recv() {
                Ok(message) => return Some(message),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if !self.tally.has_unsaid_losses() {
                return self.queue.recv().ok();
            }
            match self.queue.recv_timeout(LOG_LOSS_REPORT_EVERY) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.say_losses(),
            }
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8], lines: u64) {
        if let Err(error) = write_whole(&mut *self.output, bytes) {
            // A reader that went away (EPIPE) or a full disk (ENOSPC) may come right again; so
            // every text is tried, and each failure counts.
            self.tally.failed[stream as usize].fetch_add(lines, Relaxed);
            self.tally.lost.fetch_add(lines, Relaxed);
            self.losses.last_error = Some(error);
        }
        self.tally.no_longer_waiting(bytes.len(), lines);
    }

    /// Says what was lost since it was last said. What cannot be said now stays counted.
    fn say_losses(&mut self) {
        if !self.tally.has_unsaid_losses() {
            return;
        }
        self.losses.said_at = Some(Instant::now());
        let name = self.losses.name;
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
    }

    /// Whether the line is written, or on its way.
    fn say(&mut self, text: &str) -> bool {
        let line = warning(text);
        match &self.losses.stderr {
            Some(stderr) => stderr.send(Stream::Diagnostics, line, 1),
            None => write_whole(&mut *self.output, &line).is_ok(),
        }
    }
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::AccessLog => "access log",
            Stream::ProxyErrors => "proxy errors",
            Stream::Diagnostics => "diagnostics",
        }
    }
}

/// One diagnostic line of level WARN, as `diagnostics` makes them.
fn warning(text: &str) -> Vec<u8> {
    let mut line = String::new();
    utc::append_stamp(&mut line, utc::unix_us(SystemTime::now()));
    line.push_str(" WARN  ");
    line.push_str(text);
    line.push('\n');
    line.into_bytes()
}

/// As `write_all`, but waits where the output is non-blocking and full: an inherited stderr may be
/// so, because the flag belongs to the open file and not to this process.
fn write_whole(output: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => thread::sleep(LOG_WRITE_RETRY_EVERY),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// An output for tests: collects what is written, and can be shut (blocks) or broken (fails).
    #[derive(Clone)]
    pub(crate) struct Sink(Arc<(Mutex<SinkState>, Condvar)>);

    struct SinkState {
        text: Vec<u8>,
        mode: Mode,
        /// Whether a write waits for the sink to open.
        blocked: bool,
    }

    #[derive(Clone, Copy, PartialEq)]
    pub(crate) enum Mode {
        Open,
        Shut,
        Broken,
        /// Non-blocking and full at every second write; takes three bytes at most at the others.
        Choppy(bool),
    }

    impl Sink {
        pub(crate) fn open() -> Sink {
            Sink::with(Mode::Open)
        }

        pub(crate) fn with(mode: Mode) -> Sink {
            let state = SinkState { text: Vec::new(), mode, blocked: false };
            Sink(Arc::new((Mutex::new(state), Condvar::new())))
        }

        pub(crate) fn set(&self, mode: Mode) {
            self.0.0.lock().expect("no panic").mode = mode;
            self.0.1.notify_all();
        }

        pub(crate) fn text(&self) -> String {
            let state = self.0.0.lock().expect("no panic");
            String::from_utf8(state.text.clone()).expect("UTF-8")
        }

        pub(crate) fn lines(&self) -> Vec<String> {
            self.text().lines().map(str::to_owned).collect()
        }

        fn wait_until_blocked(&self) {
            let mut state = self.0.0.lock().expect("no panic");
            while !state.blocked {
                state = self.0.1.wait(state).expect("no panic");
            }
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().expect("no panic");
            while state.mode == Mode::Shut {
                state.blocked = true;
                self.0.1.notify_all();
                state = self.0.1.wait(state).expect("no panic");
            }
            let len = match state.mode {
                Mode::Broken => return Err(io::ErrorKind::BrokenPipe.into()),
                Mode::Choppy(true) => {
                    state.mode = Mode::Choppy(false);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Mode::Choppy(false) => {
                    state.mode = Mode::Choppy(true);
                    bytes.len().min(3)
                }
                Mode::Open | Mode::Shut => bytes.len(),
            };
            state.text.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const SOON: Duration = Duration::from_secs(20);

    fn start(stderr: &Sink, stdout: &Sink) -> Writer {
        Writer::start_on(Box::new(stderr.clone()), Some(Box::new(stdout.clone()))).expect("threads")
    }

    fn send_lines(handle: &WriterHandle, to: Destination, lines: u64) {
        for _ in 0..lines {
            handle.send(to, Stream::AccessLog, b"line\n".to_vec(), 1);
        }
    }

    #[test]
    fn texts_come_out_whole_in_order_and_where_they_belong() {
        let (stderr, stdout) = (Sink::open(), Sink::with(Mode::Choppy(true)));
        let writer = start(&stderr, &stdout);
        let handle = writer.handle();
        for number in 0..10 {
            let line = |name| format!("{name} {number}\n").into_bytes();
            handle.send(Destination::Stdout, Stream::AccessLog, line("out"), 1);
            handle.send(Destination::Stderr, Stream::Diagnostics, line("err"), 1);
        }
        assert_eq!(writer.finish(SOON), 0);
        let expected = |name| (0..10).map(|n| format!("{name} {n}\n")).collect::<String>();
        assert_eq!((stdout.text(), stderr.text()), (expected("out"), expected("err")));
    }

    #[test]
    fn stalled_stdout_drops_and_counts_while_stderr_goes_on() {
        let (stderr, stdout) = (Sink::open(), Sink::with(Mode::Shut));
        let writer = start(&stderr, &stdout);
        let handle = writer.handle();
        send_lines(&handle, Destination::Stdout, 1);
        stdout.wait_until_blocked();
        send_lines(&handle, Destination::Stdout, LOG_QUEUE_MESSAGES_MAX as u64);
        assert_eq!(handle.lost_lines(Destination::Stdout), 0, "at the bound all are kept");
        send_lines(&handle, Destination::Stdout, 7);
        assert_eq!(handle.lost_lines(Destination::Stdout), 7, "beyond it none is");

        handle.send(Destination::Stderr, Stream::Diagnostics, b"still here\n".to_vec(), 1);
        let deadline = Instant::now() + SOON;
        while !stderr.text().contains("still here") {
            assert!(Instant::now() < deadline, "stderr is held back by stdout");
            thread::yield_now();
        }

        stdout.set(Mode::Open);
        assert_eq!(writer.finish(SOON), 0);
        assert_eq!(stdout.lines().len(), 1 + LOG_QUEUE_MESSAGES_MAX);
        let said = "access log: 7 lines dropped because the output could not keep up (stdout)";
        assert!(stderr.text().contains(said), "{}", stderr.text());
    }

    #[test]
    fn waiting_bytes_are_bounded_but_one_long_text_passes_an_empty_queue() {
        let stderr = Sink::with(Mode::Shut);
        let writer = Writer::start_on(Box::new(stderr.clone()), None).expect("threads");
        let handle = writer.handle();
        let mut long = vec![b'x'; LOG_QUEUE_BYTES_MAX];
        long.push(b'\n');
        handle.send(Destination::Stderr, Stream::AccessLog, long, 1);
        send_lines(&handle, Destination::Stderr, 3);
        assert_eq!(handle.lost_lines(Destination::Stderr), 3);
        stderr.set(Mode::Open);
        assert_eq!(writer.finish(SOON), 0);
        let lines = stderr.lines();
        assert_eq!(lines[0].len(), LOG_QUEUE_BYTES_MAX);
        assert!(
            lines[1].ends_with("3 lines dropped because the output could not keep up (stderr)")
        );
    }

    #[test]
    fn closed_stdout_is_counted_and_said_with_its_cause() {
        let (stderr, stdout) = (Sink::open(), Sink::with(Mode::Broken));
        let writer = start(&stderr, &stdout);
        let handle = writer.handle();
        send_lines(&handle, Destination::Stdout, 5);
        assert_eq!(writer.finish(SOON), 0);
        assert_eq!(handle.lost_lines(Destination::Stdout), 5);
        let said: u64 = stderr
            .lines()
            .iter()
            .filter_map(|line| line.split_once("access log: ")?.1.split_once(" lines lost because"))
            .map(|(count, rest)| {
                assert!(rest.contains("stdout could not be written: broken pipe"), "{rest}");
                count.parse::<u64>().expect("a count")
            })
            .sum();
        assert_eq!(said, 5);
    }

    #[test]
    fn closed_stderr_says_its_losses_once_it_takes_text_again() {
        let stderr = Sink::with(Mode::Broken);
        let writer = Writer::start_on(Box::new(stderr.clone()), None).expect("threads");
        let handle = writer.handle();
        send_lines(&handle, Destination::Stderr, 4);
        let deadline = Instant::now() + SOON;
        while handle.lost_lines(Destination::Stderr) < 4 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        stderr.set(Mode::Open);
        assert_eq!(writer.finish(SOON), 0);
        assert!(stderr.text().contains("access log: 4 lines lost"), "{}", stderr.text());
    }

    #[test]
    fn finish_gives_up_on_a_stalled_output_in_time_and_says_so() {
        let (stderr, stdout) = (Sink::open(), Sink::with(Mode::Shut));
        let writer = start(&stderr, &stdout);
        let handle = writer.handle();
        send_lines(&handle, Destination::Stdout, 3);
        assert_eq!(writer.finish(Duration::from_secs(1)), 3);
        let deadline = Instant::now() + SOON;
        while !stderr.text().contains("stdout did not take its last 3 lines in time") {
            assert!(Instant::now() < deadline, "{}", stderr.text());
            thread::yield_now();
        }
        stdout.set(Mode::Open);
    }

    #[test]
    fn text_for_a_stdout_that_was_not_opened_and_after_the_end_is_counted() {
        let writer = Writer::start_on(Box::new(Sink::open()), None).expect("threads");
        let handle = writer.handle();
        send_lines(&handle, Destination::Stdout, 2);
        assert_eq!(handle.lost_lines(Destination::Stdout), 2);
        assert_eq!(writer.finish(SOON), 0);
        send_lines(&handle, Destination::Stderr, 2);
        assert_eq!(handle.lost_lines(Destination::Stderr), 2);
    }

    #[test]
    fn the_real_descriptors_can_be_opened() {
        let writer = Writer::start(true).expect("two threads");
        assert_eq!(writer.finish(SOON), 0);
    }
}
