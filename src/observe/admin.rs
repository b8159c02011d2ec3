//! The proxy's own pages: `/.api/stats` and `/.api/http-stats` in chocon's keys, so that what
//! watches a chocon goes on working. Pure: figures in, bytes out.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::observe::counters::{Http2Counts, STATUSES, Summary, Times};
use crate::observe::json::{append_f64, append_string, append_u64};
use crate::observe::memory::Memory;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The process; with line breaks for people where asked for.
    Stats { pretty: bool },
    /// Its requests.
    HttpStats,
}

impl Page {
    /// The page that a request target asks for: by its path's beginning, as chocon has it
    /// (chocon: addStatsHandler).
    pub fn of(path_and_query: &str) -> Option<Page> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        if path.starts_with("/.api/stats") {
            let pretty = query.split('&').any(|pair| matches!(pair, "pp=1" | "pp=true"));
            Some(Page::Stats { pretty })
        } else if path.starts_with("/.api/http-stats") {
            Some(Page::HttpStats)
        } else {
            None
        }
    }
}

/// What there is to say of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub unix_ns: u64,
    /// CPUs that it may use.
    pub cpus: usize,
    /// Client connections of each shard.
    pub clients: Vec<usize>,
    /// HTTP/2 to the origins, of each shard.
    pub http2: Vec<Http2Counts>,
    pub memory: Memory,
}

/// `/.api/stats` (chocon: fukata/golang-stats-api-handler). What only Go's runtime has is 0; `clients` and what
/// begins with `http2` is ours.
pub fn stats(figures: &Figures, pretty: bool) -> Vec<u8> {
    let Figures { unix_ns, cpus, clients, http2, memory } = figures;
    let Memory { anonymous, resident, stack } = *memory;
    let shards = clients.len();
    let version = concat!("chocon-uring ", env!("CARGO_PKG_VERSION"));
    let compiler = env!("CHOCON_URING_RUSTC");
    let mut out = Object::new(pretty);
    out.number("time", *unix_ns);
    out.string("go_version", &format!("{version}, {compiler}"));
    out.string("go_os", "linux");
    out.string("go_arch", go_arch());
    out.number("cpu_num", *cpus as u64);
    // What lives at once: a task for each client, and the shards that run them.
    out.number("goroutine_num", (shards + clients.iter().sum::<usize>()) as u64);
    out.number("gomaxprocs", shards as u64);
    out.number("cgo_call_num", 0);
    out.number("memory_alloc", anonymous);
    out.number("memory_total_alloc", 0);
    out.number("memory_sys", resident);
    out.number("memory_lookups", 0);
    out.number("memory_mallocs", 0);
    out.number("memory_frees", 0);
    out.number("memory_stack", stack);
    out.number("heap_alloc", anonymous);
    out.number("heap_sys", anonymous);
    out.number("heap_idle", 0);
    out.number("heap_inuse", anonymous);
    out.number("heap_released", 0);
    out.number("heap_objects", 0);
    for collector in ["gc_next", "gc_last", "gc_num", "gc_per_second", "gc_pause_per_second"] {
        out.number(collector, 0);
    }
    out.numbers("gc_pause", &[]);
    out.numbers("clients", clients);
    let of_each = |count: fn(&Http2Counts) -> usize| http2.iter().map(count).collect::<Vec<_>>();
    out.numbers("http2_connections", &of_each(|shard| shard.connections));
    out.numbers("http2_requests", &of_each(|shard| shard.requests));
    out.numbers("http2_goaways", &of_each(|shard| shard.goaways));
    out.end()
}

