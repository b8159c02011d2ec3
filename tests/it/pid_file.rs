//! The pid file: whole, in time, and gone at the end.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Proxy, scratch_directory};

fn place(name: &str) -> (PathBuf, String) {
    let path = scratch_directory(name).join("proxy.pid");
    let text = path.to_str().expect("UTF-8").to_owned();
    (path, text)
}

/// The names of all files beside `path`.
fn beside(path: &Path) -> Vec<String> {
    let dir = fs::read_dir(path.parent().expect("a directory")).expect("a directory");
    dir.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

#[test]
fn process_that_listens_has_its_id_in_the_file_and_removes_it_at_the_end() {
    let (path, text) = place("pid-file");
    let mut proxy = Proxy::start(&["--pid-file", &text]);
    assert_eq!(fs::read_to_string(&path).expect("a pid file"), format!("{}\n", proxy.pid()));
    assert_eq!(beside(&path), ["proxy.pid"]);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(beside(&path).is_empty(), "{:?}", beside(&path));
}

#[test]
fn file_of_the_next_process_stays() {
    let (path, text) = place("pid-file-of-the-next");
    let mut old = Proxy::start(&["--pid-file", &text]);
    let next = Proxy::start(&["--pid-file", &text]);
    let of_next = format!("{}\n", next.pid());
    assert_eq!(fs::read_to_string(&path).expect("a pid file"), of_next);
    old.signal(libc::SIGTERM);
    assert_eq!(old.wait_exit().code(), Some(0));
    assert_eq!(fs::read_to_string(&path).expect("a pid file"), of_next);
}

#[test]
fn stale_file_is_replaced() {
    let (path, text) = place("pid-file-stale");
    fs::write(&path, "999999999\n").expect("a stale file");
    let proxy = Proxy::start(&["--pid-file", &text]);
    assert_eq!(fs::read_to_string(&path).expect("a pid file"), format!("{}\n", proxy.pid()));
}

#[test]
fn place_that_cannot_be_written_fails_before_anything_is_served() {
    for place in ["/nonexistent/proxy.pid", "/proc/self/proxy.pid", "/tmp"] {
        let (status, _, stderr) = Proxy::options(&["--pid-file", place]).run_to_end();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("--pid-file") && stderr.contains(place), "{stderr}");
    }
}

#[test]
fn empty_name_means_no_file_as_in_chocon() {
    let proxy = Proxy::start(&["--pid-file", ""]);
    proxy.wait_for_log("listening on");
}
