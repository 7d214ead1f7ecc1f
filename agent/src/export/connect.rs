//! Connections to a destination: TCP or through a proxy, TLS with certificates that may change while the agent runs.
//!
//! The files that the configuration names are looked at once a second, by content: a rename, a symbolic link that is
//! swapped (as Kubernetes does) and a write in place are all the same. When they have changed, the client is made anew,
//! so that new connections use the new files. Of files that are missing, half-written or do not belong together the old
//! ones are kept, and that is said.

use std::{
    fs,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, proxy::Tunnel},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tower::Service;
use tracing::{info, warn};

use super::{
    ExportError, Pieces,
    counted::{Counted, SentBytes},
    secrets,
};
use crate::{
    capture::lock,
    config::{Basic, Destination},
};

/// An idle connection is closed before most servers and firewalls do it.
const IDLE: Duration = Duration::from_secs(30);
/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Makes connections; cheap to clone.
pub(super) type Connector = HttpsConnector<Way>;

/// What to know for connections to one place.
#[derive(Clone)]
pub(super) struct Target {
    /// Who asks, for messages.
    pub destination: String,
    pub tls: bool,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub proxy: Option<String>,
    pub proxy_auth: Option<Basic>,
    pub timeout: Duration,
    /// Name of the protocol within TLS (ALPN): `h2` or `http/1.1`; empty where the protocol has no such name.
    pub alpn: &'static str,
    /// What is sent on all connections.
    pub sent: SentBytes,
}

impl Target {
    pub(super) fn new(destination: &Destination, alpn: &'static str) -> Self {
        Self {
            destination: destination.name.clone(),
            tls: destination.uses_tls(),
            ca_file: destination.tls.ca_file.clone(),
            cert_file: destination.tls.cert_file.clone(),
            key_file: destination.tls.key_file.clone(),
            proxy: destination.proxy.clone(),
            proxy_auth: destination.proxy_auth.clone(),
            timeout: destination.timeout.0,
            alpn,
            sent: SentBytes::default(),
        }
    }
}

/// What clients are made of.
struct Made {
    connector: Connector,
    dial: Dial,
}

/// What a client is made of whose protocol begins TLS by itself.
#[derive(Clone)]
pub(super) struct Dial {
    pub way: Way,
    pub tls: Arc<ClientConfig>,
}

/// A client that is made anew when files change.
pub(super) struct Renewed<C> {
    target: Target,
    build: Box<dyn Fn(Made) -> C + Send + Sync>,
    state: Mutex<State<C>>,
}

struct State<C> {
    client: C,
    files: Files,
    looked: Instant,
    /// What was last said about files that cannot be used.
    trouble: String,
}

impl<C: Clone> Renewed<C> {
    /// # Errors
    /// The files cannot be used; at the start there are no old ones to keep.
    pub(super) fn new(
        target: Target,
        build: impl Fn(Connector) -> C + Send + Sync + 'static,
    ) -> Result<Self, ExportError> {
        Self::with(target, move |made| build(made.connector))
    }

    fn with(target: Target, build: impl Fn(Made) -> C + Send + Sync + 'static) -> Result<Self, ExportError> {
        let files = Files::read(&target)?;
        let client = build(made(&target, &files)?);
        let state = State { client, files, looked: Instant::now(), trouble: String::new() };
        Ok(Self { target, build: Box::new(build), state: Mutex::new(state) })
    }

    /// Bytes sent on all connections that its clients made.
    pub(super) fn sent(&self) -> u64 {
        self.target.sent.get()
    }

