use super::{super::field_list::NOT_ITS_END, *};
use crate::limits::FIELDS_MAX;
use proptest::prelude::*;

const START_LINES: &[&str] = &[
    "GET / HTTP/1.1",
    "POST /a?b HTTP/1.1",
    "PUT http://a.ccnproxy/x HTTP/1.1",
    "OPTIONS * HTTP/1.0",
];

/// Lines that frame, nearly frame, or break a head.
const LINES: &[&str] = &[
    "Host: a.ccnproxy",
    "host: b",
    "Content-Length: 5",
    "content-length: 5",
    "Content-Length: 6",
    "Content-Length: 05",
    "Content-Length: 5, 5",
    "Content-Length : 5",
    "Content-Length:",
    "Content-Length: +5",
    "Content-Length: 18446744073709551621",
    " Content-Length: 7",
    "Transfer-Encoding: chunked",
    "transfer-encoding:\tchunked ",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding\t: chunked",
    "Transfer_Encoding: chunked",
    "Connection: close, Content-Length",
    "Connection: keep-alive, X-A",
    "X-A: b",
    "X-A:",
    "X-B: a\rContent-Length: 9",
    "X-B: a\nContent-Length: 9",
    "X-B: \u{0}",
    "",
];

fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::collection::vec(prop::sample::select(LINES), 0..6);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (prop::sample::select(START_LINES), lines, damage).prop_map(|(start, lines, damage)| {
        let mut head = format!("{start}\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes();
        for (at, byte) in damage {
            let at = at.index(head.len());
            head[at] = byte;
        }
        head
    })
}

fn any_response() -> impl Strategy<Value = Vec<u8>> {
    let near = "HTTP/[12]\\.[0-2] {0,2}[0-9]{2,4} {0,2}([ -~\t\u{80}-\u{ff}]{0,20})?";
    let exact = "HTTP/1\\.[01] [1-5][0-9]{2}( [ -~\t\u{80}-\u{ff}]{0,20})?";
    (prop_oneof![1 => near, 3 => exact], any_head()).prop_map(|(start, head)| {
        let line_end = head.iter().position(|byte| *byte == b'\r').unwrap_or(0);
        [start.as_bytes(), &head[line_end..]].concat()
    })
}

/// A reader that is not ours, with one habit of its own: what it makes of a head that we pass on.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// Takes a bare LF for the end of a line.
    lf_ends_lines: bool,
    /// Takes the first of several lengths, not the last.
    first_length: bool,
    /// Lets a length win over a coding.
    length_wins: bool,
    /// Takes space before the colon.
    trims_names: bool,
    /// Takes any coding that has the word in it for chunked.
    any_chunked: bool,
}

fn habits() -> impl Iterator<Item = Habit> {
    (0..32u8).map(|bits| Habit {
        lf_ends_lines: bits & 1 != 0,
        first_length: bits & 2 != 0,
        length_wins: bits & 4 != 0,
        trims_names: bits & 8 != 0,
        any_chunked: bits & 16 != 0,
    })
}

/// Where the head ends, and the body that follows, as that reader sees it.
fn read_with(habit: Habit, bytes: &[u8]) -> Option<(usize, RequestBody)> {
    let (mut at, mut length, mut chunked) = (0, None, false);
    let mut first = true;
    loop {
        let rest = &bytes[at..];
        let (line_len, next) = if habit.lf_ends_lines {
            let lf = rest.iter().position(|b| *b == b'\n')?;
            (lf - usize::from(lf > 0 && rest[lf - 1] == b'\r'), lf + 1)
        } else {
            let crlf = rest.windows(2).position(|pair| pair == b"\r\n")?;
            (crlf, crlf + 2)
        };
        let line = &rest[..line_len];
        at += next;
        if std::mem::take(&mut first) {
            continue;
        }
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let name = if habit.trims_names { name.trim_ascii() } else { name };
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
            length = if habit.first_length { length.or(number) } else { number.or(length) };
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let value = value.to_ascii_lowercase();
            chunked |= if habit.any_chunked {
                value.windows(7).any(|word| word == b"chunked")
            } else {
                value == b"chunked"
            };
        }
    }
    let body = match (chunked, length) {
        (true, Some(length)) if habit.length_wins => RequestBody::Fixed(length),
        (true, _) => RequestBody::Chunked,
        (false, Some(length)) => RequestBody::Fixed(length),
        (false, None) => RequestBody::None,
    };
    Some((at, body))
}

/// Method or status, target or status with reason, minor version, then each field's name and value.
type Read = (String, Vec<u8>, u8, Vec<(Vec<u8>, Vec<u8>)>);

fn of_httparse(fields: &[httparse::Header<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name.into(), field.value.into())).collect()
}

fn of_ours(fields: &Fields<'_, '_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.iter().map(|field| (field.name().into(), field.value().into())).collect()
}

fn request_by_httparse(bytes: &[u8]) -> Option<Read> {
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut room);
    let complete = head.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()));
    let read = (head.method?.into(), head.path?.into(), head.version?, of_httparse(head.headers));
    complete.then_some(read)
}

fn response_by_httparse(bytes: &[u8]) -> Option<Read> {
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut room);
    let complete = head.parse(bytes) == Ok(httparse::Status::Complete(bytes.len()));
    let line = bytes.split(|byte| *byte == b'\r').next()?.get(8..)?;
    let read = (head.code?.to_string(), line.into(), head.version?, of_httparse(head.headers));
    complete.then_some(read)
}

