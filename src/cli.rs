//! Flags as typed become the configuration as meant. The only file that knows clap.
//!
//! clap splits the command line and prints the help. It sees every value as bare text: values are
//! checked by us, all of them, so that one run reports every mistake and not only the first.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser};
use ipnet::IpNet;
use log::LevelFilter;

use crate::cli::values::{
    read_access_log, read_address, read_duration, read_level, read_network, try_directory,
    whole_number,
};
use crate::config::{AccessLogTo, Config};
use crate::limits::{ALLOW_CIDRS_MAX, KEEPALIVE_CONNS_MAX, SHARDS_MAX};

/// Why the process ends without serving: help or version was asked for, or the flags are mistaken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process's exit status: 0, or 2 for mistakes.
    pub code: i32,
    /// What to print first; whole lines.
    pub text: String,
    /// Where to print it.
    pub to: Output,
}

/// Where the text of an `Exit` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Reads a command line, the program's name first. `--hdr-dir` is tried on the file system.
///
/// Errors: help and version if asked for; else all mistakes, a line each with cause and remedy.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Config, Exit> {
    let mut check = Check { mistakes: Vec::new() };
    let typed = split(args.into_iter().collect(), &mut check)?;
    if typed.version {
        return Err(Exit { code: 0, text: version(), to: Output::Stdout });
    }
    let config = check.config(typed);
    if check.mistakes.is_empty() { Ok(config) } else { Err(check.exit()) }
}

/// Flags as typed.
#[derive(Parser)]
#[command(
    name = "chocon-uring",
    about = "HTTP proxy that keeps warm connections to far HTTP and HTTPS origins",
    override_usage = "chocon-uring [flags]",
    after_help = AFTER_HELP,
    disable_version_flag = true,
    disable_help_flag = true,
    args_override_self = true,
    allow_negative_numbers = true,
)]
struct Typed {
    /// IP address to listen on [default: 0.0.0.0]
    #[arg(short, long, value_name = "ADDR", help_heading = "Listening")]
    listen: Option<Option<OsString>>,
    /// Port to listen on; 0: the kernel chooses [default: 3000]
    #[arg(short, long, value_name = "N", help_heading = "Listening")]
    port: Option<Option<OsString>>,
    /// Shards, each a thread on a CPU of its own [default: every CPU this process may use]
    #[arg(long, value_name = "N", help_heading = "Listening")]
    cores: Option<Option<OsString>>,

    /// Idle connections kept per origin, process-wide; 0: none [default: 256]
    #[arg(short = 'c', long, value_name = "N", help_heading = "Origins")]
    keepalive_conns: Option<Option<OsString>>,
    /// How long an idle connection to an origin is kept [default: 50s]
    #[arg(long, value_name = "TIME", help_heading = "Origins")]
    keepalive_timeout: Option<Option<OsString>>,
    /// Reach addresses in CIDR though they are refused by default; may be repeated
    #[arg(long, value_name = "CIDR", help_heading = "Origins",
          num_args = 0..=1, default_missing_value = "", action = ArgAction::Append)]
    allow_cidr: Vec<OsString>,

    /// Whole request from the client, head and body; 0: no deadline [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    read_timeout: Option<Option<OsString>>,
    /// From the end of the request head to the end of the response; 0: none [default: 90s]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    write_timeout: Option<Option<OsString>>,
    /// Until the origin's response head; 0: no deadline [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    proxy_read_timeout: Option<Option<OsString>>,
    /// TCP connection to an origin [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    connect_timeout: Option<Option<OsString>>,
    /// TLS handshake with an origin [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    tls_timeout: Option<Option<OsString>>,
    /// A client's connection without a request [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    client_idle_timeout: Option<Option<OsString>>,
    /// Requests in flight after SIGTERM; 0: cut at once [default: 1h]
    #[arg(long, value_name = "TIME", help_heading = "Deadlines")]
    shutdown_timeout: Option<Option<OsString>>,

    /// Access log to: "" or stderr, stdout, none [default: ""]
    #[arg(long, value_name = "WHERE", help_heading = "Logs and latencies")]
    access_log_dir: Option<Option<OsString>>,
    /// Diagnostics to stderr: error, warn, info, debug [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Logs and latencies")]
    log_level: Option<Option<OsString>>,
    /// Directory for one .hgrm file per origin at SIGUSR1 [default: none, table only]
    #[arg(long, value_name = "DIR", help_heading = "Logs and latencies")]
    hdr_dir: Option<Option<OsString>>,

    /// Print name, version, compiler and TLS library
    #[arg(short, long, help_heading = "Other")]
    version: bool,
    /// Print this
    #[arg(short, long, help_heading = "Other", action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// Not typed, typed without a value, or typed with one.
