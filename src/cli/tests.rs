//! The command line as a user meets it.

use super::*;
use crate::authority::{OriginUrl, Scheme};
use crate::cli::flag::{Flag, Takes, all_flags};
use crate::config::{AccessLogTo, ApiAt, LogDirectory, LogFormat, Sampling, Warm};
use crate::limits::WARM_CONNECTIONS_MAX;
use crate::rules::{Http2Rule, Map, Pattern};
use log::LevelFilter;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

fn run(args: &[&str]) -> Result<Config, Exit> {
    run_with(args, &[])
}

fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Result<Config, Exit> {
    let variables = variables.iter().map(|(name, text)| (name.into(), text.into()));
    parse(["chocon-uring"].iter().chain(args).map(OsString::from), variables)
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
        api: ApiAt::Main,
        sampling: Sampling { kept: 1000, one_in: 3 },
        access_log: AccessLogTo::Stderr,
        access_log_format: LogFormat::Json,
        keepalive_conns: 256,
        max_conns_per_host: 0,
        keepalive_timeout: secs(50),
        warm: vec![],
        warm_learned: true,
        state_file: None,
        read_timeout: Some(secs(30)),
        write_timeout: Some(secs(90)),
        proxy_read_timeout: Some(secs(60)),
        connect_timeout: secs(30),
        tls_timeout: secs(10),
        client_idle_timeout: secs(60),
        shutdown_timeout: secs(3600),
        hdr_dir: None,
        allow_cidr: vec![],
        tcp_congestion: None,
        rules: Rules::default(),
        upstream: None,
        proxies: Proxies::default(),
        hosts_file: true,
        dns_servers: vec![],
        log_level: LevelFilter::Info,
        pid_file: None,
        check_only: false,
        ignored_variables: vec![],
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
        "--api",
        "[::1]:0",
        "--stsize",
        "50",
        "--spfactor",
        "1",
        "--max-conns-per-host=3",
        "--access-log-dir",
        "none",
        "--access-log-format",
        "ltsv",
        "--access-log-rotate",
        "7",
        "--access-log-rotate-time",
        "60",
        "--log-level",
        "debug",
        "--hdr-dir",
        dir,
        "--allow-cidr",
        "169.254.1.1/16",
        "--allow-cidr",
        "::1",
        "--tcp-congestion",
        "reno",
        "--map=sts.a.com=https://b.com",
        "--upgrade-https",
        "*.a.com",
        "--forward",
        "*:80",
        "--upstream",
        "https://up.test:8443/path",
        "--upstream-http2=*.a.com=off",
        "--warm",
        "https://a.b=4",
        "--warm-learned=off",
        "--state-file=x.state",
        "--resolver",
        "dns",
        "--dns-server",
        "10.0.0.2",
        "--dns-server",
        "[::1]:5353",
        "--pid-file=x.pid",
        "--check",
    ]);
    let expected = Config {
        listen: "[::1]:0".parse().expect("an address"),
        cores: Some(2),
        api: ApiAt::Address("[::1]:0".parse().expect("an address")),
        sampling: Sampling { kept: 50, one_in: 1 },
        access_log: AccessLogTo::Off,
        access_log_format: LogFormat::Ltsv,
        keepalive_conns: 32,
        max_conns_per_host: 3,
        keepalive_timeout: Duration::from_secs(60),
        warm: vec![Warm {
            origin: OriginUrl::parse("https://a.b").expect("a URL"),
            connections: 4,
        }],
        warm_learned: false,
        state_file: Some("x.state".into()),
        read_timeout: None,
        write_timeout: None,
        proxy_read_timeout: Some(Duration::from_secs(5400)),
        connect_timeout: Duration::from_millis(500),
        tls_timeout: Duration::from_secs(7),
        client_idle_timeout: Duration::from_secs(5400),
        shutdown_timeout: Duration::ZERO,
        hdr_dir: Some(dir.into()),
        rules: Rules {
            maps: vec![Map::parse("sts.a.com=https://b.com").expect("a map")],
            upgrade_https: vec![Pattern::parse("*.a.com").expect("a pattern")],
            forward: vec![Pattern::parse("*:80").expect("a pattern")],
            http2: vec![Http2Rule::parse("*.a.com=off").expect("a rule")],
        },
        proxies: Proxies::default(),
        upstream: Some(OriginUrl::parse("https://up.test:8443").expect("a URL")),
        hosts_file: false,
        dns_servers: ["10.0.0.2:53", "[::1]:5353"].map(|at| at.parse().expect("at")).to_vec(),
        allow_cidr: ["169.254.0.0/16", "::1/128"].map(|net| net.parse().expect("net")).to_vec(),
        tcp_congestion: Some("reno".to_owned()),
        log_level: LevelFilter::Debug,
        pid_file: Some("x.pid".into()),
        check_only: true,
        ignored_variables: vec![],
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
fn bounds_hold_at_and_one_past() {
    assert_eq!(config(&["-p", "65535"]).listen.port(), 65_535);
    assert_eq!(mistakes(&["-p", "65536"]).len(), 1);
    assert_eq!(config(&["--cores", "1024"]).cores, Some(SHARDS_MAX));
    assert_eq!(mistakes(&["--cores", "1025"]).len(), 1);
    assert_eq!(config(&["-c", "1000000"]).keepalive_conns, KEEPALIVE_CONNS_MAX);
    assert_eq!(mistakes(&["-c", "1000001"]).len(), 1);
    for (flag, least, most) in [
        (ACCESS_LOG_ROTATE, 0, LOG_ROTATIONS_KEPT_MAX),
        (ACCESS_LOG_ROTATE_TIME, 0, LOG_ROTATE_MINUTES_MAX),
        (STSIZE, 2, SAMPLES_KEPT_MAX),
        (SPFACTOR, 1, SAMPLED_ONE_IN_MAX),
    ] {
        let with = |value: i64| format!("--{}={value}", flag.name);
        let (least, most) = (least as i64, most as i64);
        config(&[&with(least)]);
        config(&[&with(most)]);
        assert_eq!(mistakes(&[&with(least - 1)]).len(), 1);
        assert_eq!(mistakes(&[&with(most + 1)]).len(), 1);
        assert!(flag.remedy.contains(&most.to_string()), "{}", flag.name);
    }
    assert!(CORES.remedy.contains(&SHARDS_MAX.to_string()));
    assert!(KEEPALIVE_CONNS.remedy.contains(&KEEPALIVE_CONNS_MAX.to_string()));
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
fn access_log_files_are_kept_for_as_many_rotations_as_told() {
    let dir = std::env::temp_dir().join("chocon-uring-not-made");
    let dir = dir.to_str().expect("UTF-8");
    let files = |flags: &[&str]| match config(&[&["--access-log-dir", dir], flags].concat()) {
        Config { access_log: AccessLogTo::Directory(files), .. } => files,
        other => panic!("{other:?}"),
    };
    let day = Duration::from_secs(86_400);
    let to = |rotate_every, keep_for| LogDirectory { dir: dir.into(), rotate_every, keep_for };
    assert_eq!(files(&[]), to(day, 30 * day));
    let an_hour = &["--access-log-rotate-time", "60", "--access-log-rotate", "48"];
    assert_eq!(files(an_hour), to(day / 24, 2 * day));
    // chocon keeps seven days where either is 0.
    assert_eq!(files(&["--access-log-rotate", "0"]), to(day, 7 * day));
    assert_eq!(files(&["--access-log-rotate-time", "0"]), to(Duration::ZERO, 7 * day));
    let longest = ["--access-log-rotate-time=5256000", "--access-log-rotate=1000000"];
    assert!(files(&longest).keep_for > day);
    assert!(!std::path::Path::new(dir).exists(), "looking at flags makes nothing");
}

#[test]
fn api_is_where_it_was_told_to_be() {
    assert_eq!(config(&["--api", "off"]).api, ApiAt::Off);
    assert_eq!(config(&["--api", "main"]).api, ApiAt::Main);
    let address = "127.0.0.1:3001".parse().expect("an address");
    assert_eq!(config(&["--api", "127.0.0.1:3001"]).api, ApiAt::Address(address));
    assert_eq!(mistakes(&["--api", "localhost:3001"]).len(), 1);
}

#[test]
fn access_log_formats_have_their_names() {
    for (name, format) in [
        ("json", LogFormat::Json),
        ("json+", LogFormat::JsonPlus),
        ("apache", LogFormat::Apache),
        ("ltsv", LogFormat::Ltsv),
    ] {
        assert_eq!(config(&["--access-log-format", name]).access_log_format, format);
    }
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
        assert_eq!(lines[2..], [format!("TLS: {PROVIDER}")]);
    }
}

/// Text that the flag cannot take, if there is any.
fn senseless(flag: &Flag) -> Option<&'static str> {
    // A directory that cannot be there, a number that is none, a duration that is none.
    run(&[&format!("{}=/nonexistent/,", flag.typed())]).is_err().then_some("/nonexistent/,")
}

