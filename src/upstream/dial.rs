//! A new connection to an origin: its addresses, TCP to one of them, the TLS handshake.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    addresses::{self, Address},
    connection::{Connection, OpenCount},
    line::Granted,
    origins::{Key, Origin, Seat},
    policy::{LEADS_BACK, Refused},
    race::{Reached, Unreached, race},
    tls::Offer,
    tunnel,
};
use crate::{
    authority::Scheme,
    error::{Cause, Error, Phase},
    limits::{
        ADDRESS_ASIDE_MAX, TCP_KEEPALIVE, TCP_KEEPALIVE_INTERVAL, TCP_NOTSENT_LOWAT_BYTES,
        TCP_USER_TIMEOUT,
    },
    observe::latency::{Acquired, Cost},
    shard::{
        self,
        sys::{Socket, Tuning},
    },
};
use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How far a dial is, and what its phases took.
#[derive(Default)]
pub struct Dialling {
    dns: Cell<Option<Duration>>,
    connect: Cell<Option<Duration>>,
    tls: Cell<Option<Duration>>,
    /// It waits for a permit, so nothing is under way yet.
    in_line: Cell<bool>,
    /// What it gave was not made for it: another request had done with it.
    handed: Cell<bool>,
    /// Only a connection that is made for it will do.
    fresh: Cell<bool>,
}

impl Dialling {
    /// What is waited for; connect while the name is looked up, as it counts within `--connect-timeout`.
    pub fn phase(&self) -> Phase {
        if self.connect.get().is_some() { Phase::Tls } else { Phase::Connect }
    }

    pub fn stands_in_line(&self, stands: bool) {
        self.in_line.set(stands);
    }

    pub fn is_in_line(&self) -> bool {
        self.in_line.get()
    }

    /// Asks for a connection that is made for it, and for no other.
    pub fn must_be_fresh(&self, fresh: bool) {
        self.fresh.set(fresh);
    }

    pub fn is_fresh(&self) -> bool {
        self.fresh.get()
    }

    /// How the connection came about that the dial gave.
    pub fn acquired(&self) -> Acquired {
        if self.handed.get() { Acquired::Waited } else { Acquired::New }
    }

    /// What a request paid that got its connection, as `acquired`, after `total`.
    pub fn cost(&self, acquired: Acquired, total: Duration) -> Cost {
        match acquired {
            Acquired::Reused | Acquired::Lent | Acquired::Waited => {
                Cost { wait: total, ..Cost::default() }
            }
            Acquired::New => {
                let [dns, connect, tls] = [&self.dns, &self.connect, &self.tls]
                    .map(|phase| phase.get().unwrap_or_default());
                Cost { dns, connect, tls, wait: total.saturating_sub(dns + connect + tls) }
            }
        }
    }
}

impl Upstream {
    /// Makes a new connection to `origin`, which over TLS may choose among what is in `offer`.
    ///
    /// The name and all its addresses together get `--connect-timeout`, the handshake `--tls-timeout`. Errors, by phase:
    /// route (address refused), dns, connect, tls. Cancel-safe: what was under way is closed.
    pub(super) async fn dial(
        &self,
        origin: &Origin,
        dialling: &Dialling,
        offer: Offer,
    ) -> Result<Connection, Error> {
        let permit = match self.stand_in_line(origin, dialling).await? {
            Some(Granted::Connection(connection)) => {
                dialling.handed.set(true);
                return Ok(connection);
            }
            Some(Granted::Permit(permit)) => Some(permit),
            None => None,
        };
        let open = OpenCount::take(&self.open, self.open_max).or_else(|| {
            self.retire_oldest_idle();
            OpenCount::take(&self.open, self.open_max)
        });
        let open = open.ok_or_else(|| {
            let text = "too many origin connections are open; raise the limit of open files";
            Error::proxy(Phase::Connect, Cause::Busy(text))
        })?;
        let begun = Instant::now();
        let deadline = begun + self.shard.config.connect_timeout;
        let order = self.addresses(origin, deadline).await?;
        let resolved = Instant::now();
        dialling.dns.set(Some(resolved.saturating_duration_since(begun)));
        let beside = || OpenCount::take(&self.open, self.open_max);
        let reached = race(order, origin.key.dialled().1, deadline, beside).await;
        let reached = reached.map_err(|Unreached { timed_out, text }| {
            let text = self.with_remedy(origin, text);
            let cause = if timed_out { Cause::Unanswered(text) } else { Cause::Unreached(text) };
            Error::origin(Phase::Connect, cause)
        })?;
        let connected = Instant::now();
        dialling.connect.set(Some(connected.saturating_duration_since(resolved)));
        let home = self.other_home(origin, reached.used.address().ip);
        let home = home.as_deref().unwrap_or(origin);
        let connection = self.finish_dial(home, reached, open, (deadline, offer)).await;
        if origin.key.scheme == Scheme::Https {
            dialling.tls.set(Some(connected.elapsed()));
        }
        if let (Ok(_), Some(seat)) = (&connection, &origin.seat) {
            seat.place.tell_dial_cost(begun.elapsed());
        }
        Ok(connection?.with_permit(permit))
    }

