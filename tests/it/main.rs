//! The built binary, raw bytes on both sides of it.
mod deadlines;
mod fixture;
mod framing_attacks;
mod keep_alive;
mod pool;
mod relay;
mod replay;
mod request_body;
mod request_head;
mod response;
mod routing;
mod support;
mod tls;
