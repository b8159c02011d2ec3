//! What survives a restart.

#![forbid(unsafe_code)]

use super::ORIGINS_MAX;
use std::time::Duration;

/// Most origins in the state file, those that need most and were used last; a file with more is not used. As many as a
/// shard remembers.
pub const STATE_ORIGINS_MAX: usize = ORIGINS_MAX;

/// Longest state file that is read; a longer one is not used. `STATE_ORIGINS_MAX` names of the longest kind are 350 KiB.
pub const STATE_BYTES_MAX: u64 = 512 * 1024;

/// How long after its last use an origin is remembered in the state file, and how old a file may be. What is needed ready
/// is forgotten within the hour by its half-life; this is for idle limits, and for hosts that are off over a holiday.
pub const STATE_KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);

/// How often it is seen whether something changed that is worth to be saved. A process that is killed loses no more than
/// what it learned in this time; a write takes some milliseconds of a thread of its own.
pub const STATE_SAVE_EVERY: Duration = Duration::from_secs(5);
