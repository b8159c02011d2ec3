//! Requests that carry the origin's true name, which their client may have signed: targets in absolute-form, and Hosts
//! that are mapped. What was signed arrives byte for byte.

use std::net::TcpListener;

use crate::support::dns::NameServer;
use crate::support::proxy::can_mount;
use crate::support::{
    Client, OK, Origin, OriginConn, Proxy, Request, Supervisor, TlsOrigin, alone_on_the_network,
    not_run, scratch_file, wire,
};

/// An authority that the origin answers under, without a label.
fn name_of(origin: &Origin) -> String {
    format!("localhost:{}", origin.addr().port())
}

/// Sends `request` (`NAME` stands for the origin's name and port) and returns what the origin saw.
fn seen(flags: &[&str], request: &str) -> Request {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(flags);
    let mut client = Client::connect(&proxy);
    client.send(request.replace("NAME", &name_of(&origin)));
    assert_eq!(client.read_response().status, 200, "{}", proxy.log());
    origin.next_request()
}

/// The Host that the origin saw, its port given back as `PORT`.
fn host_seen(flags: &[&str], request: &str) -> String {
    let seen = seen(flags, request);
    let host = seen.head.field("Host").expect("Host");
    match host.rsplit_once(':') {
        Some((name, _)) => format!("{name}:PORT"),
        None => host.to_owned(),
    }
}

/// 400 with a reason in the log that names the flags, and the connection serves on.
fn leads_nowhere(flags: &[&str], request: &str, reason: &str) {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(flags);
    let mut client = Client::connect(&proxy);
    client.send(request.replace("NAME", &name_of(&origin)));
    client.read_error(400);
    client.expect_usable();
    let line = proxy.wait_for_log("no-route");
    assert!(line.contains(reason), "{line}");
    origin.expect_no_bytes();
}

/// Which origin a request led to, by the error that dialling it made: nothing listens on these ports
/// in a network of its own.
fn dialled(flags: &[&str], request: &str) -> String {
    alone_on_the_network();
    let proxy = Proxy::start(flags);
    let mut client = Client::connect(&proxy);
    client.send(request);
    client.read_error(502);
    let line = proxy.wait_for_log("proxy_host");
    let value = |key: &str| {
        let start = line.find(&format!("\"{key}\":\"")).expect("the key") + key.len() + 4;
        line[start..].split('"').next().unwrap_or_default().to_owned()
    };
    format!("{}://{}", value("proxy_scheme"), value("proxy_host"))
}

const PLAIN: &str = "GET http://NAME/a HTTP/1.1\r\nHost: NAME\r\n\r\n";

#[test]
fn signed_head_arrives_byte_for_byte() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--forward", "localhost"]);
    let mut client = Client::connect(&proxy);
    let name = name_of(&origin);
    let target =
        "/b%2Fu/a%20b+c/%E3%83%86//../x;y?X-Amz-Signature=ab%2Fcd&list-type=2&prefix=%2f&=&&e";
    let fields = format!(
        "x-amz-date:20260101T000000Z\r\nhOST:   {name}  \r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=AK/20260101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature=00\r\nX-AMZ-Meta-A:  two  spaces\t\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\n\
         X-Amz-Meta-A: again\r\n"
    );
    client.send(format!("GET http://{name}{target} HTTP/1.1\r\n{fields}\r\n"));
    assert_eq!(client.read_response().status, 200);
    let head = origin.next_request().head.raw;
    let expected = format!("GET {target} HTTP/1.1\r\n{fields}X-Chocon-Id: ");
    assert!(head.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&head));
    let added = String::from_utf8_lossy(&head[expected.len()..]).into_owned();
    // Nothing but the identifier and the version follows, unsigned.
    assert_eq!(added.matches("\r\n").count(), 3, "{added}");
    assert!(added.contains("\r\nX-Chocon-Ver: "), "{added}");
}

