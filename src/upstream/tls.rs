//! TLS to the origins: the configuration, the handshake, and the pump that moves data through a session.
//!
//! monoio-rustls makes the handshake. Its stream is then taken apart: its data path panics after a cancelled read, and
//! when a peer that stops reading sends a broken record. The pump below borrows the session only between waits, so
//! that reading and writing may go on at once, and sends all that is pending in one piece.

#![forbid(unsafe_code)]

use crate::{
    error::Cause,
    limits::{LARGE_BLOCK_BYTES, SMALL_BLOCK_BYTES, TLS_SESSIONS_MAX},
    observe::access_log::TlsFacts,
    shard::{
        blocks::{Block, Blocks},
        sys::{self, Direction, Socket},
    },
};
use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};
use monoio_rustls::{TlsConnector, TlsError};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
    client::Resumption, crypto::aws_lc_rs, pki_types::ServerName,
};
use std::{
    cell::RefCell,
    io::{self, Read, Write},
    mem,
    ops::Range,
    rc::Rc,
    sync::Arc,
};

/// What the version line says of the TLS in use.
pub const PROVIDER: &str = "rustls 0.23 with aws-lc-rs";

/// The configuration that all shards share: roots, versions, and the store of sessions to resume.
#[derive(Clone)]
pub struct Tls {
    http1: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// What a handshake offers to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Http1,
    /// HTTP/2, else HTTP/1.1; the origin chooses.
    Either,
}

/// Where the trusted roots came from, for the log.
pub enum Roots {
    System(usize),
    /// The system has none; the ones built in are used.
    BuiltIn(usize),
}

impl Tls {
    /// Loads the roots: `SSL_CERT_FILE` and `SSL_CERT_DIR` if set, else the system's, else the ones built in. Errors: the
    /// variables are set and name nothing that can be used.
    pub fn new() -> Result<(Self, Roots), String> {
        let mut roots = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        let (added, _ignored) = roots.add_parsable_certificates(loaded.certs);
        let asked = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|v| std::env::var_os(v).is_some());
        let from = if added > 0 {
            Roots::System(added)
        } else if asked {
            let causes: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "SSL_CERT_FILE or SSL_CERT_DIR is set, but no certificate can be read from there ({}); name a PEM \
                 file, or unset it to use the system's",
                causes.join("; ")
            ));
        } else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            Roots::BuiltIn(roots.len())
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("the TLS library cannot be set up: {e}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
        let mut either = config.clone();
        either.alpn_protocols.insert(0, b"h2".to_vec());
        Ok((Self { http1: Arc::new(config), either: Arc::new(either) }, from))
    }

    /// Makes the handshake; `name` is a host name or an address, for SNI and verification. Dropping the future closes
    /// nothing by itself: the socket is the caller's.
    pub async fn handshake(
        &self,
        name: &str,
        offer: Offer,
        socket: Rc<Socket>,
        blocks: &Blocks,
    ) -> Result<Session, Cause> {
        let config = match offer {
            Offer::Http1 => &self.http1,
            Offer::Either => &self.either,
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Cause::Tls(format!("{name} cannot be a name in a certificate")))?;
        let io = RecordAligned { socket, ahead: blocks.small(), range: 0..0, record_left: 0 };
        let stream =
            TlsConnector::from(config.clone()).connect(name, io).await.map_err(cause_of)?;
        let (io, mut connection) = stream.into_parts();
        // What is written is bounded by the blocks it comes from, and sent before more is taken.
        connection.set_buffer_limit(None);
        Ok(Session { state: RefCell::new(State { connection, ahead: io.ahead, range: io.range }) })
    }
}

fn cause_of(error: TlsError) -> Cause {
    match error {
        TlsError::Io(e) => cause_of_io(e),
        TlsError::Rustls(e) => Cause::Tls(e.to_string()),
    }
}

/// rustls reports its own errors inside an `io::Error`; everything else is the socket's.
fn cause_of_io(error: io::Error) -> Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Cause::Tls(tls.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Cause::Closed,
        None => Cause::Io(error.kind()),
    }
}

