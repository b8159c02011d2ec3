//! Names to addresses, off the shards: one thread that runs hickory, and answers through call-backs.
//!
//! `/etc/hosts` wins, then the name servers, search list and options of `/etc/resolv.conf`; flags leave the one out, or
//! put other name servers in place of the other. Both files are read again when they change. An answer carries the smallest TTL of its records; shards keep it that long.

#![forbid(unsafe_code)]

use crate::limits::{
    ADDRESSES_MAX, HOSTS_TTL, LOOKUP_WITHIN, LOOKUPS_WAITING_MAX, NEGATIVE_TTL_MAX,
    NEGATIVE_TTL_MIN, POSITIVE_TTL_MAX, POSITIVE_TTL_MIN,
};
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
    cell::RefCell,
    collections::HashMap,
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
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
    /// How long it holds, also where it is an error.
    pub ttl: Duration,
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
    reply: Reply,
}

type Reply = Box<dyn FnOnce(Answer) + Send>;

/// The files that say where names come from.
#[derive(Clone, Debug)]
struct Sources {
    /// None: no hosts file counts.
    hosts: Option<PathBuf>,
    resolv_conf: PathBuf,
}

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

    /// Asks for the addresses of `name` (a host name in lower case, no address). `reply` runs once, on the resolver's
    /// thread, within `LOOKUP_WITHIN`.
    pub fn ask(
        &self,
        name: Arc<str>,
        reply: impl FnOnce(Answer) + Send + 'static,
    ) -> Result<(), Busy> {
        self.questions.try_send(Question { name, reply: Box::new(reply) }).map_err(|_| Busy)
    }
}

/// The thread's state: the configuration in force, and who waits for which name.
struct Lookups {
    sources: Sources,
    servers: Option<ResolverConfig>,
    current: Rc<Current>,
    /// When the files were last looked at.
    looked: Instant,
    waiting: Rc<RefCell<HashMap<Arc<str>, Vec<Reply>>>>,
}

/// What the files said at one time.
struct Current {
    changed: [Option<SystemTime>; 2],
    hosts: Hosts,
    resolver: Result<TokioResolver, String>,
}

impl Lookups {
    fn new(sources: Sources, servers: Option<ResolverConfig>) -> Self {
        let current = Rc::new(Current::read(&sources, servers.clone()));
        Self { sources, servers, current, looked: Instant::now(), waiting: Rc::default() }
    }

    fn take(&mut self, question: Question) {
        let mut waiting = self.waiting.borrow_mut();
        let replies = waiting.entry(question.name.clone()).or_default();
        replies.push(question.reply);
        if replies.len() > 1 {
            // A look-up of this name is under way; its answer serves all.
            return;
        }
        drop(waiting);
        self.refresh();
        let (current, waiting) = (self.current.clone(), self.waiting.clone());
        tokio::task::spawn_local(async move {
            let failed = DnsError::Failed("the look-up ended in a panic".to_owned());
            let mut pending = Pending {
                answer: Answer { name: question.name, result: Err(failed), ttl: NEGATIVE_TTL_MIN },
                waiting,
            };
            let lookup = current.lookup(&pending.answer.name);
            let ended = tokio::time::timeout(LOOKUP_WITHIN, lookup).await;
            let (result, ttl) = ended.unwrap_or((Err(DnsError::TimedOut), NEGATIVE_TTL_MIN));
            pending.answer.result = result;
            pending.answer.ttl = ttl;
        });
    }

    /// Reads the files again if they changed; looks at most once a second.
    fn refresh(&mut self) {
        if self.looked.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.looked = Instant::now();
        if self.sources.changed() != self.current.changed {
            log::info!("the hosts file or resolv.conf changed; names are looked up by them anew");
            self.current = Rc::new(Current::read(&self.sources, self.servers.clone()));
        }
    }
}

/// A look-up under way. Its drop gives the answer, so that nobody waits for one that panicked.
struct Pending {
    answer: Answer,
    waiting: Rc<RefCell<HashMap<Arc<str>, Vec<Reply>>>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let replies = self.waiting.borrow_mut().remove(&self.answer.name).unwrap_or_default();
        for reply in replies {
            reply(self.answer.clone());
        }
    }
}

impl Sources {
    fn changed(&self) -> [Option<SystemTime>; 2] {
        [self.hosts.as_ref(), Some(&self.resolv_conf)]
            .map(|path| fs::metadata(path?).and_then(|meta| meta.modified()).ok())
    }
}