fn request_by_us(bytes: &[u8]) -> Result<Read, Cause> {
    let mut room = FieldRoom::default();
    let head = RequestHead::parse(bytes, &mut room)?;
    let minor = u8::from(head.version == Version::Http11);
    Ok((head.method.into(), head.target.into(), minor, of_ours(&head.fields)))
}

fn response_by_us(bytes: &[u8]) -> Result<Read, Cause> {
    let mut room = FieldRoom::default();
    let head = ResponseHead::parse(bytes, &mut room)?;
    let minor = u8::from(head.version == Version::Http11);
    Ok((head.status.to_string(), head.status_and_reason.into(), minor, of_ours(&head.fields)))
}

/// Whether our reading agrees with that of a reader that knows the grammar and nothing more: what it refuses, is refused;
/// what it takes, reads the same, or is refused for what it means.
fn agrees(theirs: Option<Read>, ours: Result<Read, Cause>) -> bool {
    match (theirs, ours) {
        (None, ours) => ours.is_err(),
        (Some(theirs), Ok(ours)) => theirs == ours,
        (Some(_), Err(cause)) => cause != NOT_A_HEAD && cause != NOT_ITS_END,
    }
}

fn parse(bytes: &[u8]) -> Option<(usize, RequestBody)> {
    let end = EndOfHead::default().find(bytes).ok()??;
    let mut room = FieldRoom::default();
    RequestHead::parse(&bytes[..end], &mut room).ok().map(|head| (end, head.body))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn no_reader_ends_an_accepted_request_elsewhere(head in any_head()) {
        if let Some(ours) = parse(&head) {
            for habit in habits() {
                prop_assert_eq!(read_with(habit, &head), Some(ours), "{:?}", habit);
            }
        }
    }

    #[test]
    fn any_split_finds_the_same_end(head in any_head(), tail in prop::collection::vec(any::<u8>(), 0..9),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9)) {
        let bytes = [head, tail].concat();
        let whole = EndOfHead::default().find(&bytes);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut pieces = EndOfHead::default();
        let mut found = Ok(None);
        for cut in cuts {
            found = pieces.find(&bytes[..cut]);
            if found != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn another_strict_reader_finds_the_same(head in any_head(), response in any_response()) {
        for bytes in [head, response] {
            // What the guard refuses, that reader may take.
            if let Ok(Some(end)) = EndOfHead::default().find(&bytes) {
                let bytes = &bytes[..end];
                prop_assert!(agrees(request_by_httparse(bytes), request_by_us(bytes)));
                prop_assert!(agrees(response_by_httparse(bytes), response_by_us(bytes)));
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        parse(&bytes);
        let mut room = FieldRoom::default();
        if let Ok(head) = ResponseHead::parse(&bytes, &mut room) {
            let _any = head.body(false);
        }
    }
}

#[test]
fn the_generator_makes_heads_of_every_framing() {
    // Else the properties above would hold for want of accepted heads.
    let with =
        |line: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{line}X-A: b\r\n\r\n").into_bytes();
    for (line, body) in [
        ("", RequestBody::None),
        ("Content-Length: 5\r\ncontent-length: 05\r\n", RequestBody::Fixed(5)),
        ("transfer-encoding:\tchunked \r\n", RequestBody::Chunked),
    ] {
        let head = with(line);
        assert_eq!(parse(&head), Some((head.len(), body)), "{line:?}");
    }
}

/// Each byte in each place of a head: damage of one byte is what two readers differ about.
#[test]
fn another_strict_reader_agrees_about_any_one_byte() {
    let request = b"POST /a?b=%20 HTTP/1.1\r\nHost: a.ccnproxy:81\r\nX_Long-Name!:\t some text \r\nX-E:\r\n\r\n";
    let response =
        b"HTTP/1.1 200 All well\r\nServer: a\r\nX-Long-Value:  of two or more steps\t\r\n\r\n";
    for head in [&request[..], &response[..]] {
        for at in 0..head.len() {
            for byte in 0..=u8::MAX {
                let mut head = head.to_vec();
                head[at] = byte;
                if let Ok(Some(end)) = EndOfHead::default().find(&head) {
                    let head = &head[..end];
                    assert!(agrees(request_by_httparse(head), request_by_us(head)), "{at} {byte}");
                    assert!(
                        agrees(response_by_httparse(head), response_by_us(head)),
                        "{at} {byte}"
                    );
                }
            }
        }
    }
    assert!(request_by_us(request).is_ok() && response_by_us(response).is_ok());
}

#[test]
fn as_many_fields_as_may_be_are_read_and_not_one_more() {
    for (count, is_read) in
        [(1, true), (32, true), (33, true), (FIELDS_MAX, true), (FIELDS_MAX + 1, false)]
    {
        let lines: String = (1..count).map(|n| format!("X-{n}: {n}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let ours = request_by_us(head.as_bytes());
        assert!(agrees(request_by_httparse(head.as_bytes()), ours.clone()), "{count}");
        match ours {
            Ok((_, _, _, fields)) => assert_eq!((fields.len(), is_read), (count, true)),
            Err(cause) => assert_eq!((cause, is_read), (Cause::HeadTooLong, false), "{count}"),
        }
    }
}
