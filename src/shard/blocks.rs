//! The shard's buffers: blocks of two sizes, kept for reuse, hot in the cache because the last one back is the first
//! one out.

#![forbid(unsafe_code)]

use crate::{
    headers::Out,
    limits::{BLOCKS_KEPT_MAX, LARGE_BLOCK_BYTES, SMALL_BLOCK_BYTES},
};
use std::{cell::RefCell, mem};

/// A buffer of fixed length that the kernel reads and writes. It is owned by the operation under way; a dropped
/// operation keeps it until the kernel is done.
pub type Block = Box<[u8]>;

#[derive(Default)]
pub struct Blocks {
    small: RefCell<Shelf>,
    large: RefCell<Shelf>,
}

#[derive(Default)]
struct Shelf {
    blocks: Vec<Block>,
    /// The fewest that lay here since the last trim: these were not needed.
    low: usize,
}

impl Blocks {
    pub fn small(&self) -> Block {
        self.small.borrow_mut().take(SMALL_BLOCK_BYTES)
    }

    pub fn large(&self) -> Block {
        self.large.borrow_mut().take(LARGE_BLOCK_BYTES)
    }

    /// Takes a block back. One of another length (an empty one left behind by an operation) is dropped.
    pub fn put(&self, block: Block) {
        match block.len() {
            SMALL_BLOCK_BYTES => self.small.borrow_mut().put(block),
            LARGE_BLOCK_BYTES => self.large.borrow_mut().put(block),
            _ => drop(block),
        }
    }

    /// Gives half of what was not needed since the last call back to the allocator.
    pub fn trim(&self) {
        self.small.borrow_mut().trim();
        self.large.borrow_mut().trim();
    }
}

impl Shelf {
    fn take(&mut self, len: usize) -> Block {
        let block = self.blocks.pop();
        self.low = self.low.min(self.blocks.len());
        block.unwrap_or_else(|| vec![0; len].into_boxed_slice())
    }

    fn put(&mut self, block: Block) {
        if self.blocks.len() < BLOCKS_KEPT_MAX {
            self.blocks.push(block);
        }
    }

    fn trim(&mut self) {
        let surplus = self.low.div_ceil(2);
        self.blocks.drain(..surplus.min(self.blocks.len()));
        self.low = self.blocks.len();
    }
}

/// Bytes to be sent, gathered in one block so that they leave in one send.
pub struct Outgoing<'s> {
    blocks: &'s Blocks,
    pub block: Block,
    pub len: usize,
}

impl<'s> Outgoing<'s> {
    pub fn new(blocks: &'s Blocks) -> Self {
        Self { blocks, block: blocks.small(), len: 0 }
    }

    /// How many more bytes fit without another block.
    pub fn room(&self) -> usize {
        self.block.len() - self.len
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `n` more bytes, in a large block if need be. Returns whether there is.
    pub fn reserve(&mut self, n: usize) -> bool {
        if self.room() < n
            && self.len + n <= LARGE_BLOCK_BYTES
            && self.block.len() < LARGE_BLOCK_BYTES
        {
            let mut larger = self.blocks.large();
            larger[..self.len].copy_from_slice(&self.block[..self.len]);
            self.blocks.put(mem::replace(&mut self.block, larger));
        }
        self.room() >= n
    }
}

impl Out for Outgoing<'_> {
    /// Panics beyond a large block: a head cannot be that long (`HEAD_BYTES_MAX`), and bodies ask for room first.
    fn push(&mut self, bytes: &[u8]) {
        if self.room() < bytes.len() {
            assert!(self.reserve(bytes.len()), "a head outgrew a large block");
        }
        self.block[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Drop for Outgoing<'_> {
    fn drop(&mut self) {
        self.blocks.put(mem::take(&mut self.block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back_first() {
        let blocks = Blocks::default();
        let mut block = blocks.small();
        block[0] = 7;
        blocks.put(blocks.small());
        blocks.put(block);
        assert_eq!(blocks.small()[0], 7);
    }

    #[test]
    fn as_many_are_kept_as_the_bound_says_and_no_more() {
        let blocks = Blocks::default();
        (0..BLOCKS_KEPT_MAX + 1).for_each(|_| blocks.put(vec![0; SMALL_BLOCK_BYTES].into()));
        assert_eq!(blocks.small.borrow().blocks.len(), BLOCKS_KEPT_MAX);
    }

    #[test]
    fn what_is_not_needed_is_given_back() {
        let blocks = Blocks::default();
        let taken: Vec<_> = (0..8).map(|_| blocks.large()).collect();
        taken.into_iter().for_each(|b| blocks.put(b));
        blocks.trim(); // Only now is the low mark 8.
        blocks.trim();
        assert_eq!(blocks.large.borrow().blocks.len(), 4);
    }

    #[test]
    fn outgoing_bytes_move_to_a_large_block_and_no_further() {
        let blocks = Blocks::default();
        let mut out = Outgoing::new(&blocks);
        out.push(b"head");
        assert!(out.reserve(LARGE_BLOCK_BYTES - 4));
        assert_eq!(&out.block[..4], b"head");
        assert!(!out.reserve(LARGE_BLOCK_BYTES - 3));
    }
}