    /// Takes in where the origin's name leads now, and has an address tried that failed earlier.
    pub(super) fn look_after_addresses(&self, origin: &Rc<Origin>, now: Instant) {
        let mut addresses = origin.addresses.borrow_mut();
        let name = origin.key.dialled().0;
        // What is one address does not follow the name, and no name leads away from an address.
        let follows = origin.key.at.is_none() && name.parse::<IpAddr>().is_err();
        if follows
            && addresses.are_in_use()
            && let Some(answer) = self.names.stay(name, now)
        {
            addresses.update(&answer, now);
        }
        // Nobody waits for an origin that is not used, so what became of its addresses can wait, too.
        let in_use = now.saturating_duration_since(origin.used.get()) < ADDRESS_ASIDE_MAX;
        if let Some(address) = addresses.to_probe(now).filter(|_| in_use) {
            address.begin_probe(now);
            let upstream = self.this.upgrade().expect("the shard holds it while it runs");
            let (origin, address) = (origin.clone(), address.clone());
            shard::spawn("probe of an address", async move {
                upstream.probe(&origin, address).await;
            });
        }
    }

    /// Tries one address that failed earlier; whatever comes of it is noted there. The connection is closed again.
    async fn probe(&self, origin: &Origin, address: Rc<Address>) {
        let Some(_permit) = self.permit_at_once(origin) else { return };
        let Some(open) = OpenCount::take(&self.open, self.open_max) else { return };
        let deadline = Instant::now() + self.shard.config.connect_timeout;
        let none = || None::<OpenCount>;
        if let Ok(reached) = race(vec![address], origin.key.dialled().1, deadline, none).await
            && let Ok(connection) =
                self.finish_dial(origin, reached, open, (deadline, Offer::Http1)).await
        {
            connection.retire();
        }
    }

