//! What flags take.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Longest duration a flag takes; a longer one is refused at the start. Far beyond any use, yet
/// small enough that a deadline (now + duration) never overflows a clock.
pub const FLAG_DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Most shards `--cores` takes; more are refused at the start. Each has a thread, a ring and a
/// listener, and the largest hosts to date have fewer CPUs than this.
pub const SHARDS_MAX: usize = 1024;

/// Longest `--busy-poll`; a longer one is refused at the start. A shard that is asked something once a second does not
/// sleep at all.
pub const BUSY_POLL_MAX: Duration = Duration::from_secs(1);

/// Most connections per origin that `--keepalive-conns` and `--max-conns-per-host` take; more are refused at the start.
/// Each is a descriptor, and Linux gives a process at most 1,048,576 of them (`fs.nr_open`).
pub const KEEPALIVE_CONNS_MAX: usize = 1_000_000;

/// Most `--allow-cidr` flags; more are refused at the start. The list is walked at every dial.
pub const ALLOW_CIDRS_MAX: usize = 256;

/// Longest `--access-log-rotate-time`, in minutes (ten years), and most `--access-log-rotate`; more
/// are refused at the start. Far beyond any use, and their product still fits in a clock.
pub const LOG_ROTATE_MINUTES_MAX: usize = 5_256_000;
pub const LOG_ROTATIONS_KEPT_MAX: usize = 1_000_000;

/// Most `--map`, `--upgrade-https` and `--forward` flags, of each; more are refused at the start. The lists are walked
/// for each authority that a shard does not know yet.
pub const RULES_MAX: usize = 256;

/// Most `--dns-server` flags; more are refused at the start. resolv.conf(5) takes three.
pub const DNS_SERVERS_MAX: usize = 8;

/// Most samples that `--stsize` takes; more are refused at the start. Each is 16 bytes on each shard;
/// the percentiles of a million take the thread that makes them about 30 ms.
pub const SAMPLES_KEPT_MAX: usize = 1_000_000;

/// Largest `--spfactor`; a larger one is refused at the start. One request in a million is as good as
/// none.
pub const SAMPLED_ONE_IN_MAX: usize = 1_000_000;
