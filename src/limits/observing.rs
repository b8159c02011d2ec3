//! Logs, the proxy's own pages and latencies.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Bytes of log lines that a shard gathers before it hands them to the writer. At about 250 bytes
/// a line one hand-over serves some 65 requests; a quiet shard hands over at its next flush.
pub const LOG_BATCH_BYTES: usize = 16 * 1024;

/// Room a new batch has beyond `LOG_BATCH_BYTES`, so that the line which fills it does not make it
/// grow. A longer line makes it grow once.
pub const LOG_BATCH_SLACK_BYTES: usize = 4 * 1024;

/// Most messages (batches, diagnostics) waiting for one output; further ones are dropped, counted
/// and the count is said. Sized for 256 shards that flush four times while the output is away.
pub const LOG_QUEUE_MESSAGES_MAX: usize = 1024;

/// Most bytes waiting for one output; further ones are dropped, counted and the count is said.
/// About 30,000 lines: a third of a second of the busiest shard, at a known cost in memory.
pub const LOG_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Least time between two lines that say what was dropped, so that an output which cannot keep up
/// is not burdened further.
pub const LOG_LOSS_REPORT_EVERY: Duration = Duration::from_secs(1);

/// What that time grows to, doubling with each line, while an output cannot be written at all: a
/// disk may stay full for days.
pub const LOG_LOSS_REPORT_EVERY_MAX: Duration = Duration::from_secs(60);

/// Remarks on log files (a link that cannot be replaced, an old file that cannot be removed) that
/// wait to be said; further ones are left out.
pub const LOG_NOTES_MAX: usize = 8;

/// Pause before an output that is non-blocking and full is tried again. Only the writer's own
/// thread pauses.
pub const LOG_WRITE_RETRY_EVERY: Duration = Duration::from_millis(5);

/// Requests for the proxy's own pages that wait for the thread that makes them; further ones get 503.
/// One takes well below a millisecond with the usual number of samples.
pub const API_ASKED_MAX: usize = 64;

/// Client connections that `--api ADDR:PORT` takes although `--port` takes none any more, so that an
/// overloaded proxy can still be looked at. They come out of `DESCRIPTORS_RESERVED`.
pub const API_CLIENTS_MAX: usize = 32;

/// Longest latency that is told apart, in microseconds (one hour); a longer one counts as this.
/// It bounds a histogram to 23 blocks of 1,024 counts of 8 bytes, 184 KiB.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Longest name of a `.hgrm` file without its ending, in bytes; a longer one is cut and told apart
/// by a hash. Leaves room for ending and temporary name below the 255 bytes of `NAME_MAX`.
pub const HGRM_NAME_BYTES_MAX: usize = 200;
