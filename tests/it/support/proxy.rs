//! The built binary as a child process: flags in, log lines and exit status out.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use super::ca::test_ca;
use super::{DEADLINE, eventually};

/// Held for writing from fork to exec of every process, for reading while a socket is closed.
pub static SPAWNING: RwLock<()> = RwLock::new(());

/// Lines of one stream of the process, collected by a thread.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

pub struct Proxy {
    child: Child,
    addr: SocketAddr,
    stderr: Lines,
    stdout: Lines,
    may_exit: bool,
    may_panic: bool,
}

/// A proxy to be: flags, environment and limits.
#[derive(Default)]
pub struct ProxyOptions {
    flags: Vec<String>,
    left_out: Vec<&'static str>,
    /// `None` takes the variable away.
    env: Vec<(String, Option<String>)>,
    nofile: Option<u64>,
    soft_nofile: Option<u64>,
    mounts: Vec<Mount>,
    unread_stdout: bool,
    /// Descriptors of this process, and the numbers that the proxy finds them under.
    descriptors: Vec<(RawFd, RawFd)>,
    told_by: Option<Supervisor>,
    io_uring_forbidden: bool,
}

/// Who passes listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supervisor {
    ServerStarter,
    Systemd,
}

/// What could put a proxy between ours and its origins, in upper case.
const PROXY_VARIABLES: [&str; 5] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "REQUEST_METHOD"];

/// One access-log record, its keys in their order.
#[derive(Clone, Debug)]
pub struct AccessLine {
    pub raw: String,
    pub pairs: Vec<(String, String)>,
}

impl Proxy {
    /// Two shards on a port of the kernel's choice, with `flags` on top.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Self {
        Self::options(flags).start()
    }

    /// One shard, for cases about which upstream connection is taken.
    #[track_caller]
    pub fn one_shard(flags: &[&str]) -> Self {
        Self::options(flags).flag("--cores", "1").start()
    }

    pub fn options(flags: &[&str]) -> ProxyOptions {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        ProxyOptions { flags, ..ProxyOptions::default() }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("status of the process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
    }

    /// CPU time of the whole process so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("stat");
        let (_, after_name) = stat.rsplit_once(')').expect("name of the process");
        // Fields 14 and 15 of proc_pid_stat(5), in ticks of 10 ms.
        let ticks = |index: usize| -> u64 {
            after_name.split_whitespace().nth(index).and_then(|n| n.parse().ok()).expect("ticks")
        };
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    pub fn open_descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).expect("descriptors of the process").count()
    }

    #[track_caller]
    pub fn signal(&self, signal: libc::c_int) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes two integers; the child is ours and not reaped yet.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "signal {signal} to the proxy");
    }

    /// Waits for a panic that the case provokes. Any other case fails by one.
    #[cfg(debug_assertions)]
    #[track_caller]
    pub fn expect_panic(&mut self) {
        self.wait_for_log("panicked");
        self.may_panic = true;
    }

    /// The exit status, within the deadline.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.may_exit = true;
        let child = &mut self.child;
        let mut status = None;
        let stderr = self.stderr.clone();
        let until = Instant::now() + DEADLINE;
        while status.is_none() {
            assert!(Instant::now() < until, "the proxy runs on; its log:\n{}", stderr.text());
            status = child.try_wait().expect("wait for the proxy");
            thread::sleep(Duration::from_millis(5));
        }
        stderr.wait("", |_, ended| ended.then_some(()));
        status.expect("a status")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("look at the proxy").is_none()
    }

    /// Where the case finds what the process sees at the absolute `path`, in its own mounts too.
    pub fn seen_path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    /// The first log line with `needle` in it.
    #[track_caller]
    pub fn wait_for_log(&self, needle: &str) -> String {
        self.stderr.wait(needle, |lines, _| lines.iter().find(|l| l.contains(needle)).cloned())
    }

    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// Starts to read the stdout of a process begun with [`ProxyOptions::unread_stdout`].
    pub fn read_stdout(&mut self) {
        self.stdout = Lines::collect(self.child.stdout.take().expect("an unread stdout"));
    }

    pub fn stdout_text(&self) -> String {
        self.stdout.text()
    }

    /// Access-log records so far, from stderr and stdout.
    pub fn access_log_lines(&self) -> Vec<AccessLine> {
        let parse = |text: String| text.lines().filter_map(AccessLine::parse).collect::<Vec<_>>();
        let mut lines = parse(self.stderr.text());
        lines.extend(parse(self.stdout.text()));
        lines
    }

    /// The first access-log record for which `is` holds.
    #[track_caller]
    pub fn wait_for_access_line(&self, is: impl Fn(&AccessLine) -> bool) -> AccessLine {
        let mut found = None;
        eventually(&format!("an access-log record; the log:\n{}", self.log()), || {
            found = self.access_log_lines().into_iter().find(|line| is(line));
            found.is_some()
        });
        found.expect("a record")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let exited = self.child.try_wait().ok().flatten();
        // The process is ours and may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.stderr.text();
        if thread::panicking() {
            eprintln!("--- log of the proxy\n{log}--- end of the log");
            return;
        }
        assert!(self.may_panic || !log.contains("panicked"), "the proxy panicked:\n{log}");
        if let Some(status) = exited.filter(|_| !self.may_exit) {
            panic!("the proxy ended by itself ({status}):\n{log}");
        }
    }
}

