//! The raw calls: a socket that reads and writes at once, and the few system calls that no crate wraps.
//!
//! The only `unsafe` of the serving code stands here, each block with its reason.

#![allow(unsafe_code)]

use crate::shard::blocks::Block;
use monoio::{
    BufResult,
    buf::{IoBuf, IoBufMut, SliceMut},
    io::{AsyncReadRent, AsyncWriteRent},
    net::TcpStream,
};
use std::{
    cell::{Cell, UnsafeCell},
    io,
    ops::Range,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
    time::Duration,
};

/// A TCP connection of this shard that may read and write at the same time.
///
/// A dropped `recv` or `send` future leaves the connection in an unknown state: bytes may be lost. Whoever drops one
/// must not use the connection again. Closed on drop.
pub struct Socket {
    stream: UnsafeCell<TcpStream>,
    /// Bytes of all sends that were begun.
    begun: Cell<u64>,
}

/// TCP options of a connection (tcp(7)).
#[derive(Clone, Copy, Debug)]
pub struct Tuning<'t> {
    /// Silence before the first keep-alive probe, in whole seconds.
    pub keepalive_idle: Duration,
    /// From probe to probe while none is answered, in whole seconds.
    pub keepalive_interval: Duration,
    /// How long sent data, or a probe, may go unacknowledged.
    pub user_timeout: Duration,
    /// Bytes that may wait unsent before a send waits.
    pub notsent_lowat_bytes: u32,
    /// None leaves the kernel's default.
    pub congestion: Option<&'t str>,
}

impl Tuning<'_> {
    fn apply(&self, fd: RawFd) -> io::Result<()> {
        let whole = |n: u128| i32::try_from(n).unwrap_or(i32::MAX);
        let secs = |d: Duration| whole(d.as_secs().into());
        let tcp = libc::IPPROTO_TCP;
        let numbers = [
            // Small segments go at once: TLS handshakes and heads must not wait for an acknowledgement.
            (tcp, libc::TCP_NODELAY, 1),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (tcp, libc::TCP_KEEPIDLE, secs(self.keepalive_idle)),
            (tcp, libc::TCP_KEEPINTVL, secs(self.keepalive_interval)),
            (tcp, libc::TCP_USER_TIMEOUT, whole(self.user_timeout.as_millis())),
            (tcp, libc::TCP_NOTSENT_LOWAT, whole(self.notsent_lowat_bytes.into())),
        ];
        let mut result = Ok(());
        for (level, option, value) in numbers {
            result = result.and(set_option(fd, level, option, &value.to_ne_bytes()));
        }
        match self.congestion {
            Some(name) => result.and(set_option(fd, tcp, libc::TCP_CONGESTION, name.as_bytes())),
            None => result,
        }
    }
}

fn set_option(fd: RawFd, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which the call only reads.
    let failed = unsafe {
        libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this process may use a congestion control: asks the kernel by setting it on a socket that is closed again.
/// Loads the kernel's module where the process has the right to (tcp(7)).
pub fn try_congestion(name: &str) -> io::Result<()> {
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_bytes())
}

/// Takes a connection on which nothing is under way out of this shard, for another one.
pub fn release(stream: TcpStream) -> OwnedFd {
    let fd = stream.into_raw_fd();
    // SAFETY: `fd` is open, and its only owner has just given it up.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A send that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendError {
    pub kind: io::ErrorKind,
    /// Not one byte was taken by the kernel, so none can have reached the peer.
    pub nothing_sent: bool,
}

/// Which direction to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A pending receive gets the end of the stream; sending still works.
    Read,
    /// The peer gets FIN.
    Write,
    Both,
}

/// What a look at a socket without reading shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Connected, nothing to read.
    Quiet,
    /// Bytes are waiting.
    Bytes,
    /// The peer has ended or reset the connection.
    Ended,
}

