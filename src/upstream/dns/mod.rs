//! Names to addresses, off the shards: one thread that runs hickory, and answers through call-backs.
//!
//! `/etc/hosts` wins, then the name servers, search list and options of `/etc/resolv.conf`; flags leave the one out, or
//! put other name servers in place of the other. Both files are read again when they change. Both families are looked
//! up at once, and neither waits for the other for long (RFC 8305 §3). What was found is kept here for all shards, so
//! that a name costs one look-up in its TTL and not one for each shard.

#![forbid(unsafe_code)]

mod cache;
mod servers;

use crate::limits::{
    LOOKUP_WITHIN, LOOKUPS_AT_ONCE, LOOKUPS_WAITING_MAX, NAME_REPORT_EVERY, NAME_STALE_MAX,
    NEGATIVE_TTL_MIN,
};
use cache::{Cache, Found, News};
use hickory_resolver::config::ResolverConfig;
use servers::{Current, Sources, server_at};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, mpsc};

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

/// The thread's state: the configuration in force, what was found, and who waits for which name.
struct Lookups {
    sources: Sources,
    servers: Option<ResolverConfig>,
    current: Rc<Current>,
    /// When the files were last looked at.
    looked: Instant,
    found: Rc<RefCell<Cache>>,
    waiting: Rc<RefCell<HashMap<Arc<str>, Vec<Reply>>>>,
    reports: Rc<Reports>,
    /// Look-ups that may be under way, and families that may be late.
    turns: Rc<Semaphore>,
    lates: Rc<Semaphore>,
}

impl Lookups {
    fn new(sources: Sources, servers: Option<ResolverConfig>) -> Self {
        let current = Rc::new(Current::read(&sources, servers.clone()));
        Self {
            sources,
            servers,
            current,
            looked: Instant::now(),
            found: Rc::default(),
            waiting: Rc::default(),
            reports: Rc::default(),
            turns: Rc::new(Semaphore::new(LOOKUPS_AT_ONCE)),
            lates: Rc::new(Semaphore::new(LOOKUPS_AT_ONCE)),
        }
    }

