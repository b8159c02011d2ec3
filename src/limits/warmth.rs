//! Connections that are kept ready.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Most `--warm` flags; more are refused at the start. Such origins are never forgotten, so they must stay few against
/// `ORIGINS_MAX`.
pub const WARM_ORIGINS_MAX: usize = 256;

/// Most connections to one origin that `--warm` takes; more are refused at the start. One shard keeps them, so they must
/// stay few against `IDLE_PER_SHARD_MAX`.
pub const WARM_CONNECTIONS_MAX: usize = 1024;

/// Half-life of what an origin is remembered to need at once. A burst's connections are kept through the pauses of a
/// working hour, and given up by half each ten minutes; a single one is kept for ten minutes.
pub const DEMAND_HALF_LIFE: Duration = Duration::from_secs(600);

/// Requests after which an origin's demand counts. One that was asked once has its idle connection, and no more.
pub const DEMAND_LEARNED_AFTER: u32 = 2;

/// Connections that are kept ready for learned origins, of all shards together. Beyond it further origins get none until
/// others are forgotten; those of `--warm` are not counted. A tenth of a default limit of descriptors, and a handshake
/// each some seconds where origins close early.
pub const FLOOR_LEARNED_MAX: usize = 1024;

/// Most dials for an origin's floor in a second. A burst's sixteen connections are back in a second; an origin sees no
/// more than that of a proxy without requests.
pub const FLOOR_DIALS_PER_SECOND: u32 = 16;

/// Pause after a floor's dial failed, doubled with each failure in a row. As for addresses that fail.
pub const FLOOR_BACKOFF_MIN: Duration = Duration::from_secs(1);
pub const FLOOR_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How much of a shard's origin connections, in percent, may be open for a floor to make further ones: requests come
/// first.
pub const FLOOR_OPEN_PERCENT_MAX: usize = 75;

/// Least time before a connection has to be retired at which its replacement is made, and least part of a second that
/// the replacement is granted beyond what dials take.
pub const FLOOR_REPLACE_AHEAD: Duration = Duration::from_millis(250);

/// Idle connections that origins closed sooner than this teach no limit: it was a restart or a refusal. A floor that sees
/// its new connections closed so soon makes its pauses longer instead.
pub const IDLE_LIMIT_LEARNED_MIN: Duration = Duration::from_millis(500);

/// Least time between the end of a connection's use and the origin's close of it: two looks of the sweeper and some.
pub const IDLE_LIMIT_MARGIN_MIN: Duration = Duration::from_millis(250);

/// Longest `Keep-Alive: timeout=` that is believed. A longer one says nothing: no connection is idle for an hour.
pub const IDLE_LIMIT_TOLD_MAX: Duration = Duration::from_secs(3600);

/// How often a learned limit is measured anew, with a connection that carries no request meanwhile: origins change their
/// configuration about as seldom as this is often.
pub const IDLE_LIMIT_PROBE_EVERY: Duration = Duration::from_secs(600);
