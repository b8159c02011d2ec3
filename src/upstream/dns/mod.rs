//! Names to addresses, off the shards: one thread that runs hickory, and answers through call-backs.
//!
//! `/etc/hosts` wins, then the name servers, search list and options of `/etc/resolv.conf`; flags leave the one out, or
//! put other name servers in place of the other. Both files are read again when they change. Both families are looked
//! up at once, and neither waits for the other for long (RFC 8305 §3). What was found is kept here for all shards, so
//! that a name costs one look-up in its TTL and not one for each shard.

#![forbid(unsafe_code)]

mod cache;
mod lookups;
mod servers;

use crate::limits::LOOKUPS_WAITING_MAX;
use hickory_resolver::config::ResolverConfig;
use lookups::Lookups;
use servers::{Sources, server_at};
use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// A way to the resolver's thread; as many as there are shards.
#[derive(Clone)]
pub struct Resolver {
    questions: mpsc::Sender<Question>,
}

/// The queue of questions is full, or the resolver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What became of a name.
#[derive(Clone, Debug)]
pub struct Answer {
    pub name: Arc<str>,
    /// At least one address, at most `ADDRESSES_MAX`, both families in turn.
    pub result: Result<Arc<[IpAddr]>, DnsError>,
    /// When it was got.
    pub at: Instant,
    /// How long it holds from then on, also where it is an error.
    pub ttl: Duration,
}

impl Answer {
    pub fn until(&self) -> Instant {
        self.at + self.ttl
    }
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// NXDOMAIN.
    NoSuchName,
    /// The name exists and has no address.
    NoAddress,
    TimedOut,
    /// Everything else, in words.
    Failed(String),
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DnsError::NoSuchName => f.write_str("the name does not exist (NXDOMAIN)"),
            DnsError::NoAddress => f.write_str("the name has no address"),
            DnsError::TimedOut => f.write_str(
                "no name server answered in time; check /etc/resolv.conf or --dns-server",
            ),
            DnsError::Failed(cause) => write!(f, "the look-up failed: {cause}"),
        }
    }
}

struct Question {
    name: Arc<str>,
    newer_than: Option<Instant>,
    reply: Reply,
}

type Reply = Box<dyn FnOnce(Answer) + Send>;

impl Resolver {
    /// Starts the thread. `servers`, if any, are asked in place of those in resolv.conf, without its search list. Errors:
    /// it cannot be started.
    pub fn start(hosts_file: bool, servers: &[SocketAddr]) -> io::Result<Self> {
        let etc = PathBuf::from("/etc");
        let hosts = hosts_file.then(|| etc.join("hosts"));
        let servers = (!servers.is_empty()).then(|| {
            ResolverConfig::from_name_servers(servers.iter().copied().map(server_at).collect())
        });
        Self::with(Sources { hosts, resolv_conf: etc.join("resolv.conf") }, servers)
    }

    /// `servers` replaces the name servers of resolv.conf.
    fn with(sources: Sources, servers: Option<ResolverConfig>) -> io::Result<Self> {
        let (questions, mut asked) = mpsc::channel::<Question>(LOOKUPS_WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("dns".into()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                let mut lookups = Lookups::new(sources, servers);
                while let Some(question) = asked.recv().await {
                    lookups.take(question);
                }
            });
        })?;
        Ok(Self { questions })
    }

    /// Asks for the addresses of `name` (a host name in lower case, no address). An answer in force will do, unless the
    /// asker has it: it wants one got after `newer_than`. `reply` runs once, on the resolver's thread, within
    /// `LOOKUP_WITHIN` of its turn.
    pub fn ask(
        &self,
        name: Arc<str>,
        newer_than: Option<Instant>,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), Busy> {
        let question = Question { name, newer_than, reply: Box::new(reply) };
        self.questions.try_send(question).map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests;
