//! The resolver against a name server on loopback.

use super::{servers::build, *};
use crate::limits::{
    NAME_RETRY_AFTER, NEGATIVE_TTL_MAX, NEGATIVE_TTL_MIN, POSITIVE_TTL_MIN, RESOLUTION_DELAY,
};
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
    let (servers, _) = name_server(|name| (name == "api.test.").then_some(([192, 0, 2, 7], 60)));
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
    let config = ResolverConfig::from_parts(None, vec![domain("a.test."), domain("b.test.")], {
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

#[test]
fn names_that_wait_for_the_thread_are_bounded() {
    let resolver =
        Resolver::with(sources("").0, Some(ResolverConfig::from_name_servers(vec![]))).unwrap();
    let (began, begins) = channel();
    let (release, released) = channel::<()>();
    // Its reply holds the thread up.
    let held = resolver.ask("first.invalid".into(), None, move |_| {
        began.send(()).unwrap();
        released.recv().ok();
    });
    assert!(held.is_ok());
    begins.recv().unwrap();
    let (answered, answers) = channel();
    for n in 0..LOOKUPS_WAITING_MAX {
        let answered = answered.clone();
        let asked = resolver.ask(format!("n{n}.invalid").into(), None, move |_| {
            answered.send(()).ok();
        });
        assert!(asked.is_ok(), "{n}");
    }
    assert!(resolver.ask("one-more.invalid".into(), None, |_| {}).is_err());
    drop(release);
    for _ in 0..LOOKUPS_WAITING_MAX {
        answers.recv().unwrap();
    }
    assert!(resolver.ask("later.invalid".into(), None, |_| {}).is_ok());
}
