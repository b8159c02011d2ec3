//! Access log files: where lines go, what happens when they cannot, and the formats of a line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::support::proxy::can_mount;
use crate::support::{Client, OK, Origin, Proxy, eventually, not_run};

/// A directory of one case, removed at its end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("logs-{}-{number}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&dir).expect("a directory");
        Self(dir)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn proxy(&self) -> Proxy {
        Proxy::start(&["--access-log-dir", self.path(), "--access-log-rotate-time", "1"])
    }

    /// The text that `current` leads to; empty while it leads nowhere.
    fn current(&self) -> String {
        fs::read_to_string(self.0.join("current")).unwrap_or_default()
    }

    /// Names of log files.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the directory").flatten();
        let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
        let mut names: Vec<_> = names.filter(|name| name.starts_with("access_log")).collect();
        names.sort();
        names
    }

    /// All lines of all files; a case may run across a full minute.
    fn text(&self) -> String {
        let read = |name: String| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        self.files().into_iter().map(read).collect()
    }

    #[track_caller]
    fn wait_for(&self, needle: &str) {
        eventually(&format!("{needle:?} in a file; they hold:\n{}", self.text()), || {
            self.text().contains(needle)
        });
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn get(proxy: &Proxy, origin: &Origin, path: &str) {
    let mut client = Client::connect(proxy);
    client.get(origin, path);
    assert_eq!(client.read_response().status, 200);
}

/// `date(1)` in a zone: the C library's word on what time it is there.
fn minute_in(zone: &str) -> String {
    let date = Command::new("date").arg("+%Y%m%d%H%M").env("TZ", zone).output().expect("date");
    String::from_utf8(date.stdout).expect("digits").trim().to_owned()
}

#[test]
fn file_is_named_by_its_minute_in_local_time_and_current_leads_to_it() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let zone = "XYZ-9:30";
    let before = minute_in(zone);
    let proxy = Proxy::options(&["--access-log-dir", dir.path()])
        .flag("--access-log-rotate-time", "1")
        .env("TZ", zone)
        .start();
    get(&proxy, &origin, "/first");
    dir.wait_for("\"uri\":\"/first\"");
    let after = minute_in(zone);
    let expected = [before, after].map(|minute| format!("access_log.{minute}"));
    let files = dir.files();
    assert!(files.iter().all(|name| expected.contains(name)), "{files:?}");
    let target = fs::read_link(dir.0.join("current")).expect("a link");
    assert_eq!(target.to_str(), files.last().map(String::as_str));
    assert!(!proxy.log().contains("/first"), "the line is in the file only");
}

#[test]
fn file_covers_a_day_by_default() {
    let dir = Dir::new();
    let _proxy = Proxy::options(&["--access-log-dir", dir.path()]).env("TZ", "UTC").start();
    let midnight = format!("access_log.{}0000", &minute_in("UTC")[..8]);
    assert_eq!(dir.files(), [midnight]);
}

#[test]
fn lines_are_in_the_file_before_the_process_ends() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let mut proxy = dir.proxy();
    let mut client = Client::connect(&proxy);
    for _ in 0..100 {
        client.get(&origin, "/");
        client.read_response();
    }
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert_eq!(dir.text().lines().count(), 100);
}

#[test]
fn restart_continues_the_file() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    for path in ["/one", "/two"] {
        let mut proxy = dir.proxy();
        get(&proxy, &origin, path);
        proxy.signal(libc::SIGTERM);
        proxy.wait_exit();
    }
    let text = dir.text();
    assert!(text.contains("/one") && text.contains("/two"), "{text}");
}

#[test]
fn old_files_are_removed_and_others_are_left() {
    let dir = Dir::new();
    let age = |name: &str| {
        let file = fs::File::create(dir.0.join(name)).expect("a file");
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        file.set_modified(long_ago).expect("a time stamp");
    };
    for name in ["access_log.202001010000", "access_log.202001010001.gz", "access_log.old"] {
        age(name);
    }
    let _proxy = dir.proxy();
    eventually("the old files to go", || dir.files().len() == 2);
    assert!(dir.files().contains(&"access_log.old".to_owned()));
}

