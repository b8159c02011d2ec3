//! What the handshake reads through: at most one TLS record at a time, so that nothing which arrives with the last flight
//! is stranded in the connector's own buffer.

#![forbid(unsafe_code)]

use crate::shard::{
    blocks::Block,
    sys::{self, Direction, Socket},
};
use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, IoVecBuf, IoVecBufMut},
    io::{AsyncReadRent, AsyncWriteRent},
};
use std::{io, mem, ops::Range, rc::Rc};

/// A socket that reads by records.
pub struct RecordAligned {
    socket: Rc<Socket>,
    /// What was received and not handed out: `ahead[range]`.
    ahead: Block,
    range: Range<usize>,
    /// Bytes of the current record that were not handed out yet.
    record_left: usize,
}

/// Type, version, length (RFC 8446 §5.1).
const RECORD_HEADER_BYTES: usize = 5;

impl RecordAligned {
    pub fn new(socket: Rc<Socket>, ahead: Block) -> Self {
        Self { socket, ahead, range: 0..0, record_left: 0 }
    }

    /// What the handshake left: the ciphertext of what comes after it.
    pub fn into_rest(self) -> (Block, Range<usize>) {
        (self.ahead, self.range)
    }

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
