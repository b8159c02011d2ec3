//! The way to the origins: from a Host value to a connection that a request can use.
//!
//! [`Upstream::destination`] says which origin, [`Upstream::lease`] gives a connection: an idle one of this shard, else
//! a new one. A lease that is dropped closes its connection; only [`Lease::finish`] keeps it.

#![forbid(unsafe_code)]

pub mod connection;
pub mod dns;
mod dns_cache;
pub mod names;
pub mod policy;
mod pool;
pub mod tls;

use crate::{
    error::{Cause, Error, Party, Phase},
    limits::{IDLE_PER_SHARD_MAX, ORIGINS_MAX, ROUTES_CACHED_MAX, TCP_KEEPALIVE},
    observe::latency::{Acquired, OriginLatency, OriginSnapshot},
    route::{Scheme, route},
    shard::{
        Shard,
        sys::{self, Socket},
        watch::Watch,
    },
};
use connection::{Connection, OpenCount};
use monoio::net::TcpStream;
use names::Names;
use policy::Policy;
use pool::IdleSet;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};
use tls::Tls;

/// A shard's way to the origins.
pub struct Upstream {
    pub shard: Rc<Shard>,
    pub names: Names,
    tls: Tls,
    policy: Policy,
    origins: RefCell<Origins>,
    /// Idle connections that this shard may keep of one origin: its share of `--keepalive-conns`.
    idle_per_origin_max: usize,
    idle: Cell<usize>,
    open: Rc<Cell<usize>>,
    open_max: usize,
    looked: Cell<Instant>,
}

/// Histograms copied without a pause: 2 µs each (PERF.md).
const SNAPSHOTS_AT_ONCE: usize = 16;

/// How often idle connections are looked at for an end, all of an origin in one system call. An ended one is found
/// at checkout anyway; this frees its descriptor, and lets the origin finish its close.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Origins {
    /// By what the client wrote, so that a known Host costs one look-up.
    by_authority: HashMap<Box<[u8]>, Rc<Destination>>,
    by_key: HashMap<Key, Rc<Origin>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    scheme: Scheme,
    name: Arc<str>,
    port: u16,
}

/// What a Host value leads to.
pub struct Destination {
    pub origin: Rc<Origin>,
    /// The origin's name and port as the client spelled them: what the origin sees as Host.
    pub host: Box<[u8]>,
}

/// An origin and what this shard has of it.
pub struct Origin {
    key: Key,
    idle: RefCell<IdleSet<Connection>>,
    latency: RefCell<OriginLatency>,
    /// Rotates the address that is tried first.
    turn: Cell<usize>,
    used: Cell<Instant>,
    /// The shard does not know it any more; what is in use of it is closed when it ends.
    forgotten: Cell<bool>,
}

impl Origin {
    pub fn scheme(&self) -> Scheme {
        self.key.scheme
    }

    /// `name:port`, for logs and dumps.
    pub fn authority(&self) -> String {
        let name = &self.key.name;
        if name.contains(':') {
            format!("[{name}]:{}", self.key.port)
        } else {
            format!("{name}:{}", self.key.port)
        }
    }

    /// `scheme://name:port`.
    pub fn label(&self) -> String {
        format!("{}://{}", self.key.scheme.word(), self.authority())
    }
}

/// A connection in use. Dropping it closes the connection, whatever state it is in.
pub struct Lease {
    pub connection: Connection,
    pub acquired: Acquired,
    origin: Rc<Origin>,
}

impl Lease {
    /// Records the time from the request sent to the first byte of the response.
    pub fn record(&self, round_trip: Duration) {
        let us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.origin.latency.borrow_mut().record(us, self.acquired);
    }

    /// Gives the connection back after a clean end: the response ended by its framing, the origin lets it persist, the
    /// request was sent whole, and no byte too many came.
    pub fn finish(self, upstream: &Upstream, now: Instant) {
        if !self.connection.is_clean()
            || self.origin.forgotten.get()
            || upstream.idle.get() >= IDLE_PER_SHARD_MAX
        {
            return;
        }
        let out =
            self.origin.idle.borrow_mut().put(self.connection, now, upstream.idle_per_origin_max);
        match out {
            Some(oldest) => oldest.retire(),
            None => upstream.idle.set(upstream.idle.get() + 1),
        }
    }
}

/// How much a shard may hold.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    pub idle_per_origin_max: usize,
    pub open_max: usize,
}

impl Upstream {
    pub fn new(shard: Rc<Shard>, names: Names, tls: Tls, shares: Shares) -> Self {
        Self {
            policy: Policy::new(shard.config.allow_cidr.clone()),
            shard,
            names,
            tls,
            origins: RefCell::default(),
            idle_per_origin_max: shares.idle_per_origin_max,
            idle: Cell::new(0),
            open: Rc::default(),
            open_max: shares.open_max,
            looked: Cell::new(Instant::now()),
        }
    }

