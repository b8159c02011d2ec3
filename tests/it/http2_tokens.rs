//! Many requests that carry a token each, over an HTTP/2 origin that fails them in every way: no client receives another's
//! bytes, and no POST is carried out twice. Both are judged by what the clients and the origin saw.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::client::shard_of;
use crate::support::http2::{
    END_STREAM, Http2Conn, Http2Request, INTERNAL_ERROR, REFUSED_STREAM, options,
};
use crate::support::tokens::{self, body_of, kind_of};
use crate::support::{Client, Proxy, TlsOrigin};

/// What all connections of an origin saw.
#[derive(Default)]
struct Tally {
    /// How often each request came, and how often it was carried out: unless the origin said that it was not.
    requests: Mutex<HashMap<usize, (usize, usize)>>,
    /// For each connection, requests by the shard that their clients are on.
    shards: Mutex<Vec<HashMap<usize, usize>>>,
}

impl Tally {
    fn connection(&self) -> usize {
        let mut shards = self.shards.lock().expect("shards");
        shards.push(HashMap::new());
        shards.len() - 1
    }

    /// Returns whether the request was there before.
    fn comes(&self, connection: usize, number: usize, request: &Http2Request) -> bool {
        let shard = shard_of(request.field("x-chocon-id").expect("an id"));
        let mut shards = self.shards.lock().expect("shards");
        *shards[connection].entry(shard).or_default() += 1;
        let mut requests = self.requests.lock().expect("requests");
        let (came, _) = requests.entry(number).or_default();
        *came += 1;
        *came > 1
    }

    fn is_carried_out(&self, number: usize) {
        self.requests.lock().expect("requests").entry(number).or_default().1 += 1;
    }

    /// Requests that went on a connection of another shard than their client's, at the least: a connection is of the shard
    /// that uses it most, or the others are even more.
    fn borrowed(&self) -> usize {
        let shards = self.shards.lock().expect("shards");
        let of_others = |by: &HashMap<usize, usize>| {
            by.values().sum::<usize>() - by.values().max().unwrap_or(&0)
        };
        shards.iter().map(of_others).sum()
    }

    /// No request was carried out more often than its method allows: a POST once, a GET once more (RFC 9110 §9.2.2).
    #[track_caller]
    fn expect_none_too_often(&self, is_post: impl Fn(usize) -> bool) {
        for (number, (_, times)) in self.requests.lock().expect("requests").iter() {
            let most = if is_post(*number) { 1 } else { 2 };
            assert!(*times <= most, "{number} was carried out {times} times");
        }
    }
}

fn number_of(request: &Http2Request) -> usize {
    request.path().trim_start_matches('/').parse().expect("a token")
}

/// A connection of the origin that misbehaves.
struct Misbehaving {
    conn: Http2Conn,
    tally: Arc<Tally>,
    number: usize,
    /// The highest stream that was looked at, and the last one that ever will be.
    looked_at: u32,
    last: u32,
}

impl Misbehaving {
    fn serve(mut conn: Http2Conn, tally: Arc<Tally>) {
        conn.raw().set_deadline(Duration::from_secs(120));
        let number = tally.connection();
        let mut this = Self { conn, tally, number, looked_at: 0, last: u32::MAX };
        while let Some(request) = this.conn.try_next_request() {
            // What was opened behind the last one is left alone (RFC 9113 §6.8).
            if request.stream <= this.last {
                this.take(&request);
            }
        }
    }

    /// Answers with the token of the request, or misbehaves, as the token itself decides.
    fn take(&mut self, request: &Http2Request) {
        let (number, stream) = (number_of(request), request.stream);
        let kind = kind_of(number);
        let came_before = self.tally.comes(self.number, number, request);
        if !came_before && kind % 97 == 1 {
            return self.conn.reset(stream, REFUSED_STREAM);
        }
        if !came_before && kind % 97 == 12 && stream > self.looked_at {
            self.last = stream.saturating_sub(2);
            return self.conn.goaway(self.last, 0);
        }
        self.tally.is_carried_out(number);
        self.looked_at = self.looked_at.max(stream);
        self.answer(stream, number);
    }

    fn answer(&mut self, stream: u32, number: usize) {
        let conn = &mut self.conn;
        let (kind, body) = (kind_of(number), body_of(number));
        let half = &body.as_bytes()[..body.len() - 1 - body.len() / 2];
        let length = body.len().to_string();
        let known = [(":status", "200"), ("content-length", &length)];
        let unknown = [(":status", "200")];
        match kind % 97 {
            0 => conn.reset(stream, INTERNAL_ERROR),
            2 => {
                conn.headers(stream, &known, 0);
                conn.body(stream, half, 0);
                conn.reset(stream, INTERNAL_ERROR);
            }
            3 => {
                conn.headers(stream, &unknown, 0);
                conn.body(stream, half, 0);
                conn.reset(stream, INTERNAL_ERROR);
            }
            4 => {
                conn.headers(stream, &known, 0);
                conn.body(stream, half, END_STREAM);
            }
            5 => {
                conn.headers(stream, &known, 0);
                conn.body(stream, format!("{body}EVIL").as_bytes(), END_STREAM);
            }
            6 => {
                self.last = self.looked_at;
                conn.goaway(self.last, 0);
                conn.answer(stream, body.as_bytes());
            }
            7 => conn.raw().half_close(),
            // Never answered.
            8 if kind.is_multiple_of(5) => {}
            9 => {
                conn.headers(stream, &[(":status", "304"), ("content-length", "5")], END_STREAM);
            }
            10 => conn.headers(stream, &[("x-bad", "no status")], END_STREAM),
            11 => {
                // A second response on a stream that has ended, and bytes on one that never was.
                conn.answer(stream, body.as_bytes());
                conn.answer_unasked(stream, b"EVIL");
            }
            13 => {
                conn.headers(stream, if kind.is_multiple_of(2) { &known } else { &unknown }, 0);
                conn.body(stream, half, 0);
                conn.raw().half_close();
            }
            kind if kind % 3 == 0 => {
                conn.headers(stream, &unknown, 0);
                conn.body(stream, half, 0);
                conn.body(stream, &body.as_bytes()[half.len()..], 0);
                conn.headers(stream, &[("x-token", &number.to_string())], END_STREAM);
            }
            _ => conn.answer(stream, body.as_bytes()),
        }
    }
}