impl Socket {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: UnsafeCell::new(stream), begun: Cell::new(0) }
    }

    /// Takes a connection into this shard's ring. Errors: the runtime refuses it, and it is closed.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        TcpStream::from_std(std::net::TcpStream::from(fd)).map(Self::new)
    }

    /// A second descriptor of the same connection, for another shard.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: a plain system call on a descriptor that is open as long as `self` lives.
        let fd = unsafe { libc::fcntl(self.fd(), libc::F_DUPFD_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and owned by nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Receives at least one byte into `block[range]`, or 0 at the end of the stream.
    pub async fn recv(&self, block: Block, range: Range<usize>) -> (io::Result<usize>, Block) {
        // SAFETY: `TcpStream: Split` is monoio's promise that one read and one write may be under way at once. `read`
        // uses the exclusive reference only to clone the descriptor when it submits; the future holds that clone.
        let stream = unsafe { &mut *self.stream.get() };
        let (result, slice) = stream.read(SliceMut::new(block, range.start, range.end)).await;
        (result, slice.into_inner())
    }

    /// Sends all of `block[range]`.
    pub async fn send(
        &self,
        mut block: Block,
        mut range: Range<usize>,
    ) -> (Result<(), SendError>, Block) {
        let begin = range.start;
        self.begun.set(self.begun.get() + range.len() as u64);
        while !range.is_empty() {
            // SAFETY: as in `recv`; `write` likewise only clones the descriptor.
            let stream = unsafe { &mut *self.stream.get() };
            let (result, slice) = stream.write(block.slice(range.clone())).await;
            block = slice.into_inner();
            let kind = match result {
                Ok(sent @ 1..) => {
                    range.start += sent;
                    continue;
                }
                Ok(0) => io::ErrorKind::WriteZero,
                Err(e) => e.kind(),
            };
            return (Err(SendError { kind, nothing_sent: range.start == begin }), block);
        }
        (Ok(()), block)
    }

    /// Sends some of `buf`, in any form; for the TLS handshake.
    pub async fn write<T: IoBuf>(&self, buf: T) -> BufResult<usize, T> {
        // SAFETY: as in `send`.
        let stream = unsafe { &mut *self.stream.get() };
        stream.write(buf).await
    }

    /// Sets what every connection to an origin has. Errors: the first option that the kernel refused; the others are set
    /// all the same.
    pub fn tune(&self, tuning: &Tuning<'_>) -> io::Result<()> {
        tuning.apply(self.fd())
    }

    /// How long a round trip takes, smoothed, as the kernel measured it (tcp(7), TCP_INFO).
    pub fn round_trip(&self) -> io::Result<Duration> {
        // SAFETY: it consists of numbers, for which zero is valid.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the pointers are to `info` and to its length, of which the call writes no more.
        let failed = unsafe {
            let (info, length) = ((&raw mut info).cast(), &raw mut length);
            libc::getsockopt(self.fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, length)
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Duration::from_micros(info.tcpi_rtt.into()))
    }

    /// Whether its congestion control is BBR, which spaces what it sends. No: the kernel does not tell.
    pub fn is_bbr(&self) -> bool {
        // TCP_CA_NAME_MAX.
        let mut name = [0u8; 16];
        let mut length = name.len() as libc::socklen_t;
        // SAFETY: the pointers are to `name` and to its length, of which the call writes no more.
        let failed = unsafe {
            let (name, length) = (name.as_mut_ptr().cast(), &raw mut length);
            libc::getsockopt(self.fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name, length)
        };
        failed == 0 && name.starts_with(b"bbr")
    }

    /// Ends a direction at once; operations that wait on it complete. Errors (already ended) change nothing.
    pub fn shutdown(&self, direction: Direction) {
        let how = match direction {
            Direction::Read => libc::SHUT_RD,
            Direction::Write => libc::SHUT_WR,
            Direction::Both => libc::SHUT_RDWR,
        };
        // SAFETY: the descriptor is open as long as `self` lives.
        unsafe { libc::shutdown(self.fd(), how) };
    }

    /// Makes the close a reset: what is still queued is thrown away, and a peer that counts on an orderly end sees
    /// that there was none.
    pub fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let bytes = [linger.l_onoff.to_ne_bytes(), linger.l_linger.to_ne_bytes()].concat();
        // Fails only where the descriptor is none; then there is nothing to close either.
        set_option(self.fd(), libc::SOL_SOCKET, libc::SO_LINGER, &bytes).ok();
    }

    /// Looks at what is there to read without taking it, and without waiting (`MSG_PEEK`).
    pub fn peek(&self) -> Peek {
        let mut byte = 0u8;
        // SAFETY: the pointer and length describe `byte`.
        let n = unsafe {
            libc::recv(self.fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT)
        };
        match n {
            1.. => Peek::Bytes,
            0 => Peek::Ended,
            _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Peek::Quiet,
            _ => Peek::Ended,
        }
    }

    /// How many bytes were given to `send` so far, whether the kernel has taken them yet or not.
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Bytes sent that the peer's kernel has not acknowledged yet (tcp(7), SIOCOUTQ). 0 also where the kernel does not tell.
    pub fn unacknowledged(&self) -> usize {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the call writes one int, to `bytes`. TIOCOUTQ is what SIOCOUTQ is defined as.
        let failed = unsafe { libc::ioctl(self.fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if failed == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Receives what is there into `bytes`, without waiting.
    pub fn recv_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe `bytes`.
        let n = unsafe {
            libc::recv(self.fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT)
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Sends `bytes` if the socket takes them all at once, without waiting. For a few bytes only.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe `bytes`.
        let n = unsafe {
            libc::send(
                self.fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    pub fn fd(&self) -> RawFd {
        // SAFETY: a shared look at the descriptor number, which never changes.
        unsafe { &*self.stream.get() }.as_raw_fd()
    }
}

/// Copies `bytes` into a buffer of any form. Returns how many fitted.
pub fn fill(buf: &mut impl IoBufMut, bytes: &[u8]) -> usize {
    let n = bytes.len().min(buf.bytes_total());
    // SAFETY: `write_ptr` has room for `bytes_total` bytes, `n` is no more, and `bytes` cannot overlap a buffer that is
    // borrowed exclusively; then `n` bytes are initialised.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.write_ptr(), n);
        buf.set_init(n);
    }
    n
}

/// What `poll` says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Open,
    /// The peer sent FIN: it will send no more, but may still read.
    HalfClosed,
    /// Reset, or closed both ways.
    Gone,
}

/// Looks at many connections in one call, without waiting.
pub fn liveness(fds: &[RawFd]) -> impl Iterator<Item = Liveness> {
    poll_now(fds, libc::POLLRDHUP).map(|events| {
        if events & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
            Liveness::Gone
        } else if events & libc::POLLRDHUP != 0 {
            Liveness::HalfClosed
        } else {
            Liveness::Open
        }
    })
}

/// Says of many connections, in one call and without waiting, which have bytes or an end to read.
pub fn readable(fds: &[RawFd]) -> Vec<bool> {
    poll_now(fds, libc::POLLIN | libc::POLLRDHUP).map(|events| events != 0).collect()
}

fn poll_now(fds: &[RawFd], events: i16) -> impl Iterator<Item = i16> {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|&fd| libc::pollfd { fd, events, revents: 0 }).collect();
    // SAFETY: the pointer and length describe `polls`. A time-out of 0 never waits. On failure no events are set.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) };
    polls.into_iter().map(|poll| poll.revents)
}

/// A counter in the kernel that wakes a reader on a ring (eventfd(2)).
pub fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that the program which started this one left open for it. To be called before this program
/// opens descriptors of its own: what a wrong number names would be closed under its owner. Errors: it is not open.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks for the flags of a descriptor number, open or not.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, and by the condition above nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Raises the limit of open descriptors to the hard limit. Returns the limit now in force.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to `limit`, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to `limit`, which the call reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Ok(before);
    }
    Ok(limit.rlim_cur)
}

