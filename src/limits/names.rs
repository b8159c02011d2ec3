//! Names, and the addresses that they lead to.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Most names a shard waits for at once. Beyond it: 503. One for each in-flight first request to a new origin.
pub const LOOKUPS_PER_SHARD_MAX: usize = 1024;

/// Messages waiting for a shard. Larger than all look-ups that it can have under way, with room for signals.
pub const MAILBOX_MAX: usize = 4096;

/// Names that wait for the resolver's thread, of all shards. Beyond it: 503.
pub const LOOKUPS_WAITING_MAX: usize = 4096;

/// Look-ups under way at once in the process; further ones wait for their turn. Each has two sockets, and as many more
/// may wait for one family that is late: `DESCRIPTORS_RESERVED` has room for them.
pub const LOOKUPS_AT_ONCE: usize = 40;

/// How long one look-up may take, with all its servers and retries. Beyond it: 502. Go's resolver has the same order
/// of magnitude (5 s, two attempts).
pub const LOOKUP_WITHIN: Duration = Duration::from_secs(8);

/// Most addresses of one name that are used; further ones are left out.
pub const ADDRESSES_MAX: usize = 32;

/// What a TTL is clamped to: a TTL of 0 must not mean a look-up for each request, and a forgotten long one must not keep
/// an address forever.
pub const POSITIVE_TTL_MIN: Duration = Duration::from_secs(1);
pub const POSITIVE_TTL_MAX: Duration = Duration::from_secs(3600);

/// How long a name without address is not asked for again: as its zone says, within this. A name that comes to exist is
/// found within the larger.
pub const NEGATIVE_TTL_MIN: Duration = Duration::from_secs(1);
pub const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);

/// How long an entry of the hosts file is kept by a shard; the file says nothing of it.
pub const HOSTS_TTL: Duration = Duration::from_secs(5);

/// Names whose addresses a shard remembers, and as many the resolver's thread. Beyond it the one that was not used for
/// longest goes; its next request waits for a look-up.
pub const NAMES_CACHED_MAX: usize = 4096;

/// Most names a shard looks up ahead of their time at once. Beyond it they wait, and their old answers serve; the other
/// places of `LOOKUPS_PER_SHARD_MAX` are for names that requests wait for.
pub const NAME_REFRESHES_MAX: usize = 256;

/// How long before its end an answer is asked for anew, or a quarter of its TTL if that is less. A look-up takes less;
/// where it takes more, the old answer serves meanwhile.
pub const NAME_REFRESH_AHEAD: Duration = Duration::from_secs(2);

/// How long a name is kept fresh after its last use: this for each use it has seen, up to the larger; also for as long as
/// the shard has connections to it. A name seen once does not cost look-ups for an hour.
pub const NAME_FRESH_PER_USE: Duration = Duration::from_secs(60);
pub const NAME_FRESH_MAX: Duration = Duration::from_secs(3600);

/// How long after its end an answer is still used while a new one is asked for. Beyond it a request waits for the new
/// one. Covers the slowest look-up (`LOOKUP_WITHIN`) of a name that is kept fresh.
pub const NAME_EXPIRED_USED_FOR: Duration = Duration::from_secs(60);

/// How long addresses are used while no name server answers for them. Beyond it: 502. RFC 8767 §5 allows 1 to 3 days;
/// but clouds give addresses to others within hours, and an http origin does not prove who it is.
pub const NAME_STALE_MAX: Duration = Duration::from_secs(6 * 3600);

/// When a name is asked for again that name servers failed for, or did not answer for in time, while older addresses
/// serve. RFC 8767 §5 asks for 30 s between attempts at least of resolvers that serve many; this is one client.
pub const NAME_RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long the addresses of one family wait for those of the other (RFC 8305 §3). Then they are used alone; a name server
/// that drops AAAA questions costs no more than this, once.
pub const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Least time between two lines that say that old addresses are used, so that a name server's failure is one line and
/// not one for each name.
pub const NAME_REPORT_EVERY: Duration = Duration::from_secs(10);

/// How often the name of `--upstream` is looked up at least; more often where its TTL is shorter. As chocon, whose users
/// count on it where they move a service.
pub const FIXED_REFRESH_EVERY: Duration = Duration::from_secs(3);

// Addresses

/// After an attempt to connect has been under way for this long, the next address is tried beside it (RFC 8305 §5 and
/// §8: 250 ms recommended). The first that answers is used, the others are closed.
pub const CONNECT_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Most attempts of one dial at a time. Beyond it the oldest is given up, 1.5 s or more after its SYN: longer than the
/// first retransmission of it (RFC 6298 §2: 1 s).
pub const CONNECT_ATTEMPTS_MAX: usize = 6;

/// How long an address that failed is put aside: as long as it takes an origin to restart, doubled for each failure in
/// a row. Others of the name are dialled meanwhile; where all are aside they are dialled all the same. At the end of its
/// time it is tried in the background, so that no request is the probe.
pub const ADDRESS_ASIDE_MIN: Duration = Duration::from_secs(1);
pub const ADDRESS_ASIDE_MAX: Duration = Duration::from_secs(60);

/// Round trip from which on an origin is far: the kernel is asked of each of its answers whether it came before the
/// request. A connection brings at most a thousand of those a second; a nearer one so many that each look would cost.
pub const NEAR_ROUND_TRIP_MAX: Duration = Duration::from_millis(1);

/// How long the latency of an address holds that has no connection. Beyond it the address counts as unknown and gets
/// its turn again: what was slow may have been mended.
pub const ADDRESS_LATENCY_HOLDS: Duration = Duration::from_secs(60);

/// Of the last eight answers for a name, how many must have brought other addresses for it to count as one that rotates.
/// An origin that moves changes once, or once there and once back; large services (S3, DynamoDB) name a few of their many
/// addresses in each answer.
pub const ROTATION_CHANGES: u32 = 3;

/// How long connections to an address that its name left are still used while others are made. Beyond it they carry no
/// new request, whether there are others or not. A dial over the longest links takes less; with the time in which a
/// change is seen, the old address has no connection 2 s after the TTL.
pub const ADDRESS_LEFT_USED_FOR: Duration = Duration::from_millis(1500);

/// How long they are used at least, so that all shards have seen the change before one of them counts what another still
/// takes for good: each looks at its names five times a second.
pub const ADDRESS_LEFT_USED_AT_LEAST: Duration = Duration::from_millis(500);

/// How long such an address is remembered, so that a connection that another shard sends late is not used again.
pub const ADDRESS_LEFT_KNOWN_FOR: Duration = Duration::from_secs(10);

/// How long an address of a name that rotates is used after the last answer that had it. Beyond it its connections are
/// retired. Without this, warm connections to such services would live for one TTL, which is 5 s.
pub const ROTATION_KEPT_FOR: Duration = Duration::from_secs(600);
