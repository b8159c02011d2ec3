//! What one can see of the proxy: access log, diagnostics, latencies, and the thread that writes.
//!
//! A shard owns its `LogSink`, `OriginLatency` and `IdSource`; nothing here is locked or shared on
//! the way of a request. What leaves a shard leaves in batches through [`writer`].

pub mod access_log;
pub mod admin;
pub mod api;
pub mod counters;
pub mod diagnostics;
pub mod id;
pub mod latency;
pub mod log_files;
pub mod writer;

mod escape;
mod json;
mod line;
mod local_time;
mod memory;
mod pump;
mod utc;
