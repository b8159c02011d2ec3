//! What is remembered, and for how long.

use super::*;

const TTL: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

fn v4(n: u8) -> IpAddr {
    [192, 0, 2, n].into()
}

fn v6(n: u16) -> IpAddr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, n].into()
}

fn found(addresses: &[IpAddr]) -> Found {
    Found::Addresses(addresses.to_vec(), TTL)
}

fn none() -> Found {
    Found::Nothing(DnsError::NoAddress, TTL)
}

fn failed() -> Found {
    Found::Failed(DnsError::TimedOut)
}

fn take(
    cache: &mut Cache,
    found: [Found; 2],
    now: Instant,
) -> (Result<Vec<IpAddr>, DnsError>, Duration) {
    let (answer, _) = cache.take(&"a.test".into(), found, now);
    (answer.result.map(|addresses| addresses.to_vec()), answer.ttl)
}

fn learn(cache: &mut Cache, found: [Found; 2], now: Instant) {
    cache.take(&"a.test".into(), found, now);
}

#[test]
fn an_answer_is_in_force_for_its_ttl_and_for_whoever_has_an_older_one() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    assert!(cache.get("a.test", None, now).is_none());
    learn(&mut cache, [found(&[v4(1)]), none()], now);
    assert!(cache.get("a.test", None, now + TTL - MS).is_some());
    assert!(cache.get("a.test", None, now + TTL).is_none());
    assert!(cache.get("a.test", Some(now - MS), now + MS).is_some());
    assert!(cache.get("a.test", Some(now), now + MS).is_none(), "it is no newer");
    cache.expire();
    assert!(cache.get("a.test", None, now).is_none());
    assert_eq!(take(&mut cache, [failed(), failed()], now).0, Ok(vec![v4(1)]));
}

#[test]
fn a_family_without_addresses_does_not_shorten_the_answer_of_the_other() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let nothing = Found::Nothing(DnsError::NoAddress, Duration::from_secs(1));
    assert_eq!(take(&mut cache, [found(&[v4(1)]), nothing], now), (Ok(vec![v4(1)]), TTL));
}

#[test]
fn the_shorter_ttl_of_two_families_counts_and_both_are_clamped() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let zero = Found::Addresses(vec![v6(1)], Duration::ZERO);
    let (addresses, ttl) = take(&mut cache, [found(&[v4(1)]), zero], now);
    assert_eq!((addresses, ttl), (Ok(vec![v4(1), v6(1)]), POSITIVE_TTL_MIN));
    let year = Found::Addresses(vec![v4(1)], Duration::from_secs(31_536_000));
    assert_eq!(take(&mut cache, [year, none()], now).1, POSITIVE_TTL_MAX);
}

#[test]
fn a_family_that_is_late_is_asked_for_soon_and_counts_once_it_is_there() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let (addresses, ttl) = take(&mut cache, [found(&[v4(1)]), Found::Late], now);
    assert_eq!((addresses, ttl), (Ok(vec![v4(1)]), NAME_RETRY_AFTER));
    cache.complete("a.test", Family::V6, found(&[v6(1)]), now + MS);
    let answer = cache.get("a.test", Some(now), now + MS).unwrap();
    assert_eq!(answer.result.as_deref(), Ok(&[v4(1), v6(1)][..]));
    cache.complete("other.test", Family::V6, found(&[v6(1)]), now);
    assert!(cache.get("other.test", None, now).is_none(), "nobody asked for it");
}

#[test]
fn a_family_that_is_late_later_on_keeps_its_last_addresses() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    learn(&mut cache, [found(&[v4(1)]), found(&[v6(1)])], now);
    let later = take(&mut cache, [found(&[v4(2)]), Found::Late], now + TTL);
    assert_eq!(later.0, Ok(vec![v4(2), v6(1)]));
}

