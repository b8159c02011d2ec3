//! Body bytes: taken out of their framing in place, and put into ours.
//!
//! A decoder works on whatever piece of the stream has arrived and leaves the body's bytes where they are, so a
//! fragment costs no copy; only bytes behind a chunk head inside the piece are moved together. Any split of the
//! input gives the same bytes and the same verdict.

#![forbid(unsafe_code)]

use super::{
    field_list::FieldRoom,
    fields::is_trailer_allowed,
    framing::{RequestBody, ResponseBody},
    head::BARE_LF,
};
use crate::{
    error::Cause,
    limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX},
};
use std::ops::Range;

/// Takes a body out of its framing.
#[derive(Debug)]
pub enum Decoder {
    Fixed { left: u64 },
    Chunked(Chunked),
    ToClose,
}

/// What one piece of input gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How many bytes of the piece belong to this body. All of them, unless the body ended: the rest is the next
    /// message's.
    pub consumed: usize,
    /// Where in the piece the body's bytes are now.
    pub data: Range<usize>,
    /// The body is complete.
    pub ended: bool,
}

impl Decoder {
    pub fn of_request(body: RequestBody) -> Self {
        match body {
            RequestBody::None => Decoder::Fixed { left: 0 },
            RequestBody::Fixed(left) => Decoder::Fixed { left },
            RequestBody::Chunked => Decoder::Chunked(Chunked::default()),
        }
    }

    pub fn of_response(body: ResponseBody) -> Self {
        match body {
            ResponseBody::None => Decoder::Fixed { left: 0 },
            ResponseBody::Fixed(left) => Decoder::Fixed { left },
            ResponseBody::Chunked => Decoder::Chunked(Chunked::default()),
            ResponseBody::ToClose => Decoder::ToClose,
        }
    }

    /// Whether nothing more is expected. An empty body is complete before its first byte.
    pub fn is_complete(&self) -> bool {
        match self {
            Decoder::Fixed { left } => *left == 0,
            Decoder::Chunked(chunked) => chunked.state == State::End,
            Decoder::ToClose => false,
        }
    }

    /// Takes the body's bytes out of `piece`. Errors: broken chunk framing; the stream cannot be read on.
    pub fn advance(&mut self, piece: &mut [u8]) -> Result<Step, Cause> {
        match self {
            Decoder::Fixed { left } => {
                let here = usize::try_from(*left).map_or(piece.len(), |left| left.min(piece.len()));
                *left -= here as u64;
                Ok(Step { consumed: here, data: 0..here, ended: *left == 0 })
            }
            Decoder::Chunked(chunked) => chunked.advance(piece),
            Decoder::ToClose => {
                Ok(Step { consumed: piece.len(), data: 0..piece.len(), ended: false })
            }
        }
    }

    /// What an orderly end of the stream means here: only a close-delimited body may end so.
    pub fn end_of_stream(&self) -> Result<(), Cause> {
        match self {
            Decoder::ToClose => Ok(()),
            Decoder::Fixed { left: 0 } => Ok(()),
            Decoder::Chunked(chunked) if chunked.state == State::End => Ok(()),
            Decoder::Fixed { .. } | Decoder::Chunked(_) => Err(Cause::Closed),
        }
    }

    /// The trailer fields that may be passed on, as lines; complete once the body is.
    pub fn trailers(&self) -> &[u8] {
        match self {
            Decoder::Chunked(chunked) if chunked.state == State::End => &chunked.trailers,
            Decoder::Fixed { .. } | Decoder::Chunked(_) | Decoder::ToClose => &[],
        }
    }
}

/// The chunked coding (RFC 9112 §7.1).
#[derive(Debug, Default)]
pub struct Chunked {
    state: State,
    /// Bytes of the current size line, or of the trailer section, seen so far.
    line_bytes: usize,
    /// Raw while they arrive; once the body ended, the lines that may be passed on.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    SizeStart,
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Trailers,
    End,
}

