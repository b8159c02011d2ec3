//! `--upstream`: one name for all requests, whose addresses share them out evenly.
//!
//! Each address is an origin of its own, with its own idle connections, so that the address with the fewest requests in
//! flight can be chosen and a connection to it found. Where it does not answer, the dial goes on to the others, and
//! the connection counts for the address that it reached.
//!
//! chocon: `upstream.go`. Better than chocon: the TTL counts where it is shorter than 3 s, an address that failed is
//! left out until it answers again, and https is verified by the name.

#![forbid(unsafe_code)]

use super::{
    Upstream,
    addresses::{self, Address, Chance},
    dns::{Answer, Resolver},
    origins::{Destination, Key, Origin},
};
use crate::{
    authority::OriginUrl,
    config::Config,
    limits::{FIXED_REFRESH_EVERY, LOOKUP_WITHIN},
    route::HostOut,
};
use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// What a shard knows of the fixed upstream.
pub struct Fixed {
    url: OriginUrl,
    /// What a request without Host is given: HTTP/1.1 requires one (RFC 9112 §3.2).
    host: Box<[u8]>,
    answer: RefCell<Option<Arc<[IpAddr]>>>,
    /// One for each address; never empty once the first answer is in.
    to: RefCell<Vec<Rc<Destination>>>,
}

/// Looks the name of `--upstream` up, so that a start fails and not each request. None: there is none, or none to look
/// up. Blocks. Errors: cause and remedy.
pub fn resolve(resolver: &Resolver, config: &Config) -> Result<Option<Answer>, String> {
    let Some(url) = &config.upstream else { return Ok(None) };
    let is_proxied = config.proxies.before(url.scheme, &url.name, url.port).is_some();
    if is_proxied || url.name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let (to, answered) = mpsc::channel();
    let reply = move |answer| {
        // Nobody waits any more: the start has failed already.
        to.send(answer).ok();
    };
    let busy = |_| "--upstream: the resolver is not there; please report this".to_owned();
    resolver.ask(url.name.clone(), None, reply).map_err(busy)?;
    let within = LOOKUP_WITHIN + Duration::from_secs(1);
    let answer = answered.recv_timeout(within).map_err(|_| {
        format!(
            "--upstream: {} was not looked up within {within:?}; check the name servers",
            url.name
        )
    })?;
    match &answer.result {
        Ok(_) => Ok(Some(answer)),
        Err(why) => Err(format!(
            "--upstream: {} has no address: {why}; check the name, /etc/hosts and the name servers",
            url.name
        )),
    }
}

impl Fixed {
    pub fn new(url: OriginUrl) -> Self {
        let name =
            if url.name.contains(':') { format!("[{}]", url.name) } else { url.name.to_string() };
        let host = match url.port {
            port if port == url.scheme.default_port() => name,
            port => format!("{name}:{port}"),
        };
        Self {
            url,
            host: host.into_bytes().into(),
            answer: RefCell::default(),
            to: RefCell::default(),
        }
    }

    pub(super) fn leads_to(&self, url: &OriginUrl) -> bool {
        self.url == *url
    }

    /// The address with the fewest requests in flight, by chance where there are several; one that failed of late only
    /// where all did. None: no address is known yet.
    fn least_busy(&self, chance: &Chance) -> Option<Rc<Destination>> {
        let to = self.to.borrow();
        let weights = to.iter().map(|to| {
            let failed = to.origin.addresses.borrow().has_failed();
            (failed, to.origin.in_flight.get())
        });
        least(weights, chance).map(|at| to[at].clone())
    }

    /// The origin of the address that a connection reached.
    fn home(&self, ip: IpAddr) -> Option<Rc<Origin>> {
        let to = self.to.borrow();
        to.iter().find(|to| to.origin.key.at == Some(ip)).map(|to| to.origin.clone())
    }
}

