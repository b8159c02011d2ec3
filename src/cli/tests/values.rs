//! What the values of flags mean, and their bounds.

use super::*;
use crate::limits::{BUSY_POLL_MAX, WARM_CONNECTIONS_MAX};

#[test]
fn bounds_hold_at_and_one_past() {
    assert_eq!(config(&["-p", "65535"]).listen.port(), 65_535);
    assert_eq!(mistakes(&["-p", "65536"]).len(), 1);
    assert_eq!(config(&["--cores", "1024"]).cores, Some(SHARDS_MAX));
    assert_eq!(mistakes(&["--cores", "1025"]).len(), 1);
    assert_eq!(config(&["--busy-poll", "1s"]).busy_poll, BUSY_POLL_MAX);
    assert_eq!(mistakes(&["--busy-poll", "1000001us"]).len(), 1);
    assert_eq!(config(&["-c", "1000000"]).keepalive_conns, KEEPALIVE_CONNS_MAX);
    assert_eq!(mistakes(&["-c", "1000001"]).len(), 1);
    for (flag, least, most) in [
        (ACCESS_LOG_ROTATE, 0, LOG_ROTATIONS_KEPT_MAX),
        (ACCESS_LOG_ROTATE_TIME, 0, LOG_ROTATE_MINUTES_MAX),
        (STSIZE, 2, SAMPLES_KEPT_MAX),
        (SPFACTOR, 1, SAMPLED_ONE_IN_MAX),
    ] {
        let with = |value: i64| format!("--{}={value}", flag.name);
        let (least, most) = (least as i64, most as i64);
        config(&[&with(least)]);
        config(&[&with(most)]);
        assert_eq!(mistakes(&[&with(least - 1)]).len(), 1);
        assert_eq!(mistakes(&[&with(most + 1)]).len(), 1);
        assert!(flag.remedy.contains(&most.to_string()), "{}", flag.name);
    }
    assert!(CORES.remedy.contains(&SHARDS_MAX.to_string()));
    assert!(KEEPALIVE_CONNS.remedy.contains(&KEEPALIVE_CONNS_MAX.to_string()));
    let networks = |count| vec!["--allow-cidr=10.0.0.0/8"; count];
    assert_eq!(config(&networks(ALLOW_CIDRS_MAX)).allow_cidr.len(), ALLOW_CIDRS_MAX);
    assert_eq!(mistakes(&networks(ALLOW_CIDRS_MAX + 1)).len(), 1);
}

#[test]
fn access_log_goes_where_chocon_would_put_it() {
    for (value, to) in [
        ("", AccessLogTo::Stderr),
        ("stderr", AccessLogTo::Stderr),
        ("stdout", AccessLogTo::Stdout),
        ("none", AccessLogTo::Off),
    ] {
        assert_eq!(config(&["--access-log-dir", value]).access_log, to);
        assert_eq!(config(&[&format!("--access-log-dir={value}")]).access_log, to);
    }
}

#[test]
fn access_log_files_are_kept_for_as_many_rotations_as_told() {
    let dir = std::env::temp_dir().join("chocon-uring-not-made");
    let dir = dir.to_str().expect("UTF-8");
    let files = |flags: &[&str]| match config(&[&["--access-log-dir", dir], flags].concat()) {
        Config { access_log: AccessLogTo::Directory(files), .. } => files,
        other => panic!("{other:?}"),
    };
    let day = Duration::from_secs(86_400);
    let to = |rotate_every, keep_for| LogDirectory { dir: dir.into(), rotate_every, keep_for };
    assert_eq!(files(&[]), to(day, 30 * day));
    let an_hour = &["--access-log-rotate-time", "60", "--access-log-rotate", "48"];
    assert_eq!(files(an_hour), to(day / 24, 2 * day));
    // chocon keeps seven days where either is 0.
    assert_eq!(files(&["--access-log-rotate", "0"]), to(day, 7 * day));
    assert_eq!(files(&["--access-log-rotate-time", "0"]), to(Duration::ZERO, 7 * day));
    let longest = ["--access-log-rotate-time=5256000", "--access-log-rotate=1000000"];
    assert!(files(&longest).keep_for > day);
    assert!(!std::path::Path::new(dir).exists(), "looking at flags makes nothing");
}

#[test]
fn api_is_where_it_was_told_to_be() {
    assert_eq!(config(&["--api", "off"]).api, ApiAt::Off);
    assert_eq!(config(&["--api", "main"]).api, ApiAt::Main);
    let address = "127.0.0.1:3001".parse().expect("an address");
    assert_eq!(config(&["--api", "127.0.0.1:3001"]).api, ApiAt::Address(address));
    assert_eq!(mistakes(&["--api", "localhost:3001"]).len(), 1);
}

