//! Access log files, one for each rotation interval: `DIR/access_log.202611231755`, named by the
//! interval's start in local time; `DIR/current` is a link to the newest; those older than they are
//! kept for are removed (chocon: lestrrat-go/file-rotatelogs).
//!
//! All of it happens on the writer's own thread, when there is something to write. Nothing is taken
//! for granted: before each text the file is looked up by its name, so that a file or directory that
//! was moved or removed costs no line that could be written elsewhere; it is made anew.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime};

use crate::config::LogDirectory;
use crate::limits::LOG_NOTES_MAX;
use crate::observe::{local_time, utc};

const PREFIX: &str = "access_log.";
const LINK: &str = "current";

/// Digits of `%Y%m%d%H%M`.
const STAMP_DIGITS: usize = 12;

/// The directory, and the file that is open.
#[derive(Debug)]
pub struct LogFiles {
    to: LogDirectory,
    open: Option<Open>,
    /// What went wrong beside the writing; taken and said by the caller.
    notes: Vec<String>,
}

#[derive(Debug)]
struct Open {
    file: File,
    name: String,
    /// Device and number of the file, to tell whether its name still leads to it.
    identity: (u64, u64),
}

/// A moment in this host's zone.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub unix_secs: i64,
    pub ahead_of_utc_secs: i64,
}

impl Moment {
    pub fn now() -> Moment {
        let unix_secs = utc::unix_us(SystemTime::now()).div_euclid(1_000_000);
        Moment { unix_secs, ahead_of_utc_secs: local_time::ahead_of_utc_secs(unix_secs) }
    }
}

impl LogFiles {
    /// Opens the file of the present interval; makes the directory if need be, as chocon does.
    ///
    /// Errors: cause and remedy in words.
    pub fn open(to: LogDirectory, now: Moment) -> Result<LogFiles, String> {
        let mut files = LogFiles { to, open: None, notes: Vec::new() };
        let failed = files.current(now).err();
        match failed {
            None => Ok(files),
            Some(error) => Err(format!(
                "no access log can be written to {}: {error}. \
                 Give a directory that this user may write to",
                files.to.dir.display()
            )),
        }
    }

    /// The directory's name, for people.
    pub fn name(&self) -> String {
        self.to.dir.display().to_string()
    }

    /// The file for text that comes at `now`, and whether it is another one than before.
    ///
    /// Errors: it cannot be opened; the next call tries again.
    pub fn current(&mut self, now: Moment) -> io::Result<(&mut File, Changed)> {
        let name = file_name(now, self.to.rotate_every);
        let fits = |open: &Open| open.name == name && open.is_found_in(&self.to.dir);
        let changed = if self.open.as_ref().is_some_and(fits) {
            Changed::No
        } else {
            // Closed first, so that a failure does not leave lines to a file that nobody finds.
            self.open = None;
            self.open = Some(self.open_file(name.clone())?);
            self.link(&name);
            self.remove_old(now, &name);
            Changed::Yes
        };
        Ok((&mut self.open.as_mut().expect("it was just opened").file, changed))
    }

