//! The thread between the two devices: reads packets, holds each for its time, writes it out.
//!
//! One thread serves both directions and never waits for anything but a packet, an order or the
//! next arrival. Where the kernel allows it runs before all ordinary threads, so that a busy
//! machine does not make the link longer.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::flags::{self, Order};
use crate::link::{Fate, Link, Shape, Toward};
use crate::segment;
use crate::sys;

/// Packets read from one device before the other has its turn: at 1 Gbit/s about 0.8 ms of line.
const BATCH_PACKETS: usize = 64;

/// Pause after packets were moved, as network cards make one: without it the thread wakes for each
/// packet, every 12 us at 1 Gbit/s, and uses a whole core. Nothing gets later than this by it.
const COALESCE: Duration = Duration::from_micros(50);

/// Buffers kept for packets to come, each direction; beyond it they are freed.
const SPARE_BUFFERS_MAX: usize = 16 * 1024;

/// Longest packet that a TUN device hands over.
const PACKET_BYTES_MAX: usize = 65536;

/// Bytes of an order line; a longer line is thrown away.
const ORDER_BYTES_MAX: usize = 256;

pub struct DelayLine {
    /// Near, far.
    devices: [File; 2],
    /// Toward far, toward near: as the device that is read from.
    ways: [Way; 2],
    shape: Shape,
    orders: PipeReader,
    /// The start of an order whose end has not been read.
    order: Vec<u8>,
    counts: Arc<Counts>,
}

/// One direction: its link and the packets on it, in the order of arrival.
struct Way {
    link: Link,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

/// What a pass over a device did, in order of weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moved {
    Nothing,
    Some,
    /// A whole batch: there may be more.
    MoreLeft,
}

/// What the link did so far, both ways together but for the segments.
#[derive(Default)]
pub struct Counts {
    carried_packets: AtomicU64,
    carried_bytes: AtomicU64,
    /// TCP segments with data that were carried: to far, to near.
    data_segments: [AtomicU64; 2],
    dropped: AtomicU64,
    lost: AtomicU64,
    black_holed: AtomicU64,
    /// The device at the other end would not take it.
    refused: AtomicU64,
    /// Packets that came more than a millisecond late.
    late: AtomicU64,
    late_us_max: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Relaxed);
        write!(
            f,
            "{} packets carried ({} bytes), TCP segments with data {} to far and {} to near, \
             {} dropped at a full queue, {} lost, {} black-holed, {} refused; \
             {} more than 1 ms late, the latest {} us",
            of(&self.carried_packets),
            of(&self.carried_bytes),
            of(&self.data_segments[0]),
            of(&self.data_segments[1]),
            of(&self.dropped),
            of(&self.lost),
            of(&self.black_holed),
            of(&self.refused),
            of(&self.late),
            of(&self.late_us_max),
        )
    }
}

impl DelayLine {
    pub fn new(devices: [File; 2], shape: Shape, seed: u64, orders: PipeReader) -> Self {
        let now = Instant::now();
        let way = |toward, seed| Way {
            link: Link::new(toward, seed, now),
            under_way: VecDeque::new(),
            spare: Vec::new(),
        };
        Self {
            devices,
            // Each direction its own losses, from one seed.
            ways: [way(Toward::Far, seed), way(Toward::Near, seed.wrapping_mul(2) ^ 0x5555)],
            shape,
            orders,
            order: Vec::new(),
            counts: Arc::default(),
        }
    }

    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Serves until the process ends.
    pub fn run(mut self) {
        if let Err(e) = sys::run_before_others() {
            eprintln!("wan: no real-time priority ({e}); a busy machine will make packets late");
        }
        let mut buf = vec![0; PACKET_BYTES_MAX];
        // Near device, far device, orders.
        let mut readable = [true, true, false];
        loop {
            let mut moved = Moved::Nothing;
            for from in [0, 1] {
                moved = moved.max(self.deliver(from));
                if readable[from] {
                    moved = moved.max(self.take(from, &mut buf));
                }
            }
            if readable[2] {
                self.obey();
            }
            if moved == Moved::Some {
                thread::sleep(COALESCE);
            }
            let next = self.ways.iter().filter_map(|way| Some(way.under_way.front()?.0)).min();
            let within = match next {
                _ if moved == Moved::MoreLeft => Some(Duration::ZERO),
                Some(due) => Some(due.saturating_duration_since(Instant::now())),
                None => None,
            };
            let [near, far] = &self.devices;
            readable = match sys::wait_readable([near, far], &self.orders, within) {
                Ok(readable) => readable,
                Err(e) => {
                    // Only a fault of this program makes this call fail; a link that is silently
                    // dead would look like one.
                    eprintln!("wan: waiting for packets failed: {e}");
                    std::process::exit(125);
                }
            };
        }
    }

