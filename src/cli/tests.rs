//! The command line as a user meets it.

use super::*;
use std::os::unix::ffi::OsStringExt;

fn run(args: &[&str]) -> Result<Config, Exit> {
    parse(["chocon-uring"].iter().chain(args).map(OsString::from))
}

fn config(args: &[&str]) -> Config {
    run(args).unwrap_or_else(|exit| panic!("{args:?}: {}", exit.text))
}

fn mistakes(args: &[&str]) -> Vec<String> {
    let exit = run(args).expect_err("mistaken flags");
    assert_eq!((exit.code, exit.to), (2, Output::Stderr));
    exit.text.lines().map(str::to_owned).collect()
}

#[test]
fn no_flags_give_the_documented_defaults() {
    let secs = Duration::from_secs;
    let expected = Config {
        listen: "0.0.0.0:3000".parse().expect("an address"),
        cores: None,
        access_log: AccessLogTo::Stderr,
        keepalive_conns: 256,
        keepalive_timeout: secs(50),
        read_timeout: Some(secs(30)),
        write_timeout: Some(secs(90)),
        proxy_read_timeout: Some(secs(60)),
        connect_timeout: secs(30),
        tls_timeout: secs(10),
        client_idle_timeout: secs(60),
        shutdown_timeout: secs(3600),
        hdr_dir: None,
        allow_cidr: vec![],
        log_level: LevelFilter::Info,
    };
    assert_eq!(config(&[]), expected);
}

#[test]
fn every_flag_is_taken() {
    let dir = std::env::temp_dir();
    let dir = dir.to_str().expect("UTF-8");
    let config = config(&[
        "-l",
        "[::1]",
        "-p0",
        "--cores=2",
        "-c",
        "32",
        "--keepalive-timeout",
        "1m",
        "--read-timeout",
        "0",
        "--write-timeout",
        "0s",
        "--proxy-read-timeout",
        "1.5h",
        "--connect-timeout",
        "500ms",
        "--tls-timeout",
        "7",
        "--client-idle-timeout",
        "1h30m",
        "--shutdown-timeout",
        "0",
        "--access-log-dir",
        "none",
        "--log-level",
        "debug",
        "--hdr-dir",
        dir,
        "--allow-cidr",
        "169.254.1.1/16",
        "--allow-cidr",
        "::1",
    ]);
    let expected = Config {
        listen: "[::1]:0".parse().expect("an address"),
        cores: Some(2),
        access_log: AccessLogTo::Off,
        keepalive_conns: 32,
        keepalive_timeout: Duration::from_secs(60),
        read_timeout: None,
        write_timeout: None,
        proxy_read_timeout: Some(Duration::from_secs(5400)),
        connect_timeout: Duration::from_millis(500),
        tls_timeout: Duration::from_secs(7),
        client_idle_timeout: Duration::from_secs(5400),
        shutdown_timeout: Duration::ZERO,
        hdr_dir: Some(dir.into()),
        allow_cidr: ["169.254.0.0/16", "::1/128"].map(|net| net.parse().expect("net")).to_vec(),
        log_level: LevelFilter::Debug,
    };
    assert_eq!(config, expected);
}

#[test]
fn of_a_flag_typed_twice_the_last_counts() {
    assert_eq!(config(&["-p", "1", "--port", "2"]).listen.port(), 2);
}

