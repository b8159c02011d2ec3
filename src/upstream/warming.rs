//! What is to be ready before a shard takes its first client: a process that follows another one should not make its
//! first requests pay what the old one's did not.

#![forbid(unsafe_code)]

use super::{Upstream, origins::Origin};
use std::{cell::RefCell, rc::Rc};

/// Origins whose connections are waited for.
#[derive(Default)]
pub struct Warming(RefCell<Vec<Expected>>);

struct Expected {
    origin: Rc<Origin>,
    connections: usize,
}

impl Upstream {
    /// Has the start wait for connections to `origin`, of which this shard makes them.
    pub(super) fn expect_warm(&self, origin: &Rc<Origin>, connections: usize) {
        let config = &self.shard.config;
        let bounds = [config.keepalive_conns, self.idle_max(origin), config.max_conns_per_host];
        // No bound on the connections of a host is written as 0.
        let bounds = bounds.into_iter().take(if config.max_conns_per_host > 0 { 3 } else { 2 });
        let connections = bounds.fold(connections, usize::min);
        if connections > 0 {
            let expected = Expected { origin: origin.clone(), connections };
            self.warming.0.borrow_mut().push(expected);
        }
    }

    /// Whether all that is expected is there, or has failed: an origin that is down is not waited for.
    pub fn is_warm(&self) -> bool {
        let mut warming = self.warming.0.borrow_mut();
        warming.retain(|expected| !expected.is_over());
        warming.is_empty()
    }
}

impl Expected {
    fn is_over(&self) -> bool {
        let origin = &self.origin;
        // One HTTP/2 connection has room for many requests.
        origin.floor.is_failing()
            || origin.streams.takes_requests()
            || origin.idle.borrow().len() >= self.connections
    }
}