    fn take(&mut self, Question { name, newer_than, reply }: Question) {
        self.refresh();
        let now = Instant::now();
        let known = self.current.in_hosts(&name, now);
        if let Some(answer) = known.or_else(|| self.found.borrow().get(&name, newer_than, now)) {
            return reply(answer);
        }
        let mut waiting = self.waiting.borrow_mut();
        let replies = waiting.entry(name.clone()).or_default();
        replies.push(reply);
        if replies.len() > 1 {
            // A look-up of this name is under way; its answer serves all.
            return;
        }
        drop(waiting);
        let (current, found) = (self.current.clone(), self.found.clone());
        let (waiting, reports) = (self.waiting.clone(), self.reports.clone());
        let (turns, lates) = (self.turns.clone(), self.lates.clone());
        tokio::task::spawn_local(async move {
            let panicked = DnsError::Failed("the look-up ended in a panic".to_owned());
            let mut pending = Pending {
                answer: Answer {
                    name: name.clone(),
                    result: Err(panicked),
                    at: Instant::now(),
                    ttl: NEGATIVE_TTL_MIN,
                },
                waiting,
            };
            // The semaphore is never closed.
            let permit = turns.acquire().await;
            let ended = tokio::time::timeout(LOOKUP_WITHIN, current.lookup(&name)).await;
            let (families, late) = ended.unwrap_or_else(|_elapsed| {
                let timed_out = || Found::Failed(DnsError::TimedOut);
                ([timed_out(), timed_out()], None)
            });
            let (answer, news) = found.borrow_mut().take(&name, families, Instant::now());
            pending.answer = answer;
            drop(pending);
            drop(permit);
            if let Some(news) = news {
                reports.tell(&name, &news);
            }
            if let Some((family, late)) = late
                && let Ok(_permit) = lates.try_acquire()
                && let Ok(then) = tokio::time::timeout(LOOKUP_WITHIN, late).await
            {
                found.borrow_mut().complete(&name, family, then, Instant::now());
            }
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
            self.found.borrow_mut().expire();
        }
    }
}

/// What the log was told of failing name servers. They fail for all names, and one line is enough for that.
#[derive(Default)]
struct Reports {
    warned: Cell<Option<Instant>>,
    recovery_due: Cell<bool>,
}

impl Reports {
    fn tell(&self, name: &str, news: &News) {
        let recently = self.warned.get().is_some_and(|at| at.elapsed() < NAME_REPORT_EVERY);
        match news {
            News::Stale(why) if recently => log::debug!("{name}: {why}; old addresses are used"),
            News::Stale(why) => {
                let hours = NAME_STALE_MAX.as_secs() / 3600;
                log::warn!(
                    "{name}: {why}; its last addresses, and those of other names that fail, are used for up to {hours} h"
                );
                self.warned.set(Some(Instant::now()));
                self.recovery_due.set(true);
            }
            News::Recovered if self.recovery_due.replace(false) => {
                log::info!("{name}: the look-up succeeds again");
            }
            News::Recovered => log::debug!("{name}: the look-up succeeds again"),
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

#[cfg(test)]
mod tests {
    use super::{servers::build, *};
    use crate::limits::{NAME_RETRY_AFTER, NEGATIVE_TTL_MAX, POSITIVE_TTL_MIN, RESOLUTION_DELAY};
    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig},
        proto::rr::Name,
    };
    use std::{
        fs,
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
                if !is_a && found.is_some_and(|(address, _)| address == DROP_AAAA) {
                    continue;
                }
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

    /// A name server leaves AAAA questions for names with this address unanswered.
    const DROP_AAAA: [u8; 4] = [192, 0, 2, 99];

    fn ask(resolver: &Resolver, name: &str) -> Answer {
        ask_for(resolver, name, None)
    }

    fn ask_anew(resolver: &Resolver, name: &str, newer_than: Instant) -> Answer {
        ask_for(resolver, name, Some(newer_than))
    }

    fn ask_for(resolver: &Resolver, name: &str, newer_than: Option<Instant>) -> Answer {
        let (to, answers) = channel();
        resolver.ask(name.into(), newer_than, move |answer| to.send(answer).unwrap()).unwrap();
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
        let first = ask(&resolver, "api.test");
        assert_eq!(first.ttl, POSITIVE_TTL_MIN);
        let before = asked.load(Ordering::SeqCst);
        assert_eq!(ask(&resolver, "api.test").at, first.at);
        assert_eq!(asked.load(Ordering::SeqCst), before, "a shard gets what another has found");
        assert!(ask_anew(&resolver, "api.test", first.at).at > first.at);
        assert!(asked.load(Ordering::SeqCst) > before, "who has the answer wants another");
    }

    #[test]
    fn a_family_that_is_not_answered_for_delays_the_other_a_little() {
        let (servers, _) = name_server(|_| Some((DROP_AAAA, 60)));
        let resolver = Resolver::with(sources("").0, Some(servers)).unwrap();
        let started = Instant::now();
        let answer = ask(&resolver, "drop.test");
        let took = started.elapsed();
        assert_eq!(answer.result.as_deref(), Ok(&[ip(DROP_AAAA)][..]));
        assert!(took >= RESOLUTION_DELAY && took < Duration::from_secs(2), "{took:?}");
        assert_eq!(answer.ttl, NAME_RETRY_AFTER, "the other is asked for again soon");
    }

    #[test]
    fn search_domains_complete_names_with_few_dots_and_come_last_for_others() {
        let domain = |name: &str| Name::from_utf8(name).unwrap();
        let (servers, _) = name_server(|_| None);
        let config =
            ResolverConfig::from_parts(None, vec![domain("a.test."), domain("b.test.")], {
                servers.name_servers().to_vec()
            });
        let servers = build(&sources("").0, Some(config)).unwrap();
        let names = |name| -> Vec<String> {
            servers.candidates(name).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("api"), ["api.a.test.", "api.b.test.", "api."]);
        assert_eq!(names("api.c"), ["api.c.", "api.c.a.test.", "api.c.b.test."]);
        assert_eq!(names("localhost")[0], "localhost.");
    }

    #[test]
    fn a_name_is_completed_only_where_it_is_known_not_to_be() {
        let (servers, _) = name_server(|name| match name {
            "api.search.test." => Some(([192, 0, 2, 8], 60)),
            _ => None,
        });
        let servers = servers.name_servers().to_vec();
        let search = vec![Name::from_utf8("search.test.").unwrap()];
        let config = ResolverConfig::from_parts(None, search, servers);
        let resolver = Resolver::with(sources("").0, Some(config)).unwrap();
        let answer = ask(&resolver, "api");
        assert_eq!(answer.result.as_deref(), Ok(&[ip([192, 0, 2, 8])][..]));
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
            resolver.ask("api.test".into(), None, move |answer| to.send(answer).unwrap()).unwrap();
        }
        for _ in 0..100 {
            assert!(answers.recv_timeout(Duration::from_secs(10)).unwrap().result.is_ok());
        }
        assert!(asked.load(Ordering::SeqCst) <= 4, "one A and one AAAA, perhaps once again");
    }
}
