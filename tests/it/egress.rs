//! Addresses that are never dialled, whatever name leads to them, unless a flag allows it.

use std::time::Duration;

use crate::support::proxy::can_mount;
use crate::support::{Client, OK, Origin, Proxy, alone_on_the_network, scratch_file};

/// 403 with the reason in the log, and the connection serves on.
///
/// All cases run in a network of their own and name the discard port, so that a fault of the proxy
/// never talks to a real metadata service of the machine that runs them.
#[track_caller]
fn is_refused(host: &str) {
    alone_on_the_network();
    let proxy = Proxy::start(&["--connect-timeout", "2s"]);
    let mut client = Client::connect(&proxy);
    client.request("GET", &format!("{host}:9"), "/", "", b"");
    let response = client.read_error(403);
    assert!(!response.closes(), "the request was well framed");
    client.expect_usable();
    proxy.wait_for_access_line(|line| line.get("status") == "403");
}

/// Neither spelling is an address here; whatever becomes of it, nothing on this machine is dialled.
#[track_caller]
fn reaches_nobody(name: &str) {
    alone_on_the_network();
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--connect-timeout", "500ms"]);
    let mut client = Client::connect(&proxy);
    let host = format!("{name}.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    let status = client.read_response().status;
    assert!(matches!(status, 400 | 403 | 502 | 504), "{status}");
    origin.expect_no_bytes();
}

macro_rules! refused_addrs {
    ($($name:ident: $host:literal;)+) => {
        $(#[test]
        fn $name() {
            is_refused($host);
        })+
    };
}

refused_addrs! {
    metadata_address_gets_403: "169.254.169.254.ccnproxy";
    metadata_address_over_tls_gets_403: "169.254.169.254.ccnproxy-https";
    first_link_local_address_gets_403: "169.254.0.1.ccnproxy";
    last_link_local_address_gets_403: "169.254.255.254.ccnproxy";
    unspecified_address_gets_403: "0.0.0.0.ccnproxy";
    this_network_gets_403: "0.1.2.3.ccnproxy";
    multicast_address_gets_403: "224.0.0.1.ccnproxy";
    last_multicast_address_gets_403: "239.255.255.255.ccnproxy";
    broadcast_address_gets_403: "255.255.255.255.ccnproxy";
    ipv6_unspecified_address_gets_403: "[::].ccnproxy";
    ipv6_link_local_address_gets_403: "[fe80::1].ccnproxy";
    ipv6_multicast_address_gets_403: "[ff02::1].ccnproxy";
    ipv6_metadata_address_gets_403: "[fd00:ec2::254].ccnproxy";
    mapped_metadata_address_gets_403: "[::ffff:169.254.169.254].ccnproxy";
    compatible_metadata_address_gets_403: "[::169.254.169.254].ccnproxy";
    nat64_metadata_address_gets_403: "[64:ff9b::a9fe:a9fe].ccnproxy";
    teredo_or_6to4_metadata_address_gets_403: "[2002:a9fe:a9fe::1].ccnproxy";
    mapped_unspecified_address_gets_403: "[::ffff:0.0.0.0].ccnproxy";
}

#[test]
fn reason_of_a_refusal_is_logged() {
    alone_on_the_network();
    let proxy = Proxy::start(&[]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "169.254.169.254.ccnproxy:9", "/", "", b"");
    client.read_error(403);
    let line = proxy.wait_for_log("link-local");
    assert!(line.contains("169.254.169.254") && line.contains("--allow-cidr"), "{line}");
}

#[test]
fn decimal_spelling_of_loopback_reaches_nobody() {
    reaches_nobody("2130706433");
}

#[test]
fn hexadecimal_spelling_of_loopback_reaches_nobody() {
    reaches_nobody("0x7f000001");
}

#[test]
fn octal_spelling_of_loopback_reaches_nobody() {
    reaches_nobody("0177.0.0.1");
}

#[test]
fn short_spelling_of_loopback_reaches_nobody() {
    reaches_nobody("127.1");
}

#[test]
fn allowed_network_is_dialled() {
    alone_on_the_network();
    // Linux takes 0.0.0.0 for this host, so that an allowed refusal can be seen to arrive.
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--allow-cidr", "0.0.0.0/32"]);
    let mut client = Client::connect(&proxy);
    let host = format!("0.0.0.0.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().text(), "ok");
}

#[test]
fn allowed_link_local_network_is_no_longer_refused() {
    alone_on_the_network();
    let proxy = Proxy::start(&["--allow-cidr", "169.254.0.0/16", "--connect-timeout", "300ms"]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "169.254.169.254.ccnproxy:9", "/", "", b"");
    let status = client.read_response().status;
    assert!(matches!(status, 502 | 504), "{status}");
}

#[test]
fn one_allowed_network_opens_no_other() {
    alone_on_the_network();
    let proxy = Proxy::start(&["--allow-cidr", "169.254.1.0/24"]);
    let mut client = Client::connect(&proxy);
    client.set_deadline(Duration::from_secs(5));
    client.request("GET", "169.254.169.254.ccnproxy:9", "/", "", b"");
    client.read_error(403);
}

#[test]
fn several_networks_may_be_allowed() {
    alone_on_the_network();
    let flags = ["--allow-cidr", "169.254.1.0/24", "--allow-cidr", "0.0.0.0/32"];
    let (origin, proxy) = (Origin::answering(OK), Proxy::start(&flags));
    let mut client = Client::connect(&proxy);
    let host = format!("0.0.0.0.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().status, 200);
}

#[test]
fn name_that_leads_to_the_metadata_address_gets_403() {
    alone_on_the_network();
    if !can_mount() {
        crate::support::not_run("no right to mount a hosts file for one process");
        return;
    }
    let hosts = scratch_file("egress-hosts", "169.254.169.254 innocent.test\n");
    let proxy = Proxy::options(&[]).mount(&hosts, "/etc/hosts").start();
    let mut client = Client::connect(&proxy);
    client.request("GET", "innocent.test.ccnproxy:9", "/", "", b"");
    client.read_error(403);
}

#[test]
fn name_with_a_refused_and_a_good_address_reaches_the_good_one() {
    alone_on_the_network();
    if !can_mount() {
        crate::support::not_run("no right to mount a hosts file for one process");
        return;
    }
    let hosts = scratch_file("egress-both", "169.254.169.254 both.test\n127.0.0.1 both.test\n");
    let origin = Origin::answering(OK);
    let proxy = Proxy::options(&[]).mount(&hosts, "/etc/hosts").start();
    let mut client = Client::connect(&proxy);
    let host = format!("both.test.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().status, 200);
}