#[test]
fn every_flag_has_its_variable_and_a_mistake_in_it_names_the_variable() {
    for flag in all_flags() {
        let Some(text) = senseless(flag) else { continue };
        let variable = flag.variable();
        let exit = run_with(&[], &[(&variable, text)]).expect_err("a mistaken variable");
        assert_eq!(exit.code, 2);
        let quoted = text.trim_end_matches(|c| c == ',' && matches!(flag.takes, Takes::Values(_)));
        assert!(exit.text.starts_with(&format!("{variable}: {quoted:?} ")), "{}", exit.text);
        assert!(exit.text.ends_with(&format!("; {}\n", flag.remedy)), "{}", exit.text);
    }
}

#[test]
fn variables_are_taken_and_a_typed_flag_wins() {
    let variables = [
        ("CHOCON_PORT", "81"),
        ("CHOCON_KEEPALIVE_CONNS", "7"),
        ("CHOCON_READ_TIMEOUT", "1h30m"),
        ("CHOCON_ALLOW_CIDR", "10.0.0.0/8, ::1,"),
        ("CHOCON_LOG_LEVEL", "loud"),
        ("PATH", "/bin"),
    ];
    let config = run_with(&["-p", "82", "--log-level=warn"], &variables).expect("flags");
    assert_eq!(config.listen.port(), 82);
    assert_eq!(config.keepalive_conns, 7);
    assert_eq!(config.read_timeout, Some(Duration::from_secs(5400)));
    let networks = ["10.0.0.0/8", "::1/128"].map(|net| net.parse().expect("net"));
    assert_eq!(config.allow_cidr, networks);
    assert_eq!(config.log_level, LevelFilter::Warn);
    assert!(config.ignored_variables.is_empty());
    let config = run_with(&["--allow-cidr=fd00::/8"], &variables[3..4]).expect("flags");
    assert_eq!(config.allow_cidr, ["fd00::/8".parse().expect("net")]);
}

