//! One io_uring runtime on the calling thread, pinned to its CPU.

#![forbid(unsafe_code)]

use monoio::{IoUringDriver, Runtime, RuntimeBuilder, time::TimeDriver};
use std::{fmt, io};

/// Entries of the submission queue; the completion queue takes eight times as many. A burst beyond either costs
/// another system call, never an operation.
const RING_ENTRIES: u32 = 2048;

/// How a ring is set up, best first. All of them let the kernel finish work on this thread only when it asks, which
/// saves the interrupts between threads (a quarter of the CPU time a request).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFlags {
    /// Linux 6.1.
    SingleIssuerDeferTaskrun,
    /// Linux 5.19.
    CoopTaskrun,
    Plain,
}

const BY_PREFERENCE: [RingFlags; 3] =
    [RingFlags::SingleIssuerDeferTaskrun, RingFlags::CoopTaskrun, RingFlags::Plain];

impl fmt::Display for RingFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RingFlags::SingleIssuerDeferTaskrun => "SINGLE_ISSUER | DEFER_TASKRUN",
            RingFlags::CoopTaskrun => "COOP_TASKRUN",
            RingFlags::Plain => "no flags",
        })
    }
}

impl RingFlags {
    fn builder(self) -> io_uring::Builder {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_cqsize(RING_ENTRIES * 8);
        match self {
            RingFlags::SingleIssuerDeferTaskrun => {
                builder.setup_single_issuer().setup_defer_taskrun();
            }
            RingFlags::CoopTaskrun => {
                builder.setup_coop_taskrun();
            }
            RingFlags::Plain => {}
        }
        builder
    }
}

/// Finds the best flags that this kernel takes, by building a small ring with each. Errors: why no ring can be had,
/// and what to do, in words.
pub fn probe() -> Result<RingFlags, String> {
    let mut last = None;
    for flags in BY_PREFERENCE {
        match flags.builder().build(8) {
            Ok(_ring) => return Ok(flags),
            Err(e) => last = Some(e),
        }
    }
    Err(explain(last.unwrap_or_else(|| io::ErrorKind::Unsupported.into())))
}

fn explain(error: io::Error) -> String {
    let disabled =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let (cause, remedy) = match (error.raw_os_error(), disabled.trim()) {
        (Some(libc::EPERM), "2") => (
            "the kernel has it switched off (kernel.io_uring_disabled = 2)",
            "run: sysctl -w kernel.io_uring_disabled=0",
        ),
        (Some(libc::EPERM), "1") => (
            "the kernel allows it to privileged processes only (kernel.io_uring_disabled = 1)",
            "run: sysctl -w kernel.io_uring_disabled=0, or add this user's group to kernel.io_uring_group",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a security policy forbids it (seccomp of a container, SELinux)",
            "allow io_uring_setup, io_uring_enter and io_uring_register; with Docker: --security-opt seccomp=PROFILE",
        ),
        (Some(libc::ENOSYS), _) => (
            "this kernel does not have it, or a seccomp profile hides it",
            "use Linux 5.19 or later; in a container allow io_uring_setup, io_uring_enter, io_uring_register",
        ),
        (Some(libc::ENOMEM), _) => (
            "there is not enough memory that may be locked",
            "raise the limit: ulimit -l unlimited, or LimitMEMLOCK=infinity",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => (
            "there is no free file descriptor",
            "raise the limit: ulimit -n 65536, or LimitNOFILE=",
        ),
        _ => ("the kernel refused it", "use Linux 5.19 or later with io_uring on"),
    };
    format!("io_uring is needed and cannot be had: {cause} ({error}). {remedy}")
}

/// Builds the runtime of the calling thread; it must not leave this thread.
pub fn build(flags: RingFlags) -> io::Result<Runtime<TimeDriver<IoUringDriver>>> {
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(flags.builder())
        .enable_timer()
        .build()
}

/// One CPU.
pub type Cpu = core_affinity::CoreId;

/// The CPUs that this process may use, in order.
pub fn cpus() -> Vec<Cpu> {
    core_affinity::get_core_ids().unwrap_or_default()
}

/// Pins the calling thread. Returns whether the kernel did.
pub fn pin(cpu: Cpu) -> bool {
    core_affinity::set_for_current(cpu)
}
