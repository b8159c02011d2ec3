//! Flags, and starts that fail with words.

use std::net::{Ipv4Addr, TcpListener};

use crate::support::ca::test_ca;
use crate::support::{Client, Proxy, scratch_directory, scratch_file};

/// The start fails, and stderr names every one of `words`.
#[track_caller]
fn fails_with(flags: &[&str], words: &[&str]) {
    let (status, _, stderr) = Proxy::options(flags).run_to_end();
    assert!(!status.success(), "{flags:?} was accepted");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
    }
}

#[test]
fn version_is_printed() {
    for flag in ["--version", "-v"] {
        let (status, stdout, _) = Proxy::options(&[flag]).run_to_end();
        assert!(status.success());
        assert!(stdout.contains(env!("CARGO_PKG_VERSION")), "{stdout}");
    }
}

#[test]
fn help_names_every_flag() {
    let (status, stdout, _) = Proxy::options(&["--help"]).run_to_end();
    assert!(status.success());
    for flag in [
        "--listen",
        "--port",
        "--cores",
        "--access-log-dir",
        "--keepalive-conns",
        "--keepalive-timeout",
        "--read-timeout",
        "--write-timeout",
        "--proxy-read-timeout",
        "--connect-timeout",
        "--tls-timeout",
        "--client-idle-timeout",
        "--shutdown-timeout",
        "--hdr-dir",
        "--allow-cidr",
        "--tcp-congestion",
        "--upstream",
        "--log-level",
    ] {
        assert!(stdout.contains(flag), "no {flag} in:\n{stdout}");
    }
}

#[test]
fn unknown_flag_fails() {
    fails_with(&["--no-such-flag"], &["--no-such-flag"]);
}

#[test]
fn malformed_duration_fails_with_the_flags_name() {
    fails_with(&["--read-timeout", "soon"], &["--read-timeout", "soon"]);
}

#[test]
fn malformed_network_fails_with_the_flags_name() {
    fails_with(&["--allow-cidr", "10.0.0.0/40"], &["--allow-cidr", "10.0.0.0/40"]);
}

#[test]
fn malformed_port_fails_with_the_flags_name() {
    fails_with(&["--port", "65536"], &["--port", "65536"]);
}

#[test]
fn malformed_address_fails_with_the_flags_name() {
    fails_with(&["--listen", "nowhere"], &["--listen", "nowhere"]);
}

#[test]
fn zero_cores_fail() {
    fails_with(&["--cores", "0"], &["--cores"]);
}

#[test]
fn several_mistakes_are_told_in_one_run() {
    let flags = ["--read-timeout", "soon", "--allow-cidr", "x", "--log-level", "loud"];
    fails_with(&flags, &["--read-timeout", "--allow-cidr", "--log-level"]);
}

#[test]
fn mistakes_end_with_2_and_those_of_variables_are_told_with_those_of_flags() {
    let options = Proxy::options(&["--log-level", "loud"]).env("CHOCON_READ_TIMEOUT", "soon");
    let (status, _, stderr) = options.run_to_end();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("--log-level: \"loud\""), "{stderr}");
    assert!(stderr.contains("CHOCON_READ_TIMEOUT: \"soon\""), "{stderr}");
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}

#[test]
fn variable_takes_the_place_of_its_flag_and_an_unknown_one_costs_a_line() {
    let options = Proxy::options(&[]).env("CHOCON_CORES", "1").env("CHOCON_PORTS", "1");
    let proxy = options.without_flag("--cores").env("CHOCON_FOO", "1").start();
    assert!(proxy.wait_for_log("listening on").contains("1 shards"), "{}", proxy.log());
    let about: Vec<_> = proxy.log().lines().map(str::to_owned).collect();
    let about: Vec<_> = about.iter().filter(|line| line.contains("CHOCON_")).collect();
    assert_eq!(about.len(), 1, "{about:?}");
    assert!(about[0].contains("CHOCON_FOO") && about[0].contains("CHOCON_PORTS"), "{about:?}");
    Client::connect(&proxy).expect_usable();
}

#[test]
fn check_ends_with_0_and_serves_nothing() {
    let (status, stdout, stderr) = Proxy::options(&["--check"]).run_to_end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stdout.contains("in order") && !stderr.contains("listening"), "{stdout}{stderr}");
}

#[test]
fn check_tells_all_that_is_missing_and_ends_with_2() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind 127.0.0.1:0");
    let port = taken.local_addr().expect("own address").port().to_string();
    let empty = scratch_file("nothing-to-trust.pem", "");
    let options = Proxy::options(&["--check", "--port", &port]).env("SSL_CERT_FILE", &empty);
    let (status, _, stderr) = options.forbid_io_uring().run_to_end();
    assert_eq!(status.code(), Some(2), "{stderr}");
    for word in ["SSL_CERT_FILE", &port, "io_uring"] {
        assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
    }
}

