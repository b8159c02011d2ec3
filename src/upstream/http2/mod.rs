//! HTTP/2 to the origins (RFC 9113): one warm connection carries a whole burst.
//!
//! The protocol is hyperium h2's. Here stands what it leaves to its user: the way to the socket (`io`, `driver`), when
//! a short send waits for more (`gather`), what an origin may cost (`meter`), how large its windows are (`growth`), which
//! connection carries a request ([`streams`], [`multiplexed`], `waiters`), one request on its stream ([`exchange`],
//! `stream`), on another shard's connection too (`borrowed`, `lender`), and its words in HTTP/1.1 ([`translate`]).

#![forbid(unsafe_code)]

pub mod acquire;
pub mod borrowed;
mod driver;
pub mod exchange;
mod gather;
mod growth;
mod io;
mod lender;
mod meter;
pub mod multiplexed;
mod siblings;
pub mod speaks;
mod stream;
pub mod streams;
pub mod translate;
mod waiters;

use super::{
    connection::Connection,
    dial::Dialling,
    origins::{Origin, Seat},
};
use crate::{
    error::Cause,
    limits::{
        HEAD_BYTES_MAX, HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_SEND_BUFFER_BYTES,
        HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAMS_AT_FIRST,
    },
    shard::{self, Shard},
};
use io::{Io, Wire};
use multiplexed::Multiplexed;
use std::{rc::Rc, time::Instant};

/// Begins to speak HTTP/2 on a connection whose handshake chose it, and puts it to use.
async fn begin(
    shard: &Rc<Shard>,
    origin: &Origin,
    mut connection: Connection,
    dialling: Dialling,
) -> Result<(), Cause> {
    connection.stays_here();
    let now = Instant::now();
    let wire = Rc::new(Wire::new(connection, shard.clone(), now));
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buffer_size(HTTP2_SEND_BUFFER_BYTES)
        .initial_max_send_streams(HTTP2_STREAMS_AT_FIRST);
    // Only writes the preface, into the session's buffer.
    let begun = builder.handshake(Io(wire.clone())).await;
    let (requests, connection) = begun.map_err(|_| wire.fault().unwrap_or(Cause::Closed))?;
    let shared = Rc::new(Multiplexed::new(wire, dialling, requests, &origin.streams, now));
    shard::spawn("HTTP/2 connection", driver::drive(shared.clone(), connection));
    shared.offer(origin.seat.as_ref().map(Seat::multiplex));
    origin.streams.add(shared);
    Ok(())
}
