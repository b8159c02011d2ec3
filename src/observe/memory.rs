//! How much memory the process holds, as the kernel counts it (proc_pid_status(5)).
#![forbid(unsafe_code)]

use std::fs;

/// In bytes; 0 for what the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident and backed by no file: heap, stacks, rings.
    pub anonymous: u64,
    /// Resident in all, programs and libraries too.
    pub resident: u64,
    /// The main thread's stack; others are part of `anonymous`.
    pub stack: u64,
}

impl Memory {
    /// As it is now. Reads a file that the kernel makes up.
    pub fn now() -> Memory {
        fs::read_to_string("/proc/self/status").map(|text| Memory::parse(&text)).unwrap_or_default()
    }

    fn parse(status: &str) -> Memory {
        let kib = |key: &str| -> u64 {
            let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let number = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
            number.unwrap_or(0)
        };
        let bytes = |key| kib(key).saturating_mul(1024);
        Memory { anonymous: bytes("RssAnon"), resident: bytes("VmRSS"), stack: bytes("VmStk") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_kernels_text() {
        let status = "Name:\tchocon\nVmStk:\t     136 kB\nVmRSS:\t   12345 kB\nRssAnon:\t 4 kB\n";
        let expected = Memory { anonymous: 4096, resident: 12345 * 1024, stack: 136 * 1024 };
        assert_eq!(Memory::parse(status), expected);
        assert_eq!(Memory::parse("VmRSS:\tmany kB\nRssAnon\n"), Memory::default());
    }

    #[test]
    fn this_process_has_memory() {
        let Memory { anonymous, resident, stack } = Memory::now();
        assert!(anonymous > 0 && resident >= anonymous && stack > 0);
    }
}