/// The least of `weights`; each of several equal ones is as likely.
fn least<W: Ord>(weights: impl Iterator<Item = W>, chance: &Chance) -> Option<usize> {
    let mut least: Option<(usize, W)> = None;
    let mut equals = 1;
    for (at, weight) in weights.enumerate() {
        match least.as_ref().map(|(_, least)| weight.cmp(least)) {
            None | Some(std::cmp::Ordering::Less) => {
                least = Some((at, weight));
                equals = 1;
            }
            Some(std::cmp::Ordering::Equal) => {
                equals += 1;
                if chance.below(equals) == 0 {
                    least = Some((at, weight));
                }
            }
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    least.map(|(at, _)| at)
}

impl Upstream {
    /// Takes in the first addresses, and has the name looked up again from now on.
    pub fn begin_fixed(&self, first: Option<Answer>) {
        let Some(fixed) = &self.fixed else { return };
        let key = self.key_of(fixed.url.clone());
        if key.via.is_some() {
            // The proxy looks the name up and shares the requests out.
            let origin = self.origin(key);
            fixed.to.replace(vec![Rc::new(Destination::new(origin, HostOut::AsSent))]);
            return;
        }
        match (fixed.url.name.parse::<IpAddr>(), first) {
            (Ok(ip), _) => self.spread_over(fixed, &Arc::from([ip])),
            (Err(_), Some(answer)) => {
                self.names.deliver(answer);
                self.names.watch(fixed.url.name.clone(), FIXED_REFRESH_EVERY);
            }
            (Err(_), None) => {}
        }
        self.look_after_fixed(Instant::now());
    }

    /// Follows the name. Where it cannot be looked up, or is said not to be, the last addresses stay: there is nowhere else
    /// to go.
    pub(super) fn look_after_fixed(&self, now: Instant) {
        let Some(fixed) = &self.fixed else { return };
        let Some(answer) = self.names.stay(&fixed.url.name, now) else { return };
        let is_same = fixed.answer.borrow().as_ref().is_some_and(|old| Arc::ptr_eq(old, &answer));
        if !is_same {
            self.spread_over(fixed, &answer);
        }
        // An address that failed gets no requests, and is tried in the background as long as its name gets any.
        let used = fixed.to.borrow().iter().map(|to| to.origin.used.get()).max();
        if let Some(used) = used {
            fixed.to.borrow().iter().for_each(|to| to.origin.used.set(used));
        }
    }

    fn spread_over(&self, fixed: &Fixed, answer: &Arc<[IpAddr]>) {
        let now = Instant::now();
        let OriginUrl { scheme, name, port } = &fixed.url;
        let destination = |ip: &IpAddr| {
            let (scheme, name, port) = (*scheme, name.clone(), *port);
            let origin = self.origin(Key { scheme, name, port, at: Some(*ip), via: None });
            origin.addresses.borrow_mut().update(&Arc::from([*ip]), now);
            Rc::new(Destination::new(origin, HostOut::AsSent))
        };
        let to: Vec<_> = answer.iter().map(destination).collect();
        // As many as `--warm` says, shared out over the addresses.
        let warm = self.shard.config.warm.iter().filter(|warm| warm.origin == fixed.url);
        let warm = warm.map(|warm| warm.connections).max().unwrap_or(0).div_ceil(to.len().max(1));
        to.iter().for_each(|to| self.name_floor(&to.origin, warm));
        let old = fixed.to.replace(to);
        fixed.answer.replace(Some(answer.clone()));
        // Connections to those that are gone are closed: the sweeper's, or with their request.
        for gone in old.iter().filter(|old| !answer.iter().any(|ip| old.origin.key.at == Some(*ip)))
        {
            gone.origin.addresses.borrow_mut().leave();
            self.name_floor(&gone.origin, 0);
        }
    }

    /// Whether requests to `url` are spread over the addresses of its name.
    pub(super) fn is_spread(&self, url: &OriginUrl) -> bool {
        self.fixed.as_ref().is_some_and(|fixed| fixed.leads_to(url))
            && self.key_of(url.clone()).via.is_none()
    }

    /// The origins of the addresses of `--upstream`.
    pub(super) fn spread_origins(&self) -> Vec<Rc<Origin>> {
        let to = self.fixed.iter().flat_map(|fixed| fixed.to.borrow().clone());
        to.map(|to| to.origin.clone()).collect()
    }

    /// The addresses to dial for the origin of one address: that one, then the others of its name.
    pub(super) fn order_from(&self, origin: &Origin, now: Instant) -> Vec<Rc<Address>> {
        let current = |origin: &Origin| origin.addresses.borrow().current().next().cloned();
        let siblings = self.fixed.iter().flat_map(|fixed| fixed.to.borrow().clone());
        let others = siblings.filter(|to| to.origin.key != origin.key);
        let others = others.filter_map(|to| current(&to.origin)).collect();
        let others = addresses::order(others, now, &self.chance);
        current(origin).into_iter().chain(others).collect()
    }

    /// The origin that a connection to `ip` belongs to, if it is not the one that it was made for.
    pub(super) fn other_home(&self, origin: &Origin, ip: IpAddr) -> Option<Rc<Origin>> {
        let is_elsewhere = origin.key.at.is_some_and(|at| at != ip);
        self.fixed.as_ref().filter(|_| is_elsewhere)?.home(ip)
    }

    /// Where a request goes, whatever its Host. None: there is no `--upstream`.
    pub fn fixed_destination(&self) -> Option<Rc<Destination>> {
        self.fixed.as_ref()?.least_busy(&self.chance)
    }

    /// What a request without Host is given on its way to `--upstream`.
    pub fn fixed_host(&self) -> Option<&[u8]> {
        self.fixed.as_ref().map(|fixed| &*fixed.host)
    }
}

/// A request's part in what an origin has in flight; over on drop.
pub struct InFlight(Rc<Origin>);

impl InFlight {
    pub fn of(origin: &Rc<Origin>) -> Self {
        let count: &Cell<u32> = &origin.in_flight;
        count.set(count.get() + 1);
        Self(origin.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(weights: &[(bool, u32)]) -> Vec<usize> {
        let chance = Chance::seeded(11);
        let mut counts = vec![0; weights.len()];
        for _ in 0..1000 {
            counts[least(weights.iter().copied(), &chance).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_fewest_in_flight_wins_and_ties_are_drawn() {
        assert_eq!(chosen(&[(false, 3), (false, 1), (false, 2)]), [0, 1000, 0]);
        let drawn = chosen(&[(false, 1), (false, 2), (false, 1), (false, 1)]);
        assert_eq!(drawn[1], 0);
        assert!([0, 2, 3].iter().all(|at| (250..420).contains(&drawn[*at])), "{drawn:?}");
    }

    #[test]
    fn one_that_failed_is_chosen_only_where_all_did() {
        assert_eq!(chosen(&[(true, 0), (false, 9)]), [0, 1000]);
        assert_eq!(chosen(&[(true, 1), (true, 0)]), [0, 1000]);
        assert_eq!(least(std::iter::empty::<u32>(), &Chance::seeded(1)), None);
    }

    #[test]
    fn a_request_without_host_gets_the_upstreams() {
        for (url, host) in [
            ("http://up.test", "up.test"),
            ("https://up.test:443", "up.test"),
            ("https://up.test:80", "up.test:80"),
            ("http://[2001:db8::1]:3000", "[2001:db8::1]:3000"),
        ] {
            let fixed = Fixed::new(OriginUrl::parse(url).unwrap());
            assert_eq!(&*fixed.host, host.as_bytes(), "{url}");
        }
    }
}
