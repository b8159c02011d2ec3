//! An HTTP proxy on io_uring that makes calls to APIs in another region cost one round trip.
//!
//! A client sends plain HTTP/1.1 with `Host: api.example.com.ccnproxy-https`; the proxy speaks HTTPS to
//! `api.example.com` over connections that it keeps open.
//!
//! # The life of a request
//!
//! 1. A shard (one core, and all it owns) accepts the connection on its own `SO_REUSEPORT` socket, and serves it, or
//!    hands it to the one with fewest clients ([`downstream`]).
//! 2. The head is read within bounds and parsed strictly ([`http1::head`], [`http1::framing`]).
//! 3. The proxy's own pages are answered ([`observe::admin`]); any other request is admitted: no loop, and a Host that
//!    names an origin ([`proxy`], [`route`]).
//! 4. A lease of an origin connection is taken: an idle one of this shard, else the first of one that another shard
//!    lends, one that comes free, and a new one, whose address was looked up off the shard and may be dialled
//!    ([`upstream`]); or a place on an HTTP/2 connection ([`upstream::http2`]).
//! 5. The head goes out anew, less what was meant for this hop only ([`headers`]).
//! 6. Bodies go both ways under back-pressure, one block a direction ([`relay`]).
//! 7. The response's head and body reach the client, whole or visibly cut ([`proxy`]).
//! 8. After a clean end the lease becomes an idle connection again; after any other it is closed ([`upstream`]).
//! 9. One line goes to the access log, one value to the origin's latency histogram ([`observe`]).
//!
//! # Words
//!
//! Client and origin are the parties, downstream and upstream the directions. A shard is one core and all it owns. A
//! lease is an upstream connection in use, an idle one is not in use. A message has a head and a body. A request goes
//! through phases: head, dns, connect, tls, send, wait, body ([`error::Phase`]).
//!
//! # What holds everywhere
//!
//! - A shard never blocks and takes no lock; what cores share is listed in [`shard`].
//! - Every wait on a peer has a deadline ([`shard::watch`]), every queue and buffer a bound ([`limits`]).
//! - Dropping an upstream connection closes it; only [`upstream::Lease::finish`] keeps it.
//! - Peer bytes never panic; a panic ends one connection, not a shard ([`shard::spawn`]).
//!
//! The modules below stand in the order of the path; a file imports only what stands below it, and a test holds that.

#![deny(unsafe_code)]

// A blank line between each, so that no tool sorts them.

pub mod cli;

pub mod process;

pub mod downstream;

pub mod proxy;

pub mod relay;

pub mod client;

pub mod upstream;

pub mod shard;

pub mod observe;

pub mod headers;

pub mod http1;

pub mod route;

pub mod error;

pub mod config;

pub mod rules;

pub mod via;

pub mod authority;

pub mod limits;