#[test]
fn odd_targets_arrive_byte_for_byte() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--forward", "localhost", "--map", "mapped.test=http://localhost"]);
    let mut client = Client::connect(&proxy);
    for target in [
        "/",
        "//",
        "/a+b",
        "/a%2Bb%20c",
        "/%2F/%2f/%2E%2E/../.",
        "/%e3%83%86%E3%82%B9",
        "/key?versionId=a+b%20c",
        "/?list-type=2&prefix=a%2Fb&delimiter=%2F",
        "/a?b?c=/d://e",
        "/a:b@c!$&'()*,;=~",
        "/?",
        "/%00",
    ] {
        let name = name_of(&origin);
        client.send(format!("GET http://{name}{target} HTTP/1.1\r\nHost: {name}\r\n\r\n"));
        assert_eq!(client.read_response().status, 200);
        assert_eq!(origin.next_request().target, target);
    }
}

#[test]
fn http_target_goes_over_tls_where_the_flag_says() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&["--upgrade-https", "localhost"]);
    let mut client = Client::connect(&proxy);
    let name = name_of(&origin);
    client.send(PLAIN.replace("NAME", &name));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.next_request().head.field("Host"), Some(name.as_str()));
    assert_eq!(origin.full_handshakes(), 1);
}

#[test]
fn https_target_goes_over_tls_though_it_is_only_forwarded() {
    let origin = TlsOrigin::answering(OK);
    let proxy = Proxy::start(&["--forward", "*"]);
    let mut client = Client::connect(&proxy);
    let name = name_of(&origin);
    client.send(PLAIN.replace("http:", "https:").replace("NAME", &name));
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.full_handshakes(), 1);
}

#[test]
fn upgraded_target_without_a_port_goes_to_443() {
    let request = "GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    assert_eq!(dialled(&["--upgrade-https", "*"], request), "https://127.0.0.1:443");
}

#[test]
fn upgraded_target_with_port_80_goes_to_443() {
    let request = "GET http://127.0.0.1:80/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    assert_eq!(dialled(&["--upgrade-https", "127.0.0.1"], request), "https://127.0.0.1:443");
}

#[test]
fn forwarded_target_without_a_port_goes_to_80() {
    let request = "GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    assert_eq!(dialled(&["--forward", "127.0.0.1:80"], request), "http://127.0.0.1:80");
}

#[test]
fn narrower_flag_decides() {
    let request = "GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    let flags = ["--upgrade-https", "*", "--forward", "127.0.0.1"];
    assert_eq!(dialled(&flags, request), "http://127.0.0.1:80");
}

#[test]
fn name_mapped_to_itself_goes_to_its_default_port_whatever_port_the_host_has() {
    let request = "GET / HTTP/1.1\r\nHost: LocalHost:3000\r\n\r\n";
    assert_eq!(dialled(&["--map", "localhost=https"], request), "https://localhost:443");
}

#[test]
fn suffix_mapped_to_itself_covers_names_of_any_depth() {
    let request = "GET / HTTP/1.1\r\nHost: a.b.localhost\r\n\r\n";
    // The name has no address, so the error names where it would have gone.
    assert_eq!(dialled(&["--map", "*.localhost=http"], request), "http://a.b.localhost:80");
}

#[test]
fn target_without_a_flag_gets_400_that_names_the_flags() {
    leads_nowhere(&[], PLAIN, "--upgrade-https");
}

#[test]
fn target_that_no_pattern_matches_gets_400() {
    let flags = ["--upgrade-https", "*.localhost", "--forward", "localhost:1", "--map", "x=http"];
    leads_nowhere(&flags, PLAIN, "--forward");
}

#[test]
fn host_alone_needs_a_map_whatever_targets_may_be_forwarded() {
    let request = "GET / HTTP/1.1\r\nHost: NAME\r\n\r\n";
    leads_nowhere(&["--forward", "*", "--upgrade-https", "*"], request, "--map");
}

