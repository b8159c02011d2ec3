//! One connection seen as bytes: buffered reading under a deadline, heads kept raw, strict bodies.
//!
//! Both sides of the proxy are read by this one parser. It accepts only what the proxy is meant to
//! emit: CRLF line ends, no chunk extensions, one framing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::proxy::SPAWNING;
use super::{DEADLINE, show};

/// A plain connection or one inside TLS.
pub enum Io {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ServerConnection, TcpStream>>),
}

impl Io {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Io::Plain(tcp) => tcp,
            Io::Tls(tls) => &tls.sock,
        }
    }
}

/// How reading came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The message was complete by its own framing.
    Complete,
    /// The peer closed in order (FIN; inside TLS also a FIN without close_notify).
    Eof,
    /// The peer reset the connection.
    Reset,
}

/// A head as it stood on the wire.
#[derive(Clone, Debug)]
pub struct Head {
    pub raw: Vec<u8>,
    pub start_line: String,
    /// Name and value in order, one `char` a byte, so that nothing is lost.
    pub fields: Vec<(String, String)>,
}

/// A decoded body and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub framing: Framing,
    pub ended: Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Absent,
    Fixed(u64),
    Chunked,
    ToClose,
}

impl Head {
    #[track_caller]
    pub fn parse(raw: &[u8]) -> Self {
        let text: String = raw.iter().map(|&byte| char::from(byte)).collect();
        let inner = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line");
        let mut lines = inner.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        assert!(!inner.replace("\r\n", "").contains(['\r', '\n']), "bare CR or LF: {}", show(raw));
        let fields = lines
            .map(|line| {
                let (name, value) =
                    line.split_once(':').unwrap_or_else(|| panic!("no colon: {line:?}"));
                assert!(!name.is_empty() && !name.contains([' ', '\t']), "bad field: {line:?}");
                (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
            })
            .collect();
        Self { raw: raw.to_vec(), start_line, fields }
    }

    /// The only value of `name`; panics if there are two.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times: {}", all.len(), show(&self.raw));
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Field lines as they stood, without those that the proxy adds by its contract.
    pub fn lines_of_the_peer(&self) -> Vec<String> {
        let text: String = self.raw.iter().map(|&byte| char::from(byte)).collect();
        text.trim_end_matches("\r\n")
            .split("\r\n")
            .skip(1)
            .filter(|line| !line.to_ascii_lowercase().starts_with("x-chocon-"))
            .map(str::to_owned)
            .collect()
    }

    /// Framing by RFC 9112 §6.3 once the exceptions by method and status are out of the way.
    #[track_caller]
    pub fn framing(&self, otherwise: Framing) -> Framing {
        let coded = self.all("Transfer-Encoding");
        let length = self.all("Content-Length");
        match (coded.as_slice(), length.as_slice()) {
            ([], []) => otherwise,
            (["chunked"], []) => Framing::Chunked,
            ([], [digits]) => Framing::Fixed(digits.parse().expect("Content-Length")),
            _ => panic!("ambiguous framing: {}", show(&self.raw)),
        }
    }
}

/// What one attempt to read brought.
enum Filled {
    Bytes,
    End(Ended),
    TimedOut,
}

pub struct Wire {
    /// Present until the end of this value.
    io: Option<Io>,
    /// For messages: "client", "origin connection 3".
    who: String,
    pending: Vec<u8>,
    /// Everything ever received, shared with whoever wants to look at it afterwards.
    record: Arc<Mutex<Vec<u8>>>,
    deadline: Duration,
}

impl Wire {
    pub fn new(io: Io, who: String, record: Arc<Mutex<Vec<u8>>>) -> Self {
        let tcp = io.tcp();
        tcp.set_nodelay(true).expect("nodelay");
        tcp.set_write_timeout(Some(DEADLINE)).expect("write time-out");
        Self { io: Some(io), who, pending: Vec::new(), record, deadline: DEADLINE }
    }

    pub fn io(&self) -> &Io {
        self.io.as_ref().expect("an open connection")
    }

    fn io_mut(&mut self) -> &mut Io {
        self.io.as_mut().expect("an open connection")
    }

    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
        self.io().tcp().set_write_timeout(Some(deadline)).expect("write time-out");
    }

    pub fn received(&self) -> Vec<u8> {
        self.record.lock().expect("record").clone()
    }

