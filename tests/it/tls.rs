//! Origins behind TLS: versions, verification, names, resumption, ends.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::ca::{foreign_authority, test_ca};
use crate::support::{Certificate, Client, Ended, OK, Origin, Proxy, TlsOrigin, Version, pattern};

fn version_used(offered: Version) -> Option<rustls::ProtocolVersion> {
    let origin = TlsOrigin::options().version(offered).scripted();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    conn.tls_version()
}

/// A certificate with this fault gets 502, the cause in the log, and no byte of the request.
fn refuses(certificate: Certificate) {
    let origin = TlsOrigin::options().certificate(certificate).answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/secret", "Authorization: secret\r\n", b"");
    assert!(!client.read_error(502).closes());
    origin.wait_failed_handshake();
    origin.expect_no_bytes();
    let line = proxy.wait_for_log("ErrorFromProxy");
    assert!(line.contains("localhost") && line.contains("certificate"), "{line}");
    client.expect_usable();
}

/// Connections that close after one exchange each; returns full and resumed handshakes.
fn handshakes_of(version: Version, flags: &[&str], exchanges: usize) -> (usize, usize) {
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let origin = TlsOrigin::options().version(version).answering(answer);
    // A connection made ahead would count, and take a ticket before it brings its own.
    let proxy = Proxy::start(&[flags, &["--warm-learned=off"]].concat());
    for _ in 0..exchanges {
        let mut client = Client::connect(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    (origin.full_handshakes(), origin.resumed_handshakes())
}

#[test]
fn origin_of_tls_1_2_is_spoken_to() {
    assert_eq!(version_used(Version::Tls12), Some(rustls::ProtocolVersion::TLSv1_2));
}

#[test]
fn origin_of_tls_1_3_is_spoken_to() {
    assert_eq!(version_used(Version::Tls13), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn origin_of_both_versions_gets_the_newer() {
    assert_eq!(version_used(Version::Both), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn certificate_of_another_name_gets_502() {
    refuses(Certificate::WrongName);
}

#[test]
fn expired_certificate_gets_502() {
    refuses(Certificate::Expired);
}

#[test]
fn self_signed_certificate_gets_502() {
    refuses(Certificate::SelfSigned);
}

#[test]
fn certificate_of_an_unknown_authority_gets_502() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::options(&[]).env("SSL_CERT_FILE", &foreign_authority()).start();
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    client.read_error(502);
    origin.expect_no_bytes();
}

#[test]
fn name_and_protocol_are_announced() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    assert_eq!(conn.tls_names(), (Some("localhost".to_owned()), Some("http/1.1".to_owned())));
    conn.send(OK);
    client.read_response();
}

#[test]
fn address_is_verified_and_not_announced_as_a_name() {
    let (origin, proxy) = (TlsOrigin::scripted(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    let host = format!("127.0.0.1.ccnproxy-https:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    let mut conn = origin.accept();
    conn.read_request();
    // RFC 6066 §3: literal addresses are not permitted in a server name.
    assert_eq!(conn.tls_names().0, None);
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn address_that_the_certificate_lacks_gets_502() {
    let origin = TlsOrigin::options().certificate(Certificate::WrongName).answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = format!("127.0.0.1.ccnproxy-https:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    client.read_error(502);
    origin.expect_no_bytes();
}

#[test]
fn origin_without_alpn_is_spoken_to() {
    let origin = TlsOrigin::options().alpn(&[]).answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn origin_that_speaks_only_http_2_gets_502_where_that_is_off() {
    let origin = TlsOrigin::options().alpn(&["h2"]).answering(OK);
    let proxy = Proxy::start(&["--upstream-http2", "off"]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    client.read_error(502);
    origin.expect_no_bytes();
}

#[test]
fn plain_origin_behind_a_tls_name_gets_502() {
    let origin = Origin::start(|mut conn| {
        conn.read_exact(1);
        conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        conn.read_to_end();
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = format!("localhost.ccnproxy-https:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    client.read_error(502);
    let line = proxy.wait_for_log("ErrorFromProxy");
    assert!(line.contains("speaks no TLS") && line.contains("NAME.ccnproxy"), "{line}");
}

#[test]
fn tls_origin_behind_a_plain_name_gets_502() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = format!("localhost.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    client.read_error(502);
}

#[test]
fn close_within_the_handshake_gets_502() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind 127.0.0.1:0");
    let port = listener.local_addr().expect("own address").port();
    let closer = std::thread::spawn(move || drop(listener.accept()));
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &format!("localhost.ccnproxy-https:{port}"), "/", "", b"");
    client.read_error(502);
    closer.join().expect("the closer");
}

#[test]
fn second_connection_resumes_in_tls_1_2() {
    assert_eq!(handshakes_of(Version::Tls12, &["--cores", "1"], 3), (1, 2));
}

#[test]
fn second_connection_resumes_in_tls_1_3() {
    assert_eq!(handshakes_of(Version::Tls13, &["--cores", "1"], 3), (1, 2));
}

#[test]
fn shards_resume_each_others_sessions() {
    // With two shards, sixteen connections miss one of them with a chance of 2 in 65,536.
    let (full, resumed) = handshakes_of(Version::Tls13, &["--cores", "2"], 16);
    assert_eq!((full, resumed), (1, 15));
}

#[test]
fn origin_without_tickets_is_spoken_to() {
    let origin = TlsOrigin::options().version(Version::Tls13).without_tickets().answering(OK);
    let proxy = Proxy::one_shard(&[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..2 {
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn large_bodies_pass_both_ways() {
    let body = pattern(4 * 1024 * 1024 + 3);
    let origin = TlsOrigin::start(|mut conn| {
        while let Some(request) = conn.try_read_request() {
            let length = request.body.bytes.len();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"));
            conn.send(&request.body.bytes);
        }
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("PUT", &origin.host(), "/", "", &body);
    assert!(client.read_response().body.bytes == body, "the body was changed");
}

#[test]
fn both_directions_at_once_pass_through_one_session() {
    const LEN: usize = 8 * 1024 * 1024;
    let origin = TlsOrigin::start(|mut conn| {
        let head = conn.read_head();
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"));
        let body = pattern(LEN);
        // Answers block by block while the client is still sending.
        for block in body.chunks(64 * 1024) {
            conn.send(block);
        }
        assert_eq!(conn.read_body_of(&head).ended, Ended::Complete);
    });
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("PUT", &origin.host(), "/", &format!("Content-Length: {LEN}\r\n"), b"");
    let sender = client.send_aside(vec![b'u'; LEN]);
    assert!(client.read_response().body.bytes == pattern(LEN), "the body was changed");
    // The proxy may stop draining once the answer is complete.
    let _ = sender.join();
}

#[test]
fn request_to_a_tls_origin_says_the_names_without_the_label() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    client.read_response();
    let host = format!("localhost:{}", origin.addr().port());
    assert_eq!(origin.next_request().head.field("Host"), Some(host.as_str()));
}

#[test]
fn authorities_of_a_directory_are_trusted() {
    let dir = format!("{}/authorities-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    std::fs::create_dir_all(&dir).expect("a directory");
    // OpenSSL's form of a name: eight hexadecimal digits and a number.
    std::fs::copy(&test_ca().file, format!("{dir}/0a1b2c3d.0")).expect("a copy");
    let origin = TlsOrigin::answering(OK);
    let options = Proxy::options(&[]).without_env("SSL_CERT_FILE").env("SSL_CERT_DIR", &dir);
    let proxy = options.start();
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    assert_eq!(client.read_response().text(), "ok");
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn test_authority_is_not_trusted_by_the_system() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::options(&[]).without_env("SSL_CERT_FILE").start();
    let mut client = Client::connect(&proxy);
    client.request("GET", &origin.host(), "/", "", b"");
    client.read_error(502);
    let line = proxy.wait_for_log("ErrorFromProxy");
    assert!(line.contains("UnknownIssuer") && line.contains("SSL_CERT_FILE"), "{line}");
    origin.expect_no_bytes();
}

#[test]
fn handshake_waits_for_no_delayed_acknowledgement() {
    // With Nagle's algorithm on, each of these would take some 40 ms.
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let options = TlsOrigin::options().version(Version::Tls12).without_tickets();
    // What is counted is the handshakes of requests; none is made ahead.
    let proxy = Proxy::start(&["--warm-learned", "off"]);
    let origin = options.answering(answer);
    let mut client = Client::connect(&proxy);
    let mut times = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        client.request("GET", &origin.host(), "/", "", b"");
        client.read_response();
        times.push(started.elapsed());
    }
    times.sort_unstable();
    assert!(times[5] < Duration::from_millis(40), "{times:?}");
    assert_eq!(origin.full_handshakes(), 21);
}

/// CPU time of a shard's thread so far, without its waits for a CPU.
fn shard_cpu_time(proxy: &Proxy) -> Duration {
    let path = format!("/proc/{}/task/{}/schedstat", proxy.pid(), proxy.thread_named("shard-0"));
    let schedstat = std::fs::read_to_string(path).expect("the thread's schedstat");
    let ns = schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("nanoseconds"))
}

#[test]
fn first_handshake_of_the_process_costs_its_shard_what_the_next_one_does() {
    let proxy = Proxy::one_shard(&["--warm-learned=off"]);
    let mut client = Client::connect(&proxy);
    let [first, next] = [(), ()].map(|()| {
        let origin = TlsOrigin::options().answering(OK);
        let before = shard_cpu_time(&proxy);
        client.request("GET", &origin.host(), "/", "", b"");
        assert_eq!(client.read_response().text(), "ok");
        shard_cpu_time(&proxy) - before
    });
    // Gathering what random numbers are made of takes 25 ms. The first handshake has its code to load: 3 ms in a build
    // without optimisation, then 1.
    assert!(first < next * 4 + Duration::from_millis(5), "{first:?}, then {next:?}");
}
