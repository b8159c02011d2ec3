//! Where names are looked up: the hosts file, and name servers by way of hickory.

#![forbid(unsafe_code)]

use super::{
    Answer, DnsError,
    cache::{Family, Found, interleave},
};
use crate::limits::{HOSTS_TTL, NEGATIVE_TTL_MIN, RESOLUTION_DELAY};
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError as HickoryDnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use std::{
    fs,
    future::{Future, poll_fn},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

/// The files that say where names come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// None: no hosts file counts.
    pub hosts: Option<PathBuf>,
    pub resolv_conf: PathBuf,
}

/// What the files said at one time.
pub struct Current {
    pub changed: [Option<SystemTime>; 2],
    hosts: Hosts,
    resolver: Result<Servers, String>,
}

/// The name servers, and how names that are not fully qualified are completed.
pub struct Servers {
    resolver: TokioResolver,
    /// A name with at least as many dots is tried as it is first (resolv.conf(5)).
    ndots: usize,
    search: Vec<Name>,
}

impl Sources {
    pub fn changed(&self) -> [Option<SystemTime>; 2] {
        [self.hosts.as_ref(), Some(&self.resolv_conf)]
            .map(|path| fs::metadata(path?).and_then(|meta| meta.modified()).ok())
    }
}

impl Current {
    pub fn read(sources: &Sources, servers: Option<ResolverConfig>) -> Self {
        let changed = sources.changed();
        let mut hosts = Hosts::default();
        if let Some(path) = &sources.hosts {
            let read = fs::File::open(path).and_then(|file| hosts.read_hosts_conf(file));
            if let Err(e) = read {
                log::warn!("{} cannot be read ({e}); only name servers are asked", path.display());
            }
        }
        let resolver = build(sources, servers);
        if let Err(why) = &resolver {
            log::warn!("no name server can be asked: {why}");
        }
        Self { changed, hosts, resolver }
    }

    /// Looks for both families of `name`. One that takes longer than the other by `RESOLUTION_DELAY` comes behind.
    pub async fn lookup(&self, name: &str) -> ([Found; 2], Option<(Family, Looking)>) {
        let failed = |why| {
            let failed = || Found::Failed(DnsError::Failed(String::clone(why)));
            ([failed(), failed()], None)
        };
        let servers = match &self.resolver {
            Ok(servers) => servers,
            Err(why) => return failed(why),
        };
        let names = match servers.candidates(name) {
            Ok(names) => names,
            Err(why) => return failed(&why),
        };
        let mut last = failed(&"it has no name to look up".to_owned());
        for name in names {
            let families =
                (servers.look(&name, RecordType::A), servers.look(&name, RecordType::AAAA));
            last = both(families.0, families.1).await;
            // Only a name that is known not to be leads to the next: a failure says nothing of it, and the next may be
            // somebody else.
            if !last.0.iter().all(|found| matches!(found, Found::Nothing(..))) {
                break;
            }
        }
        last
    }

    pub fn in_hosts(&self, name: &Arc<str>, now: Instant) -> Option<Answer> {
        let parsed = Name::from_utf8(&**name).ok()?;
        let of = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(parsed.clone(), kind))?;
            Some(found.answers().iter().filter_map(|record| record.data.ip_addr()).collect())
        };
        let [v4, v6]: [Vec<IpAddr>; 2] =
            [RecordType::A, RecordType::AAAA].map(|kind| of(kind).unwrap_or_default());
        let addresses = interleave(&v4, &v6);
        (!addresses.is_empty()).then(|| Answer {
            name: name.clone(),
            result: Ok(addresses.into()),
            at: now,
            ttl: HOSTS_TTL,
        })
    }
}

/// A look-up of one family under way.
pub type Looking = Pin<Box<dyn Future<Output = Found>>>;