    /// Which origin an authority names. Errors: it names none; the text says why.
    pub fn destination(&self, authority: &[u8]) -> Result<Rc<Destination>, Error> {
        let origins = &mut *self.origins.borrow_mut();
        if let Some(known) = origins.by_authority.get(authority) {
            return Ok(known.clone());
        }
        let route =
            route(authority).map_err(|why| Error::client(Phase::Route, Cause::NoRoute(why)))?;
        let name = route.name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // One spelling for one address, so that it has one pool.
        let name = match name.parse::<IpAddr>() {
            Ok(ip) => ip.to_string().into(),
            Err(_) => name.into(),
        };
        let key = Key { scheme: route.scheme, name, port: route.port_or_default() };
        let host = match route.port {
            Some(port) => format!("{}:{port}", route.name),
            None => route.name.to_owned(),
        };
        let origin = origins.get_or_add(key, &self.idle);
        if origins.by_authority.len() >= ROUTES_CACHED_MAX {
            origins.by_authority.clear();
        }
        let destination = Rc::new(Destination { origin, host: host.into_bytes().into() });
        origins.by_authority.insert(authority.into(), destination.clone());
        Ok(destination)
    }

    /// Gives a connection to `origin`: idle, or with `fresh` (after a connection turned out to be dead) a new one.
    ///
    /// Errors, by phase: route (address refused), dns, connect, tls; each also by its deadline. A wait ends when `watch`
    /// cuts. Cancel-safe: what was under way is closed.
    pub async fn lease(
        &self,
        origin: &Rc<Origin>,
        watch: &Watch,
        fresh: bool,
    ) -> Result<Lease, Error> {
        let now = Instant::now();
        origin.used.set(now);
        if !fresh && let Some(connection) = self.take_idle(origin, now) {
            return Ok(Lease { connection, acquired: Acquired::Reused, origin: origin.clone() });
        }
        // On the heap: a handshake's state is large, and requests that wait for an answer should not carry it.
        let connection = Box::pin(self.dial(origin, watch)).await?;
        Ok(Lease { connection, acquired: Acquired::New, origin: origin.clone() })
    }

    fn take_idle(&self, origin: &Origin, now: Instant) -> Option<Connection> {
        loop {
            let connection =
                origin.idle.borrow_mut().take(now, self.shard.config.keepalive_timeout)?;
            self.idle.set(self.idle.get() - 1);
            if connection.is_usable() {
                return Some(connection);
            }
        }
    }

