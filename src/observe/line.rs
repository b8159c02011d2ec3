//! One access-log line in each format, from a record. Whatever bytes a peer sent, a line stays one
//! line, and each value ends where its format says.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::LogFormat;
use crate::http1::head::Version;
use crate::observe::access_log::{Course, Record};
use crate::observe::escape::{append_ltsv, append_quoted};
use crate::observe::json::{append_seconds, append_string, append_u64};
use crate::observe::local_time::{Layout, Stamp};

/// Makes the lines of one shard.
#[derive(Debug)]
pub struct Lines {
    format: LogFormat,
    shard: usize,
    stamps: Stamps,
    /// Room to decode one path; as long as the longest that had a `%`.
    decoded: Vec<u8>,
}

impl Lines {
    pub fn new(format: LogFormat, shard: usize) -> Lines {
        let layout = match format {
            LogFormat::Json | LogFormat::JsonPlus => Layout::Slashes,
            LogFormat::Apache | LogFormat::Ltsv => Layout::Common,
        };
        Lines { format, shard, stamps: Stamps::new(layout), decoded: Vec::new() }
    }

    /// Appends the line of one request, with its end.
    pub fn append(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        match self.format {
            LogFormat::Json => self.append_json(out, record),
            LogFormat::JsonPlus => {
                self.append_json(out, record);
                self.append_course(out, &record.course);
            }
            LogFormat::Apache => self.append_apache(out, record),
            LogFormat::Ltsv => self.append_ltsv(out, record),
        }
        if matches!(self.format, LogFormat::Json | LogFormat::JsonPlus) {
            out.push(b'}');
        }
        out.push(b'\n');
    }

    fn stamp_of(&mut self, record: &Record<'_>) -> &[u8] {
        self.stamps.of(record.started_unix_us.div_euclid(1_000_000))
    }