    /// Writes out the packets whose time has come.
    fn deliver(&mut self, from: usize) -> Moved {
        let mut moved = Moved::Nothing;
        let way = &mut self.ways[from];
        let mut device = &self.devices[1 - from];
        let counts = &self.counts;
        while let Some(&(due, _)) = way.under_way.front() {
            let now = Instant::now();
            if due > now {
                break;
            }
            let Some((_, packet)) = way.under_way.pop_front() else { break };
            match device.write(&packet) {
                Ok(_) => {
                    counts.carried_packets.fetch_add(1, Relaxed);
                    counts.carried_bytes.fetch_add(packet.len() as u64, Relaxed);
                    let has_data = segment::carries_data(&packet);
                    counts.data_segments[from].fetch_add(u64::from(has_data), Relaxed);
                }
                // The interface was taken down, or the packet is malformed: the link lives on.
                Err(_) => {
                    counts.refused.fetch_add(1, Relaxed);
                }
            }
            let late_us = (now - due).as_micros() as u64;
            counts.late.fetch_add(u64::from(late_us > 1000), Relaxed);
            counts.late_us_max.fetch_max(late_us, Relaxed);
            if way.spare.len() < SPARE_BUFFERS_MAX {
                way.spare.push(packet);
            }
            moved = Moved::Some;
        }
        moved
    }

    /// Reads up to a batch.
    fn take(&mut self, from: usize, buf: &mut [u8]) -> Moved {
        let way = &mut self.ways[from];
        let mut device = &self.devices[from];
        for read in 0..BATCH_PACKETS {
            // WouldBlock when all is read. EBADFD when the interface was taken down, which may come
            // up again.
            let Ok(len) = device.read(buf) else {
                return if read > 0 { Moved::Some } else { Moved::Nothing };
            };
            let counter = match way.link.enter(len, &self.shape, Instant::now()) {
                Fate::Arrives(due) => {
                    let mut packet = way.spare.pop().unwrap_or_default();
                    packet.clear();
                    packet.extend_from_slice(&buf[..len]);
                    way.under_way.push_back((due, packet));
                    continue;
                }
                Fate::Dropped => &self.counts.dropped,
                Fate::Lost => &self.counts.lost,
                Fate::BlackHoled => &self.counts.black_holed,
            };
            counter.fetch_add(1, Relaxed);
        }
        Moved::MoreLeft
    }

    /// Reads what there is of orders and follows those that are whole.
    fn obey(&mut self) {
        let mut buf = [0; ORDER_BYTES_MAX];
        let read = loop {
            match self.orders.read(&mut buf) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        // An end cannot be: this process holds the writing end too.
        let len = read.unwrap_or(0);
        self.order.extend_from_slice(&buf[..len]);
        while let Some(end) = self.order.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.order.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match flags::order(&line, &self.shape) {
                Ok(Order::Shape(shape)) => self.shape = shape,
                Ok(Order::Stats) => eprintln!("wan: {}", self.counts),
                Err(why) => eprintln!("wan: order {:?}: {why}", line.trim()),
            }
        }
        if self.order.len() > ORDER_BYTES_MAX {
            self.order.clear();
        }
    }
}
