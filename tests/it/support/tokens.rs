//! Requests that carry a token each, so that an answer shows whose it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Client, Ended, Proxy};

/// How many requests a case makes; `CHOCON_URING_TOKENS` for longer runs.
pub fn count() -> usize {
    let given = std::env::var("CHOCON_URING_TOKENS").ok();
    given.map_or(20_000, |count| count.parse().expect("CHOCON_URING_TOKENS is a number"))
}

/// What an origin decides by: the number, multiplied by a large odd one, so that neighbours differ.
pub fn kind_of(number: usize) -> usize {
    number.wrapping_mul(0x9E37_79B9) >> 7
}

/// The answer to a request.
pub fn body_of(number: usize) -> String {
    format!("[{number}]").repeat(kind_of(number) % 40 + 1)
}

/// Sends the request of every token, from so many clients at once, and judges each answer. Returns how many came in full.
#[track_caller]
pub fn ask_all(proxy: &Proxy, clients: usize, send: impl Fn(&mut Client, usize) + Sync) -> usize {
    let (next, own) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = Client::connect(proxy);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count() {
                        return;
                    }
                    send(&mut client, number);
                    own.fetch_add(usize::from(judge(&mut client, number)), Ordering::Relaxed);
                    if !client.is_usable() {
                        client = Client::connect(proxy);
                    }
                }
            });
        }
    });
    own.load(Ordering::Relaxed)
}

/// Whether the answer to `number` came in full; it must be its own, a visible cut of it, or an honest error.
#[track_caller]
pub fn judge(client: &mut Client, number: usize) -> bool {
    let response = loop {
        let response = client.read_whatever_comes();
        let response = response.unwrap_or_else(|end| panic!("{end:?} instead of an answer"));
        if response.status >= 200 {
            break response;
        }
    };
    let text = response.text();
    match response.status {
        200 => {
            let whole = body_of(number);
            assert!(whole.starts_with(&text), "{number} received {text:?}");
            if response.body.ended != Ended::Complete {
                return false;
            }
            assert_eq!(text, whole, "{number} looks complete");
            for (name, value) in &response.body.trailers {
                assert_eq!((name.as_str(), value), ("x-token", &number.to_string()));
            }
            true
        }
        304 | 502 | 504 => {
            assert!(text.is_empty(), "{number} received {text:?} with {}", response.status);
            false
        }
        status => panic!("{number} received {status}"),
    }
}
