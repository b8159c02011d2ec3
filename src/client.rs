//! One client connection, as the code that serves it sees it, and what it has sent that nobody has used yet.

#![forbid(unsafe_code)]

use crate::{
    limits::{CLIENT_BUFFER_BYTES, HEAD_BYTES_MAX},
    shard::{blocks::Block, sys::Socket, watch::Watched},
};
use std::{io, mem, net::SocketAddr, rc::Rc, time::Instant};

/// By which listener a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The one of `--listen`.
    Main,
    /// The one of `--api`, which leads to no origin.
    Api,
}

pub struct Client {
    pub socket: Rc<Socket>,
    pub peer: SocketAddr,
    pub door: Door,
    pub watch: Watched,
    pub input: Input,
    /// When its last request ended, or it came.
    pub idle_since: Instant,
}

/// The bytes of the current request's head, then what came behind it.
pub struct Input {
    block: Block,
    filled: usize,
    /// Used up to here: heads and bodies of this request.
    used: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { block: new_block(CLIENT_BUFFER_BYTES), filled: 0, used: 0 }
    }
}

impl Input {
    /// What is there, from the head's first byte on.
    pub fn all(&self) -> &[u8] {
        &self.block[..self.filled]
    }

    /// What is there and not used yet.
    pub fn unused(&self) -> &[u8] {
        &self.block[self.used..self.filled]
    }

    pub fn use_up(&mut self, n: usize) {
        self.used += n;
        assert!(self.used <= self.filled, "more used than was there");
    }

    /// Puts bytes behind everything else: the beginning of the next request, read with this one's body.
    pub fn append(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if end > self.block.len() {
            self.grow(end);
        }
        self.block[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }

    /// Forgets what is used, head and all, and makes the buffer small again.
    pub fn next_request(&mut self) {
        let left = self.used..self.filled;
        if self.block.len() > CLIENT_BUFFER_BYTES && left.len() <= CLIENT_BUFFER_BYTES {
            let mut small = new_block(CLIENT_BUFFER_BYTES);
            small[..left.len()].copy_from_slice(&self.block[left.clone()]);
            self.block = small;
        } else if self.used > 0 {
            self.block.copy_within(left.clone(), 0);
        }
        self.filled = left.len();
        self.used = 0;
    }

    /// Receives more behind what is there. 0 is the end of the stream.
    ///
    /// Dropping the future loses the buffer: the connection must not be used again.
    pub async fn fill(&mut self, socket: &Socket) -> io::Result<usize> {
        if self.filled == self.block.len() {
            self.grow(self.filled + 1);
        }
        let free = self.filled..self.block.len();
        let (received, block) = socket.recv(mem::take(&mut self.block), free).await;
        self.block = block;
        let n = received?;
        self.filled += n;
        Ok(n)
    }

    fn grow(&mut self, least: usize) {
        // Doubling, so that a long head is copied a few times at most; never far beyond what a head may be.
        let len = (self.block.len() * 2).min(HEAD_BYTES_MAX + CLIENT_BUFFER_BYTES).max(least);
        let mut larger = new_block(len);
        larger[..self.filled].copy_from_slice(&self.block[..self.filled]);
        self.block = larger;
    }
}

fn new_block(len: usize) -> Block {
    vec![0; len].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(bytes: &[u8]) -> Input {
        let mut input = Input::default();
        input.append(bytes);
        input
    }

    #[test]
    fn what_is_unused_becomes_the_next_request() {
        let mut input = with(b"head body next");
        input.use_up(10);
        assert_eq!(input.unused(), b"next");
        input.next_request();
        assert_eq!(input.all(), b"next");
    }

    #[test]
    fn a_long_head_grows_the_buffer_and_it_shrinks_again() {
        let mut input = with(&vec![b'x'; CLIENT_BUFFER_BYTES + 1]);
        assert!(input.block.len() > CLIENT_BUFFER_BYTES);
        input.use_up(CLIENT_BUFFER_BYTES);
        input.next_request();
        assert_eq!(input.block.len(), CLIENT_BUFFER_BYTES);
        assert_eq!(input.all(), b"x");
    }
}
