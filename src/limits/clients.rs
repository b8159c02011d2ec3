//! Listeners, clients' connections, and the end of a process.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Listen backlog, in connections. Beyond it the kernel drops SYNs and clients retry after 1 s.
pub const BACKLOG: i32 = 4096;

/// Fresh connections on their way from the shard that accepted them to one with fewer clients, for each shard. Beyond it
/// they stay where they are: what is held up with a shard that stands still is bounded by this. Enough for a burst of
/// thousands on sockets that all shards share, as they are taken in within a millisecond.
pub const ARRIVALS_MAX: usize = 64;

/// Most listening sockets taken over from a supervisor; more are refused at the start. Each shard accepts on one socket
/// of each address, and hosts have fewer addresses than this.
pub const INHERITED_MAX: usize = 256;

/// How long an ending process goes on to take what is in the queue of its listeners. An own listener is closed then, and
/// what is left is reset; one that a supervisor keeps leaves it to the next process. The queue is empty long before
/// this, unless clients come faster than they are accepted.
pub const DRAIN_BACKLOG_WITHIN: Duration = Duration::from_secs(1);

/// How long an ending process waits for its shards at least, whatever `--shutdown-timeout` is: one that has nothing to
/// finish needs two sweeps to close idle connections and say so. Requests that are not done by then are cut.
pub const DRAIN_LEAST: Duration = Duration::from_millis(300);

/// While the process ends, how long a client's connection may be without a request before it is closed. Clients in
/// steady use send their next request within it and are told to close; closed at once, that request could cross the
/// close and be lost.
pub const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// How long the signal that ends the process counts as one if it comes again: a supervisor passes on what its whole group
/// got. Beyond it, and if it is another, requests are cut.
pub const SAME_SIGNAL_WITHIN: Duration = Duration::from_secs(1);

/// Descriptors kept free: 120 for look-ups (`LOOKUPS_AT_ONCE`), 32 for `API_CLIENTS_MAX`, 40 for logs, files, and what the
/// runtimes need.
pub const DESCRIPTORS_RESERVED: usize = 192;

/// Descriptors that each shard has beside its listeners and connections: its ring, and an eventfd for each of its four
/// mailboxes, twice. With fewer than all of this and a connection each way, the process does not start.
pub const DESCRIPTORS_A_SHARD: usize = 9;

/// Pause after accept ran out of descriptors or memory. Clients wait in the backlog meanwhile; without a pause the
/// shard would spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
