use super::*;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of one test, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("chocon-uring-log-files-{}-{number}", process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn files(&self, every_minutes: u64, kept: u32) -> LogFiles {
        LogFiles::open(self.to(every_minutes, kept), AT).expect("writable")
    }

    fn to(&self, every_minutes: u64, kept: u32) -> LogDirectory {
        let rotate_every = Duration::from_secs(every_minutes * 60);
        LogDirectory { dir: self.0.clone(), rotate_every, keep_for: rotate_every * kept }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the directory").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("a file")
    }

    /// Makes a file that was last written to so long before `AT`.
    fn aged(&self, name: &str, before: Duration) {
        let file = File::create(self.0.join(name)).expect("a file");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(AT.unix_secs as u64) - before;
        file.set_modified(at).expect("a time stamp");
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// 2026-11-24 01:02:03 UTC, a Tuesday; 10:02:03 in Tokyo.
const AT: Moment = Moment { unix_secs: 1_795_482_123, ahead_of_utc_secs: 9 * 3600 };
const MINUTE: Duration = Duration::from_secs(60);

fn later(secs: i64) -> Moment {
    Moment { unix_secs: AT.unix_secs + secs, ..AT }
}

fn put(files: &mut LogFiles, now: Moment, text: &str) {
    let (file, _) = files.current(now).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

#[test]
fn a_file_is_named_by_the_start_of_its_interval_on_the_clock_on_the_wall() {
    let name = |ahead_of_utc_secs, minutes: u64| {
        let now = Moment { ahead_of_utc_secs, ..AT };
        file_name(now, Duration::from_secs(minutes * 60))
    };
    let (utc, tokyo, newfoundland) = (0, 9 * 3600, -(3 * 3600 + 1800));
    assert_eq!(name(utc, 1), "access_log.202611240102");
    assert_eq!(name(tokyo, 1), "access_log.202611241002");
    assert_eq!(name(newfoundland, 1), "access_log.202611232132");
    assert_eq!(name(utc, 60), "access_log.202611240100");
    assert_eq!(name(newfoundland, 60), "access_log.202611232100");
    assert_eq!(name(utc, 1440), "access_log.202611240000");
    assert_eq!(name(newfoundland, 1440), "access_log.202611230000");
    // Go counts from year 1: weeks begin on Mondays, 7 minutes at no round time.
    assert_eq!(name(utc, 7 * 1440), "access_log.202611230000");
    assert_eq!(name(utc, 7), "access_log.202611240058");
    assert_eq!(name(utc, 0), "access_log.202611240102", "minutes are the finest");
}

#[test]
fn an_interval_ends_with_its_last_second() {
    let name = |secs| file_name(Moment { unix_secs: secs, ahead_of_utc_secs: 0 }, MINUTE * 10);
    assert_eq!(name(1_795_482_599), "access_log.202611240100");
    assert_eq!(name(1_795_482_600), "access_log.202611240110");
}

#[test]
fn times_at_the_ends_of_the_range_do_not_panic() {
    for unix_secs in [i64::MIN, i64::MAX, -1] {
        for every in [Duration::ZERO, Duration::MAX] {
            file_name(Moment { unix_secs, ahead_of_utc_secs: 3600 }, every);
        }
    }
}

#[test]
fn the_link_leads_to_the_newest_file_and_both_are_there_from_the_start() {
    let dir = Dir::new();
    let mut files = dir.files(1, 30);
    assert_eq!(dir.names(), ["access_log.202611241002", "current"]);
    put(&mut files, AT, "one\n");
    put(&mut files, later(56), "two\n");
    put(&mut files, later(57), "three\n");
    assert_eq!(dir.names(), ["access_log.202611241002", "access_log.202611241003", "current"]);
    assert_eq!(dir.text("access_log.202611241002"), "one\ntwo\n");
    assert_eq!(dir.text("current"), "three\n");
    let target = fs::read_link(dir.0.join(LINK)).expect("a link");
    assert_eq!(target, Path::new("access_log.202611241003"), "relative: it may be seen from afar");
    assert_eq!(files.take_notes(), [""; 0]);
}

#[test]
fn a_file_of_before_is_continued() {
    let dir = Dir::new();
    put(&mut dir.files(1, 30), AT, "one\n");
    put(&mut dir.files(1, 30), AT, "two\n");
    assert_eq!(dir.text("current"), "one\ntwo\n");
}

#[test]
fn files_kept_long_enough_are_removed_and_no_others() {
    let dir = Dir::new();
    let too_old = MINUTE * 30;
    for name in ["access_log.202611240900", "access_log.202611240901.gz", "access_log.209912312359"]
    {
        dir.aged(name, too_old);
    }
    dir.aged("access_log.202611240932", too_old - Duration::from_secs(1));
    let foreign = [
        ".access_log.202611240900",
        "access_log",
        "access_log.20261124090",
        "access_log.2026112409000",
        "access_log.202611240900x",
        "access_log.2026112409é",
        "error_log.202611240900",
        "keep.me",
    ];
    for name in foreign {
        dir.aged(name, too_old * 100);
    }
    let target = dir.0.join("access_log.202611240000");
    symlink("keep.me", &target).expect("a link");
    fs::create_dir(dir.0.join("access_log.202611240001")).expect("a directory");
    let mut files = dir.files(1, 30);
    let mut expected: Vec<_> = foreign.map(str::to_owned).into();
    expected.extend(
        [
            "access_log.202611240000",
            "access_log.202611240001",
            "access_log.202611240932",
            "access_log.202611241002",
            "current",
        ]
        .map(str::to_owned),
    );
    expected.sort();
    assert_eq!(dir.names(), expected);
    assert_eq!(files.take_notes(), [""; 0]);
    put(&mut files, later(60), "");
    assert!(!dir.names().contains(&"access_log.202611240932".to_owned()), "a rotation later");
}

#[test]
fn the_file_in_use_is_never_removed() {
    let dir = Dir::new();
    dir.aged("access_log.202611241002", MINUTE * 1000);
    let mut files = dir.files(1, 1);
    put(&mut files, AT, "here\n");
    assert_eq!(dir.text("current"), "here\n");
}

#[test]
fn a_removed_directory_is_made_again() {
    let dir = Dir::new();
    let mut files = dir.files(1, 30);
    put(&mut files, AT, "lost with its directory\n");
    fs::remove_dir_all(&dir.0).expect("removed");
    assert_eq!(files.current(AT).expect("a file").1, Changed::Yes);
    put(&mut files, AT, "kept\n");
    assert_eq!(dir.text("current"), "kept\n");
}

#[test]
fn a_file_moved_away_is_followed_by_a_new_one() {
    let dir = Dir::new();
    let mut files = dir.files(1, 30);
    put(&mut files, AT, "one\n");
    fs::rename(dir.0.join("access_log.202611241002"), dir.0.join("moved")).expect("moved");
    put(&mut files, AT, "two\n");
    assert_eq!((dir.text("moved"), dir.text("current")), ("one\n".into(), "two\n".into()));
}

#[test]
fn a_directory_that_cannot_be_is_an_error_until_it_can() {
    let dir = Dir::new();
    let mut files = dir.files(1, 30);
    fs::remove_dir_all(&dir.0).expect("removed");
    fs::write(&dir.0, "in the way").expect("a file");
    assert!(files.current(AT).is_err());
    assert!(files.current(later(60)).is_err());
    fs::remove_file(&dir.0).expect("removed");
    put(&mut files, AT, "again\n");
    assert_eq!(dir.text("current"), "again\n");
}

#[test]
fn a_closed_file_is_opened_by_its_name_again() {
    let dir = Dir::new();
    let mut files = dir.files(1, 30);
    put(&mut files, AT, "one\n");
    files.close();
    put(&mut files, AT, "two\n");
    assert_eq!(dir.text("current"), "one\ntwo\n");
}

#[test]
fn what_is_no_link_is_left_alone_and_said() {
    let dir = Dir::new();
    fs::write(dir.0.join(LINK), "precious").expect("a file");
    let mut files = dir.files(1, 30);
    put(&mut files, AT, "line\n");
    assert_eq!(dir.text(LINK), "precious");
    let notes = files.take_notes();
    assert!(notes.len() == 1 && notes[0].contains("no symbolic link"), "{notes:?}");
}

#[test]
fn a_link_left_half_made_is_no_obstacle() {
    let dir = Dir::new();
    let half_made = dir.0.join(format!(".current.{}", process::id()));
    symlink("nowhere", &half_made).expect("a link");
    let mut files = dir.files(1, 30);
    assert_eq!(files.take_notes(), [""; 0]);
    assert_eq!(dir.names(), ["access_log.202611241002", "current"]);
}

#[test]
fn a_directory_is_tried_without_a_trace() {
    let dir = Dir::new();
    assert_eq!(try_directory(&dir.0), Ok(()));
    assert_eq!(try_directory(&dir.0.join("to/be/made")), Ok(()), "a start would make it");
    assert_eq!(dir.names(), [""; 0]);
    assert_eq!(try_directory(Path::new("here-and-not-made")), Ok(()));
    fs::write(dir.0.join("file"), "").expect("a file");
    assert_eq!(try_directory(&dir.0.join("file")), Err("is not a directory".into()));
    assert_eq!(try_directory(&dir.0.join("file/below")), Err("is not a directory".into()));
    assert!(try_directory(Path::new("/proc/chocon")).is_err());
}

#[test]
fn a_start_says_what_keeps_it_from_writing() {
    let dir = Dir::new();
    let to = LogDirectory { dir: dir.0.join("file/below"), ..dir.to(1, 30) };
    fs::write(dir.0.join("file"), "").expect("a file");
    let error = LogFiles::open(to, AT).expect_err("a file is in the way");
    assert!(error.contains("/file/below: ") && error.contains("Give a directory"), "{error}");
}
