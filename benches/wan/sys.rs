//! The raw calls, one function each.

use std::ffi::{c_int, c_ulong};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::time::Duration;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Where other processes of this user can open `file`, as long as this process lives.
pub fn path_of(file: &impl AsRawFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

// NAMESPACES --------------------------------------------------------------------------------------

/// Moves this thread into a network namespace of its own, which is returned.
pub fn leave_network() -> io::Result<File> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    File::open("/proc/thread-self/ns/net")
}

/// Lets `command` start in `namespace`, with no signal of `blocked` blocked, and be ended should
/// this process be killed.
pub fn enter_before_exec(command: &mut Command, namespace: &File, blocked: &SignalSet) {
    let (namespace, blocked) = (namespace.as_raw_fd(), blocked.0);
    let prepare = move || {
        // SAFETY: the descriptor outlives the spawn, as the caller holds the file.
        check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
        // SAFETY: the set lives in this closure; the old one is not asked for.
        check(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &blocked, ptr::null_mut()) })?;
        Ok(())
    };
    // SAFETY: all it does between fork and exec are system calls; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

// DEVICES -----------------------------------------------------------------------------------------

/// `struct ifreq` of <linux/if.h>: a name and a union whose longest part has 24 bytes.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str) -> Self {
        let mut request = Self { name: [0; libc::IFNAMSIZ], value: [0; 24] };
        // One byte stays zero, the end of the name.
        let len = name.len().min(libc::IFNAMSIZ - 1);
        request.name[..len].copy_from_slice(&name.as_bytes()[..len]);
        request
    }

    fn with(name: &str, value: &[u8]) -> Self {
        let mut request = Self::new(name);
        request.value[..value.len()].copy_from_slice(value);
        request
    }

    fn call(&mut self, fd: RawFd, number: c_ulong) -> io::Result<()> {
        // SAFETY: all numbers used here take a pointer to a struct ifreq, which this is, and the
        // kernel reads and writes no more than that.
        check(unsafe { libc::ioctl(fd, number as libc::Ioctl, ptr::from_mut(self)) }).map(drop)
    }
}

/// A new TUN device in this thread's namespace; its packets are read and written, one a call,
/// without waiting. It ends when the file is closed.
pub fn open_tun(name: &str) -> io::Result<File> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // Packets as they are, without a head of TUN's own in front.
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    Request::with(name, &flags.to_ne_bytes())
        .call(device.as_raw_fd(), libc::TUNSETIFF as c_ulong)?;
    Ok(device)
}

/// Settings of the network devices of this thread's namespace, by the calls of netdevice(7).
pub struct Interfaces(UdpSocket);

impl Interfaces {
    pub fn open() -> io::Result<Self> {
        // Any socket will do; that of a new namespace without addresses can be bound to none.
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map(Self)
    }

    pub fn set_up(&self, name: &str) -> io::Result<()> {
        let mut request = Request::new(name);
        request.call(self.0.as_raw_fd(), libc::SIOCGIFFLAGS as c_ulong)?;
        let flags = i16::from_ne_bytes([request.value[0], request.value[1]]) | libc::IFF_UP as i16;
        request.value[..2].copy_from_slice(&flags.to_ne_bytes());
        request.call(self.0.as_raw_fd(), libc::SIOCSIFFLAGS as c_ulong)
    }

    pub fn set_mtu(&self, name: &str, bytes: usize) -> io::Result<()> {
        let bytes = c_int::try_from(bytes).map_err(io::Error::other)?;
        self.set(name, &bytes.to_ne_bytes(), libc::SIOCSIFMTU as c_ulong)
    }

    pub fn set_queue(&self, name: &str, packets: c_int) -> io::Result<()> {
        self.set(name, &packets.to_ne_bytes(), libc::SIOCSIFTXQLEN as c_ulong)
    }