type Value = Option<Option<OsString>>;

const AFTER_HELP: &str = "\
TIME: whole seconds (90) or with units (500ms, 1.5h, 1h30m).
SIGUSR1 prints a table of latencies per origin to stderr; SIGTERM ends gracefully.

  curl -H 'Host: example.com.ccnproxy-https' http://127.0.0.1:3000/";

/// The TLS library and its cryptography, as `--version` names them.
const TLS: &str = "rustls 0.23, aws-lc-rs";

/// Flags of chocon that are not there yet; each takes one value.
const CHOCON_FLAGS: [&str; 7] = [
    "--access-log-rotate",
    "--access-log-rotate-time",
    "--pid-file",
    "--max-conns-per-host",
    "--upstream",
    "--stsize",
    "--spfactor",
];

/// A flag in messages: its name, and what to do about a mistake in it.
struct Flag(&'static str, &'static str);

const TIME: &str = "give seconds (90) or a duration with units (500ms, 90s, 1h30m)";
const TIME_ABOVE_ZERO: &str =
    "give seconds (90) or a duration with units (500ms, 90s, 1h30m), above zero";

const LISTEN: Flag = Flag("--listen", "give an IP address such as 0.0.0.0, 127.0.0.1 or ::");
const PORT: Flag = Flag("--port", "give 0 to 65535");
const CORES: Flag = Flag("--cores", "give 1 to 1024, or leave it out for every usable CPU");
const KEEPALIVE_CONNS: Flag = Flag("--keepalive-conns", "give 0 to 1000000");
const KEEPALIVE_TIMEOUT: Flag = Flag("--keepalive-timeout", TIME_ABOVE_ZERO);
const ALLOW_CIDR: Flag =
    Flag("--allow-cidr", "give a network such as 169.254.10.0/24 or fd00::/8, or one address");
const READ_TIMEOUT: Flag = Flag("--read-timeout", TIME);
const WRITE_TIMEOUT: Flag = Flag("--write-timeout", TIME);
const PROXY_READ_TIMEOUT: Flag = Flag("--proxy-read-timeout", TIME);
const CONNECT_TIMEOUT: Flag = Flag("--connect-timeout", TIME_ABOVE_ZERO);
const TLS_TIMEOUT: Flag = Flag("--tls-timeout", TIME_ABOVE_ZERO);
const CLIENT_IDLE_TIMEOUT: Flag = Flag("--client-idle-timeout", TIME_ABOVE_ZERO);
const SHUTDOWN_TIMEOUT: Flag = Flag("--shutdown-timeout", TIME);
const ACCESS_LOG_DIR: Flag =
    Flag("--access-log-dir", "use stderr (or \"\"), stdout or none, and let the supervisor rotate");
const LOG_LEVEL: Flag = Flag("--log-level", "give error, warn, info or debug");
const HDR_DIR: Flag = Flag("--hdr-dir", "give an existing directory that this user may write to");