#[test]
fn label_in_the_target_wins_over_the_flags() {
    let request = "GET http://127.0.0.1.ccnproxy:PORT/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--upgrade-https", "*", "--map", "*=https"]);
    let mut client = Client::connect(&proxy);
    client.send(request.replace("PORT", &origin.addr().port().to_string()));
    assert_eq!(client.read_response().status, 200);
    let host = origin.addr().to_string();
    assert_eq!(origin.next_request().head.field("Host"), Some(host.as_str()));
}

#[test]
fn host_in_another_case_is_kept_as_signed() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--forward", "localhost"]);
    let mut client = Client::connect(&proxy);
    let port = origin.addr().port();
    client.send(format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: LOCALHOST:{port}\r\n\r\n"));
    assert_eq!(client.read_response().status, 200);
    let expected = format!("LOCALHOST:{port}");
    assert_eq!(origin.next_request().head.field("Host"), Some(expected.as_str()));
}

#[test]
fn host_that_differs_from_the_target_is_replaced() {
    // RFC 9112 §3.2.2.
    let request = "GET http://NAME/ HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n";
    assert_eq!(host_seen(&["--forward", "*"], request), "localhost:PORT");
}

#[test]
fn host_without_the_targets_port_is_replaced() {
    let request = "GET http://NAME/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(host_seen(&["--forward", "*"], request), "localhost:PORT");
}

#[test]
fn host_that_http_1_0_left_out_is_the_targets() {
    let request = "GET http://NAME/ HTTP/1.0\r\n\r\n";
    assert_eq!(host_seen(&["--forward", "*"], request), "localhost:PORT");
}

