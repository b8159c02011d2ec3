//! Request ids: xid, 12 bytes as 20 characters of base32hex in lower case (github.com/rs/xid).
//! 4 bytes seconds, 3 machine, 2 process, 3 counter: ids sort by second of creation.
//!
//! An `IdSource` belongs to one shard and shares nothing. The low `SHARD_BITS` of the counter are
//! the shard's, what does not fit there goes to the process bytes; so two shards of one process
//! never give the same id. The rest of the counter starts at random and counts on: a shard gives
//! 262,144 different ids within one second, several times what a core can proxy.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Deref;
use std::process;

/// Characters of an id.
const ID_BYTES: usize = 20;

/// Bits of the 24-bit counter that name the shard.
const SHARD_BITS: u32 = 6;

/// Bits of the 24-bit counter that count.
const COUNT_BITS: u32 = 24 - SHARD_BITS;

/// One id: 20 characters of `[0-9a-v]`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; ID_BYTES]);

/// Makes the ids of one shard.
#[derive(Debug)]
pub struct IdSource {
    machine: [u8; 3],
    process: u16,
    shard: u32,
    count: u32,
}

impl IdSource {
    /// The source of shard number `shard` (from 0). Reads two small files; call it before serving.
    pub fn new(shard: usize) -> IdSource {
        // RandomState is the standard library's way to the kernel's random numbers.
        let random = RandomState::new().build_hasher().finish();
        IdSource::with(shard, machine().unwrap_or(random), process::id(), random >> 32)
    }

    fn with(shard: usize, machine: u64, process: u32, start: u64) -> IdSource {
        let shards_in_counter = 1_usize << SHARD_BITS;
        let [_, _, _, _, _, machine @ ..] = machine.to_be_bytes();
        IdSource {
            machine,
            // xid takes the low 16 bits of the process id.
            process: (process as u16).wrapping_add((shard / shards_in_counter) as u16),
            shard: (shard % shards_in_counter) as u32,
            count: start as u32,
        }
    }

    /// The next id; `unix_secs` is the present second, read as unsigned 32 bits (until 2106).
    pub fn next(&mut self, unix_secs: u32) -> Id {
        self.count = self.count.wrapping_add(1) & ((1 << COUNT_BITS) - 1);
        let counter = self.count << SHARD_BITS | self.shard;
        let [t0, t1, t2, t3] = unix_secs.to_be_bytes();
        let [m0, m1, m2] = self.machine;
        let [p0, p1] = self.process.to_be_bytes();
        let [_, c0, c1, c2] = counter.to_be_bytes();
        Id::encode([t0, t1, t2, t3, m0, m1, m2, p0, p1, c0, c1, c2])
    }
}

impl Id {
    /// RFC 4648 §7 in lower case without padding: 96 bits and four zero bits, five a character.
    fn encode(raw: [u8; 12]) -> Id {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
        let mut bits = 0_u128;
        for byte in raw {
            bits = bits << 8 | u128::from(byte);
        }
        bits <<= 4;
        let mut text = [0; ID_BYTES];
        for character in text.iter_mut().rev() {
            *character = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        Id(text)
    }
}

impl Deref for Id {
    type Target = [u8; ID_BYTES];

    fn deref(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).expect("the alphabet is ASCII"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A hash of what names this host: its machine id, and its host name too, because the containers
/// and clones of one image share the machine id. None where neither can be read.
fn machine() -> Option<u64> {
    let mut hash = FNV_OFFSET;
    let mut known = false;
    for path in ["/etc/machine-id", "/proc/sys/kernel/hostname"] {
        if let Ok(text) = fs::read(path) {
            known |= !text.is_empty();
            hash = text.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV));
        }
    }
    // The low bits of FNV are its weakest; fold the high ones in.
    known.then_some(hash ^ hash >> 40)
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): offset basis and prime.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV: u64 = 0x0000_0100_0000_01b3;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_example_of_xid_is_encoded_alike() {
        // The vector of xid's own tests.
        let raw = [0x4d, 0x88, 0xe1, 0x5b, 0x60, 0xf4, 0x86, 0xe4, 0x28, 0x41, 0x2d, 0xc9];
        assert_eq!(Id::encode(raw).to_string(), "9m4e2mr0ui3e8a215n4g");
    }

    #[test]
    fn an_id_is_twenty_characters_of_base32hex() {
        let id = IdSource::new(3).next(1_795_482_123);
        assert_eq!(id.len(), 20);
        assert!(id.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'v')), "{id}");
    }

    #[test]
    fn ids_of_one_second_differ_within_and_between_shards() {
        let mut seen = HashSet::new();
        for shard in [0, 1, 63, 64, 65, 127, 128, 1023] {
            let mut ids = IdSource::with(shard, 7, 4321, 99);
            for _ in 0..1000 {
                assert!(seen.insert(ids.next(1_795_482_123)), "shard {shard}");
            }
        }
    }

    #[test]
    fn the_counter_goes_round_without_touching_the_shard() {
        let mut ids = IdSource::with(5, 0, 0, u64::from(u32::MAX));
        let mut seen = HashSet::new();
        for _ in 0..1 << COUNT_BITS {
            assert!(seen.insert(ids.next(1)));
        }
        assert!(!seen.insert(ids.next(1)), "after 262,144 ids the first comes again");
    }

    #[test]
    fn ids_sort_by_second() {
        let mut ids = IdSource::new(0);
        let (first, second) = (ids.next(1_795_482_123), ids.next(1_795_482_124));
        assert!(first < second);
    }

    #[test]
    fn the_host_has_one_name_for_all_shards() {
        assert_eq!(IdSource::new(0).machine, IdSource::new(1).machine);
    }
}
