//! TLS to the origins: the configuration that all shards share, and the handshake.
//!
//! monoio-rustls makes the handshake. Its stream is then taken apart: its data path panics after a cancelled read, and
//! when a peer that stops reading sends a broken record. A [`Session`] takes its place.

#![forbid(unsafe_code)]

mod records;
mod session;

use crate::{
    error::Cause,
    limits::TLS_SESSIONS_MAX,
    shard::{blocks::Blocks, sys::Socket},
};
use monoio_rustls::{TlsConnector, TlsError};
use records::RecordAligned;
use rustls::{
    CertificateError, ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs,
    pki_types::ServerName,
};
pub use session::{NotSent, Parked, Session};
use std::{io, path::Path, rc::Rc, sync::Arc};

/// What the version line says of the TLS in use.
pub const PROVIDER: &str = "rustls 0.23 with aws-lc-rs";

/// The configuration that all shards share: roots, versions, and the store of sessions to resume.
#[derive(Clone)]
pub struct Tls {
    http1: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// What a handshake offers to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Http1,
    /// HTTP/2, else HTTP/1.1; the origin chooses.
    Either,
}

/// Where the trusted roots came from, for the log.
pub enum Roots {
    System(usize),
    /// The system has none; the ones built in are used.
    BuiltIn(usize),
}

/// A file that was named for an authority of one's own must not be passed over because a directory gives others: each
/// handshake would fail, and nothing say why.
fn check_certificate_file() -> Result<(), String> {
    let Some(file) = std::env::var_os("SSL_CERT_FILE") else { return Ok(()) };
    let loaded = rustls_native_certs::load_certs_from_paths(Some(Path::new(&file)), None);
    if !loaded.certs.is_empty() {
        return Ok(());
    }
    let causes: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    let cause = if causes.is_empty() { "it has none".to_owned() } else { causes.join("; ") };
    Err(format!(
        "SSL_CERT_FILE is {file:?}, but no certificate can be read from there ({cause}); name a PEM file, or unset it to \
         use the system's"
    ))
}

/// Lets the library gather what its random numbers come from: 25 ms of a CPU, once in a process, for which the first
/// handshake would hold up its shard.
pub fn gather_randomness() {
    // Should it fail, the handshakes fail, too, and say so.
    aws_lc_rs::default_provider().secure_random.fill(&mut [0]).ok();
}

impl Tls {
    /// Loads the roots: `SSL_CERT_FILE` and `SSL_CERT_DIR` if set, else the system's, else the ones built in. Errors: the
    /// variables are set and name nothing that can be used.
    pub fn new() -> Result<(Self, Roots), String> {
        check_certificate_file()?;
        let mut roots = RootCertStore::empty();
        let loaded = rustls_native_certs::load_native_certs();
        let (added, _ignored) = roots.add_parsable_certificates(loaded.certs);
        let asked = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|v| std::env::var_os(v).is_some());
        let from = if added > 0 {
            Roots::System(added)
        } else if asked {
            let causes: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
            return Err(format!(
                "SSL_CERT_FILE or SSL_CERT_DIR is set, but no certificate can be read from there ({}); name a PEM \
                 file, or unset it to use the system's",
                causes.join("; ")
            ));
        } else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            Roots::BuiltIn(roots.len())
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("the TLS library cannot be set up: {e}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS_MAX);
        let mut either = config.clone();
        either.alpn_protocols.insert(0, b"h2".to_vec());
        Ok((Self { http1: Arc::new(config), either: Arc::new(either) }, from))
    }

    /// Makes the handshake; `name` is a host name or an address, for SNI and verification. Dropping the future closes
    /// nothing by itself: the socket is the caller's.
    pub async fn handshake(
        &self,
        name: &str,
        offer: Offer,
        socket: Rc<Socket>,
        blocks: &Blocks,
    ) -> Result<Session, Cause> {
        let config = match offer {
            Offer::Http1 => &self.http1,
            Offer::Either => &self.either,
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Cause::Tls(format!("{name} cannot be a name in a certificate")))?;
        let io = RecordAligned::new(socket, blocks.small());
        let stream =
            TlsConnector::from(config.clone()).connect(name, io).await.map_err(cause_of)?;
        let (io, connection) = stream.into_parts();
        let (ahead, range) = io.into_rest();
        Ok(Session::new(connection, ahead, range))
    }
}

fn cause_of(error: TlsError) -> Cause {
    match error {
        TlsError::Io(e) => cause_of_io(e),
        TlsError::Rustls(e) => Cause::Tls(text_of(&e)),
    }
}

/// What failed, and what helps where it is mostly the set-up that is wrong.
fn text_of(error: &rustls::Error) -> String {
    let remedy = match error {
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "what answers there speaks no TLS; for plain HTTP send Host: NAME.ccnproxy"
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "if it is an authority of your own, name its roots with SSL_CERT_FILE"
        }
        // The verifier tells it in text alone.
        _ if error.to_string().contains("CaUsedAsEndEntity") => {
            "the origin shows an authority's own certificate; have that sign one for the name, or make it with \
             basicConstraints=CA:FALSE"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}

/// rustls reports its own errors inside an `io::Error`; everything else is the socket's.
fn cause_of_io(error: io::Error) -> Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Cause::Tls(text_of(tls)),
        None if error.kind() == io::ErrorKind::UnexpectedEof => Cause::Closed,
        None => Cause::Io(error.kind()),
    }
}
