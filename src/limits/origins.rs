//! Origins and the connections to them: kept, lent, and what their sockets are set to.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Origins that a shard remembers (pool, latency histogram). Beyond it the one unused for longest is forgotten, with
/// its idle connections and its histogram.
pub const ORIGINS_MAX: usize = 1024;

/// Spellings of authorities that a shard remembers with their origin, for each form in which they come. Beyond it all
/// are forgotten and routed again.
pub const ROUTES_CACHED_MAX: usize = 4096;

/// Longest spelling that is remembered, in bytes; a longer one is routed anew each time. A name has 253 (RFC 1035 §2.3.4), a
/// port six; what follows a ccnproxy label may fill a head, and 12,288 heads would be 750 MiB a shard.
pub const ROUTE_CACHED_BYTES_MAX: usize = 512;

/// Idle connections of all origins that a shard keeps. Beyond it a connection is closed instead of kept.
pub const IDLE_PER_SHARD_MAX: usize = 8192;

/// Origins of which the shards know each other's connections. Beyond it an origin's connections are not lent between
/// shards: a request may then pay a handshake though another shard has an idle connection. 32 bytes for each of them
/// and shard: 4 MiB for 64 shards.
pub const TRACKED_ORIGINS_MAX: usize = 2048;

/// Most shards that are asked for one connection. Each costs a message and a wake-up; where the eight with most have
/// none idle, a ninth hardly has.
pub const LENDERS_ASKED_MAX: usize = 8;

/// Most requests, of this shard and of others, that stand in line for connections of one origin when another shard asks
/// for one. Beyond it the wish of the other shard is not remembered, and its request goes on without this shard.
pub const WISHES_HELD_MAX: usize = 1024;

/// How long a request waits for another shard to lend it a connection before it makes one of its own; within these an
/// eighth of what making one takes. A shard answers within 0.1 ms, if only to say that it has none. One that is busy, or
/// waits for its CPU, takes some milliseconds; only for such a one is the wait in vain. A new connection between
/// regions takes 300 ms and more, so that it then adds 12 %.
pub const LEND_WITHIN_MIN: Duration = Duration::from_millis(2);
pub const LEND_WITHIN_MAX: Duration = Duration::from_millis(50);

/// TLS sessions remembered for resumption, for the whole process. Beyond it old ones are forgotten and cost a full
/// handshake.
pub const TLS_SESSIONS_MAX: usize = 4096;

// Sockets

/// TCP keep-alive, of origins and of clients: a probe after this time without traffic. Below the 350 s after which NAT gateways and load balancers
/// of clouds forget a flow, and below the 60 s of stricter firewalls; chocon has the same 30 s.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Time between probes that are not answered; `TCP_USER_TIMEOUT` ends their series. Short, so that a lost probe is not
/// taken for a dead path, nor a dead path for a lost probe.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long data or probes may go unacknowledged, or an origin keep its window shut, before the kernel gives the
/// connection up (tcp(7), RFC 5482). The request under way sees a reset (502, or a visible cut); an idle connection is
/// found dead. Without it: 15 retransmissions, 15 minutes and more. 60 s is what nginx grants a peer that does not read.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes that wait unsent in a socket's send buffer before a send waits (tcp(7), `TCP_NOTSENT_LOWAT`). What counts
/// is in flight; a longer queue only holds memory (up to 4 MiB a connection) and hides back-pressure. Two body reads, so
/// that one is on its way while the next is made.
pub const TCP_NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;
