//! What one can see of the proxy: access log, diagnostics, latencies, statistics, and the threads that
//! write them and make pages of them.
//!
//! A shard owns its `LogSink`, `OriginLatency` and `IdSource`, and alone writes its `Counters`; nothing
//! here is locked or written by two on the way of a request. What leaves a shard leaves in batches
//! through [`writer`], or is read by [`api`] where it stands.

pub mod access_log;
pub mod admin;
pub mod api;
pub mod counters;
pub mod diagnostics;
pub mod http2_use;
pub mod id;
pub mod latency;
pub mod log_files;
pub mod paid;
pub mod writer;

mod escape;
mod json;
mod line;
mod local_time;
mod memory;
mod pump;
mod utc;
