//! The command that the link is for: started in the near namespace, told of signals, and ended
//! with all that it left running.

use std::fs::{self, File};
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::sys::{self, Ended, SignalSet};

/// What is left running gets SIGTERM, and SIGKILL after this.
const GRACE: Duration = Duration::from_secs(3);

const LOOK_EVERY: Duration = Duration::from_millis(20);

pub fn block_signals() -> io::Result<SignalSet> {
    SignalSet::block(&[libc::SIGCHLD, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM])
}

/// Runs `command` to its end in `namespace`; returns its exit status, as a shell would say it.
pub fn run(
    command: &[String],
    namespace: &File,
    variables: &[(&str, String)],
    signals: &SignalSet,
) -> io::Result<u8> {
    // Whoever daemonises below the command becomes a child of this process, so none is missed.
    sys::adopt_orphans()?;
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    sys::enter_before_exec(&mut command, namespace, signals);
    let child = command
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{program} cannot be started: {e}")))?;
    let pid = child.id().cast_signed();
    let status = loop {
        let signal = signals.wait()?;
        if signal.number != libc::SIGCHLD {
            // The terminal tells the whole foreground group by itself.
            if signal.from_process {
                sys::kill(pid, signal.number);
            }
            continue;
        }
        if let Some(status) = reap_until(pid) {
            break status;
        }
    };
    end_rest();
    Ok(status)
}

/// Takes note of every child that has ended; returns the status of `pid` if it was among them.
fn reap_until(pid: i32) -> Option<u8> {
    loop {
        match sys::reap() {
            Ended::Child(ended, status) if ended == pid => return Some(status),
            Ended::Child(..) => {}
            Ended::NoneYet | Ended::NoChildren => return None,
        }
    }
}

/// Ends every process that descends from the command. Those whose parent ends are adopted, so it is
/// done when there are no children.
fn end_rest() {
    let started = Instant::now();
    let mut told = Vec::new();
    loop {
        loop {
            match sys::reap() {
                Ended::Child(pid, _) => told.retain(|&other| other != pid),
                Ended::NoneYet => break,
                Ended::NoChildren => return,
            }
        }
        for pid in children() {
            if started.elapsed() > GRACE {
                sys::kill(pid, libc::SIGKILL);
            } else if !told.contains(&pid) {
                sys::kill(pid, libc::SIGTERM);
                told.push(pid);
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The children of all threads of this process; none where the kernel does not list them.
fn children() -> Vec<i32> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
