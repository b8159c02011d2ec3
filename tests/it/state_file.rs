//! What survives a restart: learned origins have their connections before the first request. The judge is the origin.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chocon_uring::limits::{STATE_BYTES_MAX, STATE_KEPT_FOR, STATE_ORIGINS_MAX};

use crate::support::dns::{loopback, with_hosts};
use crate::support::http2::serving;
use crate::support::proxy::ProxyOptions;
use crate::support::{
    Client, OK, Origin, Proxy, Supervisor, TlsOrigin, eventually, scratch_directory,
};

/// A place for a state file in a directory of its own, with nothing there.
fn place(name: &str) -> PathBuf {
    let path = scratch_directory(&format!("state-{name}")).join("state");
    // Of an earlier run that was killed.
    fs::remove_file(&path).ok();
    path
}

fn options(path: &Path) -> ProxyOptions {
    Proxy::options(&[]).flag("--state-file", path.to_str().expect("UTF-8"))
}

fn get(proxy: &Proxy, host: &str) {
    let mut client = Client::connect(proxy);
    client.request("GET", host, "/", "", b"");
    assert_eq!(client.read_response().text(), "ok");
}

fn end(mut proxy: Proxy) {
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A whole file of one line, or none.
fn file(saved: u64, line: &str) -> String {
    let count = usize::from(!line.is_empty());
    let line = if line.is_empty() { String::new() } else { format!("{line}\n") };
    format!("chocon-uring-state 1\nsaved={saved}\n{line}end {count}\n")
}

fn line(origin: &Origin, needs: &str, more: &str) -> String {
    format!("http://{} needs={needs} seen={}{more}", origin.addr(), unix_now())
}

#[track_caller]
fn expect_whole(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("the state file");
    assert!(text.starts_with("chocon-uring-state 1\n"), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("end ") && text.ends_with('\n'), "{text}");
    text
}

#[test]
fn first_request_after_a_restart_rides_a_connection_made_before_it() {
    let path = place("restart");
    let origin = TlsOrigin::answering(OK);
    let old = options(&path).start();
    for _ in 0..3 {
        get(&old, &origin.host());
    }
    end(old);
    let before = origin.connections();
    let handshakes = || origin.full_handshakes() + origin.resumed_handshakes();
    let handshakes_before = handshakes();
    let new = options(&path).flag("--access-log-format", "json+").start();
    eventually("a handshake before any request", || handshakes() == handshakes_before + 1);
    get(&new, &origin.host());
    assert_eq!(origin.connections(), before + 1, "\n{}", new.log());
    let how = new.wait_for_access_line(|_| true).get("conn").to_owned();
    assert!(how == "reused" || how == "lent", "{how}");
}

#[test]
fn one_http2_connection_is_made_for_all_shards_before_their_first_requests() {
    let path = place("http2");
    let origin = serving(|conn, request| conn.answer(request.stream, b"ok"));
    let old = options(&path).flag("--cores", "4").start();
    for _ in 0..3 {
        get(&old, &origin.host());
    }
    end(old);
    let text = expect_whole(&path);
    assert!(text.contains(" speaks=h2 "), "{text}");
    let before = origin.connections();
    let new = options(&path).flag("--cores", "4").flag("--access-log-format", "json+").start();
    // The start waits for it.
    assert_eq!(origin.connections(), before + 1);
    for _ in 0..12 {
        get(&new, &origin.host());
    }
    eventually("12 lines", || new.access_log_lines().len() == 12);
    let lines = new.access_log_lines();
    assert!(lines.iter().all(|line| line.get("conn") != "new"), "{}", new.log());
}

#[test]
fn addresses_of_the_fixed_upstream_share_what_it_needed() {
    let path = place("fixed");
    let hosts = "127.0.0.1 known.test\n127.0.0.4 known.test\n";
    let Some(fixed) = with_hosts("fixed-before", hosts) else { return };
    let first = Origin::answering(OK);
    let port = first.addr().port();
    let second = Origin::answering_at((loopback(4), port).into(), OK);
    let elsewhere = Origin::answering(OK);
    let now = unix_now();
    let text = format!(
        "chocon-uring-state 1\nsaved={now}\nhttp://known.test:{port} needs=4 seen={now}\n{}\nend 2\n",
        line(&elsewhere, "2", "")
    );
    fs::write(&path, text).expect("a state file");
    let fixed = fixed.flag("--state-file", path.to_str().expect("UTF-8"));
    let _proxy = fixed.flag("--upstream", &format!("http://known.test:{port}")).start();
    eventually("two connections each", || (first.connections(), second.connections()) == (2, 2));
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn as_many_are_made_as_a_burst_of_all_shards_needed() {
    let path = place("burst");
    let together = Arc::new(Barrier::new(4));
    let meet = together.clone();
    let origin = Origin::start(move |mut conn| {
        while conn.try_read_request().is_some() {
            meet.wait();
            conn.send(OK);
        }
    });
    let old = options(&path).start();
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&old)).collect();
    clients.iter_mut().for_each(|client| client.get(&origin, "/"));
    clients.iter_mut().for_each(|client| assert_eq!(client.read_response().text(), "ok"));
    drop(clients);
    end(old);
    eventually("the old connections to be closed", || origin.open_connections() == 0);
    let text = expect_whole(&path);
    assert!(text.contains(&format!("http://{} needs=", origin.addr())), "{text}");
    let _new = options(&path).start();
    eventually("four connections", || origin.open_connections() == 4);
}