    pub fn take_pending(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_send(bytes) {
            self.fail(&format!("cannot send {} bytes: {error}", bytes.len()));
        }
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.io_mut() {
            Io::Plain(tcp) => tcp.write_all(bytes),
            Io::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    fn fill(&mut self, until: Instant) -> Filled {
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())
        else {
            return Filled::TimedOut;
        };
        self.io().tcp().set_read_timeout(Some(left)).expect("read time-out");
        let mut buf = [0; 16 * 1024];
        let read = match self.io_mut() {
            Io::Plain(tcp) => tcp.read(&mut buf),
            Io::Tls(tls) => tls.read(&mut buf),
        };
        match read {
            Ok(0) => Filled::End(Ended::Eof),
            Ok(len) => {
                self.pending.extend_from_slice(&buf[..len]);
                self.record.lock().expect("record").extend_from_slice(&buf[..len]);
                Filled::Bytes
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Filled::TimedOut,
                ErrorKind::Interrupted => Filled::Bytes,
                ErrorKind::UnexpectedEof => Filled::End(Ended::Eof),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Filled::End(Ended::Reset),
                _ => self.fail(&format!("cannot read: {error}")),
            },
        }
    }

    /// Whether a read would bring bytes, without waiting.
    pub fn has_bytes(&mut self) -> bool {
        if !self.pending.is_empty() {
            return true;
        }
        // What came with the last flight of the handshake is read already.
        if let Some(Io::Tls(tls)) = &mut self.io
            && tls.conn.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
        {
            return true;
        }
        let tcp = self.io().tcp();
        tcp.set_nonblocking(true).expect("nonblocking");
        let peeked = tcp.peek(&mut [0]);
        tcp.set_nonblocking(false).expect("blocking");
        peeked.is_ok()
    }

    /// Reads until `find` says how many pending bytes belong together.
    #[track_caller]
    fn take(
        &mut self,
        what: &str,
        find: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Vec<u8>, Ended> {
        let until = Instant::now() + self.deadline;
        loop {
            if let Some(len) = find(&self.pending) {
                return Ok(self.pending.drain(..len).collect());
            }
            match self.fill(until) {
                Filled::Bytes => {}
                Filled::End(ended) => return Err(ended),
                Filled::TimedOut => self.fail(&format!("no {what} within {:?}", self.deadline)),
            }
        }
    }

    /// The next head, or how the connection ended if it did so before a first byte.
    #[track_caller]
    pub fn try_read_head(&mut self) -> Result<Head, Ended> {
        match self.take("head", |bytes| find(bytes, b"\r\n\r\n").map(|at| at + 4)) {
            Ok(raw) => Ok(Head::parse(&raw)),
            Err(ended) if self.pending.is_empty() => Err(ended),
            Err(ended) => self.fail(&format!("{ended:?} within a head")),
        }
    }

    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        match self.try_read_head() {
            Ok(head) => head,
            Err(ended) => self.fail(&format!("{ended:?} instead of a head")),
        }
    }

    #[track_caller]
    pub fn read_exact(&mut self, len: usize) -> Vec<u8> {
        match self.take(&format!("{len} bytes"), |bytes| (bytes.len() >= len).then_some(len)) {
            Ok(bytes) => bytes,
            Err(ended) => self.fail(&format!("{ended:?} before {len} bytes")),
        }
    }

    /// As [`Wire::read_exact`], or `None` if the connection ends before that.
    #[track_caller]
    pub fn try_read_exact(&mut self, len: usize) -> Option<Vec<u8>> {
        self.take(&format!("{len} bytes"), |bytes| (bytes.len() >= len).then_some(len)).ok()
    }

    /// Everything up to and with `mark`.
    #[track_caller]
    pub fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        let find_mark = |bytes: &[u8]| find(bytes, mark).map(|at| at + mark.len());
        match self.take(&show(mark), find_mark) {
            Ok(bytes) => bytes,
            Err(ended) => self.fail(&format!("{ended:?} before {}", show(mark))),
        }
    }

    /// Reads and forgets `len` bytes in constant memory.
    #[track_caller]
    pub fn skip(&mut self, mut len: u64) {
        while len > 0 {
            if self.pending.is_empty() {
                match self.fill(Instant::now() + self.deadline) {
                    Filled::Bytes => self.record.lock().expect("record").clear(),
                    Filled::End(ended) => self.fail(&format!("{ended:?}, {len} bytes to go")),
                    Filled::TimedOut => self.fail(&format!("stalled, {len} bytes to go")),
                }
            }
            let step = self.pending.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            self.pending.drain(..step);
            len -= step as u64;
        }
    }

    #[track_caller]
    pub fn read_body(&mut self, framing: Framing) -> Body {
        let mut body = Body { bytes: vec![], trailers: vec![], framing, ended: Ended::Complete };
        match framing {
            Framing::Absent => {}
            Framing::Fixed(len) => {
                let len = usize::try_from(len).expect("a length that fits in memory");
                match self.take("body", |bytes| (bytes.len() >= len).then_some(len)) {
                    Ok(bytes) => body.bytes = bytes,
                    Err(ended) => self.cut(&mut body, ended),
                }
            }
            Framing::ToClose => match self.take("end of the body", |_| None) {
                Ok(_) => unreachable!("a close-delimited body has no other end"),
                Err(ended) => {
                    body.bytes = std::mem::take(&mut self.pending);
                    body.ended = if ended == Ended::Eof { Ended::Complete } else { ended };
                }
            },
            Framing::Chunked => self.read_chunks(&mut body),
        }
        body
    }