#[test]
fn mistakes_of_flags_and_variables_are_said_in_one_run() {
    let exit = run_with(&["-c", "x", "--bogus"], &[("CHOCON_PORT", "y"), ("CHOCON_CORES", "0")]);
    let text = exit.expect_err("mistakes").text;
    let names: Vec<_> = text.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["--bogus", "CHOCON_PORT", "CHOCON_CORES", "--keepalive-conns"]);
}

#[test]
fn empty_variable_is_as_good_as_none() {
    let set: Vec<_> = all_flags().map(|flag| (flag.variable(), "")).collect();
    let set: Vec<_> = set.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    assert_eq!(run_with(&[], &set), run(&[]));
}

#[test]
fn variable_that_names_no_flag_is_told_and_does_no_harm() {
    let variables =
        [("CHOCON_PROT", "80"), ("CHOCON_PORT", "tcp://10.0.0.1:3000"), ("CHOCON_HELP", "1")];
    let config = run_with(&[], &variables).expect("flags");
    let expected = [
        "CHOCON_HELP (no flag has this name)",
        "CHOCON_PORT (made by Kubernetes or Docker for a link)",
        "CHOCON_PROT (no flag has this name)",
    ];
    assert_eq!(config.ignored_variables, expected);
    assert_eq!(config.listen.port(), 3000);
}

#[test]
fn names_and_shorts_are_told_apart_and_every_flag_says_what_it_is() {
    let mut words = vec!["version", "help"];
    let mut shorts = vec!['v', 'h'];
    for flag in all_flags() {
        assert!(!words.contains(&flag.name), "--{} twice", flag.name);
        words.push(flag.name);
        assert!(flag.short.is_none_or(|short| !shorts.contains(&short)), "--{}", flag.name);
        shorts.extend(flag.short);
        assert!(!flag.help.is_empty() && !flag.remedy.is_empty(), "--{}", flag.name);
        assert!(!flag.help.ends_with('.') && !flag.remedy.ends_with('.'), "--{}", flag.name);
    }
}

#[test]
fn switch_is_turned_on_by_its_name_and_off_against_its_variable() {
    let on = |args: &[&str], text| {
        run_with(args, &[("CHOCON_CHECK", text)]).map(|config| config.check_only)
    };
    assert_eq!(on(&[], ""), Ok(false));
    assert_eq!(on(&["--check"], ""), Ok(true));
    assert_eq!(on(&["--check", "--port", "1"], ""), Ok(true));
    assert_eq!(on(&["--check=false"], "true"), Ok(false));
    for (text, expected) in [("1", true), ("T", true), ("0", false), ("False", false)] {
        assert_eq!(on(&[], text), Ok(expected), "{text}");
    }
    let said = on(&[], "yes").expect_err("a mistake").text;
    let remedy = "give true or false, or no value for true";
    assert_eq!(said, format!("CHOCON_CHECK: \"yes\" is neither true nor false; {remedy}\n"));
    // A word behind a switch is not its value.
    assert!(on(&["--check", "false"], "").is_err());
}