/// Lets clap split `args`. What clap does not know is noted and taken out, and the rest is tried
/// again: clap itself would stop at the first.
fn split(mut args: Vec<OsString>, check: &mut Check) -> Result<Typed, Exit> {
    loop {
        let error = match Typed::try_parse_from(&args) {
            Ok(typed) => return Ok(typed),
            Err(error) => error,
        };
        if error.kind() == ErrorKind::DisplayHelp {
            return Err(Exit { code: 0, text: help(), to: Output::Stdout });
        }
        let context = |kind| error.get(kind).map(ToString::to_string);
        let culprit = context(ContextKind::InvalidArg).unwrap_or_default();
        check.mistakes.push(match error.kind() {
            ErrorKind::UnknownArgument => unknown(&culprit, context(ContextKind::SuggestedArg)),
            // `--version=1`: clap puts the cause first and advice below it.
            _any_other => {
                let text = error.to_string();
                let cause = text.lines().next().unwrap_or_default();
                cause.trim_start_matches("error: ").to_owned()
            }
        });
        // Where clap's words cannot be found again, the search for more mistakes ends here.
        let Some(position) = position_of(&culprit, &args) else {
            return Err(check.exit());
        };
        let removed = args.remove(position);
        // The word behind an unknown flag is most likely its value, and no mistake of its own.
        let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
        let has_value = removed.as_encoded_bytes().contains(&b'=');
        if is_flag(&removed) && !has_value && args.get(position).is_some_and(|arg| !is_flag(arg)) {
            args.remove(position);
        }
    }
}

fn unknown(culprit: &str, suggested: Option<String>) -> String {
    if CHOCON_FLAGS.contains(&culprit) {
        return format!("{culprit}: a flag of chocon that is not there yet; leave it out");
    }
    if !culprit.starts_with('-') {
        return format!("{culprit:?} belongs to no flag; leave it out or name its flag");
    }
    match suggested {
        Some(flag) => format!("{culprit}: there is no such flag; did you mean {flag}?"),
        None => format!("{culprit}: there is no such flag; --help lists them"),
    }
}

/// Where clap's culprit stands among the arguments: alone, with `=value`, or among short flags.
fn position_of(culprit: &str, args: &[OsString]) -> Option<usize> {
    let find = |fits: &dyn Fn(&str) -> bool| {
        let behind_name = args.iter().skip(1).position(|arg| fits(&arg.to_string_lossy()))?;
        Some(behind_name + 1)
    };
    find(&|arg| arg == culprit)
        .or_else(|| find(&|arg| arg.strip_prefix(culprit).is_some_and(|r| r.starts_with('='))))
        .or_else(|| {
            let short = culprit.strip_prefix('-').filter(|short| !short.starts_with('-'))?;
            find(&|arg| arg.starts_with('-') && !arg.starts_with("--") && arg.contains(short))
        })
}

/// The help, for people: it shows values as required. To the parser they are optional, so that a
/// missing one is a mistake like any other and does not end the search for more.
fn help() -> String {
    let mut command = Typed::command()
        .mut_args(|arg| if arg.get_action().takes_values() { arg.num_args(1) } else { arg });
    command.render_help().to_string()
}

fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let compiler = env!("CHOCON_URING_RUSTC");
    format!("chocon-uring {version}\nCompiler: {compiler}\nTLS: {TLS}\n")
}

/// Checks values and gathers what is wrong with them.
struct Check {
    mistakes: Vec<String>,
}