#[test]
fn file_is_readable_to_its_user_alone_and_nothing_is_left_beside_it() {
    let path = place("mode");
    end(options(&path).start());
    expect_whole(&path);
    let mode = fs::metadata(&path).expect("the state file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let beside = fs::read_dir(path.parent().expect("a directory")).expect("its directory");
    assert_eq!(beside.count(), 1);
}

#[test]
fn what_the_origin_says_of_idle_connections_is_remembered() {
    let path = place("told");
    let answer = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=7\r\nContent-Length: 2\r\n\r\nok";
    let origin = Origin::answering(answer);
    let old = options(&path).start();
    get(&old, &origin.host());
    end(old);
    let text = expect_whole(&path);
    assert!(text.contains(" idle_limit_ms=7000 "), "{text}");
}

#[test]
fn remembered_idle_limit_holds_for_the_first_connection() {
    let path = place("limit");
    let origin = Origin::scripted();
    let line = line(&origin, "1", " idle_limit_ms=2000");
    fs::write(&path, file(unix_now(), &line)).expect("a state file");
    let _proxy = options(&path).flag("--cores", "1").start();
    let _first = origin.accept();
    let made = Instant::now();
    // Its replacement is there before it has to go, 0.25 s before the limit.
    let _second = origin.accept();
    let after = made.elapsed();
    assert!(after > Duration::from_millis(900) && after < Duration::from_millis(1900), "{after:?}");
}

#[test]
fn needs_are_not_served_where_warmth_is_not_to_be_learned() {
    let path = place("off");
    let (origin, other) = (Origin::answering(OK), Origin::answering(OK));
    fs::write(&path, file(unix_now(), &line(&origin, "3", ""))).expect("a state file");
    let proxy = options(&path).flag("--warm-learned", "off").start();
    for _ in 0..3 {
        get(&proxy, &other.host());
    }
    thread::sleep(Duration::from_millis(500));
    assert_eq!(origin.connections(), 0);
}

#[test]
fn address_that_must_not_be_dialled_is_not_dialled_because_a_file_names_it() {
    let path = place("metadata");
    let origin = Origin::answering(OK);
    let now = unix_now();
    let lines = format!(
        "http://169.254.169.254:80 needs=9 seen={now}\nhttp://[::ffff:169.254.169.254]:80 needs=9 seen={now}\n{}\n",
        line(&origin, "1", "")
    );
    let text = format!("chocon-uring-state 1\nsaved={now}\n{lines}end 3\n");
    fs::write(&path, text).expect("a state file");
    let proxy = options(&path).flag("--log-level", "debug").start();
    eventually("the other origin's connection", || origin.connections() == 1);
    thread::sleep(Duration::from_millis(300));
    assert!(!proxy.log().contains("169.254.169.254"), "{}", proxy.log());
}

/// The proxy says in one line why `content` is of no use, serves, and replaces it at its end.
#[track_caller]
fn is_ignored(name: &str, content: &[u8], why: &str) {
    let path = place(name);
    fs::write(&path, content).expect("a file");
    let origin = Origin::answering(OK);
    let proxy = options(&path).start();
    let said = proxy.wait_for_log("--state-file: ");
    assert!(said.contains(why) && said.contains("learned anew"), "no {why:?} in {said}");
    get(&proxy, &origin.host());
    get(&proxy, &origin.host());
    assert_eq!(proxy.log().matches("--state-file: ").count(), 1, "{}", proxy.log());
    end(proxy);
    let text = expect_whole(&path);
    assert!(text.contains(&origin.addr().to_string()), "{text}");
}

#[test]
fn files_that_are_of_no_use_are_said_and_replaced() {
    let now = unix_now();
    let whole = file(now, "https://a.invalid needs=1 seen=1");
    is_ignored("empty", b"", "no state file of this program");
    is_ignored("foreign", b"{\"origins\": []}\n", "no state file of this program");
    is_ignored("binary", b"chocon-uring-state 1\n\xff\xfe", "no text");
    is_ignored("cut", &whole.as_bytes()[..whole.len() - 3], "ends in the middle");
    is_ignored("later", b"chocon-uring-state 2\nx\n", "version 2");
    is_ignored("wrong", file(now, "https://a.invalid needs=many").as_bytes(), "line 3");
    let old = now - STATE_KEPT_FOR.as_secs() - 60;
    is_ignored("old", file(old, "https://a.invalid needs=1").as_bytes(), "7 days ago");
    let many: String = (0..=STATE_ORIGINS_MAX).map(|n| format!("https://n{n} needs=1\n")).collect();
    let many = format!("chocon-uring-state 1\nsaved={now}\n{many}end {}\n", STATE_ORIGINS_MAX + 1);
    is_ignored("many", many.as_bytes(), "one origin too many");
}

#[test]
fn what_is_no_file_is_not_replaced_but_said_before_anything_is_served() {
    let path = place("pipe");
    let name = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the name is NUL-terminated and lives.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let link = path.with_extension("link");
    std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
    for (place, why) in [
        (path.to_str().expect("UTF-8"), "is a device, a pipe or a socket"),
        (link.to_str().expect("UTF-8"), "is a device, a pipe or a socket"),
        ("/dev/null", "is a device, a pipe or a socket"),
        ("/tmp", "is a directory"),
        ("/tmp/nowhere/", "is a directory"),
    ] {
        for flag in ["--state-file", "--pid-file"] {
            let (status, _, stderr) = Proxy::options(&["--check", flag, place]).run_to_end();
            assert_eq!(status.code(), Some(2), "{flag} {place}: {stderr}");
            assert!(stderr.contains(flag) && stderr.contains(why), "{stderr}");
        }
    }
    let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo;
    assert!(is_pipe(&fs::metadata(&path).expect("the pipe").file_type()));
    fs::remove_file(&link).expect("the link");
}

#[test]
fn temporary_files_of_processes_that_were_killed_are_removed_and_no_others() {
    let path = place("stale");
    let directory = path.parent().expect("a directory");
    let make = |name: &str, age: u64| {
        let file = fs::File::create(directory.join(name)).expect("a file");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("its time");
    };
    for name in ["state.1.tmp", "state.4194304.tmp"] {
        make(name, 61);
    }
    for name in ["state.tmp", "state..tmp", "state.1x.tmp", "other.1.tmp", "state.1.tmp.bak"] {
        make(name, 61);
    }
    // Somebody may be writing it.
    make("state.2.tmp", 30);
    fs::create_dir_all(directory.join("state.3.tmp")).expect("a directory");
    std::os::unix::fs::symlink("state.tmp", directory.join("state.4.tmp")).expect("a link");
    end(options(&path).start());
    expect_whole(&path);
    let entries = fs::read_dir(directory).expect("the directory");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("UTF-8")
    };
    let mut left: Vec<String> = entries.map(name).collect();
    left.sort();
    let expected = [
        "other.1.tmp",
        "state",
        "state..tmp",
        "state.1.tmp.bak",
        "state.1x.tmp",
        "state.2.tmp",
        "state.3.tmp",
        "state.4.tmp",
        "state.tmp",
    ];
    assert_eq!(left, expected);
    fs::remove_dir_all(directory).expect("the directory");
}

