//! Proxies on the way to the origins: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.
//!
//! The case plays the proxy. What is behind it is nowhere, so that nothing arrives unless the proxy was asked.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::dns::{to_ask_name_server, with_hosts};
use crate::support::proxy::ProxyOptions;
use crate::support::{
    Client, DEADLINE, OK, Origin, Proxy, TlsOrigin, alone_on_the_network, status_of,
};

const OPENED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

fn through(variable: &str, proxy: &Origin) -> ProxyOptions {
    let url = format!("http://user:pass%20word@{}/", proxy.addr());
    Proxy::options(&["--cores", "1"]).env(variable, &url)
}

/// A request to `https://origin.test/` under way through `proxy`, and the proxy's side of it after CONNECT was read.
#[track_caller]
fn connecting(proxy: &Origin, options: ProxyOptions) -> (Proxy, Client, TcpStream) {
    let chocon = options.start();
    let mut client = Client::connect(&chocon);
    client.request("GET", "origin.test.ccnproxy-https", "/a", "", b"");
    let mut tcp = proxy.accept_tcp();
    tcp.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tcp.read_exact(&mut byte).expect("the head of CONNECT");
        head.push(byte[0]);
    }
    let expected = "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\
        Proxy-Authorization: Basic dXNlcjpwYXNzIHdvcmQ=\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&head), expected);
    (chocon, client, tcp)
}

/// The proxy answers CONNECT with this: 502, and a line in the log with these words.
#[track_caller]
fn refused(answer: &[u8], words: &[&str]) {
    let proxy = Origin::scripted();
    let (chocon, mut client, mut tcp) = connecting(&proxy, through("HTTPS_PROXY", &proxy));
    // The proxy may have been cut off before the last byte.
    let _ = tcp.write_all(answer);
    if answer.is_empty() {
        drop(tcp);
    }
    client.read_error(502);
    let line = chocon.wait_for_log("origin/connect/proxy");
    let at = proxy.addr().to_string();
    for word in words.iter().chain([&at.as_str()]) {
        assert!(line.contains(word), "no {word:?} in {line}");
    }
    assert!(!chocon.log().contains("pass"), "{}", chocon.log());
    client.expect_usable();
}