impl Chunked {
    fn advance(&mut self, piece: &mut [u8]) -> Result<Step, Cause> {
        let mut at = 0;
        let mut data = 0..0;
        while at < piece.len() && self.state != State::End {
            if let State::Data { left } = self.state {
                let here =
                    usize::try_from(left).map_or(piece.len() - at, |l| l.min(piece.len() - at));
                if data.is_empty() {
                    data = at..at + here;
                } else {
                    piece.copy_within(at..at + here, data.end);
                    data.end += here;
                }
                at += here;
                let left = left - here as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
            } else {
                self.framing_byte(piece[at])?;
                at += 1;
            }
        }
        Ok(Step { consumed: at, data, ended: self.state == State::End })
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), Cause> {
        self.line_bytes += 1;
        self.state = match (self.state, byte) {
            // RFC 9112 §7.1: at least one digit. An empty size read as 0 would end the body early.
            (State::SizeStart, _) => State::Size { size: hex(byte)?, digits: 1 },
            (State::Size { size, .. }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. }, b';' | b' ' | b'\t') => State::Extension { size },
            (State::Size { size, digits }, _) => {
                if digits >= 16 {
                    return Err(Cause::Malformed("a chunk size has more than 16 digits"));
                }
                // 16 digits fill 64 bits; what does not fit in 63 no peer can count.
                let size = size << 4 | hex(byte)?;
                if size > i64::MAX as u64 {
                    return Err(Cause::Malformed("a chunk size is too large"));
                }
                State::Size { size, digits: digits + 1 }
            }
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { .. }, b'\n') => return Err(BARE_LF),
            (State::Extension { .. }, 0..=8 | 11..=31 | 127) => {
                return Err(Cause::Malformed("a control character in a chunk extension"));
            }
            // RFC 9112 §7.1.1: unknown extensions are ignored.
            (State::Extension { .. }, _) if self.line_bytes > CHUNK_LINE_BYTES_MAX => {
                return Err(Cause::Malformed("a chunk-size line is too long"));
            }
            (State::Extension { size }, _) => State::Extension { size },
            (State::SizeLf { size: 0 }, b'\n') => self.begin(State::Trailers),
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => self.begin(State::SizeStart),
            (State::Trailers, _) => return self.trailer_byte(byte),
            (State::SizeLf { .. } | State::DataCr | State::DataLf, _) => {
                return Err(Cause::Malformed("a chunk does not end in CRLF"));
            }
            (State::Data { .. } | State::End, _) => unreachable!("these take no framing byte"),
        };
        Ok(())
    }

    fn begin(&mut self, state: State) -> State {
        self.line_bytes = 0;
        state
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), Cause> {
        if self.line_bytes > TRAILER_BYTES_MAX {
            return Err(Cause::Malformed("the trailer section is too long"));
        }
        self.trailers.push(byte);
        if byte != b'\n' {
            return Ok(());
        }
        match self.trailers.as_slice() {
            b"\r\n" => self.trailers.clear(),
            [.., b'\r', b'\n', b'\r', b'\n'] => self.trailers = allowed_trailers(&self.trailers)?,
            [.., b'\r', b'\n'] => return Ok(()),
            _ => return Err(BARE_LF),
        }
        self.state = State::End;
        Ok(())
    }
}

fn hex(byte: u8) -> Result<u64, Cause> {
    match byte {
        b'0'..=b'9' => Ok(u64::from(byte - b'0')),
        b'a'..=b'f' => Ok(u64::from(byte - b'a') + 10),
        b'A'..=b'F' => Ok(u64::from(byte - b'A') + 10),
        _ => Err(Cause::Malformed("a chunk size is not a hexadecimal number")),
    }
}

/// Checks a trailer section and keeps the lines that may be passed on.
fn allowed_trailers(section: &[u8]) -> Result<Vec<u8>, Cause> {
    const BAD: Cause = Cause::Malformed("a trailer field is not valid");
    let mut room = FieldRoom::default();
    let fields = room.lines(section).map_err(|_| BAD)?;
    let mut lines = Vec::new();
    for field in fields.filter(|field| is_trailer_allowed(field.name())) {
        lines.extend_from_slice(field.name());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(field.value());
        lines.extend_from_slice(b"\r\n");
    }
    Ok(lines)
}

/// Free bytes that [`wrap_chunk`] needs in front of the data: 8 digits and CRLF, for a fragment below 4 GiB.
pub const CHUNK_ROOM_BEFORE: usize = 10;

/// Free bytes that [`wrap_chunk`] needs behind the data.
pub const CHUNK_ROOM_AFTER: usize = 2;