#[test]
fn a_congestion_control_is_asked_of_the_kernel() {
    for name in ["warp", "a-name-longer-than-15-bytes"] {
        let said = mistakes(&["--tcp-congestion", name]);
        assert!(said[0].contains("is not known to the kernel; it has "), "{said:?}");
        assert!(said[0].contains("reno"), "{said:?}");
    }
    // Every kernel allows it to everybody.
    assert_eq!(config(&["--tcp-congestion", "reno"]).tcp_congestion.as_deref(), Some("reno"));
    assert_eq!(config(&["--tcp-congestion", ""]).tcp_congestion, None);
}

#[test]
fn the_path_of_the_upstream_does_not_count() {
    for (url, meant) in [
        ("http://up.test", "http://up.test"),
        ("http://up.test/", "http://up.test"),
        ("https://up.test:8443/a/b?c#d", "https://up.test:8443"),
        ("http://[2001:db8::1]:3000/a", "http://[2001:db8::1]:3000"),
    ] {
        let expected = OriginUrl::parse(meant).expect("a URL");
        assert_eq!(config(&["--upstream", url]).upstream, Some(expected), "{url}");
    }
    assert_eq!(config(&["--upstream="]).upstream, None);
    for bad in ["up.test", "http:///", "http://u:p@up.test/", "http://up.test:0/"] {
        assert!(mistakes(&["--upstream", bad])[0].contains("give http://NAME"), "{bad}");
    }
}

#[test]
fn tls_library_is_named_as_it_is_locked() {
    let lock = include_str!("../../Cargo.lock");
    let version = |name: &str| {
        let package = format!("name = \"{name}\"\nversion = \"");
        let (_, behind) = lock.split_once(&package).expect("a locked package");
        behind.split('"').next().expect("a version").to_owned()
    };
    let minor = version("rustls").split('.').take(2).collect::<Vec<_>>().join(".");
    assert_eq!(PROVIDER, format!("rustls {minor} with aws-lc-rs"));
    // What is named is what is built.
    version("aws-lc-rs");
}

#[test]
fn proxies_of_the_environment_are_taken_and_their_mistakes_told_with_the_others() {
    let given = run_with(&[], &[("HTTP_PROXY", "p:3128"), ("NO_PROXY", "a.test")]).expect("flags");
    assert!(given.proxies.before(Scheme::Http, "b.test", 80).is_some());
    assert!(given.proxies.before(Scheme::Http, "a.test", 80).is_none());
    let exit = run_with(&["--port", "x"], &[("https_proxy", "socks5://p")]).expect_err("mistakes");
    assert_eq!(exit.code, 2);
    let lines: Vec<&str> = exit.text.lines().collect();
    assert!(lines[0].starts_with("https_proxy: a proxy of scheme socks5"), "{lines:?}");
    assert!(lines[1].starts_with("--port"), "{lines:?}");
}

#[test]
fn an_origin_to_keep_warm_has_a_number_within_the_idle_connections() {
    let warm = |text: &str, connections| {
        vec![Warm { origin: OriginUrl::parse(text).expect("a URL"), connections }]
    };
    assert_eq!(config(&["--warm", "https://a.b"]).warm, warm("https://a.b", 1));
    assert_eq!(config(&["--warm", "http://a.b:81/=2"]).warm, warm("http://a.b:81", 2));
    assert_eq!(config(&["-c", "2", "--warm", "http://a=2"]).warm, warm("http://a", 2));
    assert_eq!(config(&["-c", "0", "--warm", "http://a=2"]).warm, warm("http://a", 2));
    let most = format!("http://a={WARM_CONNECTIONS_MAX}");
    assert_eq!(config(&["-c", "2000", "--warm", &most]).warm, warm("http://a", 1024));
    for (text, cause) in [
        ("a.b", "does not begin with http:// or https://"),
        ("https://a.b/path=2", "has a path, but only a name and a port count"),
        ("https://a.b=", "has no number of connections behind its ="),
        ("https://a.b=0", "has no number of connections behind its ="),
        ("https://a.b=1025", "has no number of connections behind its ="),
        ("https://a.b=3", "asks for more connections than --keepalive-conns lets be idle"),
    ] {
        let said = mistakes(&["-c", "2", "--warm", text]);
        assert_eq!(said, [format!("--warm: {text:?} {cause}; {}", WARM.remedy)]);
    }
    let said = mistakes(&["--warm-learned", "maybe"]);
    assert_eq!(said, [r#"--warm-learned: "maybe" is neither on nor off; give on or off"#]);
    let too_many: Vec<String> =
        (0..=WARM_ORIGINS_MAX).map(|n| format!("--warm=http://a{n}")).collect();
    let too_many: Vec<&str> = too_many.iter().map(String::as_str).collect();
    assert!(mistakes(&too_many)[0].contains("257 origins are too many"));
}
