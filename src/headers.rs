//! Heads out: what a proxy writes in place of the head it read.
//!
//! Lines that stay are copied as they stand, with their spelling and spacing, in runs as long as possible. What is
//! for the next hop only is left out, what this proxy adds goes last. Nothing else is invented.

#![forbid(unsafe_code)]

use crate::{
    authority::Scheme,
    http1::{
        fields::Field,
        framing::{RequestBody, ResponseBody},
        head::{Fields, RequestHead, ResponseHead, Version},
    },
};

/// What loops are recognised by: sent to every origin, refused from every client.
pub const CHOCON_VER: &str = env!("CARGO_PKG_VERSION");

/// Where heads are written to.
pub trait Out {
    fn push(&mut self, bytes: &[u8]);
}

impl Out for Vec<u8> {
    fn push(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What the next hop is told in place of what the client said.
#[derive(Clone, Copy, Debug)]
pub struct NextHop<'h> {
    /// Replaces the client's Host; None leaves its line as it stands, byte for byte, for the client may have signed it.
    pub host: Option<&'h [u8]>,
    pub loop_mark: LoopMark,
    /// It is a proxy that is asked for the origin.
    pub proxy: Option<ProxyHop<'h>>,
}

/// How a proxy is asked.
#[derive(Clone, Copy, Debug)]
pub struct ProxyHop<'h> {
    /// `http://` and the origin's authority.
    pub prefix: &'h [u8],
    /// Its own Proxy-Authorization; the client's was for this proxy.
    pub authorization: Option<&'h str>,
}

/// What becomes of X-Chocon-Ver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopMark {
    /// This proxy's own.
    Set,
    /// The client's, if it sent one: the next hop may be a proxy that looks for its own.
    Passed,
}

/// Writes the head for the origin: always HTTP/1.1, in origin-form; in absolute-form where a proxy is asked.
///
/// `target` is what the origin is asked for, and `id` identifies the request in every log on its way.
pub fn write_request(
    out: &mut impl Out,
    head: &RequestHead<'_, '_>,
    target: Target<'_>,
    hop: NextHop<'_>,
    id: &[u8],
) {
    let fields = &head.fields;
    let stands =
        hop.proxy.is_none() && target.absolute.is_none() && head.version == Version::Http11;
    let begin = if stands {
        0
    } else {
        write_request_line(out, head, target, hop.proxy);
        fields.start
    };
    if let (None, Some(host)) = (head.host, hop.host) {
        // RFC 9112 §3.2: required in HTTP/1.1, though an HTTP/1.0 client did not have to send it.
        write_host(out, host);
    }
    let mut length_written = false;
    copy_lines(out, fields, begin, |field| match field {
        Field::Host => hop.host.map_or(Fate::Stays, Fate::BecomesHost),
        // RFC 9112 §6.3: repeated identical lengths become one.
        Field::ContentLength => goes_if(std::mem::replace(&mut length_written, true)),
        Field::TransferEncoding => Fate::Goes,
        Field::ChoconVer => goes_if(hop.loop_mark == LoopMark::Set),
        // The client's own stays where it is; an empty one is none.
        Field::ChoconId => goes_if(head.id.is_none()),
        Field::Other
        | Field::Connection
        | Field::Expect
        | Field::UserAgent
        | Field::HopByHop
        | Field::KeepAlive => Fate::Stays,
    });
    if head.body == RequestBody::Chunked {
        out.push(b"Transfer-Encoding: chunked\r\n");
    }
    if head.id.is_none() {
        out.push(b"X-Chocon-Id: ");
        out.push(id);
        out.push(b"\r\n");
    }
    if let Some(authorization) = hop.proxy.and_then(|proxy| proxy.authorization) {
        out.push(b"Proxy-Authorization: ");
        out.push(authorization.as_bytes());
        out.push(b"\r\n");
    }
    out.push(match hop.loop_mark {
        LoopMark::Set => {
            concat!("X-Chocon-Ver: ", env!("CARGO_PKG_VERSION"), "\r\n\r\n").as_bytes()
        }
        LoopMark::Passed => b"\r\n",
    });
}

fn write_request_line(
    out: &mut impl Out,
    head: &RequestHead<'_, '_>,
    target: Target<'_>,
    proxy: Option<ProxyHop<'_>>,
) {
    out.push(head.method.as_bytes());
    out.push(b" ");
    if let Some(proxy) = proxy {
        out.push(proxy.prefix);
    }
    // RFC 9112 §3.2.4: a proxy is asked for `*` by a target without a path.
    if proxy.is_none() || !target.is_asterisk() {
        out.push(target.before_path.as_bytes());
        out.push(target.path_and_query.as_bytes());
    }
    out.push(b" HTTP/1.1\r\n");
}

