//! Every bound of the proxy: its unit, why it has this value, and what the peer sees when it is reached.

#![forbid(unsafe_code)]

use std::time::Duration;

// Heads

/// Longest head, in bytes, of a request or a response, with its last empty line. A client beyond it gets 431
/// (RFC 6585 §5), an origin beyond it makes a 502. Real heads stay below 16 KiB; Go allows 1 MiB, which would let
/// 10,000 clients hold 10 GiB. This holds them to 640 MiB.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Longest request target, in bytes. Beyond it: 414. Presigned URLs stay below 8 KiB; RFC 9110 §4.1 asks for at
/// least 8,000.
pub const TARGET_BYTES_MAX: usize = 32 * 1024;

/// Most fields in one head. A client beyond it gets 431, an origin makes a 502. They are parsed on the stack.
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

// Buffers

/// What an idle client connection holds for its next request, in bytes. Ordinary heads fit, so that one receive
/// reads them; longer ones grow it up to `HEAD_BYTES_MAX` and it shrinks again after the request.
pub const CLIENT_BUFFER_BYTES: usize = 4 * 1024;

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

// Connections

/// Listen backlog, in connections. Beyond it the kernel drops SYNs and clients retry after 1 s.
pub const BACKLOG: i32 = 4096;

/// Fresh connections on their way from the shard that accepted them to one with fewer clients, for each shard. Beyond it
/// they stay where they are: what is held up with a shard that stands still is bounded by this. Enough for a burst of
/// thousands on sockets that all shards share, as they are taken in within a millisecond.
pub const ARRIVALS_MAX: usize = 64;

/// Most listening sockets taken over from a supervisor; more are refused at the start. Each shard accepts on one socket
/// of each address, and hosts have fewer addresses than this.
pub const INHERITED_MAX: usize = 256;

/// How long an ending process goes on to take what is in the queue of its listeners. An own listener is closed then, and
/// what is left is reset; one that a supervisor keeps leaves it to the next process. The queue is empty long before
/// this, unless clients come faster than they are accepted.
pub const DRAIN_BACKLOG_WITHIN: Duration = Duration::from_secs(1);

/// How long an ending process waits for its shards at least, whatever `--shutdown-timeout` is: one that has nothing to
/// finish needs two sweeps to close idle connections and say so. Requests that are not done by then are cut.
pub const DRAIN_LEAST: Duration = Duration::from_millis(300);

/// While the process ends, how long a client's connection may be without a request before it is closed. Clients in
/// steady use send their next request within it and are told to close; closed at once, that request could cross the
/// close and be lost.
pub const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// Descriptors kept free for logs, rings, the resolver and the like.
pub const DESCRIPTORS_RESERVED: u64 = 128;

/// Pause after accept ran out of descriptors or memory. Clients wait in the backlog meanwhile; without a pause the
/// shard would spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Origins that a shard remembers (pool, latency histogram). Beyond it the one unused for longest is forgotten, with
/// its idle connections and its histogram.
pub const ORIGINS_MAX: usize = 1024;

/// Spellings of authorities that a shard remembers with their origin, for each form in which they come. Beyond it all
/// are forgotten and routed again.
pub const ROUTES_CACHED_MAX: usize = 4096;

/// Idle connections of all origins that a shard keeps. Beyond it a connection is closed instead of kept.
pub const IDLE_PER_SHARD_MAX: usize = 8192;

/// Origins of which the shards know each other's connections. Beyond it an origin's connections are not lent between
/// shards: a request may then pay a handshake though another shard has an idle connection. 20 bytes for each of them
/// and shard: 2.5 MiB for 64 shards.
pub const TRACKED_ORIGINS_MAX: usize = 2048;

/// Most shards that are asked for one connection. Each costs a message and a wake-up; where the eight with most have
/// none idle, a ninth hardly has.
pub const LENDERS_ASKED_MAX: usize = 8;

/// Most requests, of this shard and of others, that stand in line for connections of one origin when another shard asks
/// for one. Beyond it the wish of the other shard is not remembered, and its request goes on without this shard.
pub const WISHES_HELD_MAX: usize = 1024;