impl Current {
    fn read(sources: &Sources, servers: Option<ResolverConfig>) -> Self {
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

    async fn lookup(&self, name: &str) -> (Result<Arc<[IpAddr]>, DnsError>, Duration) {
        let known = self.in_hosts(name);
        if !known.is_empty() {
            return (Ok(interleave(known)), HOSTS_TTL);
        }
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(why) => return (Err(DnsError::Failed(why.clone())), NEGATIVE_TTL_MIN),
        };
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let left = found.valid_until().saturating_duration_since(Instant::now());
                let addresses: Vec<IpAddr> = found.iter().collect();
                if addresses.is_empty() {
                    return (Err(DnsError::NoAddress), NEGATIVE_TTL_MIN);
                }
                // What is left of a TTL is a moment less than the TTL; a second of it is nobody's loss.
                (Ok(interleave(addresses)), left.clamp(POSITIVE_TTL_MIN, POSITIVE_TTL_MAX))
            }
            Err(e) => {
                let (error, ttl) = explain(e);
                (Err(error), ttl.clamp(NEGATIVE_TTL_MIN, NEGATIVE_TTL_MAX))
            }
        }
    }

    fn in_hosts(&self, name: &str) -> Vec<IpAddr> {
        let Ok(name) = Name::from_utf8(name) else { return Vec::new() };
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|found| {
                let addresses = found.answers().iter().filter_map(|record| record.data.ip_addr());
                addresses.collect::<Vec<_>>()
            })
            .collect()
    }
}

/// UDP, and TCP where an answer is too long for it (RFC 7766 §5).
fn server_at(at: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection
    });
    NameServerConfig::new(at.ip(), true, connections.to_vec())
}

fn build(sources: &Sources, servers: Option<ResolverConfig>) -> Result<TokioResolver, String> {
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
    // Shards keep answers by their TTL; a second cache in front would only hide what is left of it.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|e| format!("the resolver cannot be set up ({e})"))
}

fn explain(error: NetError) -> (DnsError, Duration) {
    if let NetError::Dns(HickoryDnsError::NoRecordsFound(none)) = &error {
        let ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
        let kind = if error.is_nx_domain() { DnsError::NoSuchName } else { DnsError::NoAddress };
        return (kind, ttl);
    }
    match error {
        NetError::Timeout => (DnsError::TimedOut, NEGATIVE_TTL_MIN),
        other => (DnsError::Failed(other.to_string()), NEGATIVE_TTL_MIN),
    }
}

