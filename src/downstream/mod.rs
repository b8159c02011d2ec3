//! The clients: connections accepted, heads read, requests served one after the other, connections closed so that the
//! last answer can be read.

#![forbid(unsafe_code)]

pub mod accept;
mod atomic;
pub mod balance;
#[cfg(test)]
mod balance_tests;

use self::balance::Counted;
use crate::{
    client::{Client, Door, Input},
    error::{Cause, Error, Phase},
    http1::head::{EndOfHead, empty_lines},
    limits::{LINGER_PAUSE, LINGER_TOTAL},
    proxy::{self, Next},
    shard::{
        sys::{Direction, Socket},
        watch::{Cut, Deadline},
    },
    upstream::Upstream,
};
use std::{net::SocketAddr, rc::Rc, time::Instant};

/// Serves one connection until it ends, and so long it counts.
pub async fn serve(
    upstream: Rc<Upstream>,
    socket: Socket,
    peer: SocketAddr,
    door: Door,
    _counted: Option<Counted>,
) {
    let socket = Rc::new(socket);
    let watch = upstream.shard.watches.watch(socket.clone());
    let mut client =
        Client { socket, peer, door, watch, input: Input::default(), idle_since: Instant::now() };
    loop {
        let next = match read_head(&upstream, &mut client).await {
            Head::Complete { bytes, started, read } => {
                proxy::serve(&upstream, &mut client, bytes, started, read).await
            }
            Head::Refused { error, started } => {
                proxy::refuse(&upstream, &mut client, error, started).await
            }
            Head::Ended => return,
        };
        match next {
            Next::KeepAlive => client.input.next_request(),
            Next::Close => return,
            Next::Linger => return linger(&upstream, &client).await,
            Next::Reset => return client.socket.reset_on_close(),
        }
    }
}

enum Head {
    /// A head is at the input's start. `started` is when its first byte was seen, `read` when its last was.
    Complete {
        bytes: usize,
        started: Instant,
        read: Instant,
    },
    Refused {
        error: Error,
        started: Instant,
    },
    /// The client ended, or nothing came for too long: there is nobody to answer.
    Ended,
}

async fn read_head(upstream: &Upstream, client: &mut Client) -> Head {
    let Client { socket, watch, input, idle_since, .. } = client;
    let config = &upstream.shard.config;
    let mut end_of_head = EndOfHead::default();
    let mut started = None;
    loop {
        if !input.all().is_empty() {
            let is_first_look = started.is_none();
            let began = *started.get_or_insert_with(|| {
                let now = Instant::now();
                watch.clear(Deadline::Idle);
                watch.set(Deadline::Request, config.read_timeout.map(|within| now + within));
                now
            });
            match find_head(input, &mut end_of_head) {
                Ok(Some(bytes)) => {
                    // One reading of the clock serves both where the head was whole at once, which is nearly always.
                    let read = if is_first_look { began } else { Instant::now() };
                    return Head::Complete { bytes, started: began, read };
                }
                Ok(None) => {}
                Err(cause) => {
                    let error = Error::client(Phase::Head, cause);
                    return Head::Refused { error, started: began };
                }
            }
        } else if started.is_none() {
            watch.set(Deadline::Idle, Some(*idle_since + upstream.shard.idle_within()));
        }
        match (input.fill(socket).await, started) {
            (Ok(1..), _) => {}
            (Ok(_) | Err(_), Some(started))
                if watch.cut() == Some(Cut::Passed(Deadline::Request)) =>
            {
                let error = Error::client(Phase::Head, Cause::TimedOut);
                return Head::Refused { error, started };
            }
            (Ok(_) | Err(_), _) => return Head::Ended,
        }
    }
}

/// Looks for the end of the head, past empty lines in front of it (RFC 9112 §2.2).
fn find_head(input: &mut Input, end_of_head: &mut EndOfHead) -> Result<Option<usize>, Cause> {
    let skipped = empty_lines(input.all())?;
    if skipped > 0 {
        input.use_up(skipped);
        input.next_request();
        *end_of_head = EndOfHead::default();
    }
    end_of_head.find(input.all())
}

/// Ends our half and reads on for a while: closing with unread bytes would reset the connection, and the reset could
/// overtake the answer (RFC 9112 §9.6).
async fn linger(upstream: &Upstream, client: &Client) {
    let Client { socket, watch, .. } = client;
    socket.shutdown(Direction::Write);
    watch.forget_cut();
    let last = Instant::now() + LINGER_TOTAL;
    let mut block = upstream.shard.blocks.small();
    while watch.cut().is_none() {
        watch.set(Deadline::Linger, Some((Instant::now() + LINGER_PAUSE).min(last)));
        let whole = 0..block.len();
        let (received, back) = socket.recv(block, whole).await;
        block = back;
        if !matches!(received, Ok(1..)) {
            break;
        }
    }
    upstream.shard.blocks.put(block);
}