/// Makes the data at `data` in `block` one chunk, in place. Returns where the chunk is.
///
/// Empty data gives nothing: a chunk of size 0 would end the body.
pub fn wrap_chunk(block: &mut [u8], data: Range<usize>) -> Range<usize> {
    if data.is_empty() {
        return data;
    }
    assert!(data.start >= CHUNK_ROOM_BEFORE && data.end + CHUNK_ROOM_AFTER <= block.len());
    let mut start = data.start - 2;
    block[start..data.start].copy_from_slice(b"\r\n");
    let mut size = data.len();
    while size > 0 {
        start -= 1;
        block[start] = b"0123456789abcdef"[size % 16];
        size /= 16;
    }
    block[data.end..data.end + 2].copy_from_slice(b"\r\n");
    start..data.end + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds a stream in pieces cut at `cuts`; gives the body, the trailers and what is left over, or the error.
    fn decode(stream: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, Vec<u8>, usize, bool), Cause> {
        let mut decoder = Decoder::Chunked(Chunked::default());
        let (mut body, mut at, mut ended) = (Vec::new(), 0, false);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        for cut in cuts {
            if ended || cut <= at {
                continue;
            }
            let mut piece = stream[at..cut].to_vec();
            let step = decoder.advance(&mut piece)?;
            body.extend_from_slice(&piece[step.data]);
            at += step.consumed;
            ended = step.ended;
            assert!(ended || at == cut, "a piece is consumed whole unless the body ends");
        }
        Ok((body, decoder.trailers().to_vec(), stream.len() - at, ended))
    }

    fn whole(stream: &str) -> Result<(Vec<u8>, Vec<u8>, usize, bool), Cause> {
        decode(stream.as_bytes(), &[])
    }

    #[test]
    fn chunks_become_one_body() {
        let stream = "5\r\nhello\r\n1;a=\"b c\"\r\n \r\n00005\r\nworld\r\n0\r\n\r\nGET";
        assert_eq!(whole(stream), Ok((b"hello world".to_vec(), vec![], 3, true)));
    }

    #[test]
    fn trailers_are_checked_and_filtered() {
        let stream = "1\r\nx\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nx-b:2\r\n\r\n";
        assert_eq!(whole(stream), Ok((b"x".to_vec(), b"X-Sum: 1\r\nx-b: 2\r\n".to_vec(), 0, true)));
        for bad in [
            "0\r\nno colon\r\n\r\n",
            "0\r\n: x\r\n\r\n",
            "0\r\na : b\r\n\r\n",
            "0\r\na: b\n\r\n",
            "0\r\na: b\rc\r\n\r\n",
        ] {
            assert!(whole(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn broken_framing_is_never_guessed() {
        for bad in [
            "\r\n\r\n",
            "x\r\n",
            " 5\r\nhello\r\n",
            "+5\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\r\n",
            "5;\nx",
            "5;a\0\r\n",
            "5\r\nhello\r\n\r\n0\r\n\r\n",
            "10000000000000000\r\n",
            "0\n\r\n",
        ] {
            assert!(matches!(whole(bad), Err(Cause::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let size_line = |n: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(n - 2));
        assert!(whole(&size_line(CHUNK_LINE_BYTES_MAX)).is_ok());
        assert!(whole(&size_line(CHUNK_LINE_BYTES_MAX + 1)).is_err());
        let trailer = |n: usize| format!("0\r\na: {}\r\n\r\n", "e".repeat(n - 7));
        assert!(whole(&trailer(TRAILER_BYTES_MAX)).is_ok());
        assert!(whole(&trailer(TRAILER_BYTES_MAX + 1)).is_err());
        assert!(whole("000000000000000f\r\n").is_ok());
        assert!(whole("0000000000000000f\r\n").is_err());
        assert!(whole("7fffffffffffffff\r\n").is_ok());
        assert!(whole("8000000000000000\r\n").is_err());
    }

    #[test]
    fn a_cut_is_not_an_end() {
        for cut in ["", "5", "5\r\nhel", "5\r\nhello\r\n", "0\r\n", "0\r\na: b\r\n"] {
            let mut decoder = Decoder::Chunked(Chunked::default());
            decoder.advance(&mut cut.as_bytes().to_vec()).unwrap();
            assert_eq!(decoder.end_of_stream(), Err(Cause::Closed), "{cut:?}");
        }
        assert!(Decoder::Fixed { left: 1 }.end_of_stream().is_err());
        assert!(Decoder::Fixed { left: 0 }.end_of_stream().is_ok());
        assert!(Decoder::ToClose.end_of_stream().is_ok());
    }

    #[test]
    fn a_fixed_body_takes_its_length_and_no_more() {
        let mut decoder = Decoder::Fixed { left: 5 };
        let mut piece = *b"helloGET";
        let step = decoder.advance(&mut piece).unwrap();
        assert_eq!(step, Step { consumed: 5, data: 0..5, ended: true });
    }

    proptest! {
        #[test]
        fn what_is_wrapped_decodes_to_the_same(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
                cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
            let mut stream = Vec::new();
            for part in &parts {
                let mut block = vec![0; CHUNK_ROOM_BEFORE];
                block.extend_from_slice(part);
                block.extend_from_slice(&[0; CHUNK_ROOM_AFTER]);
                let chunk = wrap_chunk(&mut block, CHUNK_ROOM_BEFORE..CHUNK_ROOM_BEFORE + part.len());
                stream.extend_from_slice(&block[chunk]);
            }
            stream.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&stream, &cuts), Ok((parts.concat(), vec![], 0, true)));
        }

        #[test]
        fn any_split_gives_the_same(stream in "([0-9a-f]{0,2}(;[a-z]{0,3})?\r?\n?[a-z]{0,9}(\r\n)?){0,6}(0\r\n([a-z]{1,3}: [a-z]{0,3}\r\n){0,2}\r\n)?.{0,5}",
                cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
            let stream = stream.as_bytes();
            prop_assert_eq!(decode(stream, &cuts), decode(stream, &[]));
        }
    }
}
