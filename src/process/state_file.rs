//! The state file: read at the start, written by a thread of its own while the process runs and once when it begins to
//! end.
//!
//! Of two processes of a restart the old one writes for the last time when it is told to end; the new one sees that the
//! file is not what it wrote itself, and writes what it knows. So the process that goes on has the last word, and nobody
//! waits for the other.

#![forbid(unsafe_code)]

use super::shards::Order;
use crate::{
    limits::{STATE_BYTES_MAX, STATE_SAVE_EVERY},
    shard::mailbox::Mailbox,
    upstream::state::{Part, State},
};
use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long the shards may take to say what they know. One that is busy longer makes the process keep the file as it is
/// until the next time.
const PARTS_WITHIN: Duration = Duration::from_secs(2);

/// How old a temporary file is to be taken for one of a process that was killed: a save takes some milliseconds, and the
/// process that makes it may not be seen from here (another container with the same directory).
const TEMPORARY_STALE_AFTER: Duration = Duration::from_secs(60);

/// What was read at the start.
#[derive(Default)]
pub struct Recalled {
    pub state: Arc<State>,
    /// Why the file is not used, with what becomes of it; a line for the operator.
    pub note: Option<String>,
}

/// Reads the file. One that is not there is no mistake.
pub fn read(path: &Path) -> Recalled {
    let read = read_text(path).and_then(|text| match text {
        None => Ok(State::default()),
        Some(text) => State::read(&text, unix_now()).map_err(|why| why.to_string()),
    });
    match read {
        Ok(state) => Recalled { state: Arc::new(state), note: None },
        Err(why) => Recalled {
            state: Arc::default(),
            note: Some(format!(
                "--state-file: {} is not used: {why}. Origins are learned anew, and the next save replaces it; if \
                 something else needs it, give another path",
                path.display()
            )),
        },
    }
}

fn read_text(path: &Path) -> Result<Option<String>, String> {
    let failed = |e: io::Error| format!("it cannot be read: {e}");
    // Whatever stands there, nothing is waited for: a pipe would keep the start.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(STATE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > STATE_BYTES_MAX {
        return Err(format!("it is longer than {} KiB", STATE_BYTES_MAX / 1024));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is no text".to_owned())
}

/// The thread that writes.
pub struct StateSaver {
    asks: Sender<Ask>,
    ended: Receiver<()>,
}

enum Ask {
    /// Save what is known now.
    Now,
    /// As `Now`, and never again: the process ends, another one may follow it.
    Last,
}

impl StateSaver {
    /// Begins to save what the shards behind `orders` know. Errors: there is no thread.
    pub fn start(
        path: PathBuf,
        recalled: Arc<State>,
        orders: Vec<Mailbox<Order>>,
    ) -> io::Result<Self> {
        let (asks, asked) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let mut saving =
            Saving { path, recalled, orders, saved: None, left: None, is_failing: false };
        thread::Builder::new().name("state".into()).spawn(move || {
            sweep_stale(&saving.path);
            saving.run(&asked);
            // The process may be gone before it asks.
            ends.send(()).ok();
        })?;
        Ok(Self { asks, ended })
    }

    /// Saves soon.
    pub fn save(&self) {
        // After the last time nothing is saved.
        self.asks.send(Ask::Now).ok();
    }

    /// Saves for the last time. Does not wait for it.
    pub fn save_last(&self) {
        self.asks.send(Ask::Last).ok();
    }

    /// Waits until the last time, which was asked for, is over; for `within` at most.
    pub fn finish(&self, within: Duration) {
        if self.ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the state file could not be saved at the end in time");
        }
    }
}

struct Saving {
    path: PathBuf,
    /// What the process began with.
    recalled: Arc<State>,
    orders: Vec<Mailbox<Order>>,
    /// What was saved last.
    saved: Option<State>,
    /// The file as it was left.
    left: Option<Stamp>,
    /// The last attempt failed, and that was said.
    is_failing: bool,
}

/// By what a file is known to be the same.
type Stamp = (u64, i64, i64, u64);

impl Saving {
    fn run(&mut self, asked: &Receiver<Ask>) {
        loop {
            match asked.recv_timeout(STATE_SAVE_EVERY) {
                Ok(Ask::Now) | Err(RecvTimeoutError::Timeout) => self.save(),
                Ok(Ask::Last) => return self.save(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn save(&mut self) {
        let Some(parts) = self.parts() else { return };
        let state = State::merge(&self.recalled, parts);
        let is_same = self.saved.as_ref().is_some_and(|saved| saved.is_as_good_as(&state));
        if is_same && self.left.is_some() && stamp(&self.path) == self.left {
            return;
        }
        match write(&self.path, &state.text(unix_now())) {
            Ok(()) => {
                self.left = stamp(&self.path);
                self.saved = Some(state);
                if std::mem::take(&mut self.is_failing) {
                    log::info!("the state file {} is saved again", self.path.display());
                }
            }
            Err(e) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    log::warn!(
                        "the state file {} cannot be saved: {e}; what is learned is lost at a restart. Let this user \
                         write to its directory and let there be room, or give --state-file another path",
                        self.path.display()
                    );
                }
            }
        }
    }

    /// What all shards know; None: one of them did not say.
    fn parts(&self) -> Option<Vec<Part>> {
        let (to, parts) = mpsc::channel();
        for orders in &self.orders {
            orders.send(Order::Remember(to.clone())).ok()?;
        }
        let deadline = Instant::now() + PARTS_WITHIN;
        let mut all = Vec::new();
        for _ in &self.orders {
            let left = deadline.saturating_duration_since(Instant::now());
            all.extend(parts.recv_timeout(left).ok()?);
        }
        Some(all)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.mtime(), file.mtime_nsec(), file.len()))
}

/// Removes what processes that were killed while they saved have left beside `path`. Errors change nothing: the next start
/// tries again.
fn sweep_stale(path: &Path) {
    let Ok(entries) = fs::read_dir(directory_of(path)) else { return };
    let now = SystemTime::now();
    let temporary = |entry: &fs::DirEntry| is_temporary_of(path, &entry.file_name());
    for entry in entries.flatten().filter(temporary) {
        // Of the name itself: a link is not followed.
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|at| now.duration_since(at).ok());
        if metadata.is_file() && age.is_some_and(|age| age >= TEMPORARY_STALE_AFTER) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Where a process writes before the file is whole.
fn temporary_of(path: &Path, pid: u32) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{pid}.tmp"));
    temporary.into()
}

/// Whether some process gives that name to its temporary file for `path`.
fn is_temporary_of(path: &Path, name: &OsStr) -> bool {
    let before = path.file_name().unwrap_or_default().as_bytes();
    let rest = name.as_bytes().strip_prefix(before).and_then(|rest| rest.strip_prefix(b"."));
    let pid = rest.and_then(|rest| rest.strip_suffix(b".tmp"));
    pid.is_some_and(|pid| !pid.is_empty() && pid.iter().all(u8::is_ascii_digit))
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Writes the file beside its place and moves it there, so that at each moment there is a whole one: the old or the new.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = &temporary_of(path, std::process::id());
    // Of a process of this id that was killed.
    fs::remove_file(temporary).ok();
    let written = create(temporary, text).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // It may not exist; what is wrong is said either way.
        fs::remove_file(temporary).ok();
        return written;
    }
    // So that the new name survives a loss of power, too. Some file systems cannot; the file is whole all the same.
    File::open(directory_of(path)).and_then(|dir| dir.sync_all()).ok();
    Ok(())
}

/// Only a new file, so that a link that somebody put there is not followed; readable to this user alone, for it says whom
/// the proxy's clients call.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
