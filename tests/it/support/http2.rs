//! The origin's side of HTTP/2 on raw frames (RFC 9113), so that a case can also send what no sound origin would.

use std::collections::HashMap;

use super::tls::TlsOptions;
use super::{OriginConn, TlsOrigin};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const HTTP_1_1_REQUIRED: u32 = 13;

pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_MAX: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A request as the origin saw it.
#[derive(Clone, Debug, Default)]
pub struct Http2Request {
    pub stream: u32,
    /// Pseudo-fields too, in order, one `char` a byte.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub ended: bool,
    pub reset: Option<u32>,
}

impl Http2Request {
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times", all.len());
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn path(&self) -> &str {
        self.field(":path").expect("a path")
    }
}

/// A TLS origin that chooses HTTP/2.
pub fn options() -> TlsOptions {
    TlsOrigin::options().alpn(&["h2", "http/1.1"])
}

/// A connection whose prefaces are exchanged; answers SETTINGS and PING by itself.
pub struct Http2Conn {
    conn: OriginConn,
    decoder: fluke_hpack::Decoder<'static>,
    /// What is known of each stream.
    pub requests: HashMap<u32, Http2Request>,
    /// Requests whose head, or end, was not asked for yet.
    heads: Vec<u32>,
    ends: Vec<u32>,
    /// PING is not answered, WINDOW_UPDATE is not sent.
    pub is_mute: bool,
    pub window: i64,
    windows: HashMap<u32, i64>,
    initial_window: i64,
    pub pings: usize,
    pub goaway: Option<u32>,
}

impl Http2Conn {
    #[track_caller]
    pub fn open(conn: OriginConn) -> Self {
        Self::open_with(conn, &[(MAX_CONCURRENT_STREAMS, 100)])
    }

    /// Exchanges prefaces; ours says `settings`.
    #[track_caller]
    pub fn open_with(conn: OriginConn, settings: &[(u16, u32)]) -> Self {
        let mut opened = Self::open_silently(conn);
        opened.settings(settings);
        opened
    }

    /// As [`Http2Conn::open`]. None: the proxy closed before it said anything, as where nobody waits any more.
    #[track_caller]
    pub fn try_open(conn: OriginConn) -> Option<Self> {
        Self::try_open_with(conn, &[(MAX_CONCURRENT_STREAMS, 100)])
    }

    #[track_caller]
    pub fn try_open_with(conn: OriginConn, settings: &[(u16, u32)]) -> Option<Self> {
        let mut opened = Self::try_open_silently(conn)?;
        opened.settings(settings);
        Some(opened)
    }

    /// Takes the proxy's preface and says nothing.
    #[track_caller]
    pub fn open_silently(conn: OriginConn) -> Self {
        Self::try_open_silently(conn).expect("the preface instead of the connection's end")
    }

    #[track_caller]
    fn try_open_silently(mut conn: OriginConn) -> Option<Self> {
        assert_eq!(conn.tls_names().1.as_deref(), Some("h2"), "the protocol that was chosen");
        assert_eq!(conn.try_read_exact(PREFACE.len())?, PREFACE);
        Some(Self {
            conn,
            decoder: fluke_hpack::Decoder::new(),
            requests: HashMap::new(),
            heads: Vec::new(),
            ends: Vec::new(),
            is_mute: false,
            window: 65_535,
            windows: HashMap::new(),
            initial_window: 65_535,
            pings: 0,
            goaway: None,
        })
    }

    pub fn raw(&mut self) -> &mut OriginConn {
        &mut self.conn
    }