/// How long a request waits for another shard to lend it a connection before it makes one of its own; within these an
/// eighth of what making one takes. A shard answers within 0.1 ms, if only to say that it has none. One that is busy, or
/// waits for its CPU, takes some milliseconds; only for such a one is the wait in vain. A new connection between
/// regions takes 300 ms and more, so that it then adds 12 %.
pub const LEND_WITHIN_MIN: Duration = Duration::from_millis(2);
pub const LEND_WITHIN_MAX: Duration = Duration::from_millis(50);

/// TLS sessions remembered for resumption, for the whole process. Beyond it old ones are forgotten and cost a full
/// handshake.
pub const TLS_SESSIONS_MAX: usize = 4096;

// HTTP/2 to the origins

/// What an origin may send on one stream before its client took it, in bytes (SETTINGS_INITIAL_WINDOW_SIZE). Beyond it
/// the origin has to wait, as on a full TCP window. 4 MiB is 224 Mbit/s over 150 ms.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What an origin may have under way on one connection, in bytes, beside what waits for slow clients.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Response bytes that wait for slow clients, of all HTTP/2 connections of a shard. Beyond it new responses get the
/// small stream window until half of it is taken, so that a shard holds about this much.
pub const HTTP2_HELD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The stream window under that pressure, in bytes: HTTP/2's own default (RFC 9113 §6.5.2).
pub const HTTP2_STREAM_WINDOW_SMALL_BYTES: u32 = 65_535;

/// Bytes of a request's body that may wait in one stream for the connection. Beyond it the client has to wait.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Ciphertext that may wait for one connection's socket, in bytes, about. Beyond it nothing more is encrypted.
pub const HTTP2_PENDING_BYTES_MAX: usize = 128 * 1024;

/// Most requests at once on a connection whose origin has not yet said how many it takes; every known origin takes 100.
/// Further ones wait for its word, which comes with the handshake's end.
pub const HTTP2_STREAMS_AT_FIRST: usize = 50;

/// What a connection under way will probably take at once (RFC 9113 §6.5.2 recommends at least this): requests that wait
/// make it one dial for each so many.
pub const HTTP2_STREAMS_EXPECTED: usize = 100;

/// Most requests at once on one connection, whatever the origin allows. Beyond it another connection is made: one lost
/// segment holds up all that share a connection.
pub const HTTP2_STREAMS_MAX: usize = 256;

/// Most connections to one origin that a shard dials at once for its requests. Each brings room for many.
pub const HTTP2_DIALS_AT_ONCE: usize = 4;

/// Most shards that make a connection ahead because another one uses its origin. Beyond it a shard's first request waits
/// for its own; an origin gets no more connections for one request than this and one.
pub const HTTP2_SIBLINGS_MAX: usize = 7;

/// Most requests of a shard that wait for room on one origin's connections. Beyond it: 503.
pub const HTTP2_WAITING_MAX: usize = 16 * 1024;

/// Most frames without content (RFC 9113 §10.5) that an origin may send in a burst, and each second, beside those that
/// requests and their bodies call for. Beyond it the connection is closed. nghttpd and nginx stay below 10 a request.
pub const HTTP2_CONTROL_FRAMES_MAX: u32 = 1000;
pub const HTTP2_CONTROL_FRAMES_PER_SECOND: u32 = 50;

/// After this long an origin that chose HTTP/1.1 is asked again, once it has no idle connection.
pub const HTTP2_ASK_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Most times that a request goes out anew because the origin said that it did nothing with it (RFC 9113 §8.7). Beyond
/// it: 502. An origin that drains one connection after the other needs two or three.
pub const HTTP2_RESENDS_MAX: u32 = 8;

/// An origin that owes an answer and says nothing for this long is asked for a sign of life (PING); the pause is four
/// times as long after each sign. So is one that gets a request after this long without any.
pub const HTTP2_SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long the sign may take. Beyond it the connection is cut: what can be asked again goes to another one.
pub const HTTP2_PONG_WITHIN: Duration = Duration::from_secs(10);

/// How long the last frames of a connection may take to leave. Beyond it they are dropped.
pub const HTTP2_FAREWELL_WITHIN: Duration = Duration::from_secs(2);

/// How long the end of a response that the client already has whole may take. Beyond it the stream is reset.
pub const HTTP2_TAIL_WITHIN: Duration = Duration::from_secs(10);

// Names

