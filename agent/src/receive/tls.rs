//! TLS of the receivers: certificate, key and who signs senders' certificates, read again when the files change.
//!
//! New connections use what was read last; those that are open keep what they have.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::ReceiveError;
use crate::config::ReceiveTls;

/// HTTP/2, then HTTP/1.1 (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
const CERT: &str = "receive.tls.cert_file";
const KEY: &str = "receive.tls.key_file";
const CLIENT_CA: &str = "receive.tls.client_ca_file";

pub(super) struct ServerTls {
    files: Files,
    current: RwLock<(Pems, Arc<ServerConfig>)>,
}

/// Where everything is.
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What the files have.
#[derive(PartialEq)]
struct Pems {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ServerTls {
    /// `None` where no certificate is configured.
    pub(super) fn new(tls: &ReceiveTls) -> Result<Option<Self>, ReceiveError> {
        let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) else { return Ok(None) };
        let files = Files { cert: cert.clone(), key: key.clone(), client_ca: tls.client_ca_file.clone() };
        let pems = files.read()?;
        let config = files.config(&pems)?;
        Ok(Some(Self { files, current: RwLock::new((pems, Arc::new(config))) }))
    }

    /// Reads the files again, and says whether they differ; on error the previous ones stay.
    pub(super) fn reload(&self) -> Result<bool, ReceiveError> {
        let pems = self.files.read()?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).0 == pems {
            return Ok(false);
        }
        let config = Arc::new(self.files.config(&pems)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (pems, config);
        Ok(true)
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).1)
    }
}

impl Files {
    fn read(&self) -> Result<Pems, ReceiveError> {
        let client_ca = self.client_ca.as_ref().map(|path| read(CLIENT_CA, path)).transpose()?;
        Ok(Pems { cert: read(CERT, &self.cert)?, key: read(KEY, &self.key)?, client_ca })
    }

    fn config(&self, pems: &Pems) -> Result<ServerConfig, ReceiveError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(CERT, &self.cert, &pems.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&pems.key)
            .map_err(|cause| unusable(KEY, &self.key, format!("has no private key in PEM: {cause}")))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|cause| unusable(CERT, &self.cert, cause.to_string()))?;
        let builder = match (&self.client_ca, &pems.client_ca) {
            (Some(path), Some(pem)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(path, pem)?.into(), provider);
                let verifier = verifier.build().map_err(|cause| unusable(CLIENT_CA, path, cause.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|cause| self.mismatched(&cause))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }

    fn mismatched(&self, cause: &rustls::Error) -> ReceiveError {
        let cause = match cause {
            rustls::Error::InconsistentKeys(_) => {
                format!("it is not the key of the certificate in {}", self.cert.display())
            }
            other => other.to_string(),
        };
        unusable(KEY, &self.key, cause)
    }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, ReceiveError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA, path, pem)? {
        roots.add(certificate).map_err(|cause| unusable(CLIENT_CA, path, cause.to_string()))?;
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ReceiveError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|cause| unusable(key, path, format!("is no PEM: {cause}")))?;
    if all.is_empty() {
        return Err(unusable(key, path, "has no certificate in PEM".into()));
    }
    Ok(all)
}

fn unusable(key: &'static str, path: &Path, cause: String) -> ReceiveError {
    ReceiveError::Tls { key, path: path.to_owned(), cause }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ReceiveError> {
    fs::read(path).map_err(|cause| ReceiveError::File { key, path: path.to_owned(), cause })
}