impl Check {
    /// The configuration as meant. Where a mistake was found the default stands in.
    fn config(&mut self, typed: Typed) -> Config {
        let any = IpAddr::from([0, 0, 0, 0]);
        let secs = Duration::from_secs;
        let address = self.value(LISTEN, typed.listen, any, read_address);
        let port = self.value(PORT, typed.port, 3000, |text| {
            whole_number(text, 0..=65_535).map(|port| port as u16).ok_or("is not a port")
        });
        Config {
            listen: SocketAddr::new(address, port),
            cores: self.value(CORES, typed.cores, None, |text| {
                whole_number(text, 1..=SHARDS_MAX).map(Some).ok_or("is not a number of shards")
            }),
            access_log: self.value(
                ACCESS_LOG_DIR,
                typed.access_log_dir,
                AccessLogTo::Stderr,
                read_access_log,
            ),
            keepalive_conns: self.value(KEEPALIVE_CONNS, typed.keepalive_conns, 256, |text| {
                whole_number(text, 0..=KEEPALIVE_CONNS_MAX).ok_or("is not a number of connections")
            }),
            keepalive_timeout: self.above_zero(KEEPALIVE_TIMEOUT, typed.keepalive_timeout, 50),
            read_timeout: self.deadline(READ_TIMEOUT, typed.read_timeout, 30),
            write_timeout: self.deadline(WRITE_TIMEOUT, typed.write_timeout, 90),
            proxy_read_timeout: self.deadline(PROXY_READ_TIMEOUT, typed.proxy_read_timeout, 60),
            connect_timeout: self.above_zero(CONNECT_TIMEOUT, typed.connect_timeout, 30),
            tls_timeout: self.above_zero(TLS_TIMEOUT, typed.tls_timeout, 10),
            client_idle_timeout: self.above_zero(
                CLIENT_IDLE_TIMEOUT,
                typed.client_idle_timeout,
                60,
            ),
            shutdown_timeout: self.value(
                SHUTDOWN_TIMEOUT,
                typed.shutdown_timeout,
                secs(3600),
                read_duration,
            ),
            hdr_dir: self.hdr_dir(typed.hdr_dir),
            allow_cidr: self.allow_cidr(typed.allow_cidr),
            log_level: self.value(LOG_LEVEL, typed.log_level, LevelFilter::Info, read_level),
        }
    }

    fn value<T>(
        &mut self,
        flag: Flag,
        typed: Value,
        default: T,
        read: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> T {
        let Some(value) = typed else { return default };
        let (quoted, result) = match &value {
            None => (String::new(), Err("has no value")),
            Some(value) => match value.to_str() {
                Some(text) => (format!(" {text:?}"), read(text)),
                None => (format!(" {value:?}"), Err("is not UTF-8")),
            },
        };
        result.unwrap_or_else(|cause| {
            self.mistakes.push(format!("{}:{quoted} {cause}; {}", flag.0, flag.1));
            default
        })
    }

    /// A deadline that 0 turns off.
    fn deadline(&mut self, flag: Flag, typed: Value, default_secs: u64) -> Option<Duration> {
        let default = Duration::from_secs(default_secs);
        let duration = self.value(flag, typed, default, read_duration);
        (!duration.is_zero()).then_some(duration)
    }

    fn above_zero(&mut self, flag: Flag, typed: Value, default_secs: u64) -> Duration {
        let default = Duration::from_secs(default_secs);
        self.value(flag, typed, default, |text| match read_duration(text)? {
            Duration::ZERO => Err("is zero"),
            duration => Ok(duration),
        })
    }

    fn hdr_dir(&mut self, typed: Value) -> Option<PathBuf> {
        let mistake = match typed? {
            None => " has no value".to_owned(),
            Some(dir) => match try_directory(Path::new(&dir)) {
                Ok(()) => return Some(dir.into()),
                Err(cause) => format!(" {dir:?} {cause}"),
            },
        };
        self.mistakes.push(format!("{}:{mistake}; {}", HDR_DIR.0, HDR_DIR.1));
        None
    }

    fn allow_cidr(&mut self, typed: Vec<OsString>) -> Vec<IpNet> {
        if typed.len() > ALLOW_CIDRS_MAX {
            let count = typed.len();
            self.mistakes.push(format!(
                "{}: {count} networks are too many; give {ALLOW_CIDRS_MAX} at most",
                ALLOW_CIDR.0
            ));
        }
        let read = |text: &str| read_network(text).map(Some);
        typed
            .into_iter()
            .filter_map(|value| self.value(ALLOW_CIDR, Some(Some(value)), None, read))
            .collect()
    }

    /// The end of a process whose flags are mistaken.
    fn exit(&mut self) -> Exit {
        let mut text = self.mistakes.join("\n");
        text.push('\n');
        Exit { code: 2, text, to: Output::Stderr }
    }
}

mod values;

#[cfg(test)]
mod tests;