    /// `name` may be an alias such as `lo:1`, which makes it one more address of the device.
    pub fn set_addr(&self, name: &str, addr: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        self.set(name, &socket_addr(addr), libc::SIOCSIFADDR as c_ulong)?;
        self.set(name, &socket_addr(mask), libc::SIOCSIFNETMASK as c_ulong)
    }

    fn set(&self, name: &str, value: &[u8], number: c_ulong) -> io::Result<()> {
        Request::with(name, value).call(self.0.as_raw_fd(), number)
    }
}

/// `struct sockaddr_in`: family, port 0, address; the rest of 16 bytes is zero.
fn socket_addr(addr: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&addr.octets());
    bytes
}

// TIME --------------------------------------------------------------------------------------------

/// Lets this thread run before all ordinary ones, and be woken to the microsecond instead of within
/// the usual 50.
pub fn run_before_others() -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as c_ulong) })?;
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is this thread; the parameter is read during the call only.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &lowest) }).map(drop)
}

/// Waits until a device or the pipe can be read, at most `within`. Which of them can be is returned,
/// the pipe last.
pub fn wait_readable(
    devices: [&File; 2],
    pipe: &impl AsFd,
    within: Option<Duration>,
) -> io::Result<[bool; 3]> {
    let fds = [devices[0].as_raw_fd(), devices[1].as_raw_fd(), pipe.as_fd().as_raw_fd()];
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let timeout = within.map(|within| libc::timespec {
        tv_sec: within.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(within.subsec_nanos()),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: pointer and length are those of one array; the time outlives the call; no signal set.
    let result = unsafe {
        libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout, ptr::null())
    };
    match check(result) {
        Ok(_) => Ok(polled.map(|one| one.revents & libc::POLLIN != 0)),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok([false; 3]),
        Err(e) => Err(e),
    }
}

// PROCESSES ---------------------------------------------------------------------------------------

/// Signals that are waited for instead of acted on.
pub struct SignalSet(libc::sigset_t);

pub struct Signal {
    pub number: c_int,
    /// From kill(2), not from the kernel for a key of the terminal.
    pub from_process: bool,
}

impl SignalSet {
    /// Blocks them in this thread and in those that it starts.
    pub fn block(numbers: &[c_int]) -> io::Result<Self> {
        // SAFETY: a sigset_t of zeros is a valid place for sigemptyset to fill.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: the set is a valid one in each of the calls.
        unsafe {
            check(libc::sigemptyset(&mut set))?;
            for &number in numbers {
                check(libc::sigaddset(&mut set, number))?;
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut()))?;
        }
        Ok(Self(set))
    }

    pub fn wait(&self) -> io::Result<Signal> {
        loop {
            // SAFETY: a siginfo_t is plain memory that the call fills.
            let mut about: libc::siginfo_t = unsafe { mem::zeroed() };
            // SAFETY: both pointers are to values that outlive the call.
            match check(unsafe { libc::sigwaitinfo(&self.0, &mut about) }) {
                Ok(number) => {
                    return Ok(Signal { number, from_process: about.si_code <= 0 });
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Descendants whose parent ends become children of this process.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1 as c_ulong) }).map(drop)
}

/// To a child that has not been reaped, so that the number is nobody else's.
pub fn kill(pid: i32, signal: c_int) {
    // SAFETY: takes no pointer. An error means that it has ended, which is what was wanted.
    unsafe { libc::kill(pid, signal) };
}

pub enum Ended {
    /// Its pid, and its status as a shell says it: 128 + n after signal n.
    Child(i32, u8),
    NoneYet,
    NoChildren,
}

/// Takes note of one child that has ended.
pub fn reap() -> Ended {
    let mut status = 0;
    // SAFETY: the status outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    match pid {
        0 => Ended::NoneYet,
        pid if pid < 0 => Ended::NoChildren,
        pid if libc::WIFSIGNALED(status) => Ended::Child(pid, 128 + libc::WTERMSIG(status) as u8),
        pid => Ended::Child(pid, libc::WEXITSTATUS(status) as u8),
    }
}
