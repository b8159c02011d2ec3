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
//! through phases: head, route, dns, connect, tls, send, wait, body ([`error::Phase`]).
//!
//! The sweeper is a shard's task that looks at everything each 100 ms; it cuts what is overdue ([`shard::watch`]). A floor
//! is the connections that are kept ready to an origin, its home the shard that makes them. A wish is a request's question
//! to other shards for a connection, its claim settles which of them sends one. A safe connection has been idle for less
//! than its origin is known to allow; a careful request must not be sent twice. A door is a listener.
//!
//! # What holds everywhere
//!
//! - A shard never waits for another, and a request that finds a connection on its shard takes no lock; what cores share
//!   is listed in [`shard`].
//! - Every wait on a peer has a deadline ([`shard::watch`]), every queue and buffer a bound ([`limits`]).
//! - Dropping an upstream connection closes it; only [`upstream::Lease::finish`] keeps it.
//! - Peer bytes never panic; a panic ends one connection, not a shard ([`shard::spawn`]).
//!
//! # Where it is decided
//!
//! | what | file | begin at |
//! |---|---|---|
//! | Which origin a Host or a target names | `route.rs` | `route` |
//! | A request that is not admitted: loops, methods, versions | `proxy/asked.rs` | `admit` |
//! | The status that a fault gets, and its word in the log | `error.rs` | `status` |
//! | How long a body is; what is ambiguous | `http1/framing.rs` | `Lengths` |
//! | Fields that are left out, and those that are added | `headers.rs` | `write_request` |
//! | Whether a request, a POST above all, is sent again | `proxy/mod.rs` | `forward` |
//! | The same over HTTP/2: GOAWAY, resets | `proxy/http2.rs` | `Repeat` |
//! | An answer that nobody asked for | `proxy/respond.rs` | `record_round_trip` |
//! | A 408 that is about an idle connection | `proxy/respond.rs` | `is_about_idleness` |
//! | An answer that was cut looks cut to the client | `proxy/mod.rs` | `Next` |
//! | Whether the origin may be asked in HTTP/2 | `upstream/http2/speaks.rs` | `Speaks` |
//! | When another HTTP/2 connection is dialled | `upstream/http2/streams.rs` | `dials_wanted` |
//! | When a shard uses another's HTTP/2 connection | `upstream/http2/borrowed.rs` | `ask_stream` |
//! | Which connection carries a request: idle, safe or fresh | `upstream/mod.rs` | `lease` |
//! | When a connection is idle again, and when it is closed | `upstream/lease.rs` | `finish` |
//! | Who lends to whom; a lent connection stays where it went, or goes to its floor's home | `upstream/lend.rs` | `send_home` |
//! | Requests in line under `--max-conns-per-host` | `upstream/line.rs` | `stand_in_line` |
//! | How many connections are kept ready, and by which shard | `upstream/floor/keep.rs` | `keep_floor` |
//! | For how long an idle connection is safe | `upstream/idle_limit.rs` | `safe_for` |
//! | A look-up that fails, or is late | `upstream/dial.rs` | `look_up` |
//! | How long an old answer serves | `upstream/dns/cache.rs` | `NAME_STALE_MAX` |
//! | Which address is dialled first, and which beside it | `upstream/race.rs` | `race` |
//! | Which origins are reached by way of HTTP_PROXY | `via.rs` | `before` |
//! | Which roots are trusted | `upstream/tls.rs` | `new` |
//! | Which addresses must not be dialled | `upstream/policy.rs` | `check` |
//! | Which shard serves a client | `downstream/balance.rs` | `place` |
//! | Who closes an idle client, and a slow one | `shard/watch.rs` | `sweep` |
//! | Where `--busy-poll` acts | `shard/spin.rs` | `begin` |
//! | Where a panic stops | `shard/mod.rs` | `Caught` |
//! | Which sockets of a supervisor are taken | `process/inherited.rs` | `adopt_one` |
//! | What a signal does; the exit status | `process/mod.rs` | `serve` |
//! | Who writes the state file, and when | `process/state_file.rs` | `StateSaver` |
//! | What a line of the access log says | `observe/line.rs` | `append` |
//! | What a latency is, and the dump of SIGUSR1 | `observe/latency/mod.rs` | `record` |
//!
//! A bound stands in [`limits`] with its unit, its reason and what the peer sees; a flag in [`cli`].
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