#[test]
fn directory_that_does_not_exist_is_made() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let below = dir.0.join("to/be/made");
    let proxy = Proxy::start(&["--access-log-dir", below.to_str().expect("UTF-8")]);
    get(&proxy, &origin, "/here");
    let current = below.join("current");
    eventually("the line", || {
        fs::read_to_string(&current).is_ok_and(|text| text.contains("/here"))
    });
}

#[test]
fn directory_that_takes_no_files_is_told_before_the_start() {
    let (status, _, stderr) =
        Proxy::options(&["--access-log-dir", "/proc/self", "--access-log-format", "yaml"])
            .run_to_end();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("--access-log-dir: \"/proc/self\" cannot be written to"), "{stderr}");
    assert!(stderr.contains("--access-log-format: \"yaml\" is not a format"), "{stderr}");
}

#[test]
fn removed_directory_is_made_again_and_no_request_notices() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let proxy = dir.proxy();
    get(&proxy, &origin, "/before");
    dir.wait_for("/before");
    fs::remove_dir_all(&dir.0).expect("removed");
    get(&proxy, &origin, "/after");
    eventually("the line", || dir.current().contains("/after"));
}

#[test]
fn lines_without_a_directory_are_counted_and_said_until_it_is_back() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let proxy = dir.proxy();
    fs::remove_dir_all(&dir.0).expect("removed");
    fs::write(&dir.0, "in the way").expect("a file");
    for n in 0..3 {
        get(&proxy, &origin, &format!("/lost{n}"));
    }
    let said = proxy.wait_for_log("lines lost because");
    assert!(said.contains(dir.path()) && said.contains("access log: "), "{said}");
    fs::remove_file(&dir.0).expect("removed");
    get(&proxy, &origin, "/back");
    eventually("the line", || dir.current().contains("/back"));
    proxy.wait_for_log("is written to again");
    let lost: u64 = proxy
        .log()
        .lines()
        .filter_map(|line| line.split_once("access log: ")?.1.split_once(" lines lost"))
        .map(|(count, _)| count.parse::<u64>().expect("a count"))
        .sum();
    let late = dir.text().matches("/lost").count() as u64;
    assert_eq!(lost + late, 3, "each line is written or counted");
}

#[test]
fn full_disk_costs_lines_and_no_requests() {
    if !can_mount() {
        return not_run("a small disk needs a mount namespace");
    }
    const DISK_BYTES: usize = 256 * 1024;
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let proxy = Proxy::options(&["--access-log-dir", dir.path()])
        .small_disk(dir.path(), DISK_BYTES)
        .start();
    let agent = format!("User-Agent: {}\r\n", "u".repeat(8 * 1024));
    let mut client = Client::connect(&proxy);
    for n in 0..DISK_BYTES / (8 * 1024) + 20 {
        client.request("GET", &origin.host(), &format!("/{n}"), &agent, b"");
        assert_eq!(client.read_response().status, 200);
    }
    let said = proxy.wait_for_log("lines lost because");
    assert!(said.to_ascii_lowercase().contains("no space left"), "{said}");

    let seen = proxy.seen_path(dir.path());
    let full = fs::read_link(seen.join("current")).expect("a link");
    fs::remove_file(seen.join(full)).expect("room is made");
    client.get(&origin, "/room-again");
    assert_eq!(client.read_response().status, 200);
    eventually("the line", || {
        fs::read_to_string(seen.join("current")).is_ok_and(|text| text.contains("/room-again"))
    });
    proxy.wait_for_log("is written to again");
    let text = fs::read_to_string(seen.join("current")).expect("text");
    text.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).expect("a whole line")));
}