/// Families in turn, first come first, each address once: neither family starves where not all are tried.
fn interleave(addresses: Vec<IpAddr>) -> Arc<[IpAddr]> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let mut out: Vec<IpAddr> = Vec::new();
    for i in 0..v4.len().max(v6.len()) {
        for address in [v4.get(i), v6.get(i)].into_iter().flatten() {
            if out.len() < ADDRESSES_MAX && !out.contains(address) {
                out.push(*address);
            }
        }
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{Ipv4Addr, UdpSocket},
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc::channel,
        },
    };

    /// A name server on loopback: answers A queries as `answer` says (address bytes, TTL), NXDOMAIN else; counts them.
    fn name_server(
        answer: impl Fn(&str) -> Option<([u8; 4], u32)> + Send + 'static,
    ) -> (ResolverConfig, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut query) {
                counter.fetch_add(1, Ordering::SeqCst);
                let (mut name, mut at) = (String::new(), 12);
                while query[at] != 0 {
                    let end = at + 1 + query[at] as usize;
                    name += &String::from_utf8_lossy(&query[at + 1..end]).to_lowercase();
                    name.push('.');
                    at = end;
                }
                let question_end = at + 5;
                let is_a = query[at + 2] == 1;
                let found = answer(&name);
                let mut reply = query[..question_end].to_vec();
                reply[2..4].copy_from_slice(&[0x81, if found.is_some() { 0x80 } else { 0x83 }]);
                reply[6..12].copy_from_slice(&[0, u8::from(found.is_some() && is_a), 0, 0, 0, 0]);
                if let (Some((address, ttl)), true) = (found, is_a) {
                    reply.extend([0xc0, 12, 0, 1, 0, 1]);
                    reply.extend(ttl.to_be_bytes());
                    reply.extend([0, 4]);
                    reply.extend(address);
                }
                assert!(n >= question_end);
                socket.send_to(&reply, from).unwrap();
            }
        });
        (ResolverConfig::from_name_servers(vec![server]), asked)
    }

    fn sources(hosts: &str) -> (Sources, PathBuf) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("chocon-uring-dns-{}-{n}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts"), hosts).unwrap();
        (Sources { hosts: Some(dir.join("hosts")), resolv_conf: dir.join("resolv.conf") }, dir)
    }

    fn ask(resolver: &Resolver, name: &str) -> Answer {
        let (to, answers) = channel();
        resolver.ask(name.into(), move |answer| to.send(answer).unwrap()).unwrap();
        answers.recv_timeout(Duration::from_secs(10)).expect("an answer")
    }

    fn ip(address: [u8; 4]) -> IpAddr {
        address.into()
    }

    #[test]
    fn an_answer_carries_address_and_ttl() {
        let (servers, _) =
            name_server(|name| (name == "api.test.").then_some(([192, 0, 2, 7], 60)));
        let resolver = Resolver::with(sources("").0, Some(servers)).unwrap();
        let answer = ask(&resolver, "api.test");
        assert_eq!(answer.result.as_deref(), Ok(&[ip([192, 0, 2, 7])][..]));
        assert!(answer.ttl > Duration::from_secs(58) && answer.ttl <= Duration::from_secs(60));
    }

    #[test]
    fn a_ttl_of_zero_becomes_the_least_and_is_asked_for_anew() {
        let (servers, asked) = name_server(|_| Some(([192, 0, 2, 7], 0)));
        let resolver = Resolver::with(sources("").0, Some(servers)).unwrap();
        assert_eq!(ask(&resolver, "api.test").ttl, POSITIVE_TTL_MIN);
        let before = asked.load(Ordering::SeqCst);
        ask(&resolver, "api.test");
        assert!(asked.load(Ordering::SeqCst) > before, "answers are not kept here");
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error_for_a_short_time() {
        let (servers, _) = name_server(|_| None);
        let resolver = Resolver::with(sources("").0, Some(servers)).unwrap();
        let answer = ask(&resolver, "nothing.test");
        assert_eq!(answer.result, Err(DnsError::NoSuchName));
        assert!(answer.ttl >= NEGATIVE_TTL_MIN && answer.ttl <= NEGATIVE_TTL_MAX);
    }

    #[test]
    fn the_hosts_file_wins_and_a_change_of_it_is_seen() {
        let (servers, asked) = name_server(|_| Some(([192, 0, 2, 7], 60)));
        let (sources, dir) = sources("192.0.2.9 api.test other.test\n");
        let resolver = Resolver::with(sources, Some(servers)).unwrap();
        assert_eq!(ask(&resolver, "api.test").result.as_deref(), Ok(&[ip([192, 0, 2, 9])][..]));
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        fs::write(dir.join("hosts"), "192.0.2.10 api.test\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while ask(&resolver, "api.test").result.as_deref() != Ok(&[ip([192, 0, 2, 10])][..]) {
            assert!(Instant::now() < deadline, "the new hosts file is not used");
            thread::yield_now();
        }
    }

    #[test]
    fn without_resolv_conf_the_hosts_file_still_works_and_errors_say_why() {
        let resolver = Resolver::with(sources("192.0.2.9 api.test\n").0, None).unwrap();
        assert!(ask(&resolver, "api.test").result.is_ok());
        let error = ask(&resolver, "other.test").result.unwrap_err().to_string();
        assert!(error.contains("resolv.conf"), "{error}");
    }

    #[test]
    fn many_questions_for_a_name_are_one_look_up() {
        let (servers, asked) = name_server(|_| Some(([192, 0, 2, 7], 60)));
        let resolver = Resolver::with(sources("").0, Some(servers)).unwrap();
        let (to, answers) = channel();
        for _ in 0..100 {
            let to = to.clone();
            resolver.ask("api.test".into(), move |answer| to.send(answer).unwrap()).unwrap();
        }
        for _ in 0..100 {
            assert!(answers.recv_timeout(Duration::from_secs(10)).unwrap().result.is_ok());
        }
        assert!(asked.load(Ordering::SeqCst) <= 4, "one A and one AAAA, perhaps once again");
    }

    #[test]
    fn families_take_turns_and_the_bound_holds() {
        let v4 = |n: u8| ip([192, 0, 2, n]);
        let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let mixed = interleave(vec![v4(1), v4(2), v4(1), v6(1)]);
        assert_eq!(&*mixed, [v4(1), v6(1), v4(2)]);
        let many: Vec<IpAddr> = (0..100).map(v4).collect();
        assert_eq!(interleave(many).len(), ADDRESSES_MAX);
    }
}
