//! What went wrong with a request: who (party), when (phase), why (cause).
//!
//! Made where it is known and carried up unchanged. Four exhaustive matches below say what it means: the
//! status the client sees, the code and the sentence in the log, and whether the request may be sent again.

#![forbid(unsafe_code)]

use crate::limits::{FIELDS_MAX, HEAD_BYTES_MAX, TARGET_BYTES_MAX};
use std::{borrow::Cow, fmt, io};

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Client,
    Origin,
    Proxy,
}

/// What was going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading a head: the request's (client) or the response's (origin).
    Head,
    /// Moving a body.
    Body,
    /// Finding out where the request goes and whether it may.
    Route,
    Dns,
    Connect,
    Tls,
    /// Sending the request to the origin.
    Send,
    /// The request is out, no byte of the response is in.
    Wait,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Breaks the grammar or the framing rules of RFC 9112; the text says which rule.
    Malformed(&'static str),
    HeadTooLong,
    TargetTooLong,
    BodyTooLong,
    /// Well-formed, but a feature that this proxy does not have.
    NotImplemented(&'static str),
    VersionNotSupported,
    /// The Host names no origin; the text says what is missing.
    NoRoute(&'static str),
    /// The request came through a chocon before.
    Loop,
    /// The name leads to this proxy itself; the text says what helps.
    LeadsBack(String),
    /// The address must not be dialled; the text says why and what opens it.
    Forbidden(String),
    /// The deadline of the phase ran out.
    TimedOut,
    /// An orderly end (FIN) where bytes were still due.
    Closed,
    /// An answer that came before the request can have been there: it belongs to nobody's, or to another's.
    Unasked,
    /// The task that made the connection ended in a panic.
    Panicked,
    /// A reset, a broken pipe or another failure of the socket.
    Io(io::ErrorKind),
    /// All addresses refused, each in its way; the text names them.
    Unreached(String),
    /// An address had not answered when the deadline passed; the text says what became of each.
    Unanswered(String),
    /// A proxy on the way to the origin refused, or did not keep to the protocol; the text says which and what.
    Proxy(String),
    /// The name has no address; the text is the resolver's.
    Name(String),
    /// The TLS handshake or a TLS record failed; the text is the library's.
    Tls(String),
    /// One of the proxy's own bounds is reached.
    Busy(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub party: Party,
    pub phase: Phase,
    pub cause: Cause,
}

impl Error {
    pub fn client(phase: Phase, cause: Cause) -> Self {
        Self { party: Party::Client, phase, cause }
    }

    pub fn origin(phase: Phase, cause: Cause) -> Self {
        Self { party: Party::Origin, phase, cause }
    }

    pub fn proxy(phase: Phase, cause: Cause) -> Self {
        Self { party: Party::Proxy, phase, cause }
    }

    /// The status for the client, or for the log where the client is gone (499).
    pub fn status(&self) -> u16 {
        match (&self.cause, self.party) {
            (Cause::Malformed(_), Party::Client) => 400,
            (Cause::Malformed(_), Party::Origin | Party::Proxy) => 502,
            (Cause::HeadTooLong, Party::Client) => 431, // RFC 6585 §5
            (Cause::HeadTooLong, Party::Origin | Party::Proxy) => 502,
            (Cause::TargetTooLong, _) => 414, // RFC 9110 §15.5.15
            (Cause::BodyTooLong, Party::Client) => 413,
            (Cause::BodyTooLong, Party::Origin | Party::Proxy) => 502,
            (Cause::NotImplemented(_), Party::Client) => 501,
            (Cause::NotImplemented(_), Party::Origin | Party::Proxy) => 502,
            (Cause::VersionNotSupported, Party::Client) => 505,
            (Cause::VersionNotSupported, Party::Origin | Party::Proxy) => 502,
            (Cause::NoRoute(_), _) => 400,
            (Cause::Loop | Cause::LeadsBack(_), _) => 508, // RFC 5842 §7.2
            (Cause::Forbidden(_), _) => 403,
            (Cause::TimedOut, Party::Client) => 408,
            (Cause::TimedOut, Party::Origin | Party::Proxy) => 504,
            (Cause::Closed | Cause::Io(_), Party::Client) => 499,
            (Cause::Closed | Cause::Io(_), Party::Origin | Party::Proxy) => 502,
            (Cause::Unasked | Cause::Panicked, _) => 502,
            (Cause::Unreached(_) | Cause::Proxy(_) | Cause::Name(_) | Cause::Tls(_), _) => 502,
            (Cause::Unanswered(_), _) => 504,
            (Cause::Busy(_), _) => 503,
        }
    }

    /// `party/phase/cause` in words that a log search can rely on.
    pub fn code(&self) -> String {
        format!("{}/{}/{}", self.party.word(), self.phase.word(), self.cause.word())
    }

    /// Whether the failure looks like an idle connection that the origin had already given up, or spoilt: only then can
    /// sending the request again on a fresh connection help. Whether it is *safe* is decided in `proxy::forward`.
    pub fn is_stale_connection(&self) -> bool {
        match (self.party, self.phase, &self.cause) {
            (Party::Origin, Phase::Send | Phase::Wait, Cause::Closed | Cause::Io(_)) => true,
            (Party::Origin, Phase::Wait, Cause::Unasked) => true,
            // A TLS alert or end in place of an answer: the origin closed while idle.
            (Party::Origin, Phase::Send | Phase::Wait, Cause::Tls(_)) => true,
            (Party::Origin | Party::Client | Party::Proxy, _, _) => false,
        }
    }
}

impl Party {
    pub fn word(self) -> &'static str {
        match self {
            Party::Client => "client",
            Party::Origin => "origin",
            Party::Proxy => "proxy",
        }
    }
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Phase::Head => "head",
            Phase::Body => "body",
            Phase::Route => "route",
            Phase::Dns => "dns",
            Phase::Connect => "connect",
            Phase::Tls => "tls",
            Phase::Send => "send",
            Phase::Wait => "wait",
        }
    }
}

