//! A certificate authority made once per test process, and the certificates it signs.

use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::scratch_file;
use super::tls::Certificate;

pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    /// PEM file that `SSL_CERT_FILE` points to.
    pub file: String,
}

pub struct Chain {
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// The authority that every proxy of this test process trusts, and nobody else.
pub fn test_ca() -> &'static TestCa {
    static CA: OnceLock<TestCa> = OnceLock::new();
    CA.get_or_init(|| {
        let key = KeyPair::generate().expect("key of the authority");
        let params = authority_params();
        let certificate = params.self_signed(&key).expect("certificate of the authority");
        let file = scratch_file("authority.pem", &certificate.pem());
        TestCa { issuer: Issuer::new(params, key), file }
    })
}

/// The file of another authority, which has signed nothing.
pub fn foreign_authority() -> String {
    let key = KeyPair::generate().expect("key of the authority");
    let certificate = authority_params().self_signed(&key).expect("certificate of the authority");
    scratch_file("foreign-authority.pem", &certificate.pem())
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).expect("parameters of the authority");
    params.distinguished_name.push(DnType::CommonName, "chocon-uring test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl TestCa {
    /// A chain for an origin on localhost, sound or with one chosen fault.
    pub fn chain(&self, kind: Certificate) -> Chain {
        let key = KeyPair::generate().expect("key of the origin");
        let names: &[&str] = match kind {
            Certificate::WrongName => &["elsewhere.test"],
            Certificate::Good | Certificate::Expired | Certificate::SelfSigned => {
                &["localhost", "127.0.0.1", "origin.test"]
            }
        };
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("parameters of the origin");
        params.distinguished_name.push(DnType::CommonName, "chocon-uring test origin");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if matches!(kind, Certificate::Expired) {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let certificate = match kind {
            Certificate::SelfSigned => params.self_signed(&key),
            Certificate::Good | Certificate::WrongName | Certificate::Expired => {
                params.signed_by(&key, &self.issuer)
            }
        };
        let certificate = certificate.expect("certificate of the origin");
        Chain {
            certificates: vec![certificate.der().clone()],
            key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }
}