impl Servers {
    /// The names that `name` may stand for, in the order in which they are tried (resolv.conf(5): search, ndots).
    pub fn candidates(&self, name: &str) -> Result<Vec<Name>, String> {
        let parsed = Name::from_utf8(name).map_err(|e| format!("it is no name ({e})"))?;
        let mut as_it_is = parsed.clone();
        as_it_is.set_fqdn(true);
        let dots = name.bytes().filter(|b| *b == b'.').count();
        // A name that becomes too long is none.
        let searched =
            self.search.iter().filter_map(|domain| parsed.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = searched.collect();
        let first = dots >= self.ndots || parsed.is_localhost();
        names.insert(if first { 0 } else { names.len() }, as_it_is);
        Ok(names)
    }

    fn look(&self, name: &Name, kind: RecordType) -> Looking {
        let (resolver, name) = (self.resolver.clone(), name.clone());
        Box::pin(async move {
            match resolver.lookup(name, kind).await {
                Ok(found) => {
                    // What is left of a TTL is a moment less than the TTL; a second of it is nobody's loss.
                    let ttl = found.valid_until().saturating_duration_since(Instant::now());
                    let records = found.answers().iter();
                    let addresses: Vec<IpAddr> =
                        records.filter_map(|record| record.data.ip_addr()).collect();
                    match addresses.is_empty() {
                        true => Found::Nothing(DnsError::NoAddress, NEGATIVE_TTL_MIN),
                        false => Found::Addresses(addresses, ttl),
                    }
                }
                Err(e) => explain(e),
            }
        })
    }
}

/// UDP, and TCP where an answer is too long for it (RFC 7766 §5).
pub fn server_at(at: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection
    });
    NameServerConfig::new(at.ip(), true, connections.to_vec())
}

/// Waits for both families, and from the first addresses on no longer than `RESOLUTION_DELAY`.
async fn both(mut v4: Looking, mut v6: Looking) -> ([Found; 2], Option<(Family, Looking)>) {
    let mut found = [const { None }; 2];
    let mut delay = pin!(None);
    poll_fn(|cx| {
        for (found, looking) in found.iter_mut().zip([&mut v4, &mut v6]) {
            if found.is_none()
                && let Poll::Ready(then) = looking.as_mut().poll(cx)
            {
                *found = Some(then);
            }
        }
        if found.iter().all(Option::is_some) {
            return Poll::Ready(());
        }
        if !found.iter().flatten().any(|found| matches!(found, Found::Addresses(..))) {
            return Poll::Pending;
        }
        if delay.is_none() {
            delay.set(Some(tokio::time::sleep(RESOLUTION_DELAY)));
        }
        delay.as_mut().as_pin_mut().map_or(Poll::Pending, |delay| delay.poll(cx))
    })
    .await;
    match found {
        [Some(v4), Some(v6)] => ([v4, v6], None),
        [None, v6] => ([Found::Late, v6.unwrap_or(Found::Late)], Some((Family::V4, v4))),
        [Some(v4), None] => ([v4, Found::Late], Some((Family::V6, v6))),
    }
}

pub fn build(sources: &Sources, servers: Option<ResolverConfig>) -> Result<Servers, String> {
    let path = sources.resolv_conf.display();
    let (config, mut options) = match servers {
        Some(servers) => (servers, ResolverOpts::default()),
        None => {
            let text = fs::read(&sources.resolv_conf)
                .map_err(|e| format!("{path} cannot be read ({e}); give it a nameserver line"))?;
            parse_resolv_conf(text)
                .map_err(|e| format!("{path} cannot be used ({e}); give it a nameserver line"))?
        }
    };
    // Answers are kept by their TTL here; a second cache below would only hide what is left of it.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let ndots = options.ndots;
    // resolv.conf(5): domain and search exclude each other; the last of them counts.
    let search = match (config.search(), config.domain()) {
        ([], Some(domain)) => vec![domain.clone()],
        (search, _) => search.to_vec(),
    };
    let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|e| format!("the resolver cannot be set up ({e})"))?;
    Ok(Servers { resolver, ndots, search })
}

fn explain(error: NetError) -> Found {
    if let NetError::Dns(HickoryDnsError::NoRecordsFound(none)) = &error {
        let ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
        let kind = if error.is_nx_domain() { DnsError::NoSuchName } else { DnsError::NoAddress };
        return Found::Nothing(kind, ttl);
    }
    Found::Failed(match error {
        NetError::Timeout => DnsError::TimedOut,
        other => DnsError::Failed(other.to_string()),
    })
}