#[test]
fn no_client_receives_anothers_bytes_over_a_hostile_http_2_origin() {
    const CLIENTS: usize = 24;
    let tally = Arc::new(Tally::default());
    let seen = tally.clone();
    // What a connection costs makes the shards use each other's.
    let origin = options().away(Duration::from_millis(20)).start(move |conn| {
        if let Some(conn) = Http2Conn::try_open(conn) {
            Misbehaving::serve(conn, seen.clone());
        }
    });
    // A shard that borrows more than 64 a second gets its own, so that few shards would borrow too few.
    let flags = ["--cores", "16", "--proxy-read-timeout", "500ms", "--access-log-dir", "none"];
    let proxy = Proxy::start(&flags);
    let is_post = |number: usize| number % 4 == 1;
    let own = tokens::ask_all(&proxy, CLIENTS, |client, number| {
        let (method, body) =
            if is_post(number) { ("POST", &b"once"[..]) } else { ("GET", &b""[..]) };
        client.request(method, &origin.host(), &format!("/{number}"), "", body);
    });
    let all = tokens::count();
    let borrowed = tally.borrowed();
    eprintln!(
        "{own} of {all} were answered in full; at least {borrowed} went on another shard's connection; {} connections",
        origin.connections()
    );
    assert!(own > all * 3 / 4, "only {own} of {all} were answered in full");
    assert!(borrowed > all / 10, "only {borrowed} of {all} were on other shards");
    tally.expect_none_too_often(is_post);
}

/// An origin that answers, and after every tenth request says goodbye.
fn storming(tally: &Arc<Tally>) -> TlsOrigin {
    let tally = tally.clone();
    options().start(move |mut conn| {
        conn.set_deadline(Duration::from_secs(120));
        let Some(mut conn) = Http2Conn::try_open(conn) else { return };
        let connection = tally.connection();
        let (mut served, mut last) = (0, u32::MAX);
        while let Some(request) = conn.try_next_request() {
            served += 1;
            // What was opened behind the last one is not looked at any more (RFC 9113 §6.8).
            if request.stream <= last {
                let number = number_of(&request);
                tally.comes(connection, number, &request);
                tally.is_carried_out(number);
                let body = request.path().to_owned() + &String::from_utf8_lossy(&request.body);
                conn.answer(request.stream, body.as_bytes());
            }
            if served == 10 {
                last = request.stream;
                conn.goaway(last, 0);
            }
        }
    })
}

#[test]
fn goaway_storm_loses_no_request_of_any_method_and_carries_none_out_twice() {
    let tally = Arc::new(Tally::default());
    let (origin, proxy) = (storming(&tally), Proxy::start(&["--access-log-dir", "none"]));
    thread::scope(|scope| {
        for part in 0..16 {
            let (origin, proxy) = (&origin, &proxy);
            scope.spawn(move || {
                let mut client = Client::connect(proxy);
                for number in (part..1600).step_by(16) {
                    let path = format!("/{number}");
                    let method = if number % 2 == 0 { "GET" } else { "POST" };
                    let body = if number % 2 == 0 { "" } else { "body" };
                    client.request(method, &origin.host(), &path, "", body.as_bytes());
                    let response = client.read_response();
                    assert_eq!(response.text(), format!("{path}{body}"), "{}", response.status);
                }
            });
        }
    });
    // The last one may still be in use, and what was left alone by a GOAWAY counts among its ten.
    assert!(origin.connections() > 100, "{} connections", origin.connections());
    // Those that were left alone by a GOAWAY came again; nothing else did.
    let requests = tally.requests.lock().expect("requests");
    assert_eq!(requests.len(), 1600);
    for (number, (_, times)) in requests.iter() {
        assert_eq!(*times, 1, "{number} was carried out {times} times");
    }
}

#[test]
fn reset_of_one_stream_in_a_hundred_leaves_no_get_without_its_answer() {
    let origin = options().start(|mut conn| {
        conn.set_deadline(Duration::from_secs(120));
        let mut conn = Http2Conn::open(conn);
        let mut served = 0;
        while let Some(request) = conn.try_next_request() {
            served += 1;
            if served % 100 == 0 {
                conn.reset(request.stream, INTERNAL_ERROR);
            } else {
                let path = request.path().to_owned();
                conn.answer(request.stream, path.as_bytes());
            }
        }
    });
    let proxy = Proxy::start(&["--access-log-dir", "none"]);
    thread::scope(|scope| {
        for part in 0..16 {
            let (origin, proxy) = (&origin, &proxy);
            scope.spawn(move || {
                let mut client = Client::connect(proxy);
                for number in (part..3200).step_by(16) {
                    let path = format!("/{number}");
                    client.request("GET", &origin.host(), &path, "", b"");
                    assert_eq!(client.read_response().text(), path);
                }
            });
        }
    });
}
