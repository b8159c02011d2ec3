//! What the limit of open files leaves for connections.

#![forbid(unsafe_code)]

use crate::limits::{DESCRIPTORS_A_SHARD, DESCRIPTORS_RESERVED};

/// How many connections each shard may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    pub clients_max: usize,
    pub origins_max: usize,
}

/// Shares `limit` descriptors out among `shards`, which have `listeners` in all.
///
/// Errors: not one client and one origin are left for each. Cause and remedy in words.
pub fn share(limit: u64, shards: usize, listeners: usize) -> Result<Connections, String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let taken = DESCRIPTORS_RESERVED + shards * DESCRIPTORS_A_SHARD + listeners;
    let room = limit.saturating_sub(taken);
    // A client may be idle without an origin connection, but not the other way round for long: origins need fewer.
    let (clients, origins) = (room / 8 * 5, room / 8 * 3);
    let connections = Connections { clients_max: clients / shards, origins_max: origins / shards };
    if connections.clients_max == 0 || connections.origins_max == 0 {
        // Of each eight three are for origins.
        let least = taken + shards.div_ceil(3) * 8;
        return Err(format!(
            "{limit} open files are too few for {shards} shards, which need {least} at least and two more for each client; \
             raise the limit (LimitNOFILE= in the unit, ulimit -n in a shell), or give fewer --cores"
        ));
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_shared_out_to_the_last_and_one_less_is_refused() {
        for shards in [1, 2, 3, 8, 64, 1024] {
            let is_enough = |limit: &u64| share(*limit, shards, shards).is_ok();
            let least = (1..).find(is_enough).unwrap();
            let text = share(least - 1, shards, shards).unwrap_err();
            assert!(text.contains(&format!("which need {least} at least")), "{least}: {text}");
            let Connections { clients_max, origins_max } = share(least, shards, shards).unwrap();
            let used = shards * (DESCRIPTORS_A_SHARD + 1 + clients_max + origins_max);
            assert!(used + DESCRIPTORS_RESERVED <= usize::try_from(least).unwrap(), "{shards}");
        }
    }

    #[test]
    fn no_limit_is_too_large() {
        let connections = share(u64::MAX, 1, 1).unwrap();
        assert!(connections.clients_max > connections.origins_max);
        let usual = share(1_048_576, 2, 2).unwrap();
        assert_eq!(usual, Connections { clients_max: 327_612, origins_max: 196_567 });
    }
}