    async fn dial(&self, origin: &Origin, watch: &Watch) -> Result<Connection, Error> {
        let open = OpenCount::take(&self.open, self.open_max).or_else(|| {
            self.retire_oldest_idle();
            OpenCount::take(&self.open, self.open_max)
        });
        let open = open.ok_or_else(|| {
            let text = "too many origin connections are open; raise the limit of open files";
            Error::proxy(Phase::Connect, Cause::Busy(text))
        })?;
        let connected = watch.unless_cut(self.connect(origin)).await;
        let socket = connected
            .ok_or_else(|| watch.explain(Party::Origin, Phase::Connect, Cause::TimedOut))??;
        let session = match origin.key.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let handshake =
                    self.tls.handshake(&origin.key.name, socket.clone(), &self.shard.blocks);
                let within = monoio::time::timeout(self.shard.config.tls_timeout, handshake);
                let session = match watch.unless_cut(within).await {
                    None => return Err(watch.explain(Party::Origin, Phase::Tls, Cause::TimedOut)),
                    Some(Err(_elapsed)) => Err(Cause::TimedOut),
                    Some(Ok(session)) => session,
                };
                Some(session.map_err(|cause| Error::origin(Phase::Tls, cause))?)
            }
        };
        Ok(Connection::new(socket, session, open))
    }

    /// Gives up the idle connection, of all origins, whose origin was not used for longest.
    fn retire_oldest_idle(&self) {
        let origins = self.origins.borrow();
        let with_idle = origins.by_key.values().filter(|origin| !origin.idle.borrow().is_empty());
        let Some(origin) = with_idle.min_by_key(|origin| origin.used.get()) else { return };
        if let Some(oldest) = origin.idle.borrow_mut().take_oldest() {
            self.idle.set(self.idle.get() - 1);
            oldest.retire();
        }
    }

    /// Resolves the name and connects to the first address that answers; all of them together within
    /// `--connect-timeout`.
    async fn connect(&self, origin: &Origin) -> Result<Rc<Socket>, Error> {
        let deadline = Instant::now() + self.shard.config.connect_timeout;
        let addresses = self.addresses(origin, deadline).await?;
        let first = origin.turn.replace(origin.turn.get().wrapping_add(1));
        let mut last = Error::origin(Phase::Connect, Cause::TimedOut);
        for attempt in 0..addresses.len() {
            let ip = addresses[first.wrapping_add(attempt) % addresses.len()];
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Each address gets an equal part of what is left, so that one that never answers leaves time for the others.
            let share = left / u32::try_from(addresses.len() - attempt).unwrap_or(u32::MAX);
            let connect = TcpStream::connect_addr(SocketAddr::new(ip, origin.key.port));
            last = match monoio::time::timeout(share, connect).await {
                Ok(Ok(stream)) => {
                    let socket = Socket::new(stream);
                    // A socket that cannot be tuned is slower, not wrong.
                    socket.tune(TCP_KEEPALIVE).ok();
                    return Ok(Rc::new(socket));
                }
                Ok(Err(e)) => Error::origin(Phase::Connect, Cause::Io(e.kind())),
                Err(_elapsed) => Error::origin(Phase::Connect, Cause::TimedOut),
            };
        }
        Err(last)
    }

    /// The addresses of an origin that may be dialled. The check is on these very addresses, after resolution.
    async fn addresses(&self, origin: &Origin, deadline: Instant) -> Result<Vec<IpAddr>, Error> {
        let known = match origin.key.name.parse::<IpAddr>() {
            Ok(ip) => Arc::from([ip]),
            Err(_) => {
                let left = deadline.saturating_duration_since(Instant::now());
                monoio::time::timeout(left, self.names.lookup(&origin.key.name))
                    .await
                    .unwrap_or(Err(Cause::TimedOut))
                    .map_err(|cause| Error::origin(Phase::Dns, cause))?
            }
        };
        let mut refused = None;
        let mut allowed = Vec::with_capacity(known.len());
        for ip in known.iter() {
            match self.policy.check(*ip) {
                Ok(()) => allowed.push(*ip),
                Err(why) => refused = Some(format!("{ip}: {why}")),
            }
        }
        match refused {
            Some(why) if allowed.is_empty() => {
                Err(Error::proxy(Phase::Route, Cause::Forbidden(why)))
            }
            Some(_) | None => Ok(allowed),
        }
    }

    /// Closes idle connections that are too old and, once in `LOOK_EVERY`, those that their origin ended.
    pub fn sweep(&self, now: Instant) {
        let timeout = self.shard.config.keepalive_timeout;
        let looks = now.saturating_duration_since(self.looked.get()) >= LOOK_EVERY;
        if looks {
            self.looked.set(now);
        }
        for origin in self.origins.borrow().by_key.values() {
            let mut idle = origin.idle.borrow_mut();
            let mut gone = Vec::new();
            while let Some(expired) = idle.take_expired(now, timeout) {
                gone.push(expired);
            }
            if looks && !idle.is_empty() {
                let fds: Vec<_> = idle.iter().map(|connection| connection.socket.fd()).collect();
                let mut spoke = sys::readable(&fds).into_iter();
                let is_dead = |c: &Connection| spoke.next().unwrap_or(false) && !c.is_usable();
                gone.append(&mut idle.take_dead(is_dead));
            }
            self.idle.set(self.idle.get() - gone.len());
            gone.into_iter().for_each(Connection::retire);
        }
    }

    /// Sends a copy of every origin's latency histogram, some at a time, so that no request waits for all of them.
    pub async fn send_latency(&self, to: Sender<Vec<OriginSnapshot>>) {
        let origins: Vec<Rc<Origin>> = self.origins.borrow().by_key.values().cloned().collect();
        for some in origins.chunks(SNAPSHOTS_AT_ONCE) {
            let snapshot = |origin: &Rc<Origin>| origin.latency.borrow().snapshot(&origin.label());
            if to.send(some.iter().map(snapshot).collect()).is_err() {
                return;
            }
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Origins {
    fn get_or_add(&mut self, key: Key, idle: &Cell<usize>) -> Rc<Origin> {
        if let Some(known) = self.by_key.get(&key) {
            return known.clone();
        }
        if self.by_key.len() >= ORIGINS_MAX {
            self.forget_oldest(idle);
        }
        let origin = Rc::new(Origin {
            key: key.clone(),
            idle: RefCell::default(),
            latency: RefCell::new(OriginLatency::new()),
            turn: Cell::new(0),
            used: Cell::new(Instant::now()),
            forgotten: Cell::new(false),
        });
        self.by_key.insert(key, origin.clone());
        origin
    }

    /// Forgets the origin that was not used for longest. Requests under way keep theirs until they end.
    fn forget_oldest(&mut self, idle: &Cell<usize>) {
        let oldest = self.by_key.values().min_by_key(|origin| origin.used.get()).cloned();
        if let Some(origin) = oldest {
            self.by_key.remove(&origin.key);
            self.by_authority.retain(|_, destination| !Rc::ptr_eq(&destination.origin, &origin));
            origin.forgotten.set(true);
            let dropped = std::mem::take(&mut *origin.idle.borrow_mut());
            idle.set(idle.get() - dropped.len());
        }
    }
}
