//! A name server for one case: A records with a TTL, everything else does not exist.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::proxy::{ProxyOptions, can_mount};
use super::{Proxy, not_run, scratch_file};

pub struct NameServer {
    pub ip: Ipv4Addr,
    shared: Arc<Shared>,
}

struct Shared {
    stop: AtomicBool,
    asked: Mutex<Vec<String>>,
    records: Mutex<Records>,
    mood: Mutex<Mood>,
}

/// What the server does with questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// Answers each question this much later.
    Dawdles(Duration),
    /// SERVFAIL to all.
    Fails,
    Silent,
    /// Answers all but questions for AAAA records, which it drops.
    SilentForV6,
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
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            asked: Mutex::default(),
            records: Mutex::new(records),
            mood: Mutex::new(Mood::Answers),
        });
        let for_thread = shared.clone();
        thread::spawn(move || {
            let mut buf = [0; 1500];
            while !for_thread.stop.load(Ordering::SeqCst) {
                if let Ok((len, peer)) = socket.recv_from(&mut buf) {
                    for_thread.answer(&socket, &buf[..len], peer);
                }
            }
        });
        Some(Self { ip, shared })
    }

    /// Replaces what `name` leads to.
    pub fn set(&self, name: &'static str, addrs: &[Ipv4Addr], ttl: u32) {
        self.shared.records.lock().expect("records").insert(name, (addrs.to_vec(), ttl));
    }

    pub fn turn(&self, mood: Mood) {
        *self.shared.mood.lock().expect("mood") = mood;
    }

    /// How often an A record of `name` was asked for.
    pub fn times_asked(&self, name: &str) -> usize {
        let asked = self.shared.asked.lock().expect("questions");
        asked.iter().filter(|question| question.eq_ignore_ascii_case(name)).count()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    fn answer(&self, socket: &UdpSocket, query: &[u8], peer: SocketAddr) {
        let Some((name, question_end)) = question(query) else { return };
        let kind = u16::from_be_bytes([query[question_end - 4], query[question_end - 3]]);
        let records = self.records.lock().expect("records");
        let known = records.get(name.to_ascii_lowercase().as_str());
        if kind == 1 {
            self.asked.lock().expect("questions").push(name);
        }
        let mood = *self.mood.lock().expect("mood");
        match mood {
            Mood::Silent => return,
            Mood::SilentForV6 if kind == 28 => return,
            Mood::Dawdles(time) => thread::sleep(time),
            Mood::Answers | Mood::Fails | Mood::SilentForV6 => {}
        }
        let addrs: &[Ipv4Addr] = match (kind, known) {
            (1, Some((addrs, _))) if mood != Mood::Fails => addrs,
            _ => &[],
        };
        // RFC 1035 §4.1.1: a response that is authoritative; server failure, or name error for what is not known.
        let code = match (mood, known) {
            (Mood::Fails, _) => 2,
            (_, Some(_)) => 0,
            (_, None) => 3,
        };
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
}

/// A proxy with this hosts file, or `None` (said on stderr) where the machine forbids mounting.
pub fn with_hosts(name: &str, hosts: &str) -> Option<ProxyOptions> {
    if !can_mount() {
        not_run("no right to mount a hosts file for one process");
        return None;
    }
    let file = scratch_file(name, hosts);
    Some(Proxy::options(&["--cores", "1"]).mount(&file, "/etc/hosts"))
}

/// A proxy that asks a name server of this case alone, with that server.
pub fn with_name_server(name: &str, records: Records) -> Option<(NameServer, Proxy)> {
    let (server, options) = to_ask_name_server(name, records)?;
    Some((server, options.start()))
}

/// As [`with_name_server`], for flags to be added.
pub fn to_ask_name_server(name: &str, records: Records) -> Option<(NameServer, ProxyOptions)> {
    let Some(server) = NameServer::start(records) else {
        not_run("no right to bind port 53");
        return None;
    };
    let options = with_hosts(&format!("{name}-hosts"), "127.0.0.1 localhost\n")?;
    let resolv = format!("nameserver {}\noptions timeout:1 attempts:1\n", server.ip);
    let resolv = scratch_file(&format!("{name}-resolv"), &resolv);
    Some((server, options.mount(&resolv, "/etc/resolv.conf")))
}

/// An address of loopback that no other case uses.
pub fn loopback(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
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
