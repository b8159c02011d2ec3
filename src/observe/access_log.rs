//! The access log: one line a request, in the format asked for; and one line on stderr for each
//! request that the proxy could not serve.
//!
//! A shard owns one `LogSink`. A record is appended to the shard's batch and nothing else: no
//! queue, no lock, and no allocation while the batch has room. The batch goes to the writer when
//! it holds `LOG_BATCH_BYTES`, and at [`LogSink::flush`], which the shard calls every 100 ms; so a
//! line comes out at most that much later than its request ended.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{AccessLogTo, LogFormat};
use crate::error::{Party, Phase};
use crate::http1::head::Version;
use crate::limits::{LOG_BATCH_BYTES, LOG_BATCH_SLACK_BYTES};
use crate::observe::json::{append_f64, append_string};
use crate::observe::latency::{Acquired, Cost};
use crate::observe::line::{Lines, percent_decoded};
use crate::observe::writer::{Destination, Stream, WriterHandle};

/// What one request leaves in the access log. All bytes are as the peer sent them.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When its first byte came, in microseconds since the Unix epoch.
    pub started_unix_us: i64,
    /// The client.
    pub peer: SocketAddr,
    /// Empty if the request could not be read; so are the other parts of its head.
    pub method: &'a [u8],
    /// The request target, whole.
    pub target: &'a [u8],
    /// The target's path without the query, not yet percent-decoded.
    pub path: &'a [u8],
    pub version: Version,
    pub status: u16,
    /// Bytes of the response's body sent to the client.
    pub size: u64,
    /// The field User-Agent; empty if there was none.
    pub user_agent: &'a [u8],
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// The field Host as the client sent it.
    pub host: &'a [u8],
    /// X-Chocon-Id.
    pub id: &'a [u8],
    pub course: Course,
}

/// How a request was served. A duration that was not reached is None.
#[derive(Clone, Copy, Debug, Default)]
pub struct Course {
    /// How often an origin's connection was asked for: 2 if the request was sent again.
    pub attempts: u32,
    /// The connection it was sent on last; None: it got none.
    pub connection: Option<ConnectionFacts>,
    /// From the last byte of the request sent to the first of the response; None also if the response
    /// came before the request was sent whole.
    pub first_byte: Option<Duration>,
    /// From the first byte of the response received to the last sent.
    pub body: Option<Duration>,
    /// Who ended it before its end, and what was going on; None: it came to its end.
    pub ended_by: Option<(Party, Phase)>,
}

/// What there is to say of an origin's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionFacts {
    pub origin: SocketAddr,
    pub acquired: Acquired,
    pub cost: Cost,
    pub protocol: Protocol,
    /// None: it is not encrypted.
    pub tls: Option<TlsFacts>,
}

/// What is spoken to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http11,
    Http2,
}

impl Protocol {
    /// In the access log; as ALPN names it (RFC 7301).
    pub fn word(self) -> &'static str {
        match self {
            Protocol::Http11 => "http/1.1",
            Protocol::Http2 => "h2",
        }
    }
}

/// The outcome of a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// As people write it: `TLSv1.3`.
    pub version: &'static str,
    /// An earlier session was taken up.
    pub resumed: bool,
}

/// What one failed request leaves on stderr. All bytes are as the peer sent them.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRecord<'a> {
    /// When it failed, in microseconds since the Unix epoch.
    pub at_unix_us: i64,
    /// The field Host as the client sent it.
    pub request_host: &'a [u8],
    /// The target's path without the query, not yet percent-decoded.
    pub request_path: &'a [u8],
    /// The origin, `name` or `name:port`.
    pub proxy_host: &'a [u8],
    /// `http` or `https`.
    pub proxy_scheme: &'a str,
    /// X-Chocon-Id.
    pub proxy_id: &'a [u8],
    /// The cause in words.
    pub error: &'a str,
    /// The phase in which it failed: dns, connect, tls, wait, ...
    pub phase: &'a str,
    /// Whose fault it was: client, origin, ...
    pub party: &'a str,
}

/// One shard's way to the logs.
#[derive(Debug)]
pub struct LogSink {
    writer: WriterHandle,
    /// Where access-log lines go; None: nowhere, and they are not even made.
    access: Option<Batch>,
    errors: Batch,
    lines: Lines,
    /// Room to decode one path; as long as the longest that had a `%`.
    decoded: Vec<u8>,
}