#[test]
fn sighup_opens_the_file_anew_after_it_was_moved_away() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let proxy = Proxy::start(&["--access-log-dir", dir.path()]);
    get(&proxy, &origin, "/old");
    dir.wait_for("/old");
    let name = dir.files().remove(0);
    fs::rename(dir.0.join(&name), dir.0.join("moved")).expect("moved");
    proxy.signal(libc::SIGHUP);
    // It is there without a request.
    eventually("the new file", || dir.files() == [name.as_str()]);
    proxy.wait_for_log("is opened anew");
    get(&proxy, &origin, "/new");
    eventually("the line", || dir.current().contains("/new"));
    let moved = fs::read_to_string(dir.0.join("moved")).expect("the old file");
    assert!(moved.contains("/old") && !moved.contains("/new"));
}

#[test]
fn sighup_says_that_a_stream_has_nothing_to_reopen() {
    for (to, said) in [
        ("stderr", "the access log goes to stderr"),
        ("stdout", "the access log goes to stdout"),
        ("none", "the access log is off"),
    ] {
        let origin = Origin::answering(OK);
        let proxy = Proxy::start(&["--access-log-dir", to]);
        proxy.signal(libc::SIGHUP);
        let line = proxy.wait_for_log("SIGHUP: nothing to reopen");
        assert!(line.contains(said), "{line}");
        get(&proxy, &origin, "/lives-on");
    }
}

#[test]
fn two_processes_share_a_file_line_by_line() {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let proxies = [dir.proxy(), dir.proxy()];
    for proxy in &proxies {
        for _ in 0..50 {
            get(proxy, &origin, "/");
        }
    }
    eventually("all lines", || dir.text().lines().count() == 100);
    let whole = |line: &str| drop(serde_json::from_str::<Value>(line).expect("a whole line"));
    dir.text().lines().for_each(whole);
}

/// The line of one request in `format`.
fn line_in(format: &str) -> String {
    let (dir, origin) = (Dir::new(), Origin::answering(OK));
    let proxy = Proxy::start(&["--access-log-dir", dir.path(), "--access-log-format", format]);
    let mut client = Client::connect(&proxy);
    let agent = "User-Agent: a\"b\\c\td\r\n";
    client.request("GET", &origin.host(), "/%41?secret=1", agent, b"");
    let id = client.read_response().field("X-Chocon-Id").expect("an id").to_owned();
    dir.wait_for(&id);
    let line = dir.text().replace(&id, "ID").replace(&origin.host(), "ORIGIN");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn apache_line_reads_as_that_of_2017() {
    let line = line_in("apache");
    let (client, rest) = line.split_once(" - - [").expect("a client");
    let port = client.strip_prefix("127.0.0.1:").expect("an address");
    assert!(port.parse::<u16>().is_ok(), "{line}");
    let (time, rest) = rest.split_once("] ").expect("a time");
    assert_eq!((time.len(), time.matches(':').count()), (26, 3), "{line}");
    let rest = rest.strip_prefix("\"GET /%41?secret=1 HTTP/1.1\" 200 2 \"ORIGIN\" ");
    let (seconds, id) = rest.and_then(|rest| rest.split_once(' ')).expect("the rest");
    let seconds: f64 = seconds.parse().expect("seconds");
    assert!(seconds > 0.0 && seconds < 10.0, "{line}");
    assert_eq!(id, "ID\n");
}

#[test]
fn ltsv_line_has_its_labels() {
    let line = line_in("ltsv");
    let pairs: Vec<_> =
        line.trim_end().split('\t').map(|pair| pair.split_once(':').expect("a label")).collect();
    let get = |label| pairs.iter().find(|pair| pair.0 == label).expect("it").1;
    assert_eq!((get("method"), get("uri"), get("status")), ("GET", "/%41", "200"));
    assert_eq!((get("host"), get("vhost"), get("chocon_req")), ("127.0.0.1", "ORIGIN", "ID"));
    assert_eq!(get("ua"), r#"a"b\x5cc\x09d"#);
    assert_eq!(pairs.len(), 11, "{line}");
}