#[test]
fn old_addresses_are_used_while_the_resolver_fails_and_no_longer_than_the_bound() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    learn(&mut cache, [found(&[v4(1)]), none()], now);
    let just = now + NAME_STALE_MAX - MS;
    assert_eq!(take(&mut cache, [failed(), failed()], just), (Ok(vec![v4(1)]), NAME_RETRY_AFTER));
    let over = now + NAME_STALE_MAX;
    let timed_out = Err(DnsError::TimedOut);
    assert_eq!(take(&mut cache, [failed(), failed()], over), (timed_out, NEGATIVE_TTL_MIN));
}

#[test]
fn a_name_that_ceases_to_exist_has_no_old_addresses() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    learn(&mut cache, [found(&[v4(1)]), found(&[v6(1)])], now);
    let gone = || Found::Nothing(DnsError::NoSuchName, TTL);
    let (result, ttl) = take(&mut cache, [gone(), gone()], now + TTL);
    assert_eq!((result, ttl), (Err(DnsError::NoSuchName), NEGATIVE_TTL_MAX));
    assert_eq!(take(&mut cache, [failed(), failed()], now + TTL).0, Err(DnsError::TimedOut));
}

#[test]
fn a_family_that_ends_takes_its_addresses_with_it() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    learn(&mut cache, [found(&[v4(1)]), found(&[v6(1)])], now);
    assert_eq!(take(&mut cache, [found(&[v4(1)]), none()], now).0, Ok(vec![v4(1)]));
    assert_eq!(take(&mut cache, [found(&[v4(1)]), failed()], now).0, Ok(vec![v4(1)]));
}

#[test]
fn a_failure_explains_better_than_a_family_that_was_never_there() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    assert_eq!(take(&mut cache, [failed(), none()], now).0, Err(DnsError::TimedOut));
    assert_eq!(take(&mut cache, [none(), none()], now).0, Err(DnsError::NoAddress));
    let short = Found::Nothing(DnsError::NoSuchName, Duration::ZERO);
    let expected = (Err(DnsError::NoSuchName), NEGATIVE_TTL_MIN);
    assert_eq!(take(&mut cache, [none(), short], now), expected);
}

#[test]
fn going_stale_and_coming_back_are_news_once() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let name: Arc<str> = "a.test".into();
    let mut news = |found| cache.take(&name, found, now).1;
    assert_eq!(news([failed(), failed()]), None, "there is nothing old to use");
    assert_eq!(news([found(&[v4(1)]), failed()]), None, "what is used is new");
    assert_eq!(news([failed(), failed()]), Some(News::Stale(DnsError::TimedOut)));
    assert_eq!(news([failed(), Found::Late]), None);
    assert_eq!(news([found(&[v4(1)]), none()]), Some(News::Recovered));
    assert_eq!(news([found(&[v4(1)]), none()]), None);
}

#[test]
fn the_same_addresses_in_another_order_are_the_same_answer() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    let name: Arc<str> = "a.test".into();
    let mut addresses = |found| cache.take(&name, found, now).0.result.unwrap();
    let first = addresses([found(&[v4(1), v4(2)]), none()]);
    let turned = addresses([found(&[v4(2), v4(1)]), none()]);
    assert!(Arc::ptr_eq(&first, &turned));
    assert!(!Arc::ptr_eq(&first, &addresses([found(&[v4(2), v4(3)]), none()])));
}

#[test]
fn at_the_bound_the_oldest_answer_goes() {
    let (mut cache, now) = (Cache::default(), Instant::now());
    for n in 0..=NAMES_CACHED_MAX {
        let name = format!("n{n}").into();
        cache.take(&name, [found(&[v4(1)]), none()], now + MS * n as u32);
    }
    assert_eq!(cache.names.len(), NAMES_CACHED_MAX);
    assert!(!cache.names.contains_key("n0") && cache.names.contains_key("n1"));
}

#[test]
fn families_take_turns_and_the_bound_holds() {
    let mixed = interleave(&[v4(1), v4(2), v4(1)], &[v6(1)]);
    assert_eq!(mixed, [v4(1), v6(1), v4(2)]);
    let many: Vec<IpAddr> = (0..100).map(v4).collect();
    assert_eq!(interleave(&many, &[]).len(), ADDRESSES_MAX);
}