#[derive(Debug)]
struct Batch {
    to: Destination,
    stream: Stream,
    bytes: Vec<u8>,
    lines: u64,
}

impl LogSink {
    /// The sink of shard number `shard`. The first in a process may read the zone's file; make it
    /// before serving. Where `to` says stdout or files, `writer` must have them open.
    pub fn new(writer: WriterHandle, to: &AccessLogTo, format: LogFormat, shard: usize) -> LogSink {
        let batch = |to| Some(Batch::new(to, Stream::AccessLog));
        let access = match to {
            AccessLogTo::Stderr => batch(Destination::Stderr),
            AccessLogTo::Stdout | AccessLogTo::Directory(_) => batch(Destination::AccessLog),
            AccessLogTo::Off => None,
        };
        let errors = Batch::new(Destination::Stderr, Stream::ProxyErrors);
        let lines = Lines::new(format, shard);
        LogSink { writer, access, errors, lines, decoded: Vec::new() }
    }

    /// Whether access-log lines go anywhere; if not, a caller may spare itself the making of a
    /// record.
    pub fn enabled(&self) -> bool {
        self.access.is_some()
    }

    /// Takes one request down.
    pub fn record(&mut self, record: &Record<'_>) {
        let Some(batch) = &mut self.access else {
            return;
        };
        self.lines.append(batch.start_line(), record);
        batch.hand_over_if_full(&self.writer);
    }

    /// Takes one failed request down, whatever the access log is set to (chocon: the proxy's
    /// "ErrorFromProxy" lines; `phase` and `party` are ours).
    pub fn error(&mut self, record: &ErrorRecord<'_>) {
        let out = self.errors.start_line();
        out.extend_from_slice(br#"{"level":"error","ts":"#);
        append_f64(out, record.at_unix_us as f64 / 1e6);
        out.extend_from_slice(br#","msg":"ErrorFromProxy","request_host":"#);
        append_string(out, record.request_host);
        out.extend_from_slice(br#","request_path":"#);
        append_string(out, percent_decoded(record.request_path, &mut self.decoded));
        out.extend_from_slice(br#","proxy_host":"#);
        append_string(out, record.proxy_host);
        out.extend_from_slice(br#","proxy_scheme":"#);
        append_string(out, record.proxy_scheme.as_bytes());
        out.extend_from_slice(br#","proxy_id":"#);
        append_string(out, record.proxy_id);
        out.extend_from_slice(br#","error":"#);
        append_string(out, record.error.as_bytes());
        out.extend_from_slice(br#","phase":"#);
        append_string(out, record.phase.as_bytes());
        out.extend_from_slice(br#","party":"#);
        append_string(out, record.party.as_bytes());
        out.extend_from_slice(b"}\n");
        self.errors.hand_over_if_full(&self.writer);
    }

    /// Hands all gathered lines to the writer. Never waits.
    pub fn flush(&mut self) {
        if let Some(batch) = &mut self.access {
            batch.hand_over(&self.writer);
        }
        self.errors.hand_over(&self.writer);
    }
}

impl Batch {
    fn new(to: Destination, stream: Stream) -> Batch {
        Batch { to, stream, bytes: Vec::new(), lines: 0 }
    }

    /// Where to append one line.
    fn start_line(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(LOG_BATCH_BYTES + LOG_BATCH_SLACK_BYTES);
        }
        self.lines += 1;
        &mut self.bytes
    }

    fn hand_over_if_full(&mut self, writer: &WriterHandle) {
        if self.bytes.len() >= LOG_BATCH_BYTES {
            self.hand_over(writer);
        }
    }

    fn hand_over(&mut self, writer: &WriterHandle) {
        if self.lines == 0 {
            return;
        }
        let bytes = if self.bytes.len() >= LOG_BATCH_BYTES {
            std::mem::take(&mut self.bytes)
        } else {
            // A small batch is copied to its size, so that waiting ones hold what they say.
            let copy = self.bytes.clone();
            self.bytes.clear();
            copy
        };
        writer.send(self.to, self.stream, bytes, self.lines);
        self.lines = 0;
    }
}

#[cfg(test)]
mod tests;