/// Most names a shard waits for at once. Beyond it: 503. One for each in-flight first request to a new origin.
pub const LOOKUPS_PER_SHARD_MAX: usize = 1024;

/// Messages waiting for a shard. Larger than all look-ups that it can have under way, with room for signals.
pub const MAILBOX_MAX: usize = 4096;

/// Names that wait for the resolver's thread, of all shards. Beyond it: 503.
pub const LOOKUPS_WAITING_MAX: usize = 4096;

/// Look-ups under way at once in the process; further ones wait for their turn. Each has two sockets, and as many more
/// may wait for one family that is late: `DESCRIPTORS_RESERVED` has room for them.
pub const LOOKUPS_AT_ONCE: usize = 40;

/// How long one look-up may take, with all its servers and retries. Beyond it: 502. Go's resolver has the same order
/// of magnitude (5 s, two attempts).
pub const LOOKUP_WITHIN: Duration = Duration::from_secs(8);

/// Most addresses of one name that are used; further ones are left out.
pub const ADDRESSES_MAX: usize = 32;

/// What a TTL is clamped to: a TTL of 0 must not mean a look-up for each request, and a forgotten long one must not keep
/// an address forever.
pub const POSITIVE_TTL_MIN: Duration = Duration::from_secs(1);
pub const POSITIVE_TTL_MAX: Duration = Duration::from_secs(3600);

/// How long a name without address is not asked for again: as its zone says, within this. A name that comes to exist is
/// found within the larger.
pub const NEGATIVE_TTL_MIN: Duration = Duration::from_secs(1);
pub const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);

/// How long an entry of the hosts file is kept by a shard; the file says nothing of it.
pub const HOSTS_TTL: Duration = Duration::from_secs(5);

/// Names whose addresses a shard remembers, and as many the resolver's thread. Beyond it the one that was not used for
/// longest goes; its next request waits for a look-up.
pub const NAMES_CACHED_MAX: usize = 4096;

/// Most names a shard looks up ahead of their time at once. Beyond it they wait, and their old answers serve; the other
/// places of `LOOKUPS_PER_SHARD_MAX` are for names that requests wait for.
pub const NAME_REFRESHES_MAX: usize = 256;

/// How long before its end an answer is asked for anew, or a quarter of its TTL if that is less. A look-up takes less;
/// where it takes more, the old answer serves meanwhile.
pub const NAME_REFRESH_AHEAD: Duration = Duration::from_secs(2);

/// How long a name is kept fresh after its last use: this for each use it has seen, up to the larger; also for as long as
/// the shard has connections to it. A name seen once does not cost look-ups for an hour.
pub const NAME_FRESH_PER_USE: Duration = Duration::from_secs(60);
pub const NAME_FRESH_MAX: Duration = Duration::from_secs(3600);

/// How long after its end an answer is still used while a new one is asked for. Beyond it a request waits for the new
/// one. Covers the slowest look-up (`LOOKUP_WITHIN`) of a name that is kept fresh.
pub const NAME_EXPIRED_USED_FOR: Duration = Duration::from_secs(60);

/// How long addresses are used while no name server answers for them. Beyond it: 502. RFC 8767 §5 allows 1 to 3 days;
/// but clouds give addresses to others within hours, and an http origin does not prove who it is.
pub const NAME_STALE_MAX: Duration = Duration::from_secs(6 * 3600);

/// When a name is asked for again that name servers failed for, or did not answer for in time, while older addresses
/// serve. RFC 8767 §5 asks for 30 s between attempts at least of resolvers that serve many; this is one client.
pub const NAME_RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long the addresses of one family wait for those of the other (RFC 8305 §3). Then they are used alone; a name server
/// that drops AAAA questions costs no more than this, once.
pub const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Least time between two lines that say that old addresses are used, so that a name server's failure is one line and
/// not one for each name.
pub const NAME_REPORT_EVERY: Duration = Duration::from_secs(10);

/// How often the name of `--upstream` is looked up at least; more often where its TTL is shorter. As chocon, whose users
/// count on it where they move a service.
pub const FIXED_REFRESH_EVERY: Duration = Duration::from_secs(3);

// Addresses

