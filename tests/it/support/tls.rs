//! An origin behind TLS: versions, tickets and certificates as the case asks for them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};

use super::ca::test_ca;
use super::origin::{Origin, OriginConn};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    Good,
    WrongName,
    Expired,
    SelfSigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
    Both,
}

/// What a TLS origin shows its clients; finished by [`TlsOptions::start`] or one of its kin.
#[derive(Clone, Copy, Debug)]
pub struct TlsOptions {
    version: Version,
    certificate: Certificate,
    tickets: bool,
    alpn: &'static [&'static str],
    away: Duration,
}

/// An [`Origin`] whose connections are inside TLS.
pub struct TlsOrigin(Origin);

impl TlsOrigin {
    pub fn options() -> TlsOptions {
        TlsOptions {
            version: Version::Both,
            certificate: Certificate::Good,
            tickets: true,
            alpn: &["http/1.1"],
            away: Duration::ZERO,
        }
    }

    pub fn start(handle: impl Fn(OriginConn) + Send + Sync + 'static) -> Self {
        Self::options().start(handle)
    }

    pub fn scripted() -> Self {
        Self::options().scripted()
    }

    pub fn answering(answer: impl AsRef<[u8]>) -> Self {
        Self::options().answering(answer)
    }

    /// The routing name of this origin: `localhost.ccnproxy-https:PORT`.
    pub fn host(&self) -> String {
        format!("localhost.ccnproxy-https:{}", self.0.addr().port())
    }
}

impl Deref for TlsOrigin {
    type Target = Origin;

    fn deref(&self) -> &Origin {
        &self.0
    }
}

impl TlsOptions {
    pub fn version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    pub fn certificate(self, certificate: Certificate) -> Self {
        Self { certificate, ..self }
    }

    pub fn without_tickets(self) -> Self {
        Self { tickets: false, ..self }
    }

    pub fn alpn(self, alpn: &'static [&'static str]) -> Self {
        Self { alpn, ..self }
    }

    /// A handshake takes this long, as it does where an origin is far.
    pub fn away(self, away: Duration) -> Self {
        Self { away, ..self }
    }

    pub fn start(self, handle: impl Fn(OriginConn) + Send + Sync + 'static) -> TlsOrigin {
        TlsOrigin(Origin::start_with(Some(self.server_config()), self.away, handle))
    }

    /// As [`TlsOptions::start`] on another address of the loopback network.
    pub fn start_at(
        self,
        addr: SocketAddr,
        handle: impl Fn(OriginConn) + Send + Sync + 'static,
    ) -> TlsOrigin {
        let config = Some(self.server_config());
        TlsOrigin(Origin::start_with_at(addr, config, self.away, handle))
    }

    pub fn scripted(self) -> TlsOrigin {
        TlsOrigin(Origin::scripted_with(Some(self.server_config()), self.away))
    }

    pub fn answering(self, answer: impl AsRef<[u8]>) -> TlsOrigin {
        let answer = answer.as_ref().to_vec();
        self.start(move |conn| conn.answer_all(&answer))
    }

    fn server_config(self) -> Arc<rustls::ServerConfig> {
        let versions = match self.version {
            Version::Tls12 => vec![&TLS12],
            Version::Tls13 => vec![&TLS13],
            Version::Both => vec![&TLS13, &TLS12],
        };
        let chain = test_ca().chain(self.certificate);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(chain.certificates, chain.key)
            .expect("the origin's certificate");
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        if self.tickets {
            config.ticketer = aws_lc_rs::Ticketer::new().expect("ticketer");
        } else {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        }
        Arc::new(config)
    }
}
