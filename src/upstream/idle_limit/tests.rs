use super::*;

const NONE: Duration = Duration::from_secs(50);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn usable(limit: &IdleLimit, rtt: u64) -> Duration {
    limit.usable_for(ms(rtt), NONE)
}

#[test]
fn an_unknown_origin_gets_the_timeout() {
    assert_eq!(usable(&IdleLimit::default(), 150), NONE);
}

#[test]
fn a_close_teaches_the_limit_and_the_margin_is_the_largest_of_three() {
    let now = Instant::now();
    let mut limit = IdleLimit::default();
    limit.saw_end(ms(5000), now);
    assert_eq!(usable(&limit, 1), ms(4750));
    assert_eq!(usable(&limit, 150), ms(4700));
    let mut long = IdleLimit::default();
    long.saw_end(ms(40_000), now);
    assert_eq!(usable(&long, 150), ms(38_000));
}

#[test]
fn an_earlier_close_lowers_it_and_a_later_one_does_not_raise_it() {
    let now = Instant::now();
    let mut limit = IdleLimit::default();
    limit.saw_end(ms(15_000), now);
    limit.saw_end(ms(5000), now);
    limit.saw_end(ms(9000), now);
    assert_eq!(limit.limit, Some(ms(5000)));
}

#[test]
fn closes_too_soon_for_a_limit_teach_nothing() {
    let mut limit = IdleLimit::default();
    limit.saw_end(IDLE_LIMIT_LEARNED_MIN - ms(1), Instant::now());
    assert_eq!(limit.limit, None);
    limit.saw_end(IDLE_LIMIT_LEARNED_MIN, Instant::now());
    assert_eq!(limit.limit, Some(IDLE_LIMIT_LEARNED_MIN));
}

#[test]
fn a_short_limit_leaves_half_of_it_to_use() {
    let mut limit = IdleLimit::default();
    limit.saw_end(ms(1000), Instant::now());
    assert_eq!(usable(&limit, 1), ms(750));
    assert_eq!(usable(&limit, 400), ms(500));
}

#[test]
fn a_limit_beyond_the_timeout_changes_nothing() {
    let mut limit = IdleLimit::default();
    limit.saw_end(ms(90_000), Instant::now());
    assert_eq!(usable(&limit, 1), NONE);
}

#[test]
fn a_limit_from_before_a_restart_holds_and_is_measured_soon() {
    let now = Instant::now();
    let mut limits = IdleLimits::recalled(ms(5000));
    assert_eq!(limits.known(), Some(ms(5000)));
    assert_eq!(limits.usable_for(ms(150), NONE), ByKind::both(ms(4700)));
    assert!(limits.of(Kind::Used).wants_measuring(now));
    limits.saw_end(Kind::Used, ms(4000), now);
    assert_eq!(limits.known(), Some(ms(4000)));
}

#[test]
fn what_the_origin_says_counts_unless_it_was_seen_to_close_sooner() {
    let now = Instant::now();
    let mut limit = IdleLimit::default();
    limit.told(15, now);
    assert_eq!(limit.limit, Some(ms(15_000)));
    limit.saw_end(ms(4000), now);
    limit.told(15, now);
    assert_eq!(limit.limit, Some(ms(4000)));
    limit.told(u64::MAX, now);
    limit.told(0, now);
    assert_eq!(limit.limit, Some(IDLE_LIMIT_LEARNED_MIN));
    let mut other = IdleLimit::default();
    other.told(u64::MAX, now);
    assert_eq!(other.limit, None);
}

#[test]
fn it_is_measured_anew_after_a_while_and_may_grow_or_end() {
    let now = Instant::now();
    let mut limit = IdleLimit::default();
    assert!(!limit.wants_measuring(now), "there is nothing to measure");
    limit.saw_end(ms(5000), now);
    assert!(limit.wants_measuring(now), "it may have been a restart");
    limit.saw_end(ms(4900), now);
    assert!(!limit.wants_measuring(now + IDLE_LIMIT_PROBE_EVERY - ms(1)));
    let later = now + IDLE_LIMIT_PROBE_EVERY;
    assert!(limit.wants_measuring(later));
    limit.seen = Some(later);
    assert!(!limit.wants_measuring(later), "one at a time");
    limit.measured(Some(ms(15_000)), later);
    assert_eq!(limit.limit, Some(ms(15_000)));
    limit.measured(None, later);
    assert_eq!(limit.limit, None);
    limit.seen = Some(later);
    limit.saw_end(ms(700), later);
    limit.measured(Some(ms(15_000)), later);
    assert_eq!(limit.limit, Some(ms(700)), "what came meanwhile is not undone");
}

