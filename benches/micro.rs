//! The pure parts of a request's path, one call each: nanoseconds (`cargo bench --bench micro`) and, for a tool that
//! counts instructions, a plain loop (`micro count CASE ROUNDS`; `micro list` names the cases).
//!
//! A count does not depend on the machine's speed or load, so it is what a change is judged by; see `scripts/bench
//! --instructions`.

use chocon_uring::{
    headers::{self, BodyOut, LoopMark, NextHop, Persistence, Target},
    http1::{
        body::{CHUNK_ROOM_BEFORE, Decoder, wrap_chunk},
        fields::Field,
        framing::RequestBody,
        head::{EndOfHead, FieldRoom, RequestHead, ResponseHead},
    },
    observe::{
        id::IdSource,
        latency::{Acquired, Cost, OriginLatency},
    },
    route::{Form, route},
    rules::Rules,
};
use divan::{Bencher, black_box};
use std::fmt;

/// What a program that calls an API sends: ten fields.
const REQUEST: &[u8] = b"POST /v1/charges?expand=customer&limit=10 HTTP/1.1\r\n\
    Host: api.example.com.ccnproxy-https\r\n\
    User-Agent: example-client/2.31.0 (linux; x86_64)\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef0123456789abcdef\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 128\r\n\
    Idempotency-Key: 7a085f6c-5e2b-4b9f-9c3a-0123456789ab\r\n\
    X-Request-Id: 01890a5d-ac96-774b-bcce-b302099a8057\r\n\
    Connection: keep-alive\r\n\r\n";

/// What such an API answers: twelve fields.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx\r\n\
    Date: Tue, 24 Nov 2026 20:00:00 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 512\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: no-cache, no-store\r\n\
    ETag: W/\"0123456789abcdef\"\r\n\
    Request-Id: req_0123456789abcd\r\n\
    Strict-Transport-Security: max-age=63072000; includeSubDomains; preload\r\n\
    Vary: Origin, Accept-Encoding\r\n\
    X-Content-Type-Options: nosniff\r\n\
    X-Frame-Options: DENY\r\n\r\n";

const ID: &[u8] = b"d4qj2mn1h5vc73fk8s90";

struct Case {
    name: &'static str,
    /// Makes the call to be measured, with what it needs made before.
    prepare: fn() -> Box<dyn FnMut()>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const CASES: [Case; 12] = [
    Case { name: "end_of_head", prepare: end_of_head },
    Case { name: "request_parse", prepare: request_parse },
    Case { name: "request_write", prepare: request_write },
    Case { name: "response_parse", prepare: response_parse },
    Case { name: "response_write", prepare: response_write },
    Case { name: "route", prepare: route_authority },
    Case { name: "field_named", prepare: field_named },
    Case { name: "fixed_decode", prepare: fixed_decode },
    Case { name: "chunked_decode", prepare: chunked_decode },
    Case { name: "chunk_wrap", prepare: chunk_wrap },
    Case { name: "id_next", prepare: id_next },
    Case { name: "latency_record", prepare: latency_record },
];

fn end_of_head() -> Box<dyn FnMut()> {
    Box::new(|| {
        black_box(EndOfHead::default().find(black_box(REQUEST))).expect("a head");
    })
}

fn request_parse() -> Box<dyn FnMut()> {
    Box::new(|| {
        let mut room = FieldRoom::default();
        let head = RequestHead::parse(black_box(REQUEST), &mut room).expect("a head");
        black_box(&head);
    })
}

fn request_write() -> Box<dyn FnMut()> {
    // Lives as long as the process: what is measured borrows from it.
    let room = Box::leak(Box::new(FieldRoom::default()));
    let head = RequestHead::parse(REQUEST, room).expect("a head");
    let hop = NextHop { host: Some(b"api.example.com"), loop_mark: LoopMark::Set, proxy: None };
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        out.clear();
        let target = Target::parse(head.method, black_box(head.target)).expect("a target");
        headers::write_request(&mut out, black_box(&head), target, hop, ID);
        black_box(&out);
    })
}

