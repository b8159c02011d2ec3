//! What all shards have of an origin, and which of them keeps its floor.

#![forbid(unsafe_code)]

use crate::upstream::table::Counts;

/// What all shards have of an origin, and whether this one keeps the floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub is_home: bool,
    pub open: usize,
    pub aging: usize,
    pub needed: usize,
    pub uses: usize,
    /// Fresh ones that are ready.
    pub fresh: usize,
    /// Requests that must not be sent twice came of late.
    pub is_careful: bool,
}

impl Census {
    /// `first` is where the search for the home begins.
    pub fn take(counts: impl Iterator<Item = Counts>, shard: usize, first: usize) -> Self {
        let counts: Vec<Counts> = counts.collect();
        let mut in_turn = counts.iter().cycle().skip(first).take(counts.len());
        let home = in_turn.find(|counts| counts.told.needed > 0);
        let sum = |of: fn(&Counts) -> u32| counts.iter().map(|counts| of(counts) as usize).sum();
        Self {
            is_home: home.is_some_and(|home| home.shard == shard),
            open: sum(|counts| counts.open),
            aging: sum(|counts| counts.told.aging.min(counts.open)),
            needed: sum(|counts| counts.told.needed),
            uses: sum(|counts| counts.told.uses),
            fresh: sum(|counts| counts.told.fresh.min(counts.open)),
            is_careful: counts.iter().any(|counts| counts.told.careful > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::table::Told;

    fn counts(open_needed: &[(u32, u32)]) -> impl Iterator<Item = Counts> {
        open_needed.iter().enumerate().map(|(shard, &(open, needed))| Counts {
            shard,
            open,
            told: Told { idle: open, needed, uses: 2, ..Told::default() },
        })
    }

    #[test]
    fn home_is_the_first_that_needs_it_counted_from_its_place() {
        let home = |needs: &[(u32, u32)], first| {
            let homes: Vec<usize> = (0..needs.len())
                .filter(|shard| Census::take(counts(needs), *shard, first).is_home)
                .collect();
            homes
        };
        assert_eq!(home(&[(0, 1), (0, 0), (0, 1)], 0), [0]);
        assert_eq!(home(&[(0, 1), (0, 0), (0, 1)], 1), [2]);
        assert_eq!(home(&[(0, 1), (0, 0), (0, 0)], 2), [0]);
        assert!(home(&[(9, 0), (0, 0)], 1).is_empty());
    }

    #[test]
    fn a_census_sums_over_all_shards_and_a_stale_count_is_no_more_than_what_is_open() {
        let told =
            |aging, fresh, careful| Told { idle: 0, aging, needed: 1, uses: 1, fresh, careful };
        let two = [
            Counts { shard: 0, open: 2, told: told(1, 0, 0) },
            Counts { shard: 1, open: 1, told: told(5, 3, 1) },
        ];
        let census = Census::take(two.into_iter(), 1, 0);
        let expected = Census {
            is_home: false,
            open: 3,
            aging: 2,
            needed: 2,
            uses: 2,
            fresh: 1,
            is_careful: true,
        };
        assert_eq!(census, expected);
    }
}