    /// The client for the files as they are now.
    pub(super) fn get(&self) -> C {
        let mut state = lock(&self.state);
        if state.looked.elapsed() >= LOOK_INTERVAL {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        state.client.clone()
    }

    fn look(&self, state: &mut State<C>) {
        let renewed = Files::read(&self.target).and_then(|files| {
            if files == state.files {
                return Ok(None);
            }
            made(&self.target, &files).map(|made| Some((files, made)))
        });
        match renewed {
            Ok(None) => state.trouble.clear(),
            Ok(Some((files, made))) => {
                info!(destination = self.target.destination, "new certificates are used from now on");
                state.client = (self.build)(made);
                state.files = files;
                state.trouble.clear();
            }
            Err(cause) => {
                let trouble = cause.to_string();
                if trouble != state.trouble {
                    warn!(destination = self.target.destination, "the old certificates are kept: {trouble}");
                }
                state.trouble = trouble;
            }
        }
    }
}

/// A client of HTTP/1.1.
pub(super) type Http = Client<Connector, Full<Pieces>>;

impl Renewed<Http> {
    /// Errors as in [`Renewed::new`].
    pub(super) fn of_http(destination: &Destination) -> Result<Self, ExportError> {
        Self::new(Target::new(destination, "http/1.1"), |connector| {
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(connector)
        })
    }
}

impl Renewed<Dial> {
    /// For a protocol that begins TLS by itself. Errors as in [`Renewed::new`].
    pub(super) fn of_dial(target: Target) -> Result<Self, ExportError> {
        Self::with(target, |made| made.dial)
    }
}

/// Content of the files. Has a private key: no debug output.
#[derive(PartialEq, Eq)]
struct Files {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    proxy_auth: Option<HeaderValue>,
}

impl Files {
    fn read(target: &Target) -> Result<Self, ExportError> {
        let read = |key: &str, path: &Option<PathBuf>| {
            let Some(path) = path else { return Ok(None) };
            fs::read(path).map(Some).map_err(|cause| ExportError::File {
                destination: target.destination.clone(),
                key: key.to_owned(),
                path: path.clone(),
                cause,
            })
        };
        let proxy_auth = target.proxy_auth.as_ref().map(secrets::basic).transpose();
        Ok(Self {
            ca: read("tls.ca_file", &target.ca_file)?,
            cert: read("tls.cert_file", &target.cert_file)?,
            key: read("tls.key_file", &target.key_file)?,
            proxy_auth: proxy_auth.map_err(|cause| ExportError::Header {
                destination: target.destination.clone(),
                header: "proxy-authorization".into(),
                cause,
            })?,
        })
    }
}

fn made(target: &Target, files: &Files) -> Result<Made, ExportError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(target.timeout));
    let road = match &target.proxy {
        None => Road::Direct(tcp),
        Some(proxy) => {
            let unusable = |cause: http::uri::InvalidUri| ExportError::Url {
                destination: target.destination.clone(),
                url: "proxy".into(),
                cause: cause.to_string(),
            };
            let tunnel = Tunnel::new(proxy.parse().map_err(unusable)?, tcp);
            Road::Proxy(match &files.proxy_auth {
                Some(auth) => tunnel.with_auth(auth.clone()),
                None => tunnel,
            })
        }
    };
    let way = Way { road, sent: target.sent.clone() };
    let tls = Arc::new(tls(target, files)?);
    let connector = HttpsConnector::from((way.clone(), Arc::clone(&tls)));
    Ok(Made { connector, dial: Dial { way, tls } })
}

fn tls(target: &Target, files: &Files) -> Result<ClientConfig, ExportError> {
    let unusable = |cause: String| ExportError::Tls { destination: target.destination.clone(), cause };
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|cause| unusable(cause.to_string()))?
        .with_root_certificates(roots(target, files).map_err(unusable)?);
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
            let chain = chain.map_err(|cause| unusable(format!("tls.cert_file: {cause}")))?;
            if chain.is_empty() {
                return Err(unusable("tls.cert_file has no certificate in PEM".into()));
            }
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|cause| unusable(format!("tls.key_file: {cause}")))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|cause| unusable(format!("tls.cert_file and tls.key_file do not go together: {cause}")))?
        }
        _ => builder.with_no_client_auth(),
    };
    if !target.alpn.is_empty() {
        config.alpn_protocols = vec![target.alpn.as_bytes().to_vec()];
    }
    Ok(config)
}

fn roots(target: &Target, files: &Files) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &files.ca {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|cause| format!("tls.ca_file: {cause}"))?;
            roots.add(certificate).map_err(|cause| format!("tls.ca_file: {cause}"))?;
        }
        if roots.is_empty() {
            return Err("tls.ca_file has no certificate in PEM".into());
        }
    } else if target.tls {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("the system has no CA certificates; install ca-certificates or set tls.ca_file".into());
        }
    }
    Ok(roots)
}

/// The way of a TCP connection, and who counts what is sent on it.
#[derive(Clone)]
pub(super) struct Way {
    road: Road,
    sent: SentBytes,
}

