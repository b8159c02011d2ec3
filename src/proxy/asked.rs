//! What a client asked for: its head read, admitted, and written anew for the origin, in one step without a wait.

#![forbid(unsafe_code)]

use super::pages::{OwnAnswer, asked_for};
use crate::{
    authority::{self, Scheme},
    client::Door,
    error::{Cause, Error, Phase},
    headers::{self, LoopMark, NextHop, Out, ProxyHop, Target},
    http1::{
        framing::RequestBody,
        head::{FieldRoom, RequestHead, Version},
    },
    observe::id::Id,
    route::{Form, HostOut},
    upstream::{Destination, Upstream},
};
use std::{ops::Range, rc::Rc, time::Instant};

/// What is needed of a request once its head is sent on. Ranges are in the head's bytes.
pub struct Asked {
    pub id: RequestId,
    pub version: Version,
    pub body: RequestBody,
    pub keep_alive: bool,
    pub is_head: bool,
    /// RFC 9110 §9.2.2: asking twice is as good as asking once.
    pub is_idempotent: bool,
    pub method: Range<usize>,
    pub target: Range<usize>,
    pub path: Range<usize>,
    pub host: Range<usize>,
    pub user_agent: Range<usize>,
}

const NO_HOST: &str = "the request has no Host";

/// Where a request goes.
pub enum Goes {
    To(Rc<Destination>),
    /// To nobody: the proxy has the answer.
    Nowhere(OwnAnswer),
}

/// X-Chocon-Id: the client's, or a fresh one.
pub enum RequestId {
    Fresh(Id),
    Client(Box<[u8]>),
}

impl RequestId {
    pub fn bytes(&self) -> &[u8] {
        match self {
            RequestId::Fresh(id) => &id[..],
            RequestId::Client(id) => id,
        }
    }
}

impl Asked {
    /// A request whose head could not be read; it gets an answer and a log line all the same.
    pub fn unreadable(id: Id) -> Self {
        Self {
            id: RequestId::Fresh(id),
            version: Version::Http11,
            body: RequestBody::None,
            keep_alive: false,
            is_head: false,
            is_idempotent: false,
            method: 0..0,
            target: 0..0,
            path: 0..0,
            host: 0..0,
            user_agent: 0..0,
        }
    }

    fn of(head: &RequestHead<'_, '_>, id: RequestId) -> Self {
        let base = head.fields.bytes.as_ptr() as usize;
        let range = |part: &[u8]| {
            // Empty parts need not lie in the head.
            if part.is_empty() {
                return 0..0;
            }
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        let path = Target::parse(head.method, head.target).map_or("", |target| target.path());
        Self {
            id,
            version: head.version,
            body: head.body,
            keep_alive: head.keep_alive,
            is_head: head.method == "HEAD",
            is_idempotent: matches!(
                head.method,
                "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
            ),
            method: range(head.method.as_bytes()),
            target: range(head.target.as_bytes()),
            path: range(path.as_bytes()),
            host: range(head.host.unwrap_or_default()),
            user_agent: range(head.user_agent),
        }
    }
}

/// Reads a whole head and writes the one for the origin to `out`.
///
/// Returns what was asked, as far as it could be read, and where it goes; or why it goes nowhere.
pub fn read(
    upstream: &Upstream,
    door: Door,
    bytes: &[u8],
    now: Instant,
    out: &mut impl Out,
) -> (Asked, Result<Goes, Error>) {
    let mut room = FieldRoom::default();
    let head = match RequestHead::parse(bytes, &mut room) {
        Ok(head) => head,
        Err(cause) => {
            let asked = Asked::unreadable(upstream.shard.next_id(now));
            return (asked, Err(Error::client(Phase::Head, cause)));
        }
    };
    let id = match head.id {
        Some(id) => RequestId::Client(id.into()),
        None => RequestId::Fresh(upstream.shard.next_id(now)),
    };
    let goes = admit(upstream, door, &head, id.bytes(), out);
    (Asked::of(&head, id), goes)
}

fn admit(
    upstream: &Upstream,
    door: Door,
    head: &RequestHead<'_, '_>,
    id: &[u8],
    out: &mut impl Out,
) -> Result<Goes, Error> {
    let refused = |cause| Error::client(Phase::Route, cause);
    if head.method == "CONNECT" {
        return Err(refused(Cause::NotImplemented("CONNECT")));
    }
    let target = Target::parse(head.method, head.target)
        .map_err(|why| Error::client(Phase::Head, Cause::Malformed(why)))?;
    if let Some(own) = asked_for(door, upstream.shard.config.api, head.method, &target) {
        return Ok(Goes::Nowhere(own));
    }
    let fixed = upstream.fixed_destination();
    let loop_mark = if fixed.is_some() { LoopMark::Passed } else { LoopMark::Set };
    if head.has_chocon_ver && loop_mark == LoopMark::Set {
        return Err(refused(Cause::Loop));
    }
    let destination = match fixed {
        Some(destination) => {
            check_passed_on(head.host, target.absolute)?;
            destination
        }
        None => {
            // RFC 9112 §3.2.2: the authority of an absolute-form target wins over Host.
            let (form, authority) = match target.absolute {
                Some((scheme, authority)) => (Form::Absolute(scheme), authority.as_bytes()),
                None => (Form::Host, head.host.ok_or(refused(Cause::NoRoute(NO_HOST)))?),
            };
            upstream.destination(authority, form)?
        }
    };
    let host = match (&destination.host, target.absolute) {
        (HostOut::Is(host), _) => Some(&**host),
        (HostOut::AsSent, None) if head.host.is_none() => upstream.fixed_host(),
        (HostOut::AsSent, None) => None,
        // RFC 9112 §3.2.2: a Host that says otherwise is replaced, or a client could be let through to one name and ask
        // for another. One that says the same may be signed, so it stays as it is.
        (HostOut::AsSent, Some((scheme, authority))) => {
            let authority = authority.as_bytes();
            let same = head.host.is_some_and(|host| authority::is_same(host, authority, scheme));
            (!same).then_some(authority)
        }
    };
    let proxy = destination.asks_proxy.as_ref().map(|asks| ProxyHop {
        prefix: &asks.prefix,
        authorization: asks.authorization.as_deref(),
    });
    headers::write_request(out, head, target, NextHop { host, loop_mark, proxy }, id);
    Ok(Goes::To(destination))
}

/// With `--upstream` no route is made of the authority; the next hop makes one of it.
fn check_passed_on(host: Option<&[u8]>, absolute: Option<(Scheme, &str)>) -> Result<(), Error> {
    let refused = |why| Err(Error::client(Phase::Head, Cause::Malformed(why)));
    match absolute {
        // RFC 9110 §4.2.1: a URL without a host is invalid.
        Some((_, "")) => refused("the target names no host"),
        // RFC 9110 §4.2.4: user info is an error, as it hides where a URL leads.
        Some((_, authority)) if !authority::is_host_spelling(authority.as_bytes()) => {
            refused("the target's authority is not a host with or without a port")
        }
        // RFC 9112 §3.2: an invalid Host is a 400.
        Some(_) | None if host.is_some_and(|host| !authority::is_host_spelling(host)) => {
            refused("the Host is not a host with or without a port")
        }
        Some(_) | None => Ok(()),
    }
}
