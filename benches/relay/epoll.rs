//! The floor of any proxy: bytes from each client to a connection of its own and back, by epoll and plain system calls:
//! one wait for all that is ready, one receive and one send for each that is.

mod common;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Most that one wait returns.
const EVENTS: usize = 1024;

fn main() -> io::Result<()> {
    let (listener, to) = common::start("relay-epoll")?;
    listener.set_nonblocking(true)?;
    let mut relay =
        Relay { epoll: Epoll::new()?, ends: Vec::new(), ended: Vec::new(), free: Vec::new() };
    relay.epoll.watch(libc::EPOLL_CTL_ADD, listener.as_raw_fd(), LISTENER, Interest::Read)?;
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    let mut buf = vec![0; common::READ_BYTES];
    loop {
        let ready = relay.epoll.wait(&mut events)?;
        for event in &events[..ready] {
            match event.u64 {
                LISTENER => relay.accept(&listener, to)?,
                end => relay.serve(end as usize, &mut buf)?,
            }
        }
        relay.free.append(&mut relay.ended);
    }
}

/// Marks the listener among the events; ends have their number.
const LISTENER: u64 = u64::MAX;

struct Relay {
    epoll: Epoll,
    /// Both ends of each pair, next to each other.
    ends: Vec<End>,
    /// Pairs that are over since the last wait, by the number of their first end: an event of that wait may still name
    /// them.
    ended: Vec<usize>,
    /// Pairs that may be used anew.
    free: Vec<usize>,
}

/// One end of a pair.
struct End {
    /// None: the pair is over.
    stream: Option<TcpStream>,
    /// What its socket had no room for. While something is, the other end is not read.
    unsent: VecDeque<u8>,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream), unsent: VecDeque::new() }
    }
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener, to: SocketAddr) -> io::Result<()> {
        loop {
            let client = match listener.accept() {
                Ok((client, _peer)) => client,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            let origin = TcpStream::connect(to)?;
            let first = self.free.pop().unwrap_or(self.ends.len());
            for (at, stream) in [(first, client), (first + 1, origin)] {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let (fd, number) = (stream.as_raw_fd(), at as u64);
                self.epoll.watch(libc::EPOLL_CTL_ADD, fd, number, Interest::Read)?;
                match self.ends.get_mut(at) {
                    Some(end) => *end = End::new(stream),
                    None => self.ends.push(End::new(stream)),
                }
            }
        }
    }

    /// Moves what can be moved at an end that is ready.
    fn serve(&mut self, at: usize, buf: &mut [u8]) -> io::Result<()> {
        let was_full = !self.ends[at].unsent.is_empty();
        let moved = if was_full { self.drain(at) } else { self.carry(at, buf) };
        match moved {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            // The end of the stream, or a broken one: both ends go.
            Err(_ended) => {
                self.end(at & !1);
                Ok(())
            }
        }
    }

    /// Receives from the end `at` and sends to its peer.
    fn carry(&mut self, at: usize, buf: &mut [u8]) -> io::Result<()> {
        let Some(mut from) = self.ends[at].stream.as_ref() else { return Ok(()) };
        let Some(mut to) = self.ends[at ^ 1].stream.as_ref() else { return Ok(()) };
        let received = from.read(buf)?;
        if received == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let sent = match to.write(&buf[..received]) {
            Ok(sent) => sent,
            Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        if sent < received {
            let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
            self.ends[at ^ 1].unsent.extend(&buf[sent..received]);
            self.epoll.watch(libc::EPOLL_CTL_MOD, from, at as u64, Interest::Nothing)?;
            self.epoll.watch(libc::EPOLL_CTL_MOD, to, (at ^ 1) as u64, Interest::Write)?;
        }
        Ok(())
    }

    /// Sends what waits for room at the end `at`; then its peer is read again.
    fn drain(&mut self, at: usize) -> io::Result<()> {
        let (Some(mut to), Some(from)) =
            (self.ends[at].stream.as_ref(), self.ends[at ^ 1].stream.as_ref())
        else {
            return Ok(());
        };
        let (to_fd, from_fd) = (to.as_raw_fd(), from.as_raw_fd());
        let sent = to.write(self.ends[at].unsent.as_slices().0)?;
        self.ends[at].unsent.drain(..sent);
        if self.ends[at].unsent.is_empty() {
            self.epoll.watch(libc::EPOLL_CTL_MOD, to_fd, at as u64, Interest::Read)?;
            self.epoll.watch(libc::EPOLL_CTL_MOD, from_fd, (at ^ 1) as u64, Interest::Read)?;
        }
        Ok(())
    }

    /// Ends the pair that begins at `first`, unless it is over already.
    fn end(&mut self, first: usize) {
        for end in &mut self.ends[first..first + 2] {
            let Some(stream) = end.stream.take() else { return };
            // Closed by its drop in any case.
            stream.shutdown(Shutdown::Both).ok();
            end.unsent.clear();
        }
        self.ended.push(first);
    }
}

enum Interest {
    Nothing,
    Read,
    Write,
}

struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is open and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds or changes (`operation`) what is waited for at `fd`; its events carry `number`.
    fn watch(&self, operation: i32, fd: RawFd, number: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Nothing => 0,
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events as u32, u64: number };
        // SAFETY: the pointer is to `event`, which the call reads.
        let failed = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for events. Returns how many there are.
    fn wait(&self, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe `events`, which the call fills.
        let ready = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1)
        };
        match usize::try_from(ready) {
            Ok(ready) => Ok(ready),
            Err(_) if io::Error::last_os_error().kind() == ErrorKind::Interrupted => Ok(0),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}
