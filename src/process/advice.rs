//! What this machine could do for latency and does not, and which flags together do less than each says: said once at the
//! start, with the remedy.

#![forbid(unsafe_code)]

use crate::config::Config;
use std::fs;

/// Flags that have no effect, or less than they ask for, because of another one.
pub fn on_flags(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    if config.keepalive_conns == 0 && !config.warm.is_empty() {
        notes.push(
            "--warm has no effect: with --keepalive-conns 0 no connection is idle".to_owned(),
        );
    }
    let rules = &config.rules;
    let ways = [rules.maps.is_empty(), rules.upgrade_https.is_empty(), rules.forward.is_empty()];
    if config.upstream.is_some() && ways.contains(&false) {
        notes.push(
            "--map, --upgrade-https and --forward have no effect: with --upstream all requests go there"
                .to_owned(),
        );
    }
    let most = config.max_conns_per_host;
    for warm in config.warm.iter().filter(|warm| most > 0 && warm.connections > most) {
        let (name, connections) = (&warm.origin.name, warm.connections);
        notes.push(format!(
            "--warm: {most} connections to {name} are kept ready and not {connections}: --max-conns-per-host allows \
             no more"
        ));
    }
    notes
}

/// More shards than CPUs.
pub fn on_shards(count: usize, cpus: usize) -> Option<String> {
    (count > cpus).then(|| {
        format!("{count} shards share {cpus} CPUs and take turns: --cores {cpus} is faster")
    })
}

/// Looks at kernel settings that no socket option can replace.
pub fn on_kernel() -> Option<&'static str> {
    // None where /proc is hidden: then there is nothing to say.
    let text = fs::read_to_string("/proc/sys/net/ipv4/tcp_slow_start_after_idle").ok()?;
    on_slow_start(&text)
}

/// RFC 5681 §4.1: the kernel shrinks the window of a connection that was idle for a retransmission time-out, so that the
/// first large answer or upload after a pause costs more round trips than it did before.
fn on_slow_start(setting: &str) -> Option<&'static str> {
    (setting.trim() == "1").then_some(
        "idle connections lose their congestion window here, which costs large uploads after a pause some round trips; \
         sysctl -w net.ipv4.tcp_slow_start_after_idle=0 keeps it (set it at the origin, too, for large answers)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_shrinks_is_said_and_one_that_stays_is_not() {
        assert!(on_slow_start("1\n").is_some_and(|advice| advice.contains("sysctl")));
        assert_eq!(on_slow_start("0\n"), None);
    }
}
