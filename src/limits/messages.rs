//! Heads and bodies.

#![forbid(unsafe_code)]

// Heads

/// Longest head, in bytes, of a request or a response, with its last empty line. A client beyond it gets 431
/// (RFC 6585 §5), an origin beyond it makes a 502. Real heads stay below 16 KiB; Go allows 1 MiB, which would let
/// 10,000 clients hold 10 GiB. This holds them to 640 MiB.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Longest request target, in bytes. Beyond it: 414. Presigned URLs stay below 8 KiB; RFC 9110 §4.1 asks for at
/// least 8,000.
pub const TARGET_BYTES_MAX: usize = 32 * 1024;

/// Most fields in one head. A client beyond it gets 431, an origin makes a 502. The first 32
/// are read on the stack, more of them on the heap.
pub const FIELDS_MAX: usize = 256;

/// Most names in a message's `Connection` fields that name further fields to remove. Beyond it: 400 or 502.
/// They are compared with every field, so the product with `FIELDS_MAX` is bounded too.
pub const CONNECTION_NAMES_MAX: usize = 32;

/// Most empty lines ignored before a request line (RFC 9112 §2.2 asks for at least one). Beyond it: 400.
pub const EMPTY_LINES_MAX: usize = 4;

/// Longest X-Chocon-Id, in bytes, that is taken over from a client; a longer one is a 400. It is copied into the
/// response and the log.
pub const ID_BYTES_MAX: usize = 256;

/// Most interim (1xx) heads before a final one. Beyond it: 502. RFC 9110 §15.2 sets none; an origin must not keep a
/// request alive with them.
pub const INTERIM_HEADS_MAX: u32 = 16;

// Bodies

/// Longest chunk-size line, in bytes: 16 hex digits and extensions (RFC 9112 §7.1.1 asks for a limit). Beyond it:
/// 400 or 502.
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// Longest trailer section, in bytes. Beyond it: 400 from a client, a visible cut from an origin.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