/// Data that could not be sent.
#[derive(Debug)]
pub struct NotSent {
    pub cause: Cause,
    /// Not one byte can have reached the origin.
    pub nothing_sent: bool,
}

/// An established session.
pub struct Session {
    state: RefCell<State>,
}

struct State {
    connection: ClientConnection,
    /// Ciphertext that was received and not yet taken in: `ahead[range]`. An idle session holds no block.
    ahead: Block,
    range: Range<usize>,
}

/// A session between two shards: nothing unread is left in it.
pub struct Parked(Box<ClientConnection>);

impl Parked {
    pub fn resume(self) -> Session {
        let state = State { connection: *self.0, ahead: Block::default(), range: 0..0 };
        Session { state: RefCell::new(state) }
    }
}

impl Session {
    /// Takes the session out of its shard. It must be clean.
    pub fn park(self) -> Parked {
        let state = self.state.into_inner();
        assert!(state.range.is_empty(), "a session with unread data was lent");
        Parked(Box::new(state.connection))
    }

    /// Receives plaintext into `block[range]`: at least one byte, or 0 after the peer's close_notify.
    ///
    /// Errors: [`Cause::Closed`] if the stream ends without close_notify (RFC 8446 §6.1: the data may be cut).
    /// Dropping the future may lose bytes: the session must not be used again.
    pub async fn recv(
        &self,
        socket: &Socket,
        blocks: &Blocks,
        mut block: Block,
        range: Range<usize>,
    ) -> (Result<usize, Cause>, Block) {
        loop {
            let taken = self.state.borrow_mut().take_plaintext(&mut block[range.clone()], blocks);
            match taken {
                Ok(Some(n)) => return (Ok(n), block),
                Ok(None) => {}
                Err(cause) => return (Err(cause), block),
            }
            let cipher =
                if range.len() > SMALL_BLOCK_BYTES { blocks.large() } else { blocks.small() };
            let whole = 0..cipher.len();
            let (received, cipher) = socket.recv(cipher, whole).await;
            match received {
                Ok(n) => self.state.borrow_mut().give_ciphertext(cipher, n),
                Err(e) => return (Err(Cause::Io(e.kind())), block),
            }
        }
    }

    /// Encrypts `plain` and sends it with all else that is pending, one send for what fits a large block.
    pub async fn send(
        &self,
        socket: &Socket,
        blocks: &Blocks,
        plain: &[u8],
    ) -> Result<(), NotSent> {
        let not_sent = |e| NotSent { cause: cause_of_io(e), nothing_sent: false };
        self.state.borrow_mut().connection.writer().write_all(plain).map_err(not_sent)?;
        let mut cipher =
            if plain.len() + 512 > SMALL_BLOCK_BYTES { blocks.large() } else { blocks.small() };
        let mut first = true;
        loop {
            let n = self.state.borrow_mut().write_pending(&mut cipher).map_err(not_sent)?;
            if n == 0 {
                break;
            }
            let (sent, back) = socket.send(cipher, 0..n).await;
            cipher = back;
            sent.map_err(|e| NotSent {
                cause: Cause::Io(e.kind),
                nothing_sent: first && e.nothing_sent,
            })?;
            first = false;
        }
        blocks.put(cipher);
        Ok(())
    }

    /// Takes in what arrived while idle, without waiting. Returns whether the session can still be used: tickets and key
    /// updates are fine, data that nobody asked for, an end, or an error is not.
    pub fn absorb_idle(&self, socket: &Socket) -> bool {
        // Two tickets of usual size fit; an origin that sends more while idle is not worth keeping.
        let mut bytes = [0; 4096];
        let Ok(n) = socket.recv_now(&mut bytes) else { return false };
        if n == 0 || n == bytes.len() {
            return false;
        }
        let connection = &mut self.state.borrow_mut().connection;
        let mut arrived = &bytes[..n];
        while !arrived.is_empty() {
            if !matches!(connection.read_tls(&mut arrived), Ok(1..)) {
                return false;
            }
            match connection.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }

    /// What the handshake came to, for the access log.
    pub fn facts(&self) -> TlsFacts {
        let connection = &self.state.borrow().connection;
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            // Nothing else is offered, and a session is made only after the handshake.
            Some(_) | None => "-",
        };
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        TlsFacts { version, resumed }
    }