#[test]
fn length_of_the_file_is_bounded_at_and_one_past() {
    let origin = Origin::answering(OK);
    let whole = file(unix_now(), &line(&origin, "1", ""));
    let padded = |bytes: u64| {
        let room = usize::try_from(bytes).expect("a length") - whole.len();
        whole.replacen('\n', &format!("\n#{}\n", "x".repeat(room - 2)), 1)
    };
    let path = place("length");
    fs::write(&path, padded(STATE_BYTES_MAX)).expect("a state file");
    let proxy = options(&path).start();
    eventually("a connection", || origin.connections() == 1);
    drop(proxy);
    is_ignored("length-past", padded(STATE_BYTES_MAX + 1).as_bytes(), "longer than 512 KiB");
}

#[test]
fn directory_that_cannot_be_written_to_is_a_mistake_and_said_by_check() {
    for flags in [&["--check"][..], &[]] {
        let options = Proxy::options(flags).flag("--state-file", "/proc/self/state");
        let (status, _, stderr) = options.run_to_end();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains("--state-file") && stderr.contains("cannot be written"),
            "{stderr}"
        );
    }
    let path = place("check");
    fs::write(&path, "x").expect("a file");
    let options = Proxy::options(&["--check"]).flag("--state-file", path.to_str().expect("UTF-8"));
    let (status, _, stderr) = options.run_to_end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("warning: --state-file"), "{stderr}");
    assert_eq!(fs::read_to_string(&path).expect("the file"), "x", "a check changes nothing");
}