    #[track_caller]
    fn read_chunks(&mut self, body: &mut Body) {
        loop {
            let size = match self.read_line() {
                Ok(line) => parse_chunk_size(&line),
                Err(ended) => return self.cut(body, ended),
            };
            if size == 0 {
                break;
            }
            let len = size + 2;
            match self.take("chunk", |bytes| (bytes.len() >= len).then_some(len)) {
                Ok(mut chunk) => {
                    assert!(chunk.ends_with(b"\r\n"), "chunk of {size} without CRLF");
                    chunk.truncate(size);
                    body.bytes.extend_from_slice(&chunk);
                }
                Err(ended) => return self.cut(body, ended),
            }
        }
        loop {
            match self.read_line() {
                Ok(line) if line == "\r\n" => return,
                Ok(line) => {
                    let line = line.trim_end_matches("\r\n");
                    let (name, value) = line.split_once(':').expect("a trailer field");
                    body.trailers.push((name.to_owned(), value.trim().to_owned()));
                }
                Err(ended) => return self.cut(body, ended),
            }
        }
    }

    fn cut(&mut self, body: &mut Body, ended: Ended) {
        body.bytes.append(&mut self.pending);
        body.ended = ended;
    }

    #[track_caller]
    fn read_line(&mut self) -> Result<String, Ended> {
        self.take("line", |bytes| find(bytes, b"\r\n").map(|at| at + 2))
            .map(|line| line.iter().map(|&byte| char::from(byte)).collect())
    }

    /// Everything until the peer ends the connection, and how it did.
    #[track_caller]
    pub fn read_to_end(&mut self) -> (Vec<u8>, Ended) {
        match self.take("end of the connection", |_| None) {
            Ok(_) => unreachable!("no amount of bytes is the end"),
            Err(ended) => (std::mem::take(&mut self.pending), ended),
        }
    }

    /// The peer ends the connection within `deadline` and sends nothing before that.
    #[track_caller]
    pub fn expect_end(&mut self, deadline: Duration) -> Ended {
        let before = std::mem::replace(&mut self.deadline, deadline);
        let (bytes, ended) = self.read_to_end();
        self.deadline = before;
        if !bytes.is_empty() {
            self.fail(&format!("bytes before the end: {}", show(&bytes)));
        }
        ended
    }

    /// Nothing comes and nothing ends for `time`.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        if self.pending.is_empty() {
            match self.fill(Instant::now() + time) {
                Filled::TimedOut => return,
                Filled::Bytes => {}
                Filled::End(ended) => self.fail(&format!("{ended:?} instead of silence")),
            }
        }
        self.fail(&format!("bytes instead of silence: {}", show(&self.pending)));
    }

    #[track_caller]
    pub fn expect_nothing_pending(&mut self) {
        if !self.pending.is_empty() {
            self.fail(&format!("bytes after the message: {}", show(&self.pending)));
        }
    }

    pub fn half_close(&mut self) {
        // A peer that has reset the connection meanwhile makes this ENOTCONN.
        let _ = self.io().tcp().shutdown(Shutdown::Write);
    }

    /// Ends the connection with RST: a zero linger time drops what is unsent (socket(7)).
    pub fn reset(self) {
        let tcp = socket2::SockRef::from(self.io().tcp());
        tcp.set_linger(Some(Duration::ZERO)).expect("linger");
    }

    /// Ends the connection with FIN, inside TLS after close_notify.
    pub fn close(mut self) {
        if let Io::Tls(tls) = self.io_mut() {
            tls.conn.send_close_notify();
            // The peer may be gone; then there is nobody to notify.
            let _ = tls.flush();
        }
    }

    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!("{}: {why}\nreceived so far: {}", self.who, show(&self.received()));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A process that is being started holds a copy of every socket between fork and exec, and
        // while it does, closing ours sends neither FIN nor RST.
        let _none_is_being_started = SPAWNING.read().unwrap_or_else(PoisonError::into_inner);
        drop(self.io.take());
    }
}

pub fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

#[track_caller]
fn parse_chunk_size(line: &str) -> usize {
    let digits = line.trim_end_matches("\r\n");
    assert!(
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "chunk size line {line:?}"
    );
    usize::from_str_radix(digits, 16).expect("a chunk size that fits in memory")
}
