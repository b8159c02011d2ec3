//! The built binary with raw bytes on both sides of it, one behaviour a case.
//!
//! `CHOCON_URING_BIN` names another binary than the one that cargo has built.

mod access_log;
mod api;
mod attacks;
mod command_line;
mod conforming_origin;
mod deadlines;
mod descriptors;
mod egress;
mod fixed_upstream;
mod fixture;
mod floor;
mod framing_attacks;
mod house;
mod http2;
mod http2_attacks;
mod http2_flow;
mod http2_pool;
mod idle_limit;
mod ids;
mod inherited;
mod interleavings;
mod keep_alive;
mod latency;
mod lending;
mod limits;
mod log_course;
mod log_files;
mod max_conns;
mod names;
mod pid_file;
mod pool;
mod relay;
mod replay;
mod request_body;
mod request_head;
mod response;
mod routing;
mod shutdown;
mod sockets;
mod splits;
mod support;
mod tls;
mod true_names;
mod via;
