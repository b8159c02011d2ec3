use super::*;

const NOW: u64 = 1_764_028_800;
const MS: Duration = Duration::from_millis(1);

fn at(url: &str) -> OriginUrl {
    OriginUrl::parse(url).unwrap()
}

fn known(needs: f64) -> Known {
    Known { needs, speaks: Some(Spoken::Http1), idle_limit: None, seen: NOW }
}

fn part(url: &str, needs: f64, open: usize) -> Part {
    Part { at: at(url), known: known(needs), uses: 1, open }
}

fn file(lines: &str, count: usize) -> String {
    format!("chocon-uring-state 1\nsaved={NOW}\n{lines}end {count}\n")
}

#[test]
fn what_is_written_is_read_again() {
    let mut state = State::default();
    let limit = Some(5000 * MS);
    state.0.insert(at("https://api.example.com"), Known { idle_limit: limit, ..known(4.25) });
    state.0.insert(at("http://[2001:db8::1]:81"), Known { speaks: None, ..known(1.0) });
    let h2 = Known { speaks: Some(Spoken::Http2), seen: NOW - 9, ..known(1.0) };
    state.0.insert(at("https://h2.example.com"), h2);
    let text = state.text(NOW);
    assert_eq!(State::read(&text, NOW + 60), Ok(state));
    assert!(text.contains(
        "https://api.example.com:443 needs=4.25 speaks=http/1.1 idle_limit_ms=5000 seen=1764028800\n"
    ));
    assert_eq!(State::read(&State::default().text(NOW), NOW), Ok(State::default()));
}

#[test]
fn a_text_that_ends_anywhere_before_its_end_is_not_used() {
    let mut state = State::default();
    state.0.insert(at("https://api.example.com"), known(4.0));
    let text = state.text(NOW);
    let first = text.find('\n').unwrap();
    for end in 0..text.len() {
        let error = State::read(&text[..end], NOW).unwrap_err();
        let expected = if end < first { Unusable::Foreign } else { Unusable::Cut };
        assert_eq!(error, expected, "{}", &text[..end]);
    }
}

#[test]
fn foreign_later_and_broken_texts_are_told_apart() {
    let read = |text: &str| State::read(text, NOW).unwrap_err();
    for foreign in ["", "\n", "{}", "chocon-uring-state", "chocon-uring-state one\n"] {
        assert_eq!(read(foreign), Unusable::Foreign, "{foreign:?}");
    }
    assert_eq!(read("chocon-uring-state 2\nwhatever"), Unusable::Version(2));
    assert_eq!(read(&file("", 1)), Unusable::Cut);
    for line in [
        "https://a needs",
        "https://a needs=x",
        "https://a needs=-1",
        "https://a needs=nan",
        "https://a needs=inf",
        "https://a needs=1000001",
        "https://a needs=1 seen=-1",
        "https://a idle_limit_ms=499",
        "https://a idle_limit_ms=3600001",
        "ftp://a needs=1",
        "https://a/b needs=1",
        "https://2130706433 needs=1",
        "https://a b=1 \u{0} needs=1",
    ] {
        assert!(matches!(read(&file(&format!("{line}\n"), 1)), Unusable::Line(3, _)), "{line}");
    }
    let long = format!("https://{}.example.com needs=1\n", "a".repeat(64));
    assert!(matches!(read(&file(&long, 1)), Unusable::Line(3, _)));
    let twice = "https://a needs=1\nhttps://A:443 needs=1\n";
    assert!(matches!(read(&file(twice, 2)), Unusable::Line(4, _)));
}

proptest::proptest! {
    #[test]
    fn no_line_makes_it_panic(line in "[a-z0-9:/=._ \\[\\]\u{e9}-]{0,80}") {
        // What it says of it is not the question.
        State::read(&file(&format!("{line}\nhttps://a {line}\n"), 2), NOW).ok();
    }
}

#[test]
fn words_of_a_later_program_and_remarks_are_passed_over() {
    let text = file("# a remark\n\nhttps://a needs=2 colour=red speaks=h3 seen=1764028800\n", 1);
    let state = State::read(&text, NOW).unwrap();
    assert_eq!(state.0[&at("https://a")], Known { speaks: None, ..known(2.0) });
}