    /// What the two ends agreed to speak (ALPN, RFC 7301). An origin that chose nothing speaks HTTP/1.1.
    pub fn protocol(&self) -> Protocol {
        match self.state.borrow().connection.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            Some(_) | None => Protocol::Http1,
        }
    }

    /// From here on at most about `bytes` of ciphertext wait to be sent: [`Session::write_now`] takes no more.
    pub fn bound_pending(&self, bytes: usize) {
        self.state.borrow_mut().connection.set_buffer_limit(Some(bytes));
    }

    /// Decrypts into `plain` what is at hand. 0: the peer said goodbye. None: more ciphertext is needed.
    ///
    /// Errors: [`Cause::Closed`] if the stream ended without close_notify; a record that is not authentic.
    pub fn read_now(&self, plain: &mut [u8], blocks: &Blocks) -> Result<Option<usize>, Cause> {
        self.state.borrow_mut().take_plaintext(plain, blocks)
    }

    /// Whether all the ciphertext that was given is taken in, so that more may be given.
    pub fn wants_ciphertext(&self) -> bool {
        self.state.borrow().range.is_empty()
    }

    /// Gives `n` bytes of ciphertext, received at the start of `cipher`; 0 is the end of the stream.
    pub fn give(&self, cipher: Block, n: usize) {
        self.state.borrow_mut().give_ciphertext(cipher, n);
    }

    /// Encrypts some of `plain`. Returns how much: 0 once the bound of [`Session::bound_pending`] is reached.
    pub fn write_now(&self, plain: &[io::IoSlice<'_>]) -> Result<usize, Cause> {
        self.state.borrow_mut().connection.writer().write_vectored(plain).map_err(cause_of_io)
    }

    /// Whether ciphertext waits to be sent.
    pub fn has_pending(&self) -> bool {
        self.state.borrow().connection.wants_write()
    }

    /// Moves ciphertext that waits to be sent into `cipher`. Returns how much.
    pub fn take_pending(&self, cipher: &mut [u8]) -> Result<usize, Cause> {
        self.state.borrow_mut().write_pending(cipher).map_err(cause_of_io)
    }

    /// Whether nothing is left over from the last response.
    pub fn is_clean(&self) -> bool {
        let mut state = self.state.borrow_mut();
        state.range.is_empty()
            && state
                .connection
                .process_new_packets()
                .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
    }

    /// Says goodbye (close_notify) as far as the socket takes it at once.
    pub fn close(&self, socket: &Socket) {
        let mut state = self.state.borrow_mut();
        state.connection.send_close_notify();
        let mut bytes = [0; 256];
        // The connection is closed whether or not the peer learns it in words.
        if let Ok(n @ 1..) = state.write_pending(&mut bytes) {
            socket.send_now(&bytes[..n]).ok();
        }
        socket.shutdown(Direction::Both);
    }
}

impl State {
    /// Decrypts what is at hand into `plain`, as much as fits. None: more ciphertext is needed.
    fn take_plaintext(
        &mut self,
        plain: &mut [u8],
        blocks: &Blocks,
    ) -> Result<Option<usize>, Cause> {
        let mut filled = 0;
        loop {
            match self.connection.reader().read(&mut plain[filled..]) {
                // close_notify. What came before it goes first.
                Ok(0) if filled == 0 => return Ok(Some(0)),
                Ok(0) => return Ok(Some(filled)),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => return Ok(Some(filled)),
                Err(e) => return Err(cause_of_io(e)),
            }
            if filled == plain.len() {
                return Ok(Some(filled));
            }
            if self.range.is_empty() {
                blocks.put(mem::take(&mut self.ahead));
                return Ok((filled > 0).then_some(filled));
            }
            let mut cipher = &self.ahead[self.range.clone()];
            match self.connection.read_tls(&mut cipher) {
                Ok(n @ 1..) => self.range.start += n,
                Ok(0) => return Ok(Some(filled)),
                Err(e) => return Err(cause_of_io(e)),
            }
            if let Err(e) = self.connection.process_new_packets() {
                // Data before the broken record is authentic; the error comes again at the next call.
                return if filled > 0 { Ok(Some(filled)) } else { Err(Cause::Tls(e.to_string())) };
            }
        }
    }

