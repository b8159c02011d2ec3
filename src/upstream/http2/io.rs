//! What HTTP/2 reads and writes: a TLS session as poll-based input and output, and the ciphertext's way to and from
//! the socket.
//!
//! Operations of the ring own their buffers, so that a poll cannot be one. [`Wire`] therefore only moves bytes into and
//! out of the session, at once, and [`receive`] and [`send`] move its ciphertext. The task that drives a connection
//! ([`super::driver`]) runs all three and alone decides what happens next: polls return Pending without a waker of their
//! own, because that task polls again whenever an operation has ended. Reading and writing may go on at once, as the
//! session is borrowed only between waits.

#![forbid(unsafe_code)]

use super::{gather::Gather, meter::Meter};
use crate::{
    error::Cause,
    limits::{HTTP2_GATHER, HTTP2_PENDING_BYTES_MAX, SMALL_BLOCK_BYTES},
    shard::Shard,
    upstream::{connection::Connection, tls::Session},
};
use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One connection's bytes.
pub struct Wire {
    pub connection: Connection,
    shard: Rc<Shard>,
    pub meter: RefCell<Meter>,
    /// Why nothing more can be read, or sent.
    unreadable: RefCell<Option<Cause>>,
    unsendable: RefCell<Option<Cause>>,
    /// When the origin was last heard.
    heard: Cell<Instant>,
    /// Bytes of ciphertext received.
    received: Cell<u64>,
    /// The stream's end came.
    is_at_end: Cell<bool>,
    /// The last receive filled its block, so that a large one pays.
    is_busy: Cell<bool>,
    /// Something came that the library has not read.
    is_unread: Cell<bool>,
    /// None: no write waits.
    gather: Option<RefCell<Gather>>,
    first: Cell<First>,
}

/// What the library's next turn begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Reading,
    /// Requests were opened.
    Sending,
    /// They are being sent: nothing is read.
    Deaf,
}

impl Wire {
    /// `connection` is over TLS.
    pub fn new(connection: Connection, shard: Rc<Shard>, now: Instant) -> Self {
        // What the kernel does not tell is no reason to wait. BBR brings short writes together by itself.
        let socket = &connection.socket;
        let round_trip = match socket.is_bbr() {
            false => socket.round_trip().unwrap_or_default(),
            true => Duration::ZERO,
        };
        let wire = Self {
            connection,
            shard,
            meter: RefCell::new(Meter::new(now)),
            unreadable: RefCell::default(),
            unsendable: RefCell::default(),
            heard: Cell::new(now),
            received: Cell::new(0),
            is_at_end: Cell::new(false),
            is_busy: Cell::new(false),
            // With the end of the handshake, perhaps.
            is_unread: Cell::new(true),
            gather: Gather::new(round_trip, now).map(RefCell::new),
            first: Cell::new(First::Reading),
        };
        wire.session().bound_pending(HTTP2_PENDING_BYTES_MAX);
        wire
    }

    fn session(&self) -> &Session {
        self.connection.session().expect("HTTP/2 is chosen by a TLS handshake")
    }

    pub fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Bytes that the origin sent so far.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// The origin said that it takes no more requests here.
    pub fn count_goaway(&self) {
        self.shard.recorder.count_goaway();
    }

    /// Why the connection failed, if the wire knows.
    pub fn fault(&self) -> Option<Cause> {
        self.unreadable.borrow().clone().or_else(|| self.unsendable.borrow().clone())
    }

    /// Whether a receive should be under way. While what came is not taken in, none is: the origin's window fills.
    pub fn wants_receive(&self) -> bool {
        !self.is_at_end.get()
            && self.unreadable.borrow().is_none()
            && self.session().wants_ciphertext()
    }

    /// Whether a send should be under way.
    pub fn wants_send(&self) -> bool {
        self.unsendable.borrow().is_none() && self.session().has_pending()
    }

    /// Whether what is to be written waits for more; [`pause`] ends the wait.
    pub fn is_holding(&self) -> bool {
        self.gather.as_ref().is_some_and(|gather| gather.borrow().is_holding())
    }

    /// A request was opened: it leaves before anything is read. The library reads first, and would keep it back, perhaps for
    /// ever, for SETTINGS that allow no stream (RFC 9113 §5.1.2); an origin refuses what it gets in spite of them, and what
    /// it refuses goes elsewhere.
    pub fn sends_first(&self) {
        self.first.set(First::Sending);
    }

    /// Lets the library send what was opened, if anything was: it finds nothing to read in `turn`. Returns what that gave.
    pub fn send_opened<T>(&self, turn: impl FnOnce() -> T) -> Option<T> {
        (self.first.get() == First::Sending).then(|| {
            self.first.set(First::Deaf);
            let result = turn();
            self.first.set(First::Reading);
            result
        })
    }

