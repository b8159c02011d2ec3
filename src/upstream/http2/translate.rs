//! Heads and trailers between HTTP/1.1 and HTTP/2 (RFC 9113 §8), without any input or output.
//!
//! A request is translated from the very bytes that an HTTP/1.1 origin would get: what is for one hop only is out of
//! them, Host is as routed, and there is one truth about it. What HTTP/2 cannot say byte for byte (a target that is no
//! URI) is not bent into shape: such a request takes an HTTP/1.1 connection. Names go out in lower case, as §8.2.1 asks;
//! values, their order and their number stay. Cookie lines stay as they are (§8.2.3 allows to split them).
//!
//! Of a response, fields of one name stand together, where the first one stood: the order between names is kept, which
//! is all that RFC 9110 §5.3 gives a meaning to.

#![forbid(unsafe_code)]

use crate::{
    error::Cause,
    headers::{BodyOut, Out, Persistence, end_head},
    http1::{
        fields::{Field, is_trailer_allowed},
        framing::{Lengths, ResponseBody},
        head::{FieldRoom, RequestHead, Version},
    },
    limits::{FIELDS_MAX, TRAILER_BYTES_MAX},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, COOKIE},
    uri::{Authority, PathAndQuery},
};

/// Whether a request takes trailers (RFC 9110 §10.1.4) whose head, as the client sent it, is the beginning of `sent`. TE is
/// for one hop only; in HTTP/2 `trailers` is all that it may say (RFC 9113 §8.2.2).
pub fn takes_trailers(sent: &[u8]) -> bool {
    // What follows the empty line is a body, or another request.
    let lines = sent.split(|byte| *byte == b'\n').skip(1);
    let mut lines = lines.take_while(|line| !line.is_empty() && *line != b"\r");
    lines.any(|line| {
        let Some((name, value)) = line.split_at_checked(3) else { return false };
        let is_trailers = |token: &[u8]| token.trim_ascii().eq_ignore_ascii_case(b"trailers");
        name.eq_ignore_ascii_case(b"te:") && value.split(|byte| *byte == b',').any(is_trailers)
    })
}

/// Translates the head of a request, as it would go to an HTTP/1.1 origin over TLS.
///
/// None: HTTP/2 cannot say it as it stands.
pub fn request(head: &[u8], takes_trailers: bool) -> Option<Request<()>> {
    let bytes = Bytes::copy_from_slice(head);
    let mut room = FieldRoom::default();
    let head = RequestHead::parse(&bytes, &mut room).ok()?;
    let path = PathAndQuery::try_from(head.target).ok()?;
    let authority = Authority::try_from(head.host?).ok()?;
    // The parser of URIs drops a fragment, for one.
    if path.as_str() != head.target || authority.as_str().as_bytes() != head.host? {
        return None;
    }
    let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path);
    let mut fields = HeaderMap::with_capacity(FIELDS_MAX / 8);
    for field in head.fields.iter() {
        let stays = match field.kind() {
            // §8.3.1: :authority says it. §8.2.2: HTTP/2 frames by itself, and knows no hop-by-hop fields.
            Field::Host
            | Field::TransferEncoding
            | Field::Connection
            | Field::KeepAlive
            | Field::HopByHop => false,
            Field::Other
            | Field::ContentLength
            | Field::Expect
            | Field::UserAgent
            | Field::ChoconId
            | Field::ChoconVer => true,
        };
        if stays {
            let name = HeaderName::from_bytes(field.name()).ok()?;
            let mut value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value())).ok()?;
            // RFC 7541 §7.1.3: no secret is put where its length could be guessed at. An id never comes again.
            let secret = name == COOKIE || name == AUTHORIZATION || name == "x-amz-security-token";
            value.set_sensitive(secret || field.kind() == Field::ChoconId);
            fields.try_append(name, value).ok()?;
        }
    }
    if takes_trailers {
        fields.try_append("te", HeaderValue::from_static("trailers")).ok()?;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.uri_mut() = uri.build().ok()?;
    *request.headers_mut() = fields;
    Some(request)
}

/// Lets the id of a connection's first request into the table that both sides share (RFC 7541 §2.3.2), for its name: the
/// ids to come refer to it, each 8 bytes shorter.
pub fn teach_id(request: &mut Request<()>) {
    if let Some(id) = request.headers_mut().get_mut("x-chocon-id") {
        id.set_sensitive(false);
    }
}

/// Translates the trailer lines of a request, as [`crate::http1::body::Decoder::trailers`] gives them.
pub fn request_trailers(lines: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // They were checked when they were read; what HTTP/2 takes less of is left out.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            fields.try_append(name, value).ok();
        }
    }
    fields
}