#[test]
fn differing_hosts_on_one_connection_are_judged_each_by_itself() {
    let origin = Origin::answering(OK);
    let proxy = Proxy::start(&["--forward", "*"]);
    let mut client = Client::connect(&proxy);
    let name = name_of(&origin);
    for (host, expected) in [(&*name, &*name), ("other", &*name), (&*name, &*name)] {
        client.send(format!("GET http://{name}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(client.read_response().status, 200);
        assert_eq!(origin.next_request().head.field("Host"), Some(expected));
    }
}

#[test]
fn mapped_host_leads_to_its_origin_unchanged() {
    let origin = Origin::answering(OK);
    let map = format!("dynamodb.us-east-1.amazonaws.com=http://{}", origin.addr());
    let proxy = Proxy::start(&["--map", &map]);
    let mut client = Client::connect(&proxy);
    for host in ["dynamodb.us-east-1.amazonaws.com", "DynamoDB.us-east-1.amazonaws.com:3000"] {
        client.request("GET", host, "/p?q", "", b"");
        assert_eq!(client.read_response().status, 200);
        assert_eq!(origin.next_request().head.field("Host"), Some(host));
    }
    assert_eq!(origin.connections(), 1, "one origin, one pool");
}

#[test]
fn mapped_host_over_tls_is_verified_by_the_origins_name() {
    let origin = TlsOrigin::answering(OK);
    let map = format!("*.amazonaws.com=https://localhost:{}", origin.addr().port());
    let proxy = Proxy::start(&["--map", &map]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "b.s3.us-east-1.amazonaws.com", "/", "", b"");
    assert_eq!(client.read_response().status, 200);
    let host = origin.next_request().head.field("Host").map(str::to_owned);
    assert_eq!(host.as_deref(), Some("b.s3.us-east-1.amazonaws.com"));
}

#[test]
fn mapped_name_in_a_target_leads_to_the_same_origin() {
    let origin = Origin::answering(OK);
    let map = format!("sts.amazonaws.com=http://{}", origin.addr());
    let proxy = Proxy::start(&["--map", &map]);
    let mut client = Client::connect(&proxy);
    client.send("GET http://sts.amazonaws.com/ HTTP/1.1\r\nHost: sts.amazonaws.com\r\n\r\n");
    assert_eq!(client.read_response().status, 200);
    assert_eq!(origin.next_request().head.field("Host"), Some("sts.amazonaws.com"));
}

#[test]
fn one_name_in_two_forms_leads_to_two_places() {
    let mapped = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nmapped");
    let tls = TlsOrigin::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntls");
    let plain = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
    let map = format!("mapped.test=http://{}", mapped.addr());
    let flags = ["--map", &map, "--forward", "*"];
    let proxy = Proxy::options(&flags).flag("--cores", "1").start();
    let mut client = Client::connect(&proxy);
    // Each twice: the second time the way is known, and must be no other's.
    for _ in 0..2 {
        client.request("GET", "mapped.test", "/", "", b"");
        assert_eq!(client.read_response().text(), "mapped");
        let name = name_of(&plain);
        client.send(PLAIN.replace("NAME", &name));
        assert_eq!(client.read_response().text(), "plain");
        client.request("GET", &name, "/", "", b"");
        client.read_error(400);
        client.send(PLAIN.replace("http:", "https:").replace("NAME", &name_of(&tls)));
        assert_eq!(client.read_response().text(), "tls");
        client.request("GET", &name_of(&tls), "/", "", b"");
        client.read_error(400);
    }
}

#[test]
fn connect_is_not_implemented_whatever_may_be_forwarded() {
    let proxy = Proxy::start(&["--forward", "*", "--upgrade-https", "*"]);
    let mut client = Client::connect(&proxy);
    client.send("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n");
    client.expect_refusal(501);
}

#[test]
fn refused_address_stays_refused_though_all_names_may_be_forwarded() {
    alone_on_the_network();
    let flags = ["--forward", "*", "--map", "metadata.test=http://169.254.169.254:9"];
    let proxy = Proxy::start(&flags);
    let mut client = Client::connect(&proxy);
    client.send("GET http://169.254.169.254:9/ HTTP/1.1\r\nHost: 169.254.169.254:9\r\n\r\n");
    client.read_error(403);
    client.request("GET", "metadata.test", "/", "", b"");
    client.read_error(403);
}

#[test]
fn request_that_passed_a_proxy_before_gets_508_in_either_form() {
    let origin = Origin::answering(OK);
    let map = format!("mapped.test=http://{}", origin.addr());
    let proxy = Proxy::start(&["--forward", "*", "--map", &map]);
    let mut client = Client::connect(&proxy);
    client.send(
        PLAIN.replace("NAME", &name_of(&origin)).replace("\r\n\r\n", "\r\nX-Chocon-Ver: 1\r\n\r\n"),
    );
    client.read_error(508);
    client.request("GET", "mapped.test", "/", "X-Chocon-Ver: 1\r\n", b"");
    client.read_error(508);
    origin.expect_no_bytes();
}

/// A body as S3 clients send it with a checksum behind it: chunks inside the body, each with its
/// signature, which no proxy may touch.
fn aws_chunked(data: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for chunk in data.chunks(65_536) {
        body.extend(format!("{:x};chunk-signature={:064x}\r\n", chunk.len(), 7).bytes());
        body.extend_from_slice(chunk);
        body.extend(b"\r\n");
    }
    body.extend(format!("0;chunk-signature={:064x}\r\n", 8).bytes());
    body.extend(b"x-amz-checksum-crc32:AAAAAA==\r\n");
    body.extend(format!("x-amz-trailer-signature:{:064x}\r\n\r\n", 9).bytes());
    body
}

const AWS_CHUNKED: &str = "Content-Encoding: aws-chunked\r\nX-Amz-Trailer: x-amz-checksum-crc32\r\n\
    X-Amz-Decoded-Content-Length: 150000\r\nExpect: 100-continue\r\n";

fn start_upload(client: &mut Client, origin: &Origin, framing: &str) -> OriginConn {
    let name = name_of(origin);
    client.send(format!(
        "PUT http://{name}/k HTTP/1.1\r\nHost: {name}\r\n{AWS_CHUNKED}{framing}\r\n\r\n"
    ));
    let mut conn = origin.accept();
    let head = conn.read_head();
    for line in AWS_CHUNKED.trim_end().split("\r\n") {
        assert!(wire::find(&head.raw, line.as_bytes()).is_some(), "{line}");
    }
    assert!(wire::find(&head.raw, framing.as_bytes()).is_some());
    client.expect_silence(std::time::Duration::from_millis(20));
    conn.send("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.read_response().status, 100);
    conn
}

#[test]
fn aws_chunked_body_of_known_length_arrives_byte_for_byte() {
    let body = aws_chunked(&crate::support::pattern(150_000));
    let origin = Origin::scripted();
    let proxy = Proxy::start(&["--forward", "localhost"]);
    let mut client = Client::connect(&proxy);
    let length = format!("Content-Length: {}", body.len());
    let mut conn = start_upload(&mut client, &origin, &length);
    let sent = client.send_aside(body.clone());
    assert!(conn.read_exact(body.len()) == body);
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
    sent.join().expect("the sender").expect("all sent");
}

#[test]
fn aws_chunked_body_within_chunks_arrives_byte_for_byte() {
    let body = aws_chunked(&crate::support::pattern(150_000));
    let origin = Origin::scripted();
    let proxy = Proxy::start(&["--forward", "localhost"]);
    let mut client = Client::connect(&proxy);
    let mut conn = start_upload(&mut client, &origin, "Transfer-Encoding: chunked");
    // Chunks of another size than those inside, so that no border of one is one of the other.
    let mut coded = Vec::new();
    for chunk in body.chunks(10_007) {
        coded.extend(format!("{:x}\r\n", chunk.len()).bytes());
        coded.extend_from_slice(chunk);
        coded.extend(b"\r\n");
    }
    coded.extend(b"0\r\n\r\n");
    let sent = client.send_aside(coded);
    let head = wire::Head::parse(b"PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let seen = conn.read_body_of(&head);
    assert!(seen.bytes == body && seen.trailers.is_empty());
    conn.send(OK);
    assert_eq!(client.read_response().status, 200);
    sent.join().expect("the sender").expect("all sent");
}

/// 508 with the remedy in the log; nobody was connected to.
fn leads_back(proxy: &Proxy, host: &str) {
    let mut client = Client::connect(proxy);
    client.request("GET", host, "/", "", b"");
    client.read_error(508);
    client.expect_usable();
    let line = proxy.wait_for_log("leads-back");
    assert!(line.contains("--resolver dns") && line.contains("--dns-server"), "{line}");
    // A connection of the proxy to itself would have brought a second 508, by the head's loop check.
    proxy.wait_for_access_line(|line| line.get("uri") == "/still-usable");
    let lines = proxy.access_log_lines();
    assert_eq!(lines.iter().filter(|line| line.get("status") == "508").count(), 1, "{lines:?}");
}

#[test]
fn own_address_gets_508_before_it_is_dialled() {
    let proxy = Proxy::start(&[]);
    leads_back(&proxy, &format!("127.0.0.1.ccnproxy:{}", proxy.addr().port()));
}

#[test]
fn own_name_gets_508_before_it_is_dialled() {
    let proxy = Proxy::start(&[]);
    leads_back(&proxy, &format!("localhost.ccnproxy:{}", proxy.addr().port()));
}

#[test]
fn every_local_address_is_own_for_a_listener_on_all() {
    let proxy = Proxy::start(&["--listen", "0.0.0.0"]);
    leads_back(&proxy, &format!("127.7.7.7.ccnproxy:{}", proxy.addr().port()));
}

#[test]
fn inherited_address_is_own() {
    for supervisor in [Supervisor::ServerStarter, Supervisor::Systemd] {
        let socket = TcpListener::bind(("127.0.0.1", 0)).expect("bind 127.0.0.1:0");
        let port = socket.local_addr().expect("own address").port();
        let proxy = Proxy::options(&[]).inherit(supervisor, &[&socket]).start();
        leads_back(&proxy, &format!("localhost.ccnproxy:{port}"));
    }
}

#[test]
fn other_loopback_address_is_not_own_for_a_listener_on_one() {
    let proxy = Proxy::start(&[]);
    let origin = TcpListener::bind(("127.0.0.2", proxy.addr().port()));
    let Ok(origin) = origin else { return not_run("another process has the port") };
    let mut client = Client::connect(&proxy);
    client.request("GET", &format!("127.0.0.2.ccnproxy:{}", proxy.addr().port()), "/", "", b"");
    origin.set_nonblocking(true).expect("nonblocking");
    crate::support::eventually("a connection", || origin.accept().is_ok());
}

#[test]
fn no_exception_opens_the_own_address() {
    let proxy = Proxy::start(&["--listen", "0.0.0.0", "--allow-cidr", "0.0.0.0/0", "--forward=*"]);
    leads_back(&proxy, &format!("0.0.0.0.ccnproxy:{}", proxy.addr().port()));
}

/// A proxy on the port that its name is mapped to, a hosts file that points the name at it, and a
/// name server that knows where the name truly leads: an origin on the same port elsewhere.
fn pointed_at_itself(flags: &[&str]) -> Option<(NameServer, Origin, Proxy)> {
    if !can_mount() {
        not_run("no right to mount a hosts file for one process");
        return None;
    }
    let origin = Origin::answering(OK);
    let records = [("api.test", (vec![std::net::Ipv4Addr::LOCALHOST], 60))].into();
    let Some(server) = NameServer::start(records) else {
        not_run("no right to bind port 53");
        return None;
    };
    let hosts = scratch_file(&format!("self-{}-hosts", flags.len()), "127.0.0.5 api.test\n");
    let resolv = format!("nameserver {}\noptions timeout:1 attempts:1\n", server.ip);
    let resolv = scratch_file(&format!("self-{}-resolv", flags.len()), &resolv);
    let port = origin.addr().port().to_string();
    let map = format!("api.test=http://api.test:{port}");
    let proxy = Proxy::options(flags)
        .flag("--listen", "127.0.0.5")
        .flag("--port", &port)
        .flag("--map", &map)
        .mount(&hosts, "/etc/hosts")
        .mount(&resolv, "/etc/resolv.conf")
        .start();
    Some((server, origin, proxy))
}

#[test]
fn mapped_name_that_the_hosts_file_points_here_gets_508() {
    let Some((_server, origin, proxy)) = pointed_at_itself(&[]) else { return };
    leads_back(&proxy, "api.test");
    origin.expect_no_bytes();
}

#[test]
fn mapped_name_that_leads_here_on_another_port_gets_502_with_the_same_remedy() {
    alone_on_the_network();
    let proxy = Proxy::start(&["--map", "localhost=https"]);
    let mut client = Client::connect(&proxy);
    client.request("GET", "localhost", "/", "", b"");
    client.read_error(502);
    assert!(proxy.wait_for_log("127.0.0.1:443").contains("--resolver dns"));
}

#[test]
fn mapped_name_is_reached_by_a_resolver_that_skips_the_hosts_file() {
    let Some((server, origin, proxy)) = pointed_at_itself(&["--resolver", "dns"]) else { return };
    let mut client = Client::connect(&proxy);
    client.request("GET", "api.test", "/", "", b"");
    assert_eq!(client.read_response().status, 200, "{}", proxy.log());
    assert_eq!(origin.next_request().head.field("Host"), Some("api.test"));
    assert_eq!(server.times_asked("api.test"), 1);
}

#[test]
fn name_server_of_the_flag_is_asked_in_place_of_those_of_resolv_conf() {
    let origin = Origin::answering(OK);
    let records = [("api.test", (vec![std::net::Ipv4Addr::LOCALHOST], 60))].into();
    let Some(server) = NameServer::start(records) else {
        return not_run("no right to bind port 53");
    };
    let proxy = Proxy::start(&["--dns-server", &server.ip.to_string()]);
    let mut client = Client::connect(&proxy);
    let host = format!("api.test.ccnproxy:{}", origin.addr().port());
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().status, 200, "{}", proxy.log());
    assert_eq!(server.times_asked("api.test"), 1);
}
