//! Flags as typed become the configuration as meant.
//!
//! To add a flag:
//! 1. Declare it in the file of its group (`listening`, `origins`, `routes`, ...) and
//!    list it in that file's `GROUP`. Help, suggestions and environment variable follow from that.
//! 2. Add a field to [`Config`], its line in `config` below, and its default to `tests.rs`.
//!    `Check` has what most flags need: `value`, `optional`, `list`, `number`, `deadline`,
//!    `above_zero`, `switch`, `path`. A reader of one flag stands in its group's file.
//! 3. A bound on its value stands in `limits/`.
#![forbid(unsafe_code)]

mod check;
mod deadlines;
mod flag;
mod given;
mod listening;
mod logs;
mod origins;
mod other;
mod routes;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;

use check::Check;
use deadlines::{
    CLIENT_IDLE_TIMEOUT, CONNECT_TIMEOUT, PROXY_READ_TIMEOUT, READ_TIMEOUT, SHUTDOWN_TIMEOUT,
    TLS_TIMEOUT, WRITE_TIMEOUT,
};
use given::{Given, Stop};
use listening::{
    API, BUSY_POLL, CORES, LISTEN, PORT, read_address, read_api, read_busy_poll, read_port,
};
use logs::{
    ACCESS_LOG_DIR, ACCESS_LOG_FORMAT, ACCESS_LOG_ROTATE, ACCESS_LOG_ROTATE_TIME, HDR_DIR,
    LOG_LEVEL, SPFACTOR, STSIZE, read_access_log, read_format, read_level,
};
use origins::{
    ALLOW_CIDR, KEEPALIVE_CONNS, KEEPALIVE_TIMEOUT, MAX_CONNS_PER_HOST, STATE_FILE, TCP_CONGESTION,
    UPSTREAM_HTTP2, WARM, WARM_LEARNED, WARM_WAIT, read_congestion, read_http2, read_network,
    read_on_off, read_warm,
};
use other::{CHECK, PID_FILE};
use routes::{
    DNS_SERVER, FORWARD, MAP, RESOLVER, UPGRADE_HTTPS, UPSTREAM, read_dns_server, read_maps,
    read_pattern, read_resolver, read_upstream,
};
use values::{read_duration, try_directory, try_place, whole_number};

use crate::config::{AccessLogTo, Config, Sampling};
use crate::limits::{
    ALLOW_CIDRS_MAX, DNS_SERVERS_MAX, KEEPALIVE_CONNS_MAX, LOG_ROTATE_MINUTES_MAX,
    LOG_ROTATIONS_KEPT_MAX, RULES_MAX, SAMPLED_ONE_IN_MAX, SAMPLES_KEPT_MAX, SHARDS_MAX,
    WARM_ORIGINS_MAX,
};
use crate::rules::Rules;
use crate::upstream::tls::PROVIDER;
use crate::via::Proxies;

/// Why the process ends without serving: help or version was asked for, or the flags are mistaken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process's exit status: 0, or 2 for mistakes.
    pub code: i32,
    /// What to print first; whole lines.
    pub text: String,
    /// Where to print it.
    pub to: Output,
    /// Flags are mistaken, and `--check` is among them: what else is missing is to be told too.
    pub check_only: bool,
}

/// Where the text of an `Exit` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Reads a command line, the program's name first, and the environment. Directories are tried on
/// the file system.
///
/// Errors: help and version if asked for; else all mistakes, a line each with cause and remedy.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Exit> {
    let mut mistakes = Vec::new();
    let variables: Vec<_> = variables.into_iter().collect();
    let proxies = Proxies::read(|name| text_of(&variables, name), &mut mistakes);
    let given = match Given::read(args, variables, &mut mistakes) {
        Ok(given) if given.version => return Err(Exit::answer(version())),
        Ok(given) => given,
        Err(Stop::Help(text)) => return Err(Exit::answer(text)),
        Err(Stop::Lost) => return Err(Exit::mistaken(&mistakes)),
    };
    let ignored = given.ignored.clone();
    let mut check = Check::new(given, mistakes);
    let config = Config { proxies, ..config(&mut check, ignored) };
    check.add(origins::warm_in_vain(&config));
    match check.into_mistakes() {
        none if none.is_empty() => Ok(config),
        mistakes => Err(Exit { check_only: config.check_only, ..Exit::mistaken(&mistakes) }),
    }
}

