//! Mistakes are told, all in one run, with cause and remedy.

use super::*;
use std::os::unix::ffi::OsStringExt;

#[test]
fn every_mistake_is_said_in_one_run_with_cause_and_remedy() {
    let said = mistakes(&[
        "--port",
        "99999",
        "--bogus",
        "value",
        "--cores",
        "0",
        "--busy-poll",
        "50",
        "--prot=1",
        "stray",
        "-x",
        "--connect-timeout",
        "0",
        "--tls-timeout",
        "1h30",
        "--hdr-dir",
        "/nonexistent",
        "-c",
        "-5",
        "--allow-cidr",
        "10.0.0.0/33",
        "--allow-cidr",
        "--log-level",
        "loud",
        "--listen",
        "127.0.0.1:80",
        "--api",
        "3001",
        "--stsize",
        "1",
        "--spfactor",
        "0",
        "--access-log-dir",
        "/proc/nowhere",
        "--access-log-format",
        "xml",
        "--access-log-rotate",
        "-1",
        "--access-log-rotate-time",
        "1h",
        "--max-conns-per-host",
        "two",
        "--upstream",
        "ftp://a/",
        "--read-timeout",
    ]);
    let unknown = [
        r#"--bogus: there is no such flag; --help lists them"#,
        r#"--prot: there is no such flag; did you mean --port?"#,
        r#""stray" belongs to no flag; leave it out or name its flag"#,
        r#"-x: there is no such flag; --help lists them"#,
    ];
    let mistaken = [
        (r#"--listen: "127.0.0.1:80" has a port, which belongs to --port"#, LISTEN),
        (r#"--port: "99999" is not a port"#, PORT),
        (r#"--api: "3001" is not an address"#, API),
        (r#"--cores: "0" is not a number of shards"#, CORES),
        (r#"--busy-poll: "50" is longer than 1s"#, BUSY_POLL),
        (r#"--keepalive-conns: "-5" is not a number of connections"#, KEEPALIVE_CONNS),
        (r#"--max-conns-per-host: "two" is not a number of connections"#, MAX_CONNS_PER_HOST),
        (r#"--allow-cidr: "10.0.0.0/33" is not a network"#, ALLOW_CIDR),
        (r#"--allow-cidr: has no value"#, ALLOW_CIDR),
        (r#"--upstream: "ftp://a/" does not begin with http:// or https://"#, UPSTREAM),
        (r#"--read-timeout: has no value"#, READ_TIMEOUT),
        (r#"--connect-timeout: "0" is zero"#, CONNECT_TIMEOUT),
        (r#"--tls-timeout: "1h30" has a number without a unit"#, TLS_TIMEOUT),
        (r#"--stsize: "1" is not a number of samples"#, STSIZE),
        (r#"--spfactor: "0" is not a number of requests"#, SPFACTOR),
        (r#"--access-log-rotate: "-1" is not a number of rotations"#, ACCESS_LOG_ROTATE),
        (r#"--access-log-rotate-time: "1h" is not a number of minutes"#, ACCESS_LOG_ROTATE_TIME),
        (
            "--access-log-dir: \"/proc/nowhere\" cannot be written to: \
             No such file or directory (os error 2)",
            ACCESS_LOG_DIR,
        ),
        (r#"--access-log-format: "xml" is not a format"#, ACCESS_LOG_FORMAT),
        (r#"--log-level: "loud" is not a level"#, LOG_LEVEL),
        (
            r#"--hdr-dir: "/nonexistent" cannot be found: No such file or directory (os error 2)"#,
            HDR_DIR,
        ),
    ];
    let mistaken = mistaken.map(|(mistake, flag)| format!("{mistake}; {}", flag.remedy));
    let expected = [unknown.map(str::to_owned).as_slice(), &mistaken].concat();
    assert_eq!(said, expected, "\n{}", said.join("\n"));
}

#[test]
fn odd_words_do_not_hide_the_other_mistakes() {
    for odd in [&["--version=1"][..], &["--help=1"], &[""], &["-xyz"], &["--", "-p"], &["-vp"]] {
        let args = [odd, &["-c", "x"]].concat();
        let args = if odd[0] == "--" { [&["-c", "x"], odd].concat() } else { args };
        let said = match run(&args) {
            Err(exit) if exit.code == 2 => exit.text,
            // `-vp` is `-v -p`: what was asked for comes first.
            other => {
                assert_eq!(other.map_err(|exit| exit.code), Err(0), "{odd:?}");
                continue;
            }
        };
        assert_eq!(said.lines().count(), 2, "{odd:?}:\n{said}");
        assert!(said.contains(r#"--keepalive-conns: "x" is not"#), "{odd:?}:\n{said}");
    }
}

#[test]
fn a_mistake_reads_as_one_sentence() {
    let port = r#"--port: "99999" is not a port; give 0 to 65535"#;
    assert_eq!(mistakes(&["--port", "99999"]), [port]);
    let log = r#"--access-log-dir: "/proc/self/status" is not a directory; "#;
    let remedy = r#"give stderr (or ""), stdout, none, or a directory that this user may write to"#;
    assert_eq!(mistakes(&["--access-log-dir", "/proc/self/status"]), [format!("{log}{remedy}")]);
}

#[test]
fn arguments_that_are_not_utf8_are_mistakes_and_no_panic() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let args = ["x".into(), "--port".into(), bytes(b"\xff1"), bytes(b"--\xfe"), bytes(b"-\xfd")];
    let exit = parse(args, []).expect_err("mistaken flags");
    assert_eq!(exit.code, 2);
    assert!(
        exit.text.contains(r#"--port: "\xFF1" is not UTF-8; give 0 to 65535"#),
        "{}",
        exit.text
    );
}

#[test]
fn an_hdr_dir_that_cannot_take_files_is_a_mistake() {
    let said = mistakes(&["--hdr-dir", "/proc/self/status"]);
    assert!(said[0].starts_with(r#"--hdr-dir: "/proc/self/status" is not a directory; "#));
    // Not writable for anyone, root included.
    let said = mistakes(&["--hdr-dir", "/proc/self"]);
    assert!(said[0].starts_with(r#"--hdr-dir: "/proc/self" cannot be written to: "#), "{said:?}");
    assert!(mistakes(&["--hdr-dir"])[0].starts_with("--hdr-dir: has no value; "));
}