impl ProxyOptions {
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Leaves out a flag that the fixture would give: the environment or the default decides.
    pub fn without_flag(mut self, name: &'static str) -> Self {
        self.left_out.push(name);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.env.push((name.to_owned(), None));
        self
    }

    /// Soft and hard limit of open descriptors.
    pub fn nofile(mut self, limit: u64) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// Soft limit of open descriptors alone; the hard one stays as it is.
    pub fn soft_nofile(mut self, limit: u64) -> Self {
        self.soft_nofile = Some(limit);
        self
    }

    /// Nobody reads the process's stdout, so that its pipe fills up.
    pub fn unread_stdout(mut self) -> Self {
        self.unread_stdout = true;
        self
    }

    /// Passes `sockets` as descriptors 3, 4 and so on, as `supervisor` does. They must live until the start.
    pub fn inherit(mut self, supervisor: Supervisor, sockets: &[&dyn AsRawFd]) -> Self {
        self.descriptors = sockets.iter().map(|socket| socket.as_raw_fd()).zip(3..).collect();
        self.told_by = Some(supervisor);
        let entries = self.descriptors.iter().map(|(_, number)| format!("0={number}"));
        match supervisor {
            Supervisor::ServerStarter => {
                let ports = entries.collect::<Vec<_>>().join(";");
                self.env("SERVER_STARTER_PORT", &ports)
            }
            Supervisor::Systemd => self.env("LISTEN_FDS", &sockets.len().to_string()),
        }
    }

    /// Makes io_uring_setup(2) fail with EPERM, as the seccomp profile of a container does.
    pub fn forbid_io_uring(mut self) -> Self {
        self.io_uring_forbidden = true;
        self
    }

    /// Lets the process see `file` in the place of `target`, in a mount namespace of its own.
    pub fn mount(mut self, file: &str, target: &str) -> Self {
        self.mounts.push(Mount::bind(file, target));
        self
    }

    /// Gives the process a disk of `bytes` at `target`, in a mount namespace of its own; see
    /// [`Proxy::seen_path`].
    pub fn small_disk(mut self, target: &str, bytes: usize) -> Self {
        self.mounts.push(Mount::small_disk(target, bytes));
        self
    }

