//! A certificate authority for one test, with a server and a client certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The authority and the two identities that it signed.
pub struct TestPki {
    authority: CertifiedIssuer<'static, KeyPair>,
    server: Identity,
    client: Identity,
}

struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// The PEM files that `TestPki::write_into` wrote for a client.
pub struct PemFiles {
    pub ca: PathBuf,
    pub client_certificate: PathBuf,
    pub client_key: PathBuf,
}

impl TestPki {
    /// Generates new keys and certificates.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let identity = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(names).unwrap();
            Identity { certificate: params.signed_by(&key, &authority).unwrap(), key }
        };
        let server = identity(&["localhost", "127.0.0.1"]);
        let client = identity(&["taskspan.test"]);
        Self { authority, server, client }
    }

    /// Writes the files that a client needs.
    pub fn write_into(&self, dir: &Path) -> PemFiles {
        let write = |name: &str, pem: String| {
            let path = dir.join(name);
            fs::write(&path, pem).unwrap();
            path
        };
        PemFiles {
            ca: write("ca.pem", self.authority.pem()),
            client_certificate: write("client.pem", self.client.certificate.pem()),
            client_key: write("client.key", self.client.key.serialize_pem()),
        }
    }

    /// Returns the server's side of TLS. It can require a client certificate of this authority.
    pub(super) fn acceptor(&self, demand_client_certificate: bool) -> TlsAcceptor {
        // The provider is explicit, because another crate may install a second one.
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = if demand_client_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        } else {
            config.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![self.server.certificate.der().clone()];
        let key = PrivateKeyDer::try_from(self.server.key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