    /// chocon's keys, in its order and formats, without the last brace (chocon:
    /// accesslog.WrapHandleFunc).
    fn append_json(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        out.extend_from_slice(br#"{"time":""#);
        // Zone names are letters, digits and signs: nothing to escape.
        out.extend_from_slice(self.stamp_of(record));
        out.extend_from_slice(br#"","remote_addr":""#);
        append_ip(out, record.peer.ip());
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
    }

    /// What `json+` has behind chocon's keys.
    fn append_course(&self, out: &mut Vec<u8>, course: &Course) {
        let Course { attempts, connection, first_byte, body, ended_by } = *course;
        out.extend_from_slice(br#","origin":""#);
        match connection {
            Some(facts) => append_address(out, facts.origin),
            None => out.push(b'-'),
        }
        append_word(out, "conn", connection.map(|facts| facts.acquired.word()));
        append_word(out, "proto", connection.map(|facts| facts.protocol.word()));
        let tls = connection.and_then(|facts| facts.tls);
        append_word(out, "tls", tls.map(|tls| tls.version));
        out.extend_from_slice(br#"","tls_resumed":"#);
        let resumed = tls.is_some_and(|tls| tls.resumed);
        out.extend_from_slice(if resumed { b"true" } else { b"false" });
        out.extend_from_slice(br#","attempts":"#);
        append_u64(out, u64::from(attempts));
        let cost = connection.map(|facts| facts.cost);
        append_ms(out, "dns_ms", cost.map(|cost| cost.dns));
        append_ms(out, "connect_ms", cost.map(|cost| cost.connect));
        append_ms(out, "tls_ms", cost.map(|cost| cost.tls));
        append_ms(out, "wait_ms", cost.map(|cost| cost.wait));
        append_ms(out, "first_byte_ms", first_byte);
        append_ms(out, "body_ms", body);
        out.extend_from_slice(br#","shard":"#);
        append_u64(out, self.shard as u64);
        out.extend_from_slice(br#","ended_by":""#);
        match ended_by {
            Some((party, phase)) => {
                out.extend_from_slice(party.word().as_bytes());
                out.push(b'/');
                out.extend_from_slice(phase.word().as_bytes());
            }
            None => out.push(b'-'),
        }
        out.push(b'"');
    }

    /// chocon's line before it wrote JSON: `%h %l %u %t "%r" %>s %b "%v"`, the seconds and the id.
    /// It meant `%T.%{msec_frac}t` for the seconds; the fraction it wrote was not theirs, ours is.
    fn append_apache(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        append_address(out, record.peer);
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(self.stamp_of(record));
        out.extend_from_slice(b"] \"");
        if record.method.is_empty() {
            out.push(b'-');
        } else {
            append_quoted(out, record.method);
            out.push(b' ');
            append_quoted(out, record.target);
            out.push(b' ');
            out.extend_from_slice(version(record.version));
        }
        out.extend_from_slice(b"\" ");
        append_u64(out, u64::from(record.status));
        out.push(b' ');
        // Apache's %b: no bytes are a dash.
        match record.size {
            0 => out.push(b'-'),
            size => append_u64(out, size),
        }
        out.extend_from_slice(b" \"");
        append_quoted(out, or_dash(record.host));
        let (secs, micros) = (record.duration.as_secs(), record.duration.subsec_micros());
        write!(out, "\" {secs}.{micros:06} ").expect("a Vec takes every write");
        append_ltsv(out, or_dash(record.id));
    }

    /// Labels as ltsv.org recommends them, where it has one for the value.
    fn append_ltsv(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        out.extend_from_slice(b"time:[");
        out.extend_from_slice(self.stamp_of(record));
        out.extend_from_slice(b"]\thost:");
        append_ip(out, record.peer.ip());
        append_label(out, "method", record.method);
        append_label(out, "uri", record.path);
        let is_read = !record.method.is_empty();
        append_label(out, "protocol", if is_read { version(record.version) } else { b"" });
        out.extend_from_slice(b"\tstatus:");
        append_u64(out, u64::from(record.status));
        out.extend_from_slice(b"\tsize:");
        append_u64(out, record.size);
        append_label(out, "ua", record.user_agent);
        append_label(out, "vhost", record.host);
        out.extend_from_slice(b"\treqtime:");
        append_seconds(out, record.duration);
        append_label(out, "chocon_req", record.id);
    }
}

fn version(version: Version) -> &'static [u8] {
    match version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
    }
}

fn or_dash(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { b"-" } else { bytes }
}

fn append_label(out: &mut Vec<u8>, label: &str, value: &[u8]) {
    out.push(b'\t');
    out.extend_from_slice(label.as_bytes());
    out.push(b':');
    append_ltsv(out, or_dash(value));
}

/// Ends the string before and begins the next; the value needs no escape.
fn append_word(out: &mut Vec<u8>, key: &str, word: Option<&'static str>) {
    out.extend_from_slice(b"\",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":\"");
    out.extend_from_slice(word.unwrap_or("-").as_bytes());
}

/// Milliseconds to the microsecond, or null.
fn append_ms(out: &mut Vec<u8>, key: &str, duration: Option<Duration>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    match duration {
        Some(duration) => {
            // 584,000 years of microseconds fit.
            let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            append_u64(out, us / 1000);
            out.push(b'.');
            let digit = |place: u64| b'0' + (us / place % 10) as u8;
            out.extend_from_slice(&[digit(100), digit(10), digit(1)]);
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// The stamps of the last seconds seen. Records come in the order of their ends but carry their
/// starts, so neighbours differ by some seconds to and fro; one stamp would be made anew each time.
#[derive(Debug)]
struct Stamps {
    layout: Layout,
    kept: [(i64, Stamp); STAMPS],
}

/// Seconds kept; a power of two.
const STAMPS: usize = 8;

impl Stamps {
    fn new(layout: Layout) -> Stamps {
        let epoch = Stamp::new(0, layout);
        // The second 0 is kept right in its own place; in the others it is never looked for.
        Stamps { layout, kept: [(0, epoch); STAMPS] }
    }

    fn of(&mut self, second: i64) -> &[u8] {
        let place = &mut self.kept[second.rem_euclid(STAMPS as i64) as usize];
        if place.0 != second {
            *place = (second, Stamp::new(second, self.layout));
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
            write!(out, "[{addr}]").expect("a Vec takes every write");
        }
    }
}

/// Appends an address with its port, as Go's RemoteAddr.
fn append_address(out: &mut Vec<u8>, addr: SocketAddr) {
    append_ip(out, addr.ip());
    out.push(b':');
    append_u64(out, u64::from(addr.port()));
}

/// The path with its `%xx` decoded, for chocon logs Go's URL.Path, which is. Go refuses a request
/// with a `%` that two hex digits do not follow; here it stays as it is.
pub fn percent_decoded<'a>(path: &'a [u8], decoded: &'a mut Vec<u8>) -> &'a [u8] {
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
pub(crate) mod tests;