/// A set of signals that this process takes by [`SignalSet::wait`] only.
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// Blocks `signals` in this thread and all threads that it starts.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: an all-zero sigset_t is a valid value for sigemptyset to overwrite.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a local that these calls fill; the old mask is not asked for.
        let failed = unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        if failed == 0 { Ok(Self(set)) } else { Err(io::Error::from_raw_os_error(failed)) }
    }

    /// Waits for the next of them.
    pub fn wait(&self) -> io::Result<i32> {
        let mut signal = 0;
        // SAFETY: both pointers are to values that live through the call.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(signal),
            failed => Err(io::Error::from_raw_os_error(failed)),
        }
    }
}

/// Returns to the system what this thread's allocator has had free for a second: by itself it looks only when something
/// is allocated or freed, which after a burst may be never.
pub fn return_free_memory() {
    // SAFETY: no argument, no result; it only visits the allocator's own pages.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::runtime;
    use std::{
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    #[test]
    fn kernel_tells_round_trip_and_congestion_control_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = Instant::now();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let took = begun.elapsed();
        let mut ring = runtime::build(runtime::probe().unwrap()).unwrap();
        ring.block_on(async {
            let socket = Socket::from_fd(near.into()).unwrap();
            let round_trip = socket.round_trip().unwrap();
            assert!(!round_trip.is_zero() && round_trip <= took, "{round_trip:?} of {took:?}");
            assert_eq!(socket.unacknowledged(), 0);
            // Every Linux has reno, and lets everybody have it.
            let reno = b"reno";
            set_option(socket.fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, reno).unwrap();
            assert!(!socket.is_bbr());
            let bbr = set_option(socket.fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, b"bbr");
            assert_eq!(socket.is_bbr(), bbr.is_ok());
        });
    }
}
