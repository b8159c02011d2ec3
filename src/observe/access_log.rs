//! The access log: one JSON line a request in chocon's keys, order and formats; and one line on
//! stderr for each request that the proxy could not serve.
//!
//! A shard owns one `LogSink`. A record is appended to the shard's batch and nothing else: no
//! queue, no lock, and no allocation while the batch has room. The batch goes to the writer when
//! it holds `LOG_BATCH_BYTES`, and at [`LogSink::flush`], which the shard calls every 100 ms; so a
//! line comes out at most that much later than its request ended.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::Duration;

use crate::config::AccessLogTo;
use crate::limits::{LOG_BATCH_BYTES, LOG_BATCH_SLACK_BYTES};
use crate::observe::json::{append_f64, append_seconds, append_string, append_u64};
use crate::observe::local_time::Stamp;
use crate::observe::writer::{Destination, Stream, WriterHandle};

/// What one request leaves in the access log. All bytes are as the peer sent them.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When its first byte came, in microseconds since the Unix epoch.
    pub started_unix_us: i64,
    /// The client, without its port.
    pub remote_addr: IpAddr,
    pub method: &'a [u8],
    /// The target's path without the query, not yet percent-decoded.
    pub path: &'a [u8],
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
    stamps: Stamps,
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
    /// The sink of one shard. The first in a process may read the zone's file; make it before
    /// serving. Where `to` says stdout, `writer` must have it open.
    pub fn new(writer: WriterHandle, to: AccessLogTo) -> LogSink {
        let access = match to {
            AccessLogTo::Stderr => Some(Batch::new(Destination::Stderr, Stream::AccessLog)),
            AccessLogTo::Stdout => Some(Batch::new(Destination::Stdout, Stream::AccessLog)),
            AccessLogTo::Off => None,
        };
        let errors = Batch::new(Destination::Stderr, Stream::ProxyErrors);
        LogSink { writer, access, errors, stamps: Stamps::new(), decoded: Vec::new() }
    }

    /// Whether access-log lines go anywhere; if not, a caller may spare itself the making of a
    /// record.
    pub fn enabled(&self) -> bool {
        self.access.is_some()
    }

    /// Takes one request down (chocon: accesslog.WrapHandleFunc).
    pub fn record(&mut self, record: &Record<'_>) {
        let Some(batch) = &mut self.access else {
            return;
        };
        let out = batch.start_line();
        out.extend_from_slice(br#"{"time":""#);
        let second = record.started_unix_us.div_euclid(1_000_000);
        // Zone names are letters, digits and signs: nothing to escape.
        out.extend_from_slice(self.stamps.of(second));
        out.extend_from_slice(br#"","remote_addr":""#);
        append_ip(out, record.remote_addr);
        out.extend_from_slice(br#"","method":"#);
        append_string(out, record.method);
        out.extend_from_slice(br#","uri":"#);
        append_string(out, percent_decoded(record.path, &mut self.decoded));
        out.extend_from_slice(br#","status":"#);
        append_u64(out, u64::from(record.status));
        out.extend_from_slice(br#","size":"#);
        append_u64(out, record.size);
        out.extend_from_slice(br#","ua":"#);
        append_string(out, record.user_agent);
        out.extend_from_slice(br#","ptime":"#);
        append_seconds(out, record.duration);
        out.extend_from_slice(br#","host":"#);
        append_string(out, record.host);
        out.extend_from_slice(br#","chocon_req":"#);
        append_string(out, record.id);
        out.extend_from_slice(b"}\n");
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

/// The stamps of the last seconds seen. Records come in the order of their ends but carry their
/// starts, so neighbours differ by some seconds to and fro; one stamp would be made anew each time.
#[derive(Debug)]
struct Stamps([(i64, Stamp); STAMPS]);

/// Seconds kept; a power of two.
const STAMPS: usize = 8;

impl Stamps {
    fn new() -> Stamps {
        let epoch = Stamp::new(0);
        // The second 0 is kept right in its own place; in the others it is never looked for.
        Stamps([(0, epoch); STAMPS])
    }

    fn of(&mut self, second: i64) -> &[u8] {
        let place = &mut self.0[second.rem_euclid(STAMPS as i64) as usize];
        if place.0 != second {
            *place = (second, Stamp::new(second));
        }
        place.1.as_bytes()
    }
}

/// Appends an address as Go's RemoteAddr without its port has it: IPv6 in brackets, and an IPv4
/// client of an IPv6 socket as IPv4 (chocon: cuts at the last colon).
fn append_ip(out: &mut Vec<u8>, addr: IpAddr) {
    match addr.to_canonical() {
        IpAddr::V4(addr) => {
            for (position, octet) in addr.octets().into_iter().enumerate() {
                if position > 0 {
                    out.push(b'.');
                }
                append_u64(out, u64::from(octet));
            }
        }
        IpAddr::V6(addr) => {
            use std::io::Write;
            write!(out, "[{addr}]").expect("a Vec takes every write");
        }
    }
}

/// The path with its `%xx` decoded, for chocon logs Go's URL.Path, which is. Go refuses a request
/// with a `%` that two hex digits do not follow; here it stays as it is.
fn percent_decoded<'a>(path: &'a [u8], decoded: &'a mut Vec<u8>) -> &'a [u8] {
    if !path.contains(&b'%') {
        return path;
    }
    let hex = |byte: u8| char::from(byte).to_digit(16);
    decoded.clear();
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        rest = match tail {
            [high, low, tail @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push((high << 4 | low) as u8); // Two hex digits: at most 255.
                    tail
                }
                _not_hex => {
                    decoded.push(b'%');
                    rest.get(1..).unwrap_or_default()
                }
            },
            tail => {
                decoded.push(*first);
                tail
            }
        };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::writer::{Writer, tests::Sink};

    const RECORD: Record<'static> = Record {
        started_unix_us: 1_795_482_123_456_789,
        remote_addr: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        method: b"GET",
        path: b"/small",
        status: 200,
        size: 2,
        user_agent: b"curl/7.88.1",
        duration: Duration::from_nanos(885_780),
        host: b"127.0.0.1.ccnproxy:9001",
        id: b"dc27s1hksdu8cno2j5lg",
    };

    const ERROR: ErrorRecord<'static> = ErrorRecord {
        at_unix_us: 1_795_482_123_456_789,
        request_host: b"example.com.ccnproxy-https",
        request_path: b"/a%20b",
        proxy_host: b"example.com",
        proxy_scheme: "https",
        proxy_id: b"dc27s1hksdu8cno2j5lg",
        error: "connect to \"192.0.2.1:443\": refused",
        phase: "connect",
        party: "origin",
    };

    /// What a sink for `to` puts on stderr and stdout while `f` uses it.
    fn written(to: AccessLogTo, f: impl FnOnce(&mut LogSink)) -> (String, String) {
        let (stderr, stdout) = (Sink::open(), Sink::open());
        let writer = Writer::start_on(Box::new(stderr.clone()), Some(Box::new(stdout.clone())))
            .expect("threads");
        let mut sink = LogSink::new(writer.handle(), to);
        f(&mut sink);
        assert_eq!(writer.finish(Duration::from_secs(20)), 0);
        (stderr.text(), stdout.text())
    }

    fn line(record: &Record<'_>) -> String {
        let (stderr, _) = written(AccessLogTo::Stderr, |sink| {
            sink.record(record);
            sink.flush();
        });
        stderr
    }

    #[test]
    fn a_request_is_written_in_chocons_keys_order_and_formats() {
        let stamp = Stamp::new(1_795_482_123);
        let time = std::str::from_utf8(stamp.as_bytes()).expect("ASCII");
        let expected = [
            r#"{"time":""#,
            time,
            r#"","remote_addr":"127.0.0.1","method":"GET","uri":"/small","status":200,"size":2,"#,
            r#""ua":"curl/7.88.1","ptime":0.00088578,"host":"127.0.0.1.ccnproxy:9001","#,
            r#""chocon_req":"dc27s1hksdu8cno2j5lg"}"#,
            "\n",
        ];
        assert_eq!(line(&RECORD), expected.concat());
    }

    #[test]
    fn peer_bytes_cannot_break_the_line() {
        let record = Record { path: b"/a%0a\"%zz%4", user_agent: b"\xff\"\\", ..RECORD };
        let line = line(&record);
        assert!(line.contains(r#""uri":"/a\n\"%zz%4""#), "{line}");
        assert!(line.contains(r#""ua":"\ufffd\"\\""#), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn addresses_look_as_in_gos_remote_addr() {
        for (addr, text) in [
            ("2001:db8::1", "[2001:db8::1]"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("255.100.9.0", "255.100.9.0"),
        ] {
            let record = Record { remote_addr: addr.parse().expect("an address"), ..RECORD };
            let line = line(&record);
            assert!(line.contains(&format!(r#""remote_addr":"{text}""#)), "{line}");
        }
    }

    #[test]
    fn a_failed_request_goes_to_stderr_wherever_the_access_log_goes() {
        let expected = concat!(
            r#"{"level":"error","ts":1795482123.456789,"msg":"ErrorFromProxy","#,
            r#""request_host":"example.com.ccnproxy-https","request_path":"/a b","#,
            r#""proxy_host":"example.com","proxy_scheme":"https","#,
            r#""proxy_id":"dc27s1hksdu8cno2j5lg","#,
            r#""error":"connect to \"192.0.2.1:443\": refused","#,
            r#""phase":"connect","party":"origin"}"#,
            "\n"
        );
        for to in [AccessLogTo::Off, AccessLogTo::Stdout, AccessLogTo::Stderr] {
            let (stderr, stdout) = written(to, |sink| {
                sink.error(&ERROR);
                sink.flush();
            });
            assert_eq!((stderr.as_str(), stdout.as_str()), (expected, ""));
        }
    }

    #[test]
    fn stdout_and_off_are_obeyed() {
        let use_it = |sink: &mut LogSink| {
            sink.record(&RECORD);
            sink.flush();
        };
        let (stderr, stdout) = written(AccessLogTo::Stdout, use_it);
        assert_eq!((stderr.len(), stdout.lines().count()), (0, 1));
        let (stderr, stdout) = written(AccessLogTo::Off, |sink| {
            assert!(!sink.enabled());
            use_it(sink);
        });
        assert_eq!((stderr.len(), stdout.len()), (0, 0));
    }

    #[test]
    fn lines_leave_at_a_full_batch_or_at_a_flush_and_not_before() {
        let mut lines = 0;
        let (stderr, _) = written(AccessLogTo::Stderr, |sink| {
            while sink.access.as_ref().is_some_and(|batch| batch.lines == lines) {
                lines += 1;
                sink.record(&RECORD);
            }
            assert!(lines > 50, "{lines} lines made a batch");
            sink.record(&RECORD); // Not flushed: does not come out.
        });
        assert_eq!(stderr.lines().count() as u64, lines);
        assert!(stderr.len() >= LOG_BATCH_BYTES);
    }

    #[test]
    fn stamps_of_seconds_to_and_fro_are_right() {
        let mut stamps = Stamps::new();
        for second in [0, 8, 0, 1_795_482_123, 1_795_482_115, 1_795_482_123, -1, 7] {
            assert_eq!(stamps.of(second), Stamp::new(second).as_bytes());
        }
    }
}