#[test]
fn every_mistake_is_said_in_one_run_with_cause_and_remedy() {
    let said = mistakes(&[
        "--port",
        "99999",
        "--bogus",
        "value",
        "--cores",
        "0",
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
        "--access-log-dir",
        "/var/log",
        "--upstream",
        "http://a/",
        "--read-timeout",
    ]);
    let unknown = [
        r#"--bogus: there is no such flag; --help lists them"#,
        r#"--prot: there is no such flag; did you mean --port?"#,
        r#""stray" belongs to no flag; leave it out or name its flag"#,
        r#"-x: there is no such flag; --help lists them"#,
        r#"--upstream: a flag of chocon that is not there yet; leave it out"#,
    ];
    let mistaken = [
        (r#"--listen: "127.0.0.1:80" has a port, which belongs to --port"#, LISTEN),
        (r#"--port: "99999" is not a port"#, PORT),
        (r#"--cores: "0" is not a number of shards"#, CORES),
        (
            "--access-log-dir: \"/var/log\" is taken for a directory, \
             and files are not written yet",
            ACCESS_LOG_DIR,
        ),
        (r#"--keepalive-conns: "-5" is not a number of connections"#, KEEPALIVE_CONNS),
        (r#"--read-timeout: has no value"#, READ_TIMEOUT),
        (r#"--connect-timeout: "0" is zero"#, CONNECT_TIMEOUT),
        (r#"--tls-timeout: "1h30" has a number without a unit"#, TLS_TIMEOUT),
        (
            r#"--hdr-dir: "/nonexistent" cannot be found: No such file or directory (os error 2)"#,
            HDR_DIR,
        ),
        (r#"--allow-cidr: "10.0.0.0/33" is not a network"#, ALLOW_CIDR),
        (r#"--allow-cidr: "" is not a network"#, ALLOW_CIDR),
        (r#"--log-level: "loud" is not a level"#, LOG_LEVEL),
    ];
    let mistaken = mistaken.map(|(mistake, flag)| format!("{mistake}; {}", flag.1));
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
    let log =
        r#"--access-log-dir: "/var/log" is taken for a directory, and files are not written yet; "#;
    let remedy = r#"use stderr (or ""), stdout or none, and let the supervisor rotate"#;
    assert_eq!(mistakes(&["--access-log-dir", "/var/log"]), [format!("{log}{remedy}")]);
}

#[test]
fn bounds_hold_at_and_one_past() {
    assert_eq!(config(&["-p", "65535"]).listen.port(), 65_535);
    assert_eq!(mistakes(&["-p", "65536"]).len(), 1);
    assert_eq!(config(&["--cores", "1024"]).cores, Some(SHARDS_MAX));
    assert_eq!(mistakes(&["--cores", "1025"]).len(), 1);
    assert_eq!(config(&["-c", "1000000"]).keepalive_conns, KEEPALIVE_CONNS_MAX);
    assert_eq!(mistakes(&["-c", "1000001"]).len(), 1);
    assert!(CORES.1.contains(&SHARDS_MAX.to_string()));
    assert!(KEEPALIVE_CONNS.1.contains(&KEEPALIVE_CONNS_MAX.to_string()));
    let networks = |count| vec!["--allow-cidr=10.0.0.0/8"; count];
    assert_eq!(config(&networks(ALLOW_CIDRS_MAX)).allow_cidr.len(), ALLOW_CIDRS_MAX);
    assert_eq!(mistakes(&networks(ALLOW_CIDRS_MAX + 1)).len(), 1);
}

#[test]
fn access_log_goes_where_chocon_would_put_it() {
    for (value, to) in [
        ("", AccessLogTo::Stderr),
        ("stderr", AccessLogTo::Stderr),
        ("stdout", AccessLogTo::Stdout),
        ("none", AccessLogTo::Off),
    ] {
        assert_eq!(config(&["--access-log-dir", value]).access_log, to);
        assert_eq!(config(&[&format!("--access-log-dir={value}")]).access_log, to);
    }
}

#[test]
fn arguments_that_are_not_utf8_are_mistakes_and_no_panic() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let args = ["x".into(), "--port".into(), bytes(b"\xff1"), bytes(b"--\xfe"), bytes(b"-\xfd")];
    let exit = parse(args).expect_err("mistaken flags");
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

#[test]
fn help_is_grouped_and_names_every_default() {
    for flag in ["-h", "--help"] {
        let exit = run(&["--bogus", flag, "--port", "x"]).expect_err("help");
        assert_eq!((exit.code, exit.to), (0, Output::Stdout));
        // The width of the terminal decides where lines are broken.
        let text = exit.text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Listening:",
            "Origins:",
            "Deadlines:",
            "Logs and latencies:",
            "Other:",
            "[default: 0.0.0.0] -p, --port <N>",
            "[default: 3000]",
            "[default: 256]",
            "[default: 50s]",
            "[default: 30s]",
            "[default: 90s]",
            "[default: 60s]",
            "[default: 10s]",
            "[default: 1h]",
            r#"[default: ""]"#,
            "[default: info]",
            "-v, --version",
            "-h, --help",
            "--allow-cidr",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{}", exit.text);
        }
    }
}

#[test]
fn version_names_compiler_and_tls_library() {
    for flag in ["-v", "--version"] {
        let exit = run(&[flag, "--port", "x"]).expect_err("version");
        assert_eq!((exit.code, exit.to), (0, Output::Stdout));
        let lines: Vec<&str> = exit.text.lines().collect();
        assert_eq!(lines[0], format!("chocon-uring {}", env!("CARGO_PKG_VERSION")));
        assert!(lines[1].starts_with("Compiler: rustc "), "{}", lines[1]);
        assert_eq!(lines[2..], ["TLS: rustls 0.23, aws-lc-rs"]);
    }
}
