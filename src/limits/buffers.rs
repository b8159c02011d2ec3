//! What connections hold in memory.

#![forbid(unsafe_code)]

/// What an idle client connection holds for its next request, in bytes. Ordinary heads fit, so that one receive
/// reads them; longer ones grow it up to `HEAD_BYTES_MAX` and it shrinks again after the request. Not 4 KiB: rustls keeps
/// that much for each connection, and of one size class in the allocator a burst of clients would leave holes between
/// origin connections that stay.
pub const CLIENT_BUFFER_BYTES: usize = 3584;

/// A small block, in bytes: one head out, or the first receive of a response. Two are held by a request that waits
/// for its answer, so 1,500 of them (10,000 requests/s over 150 ms) hold 48 MiB.
pub const SMALL_BLOCK_BYTES: usize = 16 * 1024;

/// A large block, in bytes: one body fragment of `BODY_READ_BYTES` with its chunk framing, or the longest head with
/// what is added to it. One a direction while a body streams; nothing else queues.
pub const LARGE_BLOCK_BYTES: usize = 76 * 1024;

/// Most body bytes taken in one receive: the back-pressure unit. Beyond it the peer's window fills.
pub const BODY_READ_BYTES: usize = 64 * 1024;

/// Blocks of each size that a shard keeps for reuse. Beyond it they go back to the allocator; the sweeper gives back
/// what was not needed for a while.
pub const BLOCKS_KEPT_MAX: usize = 1024;
