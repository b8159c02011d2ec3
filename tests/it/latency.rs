//! SIGUSR1: round-trip times per origin, merged over the shards, while requests go on.

use std::fs;

use crate::support::{Client, OK, Origin, Proxy, TlsOrigin, eventually};

/// `exchanges` on client connections of their own, so that both shards take part.
fn exchanges(proxy: &Proxy, origin: &Origin, exchanges: usize) {
    for _ in 0..exchanges {
        let mut client = Client::connect(proxy);
        client.get(origin, "/");
        assert_eq!(client.read_response().status, 200);
    }
}

/// The row of `origin` in the last table.
fn row_of(proxy: &Proxy, origin: &Origin) -> String {
    let addr = origin.addr().to_string();
    let is_row =
        |line: &&str| line.contains(&addr) && !line.starts_with('{') && !line.contains("paid at");
    eventually("a row of the origin", || proxy.log().lines().any(|line| is_row(&line)));
    proxy.log().lines().rfind(is_row).expect("a row").to_owned()
}

#[test]
fn table_counts_the_exchanges_of_all_shards() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    exchanges(&proxy, &origin, 23);
    proxy.signal(libc::SIGUSR1);
    let row = row_of(&proxy, &origin);
    assert!(row.split_whitespace().any(|cell| cell == "23"), "{row}");
}

#[test]
fn table_has_a_row_for_every_origin() {
    let (one, two, proxy) = (Origin::answering(OK), Origin::answering(OK), Proxy::start(&[]));
    exchanges(&proxy, &one, 3);
    exchanges(&proxy, &two, 4);
    proxy.signal(libc::SIGUSR1);
    row_of(&proxy, &one);
    row_of(&proxy, &two);
}

#[test]
fn table_names_its_percentiles() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    exchanges(&proxy, &origin, 2);
    proxy.signal(libc::SIGUSR1);
    row_of(&proxy, &origin);
    let log = proxy.log();
    for word in ["count", "reused", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"] {
        assert!(log.contains(word), "no {word} in:\n{log}");
    }
}

#[test]
fn dump_says_how_many_requests_paid_and_for_what() {
    let away = std::time::Duration::from_millis(120);
    let (origin, proxy) =
        (TlsOrigin::options().away(away).answering(OK), Proxy::one_shard(&["--log-level", "info"]));
    let mut client = Client::connect(&proxy);
    for _ in 0..4 {
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().status, 200);
    }
    proxy.signal(libc::SIGUSR1);
    let share = proxy.wait_for_log("waited 1 ms or more for a connection");
    assert!(share.contains("1 of 4 requests (25.000 %)"), "{share}");
    let paid = proxy.wait_for_log("paid at https://localhost:");
    let (_, from_tls) = paid.split_once("tls ").expect("a cost of TLS");
    let tls: f64 = from_tls.split(',').next().and_then(|ms| ms.parse().ok()).expect("ms");
    assert!((120.0..5_000.0).contains(&tls), "{paid}");
}

#[test]
fn dump_without_traffic_says_something_and_ends_nothing() {
    let proxy = Proxy::start(&[]);
    proxy.signal(libc::SIGUSR1);
    Client::connect(&proxy).expect_usable();
}

#[test]
fn time_until_the_first_byte_is_what_is_measured() {
    let (origin, proxy) = (Origin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.get(&origin, "/");
    let mut conn = origin.accept();
    conn.read_request();
    conn.expect_silence(std::time::Duration::from_millis(200));
    conn.send(OK);
    client.read_response();
    proxy.signal(libc::SIGUSR1);
    let row = row_of(&proxy, &origin);
    let micros = row.split_whitespace().filter_map(|cell| cell.parse::<f64>().ok());
    assert!(micros.clone().any(|us| (190_000.0..2_000_000.0).contains(&us)), "{row}");
}

#[test]
fn directory_gets_a_file_per_origin_that_the_plotter_opens() {
    let dir = format!("{}/hdr-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    fs::create_dir_all(&dir).expect("a directory");
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&["--hdr-dir", &dir]));
    exchanges(&proxy, &origin, 5);
    proxy.signal(libc::SIGUSR1);
    let port = origin.addr().port().to_string();
    let mut text = String::new();
    eventually("a .hgrm file of the origin", || {
        let names = fs::read_dir(&dir).expect("the directory").flatten().map(|entry| entry.path());
        let mut of_origin = names.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.ends_with(".hgrm") && name.contains(&port)
        });
        text =
            of_origin.next().map(|path| fs::read_to_string(path).expect("it")).unwrap_or_default();
        text.contains("#[Buckets")
    });
    for word in ["Value", "Percentile", "TotalCount", "1/(1-Percentile)", "#[Mean", "#[Max"] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
    let _ = fs::remove_dir_all(&dir);
}

#[test]
fn dump_in_the_midst_of_traffic_disturbs_nobody() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    for n in 0..200 {
        if n % 20 == 0 {
            proxy.signal(libc::SIGUSR1);
        }
        client.get(&origin, "/");
        assert_eq!(client.read_response().text(), "ok");
    }
}

#[test]
fn one_dump_at_a_time_is_made_however_many_are_asked_for() {
    let (origin, proxy) = (Origin::answering(OK), Proxy::one_shard(&[]));
    exchanges(&proxy, &origin, 1);
    let dumps = || proxy.log().lines().filter(|line| line.contains(" p99.99 ")).count();
    proxy.signal(libc::SIGUSR1);
    eventually("a dump", || dumps() == 1);
    // The first one waits for the shard, and the others for it.
    let frozen = proxy.freeze_shard(0);
    let before = times_it_waited(&proxy, "dump");
    for _ in 0..20 {
        proxy.signal(libc::SIGUSR1);
        eventually("the signal to be taken", || !is_pending(&proxy, libc::SIGUSR1));
        eventually("the first dump to begin", || times_it_waited(&proxy, "dump") > before);
    }
    drop(frozen);
    eventually("the dump under way and the one that waited", || dumps() >= 3);
    proxy.signal(libc::SIGUSR1);
    eventually("one more, as none waits", || dumps() >= 4);
    assert_eq!(dumps(), 4, "{}", proxy.log());
}

/// How often a thread of the proxy has begun to wait for something (proc_pid_status(5)).
fn times_it_waited(proxy: &Proxy, name: &str) -> u64 {
    let path = format!("/proc/{}/task/{}/status", proxy.pid(), proxy.thread_named(name));
    let status = fs::read_to_string(path).expect("status of the thread");
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a number of switches")
}

/// Whether a signal was sent to the process and not taken (proc_pid_status(5)).
fn is_pending(proxy: &Proxy, signal: libc::c_int) -> bool {
    let path = format!("/proc/{}/status", proxy.pid());
    let status = fs::read_to_string(path).expect("status of the process");
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).expect("ShdPnd");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask");
    mask & (1 << (signal - 1)) != 0
}
