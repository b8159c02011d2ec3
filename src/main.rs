//! Flags to configuration to process to exit status.

use chocon_uring::{cli, process};
use std::{io::Write, process::ExitCode};

/// Gives whole pages back after a burst, where glibc's keeps them below what lives on (PERF.md, "Memory, step by step").
/// Its C side (`override`) takes what the TLS library's C code allocates, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let status = match cli::parse(std::env::args_os(), std::env::vars_os()) {
        Ok(config) if config.check_only => process::check(&config),
        Ok(config) => process::run(config),
        Err(mut exit) => {
            if exit.check_only {
                // Not what depends on flags: it is not known what they should have been.
                for mistake in process::check_host() {
                    exit.text.push_str(&mistake);
                    exit.text.push('\n');
                }
            }
            // If the text cannot be written, the status still says it.
            match exit.to {
                cli::Output::Stdout => std::io::stdout().write_all(exit.text.as_bytes()).ok(),
                cli::Output::Stderr => std::io::stderr().write_all(exit.text.as_bytes()).ok(),
            };
            exit.code
        }
    };
    // Not by returning: threads of shards must not unwind while the kernel may write to their buffers.
    std::process::exit(status)
}