fn write_host(out: &mut impl Out, host: &[u8]) {
    out.push(b"Host: ");
    out.push(host);
    out.push(b"\r\n");
}

/// What the client's connection does after this response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1's default; nothing is said.
    Persists,
    /// An HTTP/1.0 client asked for it and is told.
    KeepAliveToHttp10,
    Closes,
}

/// How the response's body reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOut {
    /// None, or as long as its Content-Length says: the bytes pass as they are.
    AsIs,
    Chunked,
    /// To an HTTP/1.0 client without a known length.
    ToClose,
}

impl BodyOut {
    pub fn of(body: ResponseBody, client: Version) -> Self {
        match (body, client) {
            (ResponseBody::None | ResponseBody::Fixed(_), _) => BodyOut::AsIs,
            // To a client that knows chunks, a close-delimited body goes as chunks: only then does a cut look cut.
            (ResponseBody::Chunked | ResponseBody::ToClose, Version::Http11) => BodyOut::Chunked,
            // RFC 9112 §6.1: no Transfer-Encoding to HTTP/1.0.
            (ResponseBody::Chunked | ResponseBody::ToClose, Version::Http10) => BodyOut::ToClose,
        }
    }
}

/// Writes the origin's final head for the client.
pub fn write_response(
    out: &mut impl Out,
    head: &ResponseHead<'_, '_>,
    body: BodyOut,
    persistence: Persistence,
    id: &[u8],
) {
    let begin = begin_response(out, head);
    // RFC 9110 §8.6: no Content-Length in 204; an origin that sends one would make some clients wait for a body.
    let mut length_written = head.status == 204;
    copy_lines(out, &head.fields, begin, |field| match field {
        Field::ContentLength => goes_if(std::mem::replace(&mut length_written, true)),
        Field::TransferEncoding | Field::ChoconId => Fate::Goes,
        Field::Other
        | Field::Host
        | Field::Connection
        | Field::Expect
        | Field::UserAgent
        | Field::ChoconVer
        | Field::HopByHop
        | Field::KeepAlive => Fate::Stays,
    });
    if body == BodyOut::Chunked {
        out.push(b"Transfer-Encoding: chunked\r\n");
    }
    end_head(out, persistence, id);
}

/// Writes the status line, unless it stands as it should be. Returns from where on the head's bytes are still to be copied.
fn begin_response(out: &mut impl Out, head: &ResponseHead<'_, '_>) -> usize {
    // RFC 9112 §4: the space behind the status must be sent even where no reason follows.
    let has_space = head.status_and_reason.len() > " 200".len();
    if has_space && head.version == Version::Http11 {
        return 0;
    }
    out.push(b"HTTP/1.1");
    out.push(head.status_and_reason);
    out.push(if has_space { b"\r\n" } else { b" \r\n" });
    head.fields.start
}

/// Writes an interim (1xx) head for the client: as it is, less what is for the next hop only.
pub fn write_interim(out: &mut impl Out, head: &ResponseHead<'_, '_>) {
    let begin = begin_response(out, head);
    copy_lines(out, &head.fields, begin, |field| {
        // RFC 9110 §8.6 and RFC 9112 §6.1: neither may stand in a 1xx.
        let no_interim =
            matches!(field, Field::ContentLength | Field::TransferEncoding | Field::ChoconId);
        goes_if(no_interim)
    });
    out.push(b"\r\n");
}

/// Writes an answer of the proxy itself: no body.
pub fn write_own(out: &mut impl Out, status: u16, persistence: Persistence, id: &[u8]) {
    write_own_start(out, status);
    out.push(b"Content-Length: 0\r\n");
    end_head(out, persistence, id);
}

/// Writes a page of the proxy's own: JSON, or a line of text where it is not 200. `head_only` leaves the body out, as the
/// answer to HEAD does (RFC 9110 §9.3.2).
pub fn write_page(
    out: &mut impl Out,
    status: u16,
    persistence: Persistence,
    id: &[u8],
    page: &[u8],
    head_only: bool,
) {
    write_own_start(out, status);
    out.push(match status {
        200 => b"Content-Type: application/json\r\n",
        // RFC 9110 §15.5.6: a 405 says what is allowed.
        405 => b"Content-Type: text/plain; charset=utf-8\r\nAllow: GET, HEAD\r\n",
        _no_page => b"Content-Type: text/plain; charset=utf-8\r\n",
    });
    out.push(b"Content-Length: ");
    push_number(out, page.len() as u64);
    out.push(b"\r\n");
    end_head(out, persistence, id);
    out.push(if head_only { b"" } else { page });
}