    /// Whether the library has something to read.
    pub fn is_unread(&self) -> bool {
        self.is_unread.get()
    }

    /// Says goodbye as far as the socket takes it, and ends both directions.
    pub fn close(&self) {
        self.session().close(&self.connection.socket);
    }

    /// Ends reading, for `cause`. Returns it as the library wants it.
    pub fn fail(&self, cause: Cause) -> io::Error {
        let kind = match &cause {
            Cause::Io(kind) => *kind,
            Cause::Closed => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData, // The text is kept here; HTTP/2 only needs to know that it is over.
        };
        self.unreadable.borrow_mut().get_or_insert(cause);
        kind.into()
    }
}

/// Receives ciphertext once, and gives it to the session. Dropping the future loses bytes: the connection is then over.
pub async fn receive(wire: &Wire) {
    let blocks = &wire.shard.blocks;
    let block = if wire.is_busy.get() { blocks.large() } else { blocks.small() };
    let whole = 0..block.len();
    let (received, block) = wire.connection.socket.recv(block, whole).await;
    wire.is_unread.set(true);
    match received {
        Ok(n) => {
            wire.received.set(wire.received.get() + n as u64);
            wire.is_at_end.set(n == 0);
            wire.is_busy.set(n >= SMALL_BLOCK_BYTES);
            let now = Instant::now();
            wire.heard.set(now);
            wire.meter.borrow_mut().refill(now);
            wire.session().give(block, n);
        }
        Err(e) => {
            wire.fail(Cause::Io(e.kind()));
        }
    }
}

/// Sends a block of the ciphertext that waits. Dropping the future may leave a part sent: the connection is then over.
pub async fn send(wire: &Wire) {
    let blocks = &wire.shard.blocks;
    let mut block = blocks.large();
    let sent = match wire.session().take_pending(&mut block) {
        Ok(n) => {
            let (sent, back) = wire.connection.socket.send(block, 0..n).await;
            block = back;
            sent.map_err(|e| Cause::Io(e.kind))
        }
        Err(cause) => Err(cause),
    };
    blocks.put(block);
    if let Err(cause) = sent {
        wire.unsendable.borrow_mut().get_or_insert(cause);
    }
}

/// Waits as long as a short write may wait for more to write. Cancel-safe.
pub async fn pause(wire: &Wire) {
    monoio::time::sleep(HTTP2_GATHER).await;
    if let Some(gather) = &wire.gather {
        gather.borrow_mut().release();
    }
}

/// The [`Wire`] as HTTP/2 sees it.
pub struct Io(pub Rc<Wire>);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &*self.0;
        if wire.first.get() == First::Deaf {
            return Poll::Pending;
        }
        let blocks = &wire.shard.blocks;
        // The library's own buffer would have to be zeroed first, at each look, whether anything is there or not.
        let mut block = if wire.is_busy.get() { blocks.large() } else { blocks.small() };
        let room = block.len().min(buf.remaining());
        let read = wire.session().read_now(&mut block[..room], blocks);
        if let Ok(Some(n)) = read {
            buf.put_slice(&block[..n]);
        }
        blocks.put(block);
        match read {
            Ok(Some(n)) => {
                let came = buf.filled().len() - n;
                let seen = wire.meter.borrow_mut().see(&buf.filled()[came..]);
                match seen {
                    Ok(()) => Poll::Ready(Ok(())),
                    Err(flood) => Poll::Ready(Err(wire.fail(Cause::Malformed(flood)))),
                }
            }
            Ok(None) => match &*wire.unreadable.borrow() {
                Some(Cause::Io(kind)) => Poll::Ready(Err((*kind).into())),
                Some(_) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                None => {
                    wire.is_unread.set(false);
                    Poll::Pending
                }
            },
            Err(cause) => Poll::Ready(Err(wire.fail(cause))),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plain: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(plain)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        plain: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = &*self.0;
        if let Some(cause) = &*wire.unsendable.borrow() {
            let kind = if let Cause::Io(kind) = cause { *kind } else { io::ErrorKind::Other };
            return Poll::Ready(Err(kind.into()));
        }
        if let Some(gather) = &wire.gather {
            let bytes = plain.iter().map(|piece| piece.len()).sum();
            if gather.borrow_mut().holds(bytes, Instant::now()) {
                return Poll::Pending;
            }
        }
        match wire.session().write_now(plain) {
            Ok(0) if plain.iter().any(|piece| !piece.is_empty()) => Poll::Pending,
            Ok(n) => Poll::Ready(Ok(n)),
            Err(cause) => Poll::Ready(Err(wire.fail(cause))),
        }
    }

    /// A frame's head and its payload become one record.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is written is sent whenever the driver's turn ends; waiting for it here would hold up reading.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The driver says goodbye once everything is sent.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
