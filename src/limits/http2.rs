//! HTTP/2 to the origins.

#![forbid(unsafe_code)]

use std::time::Duration;

/// What an origin may send on one stream before its client took it, in bytes (SETTINGS_INITIAL_WINDOW_SIZE). Beyond it
/// the origin has to wait, as on a full TCP window. 4 MiB is 224 Mbit/s over 150 ms; it grows where the path holds more, up
/// to the larger.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
pub const HTTP2_STREAM_WINDOW_MAX_BYTES: u32 = 32 * 1024 * 1024;

/// What an origin may have under way on one connection, in bytes, beside what waits for slow clients: at first, and when
/// the streams' windows have grown. `HTTP2_HELD_BYTES_MAX` bounds what a shard holds in all.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
pub const HTTP2_CONNECTION_WINDOW_MAX_BYTES: u32 = 64 * 1024 * 1024;

/// Response bytes that wait for slow clients, of all HTTP/2 connections of a shard. Beyond it new responses get the
/// small stream window until half of it is taken, so that a shard holds about this much.
pub const HTTP2_HELD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The stream window under that pressure, in bytes: HTTP/2's own default (RFC 9113 §6.5.2).
pub const HTTP2_STREAM_WINDOW_SMALL_BYTES: u32 = 65_535;

/// Bytes of a request's body that may wait in one stream for the connection. Beyond it the client has to wait.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Ciphertext that may wait for one connection's socket, in bytes, about. Beyond it nothing more is encrypted.
pub const HTTP2_PENDING_BYTES_MAX: usize = 128 * 1024;

/// Most requests at once on a connection whose origin has not yet said how many it takes; every known origin takes 100.
/// Further ones wait for its word, which comes with the handshake's end.
pub const HTTP2_STREAMS_AT_FIRST: usize = 50;

/// What a connection under way will probably take at once (RFC 9113 §6.5.2 recommends at least this): requests that wait
/// make it one dial for each so many.
pub const HTTP2_STREAMS_EXPECTED: usize = 100;

/// Most requests at once on one connection, whatever the origin allows. Beyond it another connection is made: one lost
/// segment holds up all that share a connection.
pub const HTTP2_STREAMS_MAX: usize = 256;

/// Most connections to one origin that a shard dials at once for its requests. Each brings room for many. So many on which
/// the origin takes no request at all are enough, too: further requests wait for a place on them, then get 503.
pub const HTTP2_DIALS_AT_ONCE: usize = 4;

/// Messages that wait in each direction between two shards for one request that goes on the other's HTTP/2 connection.
/// Beyond it the sender waits for the taker. A frame each one way, 64 KiB of a request's body the other.
pub const HTTP2_BORROWED_MESSAGES_MAX: usize = 8;

/// Most requests to one origin that a shard has under way on other shards' connections. Beyond it they wait for a
/// connection of its own. Four descriptors each.
pub const HTTP2_BORROWED_MAX: usize = 64;

/// How long after an origin's first request a second shard begins its connection, so that its handshake takes no time from
/// a burst that follows at once; that goes on the first connection.
pub const HTTP2_SIBLING_AFTER: Duration = Duration::from_millis(300);

/// A shard that sent more requests than this to one origin on other shards' connections within a second makes a
/// connection of its own: each costs two shards' time. A burst of 64 stays on the connections that are there.
pub const HTTP2_BORROWED_PER_SECOND: u32 = 64;

/// Most requests of a shard that wait for room on one origin's connections. Beyond it: 503.
pub const HTTP2_WAITING_MAX: usize = 16 * 1024;

/// Most frames without content (RFC 9113 §10.5) that an origin may send in a burst, and each second, beside those that
/// requests and their bodies call for. Beyond it the connection is closed. nghttpd and nginx stay below 10 a request.
pub const HTTP2_CONTROL_FRAMES_MAX: u32 = 1000;
pub const HTTP2_CONTROL_FRAMES_PER_SECOND: u32 = 50;

/// After this long an origin that chose HTTP/1.1 is asked again, once it has no idle connection.
pub const HTTP2_ASK_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Most times that a request goes out anew because the origin said that it did nothing with it (RFC 9113 §8.7). Beyond
/// it: 502. An origin that drains one connection after the other needs two or three.
pub const HTTP2_RESENDS_MAX: u32 = 8;

/// An origin that owes an answer and says nothing for this long is asked for a sign of life (PING); the pause is four
/// times as long after each sign. So is one that gets a request after this long without any.
pub const HTTP2_SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long the sign may take. Beyond it the connection is cut: what can be asked again goes to another one.
pub const HTTP2_PONG_WITHIN: Duration = Duration::from_secs(10);

/// How long the last frames of a connection may take to leave. Beyond it they are dropped.
pub const HTTP2_FAREWELL_WITHIN: Duration = Duration::from_secs(2);

/// How long the end of a response that the client already has whole may take. Beyond it the stream is reset.
pub const HTTP2_TAIL_WITHIN: Duration = Duration::from_secs(10);

/// Writes on a connection that go at once in each round trip though they fill no segment; the next ones wait for more to
/// write. A new connection may have ten segments under way, and the origin's answers fill its own ten.
pub const HTTP2_SHORT_WRITES: u32 = 3;

/// How long they wait; the timers' grain makes it up to twice as long. Where a round trip takes less than this minimum,
/// nothing waits.
pub const HTTP2_GATHER: Duration = Duration::from_millis(1);
pub const HTTP2_GATHER_ROUND_TRIP_MIN: Duration = Duration::from_millis(30);

/// What is as long as this fills a segment, and goes at once.
pub const HTTP2_GATHER_BYTES: usize = 1400;