    /// Closes the file, so that it is opened by its name the next time it is asked for.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// What went wrong since the last call, a sentence each.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < LOG_NOTES_MAX {
            self.notes.push(note);
        }
    }

    fn open_file(&self, name: String) -> io::Result<Open> {
        let path = self.to.dir.join(&name);
        let open = || OpenOptions::new().append(true).create(true).mode(0o644).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.to.dir)?;
                open()?
            }
            result => result?,
        };
        let metadata = file.metadata()?;
        Ok(Open { file, name, identity: (metadata.dev(), metadata.ino()) })
    }

    /// Points `current` to `name` in one step, so that it never leads nowhere. The link is relative:
    /// it holds wherever the directory is seen from.
    fn link(&mut self, name: &str) {
        let link = self.to.dir.join(LINK);
        let result = match fs::symlink_metadata(&link) {
            Ok(found) if !found.is_symlink() => Err(io::Error::other("it is no symbolic link")),
            Ok(_) if fs::read_link(&link).is_ok_and(|target| target == Path::new(name)) => Ok(()),
            Ok(_) | Err(_) => self.replace_link(name, &link),
        };
        if let Err(error) = result {
            self.note(format!("{} does not lead to {name}: {error}", link.display()));
        }
    }

    fn replace_link(&self, name: &str, link: &Path) -> io::Result<()> {
        // By process: while one is replaced by its successor, both may be here.
        let temporary = self.to.dir.join(format!(".{LINK}.{}", process::id()));
        if let Err(error) = symlink(name, &temporary) {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            // Left by a process that was killed here.
            fs::remove_file(&temporary)?;
            symlink(name, &temporary)?;
        }
        fs::rename(&temporary, link)
    }

    /// Removes our files that were last written to before what is kept. `name` stays in any case.
    fn remove_old(&mut self, now: Moment, name: &str) {
        let keep_secs = i64::try_from(self.to.keep_for.as_secs()).unwrap_or(i64::MAX);
        let last_removed = now.unix_secs.saturating_sub(keep_secs);
        let entries = match fs::read_dir(&self.to.dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.note(format!("old files are not looked for: {error}"));
                return;
            }
        };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let is_ours = file.to_str().is_some_and(|file| file != name && is_log_file(file));
            // Not followed: a link of ours exists only as `current`.
            let is_old = |path: &PathBuf| {
                fs::symlink_metadata(path)
                    .is_ok_and(|found| found.is_file() && found.mtime() <= last_removed)
            };
            let path = entry.path();
            if is_ours && is_old(&path) {
                match fs::remove_file(&path) {
                    // The successor of a process may have been faster.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        self.note(format!("{} is not removed: {error}", path.display()));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
}

/// Whether text goes to another file than the text before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    No,
    Yes,
}

impl Open {
    fn is_found_in(&self, dir: &Path) -> bool {
        let found = fs::metadata(dir.join(&self.name));
        found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

/// Finds out whether log files can be written to `dir`, and leaves nothing behind: where `dir` does
/// not exist yet, a start would make it in the nearest directory that does, and that one is tried.
///
/// Errors: the cause in words, made to stand behind the quoted directory.
pub fn try_directory(dir: &Path) -> Result<(), String> {
    let existing = dir.ancestors().find(|path| {
        // The last ancestor of a relative path is the empty one: here.
        fs::symlink_metadata(or_here(path)).is_ok()
    });
    let existing = or_here(existing.unwrap_or(Path::new("/")));
    let metadata = fs::metadata(existing).map_err(|error| format!("cannot be found: {error}"))?;
    if !metadata.is_dir() {
        return Err("is not a directory".to_owned());
    }
    let probe = existing.join(format!(".{PREFIX}probe.{}", process::id()));
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    made.map_err(|error| format!("cannot be written to: {error}"))?;
    fs::remove_file(&probe).map_err(|error| format!("keeps a file that was removed: {error}"))
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Days from 0001-01-01, a Monday and where Go counts from, to the Unix epoch. Intervals that do not
/// divide a day start where chocon's do: those of a week on Mondays.
const DAYS_BEFORE_EPOCH: i64 = 719_162;

/// The name of the file for `now`: the start of its interval on the clock on the wall, to the minute.
fn file_name(now: Moment, every: Duration) -> String {
    // Names tell minutes apart, so an interval of none is one of a minute.
    let every = i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(60);
    let on_wall = now.unix_secs.saturating_add(now.ahead_of_utc_secs);
    let since_year_one = on_wall.saturating_add(DAYS_BEFORE_EPOCH * 86_400);
    let start = on_wall.saturating_sub(since_year_one.rem_euclid(every));
    let (year, month, day) = utc::civil_from_days(start.div_euclid(86_400));
    let minute = start.rem_euclid(86_400) / 60;
    format!("{PREFIX}{year:04}{month:02}{day:02}{:02}{:02}", minute / 60, minute % 60)
}

/// Whether a file is one of ours, as it was written or with what a compressor or a rotator has put
/// behind the name (`access_log.202611231755.gz`): chocon removes these too.
fn is_log_file(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits == STAMP_DIGITS && matches!(rest.as_bytes().get(STAMP_DIGITS), None | Some(b'.'))
}

#[cfg(test)]
mod tests;