fn safe(limits: &IdleLimits, kind: Kind, now: Instant) -> Duration {
    *limits.safe_for(ms(150), NONE, now).of(kind)
}

#[test]
fn without_a_limit_only_what_a_pilot_lived_through_is_safe() {
    let now = Instant::now();
    let mut limits = IdleLimits::default();
    assert_eq!(safe(&limits, Kind::Used, now), IDLE_LIMIT_LEARNED_MIN);
    limits.saw_alive(Kind::Used, ms(700), now);
    assert_eq!(safe(&limits, Kind::Used, now), IDLE_LIMIT_LEARNED_MIN);
    limits.saw_alive(Kind::Used, ms(10_000), now);
    limits.saw_alive(Kind::Used, ms(3000), now);
    assert_eq!(safe(&limits, Kind::Used, now), ms(9500));
    assert_eq!(safe(&limits, Kind::Fresh, now), IDLE_LIMIT_LEARNED_MIN, "it is another limit");
    limits.saw_alive(Kind::Used, NONE, now);
    assert_eq!(safe(&limits, Kind::Used, now), NONE, "it is as old as any gets");
}

#[test]
fn a_proof_is_forgotten_and_given_anew() {
    let now = Instant::now();
    let mut limits = IdleLimits::default();
    limits.saw_alive(Kind::Used, NONE, now);
    let later = now + IDLE_LIMIT_PROBE_EVERY;
    assert_eq!(safe(&limits, Kind::Used, later - ms(1)), NONE);
    assert_eq!(safe(&limits, Kind::Used, later), IDLE_LIMIT_LEARNED_MIN);
    limits.saw_alive(Kind::Used, ms(8000), later);
    assert_eq!(safe(&limits, Kind::Used, later), ms(7600));
}

#[test]
fn a_known_limit_is_safe_up_to_its_margin() {
    let now = Instant::now();
    let mut limits = IdleLimits::default();
    limits.saw_end(Kind::Used, ms(5000), now);
    assert_eq!(safe(&limits, Kind::Used, now), ms(4700));
}

#[test]
fn fresh_ones_have_the_limit_of_used_ones_until_they_live_longer() {
    let now = Instant::now();
    let mut limits = IdleLimits::default();
    limits.saw_end(Kind::Used, ms(5000), now);
    assert_eq!(limits.usable_for(ms(1), NONE), ByKind::both(ms(4750)));
    assert!(limits.of(Kind::Fresh).wants_measuring(now));
    limits.begin_measuring(Kind::Fresh, now);
    limits.saw_alive(Kind::Fresh, ms(9000), now);
    let grown = ByKind { used: ms(4750), fresh: ms(8550) };
    assert_eq!(limits.usable_for(ms(1), NONE), grown, "while it is measured");
    limits.measured(Kind::Fresh, None, now);
    limits.saw_end(Kind::Used, ms(4000), now);
    let apart = ByKind { used: ms(3750), fresh: NONE };
    assert_eq!(limits.usable_for(ms(1), NONE), apart);
}

#[test]
fn a_fresh_one_that_lived_longer_is_not_taken_for_a_used_one() {
    let now = Instant::now();
    let mut limits = IdleLimits::default();
    limits.saw_alive(Kind::Fresh, ms(20_000), now);
    limits.saw_end(Kind::Used, ms(5000), now);
    assert_eq!(limits.usable_for(ms(1), NONE).fresh, ms(19_000));
}

#[test]
fn limits_are_the_same_for_the_shard_that_is_told() {
    let epoch = Instant::now();
    let now = epoch + Duration::from_secs(7);
    let mut limits = IdleLimits::default();
    assert_eq!(limits.to_words(epoch), Words::default());
    limits.saw_alive(Kind::Fresh, ms(1234), now);
    limits.told(15, now);
    assert_eq!(IdleLimits::from_words(limits.to_words(epoch), epoch), limits);
    limits.measured(Kind::Used, None, now);
    let told = IdleLimits::from_words(limits.to_words(epoch), epoch);
    assert_eq!(told.safe_for(ms(1), NONE, now), limits.safe_for(ms(1), NONE, now));
}
