//! A tunnel through a proxy: CONNECT, and its answer read strictly.

#![forbid(unsafe_code)]

use super::origins::Key;
use crate::{
    error::Cause,
    http1::head::{EndOfHead, FieldRoom, ResponseHead},
    limits::INTERIM_HEADS_MAX,
    shard::{blocks::Blocks, sys::Socket},
    via::Proxy,
};

/// Has `proxy`, that `socket` is connected to, open a tunnel to an origin (RFC 9110 §9.3.6). From then on the socket's
/// bytes are the origin's.
///
/// Errors: the proxy refused, broke the grammar, or ended the connection; the text says which proxy and what it said. No
/// deadline of its own. Dropping the future leaves the socket of no use.
pub async fn open(
    socket: &Socket,
    blocks: &Blocks,
    proxy: &Proxy,
    origin: &Key,
) -> Result<(), Cause> {
    let failed = |what: String| Cause::Proxy(format!("the proxy {proxy}: {what}"));
    let mut block = blocks.small();
    let request = request(proxy, origin);
    // A name of 253 bytes and a password that an environment variable holds; but nobody's mistake may panic.
    let room = block.get_mut(..request.len());
    room.ok_or_else(|| failed("its user and password are too long".to_owned()))?
        .copy_from_slice(&request);
    let (sent, mut block) = socket.send(block, 0..request.len()).await;
    sent.map_err(|e| failed(format!("CONNECT could not be sent: {}", e.kind)))?;
    let (mut filled, mut interims) = (0, 0);
    let mut end_of_head = EndOfHead::default();
    loop {
        let malformed = |cause: Cause| failed(format!("its answer to CONNECT is refused: {cause}"));
        match end_of_head.find(&block[..filled]).map_err(malformed)? {
            Some(end) => match read_answer(&block[..end]).map_err(malformed)? {
                Answer::Interim if interims < INTERIM_HEADS_MAX => {
                    interims += 1;
                    block.copy_within(end..filled, 0);
                    filled -= end;
                    end_of_head = EndOfHead::default();
                }
                Answer::Interim => return Err(failed("too many interim responses".to_owned())),
                Answer::Open if end == filled => {
                    blocks.put(block);
                    return Ok(());
                }
                // The origin waits for our first byte (RFC 8446 §2): whoever speaks before is somebody else.
                Answer::Open => {
                    return Err(failed("bytes came before the origin was asked".to_owned()));
                }
                Answer::Refused(said) => return Err(failed(said)),
            },
            None if filled == block.len() => {
                return Err(failed("the head of its answer is too long".to_owned()));
            }
            None => {
                let free = filled..block.len();
                let (received, back) = socket.recv(block, free).await;
                block = back;
                match received {
                    Ok(0) => return Err(failed("it closed the connection on CONNECT".to_owned())),
                    Ok(n) => filled += n,
                    Err(e) => return Err(failed(format!("no answer to CONNECT: {}", e.kind()))),
                }
            }
        }
    }
}

fn request(proxy: &Proxy, origin: &Key) -> Vec<u8> {
    let at = origin.authority();
    // RFC 9112 §3.2.3: authority-form, with the port always; Host says the same.
    let mut request = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request += &format!("Proxy-Authorization: {authorization}\r\n");
    }
    request += "\r\n";
    request.into_bytes()
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Interim,
    Open,
    /// What it said instead.
    Refused(String),
}

/// Reads a whole head.
fn read_answer(head: &[u8]) -> Result<Answer, Cause> {
    let mut room = FieldRoom::default();
    let head = ResponseHead::parse(head, &mut room)?;
    Ok(match head.status {
        101 => Answer::Refused("it answered CONNECT with 101".to_owned()),
        100..=199 => Answer::Interim,
        // RFC 9110 §9.3.6: any 2xx; whatever framing it announces does not count.
        200..=299 => Answer::Open,
        status => {
            let said = String::from_utf8_lossy(head.status_and_reason);
            let remedy = match status {
                407 => "; give HTTPS_PROXY=http://USER:PASSWORD@NAME:PORT",
                _ => "",
            };
            Answer::Refused(format!("it refused CONNECT with{}{remedy}", said.escape_debug()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Scheme;

    fn read(head: &str) -> Result<Answer, Cause> {
        read_answer(head.as_bytes())
    }

    #[test]
    fn any_2xx_opens_the_tunnel_whatever_its_framing_says() {
        for head in [
            "HTTP/1.1 200 Connection established\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 204\r\n\r\n",
            "HTTP/1.1 299 \r\nContent-Length: 10\r\n\r\n",
        ] {
            assert_eq!(read(head), Ok(Answer::Open), "{head}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_its_reason_and_a_remedy_for_407() {
        let Ok(Answer::Refused(said)) = read("HTTP/1.1 407 Who\tare you\r\n\r\n") else { panic!() };
        assert!(said.contains(" 407 Who\\tare you; give HTTPS_PROXY="), "{said}");
        let Ok(Answer::Refused(said)) = read("HTTP/1.1 503 \r\n\r\n") else { panic!() };
        assert!(said.ends_with("503 "), "{said}");
        assert!(matches!(read("HTTP/1.1 101 X\r\n\r\n"), Ok(Answer::Refused(_))));
        assert_eq!(read("HTTP/1.1 103 Early\r\n\r\n"), Ok(Answer::Interim));
    }

    #[test]
    fn what_is_no_response_is_malformed() {
        for head in ["SSH-2.0-x\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/2 200\r\n\r\n"] {
            assert!(read(head).is_err(), "{head}");
        }
    }

    #[test]
    fn the_request_names_the_origin_with_its_port() {
        let proxy = Proxy { name: "p".into(), port: 1, authorization: Some("Basic eDp5".into()) };
        let key = |name: &str| Key {
            scheme: Scheme::Https,
            name: name.into(),
            port: 443,
            at: None,
            via: None,
        };
        let expected = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\
            Proxy-Authorization: Basic eDp5\r\n\r\n";
        assert_eq!(request(&proxy, &key("a.test")), expected.as_bytes());
        let bare = Proxy { authorization: None, ..proxy };
        let expected = "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n";
        assert_eq!(request(&bare, &key("::1")), expected.as_bytes());
    }
}
