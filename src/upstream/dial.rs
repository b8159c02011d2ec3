//! A new connection to an origin: its addresses, TCP to one of them, the TLS handshake.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    connection::{Connection, OpenCount},
    origins::Origin,
};
use crate::{
    error::{Cause, Error, Phase},
    limits::TCP_KEEPALIVE,
    observe::latency::{Acquired, Cost},
    route::Scheme,
    shard::sys::Socket,
};
use monoio::net::TcpStream;
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
}

impl Dialling {
    /// What is waited for; connect while the name is looked up, as it counts within `--connect-timeout`.
    pub fn phase(&self) -> Phase {
        if self.connect.get().is_some() { Phase::Tls } else { Phase::Connect }
    }

    /// What a request paid that got its connection, as `acquired`, after `total`.
    pub fn cost(&self, acquired: Acquired, total: Duration) -> Cost {
        match acquired {
            Acquired::Reused | Acquired::Waited => Cost { wait: total, ..Cost::default() },
            Acquired::New => {
                let [dns, connect, tls] = [&self.dns, &self.connect, &self.tls]
                    .map(|phase| phase.get().unwrap_or_default());
                Cost { dns, connect, tls, wait: total.saturating_sub(dns + connect + tls) }
            }
        }
    }
}

impl Upstream {
    /// Makes a new connection to `origin`.
    ///
    /// Errors, by phase: route (address refused), dns, connect, tls; each also by its deadline. Cancel-safe: what was
    /// under way is closed.
    pub(super) async fn dial(
        &self,
        origin: &Origin,
        dialling: &Dialling,
    ) -> Result<Connection, Error> {
        let open = OpenCount::take(&self.open, self.open_max).or_else(|| {
            self.retire_oldest_idle();
            OpenCount::take(&self.open, self.open_max)
        });
        let open = open.ok_or_else(|| {
            let text = "too many origin connections are open; raise the limit of open files";
            Error::proxy(Phase::Connect, Cause::Busy(text))
        })?;
        let socket = self.connect(origin, dialling).await?;
        let session = match origin.key.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let begun = Instant::now();
                let handshake =
                    self.tls.handshake(&origin.key.name, socket.clone(), &self.shard.blocks);
                let within = monoio::time::timeout(self.shard.config.tls_timeout, handshake).await;
                let session = within.unwrap_or(Err(Cause::TimedOut));
                dialling.tls.set(Some(begun.elapsed()));
                Some(session.map_err(|cause| Error::origin(Phase::Tls, cause))?)
            }
        };
        Ok(Connection::new(socket, session, open))
    }

    /// Resolves the name and connects to the first address that answers; all of them together within
    /// `--connect-timeout`.
    async fn connect(&self, origin: &Origin, dialling: &Dialling) -> Result<Rc<Socket>, Error> {
        let begun = Instant::now();
        let deadline = begun + self.shard.config.connect_timeout;
        let addresses = self.addresses(origin, deadline).await?;
        let resolved = Instant::now();
        dialling.dns.set(Some(resolved.saturating_duration_since(begun)));
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
                    dialling.connect.set(Some(resolved.elapsed()));
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
}