/// How long the body of a response is, and whether that is known from its head alone.
///
/// Errors: lengths that contradict each other; they would be read in two ways behind us.
pub fn response_body(
    status: StatusCode,
    fields: &HeaderMap,
    to_head_request: bool,
    ends: bool,
) -> Result<ResponseBody, Cause> {
    let mut lengths = Lengths::default();
    for value in fields.get_all(http::header::CONTENT_LENGTH) {
        lengths.add_content_length(value.as_bytes())?;
    }
    Ok(match lengths.of_response(Version::Http11, status.as_u16(), to_head_request)? {
        // The length of the frames says it: nothing follows.
        ResponseBody::ToClose if ends => ResponseBody::Fixed(0),
        ResponseBody::ToClose => ResponseBody::Chunked,
        ResponseBody::Fixed(1..) if ends => return Err(Cause::Closed),
        other => other,
    })
}

/// Writes a final head for the client; the second of `body` says how the body is framed for it.
///
/// Errors: too many fields; a name or a value that would not be one in HTTP/1.1.
pub fn write_response(
    out: &mut impl Out,
    status: StatusCode,
    fields: &HeaderMap,
    body: (ResponseBody, BodyOut),
    persistence: Persistence,
    id: &[u8],
) -> Result<(), Cause> {
    write_status_line(out, status);
    // RFC 9110 §8.6: no Content-Length in 204.
    let mut length_written = status == StatusCode::NO_CONTENT;
    copy_fields(out, fields, |field| match field {
        Field::ContentLength => !std::mem::replace(&mut length_written, true),
        _ => true, // What else must not pass, does not pass there.
    })?;
    match body {
        (ResponseBody::Fixed(0), _) if !length_written => out.push(b"content-length: 0\r\n"),
        (_, BodyOut::Chunked) => out.push(b"transfer-encoding: chunked\r\n"),
        (_, BodyOut::AsIs | BodyOut::ToClose) => {}
    }
    end_head(out, persistence, id);
    Ok(())
}

/// Writes an interim head for the client.
pub fn write_interim(
    out: &mut impl Out,
    status: StatusCode,
    fields: &HeaderMap,
) -> Result<(), Cause> {
    write_status_line(out, status);
    // RFC 9110 §8.6: no Content-Length in 1xx.
    copy_fields(out, fields, |field| field != Field::ContentLength)?;
    out.push(b"\r\n");
    Ok(())
}

/// HTTP/2 has no reason phrase; the usual one is written, or none.
fn write_status_line(out: &mut impl Out, status: StatusCode) {
    out.push(b"HTTP/1.1 ");
    out.push(status.as_str().as_bytes());
    out.push(b" ");
    out.push(status.canonical_reason().unwrap_or_default().as_bytes());
    out.push(b"\r\n");
}

fn copy_fields(
    out: &mut impl Out,
    fields: &HeaderMap,
    mut stays: impl FnMut(Field) -> bool,
) -> Result<(), Cause> {
    if fields.len() > FIELDS_MAX {
        return Err(Cause::HeadTooLong);
    }
    for (name, value) in fields {
        let kind = Field::named(name.as_str().as_bytes());
        match kind {
            // §8.2.2: in HTTP/2 they make a message malformed. The library refuses most; none passes.
            Field::Connection | Field::TransferEncoding | Field::KeepAlive | Field::HopByHop => {
                return Err(Cause::Malformed("a field of HTTP/1.1 connections in HTTP/2"));
            }
            Field::ChoconId => {}
            _ if stays(kind) => write_field(out, name, value)?,
            _ => {} // Left out by its rule.
        }
    }
    Ok(())
}

/// What a field's name may consist of (RFC 9110 §5.6.2).
const TOKEN: [bool; 256] = {
    let mut is_token = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        is_token[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
        byte += 1;
    }
    is_token
};

fn write_field(out: &mut impl Out, name: &HeaderName, value: &HeaderValue) -> Result<(), Cause> {
    // The library has checked both. It is checked again here, because this is where a line end would become one.
    let is_token = |byte: &u8| TOKEN[usize::from(*byte)];
    let is_content = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    let name = name.as_str().as_bytes();
    if name.is_empty() || !name.iter().all(is_token) || !value.as_bytes().iter().all(is_content) {
        return Err(Cause::Malformed("a field that cannot stand in HTTP/1.1"));
    }
    out.push(name);
    out.push(b": ");
    // §8.2.1 forbids white space at either end. Origins send it all the same; it means nothing in HTTP/1.1.
    out.push(value.as_bytes().trim_ascii());
    out.push(b"\r\n");
    Ok(())
}

/// Translates the trailers of a response to lines for the client. Errors: too long; a field as above.
pub fn response_trailers(fields: &HeaderMap) -> Result<Vec<u8>, Cause> {
    let mut lines = Vec::new();
    for (name, value) in fields {
        if is_trailer_allowed(name.as_str().as_bytes()) {
            write_field(&mut lines, name, value)?;
        }
        if lines.len() > TRAILER_BYTES_MAX {
            return Err(Cause::Malformed("the trailer section is too long"));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests;
