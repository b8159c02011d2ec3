//! How often a shard looks, and how long it waits.

#![forbid(unsafe_code)]

use std::time::Duration;

/// How often a shard looks at its deadlines. A deadline is met up to this much late, never early.
pub const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// An exchange older than this is watched for a client that went away. Faster ones are over before it would help,
/// and are not charged for it.
pub const WATCH_CLIENT_AFTER: Duration = Duration::from_secs(1);

/// After the last byte of an answer to a request that was not read to its end, how long the rest is read and thrown
/// away so that the client can read the answer (RFC 9112 §9.6), and the longest pause in between.
pub const LINGER_TOTAL: Duration = Duration::from_secs(30);
pub const LINGER_PAUSE: Duration = Duration::from_secs(2);

/// How long a client may take to accept an answer made by the proxy itself. Beyond it: reset.
pub const OWN_ANSWER_WITHIN: Duration = Duration::from_secs(5);
