use super::*;
use crate::error::{Party, Phase};
use crate::observe::access_log::{ConnectionFacts, Protocol, TlsFacts};
use crate::observe::latency::{Acquired, Cost};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

pub(crate) const RECORD: Record<'static> = Record {
    started_unix_us: 1_795_482_123_456_789,
    peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 49296),
    method: b"GET",
    target: b"/small?query=1",
    path: b"/small",
    version: Version::Http11,
    status: 200,
    size: 2,
    user_agent: b"curl/7.88.1",
    duration: Duration::from_nanos(885_780),
    host: b"127.0.0.1.ccnproxy:9001",
    id: b"dc27s1hksdu8cno2j5lg",
    course: COURSE,
};

const COURSE: Course = Course {
    attempts: 1,
    connection: Some(ConnectionFacts {
        origin: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
        acquired: Acquired::New,
        cost: Cost {
            dns: Duration::from_micros(999),
            connect: Duration::from_micros(150_250),
            tls: Duration::from_millis(151),
            wait: Duration::from_nanos(1_999),
        },
        protocol: Protocol::Http11,
        tls: Some(TlsFacts { version: "TLSv1.3", resumed: true }),
    }),
    first_byte: Some(Duration::from_micros(150_001)),
    body: Some(Duration::from_micros(1_060_300)),
    ended_by: None,
};

/// A request of which nothing could be read.
const UNREAD: Record<'static> = Record {
    method: b"",
    target: b"",
    path: b"",
    status: 400,
    size: 0,
    user_agent: b"",
    host: b"",
    course: Course {
        attempts: 0,
        connection: None,
        first_byte: None,
        body: None,
        ended_by: Some((Party::Client, Phase::Head)),
    },
    ..RECORD
};

fn line(format: LogFormat, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    Lines::new(format, 3).append(&mut out, record);
    let line = String::from_utf8(out).expect("UTF-8");
    assert_eq!(line.matches('\n').count(), 1, "{line:?}");
    assert!(line.ends_with('\n'), "{line:?}");
    line
}

fn stamp(layout: Layout) -> String {
    let stamp = Stamp::new(1_795_482_123, layout);
    String::from_utf8(stamp.as_bytes().to_vec()).expect("ASCII")
}

fn labels(line: &str) -> BTreeMap<&str, &str> {
    line.trim_end().split('\t').map(|pair| pair.split_once(':').expect("a label")).collect()
}

/// Every byte that a peer can get into a value and that means something somewhere.
const AWKWARD: &[u8] = b"\xff\"\\\t\n\r\x00\x1b]: \xc3\xa9";

#[test]
fn json_has_chocons_keys_order_and_formats() {
    let expected = [
        r#"{"time":""#,
        &stamp(Layout::Slashes),
        r#"","remote_addr":"127.0.0.1","method":"GET","uri":"/small","status":200,"size":2,"#,
        r#""ua":"curl/7.88.1","ptime":0.00088578,"host":"127.0.0.1.ccnproxy:9001","#,
        r#""chocon_req":"dc27s1hksdu8cno2j5lg"}"#,
        "\n",
    ];
    assert_eq!(line(LogFormat::Json, &RECORD), expected.concat());
}

