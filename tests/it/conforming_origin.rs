//! A conforming origin that is not ours, on monoio-http, under many clients at once.

use crate::support::{Client, Proxy, pattern};
use std::{net::TcpListener, thread};

#[path = "../../benches/origin/echo.rs"]
mod echo;

const CLIENTS: usize = 32;
const REQUESTS: usize = 100;

fn start_origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind 127.0.0.1:0");
    let host = format!("127.0.0.1.ccnproxy:{}", listener.local_addr().expect("an address").port());
    // Ends with the process: it has nothing to give back.
    thread::spawn(move || echo::serve(listener, "fixed".into()).expect("an origin"));
    host
}

#[test]
fn every_client_gets_its_own_body_back() {
    let (host, proxy) = (start_origin(), Proxy::start(&["--cores", "2"]));
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (host, proxy) = (&host, &proxy);
            scope.spawn(move || {
                let mut client = Client::connect(proxy);
                for round in 0..REQUESTS {
                    let mut body = format!("{number}/{round} ").into_bytes();
                    body.extend_from_slice(&pattern(1 + (number * 37 + round * 211) % 9000));
                    client.request("POST", host, "/", "", &body);
                    assert_eq!(client.read_response().body.bytes, body);
                }
            });
        }
    });
}

#[test]
fn a_megabyte_goes_there_and_back() {
    let (host, proxy) = (start_origin(), Proxy::start(&[]));
    let mut client = Client::connect(&proxy);
    let body = pattern(1 << 20);
    for _ in 0..4 {
        // The client reads while it sends: the origin answers only when it has all.
        client.request("POST", &host, "/", "", &body);
        assert_eq!(client.read_response().body.bytes, body);
    }
    client.request("GET", &host, "/", "", b"");
    assert_eq!(client.read_response().text(), "fixed");
}