    /// The next frame, handled; None at the end of the connection.
    #[track_caller]
    pub fn read_frame(&mut self) -> Option<Frame> {
        let head = self.conn.try_read_exact(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = if length > 0 { self.conn.try_read_exact(length)? } else { vec![] };
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        self.handle(&frame);
        Some(frame)
    }

    #[track_caller]
    fn handle(&mut self, frame: &Frame) {
        let number = |at: usize| {
            u32::from_be_bytes(frame.payload[at..at + 4].try_into().expect("four bytes"))
        };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                for setting in frame.payload.chunks(6) {
                    let value = u32::from_be_bytes(setting[2..].try_into().expect("four bytes"));
                    if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                        let change = i64::from(value) - self.initial_window;
                        self.initial_window = i64::from(value);
                        self.windows.values_mut().for_each(|window| *window += change);
                    }
                }
                self.send_frame(SETTINGS, ACK, 0, &[]);
            }
            PING if frame.flags & ACK == 0 => {
                self.pings += 1;
                if !self.is_mute {
                    self.send_frame(PING, ACK, 0, &frame.payload);
                }
            }
            WINDOW_UPDATE if frame.stream == 0 => self.window += i64::from(number(0)),
            WINDOW_UPDATE => {
                *self.windows.entry(frame.stream).or_insert(self.initial_window) +=
                    i64::from(number(0));
            }
            HEADERS => self.handle_headers(frame),
            DATA => {
                let request =
                    self.requests.get_mut(&frame.stream).expect("a stream that was opened");
                request.body.extend_from_slice(&frame.payload);
                let length = u32::try_from(frame.payload.len()).expect("a frame's length");
                if length > 0 && !self.is_mute {
                    self.send_frame(WINDOW_UPDATE, 0, 0, &length.to_be_bytes());
                    self.send_frame(WINDOW_UPDATE, 0, frame.stream, &length.to_be_bytes());
                }
            }
            RST_STREAM => {
                if let Some(request) = self.requests.get_mut(&frame.stream) {
                    request.reset = Some(number(0));
                }
            }
            GOAWAY => self.goaway = Some(number(4)),
            _ => {}
        }
        if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
            self.requests.get_mut(&frame.stream).expect("a stream that was opened").ended = true;
            self.ends.push(frame.stream);
        }
    }

    #[track_caller]
    fn handle_headers(&mut self, frame: &Frame) {
        let mut block = frame.payload.clone();
        let mut flags = frame.flags;
        while flags & END_HEADERS == 0 {
            let head = self.conn.read_exact(9);
            assert_eq!(head[3], CONTINUATION);
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            block.extend_from_slice(&self.conn.read_exact(length));
            flags |= head[4];
        }
        let text = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect::<String>();
        let fields = self.decoder.decode(&block).expect("a sound header block");
        let fields: Vec<_> = fields.into_iter().map(|(n, v)| (text(n), text(v))).collect();
        match self.requests.get_mut(&frame.stream) {
            Some(request) => request.trailers = fields,
            None => {
                let stream = frame.stream;
                self.windows.entry(stream).or_insert(self.initial_window);
                let request = Http2Request { stream, fields, ..Http2Request::default() };
                self.requests.insert(stream, request);
                self.heads.push(stream);
            }
        }
    }

    /// The next request whose head came, whether or not its body did. None at the end of the connection.
    #[track_caller]
    pub fn try_next_head(&mut self) -> Option<Http2Request> {
        while self.heads.is_empty() {
            self.read_frame()?;
        }
        let stream = self.heads.remove(0);
        Some(self.requests[&stream].clone())
    }

    #[track_caller]
    pub fn next_head(&mut self) -> Http2Request {
        self.try_next_head().expect("a request instead of the connection's end")
    }

    /// The next request that came whole. None at the end of the connection.
    #[track_caller]
    pub fn try_next_request(&mut self) -> Option<Http2Request> {
        while self.ends.is_empty() {
            self.read_frame()?;
        }
        let stream = self.ends.remove(0);
        self.heads.retain(|head| *head != stream);
        Some(self.requests[&stream].clone())
    }

    #[track_caller]
    pub fn next_request(&mut self) -> Http2Request {
        self.try_next_request().expect("a request instead of the connection's end")
    }

    /// Reads on until the stream is reset; returns the reason.
    #[track_caller]
    pub fn wait_reset(&mut self, stream: u32) -> u32 {
        loop {
            if let Some(reason) = self.requests.get(&stream).and_then(|request| request.reset) {
                return reason;
            }
            self.read_frame().expect("a reset instead of the connection's end");
        }
    }

    /// Reads on until the proxy ends the connection; returns the reason of its GOAWAY, if there was one.
    #[track_caller]
    pub fn wait_closed(&mut self) -> Option<u32> {
        while self.read_frame().is_some() {}
        self.goaway
    }

    /// A request that came whole and was not asked for yet, without waiting.
    pub fn take_ended(&mut self) -> Option<u32> {
        if self.ends.is_empty() { None } else { Some(self.ends.remove(0)) }
    }

    /// How much may be sent on a stream now.
    pub fn room(&self, stream: u32) -> usize {
        usize::try_from(self.window.min(self.windows[&stream])).unwrap_or(0)
    }

    /// Whether something can be read without waiting.
    pub fn has_bytes(&mut self) -> bool {
        self.conn.has_bytes()
    }

    /// Sends a frame as it is.
    pub fn send_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // The proxy may have closed meanwhile; whoever reads on notices.
        drop(self.conn.try_send(frame(kind, flags, stream, payload)));
    }

    /// Sends many frames, or anything, in one piece. Returns whether the proxy still takes them.
    pub fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.conn.try_send(bytes).is_ok()
    }

    pub fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send_frame(SETTINGS, 0, 0, &payload);
    }

    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) {
        self.send_frame(HEADERS, END_HEADERS | flags, stream, &block(fields));
    }

    /// A body within the windows; waits for them to open.
    #[track_caller]
    pub fn body(&mut self, stream: u32, body: &[u8], flags: u8) {
        let mut rest = body;
        loop {
            let window = self.window.min(self.windows[&stream]).max(0);
            let n = rest.len().min(FRAME_MAX).min(usize::try_from(window).expect("above zero"));
            if n == 0 && !rest.is_empty() {
                self.read_frame().expect("a window instead of the connection's end");
                continue;
            }
            self.spend(stream, n);
            let last = n == rest.len();
            self.send_frame(DATA, if last { flags } else { 0 }, stream, &rest[..n]);
            rest = &rest[n..];
            if last {
                return;
            }
        }
    }

    /// Counts `n` bytes of DATA, padding too, against the windows.
    pub fn spend(&mut self, stream: u32, n: usize) {
        self.window -= n as i64;
        *self.windows.get_mut(&stream).expect("a window") -= n as i64;
    }

    /// A whole response of status 200 with its length.
    #[track_caller]
    pub fn answer(&mut self, stream: u32, body: &[u8]) {
        let length = body.len().to_string();
        self.headers(stream, &[(":status", "200"), ("content-length", &length)], 0);
        self.body(stream, body, END_STREAM);
    }

    /// A response whatever the state of its stream, beside all windows.
    pub fn answer_unasked(&mut self, stream: u32, body: &[u8]) {
        self.headers(stream, &[(":status", "200")], 0);
        self.send_frame(DATA, END_STREAM, stream, body);
    }

    pub fn reset(&mut self, stream: u32, reason: u32) {
        self.send_frame(RST_STREAM, 0, stream, &reason.to_be_bytes());
    }

    pub fn goaway(&mut self, last: u32, reason: u32) {
        let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
        self.send_frame(GOAWAY, 0, 0, &payload);
    }

    pub fn into_raw(self) -> OriginConn {
        self.conn
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals that are neither indexed nor compressed (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // One byte a `char`, so that a case can say anything.
            let text: Vec<u8> = text.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect();
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(&text);
        }
    }
    bytes
}

/// RFC 7541 §5.1 with a prefix of 7 bits.
fn integer(bytes: &mut Vec<u8>, value: usize) {
    if value < 127 {
        return bytes.push(u8::try_from(value).expect("7 bits"));
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).expect("7 bits") | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("7 bits"));
}

/// Answers every request of one connection that came whole with `answer`.
pub fn serve(mut conn: OriginConn, answer: impl Fn(&mut Http2Conn, Http2Request)) {
    conn.set_deadline(std::time::Duration::from_secs(120));
    let Some(mut conn) = Http2Conn::try_open(conn) else { return };
    while let Some(request) = conn.try_next_request() {
        answer(&mut conn, request);
    }
}

/// An origin whose connections answer every request that came whole with `answer`.
pub fn serving(answer: impl Fn(&mut Http2Conn, Http2Request) + Send + Sync + 'static) -> TlsOrigin {
    options().start(move |conn| serve(conn, &answer))
}
