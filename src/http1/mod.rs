//! HTTP/1.1 messages as bytes (RFC 9112), without input or output: heads in (`head`), which body follows
//! (`framing`), body bytes in and out (`body`). Nothing here guesses: what two readers could read in two ways is
//! malformed.

#![forbid(unsafe_code)]

pub mod body;
pub mod field_list;
pub mod fields;
pub mod framing;
pub mod head;
mod scan;