/// After an attempt to connect has been under way for this long, the next address is tried beside it (RFC 8305 §5 and
/// §8: 250 ms recommended). The first that answers is used, the others are closed.
pub const CONNECT_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Most attempts of one dial at a time. Beyond it the oldest is given up, 1.5 s or more after its SYN: longer than the
/// first retransmission of it (RFC 6298 §2: 1 s).
pub const CONNECT_ATTEMPTS_MAX: usize = 6;

/// How long an address that failed is put aside: as long as it takes an origin to restart, doubled for each failure in
/// a row. Others of the name are dialled meanwhile; where all are aside they are dialled all the same. At the end of its
/// time it is tried in the background, so that no request is the probe.
pub const ADDRESS_ASIDE_MIN: Duration = Duration::from_secs(1);
pub const ADDRESS_ASIDE_MAX: Duration = Duration::from_secs(60);

/// How long the latency of an address holds that has no connection. Beyond it the address counts as unknown and gets
/// its turn again: what was slow may have been mended.
pub const ADDRESS_LATENCY_HOLDS: Duration = Duration::from_secs(60);

/// Of the last eight answers for a name, how many must have brought other addresses for it to count as one that rotates.
/// An origin that moves changes once, or once there and once back; large services (S3, DynamoDB) name a few of their many
/// addresses in each answer.
pub const ROTATION_CHANGES: u32 = 3;

/// How long an address of a name that rotates is used after the last answer that had it. Beyond it its connections are
/// retired. Without this, warm connections to such services would live for one TTL, which is 5 s.
pub const ROTATION_KEPT_FOR: Duration = Duration::from_secs(600);

// Warmth

/// Most `--warm` flags; more are refused at the start. Such origins are never forgotten, so they must stay few against
/// `ORIGINS_MAX`.
pub const WARM_ORIGINS_MAX: usize = 256;

/// Most connections to one origin that `--warm` takes; more are refused at the start. One shard keeps them, so they must
/// stay few against `IDLE_PER_SHARD_MAX`.
pub const WARM_CONNECTIONS_MAX: usize = 1024;

/// Half-life of what an origin is remembered to need at once. A burst's connections are kept through the pauses of a
/// working hour, and given up by half each ten minutes; a single one is kept for ten minutes.
pub const DEMAND_HALF_LIFE: Duration = Duration::from_secs(600);

/// Requests after which an origin's demand counts. One that was asked once has its idle connection, and no more.
pub const DEMAND_LEARNED_AFTER: u32 = 2;

/// Connections that are kept ready for learned origins, of all shards together. Beyond it further origins get none until
/// others are forgotten; those of `--warm` are not counted. A tenth of a default limit of descriptors, and a handshake
/// each some seconds where origins close early.
pub const FLOOR_LEARNED_MAX: usize = 1024;

/// Most dials for an origin's floor in a second. A burst's sixteen connections are back in a second; an origin sees no
/// more than that of a proxy without requests.
pub const FLOOR_DIALS_PER_SECOND: u32 = 16;

/// Pause after a floor's dial failed, doubled with each failure in a row. As for addresses that fail.
pub const FLOOR_BACKOFF_MIN: Duration = Duration::from_secs(1);
pub const FLOOR_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// How much of a shard's origin connections, in percent, may be open for a floor to make further ones: requests come
/// first.
pub const FLOOR_OPEN_PERCENT_MAX: usize = 75;

/// Least time before a connection has to be retired at which its replacement is made, and least part of a second that
/// the replacement is granted beyond what dials take.
pub const FLOOR_REPLACE_AHEAD: Duration = Duration::from_millis(250);

/// Idle connections that origins closed sooner than this teach no limit: it was a restart or a refusal. A floor that sees
/// its new connections closed so soon makes its pauses longer instead.
pub const IDLE_LIMIT_LEARNED_MIN: Duration = Duration::from_millis(500);

/// Least time between the end of a connection's use and the origin's close of it: two looks of the sweeper and some.
pub const IDLE_LIMIT_MARGIN_MIN: Duration = Duration::from_millis(250);

/// Longest `Keep-Alive: timeout=` that is believed. A longer one says nothing: no connection is idle for an hour.
pub const IDLE_LIMIT_TOLD_MAX: Duration = Duration::from_secs(3600);

/// How often a learned limit is measured anew, with a connection that carries no request meanwhile: origins change their
/// configuration about as seldom as this is often.
pub const IDLE_LIMIT_PROBE_EVERY: Duration = Duration::from_secs(600);

