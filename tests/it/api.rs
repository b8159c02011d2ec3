//! `/.api/stats` and `/.api/http-stats` as a monitoring plugin made for chocon reads them.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chocon_uring::limits::API_CLIENTS_MAX;
use serde_json::Value;

use crate::support::{Client, OK, Origin, Proxy, RefusingAddr, Response, Supervisor, eventually};

fn get(client: &mut Client, host: &str, path: &str) -> Response {
    client.request("GET", host, path, "", b"");
    client.read_response()
}

/// One look of the plugin, on a connection of its own.
fn look_at(addr: SocketAddr, path: &str) -> Value {
    let mut client = Client::connect_to(addr);
    let response = get(&mut client, "monitoring.example", path);
    assert_eq!(response.status, 200);
    assert_eq!(response.field("Content-Type"), Some("application/json"));
    serde_json::from_str(&response.text()).expect("JSON")
}

pub fn look(proxy: &Proxy, path: &str) -> Value {
    look_at(proxy.addr(), path)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// Where a proxy says that its pages are.
fn api_addr(proxy: &Proxy) -> SocketAddr {
    let line = proxy.wait_for_log("/.api/ is at ");
    let (_, addr) = line.split_once("/.api/ is at ").expect("an address");
    addr.parse().expect("an address")
}

/// What chocon's plugins read, key by key: none may be missing or of another kind.
#[test]
fn plugin_finds_every_key_of_the_process() {
    let proxy = Proxy::start(&[]);
    let stats = look(&proxy, "/.api/stats");
    for key in [
        "time",
        "cpu_num",
        "goroutine_num",
        "gomaxprocs",
        "cgo_call_num",
        "memory_alloc",
        "memory_total_alloc",
        "memory_sys",
        "memory_lookups",
        "memory_mallocs",
        "memory_frees",
        "memory_stack",
        "heap_alloc",
        "heap_sys",
        "heap_idle",
        "heap_inuse",
        "heap_released",
        "heap_objects",
        "gc_next",
        "gc_last",
        "gc_num",
        "gc_per_second",
        "gc_pause_per_second",
    ] {
        assert!(number(&stats, key) >= 0.0, "{key}");
    }
    for key in ["go_version", "go_os", "go_arch"] {
        assert!(stats[key].is_string(), "{key}");
    }
    assert_eq!(stats["gc_pause"].as_array().map(Vec::len), Some(0));
    assert_eq!(stats.as_object().map(serde_json::Map::len), Some(31), "chocon's, and four more");
}

#[test]
fn figures_of_the_process_are_its_own() {
    let proxy = Proxy::start(&[]);
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let stats = look(&proxy, "/.api/stats");
    let time = Duration::from_nanos(stats["time"].as_u64().expect("nanoseconds"));
    assert!(time + Duration::from_millis(1) >= before && time < before + Duration::from_secs(60));
    assert_eq!(number(&stats, "gomaxprocs"), 2.0, "shards");
    let resident_kib = proxy.resident_kib() as f64;
    let memory_kib = number(&stats, "memory_sys") / 1024.0;
    assert!((memory_kib - resident_kib).abs() < resident_kib / 2.0, "{memory_kib} KiB");
    assert!(number(&stats, "memory_alloc") <= number(&stats, "memory_sys"));
    let _clients: Vec<_> = (0..20).map(|_| Client::connect(&proxy)).collect();
    eventually("the open connections to be counted", || {
        number(&look(&proxy, "/.api/stats"), "goroutine_num") >= 2.0 + 20.0
    });
}

#[test]
fn plugin_finds_requests_by_status_and_their_times() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&["--spfactor", "1"]));
    let not_found = Origin::answering("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
    let refusing = RefusingAddr::new();
    // On connections of their own, so that both shards take part.
    for _ in 0..12 {
        let mut client = Client::connect(&proxy);
        assert_eq!(get(&mut client, &origin.host(), "/").status, 200);
        assert_eq!(get(&mut client, &not_found.host(), "/").status, 404);
    }
    let mut client = Client::connect(&proxy);
    get(&mut client, &refusing.host(), "/").status.eq(&502).then_some(()).expect("502");
    let mut client = Client::connect(&proxy);
    assert_eq!(get(&mut client, "no-label", "/").status, 400);

    let stats = look(&proxy, "/.api/http-stats");
    assert_eq!(number(&stats["request"], "count"), 26.0);
    let by_status = &stats["request"]["status_count"];
    let expected = [
        ("200", 12.0),
        ("400", 1.0),
        ("401", 0.0),
        ("403", 0.0),
        ("404", 12.0),
        ("500", 0.0),
        ("501", 0.0),
        ("502", 1.0),
        ("503", 0.0),
        ("504", 0.0),
    ];
    for (status, count) in expected {
        assert_eq!(number(by_status, status), count, "{status} in {stats}");
    }
    let times = &stats["response"];
    let [min, average, max] =
        ["min_time", "average_time", "max_time"].map(|key| number(times, key));
    let [p90, p95, p99] = ["90", "95", "99"].map(|key| number(&times["percentiled_time"], key));
    assert!(0.0 < min && min <= average && average <= max && max < 10.0, "{stats}");
    assert!(min <= p90 && p90 <= p95 && p95 <= p99 && p99 <= max, "{stats}");
    // The looks are counted too, as chocon does; each sees those before it.
    let again = look(&proxy, "/.api/http-stats");
    assert_eq!(number(&again["request"], "count"), 27.0);
}

