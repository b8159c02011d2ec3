//! The origins that a shard knows, and what it has of each: idle connections, a latency histogram.

#![forbid(unsafe_code)]

use super::{
    addresses::Addresses,
    connection::Connection,
    floor::Floor,
    http2::{speaks::Speaks, streams::Streams},
    policy::Refused,
    pool::IdleSet,
    table::{Held, Multiplexes, Place, Told},
    waiter::Waiting,
};
use crate::{
    authority::Scheme,
    error::Cause,
    limits::ORIGINS_MAX,
    observe::latency::OriginLatency,
    route::{Form, HostOut},
    via::Proxy,
};
use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

#[derive(Default)]
pub struct Origins {
    /// By what the client wrote, so that a known Host costs one look-up. A map for each form, because the same name may
    /// lead elsewhere in another.
    pub by_authority: [HashMap<Box<[u8]>, Rc<Destination>>; Form::COUNT],
    pub by_key: HashMap<Key, Rc<Origin>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub scheme: Scheme,
    pub name: Arc<str>,
    pub port: u16,
    /// One address of the name, where each is an origin of its own (`--upstream`).
    pub at: Option<IpAddr>,
    /// The proxy on the way there.
    pub via: Option<Arc<Proxy>>,
}

impl Key {
    /// `name:port`, for logs, dumps and the next hop.
    pub fn authority(&self) -> String {
        let (name, port) = (&self.name, self.port);
        if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
    }

    /// Why `at`, where the name led, is not dialled.
    pub fn explain(&self, refused: Refused, at: SocketAddr) -> Cause {
        match (refused, &self.via) {
            (Refused::ThisProxy, Some(proxy)) => Cause::LeadsBack(format!(
                "{at}: HTTP_PROXY or HTTPS_PROXY names this proxy itself ({proxy}); start it without them"
            )),
            (refused, _) => refused.cause(at),
        }
    }

    /// What `--max-conns-per-host` counts by: the name, whichever of its addresses.
    pub fn host(&self) -> Self {
        Self { at: None, ..self.clone() }
    }

    /// The name and the port that are dialled.
    pub fn dialled(&self) -> (&Arc<str>, u16) {
        match &self.via {
            Some(proxy) => (&proxy.name, proxy.port),
            None => (&self.name, self.port),
        }
    }
}

/// What a Host value leads to.
pub struct Destination {
    pub origin: Rc<Origin>,
    pub host: HostOut,
    /// How a proxy on the way is asked. None: there is none, or the connection is a tunnel through it.
    pub asks_proxy: Option<AsksProxy>,
}

/// A request that goes to a proxy and not to its origin.
pub struct AsksProxy {
    /// What stands before the path in an absolute-form target (RFC 9112 §3.2.2).
    pub prefix: Box<[u8]>,
    pub authorization: Option<Box<str>>,
}

impl AsksProxy {
    fn of(key: &Key, host: &HostOut) -> Option<Self> {
        let proxy = key.via.as_ref().filter(|_| key.scheme == Scheme::Http)?;
        let at = match host {
            // As the Host field, to the letter.
            HostOut::Is(host) => host.to_vec(),
            HostOut::AsSent => key.authority().into_bytes(),
        };
        let prefix = [b"http://", &at[..]].concat().into();
        Some(Self { prefix, authorization: proxy.authorization.clone() })
    }
}

impl Destination {
    pub fn new(origin: Rc<Origin>, host: HostOut) -> Self {
        let asks_proxy = AsksProxy::of(&origin.key, &host);
        Self { origin, host, asks_proxy }
    }
}

/// An origin and what this shard has of it.
pub struct Origin {
    pub key: Key,
    pub idle: RefCell<IdleSet<Connection>>,
    /// Requests that wait for a connection, in the order in which they came. While one of this shard does that takes any,
    /// none is idle.
    pub waiting: RefCell<VecDeque<Waiting>>,
    /// Where the shards tell each other of their connections; None if the table is full.
    pub seat: Option<Seat>,
    pub speaks: Cell<Speaks>,
    /// Its HTTP/2 connections.
    pub streams: Rc<Streams>,
    pub latency: RefCell<OriginLatency>,
    pub addresses: RefCell<Addresses>,
    /// Requests that were sent here, or wait for a connection to be.
    pub in_flight: Cell<u32>,
    pub used: Cell<Instant>,
    /// What is kept ready, and for how long a connection can be.
    pub floor: Floor,
    /// The shard does not know it any more; what is in use of it is closed when it ends.
    pub forgotten: Cell<bool>,
}

/// This shard's cell in the origin's slot of the table.
pub struct Seat {
    pub place: Place,
    shard: usize,
    told: Cell<Told>,
}

impl Seat {
    pub fn new(place: Place, shard: usize) -> Self {
        Self { place, shard, told: Cell::default() }
    }

    /// Tells the others what there is here, if that changed.
    pub fn tell(&self, told: Told) {
        if self.told.replace(told) != told {
            self.place.tell(self.shard, told);
        }
    }

    /// A new connection of this shard.
    pub fn hold(&self) -> Held {
        self.place.hold(self.shard)
    }

    /// A new HTTP/2 connection of this shard.
    pub fn multiplex(&self) -> Multiplexes {
        self.place.multiplex(self.shard)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // The cells of a slot that nobody uses are 0.
        self.tell(Told::default());
    }
}

impl Origin {
    pub fn scheme(&self) -> Scheme {
        self.key.scheme
    }

    /// `name:port`, for logs and dumps.
    pub fn authority(&self) -> String {
        self.key.authority()
    }

    /// `scheme://name:port`.
    pub fn label(&self) -> String {
        format!("{}://{}", self.key.scheme.word(), self.authority())
    }
}

impl Origins {
    /// The origin with this key. One that is new gets its seat from `seat`.
    pub fn get_or_add(
        &mut self,
        key: Key,
        idle: &Cell<usize>,
        speaks: Speaks,
        seat: impl FnOnce(&Key) -> Option<Seat>,
    ) -> Rc<Origin> {
        if let Some(known) = self.by_key.get(&key) {
            return known.clone();
        }
        if self.by_key.len() >= ORIGINS_MAX {
            self.forget_oldest(idle);
        }
        let origin = Rc::new(Origin {
            seat: seat(&key),
            key: key.clone(),
            idle: RefCell::default(),
            waiting: RefCell::default(),
            speaks: Cell::new(speaks),
            streams: Rc::default(),
            latency: RefCell::new(OriginLatency::new()),
            addresses: RefCell::default(),
            in_flight: Cell::new(0),
            used: Cell::new(Instant::now()),
            floor: Floor::new(Instant::now()),
            forgotten: Cell::new(false),
        });
        self.by_key.insert(key, origin.clone());
        origin
    }

    /// Forgets the origin that was not used for longest, but none of `--warm`. Requests under way keep theirs until they
    /// end.
    fn forget_oldest(&mut self, idle: &Cell<usize>) {
        let others = self.by_key.values().filter(|origin| !origin.floor.is_named());
        let oldest = others.min_by_key(|origin| origin.used.get()).cloned();
        if let Some(origin) = oldest {
            self.by_key.remove(&origin.key);
            for known in &mut self.by_authority {
                known.retain(|_, destination| !Rc::ptr_eq(&destination.origin, &origin));
            }
            origin.forgotten.set(true);
            origin.streams.retire_all();
            let dropped = std::mem::take(&mut *origin.idle.borrow_mut());
            idle.set(idle.get() - dropped.len());
        }
    }
}