#[test]
fn peer_bytes_cannot_break_the_json_line() {
    let record = Record { path: b"/a%0a\"%zz%4", user_agent: b"\xff\"\\", ..RECORD };
    let line = line(LogFormat::Json, &record);
    assert!(line.contains(r#""uri":"/a\n\"%zz%4""#), "{line}");
    assert!(line.contains(r#""ua":"\ufffd\"\\""#), "{line}");
}

#[test]
fn addresses_look_as_in_gos_remote_addr() {
    for (addr, text) in [
        ("2001:db8::1", "[2001:db8::1]"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("255.100.9.0", "255.100.9.0"),
    ] {
        let peer = SocketAddr::new(addr.parse().expect("an address"), 65_535);
        let record = Record { peer, ..RECORD };
        let json = line(LogFormat::Json, &record);
        assert!(json.contains(&format!(r#""remote_addr":"{text}""#)), "{json}");
        let apache = line(LogFormat::Apache, &record);
        assert!(apache.starts_with(&format!("{text}:65535 - - [")), "{apache}");
        assert_eq!(labels(&line(LogFormat::Ltsv, &record))["host"], text);
    }
}

#[test]
fn json_plus_is_json_with_the_course_behind_it() {
    let json = line(LogFormat::Json, &RECORD);
    let plus = line(LogFormat::JsonPlus, &RECORD);
    let before = json.trim_end().trim_end_matches('}');
    let course = concat!(
        r#","origin":"192.0.2.1:443","conn":"new","proto":"http/1.1","tls":"TLSv1.3","#,
        r#""tls_resumed":true,"attempts":1,"dns_ms":0.999,"connect_ms":150.250,"tls_ms":151.000,"#,
        r#""wait_ms":0.001,"first_byte_ms":150.001,"body_ms":1060.300,"shard":3,"ended_by":"-"}"#,
        "\n"
    );
    assert_eq!(plus, format!("{before}{course}"));
}

#[test]
fn json_plus_says_what_was_not_reached_and_who_ended_it() {
    let parsed: Value =
        serde_json::from_str(&line(LogFormat::JsonPlus, &UNREAD)).expect("a JSON object");
    for (key, value) in [
        ("origin", json!("-")),
        ("conn", json!("-")),
        ("proto", json!("-")),
        ("tls", json!("-")),
        ("tls_resumed", json!(false)),
        ("attempts", json!(0)),
        ("dns_ms", Value::Null),
        ("connect_ms", Value::Null),
        ("tls_ms", Value::Null),
        ("wait_ms", Value::Null),
        ("first_byte_ms", Value::Null),
        ("body_ms", Value::Null),
        ("ended_by", json!("client/head")),
    ] {
        assert_eq!(parsed[key], value, "{key}");
    }
}

#[test]
fn both_json_lines_are_json_whatever_the_peer_sent() {
    let record = Record {
        method: b"G\"ET",
        path: AWKWARD,
        user_agent: AWKWARD,
        host: AWKWARD,
        id: AWKWARD,
        ..RECORD
    };
    let text = "\u{fffd}\"\\\t\n\r\0\u{1b}]: é";
    for format in [LogFormat::Json, LogFormat::JsonPlus] {
        let parsed: Value = serde_json::from_str(&line(format, &record)).expect("JSON");
        for key in ["uri", "ua", "host", "chocon_req"] {
            assert_eq!(parsed[key], text, "{key}");
        }
        assert_eq!(parsed["method"], "G\"ET");
    }
}

#[test]
fn apache_is_the_line_of_2017() {
    let expected = format!(
        "127.0.0.1:49296 - - [{}] \"GET /small?query=1 HTTP/1.1\" 200 2 \
         \"127.0.0.1.ccnproxy:9001\" 0.000885 dc27s1hksdu8cno2j5lg\n",
        stamp(Layout::Common)
    );
    assert_eq!(line(LogFormat::Apache, &RECORD), expected);
}

#[test]
fn apache_has_a_dash_for_what_is_not_there() {
    let expected = format!(
        "127.0.0.1:49296 - - [{}] \"-\" 400 - \"-\" 0.000885 dc27s1hksdu8cno2j5lg\n",
        stamp(Layout::Common)
    );
    assert_eq!(line(LogFormat::Apache, &UNREAD), expected);
}

#[test]
fn apache_values_end_where_their_quotes_say() {
    let record = Record {
        target: b"/\"x\"\\\t",
        host: AWKWARD,
        id: b"a b",
        version: Version::Http10,
        duration: Duration::from_micros(61_000_007),
        ..RECORD
    };
    let line = line(LogFormat::Apache, &record);
    assert!(line.contains(r#" "GET /\"x\"\\\t HTTP/1.0" 200 2 ""#), "{line}");
    assert!(line.contains(r#" "\xff\"\\\t\n\r\x00\x1b]: \xc3\xa9" 61.000007 "#), "{line}");
}

#[test]
fn ltsv_has_the_labels_that_its_tools_know() {
    let line = line(LogFormat::Ltsv, &RECORD);
    let names: Vec<_> =
        line.split('\t').map(|pair| pair.split_once(':').expect("a label").0).collect();
    let expected = [
        "time",
        "host",
        "method",
        "uri",
        "protocol",
        "status",
        "size",
        "ua",
        "vhost",
        "reqtime",
        "chocon_req",
    ];
    assert_eq!(names, expected);
    let labels = labels(&line);
    assert_eq!(labels["time"], format!("[{}]", stamp(Layout::Common)));
    for (label, value) in [
        ("host", "127.0.0.1"),
        ("method", "GET"),
        ("uri", "/small"),
        ("protocol", "HTTP/1.1"),
        ("status", "200"),
        ("size", "2"),
        ("ua", "curl/7.88.1"),
        ("vhost", "127.0.0.1.ccnproxy:9001"),
        ("reqtime", "0.00088578"),
        ("chocon_req", "dc27s1hksdu8cno2j5lg"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
}

#[test]
fn ltsv_has_a_dash_for_what_is_not_there() {
    let line = line(LogFormat::Ltsv, &UNREAD);
    let labels = labels(&line);
    for label in ["method", "uri", "protocol", "ua", "vhost"] {
        assert_eq!(labels[label], "-", "{label}");
    }
}

#[test]
fn ltsv_values_forge_no_label() {
    let record = Record { path: b"/a\tstatus:500", user_agent: AWKWARD, ..RECORD };
    let line = line(LogFormat::Ltsv, &record);
    let labels = labels(&line);
    assert_eq!((labels.len(), labels["status"]), (11, "200"), "{line}");
    assert_eq!(labels["uri"], r"/a\x09status:500");
    assert_eq!(labels["ua"], r#"\xff"\x5c\x09\x0a\x0d\x00\x1b]: é"#);
}

#[test]
fn stamps_of_seconds_to_and_fro_are_right() {
    for layout in [Layout::Slashes, Layout::Common] {
        let mut stamps = Stamps::new(layout);
        for second in [0, 8, 0, 1_795_482_123, 1_795_482_115, 1_795_482_123, -1, 7] {
            assert_eq!(stamps.of(second), Stamp::new(second, layout).as_bytes());
        }
    }
}