#[test]
fn times_are_those_of_the_latest_requests() {
    let slow = Origin::start(|mut conn| {
        while conn.try_read_request().is_some() {
            std::thread::sleep(Duration::from_millis(300));
            conn.send(OK);
        }
    });
    let fast = Origin::answering(OK);
    let proxy = Proxy::start(&["--stsize", "10", "--spfactor", "1"]);
    let mut client = Client::connect(&proxy);
    get(&mut client, &slow.host(), "/");
    let max = |proxy: &Proxy| number(&look(proxy, "/.api/http-stats")["response"], "max_time");
    assert!(max(&proxy) >= 0.3);
    for _ in 0..10 {
        let mut client = Client::connect(&proxy);
        get(&mut client, &fast.host(), "/");
    }
    let now = max(&proxy);
    assert!(now < 0.3, "the slow one is not among the latest ten: {now}");
}

#[test]
fn pages_are_at_any_host_and_for_absolute_targets() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    for host in [origin.host().as_str(), "localhost", "x.ccnproxy-https", ""] {
        assert_eq!(get(&mut client, host, "/.api/stats").status, 200, "{host:?}");
    }
    let absolute = format!("http://{}/.api/http-stats?x=1", origin.host());
    assert_eq!(get(&mut client, &origin.host(), &absolute).status, 200);
    origin.expect_no_bytes();
    // What only looks alike goes its way.
    assert_eq!(get(&mut client, &origin.host(), "/.api/other").text(), "ok");
}

#[test]
fn page_leaves_the_connection_as_it_was() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&[]));
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        let page = get(&mut client, "x", "/.api/stats");
        assert!(!page.closes() && page.field("X-Chocon-Id").is_some());
        assert_eq!(get(&mut client, &origin.host(), "/").text(), "ok");
    }
    client.send("GET /.api/stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(client.read_response().closes());
    client.expect_closed();
}

#[test]
fn pipelined_pages_come_in_order() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let request = |path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(request("/.api/http-stats") + &request("/.api/stats"));
    assert!(client.read_pipelined_response().text().contains("status_count"));
    assert!(client.read_response().text().contains("go_version"));
}

#[test]
fn head_gets_the_head_and_other_methods_are_refused() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("HEAD", "x", "/.api/stats", "", b"");
    let head = client.read_response_to("HEAD");
    assert_eq!(head.status, 200);
    let length: usize =
        head.field("Content-Length").and_then(|n| n.parse().ok()).expect("a length");
    assert!(length > 500, "{length}");
    for method in ["DELETE", "OPTIONS"] {
        client.request(method, "x", "/.api/stats", "", b"");
        let refused = client.read_response();
        assert_eq!((refused.status, refused.field("Allow")), (405, Some("GET, HEAD")));
    }
    client.expect_usable();
}

#[test]
fn body_that_nobody_reads_ends_the_connection_after_the_answer() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("POST", "x", "/.api/stats", "Content-Length: 4\r\n", b"body");
    let refused = client.read_response();
    assert_eq!(refused.status, 405);
    assert!(refused.closes());
    client.expect_closed();
}

#[test]
fn http_10_is_answered_in_its_manner() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send("GET /.api/stats HTTP/1.0\r\n\r\n");
    let page = client.read_response();
    assert!(page.status == 200 && page.closes());
    client.expect_closed();
}

#[test]
fn page_is_in_the_access_log() {
    let proxy = Proxy::start(&["--access-log-format", "json+"]);
    let mut client = Client::connect(&proxy);
    let page = get(&mut client, "x", "/.api/http-stats");
    let line = proxy.wait_for_access_line(|line| line.get("uri") == "/.api/http-stats");
    assert_eq!((line.get("status"), line.get("ended_by")), ("200", "-"));
    assert_eq!(line.get("size"), page.text().len().to_string());
    assert!(!proxy.log().contains("ErrorFromProxy"), "{}", proxy.log());
}