#[test]
fn number_of_origins_is_bounded_at_and_one_past() {
    let lines = |count: usize| {
        let line = |n| format!("https://n{n} needs=1 seen={NOW}\n");
        file(&(0..count).map(line).collect::<String>(), count)
    };
    let most = State::read(&lines(STATE_ORIGINS_MAX), NOW).unwrap();
    assert_eq!(most.0.len(), STATE_ORIGINS_MAX);
    let past = State::read(&lines(STATE_ORIGINS_MAX + 1), NOW);
    assert_eq!(past, Err(Unusable::Line(STATE_ORIGINS_MAX + 3, "is one origin too many")));
    let mut many = most;
    many.0.insert(at("https://rare"), Known { seen: NOW - 1, ..known(1.0) });
    let kept = State::read(&many.text(NOW), NOW).unwrap();
    assert_eq!(kept.0.len(), STATE_ORIGINS_MAX);
    assert!(!kept.0.contains_key(&at("https://rare")), "the one that was used last goes");
    let label = "x".repeat(60);
    let longest = |n| format!("https://x{n:04}.{label}.{label}.{label}.{label}:65535");
    let limit = Some(IDLE_LIMIT_TOLD_MAX);
    let full = Known { idle_limit: limit, ..known(KEEPALIVE_CONNS_MAX as f64) };
    let longest = State((0..STATE_ORIGINS_MAX).map(|n| (at(&longest(n)), full)).collect());
    assert!((longest.text(NOW).len() as u64) < crate::limits::STATE_BYTES_MAX);
}

#[test]
fn what_is_too_old_is_left_out_at_the_bound_and_one_past() {
    let kept_for = STATE_KEPT_FOR.as_secs();
    let text = file(&format!("https://a needs=1 seen={NOW}\n"), 1);
    assert_eq!(State::read(&text, NOW + kept_for).unwrap().0.len(), 1);
    let old = Unusable::Old(STATE_KEPT_FOR + Duration::from_secs(1));
    assert_eq!(State::read(&text, NOW + kept_for + 1), Err(old));
    let one = |seen| file(&format!("https://a needs=1 seen={seen}\n"), 1);
    assert_eq!(State::read(&one(NOW - kept_for), NOW).unwrap().0.len(), 1);
    assert_eq!(State::read(&one(NOW - kept_for - 1), NOW).unwrap().0.len(), 0);
    // A clock that was ahead.
    assert_eq!(State::read(&one(u64::MAX), NOW).unwrap().0[&at("https://a")].seen, NOW);
}

#[test]
fn shards_are_summed_but_for_more_than_was_open() {
    let none = State::default();
    let merged = State::merge(&none, [part("https://a", 3.0, 4), part("https://a", 2.0, 9)]);
    assert_eq!(merged.0[&at("https://a")].needs, 5.0);
    let merged = State::merge(&none, [part("https://a", 3.0, 4), part("https://a", 2.0, 3)]);
    assert_eq!(merged.0[&at("https://a")].needs, 4.0);
}

#[test]
fn the_shortest_limit_and_the_latest_use_count() {
    let mut parts = [1, 2, 3].map(|_| part("https://a", 1.0, 9));
    parts[0].known.idle_limit = Some(9000 * MS);
    parts[1].known.idle_limit = Some(5000 * MS);
    parts[2].known.seen = NOW + 5;
    let merged = State::merge(&State::default(), parts);
    let known = merged.0[&at("https://a")];
    assert_eq!((known.idle_limit, known.seen), (Some(5000 * MS), NOW + 5));
}

#[test]
fn an_origin_that_was_asked_once_is_kept_for_its_limit_only() {
    let mut once = part("https://a", 1.0, 1);
    assert!(State::merge(&State::default(), [once.clone()]).0.is_empty());
    once.known.idle_limit = Some(5000 * MS);
    assert_eq!(State::merge(&State::default(), [once]).0[&at("https://a")].needs, 0.0);
}

#[test]
fn what_no_shard_knows_any_more_is_kept_for_its_limit_only() {
    let mut before = State::default();
    before.0.insert(at("https://gone"), known(4.0));
    let limited = Known { idle_limit: Some(5000 * MS), ..known(4.0) };
    before.0.insert(at("https://limited"), limited);
    let merged = State::merge(&before, []);
    assert_eq!(merged.0.len(), 1);
    assert_eq!(merged.0[&at("https://limited")], Known { needs: 0.0, ..limited });
}

#[test]
fn small_changes_are_not_worth_a_write() {
    let state = |known| State(HashMap::from([(at("https://a"), known)]));
    let old = state(known(4.0));
    assert!(old.is_as_good_as(&state(known(3.6))));
    assert!(old.is_as_good_as(&state(Known { seen: NOW + 599, ..known(4.0) })));
    for new in [
        known(3.4),
        Known { seen: NOW + 600, ..known(4.0) },
        Known { speaks: None, ..known(4.0) },
        Known { idle_limit: Some(MS), ..known(4.0) },
    ] {
        assert!(!old.is_as_good_as(&state(new)), "{new:?}");
    }
    assert!(!old.is_as_good_as(&State::default()) && !State::default().is_as_good_as(&old));
}
