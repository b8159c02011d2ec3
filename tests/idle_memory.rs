//! What an idle TLS connection to an origin keeps on the heap.
//!
//! The C code of the TLS library allocates by itself, about 1.2 KiB a connection; that is not seen here.

mod in_process;

use in_process::{
    ANSWERED_WITHIN, Certificate, Telling, be_peer, connect, expect_answer, start_origin,
    start_proxy,
};
use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// Connections that the first burst leaves behind, and those that the second adds. What stays once and for all is in both,
/// so the difference is the connections'.
const FEW: i64 = 32;
const MORE: i64 = 128;

/// How long the first burst waits for its answers. An origin's histogram grows with the longest time that it has to hold:
/// it is to have its size before anything is measured.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// Live bytes that an idle connection may have. rustls needs most of them: 4 KiB for the next record, 2.2 KiB of state,
/// and the peer's certificates, here one of 0.4 KiB. What is left after the blocks of a burst were given back counts,
/// too: a fraction of one for each.
const IDLE_BYTES_MAX: i64 = 8 * 1024;

/// Within it the shard gives the blocks of a burst back.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

fn count(bytes: i64) {
    LIVE_BYTES.fetch_add(bytes, Relaxed);
}

#[global_allocator]
static ALLOCATOR: Telling = Telling(count);

/// Where the origin's answers wait for each other, so that each request of a burst needs a connection of its own.
#[derive(Default)]
struct Gate {
    /// Requests that have come, and those of them that may be answered.
    state: Mutex<(i64, i64)>,
    changed: Condvar,
}

impl Gate {
    fn may_answer(&self) {
        let mut state = self.state.lock().expect("no panic");
        state.0 += 1;
        let own = state.0;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| *open < own).expect("no panic"));
    }

    /// Answers `requests` once all of them have come, and `wait` later.
    fn open(&self, requests: i64, wait: Duration) {
        let state = self.state.lock().expect("no panic");
        let all = state.1 + requests;
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, ANSWERED_WITHIN, |(come, _)| *come < all)
            .expect("no panic");
        assert!(!waited.timed_out(), "{} of {all} requests came", state.0);
        drop(state);
        thread::sleep(wait);
        self.state.lock().expect("no panic").1 = all;
        self.changed.notify_all();
    }
}

/// As many requests at once, each answered in full; then the clients go.
fn burst(proxy: SocketAddr, origin: u16, gate: &Gate, requests: i64, wait: Duration) {
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1.ccnproxy-https:{origin}\r\n\r\n");
    let mut clients: Vec<_> = (0..requests).map(|_| connect(proxy)).collect();
    for client in &mut clients {
        client.write_all(request.as_bytes()).expect("the proxy reads");
    }
    gate.open(requests, wait);
    clients.iter_mut().for_each(expect_answer);
}

/// Live bytes once they stay the same, or the least within `SETTLED_WITHIN`.
fn settled() -> i64 {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let (mut least, mut since) = (i64::MAX, Instant::now());
    while Instant::now() < deadline && since.elapsed() < Duration::from_secs(4) {
        let live = LIVE_BYTES.load(Relaxed);
        if live < least {
            (least, since) = (live, Instant::now());
        }
        thread::sleep(Duration::from_millis(50));
    }
    least
}

#[test]
fn idle_tls_connections_after_a_burst_keep_a_bounded_number_of_bytes() {
    be_peer();
    let certificate = Certificate::trusted();
    let gate = Arc::new(Gate::default());
    let origin = start_origin(Some(certificate.config.clone()), {
        let gate = gate.clone();
        move || gate.may_answer()
    });
    let proxy = start_proxy(&["--warm-learned", "off", "--keepalive-timeout", "600"]);
    burst(proxy, origin, &gate, FEW, FIRST_WAIT);
    let before = settled();
    burst(proxy, origin, &gate, FEW + MORE, Duration::ZERO);
    let each = (settled() - before) / MORE;
    println!("{each} bytes an idle connection");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes an idle connection");
    // rustls alone needs as much: less would mean that the connections are gone.
    assert!(each >= 4096, "{each} bytes an idle connection: are there any?");
}
