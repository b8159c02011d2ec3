//! A name server for one case: A records with a TTL, everything else does not exist.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub struct NameServer {
    pub ip: Ipv4Addr,
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Addresses and TTL in seconds of one name.
pub type Records = HashMap<&'static str, (Vec<Ipv4Addr>, u32)>;

impl NameServer {
    /// Binds port 53 of an own loopback address; `None` without the right to do so.
    ///
    /// resolv.conf knows no ports, so the address is what is private to a case.
    pub fn start(records: Records) -> Option<Self> {
        let [a, b, ..] = std::process::id().to_le_bytes();
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let ip = Ipv4Addr::new(127, 1 + (a % 250), b, NEXT.fetch_add(1, Ordering::SeqCst));
        let socket = UdpSocket::bind((ip, 53)).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stopped, log) = (stop.clone(), asked.clone());
        thread::spawn(move || {
            let mut buf = [0; 1500];
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((len, peer)) = socket.recv_from(&mut buf) {
                    answer(&socket, &buf[..len], peer, &records, &log);
                }
            }
        });
        Some(Self { ip, stop, asked })
    }

    /// How often an A record of `name` was asked for.
    pub fn times_asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().expect("questions");
        asked.iter().filter(|question| question.eq_ignore_ascii_case(name)).count()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn answer(
    socket: &UdpSocket,
    query: &[u8],
    peer: SocketAddr,
    records: &Records,
    log: &Mutex<Vec<String>>,
) {
    let Some((name, question_end)) = question(query) else { return };
    let kind = u16::from_be_bytes([query[question_end - 4], query[question_end - 3]]);
    let known = records.get(name.to_ascii_lowercase().as_str());
    if kind == 1 {
        log.lock().expect("questions").push(name);
    }
    let addrs: &[Ipv4Addr] = match (kind, known) {
        (1, Some((addrs, _))) => addrs,
        _ => &[],
    };
    // RFC 1035 §4.1.1: a response that is authoritative; name error for what is not known.
    let code = if known.is_some() { 0 } else { 3 };
    let mut reply = query[..2].to_vec();
    reply.extend([0x85, 0x80 | code, 0, 1, 0, addrs.len() as u8, 0, 0, 0, 0]);
    reply.extend_from_slice(&query[12..question_end]);
    for addr in addrs {
        let ttl = known.map_or(0, |(_, ttl)| *ttl);
        reply.extend([0xC0, 12, 0, 1, 0, 1]);
        reply.extend_from_slice(&ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend_from_slice(&addr.octets());
    }
    // A lost datagram is asked for again.
    let _ = socket.send_to(&reply, peer);
}

fn question(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).into_owned());
        at += len;
    }
    query.get(at + 3)?;
    Some((labels.join("."), at + 4))
}