    /// Keeps received ciphertext; `n` = 0 is the end of the stream.
    fn give_ciphertext(&mut self, cipher: Block, n: usize) {
        if n == 0 {
            // Tells the session, whose reader then tells an end from a cut. Reading an empty slice cannot fail.
            self.connection.read_tls(&mut io::empty()).ok();
        }
        self.ahead = cipher;
        self.range = 0..n;
    }

    fn write_pending(&mut self, cipher: &mut [u8]) -> io::Result<usize> {
        let room = cipher.len();
        let mut rest = cipher;
        while self.connection.wants_write() && !rest.is_empty() {
            self.connection.write_tls(&mut rest)?;
        }
        Ok(room - rest.len())
    }
}

/// What the handshake reads through: hands out at most one TLS record at a time, so that nothing which arrives with
/// the last flight is stranded in the connector's own buffer.
struct RecordAligned {
    socket: Rc<Socket>,
    ahead: Block,
    range: Range<usize>,
    /// Bytes of the current record that were not handed out yet.
    record_left: usize,
}

/// Type, version, length (RFC 8446 §5.1).
const RECORD_HEADER_BYTES: usize = 5;

impl RecordAligned {
    async fn fill(&mut self) -> io::Result<usize> {
        if self.range.start > 0 {
            self.ahead.copy_within(self.range.clone(), 0);
            self.range = 0..self.range.len();
        }
        let (free, block) = (self.range.end..self.ahead.len(), mem::take(&mut self.ahead));
        let (received, block) = self.socket.recv(block, free).await;
        self.ahead = block;
        self.range.end += *received.as_ref().unwrap_or(&0);
        received
    }

    async fn next_piece(&mut self) -> io::Result<Range<usize>> {
        if self.record_left == 0 {
            while self.range.len() < RECORD_HEADER_BYTES {
                if self.fill().await? == 0 {
                    return Ok(0..0);
                }
            }
            let header = &self.ahead[self.range.clone()];
            self.record_left =
                RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
        }
        if self.range.is_empty() && self.fill().await? == 0 {
            return Ok(0..0);
        }
        let n = self.range.len().min(self.record_left);
        Ok(self.range.start..self.range.start + n)
    }
}

impl AsyncReadRent for RecordAligned {
    async fn read<T: IoBufMut>(&mut self, mut buf: T) -> BufResult<usize, T> {
        match self.next_piece().await {
            Ok(piece) => {
                let n = sys::fill(&mut buf, &self.ahead[piece]);
                self.range.start += n;
                self.record_left -= n;
                (Ok(n), buf)
            }
            Err(e) => (Err(e), buf),
        }
    }

    /// The connector never asks for it.
    async fn readv<T: IoVecBufMut>(&mut self, buf: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buf)
    }
}

impl AsyncWriteRent for RecordAligned {
    async fn write<T: IoBuf>(&mut self, buf: T) -> BufResult<usize, T> {
        self.socket.write(buf).await
    }

    /// The connector never asks for it.
    async fn writev<T: IoVecBuf>(&mut self, buf: T) -> BufResult<usize, T> {
        (Err(io::ErrorKind::Unsupported.into()), buf)
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        self.socket.shutdown(Direction::Write);
        Ok(())
    }
}

const _: () = assert!(
    LARGE_BLOCK_BYTES > 64 * 1024 + 4 * 29,
    "64 KiB of data in four records must fit one send"
);
