//! Where a request goes: the convention of names, absolute-form targets, ports.

use std::net::{Ipv6Addr, TcpListener};

use crate::support::{Client, OK, Origin, Proxy, TlsOrigin};

/// Sends a GET for `host` (`PORT` stands for the origin's) and returns the Host the origin saw.
fn host_seen(host: &str) -> String {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let port = origin.addr().port().to_string();
    client.request("GET", &host.replace("PORT", &port), "/p?q", "", b"");
    assert_eq!(client.read_response().status, 200);
    let request = origin.next_request();
    assert_eq!(request.target, "/p?q");
    request.head.field("Host").expect("Host").replace(&port, "PORT")
}

/// As [`host_seen`] for a TLS origin on localhost.
fn host_seen_by_tls(label: &str) -> String {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let port = origin.addr().port();
    client.request("GET", &format!("localhost.{label}:{port}"), "/", "", b"");
    assert_eq!(client.read_response().status, 200);
    let host = origin.next_request().head.field("Host").expect("Host").to_owned();
    host.replace(&port.to_string(), "PORT")
}

/// A name that leads nowhere gets 400 and the connection serves on.
fn leads_nowhere(host: &str) {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", host, "/", "", b"");
    let response = client.read_error(400);
    assert!(!response.closes(), "the request was well framed");
    client.expect_usable();
}

/// An absolute-form target and the target that the origin saw.
fn target_seen(target: &str) -> String {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let target = target.replace("ORIGIN", &origin.host());
    client.send(format!("GET {target} HTTP/1.1\r\nHost: elsewhere.example\r\nX-A: 1\r\n\r\n"));
    assert_eq!(client.read_response().status, 200);
    let request = origin.next_request();
    assert_eq!(request.head.field("Host"), Some(origin.addr().to_string().as_str()));
    request.target
}

fn refuses_target(target: &str) {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let target = target.replace("ORIGIN", &origin.host());
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.host()));
    client.read_error(400);
    origin.expect_no_bytes();
}

#[test]
fn label_means_http() {
    assert_eq!(host_seen("127.0.0.1.ccnproxy:PORT"), "127.0.0.1:PORT");
}

#[test]
fn whatever_follows_the_label_is_ignored() {
    assert_eq!(host_seen("127.0.0.1.ccnproxy.local:PORT"), "127.0.0.1:PORT");
}

#[test]
fn several_labels_that_follow_are_ignored() {
    assert_eq!(host_seen("127.0.0.1.ccnproxy.service.consul:PORT"), "127.0.0.1:PORT");
}

#[test]
fn what_follows_the_label_and_is_no_host_gets_400() {
    for odd in ["u@evil.test", "a b", "a/b", "a?b", "a\\b"] {
        leads_nowhere(&format!("127.0.0.1.ccnproxy.{odd}"));
    }
}

#[test]
fn upper_case_label_is_recognised() {
    assert_eq!(host_seen("127.0.0.1.CcnProxy:PORT"), "127.0.0.1:PORT");
}

#[test]
fn trailing_dot_is_ignored() {
    assert_eq!(host_seen("127.0.0.1.ccnproxy.:PORT"), "127.0.0.1:PORT");
}

#[test]
fn name_is_resolved() {
    assert_eq!(host_seen("localhost.ccnproxy:PORT"), "localhost:PORT");
}

#[test]
fn https_label_means_tls() {
    assert_eq!(host_seen_by_tls("ccnproxy-https"), "localhost:PORT");
}

#[test]
fn secure_label_means_tls() {
    assert_eq!(host_seen_by_tls("ccnproxy-secure"), "localhost:PORT");
}

#[test]
fn ssl_label_means_tls() {
    assert_eq!(host_seen_by_tls("ccnproxy-ssl"), "localhost:PORT");
}

#[test]
fn upper_case_tls_label_means_tls() {
    assert_eq!(host_seen_by_tls("CCNPROXY-HTTPS"), "localhost:PORT");
}

#[test]
fn tls_label_followed_by_others_means_tls() {
    assert_eq!(host_seen_by_tls("ccnproxy-https.local"), "localhost:PORT");
}