// Time

/// How often a shard looks at its deadlines. A deadline is met up to this much late, never early.
pub const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// An exchange older than this is watched for a client that went away. Faster ones are over before it would help,
/// and are not charged for it.
pub const WATCH_CLIENT_AFTER: Duration = Duration::from_secs(1);

/// After the last byte of an answer to a request that was not read to its end, how long the rest is read and thrown
/// away so that the client can read the answer (RFC 9112 §9.6), and the longest pause in between.
pub const LINGER_TOTAL: Duration = Duration::from_secs(30);
pub const LINGER_PAUSE: Duration = Duration::from_secs(2);

/// How long a client may take to accept an answer made by the proxy itself. Beyond it: reset.
pub const OWN_ANSWER_WITHIN: Duration = Duration::from_secs(5);

// Sockets to the origins

/// TCP keep-alive, of origins and of clients: a probe after this time without traffic. Below the 350 s after which NAT gateways and load balancers
/// of clouds forget a flow, and below the 60 s of stricter firewalls; chocon has the same 30 s.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Time between probes that are not answered; `TCP_USER_TIMEOUT` ends their series. Short, so that a lost probe is not
/// taken for a dead path, nor a dead path for a lost probe.
pub const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long data or probes may go unacknowledged, or an origin keep its window shut, before the kernel gives the
/// connection up (tcp(7), RFC 5482). The request under way sees a reset (502, or a visible cut); an idle connection is
/// found dead. Without it: 15 retransmissions, 15 minutes and more. 60 s is what nginx grants a peer that does not read.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes that wait unsent in a socket's send buffer before a send waits (tcp(7), `TCP_NOTSENT_LOWAT`). What counts
/// is in flight; a longer queue only holds memory (up to 4 MiB a connection) and hides back-pressure. Two body reads, so
/// that one is on its way while the next is made.
pub const TCP_NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;

// Flags

/// Longest duration a flag takes; a longer one is refused at the start. Far beyond any use, yet
/// small enough that a deadline (now + duration) never overflows a clock.
pub const FLAG_DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Most shards `--cores` takes; more are refused at the start. Each has a thread, a ring and a
/// listener, and the largest hosts to date have fewer CPUs than this.
pub const SHARDS_MAX: usize = 1024;

/// Most connections per origin that `--keepalive-conns` and `--max-conns-per-host` take; more are refused at the start.
/// Each is a descriptor, and Linux gives a process at most 1,048,576 of them (`fs.nr_open`).
pub const KEEPALIVE_CONNS_MAX: usize = 1_000_000;

/// Most `--allow-cidr` flags; more are refused at the start. The list is walked at every dial.
pub const ALLOW_CIDRS_MAX: usize = 256;

/// Longest `--access-log-rotate-time`, in minutes (ten years), and most `--access-log-rotate`; more
/// are refused at the start. Far beyond any use, and their product still fits in a clock.
pub const LOG_ROTATE_MINUTES_MAX: usize = 5_256_000;
pub const LOG_ROTATIONS_KEPT_MAX: usize = 1_000_000;

/// Most `--map`, `--upgrade-https` and `--forward` flags, of each; more are refused at the start. The lists are walked
/// for each authority that a shard does not know yet.
pub const RULES_MAX: usize = 256;

/// Most `--dns-server` flags; more are refused at the start. resolv.conf(5) takes three.
pub const DNS_SERVERS_MAX: usize = 8;

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

/// Most samples that `--stsize` takes; more are refused at the start. Each is 16 bytes on each shard;
/// the percentiles of a million take the thread that makes them about 30 ms.
pub const SAMPLES_KEPT_MAX: usize = 1_000_000;

/// Largest `--spfactor`; a larger one is refused at the start. One request in a million is as good as
/// none.
pub const SAMPLED_ONE_IN_MAX: usize = 1_000_000;

/// Longest latency that is told apart, in microseconds (one hour); a longer one counts as this.
/// It bounds a histogram to 23 blocks of 1,024 counts of 8 bytes, 184 KiB.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Longest name of a `.hgrm` file without its ending, in bytes; a longer one is cut and told apart
/// by a hash. Leaves room for ending and temporary name below the 255 bytes of `NAME_MAX`.
pub const HGRM_NAME_BYTES_MAX: usize = 200;