#[test]
fn check_tells_mistaken_flags_and_what_is_missing_in_one_run() {
    let empty = scratch_file("nothing-to-trust-either.pem", "");
    let flags = ["--check", "--read-timeout", "soon"];
    let options = Proxy::options(&flags).env("SSL_CERT_FILE", &empty);
    let (status, _, stderr) = options.forbid_io_uring().run_to_end();
    assert_eq!(status.code(), Some(2), "{stderr}");
    for word in ["--read-timeout", "SSL_CERT_FILE", "io_uring"] {
        assert!(stderr.contains(word), "no {word:?} in:\n{stderr}");
    }
}

#[test]
fn occupied_port_fails_with_the_address() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind 127.0.0.1:0");
    let port = taken.local_addr().expect("own address").port().to_string();
    fails_with(&["--port", &port], &[&port]);
}

#[test]
fn certificate_file_without_certificates_fails_though_a_directory_has_some() {
    let empty = scratch_file("no-certificates.pem", "");
    let dir = scratch_directory("certificates-beside");
    std::fs::copy(&test_ca().file, dir.join("ca.pem")).expect("a certificate");
    let dir = dir.to_str().expect("UTF-8");
    for (file, cause) in [(empty.as_str(), "it has none"), ("/nonexistent", "No such file")] {
        for dir in [None, Some(dir)] {
            let options = Proxy::options(&[]).env("SSL_CERT_FILE", file);
            let options = dir.into_iter().fold(options, |o, dir| o.env("SSL_CERT_DIR", dir));
            let (status, _, stderr) = options.run_to_end();
            assert_eq!(status.code(), Some(1), "{stderr}");
            assert!(stderr.contains("SSL_CERT_FILE is ") && stderr.contains(cause), "{stderr}");
        }
    }
}

#[test]
fn go_style_durations_are_understood() {
    let flags = ["--read-timeout", "1m30s", "--shutdown-timeout", "1h", "--tls-timeout", "500ms"];
    Client::connect(&Proxy::start(&flags)).expect_usable();
}

#[test]
fn plain_integers_are_seconds() {
    let flags = ["--read-timeout", "30", "--write-timeout", "90", "-c", "2"];
    Client::connect(&Proxy::start(&flags)).expect_usable();
}

#[test]
fn more_shards_than_processors_serve_with_one_warning() {
    let proxy = Proxy::start(&["--cores", "9"]);
    for _ in 0..20 {
        Client::connect(&proxy).expect_usable();
    }
    let warnings = proxy.log().lines().filter(|line| line.contains(" WARN ")).count();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(warnings, usize::from(cpus < 9), "{}", proxy.log());
}

#[test]
fn start_says_where_it_listens_and_on_which_rings() {
    let proxy = Proxy::start(&[]);
    let line = proxy.wait_for_log("listening on");
    assert!(line.contains("2 shards"), "{line}");
    let log = proxy.log().to_ascii_lowercase();
    assert!(log.contains("single_issuer") || log.contains("taskrun") || log.contains("ring"));
}

#[test]
fn forbidden_io_uring_fails_with_cause_and_remedy() {
    let (status, _, stderr) = Proxy::options(&[]).forbid_io_uring().run_to_end();
    assert!(!status.success());
    assert!(stderr.contains("io_uring") && stderr.contains("seccomp"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn flags_that_do_less_because_of_others_are_said_by_start_and_check() {
    for (flags, said) in [
        (&["--keepalive-conns=0", "--warm=http://127.0.0.1:9"][..], "--warm has no effect"),
        (&["--upstream=http://127.0.0.1:9", "--map=a=https"], "--map, --upgrade-https and"),
        (&["--upstream=http://127.0.0.1:9", "--forward=a"], "--forward have no effect"),
        (&["--max-conns-per-host=2", "--warm=http://127.0.0.1:9=3"], "and not 3"),
    ] {
        Proxy::start(flags).wait_for_log(said);
        let (status, _, stderr) = Proxy::options(&[&["--check"], flags].concat()).run_to_end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert!(stderr.contains("warning: ") && stderr.contains(said), "{stderr}");
    }
    for flags in [&["--upstream=http://127.0.0.1:9"][..], &["--map=a=https", "--forward=b"]] {
        let (_, _, stderr) = Proxy::options(&[&["--check"], flags].concat()).run_to_end();
        assert_eq!(stderr, "");
    }
}
