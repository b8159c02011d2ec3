//! What this machine could do for latency and does not: said once at the start, with the remedy.

#![forbid(unsafe_code)]

use std::fs;

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