#[test]
fn off_leaves_the_paths_to_the_origins() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&["--api", "off"]));
    let mut client = Client::connect(&proxy);
    assert_eq!(get(&mut client, &origin.host(), "/.api/stats").text(), "ok");
    assert_eq!(origin.next_request().head.start_line, "GET /.api/stats HTTP/1.1");
    assert_eq!(get(&mut client, "monitoring.example", "/.api/stats").status, 400);
}

#[test]
fn address_of_its_own_has_the_pages_and_nothing_else() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&["--api", "127.0.0.1:0"]));
    let api = api_addr(&proxy);
    assert_ne!(api, proxy.addr());
    for _ in 0..5 {
        assert_eq!(number(&look_at(api, "/.api/stats"), "gomaxprocs"), 2.0);
    }
    let mut client = Client::connect_to(api);
    assert_eq!(get(&mut client, &origin.host(), "/").status, 404, "no way to an origin");
    assert_eq!(get(&mut client, &origin.host(), "/.api/other").status, 404);
    assert_eq!(get(&mut client, "x", "/.api/http-stats").status, 200, "it goes on");
    origin.expect_no_bytes();
    // And the clients' port has none.
    let mut client = Client::connect(&proxy);
    assert_eq!(get(&mut client, &origin.host(), "/.api/stats").text(), "ok");
}

#[test]
fn address_that_is_taken_is_told_at_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let (status, _, stderr) = Proxy::options(&["--api", &addr]).run_to_end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains(&addr) && stderr.contains("--api"), "{stderr}");
    let (status, _, stderr) = Proxy::options(&["--api", &addr, "--check"]).run_to_end();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains(&addr) && stderr.contains("--api"), "{stderr}");
}

#[test]
fn address_of_its_own_passes_to_the_process_that_takes_over() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let start = |api: &str| {
        let options = Proxy::options(&["--api", api]);
        options.inherit(Supervisor::ServerStarter, &[&socket]).start()
    };
    let mut before = start("127.0.0.1:0");
    let api = api_addr(&before);
    let after = start(&api.to_string());
    assert_eq!(api_addr(&after), api);
    before.signal(libc::SIGTERM);
    assert_eq!(before.wait_exit().code(), Some(0));
    look_at(api, "/.api/stats");
    // Without a supervisor two processes on one address are a mistake.
    let (status, _, stderr) = Proxy::options(&["--api", &api.to_string()]).run_to_end();
    assert_eq!(status.code(), Some(1), "{stderr}");
}

#[test]
fn address_of_its_own_ends_with_the_process() {
    let mut proxy = Proxy::start(&["--api", "127.0.0.1:0"]);
    let mut client = Client::connect_to(api_addr(&proxy));
    assert_eq!(get(&mut client, "x", "/.api/stats").status, 200);
    proxy.signal(libc::SIGTERM);
    assert_eq!(proxy.wait_exit().code(), Some(0));
    client.expect_closed();
}

#[test]
fn pages_have_so_many_places_beyond_the_clients() {
    // 192 descriptors are reserved: a shard gets 5/8 of what is left.
    let flags = ["--api", "127.0.0.1:0", "--cores", "1", "--log-level", "info"];
    let proxy = Proxy::options(&flags).nofile(192 + 64).start();
    let line = proxy.wait_for_log("a shard serves at most");
    let places = line.split("at most ").nth(1).and_then(|rest| rest.split(' ').next());
    let places: usize = places.and_then(|number| number.parse().ok()).expect("a number");
    let mut clients: Vec<_> = (0..places).map(|_| Client::connect(&proxy)).collect();
    clients.iter_mut().for_each(Client::expect_usable);
    let api = api_addr(&proxy);
    // And the one that the accept loop has under way.
    let mut lookers: Vec<_> = (0..=API_CLIENTS_MAX).map(|_| Client::connect_to(api)).collect();
    for looker in &mut lookers {
        assert_eq!(get(looker, "x", "/.api/stats").status, 200);
    }
    let mut beyond = Client::connect_to(api);
    beyond.request("GET", "x", "/.api/stats", "", b"");
    // Nothing tells that it is left waiting but that another one, that has its place, is served meanwhile.
    (0..20).for_each(|_| assert_eq!(get(&mut lookers[0], "x", "/.api/stats").status, 200));
    beyond.expect_silence(Duration::from_millis(300));
    drop((clients, lookers));
    assert_eq!(beyond.read_response().status, 200);
}

#[test]
fn pages_in_a_hurry_disturb_no_request() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&["--stsize", "100000"]));
    let mut busy = Client::connect(&proxy);
    let mut curious: Vec<_> = (0..16).map(|_| Client::connect(&proxy)).collect();
    for _ in 0..20 {
        for client in &mut curious {
            client.request("GET", "x", "/.api/http-stats", "", b"");
        }
        assert_eq!(get(&mut busy, &origin.host(), "/").text(), "ok");
        for client in &mut curious {
            assert_eq!(client.read_response().status, 200);
        }
    }
}
