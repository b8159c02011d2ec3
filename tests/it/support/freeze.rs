//! One thread of the proxy held still, as by a CPU that is busy with something else.

use std::fs;

use super::eventually;
use super::proxy::Proxy;

/// The thread runs on when this goes.
pub struct Frozen {
    thread: libc::pid_t,
}

impl Proxy {
    /// Holds the thread of a shard still where it waits on its ring: anywhere else it may hold a lock of the standard
    /// library for a moment, and others would stand still with it. The calling thread must be the one that lets it go.
    #[track_caller]
    pub fn freeze_shard(&self, shard: usize) -> Frozen {
        let thread = self.thread_named(&format!("shard-{shard}"));
        let syscall = format!("/proc/{}/task/{thread}/syscall", self.pid());
        let on_ring = format!("{} ", libc::SYS_io_uring_enter);
        let mut frozen = None;
        eventually("the shard to wait on its ring", || {
            frozen = None;
            let held = Frozen::hold(thread);
            let now = fs::read_to_string(&syscall).expect("the thread's system call");
            frozen = now.starts_with(&on_ring).then_some(held);
            frozen.is_some()
        });
        frozen.expect("a thread held still")
    }

    /// The id of the thread that calls itself `name`.
    pub fn thread_named(&self, name: &str) -> libc::pid_t {
        let tasks = format!("/proc/{}/task", self.pid());
        let threads = fs::read_dir(tasks).expect("threads of the process");
        let ids = threads.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let is_named = |id: &String| {
            let comm = fs::read_to_string(format!("/proc/{}/task/{id}/comm", self.pid()));
            comm.is_ok_and(|comm| comm.trim() == name)
        };
        let id = ids.into_iter().find(is_named).unwrap_or_else(|| panic!("no thread {name}"));
        id.parse().expect("a thread id")
    }
}

impl Frozen {
    #[track_caller]
    fn hold(thread: libc::pid_t) -> Self {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: these calls take numbers only; the thread belongs to a child of ours.
        unsafe {
            let seized = libc::ptrace(libc::PTRACE_SEIZE, thread, none, none);
            assert_eq!(seized, 0, "PTRACE_SEIZE: {}", std::io::Error::last_os_error());
            let stopped = libc::ptrace(libc::PTRACE_INTERRUPT, thread, none, none);
            assert_eq!(stopped, 0, "PTRACE_INTERRUPT: {}", std::io::Error::last_os_error());
            let waited = libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL);
            assert_eq!(waited, thread, "waitpid: {}", std::io::Error::last_os_error());
        }
        Self { thread }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: as in `hold`. The process may be gone.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, none, none) };
    }
}