fn config(check: &mut Check, ignored_variables: Vec<String>) -> Config {
    let listen = SocketAddr::new(check.value(&LISTEN, read_address), check.value(&PORT, read_port));
    let api = check.value(&API, read_api);
    let cores = check.optional(&CORES, |text| {
        whole_number(text, 1..=SHARDS_MAX).ok_or("is not a number of shards")
    });
    let busy_poll = check.value(&BUSY_POLL, read_busy_poll);
    // Another flag is held to it.
    let keepalive_conns =
        check.number(&KEEPALIVE_CONNS, 0..=KEEPALIVE_CONNS_MAX, "is not a number of connections");
    Config {
        listen,
        api,
        cores,
        busy_poll,

        keepalive_conns,
        max_conns_per_host: check.number(
            &MAX_CONNS_PER_HOST,
            0..=KEEPALIVE_CONNS_MAX,
            "is not a number of connections",
        ),
        keepalive_timeout: check.above_zero(&KEEPALIVE_TIMEOUT),
        warm: check
            .list(&WARM, WARM_ORIGINS_MAX, "origins", |text| read_warm(text, keepalive_conns)),
        warm_learned: check.value(&WARM_LEARNED, read_on_off),
        warm_wait: check.value(&WARM_WAIT, read_duration),
        state_file: check.path(&STATE_FILE, try_place),
        allow_cidr: check.list(&ALLOW_CIDR, ALLOW_CIDRS_MAX, "networks", read_network),
        tcp_congestion: check.optional(&TCP_CONGESTION, read_congestion),

        upstream: check.optional(&UPSTREAM, read_upstream),
        proxies: Proxies::default(),
        rules: Rules {
            maps: check.list(&MAP, RULES_MAX, "maps", read_maps()),
            upgrade_https: check.list(&UPGRADE_HTTPS, RULES_MAX, "patterns", read_pattern),
            forward: check.list(&FORWARD, RULES_MAX, "patterns", read_pattern),
            http2: check.list(&UPSTREAM_HTTP2, RULES_MAX, "patterns", read_http2),
        },
        hosts_file: check.value(&RESOLVER, read_resolver),
        dns_servers: check.list(&DNS_SERVER, DNS_SERVERS_MAX, "name servers", read_dns_server),

        read_timeout: check.deadline(&READ_TIMEOUT),
        write_timeout: check.deadline(&WRITE_TIMEOUT),
        proxy_read_timeout: check.deadline(&PROXY_READ_TIMEOUT),
        connect_timeout: check.above_zero(&CONNECT_TIMEOUT),
        tls_timeout: check.above_zero(&TLS_TIMEOUT),
        client_idle_timeout: check.above_zero(&CLIENT_IDLE_TIMEOUT),
        shutdown_timeout: check.value(&SHUTDOWN_TIMEOUT, read_duration),

        sampling: sampling(check),
        access_log: access_log(check),
        access_log_format: check.value(&ACCESS_LOG_FORMAT, read_format),
        log_level: check.value(&LOG_LEVEL, read_level),
        hdr_dir: check.path(&HDR_DIR, try_directory),

        pid_file: check.path(&PID_FILE, try_place),
        check_only: check.switch(&CHECK),
        ignored_variables,
    }
}

fn sampling(check: &mut Check) -> Sampling {
    let kept = check.number(&STSIZE, 2..=SAMPLES_KEPT_MAX, "is not a number of samples");
    let one_in = check.number(&SPFACTOR, 1..=SAMPLED_ONE_IN_MAX, "is not a number of requests");
    Sampling { kept, one_in: one_in as u32 } // Checked: at most a million.
}

fn access_log(check: &mut Check) -> AccessLogTo {
    let kept = check.number(
        &ACCESS_LOG_ROTATE,
        0..=LOG_ROTATIONS_KEPT_MAX,
        "is not a number of rotations",
    );
    let minutes = check.number(
        &ACCESS_LOG_ROTATE_TIME,
        0..=LOG_ROTATE_MINUTES_MAX,
        "is not a number of minutes",
    );
    check.value(&ACCESS_LOG_DIR, |text| read_access_log(text, minutes, kept))
}

/// A variable that is no UTF-8 shows itself by what stands in place of the odd bytes.
fn text_of(variables: &[(OsString, OsString)], name: &str) -> Option<String> {
    let (_, text) = variables.iter().find(|(known, _)| *known == *name)?;
    Some(text.to_string_lossy().into_owned())
}

fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let compiler = env!("CHOCON_URING_RUSTC");
    format!("chocon-uring {version}\nCompiler: {compiler}\nTLS: {PROVIDER}\n")
}

impl Exit {
    fn answer(text: String) -> Self {
        Self { code: 0, text, to: Output::Stdout, check_only: false }
    }

    fn mistaken(mistakes: &[String]) -> Self {
        let text = mistakes.join("\n") + "\n";
        Self { code: 2, text, to: Output::Stderr, check_only: false }
    }
}