/// `/.api/http-stats` (chocon: mercari/go-httpstats), in seconds.
pub fn http_stats(summary: &Summary) -> Vec<u8> {
    let Summary { requests, by_status, times } = summary;
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(br#"{"request":{"count":"#);
    append_u64(&mut out, *requests);
    out.extend_from_slice(br#","status_count":{"#);
    for (position, (status, count)) in STATUSES.iter().zip(by_status).enumerate() {
        out.extend_from_slice(if position == 0 { b"\"" } else { b",\"" });
        append_u64(&mut out, u64::from(*status));
        out.extend_from_slice(b"\":");
        append_u64(&mut out, *count);
    }
    let Times { max, min, average, p90, p95, p99 } = *times;
    let seconds = |out: &mut Vec<u8>, key: &str, duration: Duration| {
        out.extend_from_slice(key.as_bytes());
        append_f64(out, duration.as_secs_f64());
    };
    seconds(&mut out, r#"}},"response":{"max_time":"#, max);
    seconds(&mut out, r#","min_time":"#, min);
    seconds(&mut out, r#","average_time":"#, average);
    seconds(&mut out, r#","percentiled_time":{"90":"#, p90);
    seconds(&mut out, r#","95":"#, p95);
    seconds(&mut out, r#","99":"#, p99);
    out.extend_from_slice(b"}}}\n");
    out
}

/// As Go names the processors that this proxy is built for; others by Rust's name.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A JSON object of one level.
struct Object {
    bytes: Vec<u8>,
    pretty: bool,
}

impl Object {
    fn new(pretty: bool) -> Object {
        Object { bytes: b"{".to_vec(), pretty }
    }

    fn key(&mut self, key: &str) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        self.bytes.extend_from_slice(if self.pretty { b"\n  " } else { b"" });
        append_string(&mut self.bytes, key.as_bytes());
        self.bytes.extend_from_slice(if self.pretty { b": " } else { b":" });
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        append_u64(&mut self.bytes, value);
    }

    fn numbers(&mut self, key: &str, values: &[usize]) {
        self.key(key);
        self.bytes.push(b'[');
        for (position, value) in values.iter().enumerate() {
            if position > 0 {
                self.bytes.push(b',');
            }
            append_u64(&mut self.bytes, *value as u64);
        }
        self.bytes.push(b']');
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        append_string(&mut self.bytes, value.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(if self.pretty { b"\n}" } else { b"}" });
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn pages_are_found_by_the_beginning_of_the_path() {
        let stats = |pretty| Some(Page::Stats { pretty });
        for (target, page) in [
            ("/.api/stats", stats(false)),
            ("/.api/stats/", stats(false)),
            ("/.api/statsd", stats(false)),
            ("/.api/stats?pp=1", stats(true)),
            ("/.api/stats?a&pp=true", stats(true)),
            ("/.api/stats?pp=0", stats(false)),
            ("/.api/stats?app=1", stats(false)),
            ("/.api/http-stats", Some(Page::HttpStats)),
            ("/.api/http-stats?x", Some(Page::HttpStats)),
            ("/.api/", None),
            ("/.api/stat", None),
            ("/.API/stats", None),
            ("//.api/stats", None),
            ("/a/.api/stats", None),
            ("/?/.api/stats", None),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(Page::of(target), page, "{target}");
        }
    }

    fn figures() -> Figures {
        Figures {
            unix_ns: 1_795_482_123_456_789_012,
            cpus: 8,
            clients: vec![3, 0, 5, 2],
            http2: vec![
                Http2Counts { connections: 2, requests: 7, goaways: 1 },
                Http2Counts { connections: 1, requests: 0, goaways: 9 },
            ],
            memory: Memory { anonymous: 3000, resident: 5000, stack: 136 },
        }
    }

    #[test]
    fn stats_have_chocons_keys_in_its_order_and_four_more() {
        let text = String::from_utf8(stats(&figures(), true)).expect("UTF-8");
        let keys: Vec<_> = text.lines().filter_map(|line| line.split('"').nth(1)).collect();
        const OURS: &str = "clients http2_connections http2_requests http2_goaways";
        let chocons = "time go_version go_os go_arch cpu_num goroutine_num gomaxprocs cgo_call_num \
                       memory_alloc memory_total_alloc memory_sys memory_lookups memory_mallocs \
                       memory_frees memory_stack heap_alloc heap_sys heap_idle heap_inuse \
                       heap_released heap_objects gc_next gc_last gc_num gc_per_second \
                       gc_pause_per_second gc_pause";
        assert_eq!(keys.join(" "), format!("{chocons} {OURS}"));
    }

    #[test]
    fn stats_say_what_there_is_and_0_for_what_is_gos_alone() {
        let bytes = stats(&figures(), false);
        assert!(!bytes.contains(&b'\n'));
        let parsed: Value = serde_json::from_slice(&bytes).expect("JSON");
        let pretty: Value = serde_json::from_slice(&stats(&figures(), true)).expect("JSON");
        assert_eq!(parsed, pretty);
        for (key, value) in [
            ("time", json!(1_795_482_123_456_789_012_u64)),
            ("go_os", json!("linux")),
            ("cpu_num", json!(8)),
            ("goroutine_num", json!(14)),
            ("gomaxprocs", json!(4)),
            ("memory_alloc", json!(3000)),
            ("memory_sys", json!(5000)),
            ("memory_stack", json!(136)),
            ("heap_alloc", json!(3000)),
            ("memory_mallocs", json!(0)),
            ("gc_num", json!(0)),
            ("gc_pause", json!([])),
            ("clients", json!([3, 0, 5, 2])),
            ("http2_connections", json!([2, 1])),
            ("http2_requests", json!([7, 0])),
            ("http2_goaways", json!([1, 9])),
        ] {
            assert_eq!(parsed[key], value, "{key}");
        }
        assert!(parsed["go_version"].as_str().is_some_and(|text| text.contains("rustc")));
    }

    #[test]
    fn http_stats_are_chocons_to_the_byte() {
        let mut by_status = [0; STATUSES.len()];
        by_status[0] = 6;
        let times = Times {
            max: Duration::from_millis(1),
            average: Duration::from_nanos(1_300),
            p99: Duration::from_micros(1_500_000),
            ..Times::default()
        };
        let expected = concat!(
            r#"{"request":{"count":6,"status_count":{"200":6,"400":0,"401":0,"403":0,"404":0,"#,
            r#""500":0,"501":0,"502":0,"503":0,"504":0}},"response":{"max_time":0.001,"#,
            r#""min_time":0,"average_time":0.0000013,"percentiled_time":{"90":0,"95":0,"#,
            r#""99":1.5}}}"#,
            "\n"
        );
        let summary = Summary { requests: 6, by_status, times };
        assert_eq!(String::from_utf8(http_stats(&summary)).expect("UTF-8"), expected);
    }
}
