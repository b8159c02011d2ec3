use super::*;
use crate::limits::LOG_QUEUE_MESSAGES_MAX;
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
    /// A disk with room for so many bytes.
    Room(usize),
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
            Mode::Room(0) => return Err(io::ErrorKind::StorageFull.into()),
            Mode::Room(room) => {
                let taken = bytes.len().min(room);
                state.mode = Mode::Room(room - taken);
                taken
            }
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
    Writer::start_on(stderr.clone(), Some(Output::stream("stdout", stdout.clone())))
        .expect("threads")
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
        handle.send(Destination::AccessLog, Stream::AccessLog, line("out"), 1);
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
    send_lines(&handle, Destination::AccessLog, 1);
    stdout.wait_until_blocked();
    send_lines(&handle, Destination::AccessLog, LOG_QUEUE_MESSAGES_MAX as u64);
    assert_eq!(handle.lost_lines(Destination::AccessLog), 0, "at the bound all are kept");
    send_lines(&handle, Destination::AccessLog, 7);
    assert_eq!(handle.lost_lines(Destination::AccessLog), 7, "beyond it none is");

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
    let writer = Writer::start_on(stderr.clone(), None).expect("threads");
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
    assert!(lines[1].ends_with("3 lines dropped because the output could not keep up (stderr)"));
}

#[test]
fn closed_stdout_is_counted_and_said_with_its_cause() {
    let (stderr, stdout) = (Sink::open(), Sink::with(Mode::Broken));
    let writer = start(&stderr, &stdout);
    let handle = writer.handle();
    send_lines(&handle, Destination::AccessLog, 5);
    assert_eq!(writer.finish(SOON), 0);
    assert_eq!(handle.lost_lines(Destination::AccessLog), 5);
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
    let writer = Writer::start_on(stderr.clone(), None).expect("threads");
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
    send_lines(&handle, Destination::AccessLog, 3);
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
    let writer = Writer::start_on(Sink::open(), None).expect("threads");
    let handle = writer.handle();
    send_lines(&handle, Destination::AccessLog, 2);
    assert_eq!(handle.lost_lines(Destination::AccessLog), 2);
    assert_eq!(writer.finish(SOON), 0);
    send_lines(&handle, Destination::Stderr, 2);
    assert_eq!(handle.lost_lines(Destination::Stderr), 2);
}

#[test]
fn the_real_descriptors_can_be_opened() {
    let writer = Writer::start(&AccessLogTo::Stdout).expect("two threads");
    assert_eq!(writer.finish(SOON), 0);
}

#[test]
fn a_line_cut_by_a_full_disk_spoils_no_other() {
    let (stderr, disk) = (Sink::open(), Sink::with(Mode::Room("line\nline\nli".len())));
    let writer = start(&stderr, &disk);
    let handle = writer.handle();
    let lines = b"line\nline\nline\nline\n".to_vec();
    handle.send(Destination::AccessLog, Stream::AccessLog, lines.clone(), 4);
    let deadline = Instant::now() + SOON;
    while handle.lost_lines(Destination::AccessLog) < 2 {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    assert_eq!(handle.lost_lines(Destination::AccessLog), 2, "two lines were written whole");
    disk.set(Mode::Open);
    handle.send(Destination::AccessLog, Stream::AccessLog, lines, 4);
    assert_eq!(writer.finish(SOON), 0);
    assert_eq!(disk.text(), "line\nline\nli\nline\nline\nline\nline\n");
    let said = stderr.text();
    assert!(
        said.contains("access log: 2 lines lost because stdout could not be written"),
        "{said}"
    );
    assert!(said.contains("stdout is written to again"), "{said}");
}

#[test]
fn a_disk_that_stays_full_is_spoken_of_less_and_less() {
    let (stderr, disk) = (Sink::open(), Sink::with(Mode::Room(0)));
    let writer = start(&stderr, &disk);
    let handle = writer.handle();
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < Duration::from_millis(3500) {
        send_lines(&handle, Destination::AccessLog, 1);
        sent += 1;
        thread::sleep(Duration::from_millis(5));
    }
    // Said at once, after 2 s, and 4 s after that.
    let said = |text: &str| text.matches("lines lost because").count();
    assert!(said(&stderr.text()) <= 2, "{}", stderr.text());
    assert_eq!(writer.finish(SOON), 0);
    assert!(said(&stderr.text()) >= 2, "{}", stderr.text());
    assert_eq!(handle.lost_lines(Destination::AccessLog), sent);
}