    #[track_caller]
    pub fn start(self) -> Proxy {
        let (child, stdout, stderr) = self.spawn();
        let line = stderr.wait("listening on", |lines, ended| {
            let line = lines.iter().find(|line| line.contains("listening on ")).cloned();
            assert!(line.is_some() || !ended, "the proxy did not start:\n{}", lines.join("\n"));
            line
        });
        let addr = line
            .split_once("listening on ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .and_then(|addr| addr.parse().ok())
            .unwrap_or_else(|| panic!("no address in {line:?}"));
        Proxy { child, addr, stderr, stdout, may_exit: false, may_panic: false }
    }

    /// Does not wait until it serves, so that it has no address yet.
    pub fn start_waiting(self) -> Proxy {
        let (child, stdout, stderr) = self.spawn();
        let addr = SocketAddr::from(([0, 0, 0, 0], 0));
        Proxy { child, addr, stderr, stdout, may_exit: false, may_panic: false }
    }

    /// Runs to the end without ever listening: status, stdout, stderr.
    #[track_caller]
    pub fn run_to_end(self) -> (ExitStatus, String, String) {
        let (mut child, stdout, stderr) = self.spawn();
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = child.try_wait().expect("wait for the proxy") {
                stdout.wait("end", |_, ended| ended.then_some(()));
                stderr.wait("end", |_, ended| ended.then_some(()));
                return (status, stdout.text(), stderr.text());
            }
            if Instant::now() > until {
                // The process is ours; the case has failed.
                let _ = child.kill();
                let _ = child.wait();
                panic!("the proxy runs on; its log:\n{}", stderr.text());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn spawn(self) -> (Child, Lines, Lines) {
        let given = |names: &[&str]| self.flags.iter().any(|flag| names.contains(&flag.as_str()));
        let binary = std::env::var("CHOCON_URING_BIN")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_chocon-uring").to_owned());
        // Only the process itself knows its id before exec, which LISTEN_PID has to say.
        let mut command = match self.told_by {
            Some(Supervisor::Systemd) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "LISTEN_PID=$$; export LISTEN_PID; exec \"$0\" \"$@\"", &binary]);
                shell
            }
            Some(Supervisor::ServerStarter) | None => Command::new(binary),
        };
        for (names, value) in [
            (["--listen", "-l"], "127.0.0.1"),
            (["--port", "-p"], "0"),
            (["--cores", "--cores"], "2"),
        ] {
            if !given(&names) && !self.left_out.contains(&names[0]) {
                command.args([names[0], value]);
            }
        }
        command.args(&self.flags).env("SSL_CERT_FILE", &test_ca().file).env_remove("SSL_CERT_DIR");
        // A case says itself which flags the environment sets.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let of_supervisors =
                ["SERVER_STARTER_PORT", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET"];
            if text.starts_with("CHOCON_") || of_supervisors.contains(&text.as_ref()) {
                command.env_remove(name);
            }
        }
        // The origins are on loopback and in the minds of the cases; no real proxy knows them.
        for name in PROXY_VARIABLES {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mounts = self.mounts;
        let (nofile, soft_nofile) = (self.nofile, self.soft_nofile);
        let io_uring_forbidden = self.io_uring_forbidden;
        let descriptors = self.descriptors;
        // SAFETY: between fork and exec only system calls run, on memory prepared before.
        unsafe {
            command.pre_exec(move || {
                enter_mounts(&mounts)?;
                place_descriptors(&descriptors)?;
                if io_uring_forbidden {
                    forbid_io_uring()?;
                }
                limit_descriptors(nofile, soft_nofile)
            });
        }
        let mut child = {
            // `spawn` comes back after exec, or after it failed.
            let _no_socket_is_closed = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
            command.spawn().expect("spawn the proxy")
        };
        let stdout = match self.unread_stdout {
            true => Lines::default(),
            false => Lines::collect(child.stdout.take().expect("stdout")),
        };
        let stderr = Lines::collect(child.stderr.take().expect("stderr"));
        (child, stdout, stderr)
    }
}

/// Arguments of mount(2), made before the fork.
struct Mount {
    source: CString,
    target: CString,
    kind: Option<CString>,
    flags: libc::c_ulong,
    options: CString,
}

impl Mount {
    fn bind(file: &str, target: &str) -> Self {
        let (source, options) = (c(file), c(""));
        Self { source, target: c(target), kind: None, flags: libc::MS_BIND, options }
    }