#[test]
fn last_label_wins() {
    // The earlier label is part of a name that does not exist, whereas 127.0.0.1 would answer.
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--connect-timeout", "1s"]);
    let mut client = Client::connect(&proxy);
    let host = format!("127.0.0.1.ccnproxy.invalid.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    let status = client.read_response().status;
    assert!(matches!(status, 502 | 504), "{status}");
    origin.expect_no_bytes();
}

#[test]
fn ipv6_literal_is_dialled() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        crate::support::not_run("this machine has no ::1");
        return;
    };
    let port = listener.local_addr().expect("own address").port();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &format!("[::1].ccnproxy:{port}"), "/", "", b"");
    listener.set_nonblocking(true).expect("nonblocking");
    crate::support::eventually("a connection over IPv6", || listener.accept().is_ok());
}

#[test]
fn host_without_a_label_gets_400() {
    leads_nowhere("example.com");
}

#[test]
fn label_alone_gets_400() {
    leads_nowhere("ccnproxy");
}

#[test]
fn label_alone_with_a_port_gets_400() {
    leads_nowhere("ccnproxy-https:443");
}

#[test]
fn label_first_gets_400() {
    leads_nowhere("ccnproxy.example.com");
}

#[test]
fn empty_name_gets_400() {
    leads_nowhere(".ccnproxy");
}

#[test]
fn empty_label_within_the_name_gets_400() {
    leads_nowhere("a..b.ccnproxy");
}

#[test]
fn empty_host_gets_400() {
    leads_nowhere("");
}

#[test]
fn longer_word_than_the_label_gets_400() {
    leads_nowhere("example.com.ccnproxyx");
}

#[test]
fn own_address_gets_400() {
    leads_nowhere("127.0.0.1");
}

#[test]
fn port_0_gets_400() {
    leads_nowhere("127.0.0.1.ccnproxy:0");
}

#[test]
fn port_65536_gets_400() {
    leads_nowhere("127.0.0.1.ccnproxy:65536");
}

#[test]
fn port_of_letters_gets_400() {
    leads_nowhere("127.0.0.1.ccnproxy:http");
}

#[test]
fn port_with_a_sign_gets_400() {
    leads_nowhere("127.0.0.1.ccnproxy:+80");
}

#[test]
fn second_colon_gets_400() {
    leads_nowhere("127.0.0.1.ccnproxy:80:80");
}

#[test]
fn user_in_the_host_gets_400() {
    leads_nowhere("user@127.0.0.1.ccnproxy");
}

#[test]
fn http_1_0_without_a_host_gets_400() {
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.read_error(400);
}

#[test]
fn absolute_target_is_routed_by_its_authority() {
    assert_eq!(target_seen("http://ORIGIN/a/b?c=d"), "/a/b?c=d");
}

#[test]
fn absolute_target_of_other_case_is_routed() {
    assert_eq!(target_seen("HTTP://ORIGIN/a"), "/a");
}

#[test]
fn absolute_target_without_a_path_becomes_a_slash() {
    assert_eq!(target_seen("http://ORIGIN"), "/");
}

#[test]
fn absolute_target_with_only_a_query_gains_a_slash() {
    assert_eq!(target_seen("http://ORIGIN?q=1"), "/?q=1");
}

#[test]
fn absolute_target_is_never_normalised() {
    assert_eq!(target_seen("http://ORIGIN//a/../%2f?http://x/"), "//a/../%2f?http://x/");
}

#[test]
fn absolute_target_of_options_without_a_path_becomes_an_asterisk() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    let host = origin.host();
    client.send(format!("OPTIONS http://{host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert_eq!(client.read_response().status, 200);
    // RFC 9112 §3.2.4.
    assert_eq!(origin.next_request().target, "*");
}

#[test]
fn absolute_target_of_http_1_0_needs_no_host() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.send(format!("GET http://{}/a HTTP/1.0\r\n\r\n", origin.host()));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.next_request().head.field("Host"), Some(origin.addr().to_string().as_str()));
}

#[test]
fn absolute_target_with_a_user_gets_400() {
    refuses_target("http://user:secret@ORIGIN/");
}

#[test]
fn absolute_target_of_a_foreign_scheme_gets_400() {
    refuses_target("ftp://ORIGIN/");
}

#[test]
fn absolute_target_without_an_authority_gets_400() {
    refuses_target("http:///a");
}

#[test]
fn target_with_a_fragment_gets_400() {
    for target in ["/a#b", "/#", "/a?b#c", "http://ORIGIN#a", "http://ORIGIN/a?b#c", "/.api/stats#"]
    {
        refuses_target(target);
    }
}

#[test]
fn absolute_target_without_a_label_gets_400() {
    refuses_target("http://example.com/a");
}
