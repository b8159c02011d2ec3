//! The command line as a user meets it.

mod environment;
mod mistakes;
mod texts;
mod values;

use super::*;
use crate::authority::{OriginUrl, Scheme};
use crate::config::{AccessLogTo, ApiAt, LogDirectory, LogFormat, Sampling, Warm};
use crate::rules::{Http2Rule, Map, Pattern};
use log::LevelFilter;
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
        busy_poll: Duration::ZERO,
        api: ApiAt::Main,
        sampling: Sampling { kept: 1000, one_in: 3 },
        access_log: AccessLogTo::Stderr,
        access_log_format: LogFormat::Json,
        keepalive_conns: 256,
        max_conns_per_host: 0,
        keepalive_timeout: secs(50),
        warm: vec![],
        warm_learned: true,
        warm_wait: secs(1),
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
        "--busy-poll=50us",
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
        "https://up.test:8443=4",
        "--warm-learned=off",
        "--warm-wait=2500ms",
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
        busy_poll: Duration::from_micros(50),
        api: ApiAt::Address("[::1]:0".parse().expect("an address")),
        sampling: Sampling { kept: 50, one_in: 1 },
        access_log: AccessLogTo::Off,
        access_log_format: LogFormat::Ltsv,
        keepalive_conns: 32,
        max_conns_per_host: 3,
        keepalive_timeout: Duration::from_secs(60),
        warm: vec![Warm {
            origin: OriginUrl::parse("https://up.test:8443").expect("a URL"),
            connections: 4,
        }],
        warm_learned: false,
        warm_wait: Duration::from_millis(2500),
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