#[test]
fn directory_that_goes_away_is_said_once_and_so_is_its_return() {
    let path = place("gone");
    let directory = path.parent().expect("a directory");
    let proxy = options(&path).flag("--access-log-dir", "none").start();
    fs::remove_dir_all(directory).expect("an empty directory");
    for _ in 0..3 {
        proxy.signal(libc::SIGHUP);
        proxy.wait_for_log("cannot be saved");
    }
    fs::create_dir(directory).expect("the directory");
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_log("is saved again");
    expect_whole(&path);
    let said = proxy.log().matches("cannot be saved").count();
    assert_eq!(said, 1, "{}", proxy.log());
}

#[test]
fn new_process_of_a_restart_has_the_last_word() {
    let path = place("hot");
    let (of_old, of_new) = (Origin::answering(OK), Origin::answering(OK));
    let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
    let start = || options(&path).inherit(Supervisor::ServerStarter, &[&socket]).start();
    let has = |origin: &Origin| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.contains(&format!("http://{} ", origin.addr()))
    };
    let old = start();
    for _ in 0..2 {
        get(&old, &of_old.host());
    }
    old.signal(libc::SIGHUP);
    eventually("the old process to have saved", || has(&of_old));
    let new = start();
    eventually("a connection of the new process", || of_old.connections() >= 2);
    // Only what the old one does not know shows who wrote last.
    let seen_by_new = || new.access_log_lines().len();
    eventually("requests at the new process", || {
        get(&new, &of_new.host());
        seen_by_new() >= 2
    });
    end(old);
    eventually("the new process to have saved after the old one", || has(&of_new) && has(&of_old));
    end(new);
    assert!(has(&of_new) && has(&of_old), "{}", expect_whole(&path));
}
