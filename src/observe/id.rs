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

/// Of these, from the first: the ones that the counter has no part in. 70 bits: all but two of the process.
const BEGIN_BYTES: usize = 14;

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
    /// 24 bits.
    machine: u32,
    process: u16,
    shard: u32,
    count: u32,
    /// The last id and its second: the next of that second has the same beginning.
    last: Id,
    second: Option<u32>,
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
        IdSource {
            machine: machine as u32 & 0xff_ffff,
            // xid takes the low 16 bits of the process id.
            process: (process as u16).wrapping_add((shard / shards_in_counter) as u16),
            shard: (shard % shards_in_counter) as u32,
            count: start as u32,
            last: Id([0; ID_BYTES]),
            second: None,
        }
    }

    /// The next id; `unix_secs` is the present second, read as unsigned 32 bits (until 2106).
    pub fn next(&mut self, unix_secs: u32) -> Id {
        self.count = self.count.wrapping_add(1) & ((1 << COUNT_BITS) - 1);
        let counter = u64::from(self.count << SHARD_BITS | self.shard);
        let (machine, process) = (u64::from(self.machine), u64::from(self.process));
        let (begin, end) = self.last.0.split_at_mut(BEGIN_BYTES);
        if self.second != Some(unix_secs) {
            self.second = Some(unix_secs);
            let (first, second) = begin.split_at_mut(8);
            encode(u64::from(unix_secs) << 8 | machine >> 16, first);
            encode(machine << 14 | process >> 2, second);
        }
        encode(process << 28 | counter << 4, end);
        self.last
    }
}

/// RFC 4648 §7 in lower case without padding, which makes the last four bits of an id zero: writes the low bits of `bits`,
/// five a character.
fn encode(mut bits: u64, text: &mut [u8]) {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    for character in text.iter_mut().rev() {
        *character = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
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
        // The vector of xid's own tests: 4d88e15b 60f486 e428 412dc9.
        let (shard, count) = (0x41_2dc9 % 64, 0x41_2dc9 / 64);
        let mut ids = IdSource::with(shard, 0x60_f486, 0xe428, count - 1);
        assert_eq!(ids.next(0x4d88_e15b).to_string(), "9m4e2mr0ui3e8a215n4g");
    }

    #[test]
    fn an_id_is_of_its_own_second_and_counts_on() {
        let (mut one, mut other) = (IdSource::with(3, 7, 4321, 9), IdSource::with(3, 7, 4321, 9));
        let seconds = [0, 0, 1_795_482_123, 1_795_482_123, 1_795_482_122, u32::MAX, u32::MAX];
        for second in seconds {
            // The other never has two ids of a second in a row.
            other.next(second ^ 1);
            other.count = one.count;
            assert_eq!(one.next(second), other.next(second), "{second}");
        }
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