    fn small_disk(target: &str, bytes: usize) -> Self {
        let (source, kind) = (c("none"), Some(c("tmpfs")));
        let options = c(&format!("size={bytes}"));
        Self { source, target: c(target), kind, flags: 0, options }
    }
}

fn c(text: &str) -> CString {
    CString::new(text).expect("text without NUL")
}

/// Whether this user may give a process a view of its own on a file.
pub fn can_mount() -> bool {
    let mut command = Command::new("true");
    // SAFETY: two system calls between fork and exec.
    unsafe {
        command.pre_exec(enter_mount_namespace);
    }
    let child = {
        let _no_socket_is_closed = SPAWNING.write().unwrap_or_else(PoisonError::into_inner);
        command.spawn()
    };
    child.and_then(|mut child| child.wait()).is_ok_and(|status| status.success())
}

/// A mount namespace of its own, for which all but root need a user namespace too.
fn enter_mount_namespace() -> std::io::Result<()> {
    // SAFETY: plain system calls without memory.
    let result = unsafe {
        let user = if libc::geteuid() == 0 { 0 } else { libc::CLONE_NEWUSER };
        libc::unshare(libc::CLONE_NEWNS | user)
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn enter_mounts(mounts: &[Mount]) -> std::io::Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    let check = |result| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    enter_mount_namespace()?;
    let null = std::ptr::null();
    // SAFETY: all strings are NUL-terminated and live; a null type and data are allowed (mount(2)).
    unsafe {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(null, c"/".as_ptr(), null, private, null.cast()))?;
        for Mount { source, target, kind, flags, options } in mounts {
            let kind = kind.as_ref().map_or(null, |kind| kind.as_ptr());
            let options = options.as_ptr().cast();
            check(libc::mount(source.as_ptr(), target.as_ptr(), kind, *flags, options))?;
        }
    }
    Ok(())
}

/// Moves descriptors to their numbers, by way of high ones so that none overwrites another's source.
fn place_descriptors(descriptors: &[(RawFd, RawFd)]) -> std::io::Result<()> {
    const HIGH: RawFd = 200;
    let check = |result| match result {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    for (own, number) in descriptors {
        // SAFETY: plain system calls on descriptor numbers.
        check(unsafe { libc::dup2(*own, HIGH + number) })?;
    }
    for (_, number) in descriptors {
        // SAFETY: as above.
        check(unsafe { libc::dup2(HIGH + number, *number) | libc::close(HIGH + number) })?;
    }
    Ok(())
}

fn limit_descriptors(both: Option<u64>, soft: Option<u64>) -> std::io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let check = |result| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: the struct is live and of the type that getrlimit(2) writes.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if let Some(both) = both {
        limit = libc::rlimit { rlim_cur: both, rlim_max: both };
    }
    if let Some(soft) = soft {
        limit.rlim_cur = soft;
    }
    // SAFETY: the struct is live and of the type that setrlimit(2) reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}

/// A seccomp filter of four instructions (seccomp(2)): one call fails, all others pass.
fn forbid_io_uring() -> std::io::Result<()> {
    let call = u32::try_from(libc::SYS_io_uring_setup).expect("a system call");
    let denied = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("an instruction"),
        jt,
        jf,
        k,
    };
    let mut steps = [
        // The number of the call stands first in `struct seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, denied),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the program and its steps are live during both calls, which copy what they need.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

impl Lines {
    fn collect(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let for_thread = lines.clone();
        thread::spawn(move || {
            let (collected, changed) = &*for_thread.0;
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                collected.lock().expect("lines").lines.push(line);
                changed.notify_all();
            }
            collected.lock().expect("lines").ended = true;
            changed.notify_all();
        });
        lines
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, look: impl Fn(&[String], bool) -> Option<T>) -> T {
        let (collected, changed) = &*self.0;
        let until = Instant::now() + DEADLINE;
        let mut guard = collected.lock().expect("lines");
        loop {
            if let Some(found) = look(&guard.lines, guard.ended) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            let over = left.is_zero();
            assert!(!over, "no {what:?} in the log:\n{}", guard.lines.join("\n"));
            guard = changed.wait_timeout(guard, left).expect("lines").0;
        }
    }

    fn text(&self) -> String {
        let guard = self.0.0.lock().expect("lines");
        guard.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

impl AccessLine {
    /// A flat JSON object with the key that only access-log records have.
    pub fn parse(line: &str) -> Option<Self> {
        if !line.starts_with('{') || !line.contains("\"chocon_req\":") {
            return None;
        }
        let mut pairs = Vec::new();
        let mut rest = line.strip_prefix('{')?;
        loop {
            let (key, after) = json_string(rest)?;
            let after = after.strip_prefix(':')?;
            let (value, after) = match after.starts_with('"') {
                true => json_string(after)?,
                false => {
                    let end = after.find([',', '}'])?;
                    (after[..end].to_owned(), &after[end..])
                }
            };
            pairs.push((key, value));
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => return (after == "}").then(|| Self { raw: line.to_owned(), pairs }),
            }
        }
    }

    #[track_caller]
    pub fn get(&self, key: &str) -> &str {
        let pair = self.pairs.iter().find(|(name, _)| name == key);
        &pair.unwrap_or_else(|| panic!("no {key} in {}", self.raw)).1
    }

    pub fn keys(&self) -> Vec<&str> {
        self.pairs.iter().map(|(key, _)| key.as_str()).collect()
    }
}

/// One JSON string (RFC 8259 §7) and what follows it; surrogate pairs are not needed here.
fn json_string(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((out, &inner[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                'u' => {
                    let digits: String = chars.by_ref().take(4).map(|(_, digit)| digit).collect();
                    out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
                }
                plain => out.push(plain),
            },
            plain => out.push(plain),
        }
    }
    None
}