fn response_parse() -> Box<dyn FnMut()> {
    Box::new(|| {
        let mut room = FieldRoom::default();
        let head = ResponseHead::parse(black_box(RESPONSE), &mut room).expect("a head");
        black_box(&head);
    })
}

fn response_write() -> Box<dyn FnMut()> {
    let room = Box::leak(Box::new(FieldRoom::default()));
    let head = ResponseHead::parse(RESPONSE, room).expect("a head");
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        out.clear();
        let (body, persistence) = (BodyOut::AsIs, Persistence::Persists);
        headers::write_response(&mut out, black_box(&head), body, persistence, ID);
        black_box(&out);
    })
}

fn route_authority() -> Box<dyn FnMut()> {
    let rules = Rules::default();
    let authority = b"api.example.com.ccnproxy-https:8443";
    Box::new(move || {
        black_box(route(black_box(authority), Form::Host, &rules)).expect("a route");
    })
}

/// The names of the request's ten fields.
fn field_named() -> Box<dyn FnMut()> {
    let lines = REQUEST.split(|byte| *byte == b'\n').skip(1);
    let name = |line: &'static [u8]| line.split(|byte| *byte == b':').next();
    let names: Vec<&[u8]> = lines.filter_map(name).filter(|name| name.len() > 2).collect();
    assert_eq!(names.len(), 10);
    Box::new(move || {
        for name in &names {
            black_box(Field::named(black_box(name)));
        }
    })
}

fn fixed_decode() -> Box<dyn FnMut()> {
    let mut piece = vec![b'x'; 64 * 1024];
    Box::new(move || {
        let mut decoder = Decoder::of_request(RequestBody::Fixed(64 * 1024));
        black_box(decoder.advance(black_box(&mut piece))).expect("a body");
    })
}

/// 64 KiB in chunks of 4 KiB. Decoding moves the data together in place, so each call gets its own copy: 64 KiB of
/// memcpy are in the figure.
fn chunked_decode() -> Box<dyn FnMut()> {
    let mut body = Vec::new();
    for _ in 0..16 {
        body.extend_from_slice(b"1000\r\n");
        body.resize(body.len() + 4096, b'x');
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut piece = body.clone();
    Box::new(move || {
        piece.copy_from_slice(&body);
        let mut decoder = Decoder::of_request(RequestBody::Chunked);
        let step = decoder.advance(black_box(&mut piece)).expect("a body");
        assert!(step.ended && step.data.len() == 64 * 1024);
    })
}

fn chunk_wrap() -> Box<dyn FnMut()> {
    let mut block = vec![b'x'; 66 * 1024];
    Box::new(move || {
        let data = CHUNK_ROOM_BEFORE..CHUNK_ROOM_BEFORE + 64 * 1024;
        black_box(wrap_chunk(black_box(&mut block), data));
    })
}

fn id_next() -> Box<dyn FnMut()> {
    let mut ids = IdSource::new(0);
    Box::new(move || {
        black_box(ids.next(black_box(1_795_550_400)));
    })
}

fn latency_record() -> Box<dyn FnMut()> {
    let mut latency = OriginLatency::new();
    Box::new(move || latency.record(black_box(85_123), Acquired::Reused, Cost::default()))
}

#[divan::bench(args = &CASES)]
fn call(bencher: Bencher<'_, '_>, case: &Case) {
    bencher.bench_local((case.prepare)());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => CASES.iter().for_each(|case| println!("{}", case.name)),
        ["count", name, rounds] => {
            let case = CASES.iter().find(|case| case.name == name).expect("a case of `list`");
            let rounds: u32 = rounds.parse().expect("a number of rounds");
            let mut call = (case.prepare)();
            (0..rounds).for_each(|_| call());
        }
        _ => divan::main(),
    }
}