#[derive(Clone)]
enum Road {
    Direct(HttpConnector),
    Proxy(Tunnel<HttpConnector>),
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Way {
    type Response = TokioIo<Counted>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.road {
            Road::Direct(tcp) => tcp.poll_ready(context).map_err(Into::into),
            Road::Proxy(tunnel) => tunnel.poll_ready(context).map_err(Into::into),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let sent = self.sent.clone();
        let counted = |stream: TokioIo<TcpStream>| TokioIo::new(Counted::new(stream.into_inner(), sent));
        match &mut self.road {
            Road::Direct(tcp) => {
                let connecting = tcp.call(uri);
                Box::pin(async { Ok(counted(connecting.await?)) })
            }
            Road::Proxy(tunnel) => {
                let connecting = tunnel.call(uri);
                Box::pin(async { Ok(counted(connecting.await?)) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::export::fakes::Identity;

    fn renewed(target: Target) -> (Renewed<usize>, impl Fn(&Renewed<usize>) -> usize) {
        let made = AtomicUsize::new(0);
        let renewed = Renewed::new(target, move |_| made.fetch_add(1, Ordering::Relaxed)).unwrap();
        let look = |renewed: &Renewed<usize>| {
            renewed.state.lock().unwrap().looked -= LOOK_INTERVAL;
            renewed.get()
        };
        (renewed, look)
    }

    fn target(folder: &std::path::Path) -> Target {
        let mut destination = Destination::to("otlp+grpcs://h".parse().unwrap());
        destination.name = "backend".into();
        destination.tls.ca_file = Some(folder.join("ca.pem"));
        destination.tls.cert_file = Some(folder.join("cert.pem"));
        destination.tls.key_file = Some(folder.join("key.pem"));
        Target::new(&destination, "h2")
    }

    fn write(folder: &std::path::Path, identity: &Identity) {
        fs::write(folder.join("ca.pem"), &identity.ca).unwrap();
        fs::write(folder.join("cert.pem"), &identity.certificate).unwrap();
        fs::write(folder.join("key.pem"), &identity.key).unwrap();
    }

    #[test]
    fn a_new_pair_is_used_and_half_of_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &Identity::new());
        let (renewed, look) = renewed(target(folder.path()));
        assert_eq!(look(&renewed), 0, "nothing has changed");
        let next = Identity::new();
        fs::write(folder.path().join("cert.pem"), &next.certificate).unwrap();
        assert_eq!(look(&renewed), 0, "the key is another's");
        assert!(renewed.state.lock().unwrap().trouble.contains("do not go together"));
        fs::write(folder.path().join("key.pem"), "-----BEGIN PRIVATE KEY-----\nMII").unwrap();
        assert_eq!(look(&renewed), 0, "half-written");
        fs::remove_file(folder.path().join("key.pem")).unwrap();
        assert_eq!(look(&renewed), 0, "missing");
        assert!(renewed.state.lock().unwrap().trouble.contains("tls.key_file"));
        write(folder.path(), &next);
        assert_eq!(look(&renewed), 1);
        assert_eq!(renewed.state.lock().unwrap().trouble, "");
    }

    #[test]
    fn a_swapped_link_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        // As Kubernetes mounts a secret: names -> ..data -> a folder for each version.
        for version in ["1", "2"] {
            fs::create_dir(folder.path().join(version)).unwrap();
            write(&folder.path().join(version), &Identity::new());
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        link("1", "..data");
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            link(&format!("..data/{name}"), name);
        }
        let (renewed, look) = renewed(target(folder.path()));
        assert_eq!(look(&renewed), 0);
        link("2", "..data_tmp");
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        assert_eq!(look(&renewed), 1);
    }

    #[test]
    fn at_the_start_bad_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &Identity::new());
        for (name, content, part) in [
            ("key.pem", Some("not a key"), "tls.key_file"),
            ("cert.pem", Some("not a certificate"), "tls.cert_file has no certificate"),
            ("ca.pem", Some(""), "tls.ca_file has no certificate"),
            ("ca.pem", None, "cannot read tls.ca_file"),
        ] {
            let path = folder.path().join(name);
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let error = Renewed::new(target(folder.path()), |_| 0).err().unwrap().to_string();
            assert!(error.contains("backend") && error.contains(part), "{error}");
            assert!(!error.contains("not a key"));
        }
    }
}