#[test]
fn access_log_formats_have_their_names() {
    for (name, format) in [
        ("json", LogFormat::Json),
        ("json+", LogFormat::JsonPlus),
        ("apache", LogFormat::Apache),
        ("ltsv", LogFormat::Ltsv),
    ] {
        assert_eq!(config(&["--access-log-format", name]).access_log_format, format);
    }
}

#[test]
fn a_congestion_control_is_asked_of_the_kernel() {
    for name in ["warp", "a-name-longer-than-15-bytes"] {
        let said = mistakes(&["--tcp-congestion", name]);
        assert!(said[0].contains("is not known to the kernel; it has "), "{said:?}");
        assert!(said[0].contains("reno"), "{said:?}");
    }
    // Every kernel allows it to everybody.
    assert_eq!(config(&["--tcp-congestion", "reno"]).tcp_congestion.as_deref(), Some("reno"));
    assert_eq!(config(&["--tcp-congestion", ""]).tcp_congestion, None);
}

#[test]
fn the_path_of_the_upstream_does_not_count() {
    for (url, meant) in [
        ("http://up.test", "http://up.test"),
        ("http://up.test/", "http://up.test"),
        ("https://up.test:8443/a/b?c#d", "https://up.test:8443"),
        ("http://[2001:db8::1]:3000/a", "http://[2001:db8::1]:3000"),
    ] {
        let expected = OriginUrl::parse(meant).expect("a URL");
        assert_eq!(config(&["--upstream", url]).upstream, Some(expected), "{url}");
    }
    assert_eq!(config(&["--upstream="]).upstream, None);
    for bad in ["up.test", "http:///", "http://u:p@up.test/", "http://up.test:0/"] {
        assert!(mistakes(&["--upstream", bad])[0].contains("give http://NAME"), "{bad}");
    }
}

#[test]
fn an_origin_to_keep_warm_has_a_number_within_the_idle_connections() {
    let warm = |text: &str, connections| {
        vec![Warm { origin: OriginUrl::parse(text).expect("a URL"), connections }]
    };
    assert_eq!(config(&["--warm", "https://a.b"]).warm, warm("https://a.b", 1));
    assert_eq!(config(&["--warm", "http://a.b:81/=2"]).warm, warm("http://a.b:81", 2));
    assert_eq!(config(&["-c", "2", "--warm", "http://a=2"]).warm, warm("http://a", 2));
    assert_eq!(config(&["-c", "0", "--warm", "http://a=2"]).warm, warm("http://a", 2));
    let most = format!("http://a={WARM_CONNECTIONS_MAX}");
    assert_eq!(config(&["-c", "2000", "--warm", &most]).warm, warm("http://a", 1024));
    for (text, cause) in [
        ("a.b", "does not begin with http:// or https://"),
        ("https://a.b/path=2", "has a path, but only a name and a port count"),
        ("https://a.b=", "has no number of connections behind its ="),
        ("https://a.b=0", "has no number of connections behind its ="),
        ("https://a.b=1025", "has no number of connections behind its ="),
        ("https://a.b=3", "asks for more connections than --keepalive-conns lets be idle"),
    ] {
        let said = mistakes(&["-c", "2", "--warm", text]);
        assert_eq!(said, [format!("--warm: {text:?} {cause}; {}", WARM.remedy)]);
    }
    let said = mistakes(&["--warm-learned", "maybe"]);
    assert_eq!(said, [r#"--warm-learned: "maybe" is neither on nor off; give on or off"#]);
    let too_many: Vec<String> =
        (0..=WARM_ORIGINS_MAX).map(|n| format!("--warm=http://a{n}")).collect();
    let too_many: Vec<&str> = too_many.iter().map(String::as_str).collect();
    assert!(mistakes(&too_many)[0].contains("257 origins are too many"));
}

#[test]
fn a_name_is_mapped_once_and_a_narrower_one_beside_it() {
    let twice = mistakes(&["--map=A.b=http://c", "--map=x=http", "--map=a.b.=http://d"]);
    let cause = "has a name that an earlier one leads somewhere already";
    assert_eq!(twice, [format!("--map: \"a.b.=http://d\" {cause}; {}", MAP.remedy)]);
    assert_eq!(mistakes(&["--map=*.b=http", "--map=*.b=https"]).len(), 1);
    let apart = ["--map=a.b=http", "--map=a.b:81=http", "--map=*.b=http", "--map=*=http"];
    assert_eq!(config(&apart).rules.maps.len(), 4);
}
