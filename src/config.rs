//! What the process was told to do: typed, checked and immutable, made once before the shards.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use crate::authority::OriginUrl;
use crate::rules::Rules;
use crate::via::Proxies;

/// The whole configuration. Each field names the flag it comes from; `None` for a deadline means
/// that there is none, as 0 does in Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--listen` and `--port`; port 0: the kernel chooses.
    pub listen: SocketAddr,
    /// `--cores`: how many shards, 1 to `SHARDS_MAX`; None: one for each CPU that may be used.
    pub cores: Option<usize>,
    /// `--busy-poll`, at most `BUSY_POLL_MAX`; zero: off.
    pub busy_poll: Duration,
    /// `--api`.
    pub api: ApiAt,
    /// `--stsize` and `--spfactor`.
    pub sampling: Sampling,
    /// `--access-log-dir`.
    pub access_log: AccessLogTo,
    /// `--access-log-format`.
    pub access_log_format: LogFormat,
    /// `--keepalive-conns`: idle connections kept per origin by the whole process; 0 keeps none.
    pub keepalive_conns: usize,
    /// `--max-conns-per-host`: connections to one origin by the whole process; 0: no bound.
    pub max_conns_per_host: usize,
    /// `--keepalive-timeout`: how long an idle connection to an origin is kept. Not zero.
    pub keepalive_timeout: Duration,
    /// `--warm`: what is kept ready.
    pub warm: Vec<Warm>,
    /// `--warm-learned`: whether origins in use are kept ready, too.
    pub warm_learned: bool,
    /// `--warm-wait`: how long the start waits for connections that are to be ready; zero: not at all.
    pub warm_wait: Duration,
    /// `--state-file`: where learned origins survive a restart; its directory was writable at the start.
    pub state_file: Option<PathBuf>,
    /// `--read-timeout`: for the whole request from the client, head and body.
    pub read_timeout: Option<Duration>,
    /// `--write-timeout`: from the end of the request's head to the end of the response.
    pub write_timeout: Option<Duration>,
    /// `--proxy-read-timeout`: from the request sent whole to the origin's response head.
    pub proxy_read_timeout: Option<Duration>,
    /// `--connect-timeout`: for the look-up and the TCP connection to an origin, all its addresses together, and for the
    /// wait in line under `--max-conns-per-host`. Not zero.
    pub connect_timeout: Duration,
    /// `--tls-timeout`: for one TLS handshake with an origin. Not zero.
    pub tls_timeout: Duration,
    /// `--client-idle-timeout`: how long a client's connection waits for a next request. Not zero.
    pub client_idle_timeout: Duration,
    /// `--shutdown-timeout`: grace for requests in flight after SIGTERM; zero: none.
    pub shutdown_timeout: Duration,
    /// `--hdr-dir`: where SIGUSR1 puts `.hgrm` files; existed and was writable at the start.
    pub hdr_dir: Option<PathBuf>,
    /// `--allow-cidr`: addresses that may be reached though they are refused by default.
    pub allow_cidr: Vec<IpNet>,
    /// `--tcp-congestion`: of connections to origins, tried on the kernel; None: the kernel's default.
    pub tcp_congestion: Option<String>,
    /// `--upstream`: where all requests go, whatever their Host.
    pub upstream: Option<OriginUrl>,
    /// `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`: proxies on the way to the origins.
    pub proxies: Proxies,
    /// `--map`, `--upgrade-https`, `--forward`: where names without a ccnproxy label may go.
    pub rules: Rules,
    /// `--resolver`: whether addresses in the hosts file count.
    pub hosts_file: bool,
    /// `--dns-server`: asked in place of those in resolv.conf; none: those are.
    pub dns_servers: Vec<SocketAddr>,
    /// `--log-level`.
    pub log_level: LevelFilter,
    /// `--pid-file`.
    pub pid_file: Option<PathBuf>,
    /// `--check`: find out what would keep the process from serving, and serve nothing.
    pub check_only: bool,
    /// Variables of the environment that look like ours and are not used, each with why.
    pub ignored_variables: Vec<String>,
}

/// An origin to which connections are kept ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warm {
    pub origin: OriginUrl,
    /// At least 1.
    pub connections: usize,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    Stderr,
    Stdout,
    Off,
    Directory(LogDirectory),
}

/// Log files and how long they stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirectory {
    /// Made at the start if it does not exist.
    pub dir: PathBuf,
    /// `--access-log-rotate-time`: how much time one file covers; less than a minute counts as one.
    pub rotate_every: Duration,
    /// `--access-log-rotate` times that: files last written to before it are removed.
    pub keep_for: Duration,
}

/// Where `/.api/stats` and `/.api/http-stats` are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiAt {
    Off,
    /// Where clients are served, whatever their Host.
    Main,
    /// At an address of its own; port 0: the kernel chooses.
    Address(SocketAddr),
}

/// How many requests are sampled for `/.api/http-stats`, and how many samples are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// `--stsize`: samples kept, of all shards together. At least 2.
    pub kept: usize,
    /// `--spfactor`: one request in so many is sampled, by chance. At least 1.
    pub one_in: u32,
}

/// `--access-log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// chocon's JSON.
    Json,
    /// chocon's JSON and, behind it, how the request was served.
    JsonPlus,
    /// chocon's line before it wrote JSON, in Apache's manner.
    Apache,
    /// Labelled tab-separated values, <http://ltsv.org/>.
    Ltsv,
}
