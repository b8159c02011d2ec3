//! An established TLS session, and the pump that moves data through it.
//!
//! The session is borrowed only between waits, so that reading and writing may go on at once; all that is pending is sent
//! in one piece.

#![forbid(unsafe_code)]

use super::{Protocol, cause_of_io};
use crate::{
    error::Cause,
    limits::{LARGE_BLOCK_BYTES, SMALL_BLOCK_BYTES},
    observe::access_log::TlsFacts,
    shard::{
        blocks::{Block, Blocks},
        sys::{Direction, Socket},
    },
};
use rustls::{ClientConnection, HandshakeKind, ProtocolVersion};
use std::{
    cell::RefCell,
    io::{self, Read, Write},
    mem,
    ops::Range,
};

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

/// Data that could not be sent.
#[derive(Debug)]
pub struct NotSent {
    pub cause: Cause,
    /// Not one byte can have reached the origin.
    pub nothing_sent: bool,
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
    /// After the handshake, during which `ahead[range]` was received and not yet taken in.
    pub(super) fn new(mut connection: ClientConnection, ahead: Block, range: Range<usize>) -> Self {
        // What is written is bounded by the blocks it comes from, and sent before more is taken.
        connection.set_buffer_limit(None);
        Self { state: RefCell::new(State { connection, ahead, range }) }
    }

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

const _: () = assert!(
    LARGE_BLOCK_BYTES > 64 * 1024 + 4 * 29,
    "64 KiB of data in four records must fit one send"
);