fn write_own_start(out: &mut impl Out, status: u16) {
    out.push(b"HTTP/1.1 ");
    push_number(out, u64::from(status));
    out.push(b" ");
    out.push(reason(status).as_bytes());
    out.push(b"\r\n");
}

/// Writes what ends each final head for the client, whoever it is from.
pub fn end_head(out: &mut impl Out, persistence: Persistence, id: &[u8]) {
    out.push(match persistence {
        Persistence::Persists => b"",
        Persistence::KeepAliveToHttp10 => b"Connection: keep-alive\r\n",
        Persistence::Closes => b"Connection: close\r\n",
    });
    out.push(b"X-Chocon-Id: ");
    out.push(id);
    out.push(b"\r\n\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        other => unreachable!("{other} is no status of the proxy's own"),
    }
}

/// What becomes of a field's line.
enum Fate<'h> {
    Stays,
    Goes,
    BecomesHost(&'h [u8]),
}

fn goes_if<'h>(goes: bool) -> Fate<'h> {
    if goes { Fate::Goes } else { Fate::Stays }
}

/// Copies the head's bytes from `begin` on, less its empty line and the fields that are for this hop only. `fate` says what
/// becomes of the others.
fn copy_lines<'h>(
    out: &mut impl Out,
    fields: &Fields<'_, '_>,
    begin: usize,
    mut fate: impl FnMut(Field) -> Fate<'h>,
) {
    let mut run = begin..fields.start;
    for field in fields.iter() {
        let line = field.range();
        let fate = if field.is_hop_by_hop() { Fate::Goes } else { fate(field.kind()) };
        let host = match fate {
            // The lines follow on each other.
            Fate::Stays => {
                run.end = line.end;
                continue;
            }
            Fate::Goes => None,
            Fate::BecomesHost(host) => Some(host),
        };
        out.push(&fields.bytes[run]);
        if let Some(host) = host {
            write_host(out, host);
        }
        run = line.end..line.end;
    }
    out.push(&fields.bytes[run]);
}

/// Appends a whole number in decimal.
pub fn push_number(out: &mut impl Out, mut number: u64) {
    let mut digits = [0; 20]; // of u64::MAX
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push(&digits[start..]);
}

/// What the origin is asked for, in origin-form (RFC 9112 §3.2.1) or as `*` (§3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'t> {
    /// Where an absolute-form target leads: its scheme and authority. It wins over Host (RFC 9112 §3.2.2).
    pub absolute: Option<(Scheme, &'t str)>,
    /// `/` where an absolute-form target has a query and no path; else empty.
    pub before_path: &'static str,
    /// The client's bytes.
    pub path_and_query: &'t str,
}

impl<'t> Target<'t> {
    /// Takes a request target apart. Errors: a form that no request to a proxy may have.
    pub fn parse(method: &str, target: &'t str) -> Result<Self, &'static str> {
        // RFC 9112 §3.2: none of the forms has a fragment. One reader cuts it off, another takes it for a part of the path.
        if memchr::memchr(b'#', target.as_bytes()).is_some() {
            return Err("the request target has a fragment (#), which is no part of a request");
        }
        if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
            return Ok(Self { absolute: None, before_path: "", path_and_query: target });
        }
        let (scheme, rest) = Scheme::split(target)
            .ok_or("the request target is neither a path nor an absolute http URL")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        let before_path = match path_and_query.as_bytes().first() {
            Some(b'/') => "",
            // RFC 9112 §3.2.4: OPTIONS on an absolute URL without path asks for `*`.
            None if method == "OPTIONS" => "*",
            Some(_) | None => "/",
        };
        Ok(Self { absolute: Some((scheme, authority)), before_path, path_and_query })
    }

    fn is_asterisk(&self) -> bool {
        self.before_path == "*" || self.path_and_query == "*"
    }

    /// The path without the query, for the log.
    pub fn path(&self) -> &'t str {
        let end = memchr::memchr(b'?', self.path_and_query.as_bytes());
        let path = self.path_and_query.split_at_checked(end.unwrap_or(self.path_and_query.len()));
        path.map_or("", |(path, _query)| path)
    }
}

#[cfg(test)]
mod tests;