#[test]
fn https_origin_is_reached_through_a_tunnel_that_is_kept() {
    let proxy = TlsOrigin::scripted();
    let (_chocon, mut client, mut tcp) = connecting(&proxy, through("HTTPS_PROXY", &proxy));
    tcp.write_all(OPENED.as_bytes()).expect("an answer");
    let mut conn = proxy.open(tcp);
    assert_eq!(conn.tls_names().0.as_deref(), Some("origin.test"));
    let request = conn.read_request();
    assert_eq!((request.target.as_str(), request.head.field("Host")), ("/a", Some("origin.test")));
    assert!(!request.head.has("Proxy-Authorization"), "it is the proxy's");
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    client.request("GET", "origin.test.ccnproxy-https", "/b", "", b"");
    assert_eq!(conn.read_request().target, "/b");
    conn.send(OK);
    assert_eq!(client.read_response().text(), "ok");
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn answer_to_connect_in_single_bytes_behind_an_interim_one_is_understood() {
    let proxy = TlsOrigin::scripted();
    let (_chocon, mut client, mut tcp) = connecting(&proxy, through("HTTPS_PROXY", &proxy));
    tcp.set_nodelay(true).expect("nodelay");
    for byte in format!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{OPENED}").bytes() {
        tcp.write_all(&[byte]).expect("a byte");
    }
    let mut conn = proxy.open(tcp);
    conn.read_request();
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn tunnel_that_wants_a_password_gets_502_with_a_remedy() {
    let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n";
    refused(answer, &["refused CONNECT with 407 Proxy", "HTTPS_PROXY=http://USER"]);
}

#[test]
fn refused_tunnel_gets_502_with_the_proxys_reason() {
    refused(b"HTTP/1.1 403 Not for you\r\nContent-Length: 2\r\n\r\nno", &["403 Not for you"]);
}

#[test]
fn malformed_answer_to_connect_gets_502() {
    refused(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", &["its answer to CONNECT is refused"]);
}

#[test]
fn bytes_behind_the_answer_to_connect_get_502() {
    let answer = format!("{OPENED}\x16\x03\x03");
    refused(answer.as_bytes(), &["bytes came before the origin was asked"]);
}

#[test]
fn endless_answer_to_connect_gets_502() {
    let answer = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(64 * 1024));
    refused(answer.as_bytes(), &["the head of its answer is too long"]);
}

#[test]
fn proxy_that_closes_on_connect_gets_502() {
    refused(b"", &["it closed the connection on CONNECT"]);
}

#[test]
fn silent_proxy_gets_504_within_the_connect_timeout() {
    let proxy = Origin::scripted();
    let options = through("HTTPS_PROXY", &proxy).flag("--connect-timeout", "700ms");
    let started = Instant::now();
    let (chocon, mut client, _tcp) = connecting(&proxy, options);
    client.read_error(504);
    assert!(started.elapsed() >= Duration::from_millis(700));
    chocon.wait_for_log("did not answer CONNECT in time");
}

#[test]
fn http_origin_is_asked_of_the_proxy_in_absolute_form() {
    let proxy = Origin::answering(OK);
    let chocon = through("http_proxy", &proxy).start();
    let mut client = Client::connect(&chocon);
    let own = "Proxy-Authorization: Basic bWluZQ==\r\n";
    client.request("GET", "Origin.test.ccnproxy:8080", "/a?b", own, b"");
    assert_eq!(client.read_response().text(), "ok");
    let request = proxy.next_request();
    assert_eq!(request.target, "http://Origin.test:8080/a?b");
    assert_eq!(request.head.field("Host"), Some("Origin.test:8080"));
    assert_eq!(request.head.all("Proxy-Authorization"), ["Basic dXNlcjpwYXNzIHdvcmQ="]);
    client.request("POST", "origin.test.ccnproxy:8080", "/c", "", b"body");
    assert_eq!(client.read_response().text(), "ok");
    let request = proxy.next_request();
    assert_eq!(
        (&*request.target, &*request.body.bytes),
        ("http://origin.test:8080/c", &b"body"[..])
    );
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn http_proxy_that_wants_a_password_gets_502_and_its_challenge_goes_no_further() {
    let answer = "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n";
    let proxy = Origin::answering(answer);
    let chocon = through("HTTP_PROXY", &proxy).start();
    let mut client = Client::connect(&chocon);
    client.request("GET", "origin.test.ccnproxy", "/", "", b"");
    let response = client.read_error(502);
    assert!(!response.head.has("Proxy-Authenticate"));
    chocon.wait_for_log("wants HTTP_PROXY=http://USER:PASSWORD");
}

#[test]
fn each_scheme_takes_its_own_variable() {
    let proxy = Origin::answering(OK);
    let Some(options) = with_hosts("direct", "127.0.0.1 origin.test\n") else { return };
    let origin = Origin::answering(OK);
    let chocon = options.env("HTTPS_PROXY", &proxy.addr().to_string()).start();
    let host = format!("origin.test.ccnproxy:{}", origin.addr().port());
    assert_eq!(status_of(&chocon, &host), 200);
    assert_eq!((proxy.connections(), origin.connections()), (0, 1));
}

#[test]
fn exceptions_are_reached_directly() {
    let proxy = Origin::answering(OK);
    let Some(options) = with_hosts("exception", "127.0.0.1 origin.test\n") else { return };
    let origin = Origin::answering(OK);
    let options = options.env("HTTP_PROXY", &proxy.addr().to_string());
    let chocon = options.env("NO_PROXY", "other.test, .origin.test, origin.test").start();
    let host = format!("origin.test.ccnproxy:{}", origin.addr().port());
    assert_eq!(status_of(&chocon, &host), 200);
    assert_eq!((proxy.connections(), origin.connections()), (0, 1));
}

#[test]
fn loopback_is_reached_directly_whatever_the_variables_say() {
    let (proxy, origin) = (Origin::answering(OK), Origin::answering(OK));
    let chocon = through("HTTP_PROXY", &proxy).start();
    for name in ["127.0.0.1", "localhost", "LocalHost"] {
        let host = format!("{name}.ccnproxy:{}", origin.addr().port());
        assert_eq!(status_of(&chocon, &host), 200, "{name}");
    }
    assert_eq!(proxy.connections(), 0);
}

#[test]
fn names_behind_a_proxy_are_not_looked_up_here() {
    let proxy = Origin::answering(OK);
    let Some((server, options)) = to_ask_name_server("behind", HashMap::new()) else { return };
    let chocon = options.env("HTTP_PROXY", &proxy.addr().to_string()).start();
    assert_eq!(status_of(&chocon, "origin.test.ccnproxy"), 200);
    assert_eq!(server.times_asked("origin.test"), 0);
}

#[test]
fn refused_address_is_not_asked_of_a_proxy_either() {
    alone_on_the_network();
    let proxy = Origin::answering(OK);
    let chocon = through("HTTP_PROXY", &proxy).start();
    for host in ["169.254.169.254.ccnproxy:9", "[fd00:ec2::254].ccnproxy:9"] {
        assert_eq!(status_of(&chocon, host), 403, "{host}");
    }
    proxy.expect_no_bytes();
}

#[test]
fn proxy_at_a_refused_address_is_not_dialled() {
    alone_on_the_network();
    let options = Proxy::options(&[]).env("HTTP_PROXY", "http://169.254.169.254:9");
    let chocon = options.start();
    assert_eq!(status_of(&chocon, "origin.test.ccnproxy"), 403);
}

#[test]
fn variable_that_names_this_very_proxy_gets_508_with_a_remedy() {
    // Free a moment ago; cases choose no ports of their own, so it most likely still is.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a free port").port().to_string();
    let options = Proxy::options(&["--port", &port]);
    let chocon = options.env("HTTP_PROXY", &format!("http://127.0.0.1:{port}")).start();
    assert_eq!(status_of(&chocon, "origin.test.ccnproxy"), 508);
    chocon.wait_for_log("HTTP_PROXY or HTTPS_PROXY names this proxy itself");
}

#[test]
fn fixed_upstream_is_reached_through_a_proxy_too() {
    let proxy = Origin::answering(OK);
    let options = through("HTTP_PROXY", &proxy).flag("--upstream", "http://up.test:8080/");
    let chocon = options.start();
    assert_eq!(status_of(&chocon, "any.example"), 200);
    let request = proxy.next_request();
    assert_eq!(request.target, "http://up.test:8080/");
    assert_eq!(request.head.field("Host"), Some("any.example"));
}

#[test]
fn proxies_in_use_are_told_at_the_start_without_their_password() {
    let proxy = Origin::answering(OK);
    let chocon = through("HTTPS_PROXY", &proxy).start();
    let line = chocon.wait_for_log("https origins are reached through the proxy");
    assert!(line.contains(&proxy.addr().to_string()) && !line.contains("pass"), "{line}");
}

#[test]
fn proxy_of_a_scheme_that_is_not_spoken_fails_the_start() {
    for scheme in ["https", "socks5"] {
        let options = Proxy::options(&[]).env("HTTPS_PROXY", &format!("{scheme}://u:secret@p:1"));
        let (status, _, stderr) = options.run_to_end();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(
            stderr.contains(&format!("a proxy of scheme {scheme} is not supported")),
            "{stderr}"
        );
        assert!(!stderr.contains("secret"), "{stderr}");
    }
}