    /// From a TCP connection to one that can carry a request. A tunnel is opened within `deadline`.
    async fn finish_dial(
        &self,
        origin: &Origin,
        reached: Reached,
        open: OpenCount,
        (deadline, offer): (Instant, Offer),
    ) -> Result<Connection, Error> {
        let Reached { stream, used, took } = reached;
        let socket = Rc::new(Socket::new(stream));
        // A socket that cannot be tuned is slower, not wrong.
        socket.tune(&self.tuning()).ok();
        // Only this handshake's: what follows waits for the peer's own work, too.
        let round_trip = socket.round_trip().unwrap_or_default();
        let session = match origin.key.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                self.tunnel(&origin.key, &socket, deadline).await?;
                let name = &origin.key.name;
                let handshake = self.tls.handshake(name, offer, socket.clone(), &self.shard.blocks);
                let within = monoio::time::timeout(self.shard.config.tls_timeout, handshake);
                let session = within.await.unwrap_or(Err(Cause::TimedOut)).map_err(|cause| {
                    used.address().failed(Instant::now());
                    let cause = match cause {
                        Cause::Tls(text) => Cause::Tls(self.with_remedy(origin, text)),
                        other => other,
                    };
                    Error::origin(Phase::Tls, cause)
                })?;
                Some(session)
            }
        };
        used.address().succeeded(took, round_trip);
        let held = origin.seat.as_ref().map(Seat::hold);
        Ok(Connection::new(socket, session, used, held, open))
    }

    /// Has the proxy on the way, if there is one, open a tunnel. A refusal says nothing of the proxy's address.
    async fn tunnel(&self, key: &Key, socket: &Socket, deadline: Instant) -> Result<(), Error> {
        let Some(proxy) = &key.via else { return Ok(()) };
        let open = tunnel::open(socket, &self.shard.blocks, proxy, key);
        let left = deadline.saturating_duration_since(Instant::now());
        let opened = monoio::time::timeout(left, open).await.unwrap_or_else(|_elapsed| {
            Err(Cause::Unanswered(format!("the proxy {proxy} did not answer CONNECT in time")))
        });
        opened.map_err(|cause| Error::origin(Phase::Connect, cause))
    }

    /// What failed, and what helps if a mapped name led to where its clients find this proxy. On the very port it would
    /// have been refused; on another one something else answers, or nothing.
    fn with_remedy(&self, origin: &Origin, text: String) -> String {
        let port = Scheme::Http.default_port();
        let mapped = self.shard.config.rules.mapped(&origin.key.name, port).is_some();
        let addresses = origin.addresses.borrow();
        if mapped && addresses.current().any(|address| self.policy.listens_on(address.ip)) {
            format!("{text}; {LEADS_BACK}")
        } else {
            text
        }
    }

    fn tuning(&self) -> Tuning<'_> {
        Tuning {
            keepalive_idle: TCP_KEEPALIVE,
            keepalive_interval: TCP_KEEPALIVE_INTERVAL,
            user_timeout: TCP_USER_TIMEOUT,
            notsent_lowat_bytes: TCP_NOTSENT_LOWAT_BYTES,
            congestion: self.shard.config.tcp_congestion.as_deref(),
        }
    }

    /// The addresses of an origin that may be dialled, in the order to try them. The check is on these very addresses,
    /// after resolution.
    async fn addresses(
        &self,
        origin: &Origin,
        deadline: Instant,
    ) -> Result<Vec<Rc<Address>>, Error> {
        let order = if origin.key.at.is_some() {
            self.order_from(origin, Instant::now())
        } else {
            let answer = self.look_up(origin.key.dialled().0, deadline).await?;
            let now = Instant::now();
            let mut addresses = origin.addresses.borrow_mut();
            addresses.update(&answer, now);
            addresses::order(addresses.current().cloned().collect(), now, &self.chance)
        };
        // A proxy on the way decides for itself where names lead; but what is refused here it is not asked for.
        if let (Some(_), Ok(ip)) = (&origin.key.via, origin.key.name.parse()) {
            let at = SocketAddr::new(ip, origin.key.port);
            let refused = |why: Refused| Error::proxy(Phase::Route, why.cause(at));
            self.policy.check(at).map_err(refused)?;
        }
        let mut refused = None;
        let may_be_dialled = |address: &Rc<Address>| {
            let at = SocketAddr::new(address.ip, origin.key.dialled().1);
            self.policy.check(at).map_err(|why| refused = Some(origin.key.explain(why, at))).is_ok()
        };
        let allowed: Vec<_> = order.into_iter().filter(may_be_dialled).collect();
        match refused {
            Some(why) if allowed.is_empty() => Err(Error::proxy(Phase::Route, why)),
            Some(_) | None => Ok(allowed),
        }
    }

    async fn look_up(&self, name: &Arc<str>, deadline: Instant) -> Result<Arc<[IpAddr]>, Error> {
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Ok(Arc::from([ip]));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        monoio::time::timeout(left, self.names.lookup(name))
            .await
            .unwrap_or(Err(Cause::TimedOut))
            .map_err(|cause| Error::origin(Phase::Dns, cause))
    }
}
