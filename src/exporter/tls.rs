//! Builds the TLS settings of both protocols from the files in the configuration.

#![expect(
    clippy::disallowed_methods,
    reason = "runs before the stages start, after they have ended, or on a blocking thread"
)]

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::BuildError;
use super::config::TlsConfig;

/// Returns the TLS settings for tonic.
///
/// # Errors
/// Returns a [`BuildError`] if a file cannot be read or is not valid PEM. The configuration must be
/// corrected.
pub(crate) fn grpc(config: &TlsConfig) -> Result<ClientTlsConfig, BuildError> {
    // tonic reports an invalid file only when it connects, so the files are checked here first.
    client_config(config, true)?;
    let mut tls = ClientTlsConfig::new();
    tls = match &config.ca_file {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = &config.server_name_override {
        tls = tls.domain_name(name);
    }
    Ok(tls)
}

/// Returns the TLS settings for hyper. If TLS is not used, no certificates are loaded, which saves
/// milliseconds.
///
/// # Errors
/// Returns a [`BuildError`] if a file cannot be read or is not valid PEM, or if there are no root
/// certificates. The configuration must be corrected.
pub(crate) fn client_config(config: &TlsConfig, is_used: bool) -> Result<ClientConfig, BuildError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Tls(error.to_string()))?
        .with_root_certificates(match is_used {
            true => roots(config.ca_file.as_deref())?,
            false => RootCertStore::empty(),
        });
    if !is_used {
        return Ok(builder.with_no_client_auth());
    }
    let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let private_key = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| bad(key, format!("no private key in PEM: {error}")))?;
    builder.with_client_auth_cert(chain, private_key).map_err(|error| bad(key, error.to_string()))
}

/// Returns the name to expect in the server's certificate. `None` for the endpoint's host.
///
/// # Errors
/// Returns a [`BuildError`] if the configured name is not a server name.
pub(crate) fn server_name(config: &TlsConfig) -> Result<Option<ServerName<'static>>, BuildError> {
    let parse = |name: &String| {
        ServerName::try_from(name.clone())
            .map_err(|_| BuildError::Tls(format!("`{name}` is not a server name")))
    };
    config.server_name_override.as_ref().map(parse).transpose()
}

/// Returns the root certificates to trust. `ca_file` replaces those of the system, as in the
/// Collector.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, BuildError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| bad(path, error.to_string()))?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(native.certs);
            if added == 0 {
                let reason = "the system has no root certificates; name some with tls.ca_file";
                return Err(BuildError::Tls(reason.to_owned()));
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let pem = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(path, format!("not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(bad(path, "no certificate in PEM".to_owned()));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|error| bad(path, error.to_string()))
}

fn bad(path: &Path, reason: String) -> BuildError {
    BuildError::BadTlsFile { path: path.to_owned(), reason }
}