impl Cause {
    pub fn word(&self) -> &'static str {
        match self {
            Cause::Malformed(_) => "malformed",
            Cause::HeadTooLong => "head-too-long",
            Cause::TargetTooLong => "target-too-long",
            Cause::BodyTooLong => "body-too-long",
            Cause::NotImplemented(_) => "not-implemented",
            Cause::VersionNotSupported => "version",
            Cause::NoRoute(_) => "no-route",
            Cause::Loop => "loop",
            Cause::LeadsBack(_) => "leads-back",
            Cause::Forbidden(_) => "forbidden",
            Cause::TimedOut | Cause::Unanswered(_) => "timed-out",
            Cause::Closed => "closed",
            Cause::Unasked => "unasked",
            Cause::Io(_) => "io",
            Cause::Panicked => "panic",
            Cause::Unreached(_) => "unreached",
            Cause::Proxy(_) => "proxy",
            Cause::Name(_) => "name",
            Cause::Tls(_) => "tls",
            Cause::Busy(_) => "busy",
        }
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Cause::Malformed(rule) => Cow::Borrowed(rule),
            Cause::HeadTooLong => Cow::Owned(format!(
                "the head is longer than {} KiB or has more than {FIELDS_MAX} fields",
                HEAD_BYTES_MAX / 1024
            )),
            Cause::TargetTooLong => Cow::Owned(format!(
                "the request target is longer than {} KiB",
                TARGET_BYTES_MAX / 1024
            )),
            Cause::BodyTooLong => "the announced body is longer than can be counted".into(),
            Cause::NotImplemented(what) => Cow::Owned(format!("{what} is not supported")),
            Cause::VersionNotSupported => "only HTTP/1.0 and HTTP/1.1 are spoken here".into(),
            Cause::NoRoute(why) => Cow::Borrowed(why),
            Cause::Loop => "the request has passed through chocon before; \
                check that the origin's name does not lead back here"
                .into(),
            Cause::LeadsBack(why)
            | Cause::Forbidden(why)
            | Cause::Unreached(why)
            | Cause::Unanswered(why)
            | Cause::Proxy(why)
            | Cause::Name(why)
            | Cause::Tls(why) => Cow::Borrowed(why),
            Cause::TimedOut => "the deadline passed".into(),
            Cause::Closed => "the connection was closed".into(),
            Cause::Panicked => {
                "this program failed as it made the connection; please report this".into()
            }
            Cause::Unasked => {
                "an answer came before the request can have been there, or two came".into()
            }
            Cause::Io(kind) => Cow::Owned(kind.to_string()),
            Cause::Busy(what) => Cow::Borrowed(what),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.cause.text())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_cause_blames_its_party() {
        assert_eq!(Error::client(Phase::Body, Cause::TimedOut).status(), 408);
        assert_eq!(Error::origin(Phase::Wait, Cause::TimedOut).status(), 504);
        assert_eq!(Error::client(Phase::Head, Cause::Malformed("x")).status(), 400);
        assert_eq!(Error::origin(Phase::Head, Cause::Malformed("x")).status(), 502);
        assert_eq!(Error::client(Phase::Body, Cause::Closed).status(), 499);
    }

    #[test]
    fn only_a_silent_end_before_the_answer_looks_stale() {
        assert!(Error::origin(Phase::Wait, Cause::Closed).is_stale_connection());
        assert!(Error::origin(Phase::Wait, Cause::Unasked).is_stale_connection());
        assert!(!Error::origin(Phase::Wait, Cause::TimedOut).is_stale_connection());
        assert!(!Error::origin(Phase::Body, Cause::Closed).is_stale_connection());
        assert!(!Error::client(Phase::Body, Cause::Closed).is_stale_connection());
    }

    #[test]
    fn the_log_line_names_party_phase_and_cause() {
        let e = Error::origin(Phase::Connect, Cause::Io(io::ErrorKind::ConnectionRefused));
        assert_eq!(e.to_string(), "origin/connect/io: connection refused");
    }
}
