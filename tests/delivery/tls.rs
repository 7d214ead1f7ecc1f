//! TLS where the tests have none: in front of a sink, and behind a sender; and who signs what.
//!
//! In: certificates, which may be exchanged at any time. Out: connections that are passed on as they are.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::sink::RUNTIME;

/// A CA and a certificate for `localhost` that it has signed, in PEM.
pub struct Identity {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl Identity {
    /// A fresh one.
    pub fn new() -> Self {
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::new([]).expect("no names");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).expect("a CA").pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("names").signed_by(&key, &issuer);
        Self { ca: ca_pem, certificate: certificate.expect("a certificate").pem(), key: key.serialize_pem() }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(|one| one.expect("PEM")).collect()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("PEM")).expect("a CA");
        roots
    }
}

/// Passes connections on. Counts handshakes that went well, and those that did not.
pub struct Tunnel {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    made: AtomicU64,
    refused: AtomicU64,
}

#[derive(Clone)]
enum Way {
    /// TLS comes in.
    Front(Arc<ServerConfig>),
    /// TLS goes out.
    Back(Arc<ClientConfig>),
}

impl Tunnel {
    /// In front of a sink: shows `server`, and wants clients that the CA of `clients` has signed.
    pub fn front(to: SocketAddr, server: &Identity, clients: &Identity) -> Self {
        Self::start(to, front(server, clients))
    }

    /// Behind a sender: trusts the CA of `server` alone.
    pub fn back(to: SocketAddr, server: &Identity) -> Self {
        Self::start(to, back(server))
    }

    /// From now on the front shows and wants these; connections that are there end.
    pub fn exchange_front(&self, server: &Identity, clients: &Identity) {
        self.way.send_replace(front(server, clients));
    }

    /// From now on the back trusts this one alone; connections that are there end.
    pub fn exchange_back(&self, server: &Identity) {
        self.way.send_replace(back(server));
    }

    /// Handshakes that went well, and those that did not.
    pub fn handshakes(&self) -> (u64, u64) {
        (self.counts.made.load(SeqCst), self.counts.refused.load(SeqCst))
    }

    fn start(to: SocketAddr, way: Way) -> Self {
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, current) = watch::channel(way);
        let counts = Arc::new(Counts::default());
        let noted = Arc::clone(&counts);
        let task = RUNTIME.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mut current, noted) = (current.clone(), Arc::clone(&noted));
                let way = current.borrow_and_update().clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass(stream, to, way, &noted) => {}
                        // Exchanged, or the tunnel is gone.
                        _ = current.changed() => {}
                    }
                });
            }
        });
        Self { address, way: sender, counts, task }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(stream: TcpStream, to: SocketAddr, way: Way, counts: &Counts) {
    let Ok(other) = TcpStream::connect(to).await else { return };
    let done = match way {
        Way::Front(config) => match TlsAcceptor::from(config).accept(stream).await {
            // A client whose certificate is refused learns of it after its own end of the handshake, and so does this end.
            Ok(secure) => join(secure, other, counts).await,
            Err(_) => Err(()),
        },
        Way::Back(config) => {
            let name = ServerName::try_from("localhost").expect("a name");
            match TlsConnector::from(config).connect(name, other).await {
                Ok(secure) => join(stream, secure, counts).await,
                Err(_) => Err(()),
            }
        }
    };
    if done.is_err() {
        counts.refused.fetch_add(1, SeqCst);
    }
}

async fn join(
    mut here: impl AsyncRead + AsyncWrite + Unpin,
    mut there: impl AsyncRead + AsyncWrite + Unpin,
    counts: &Counts,
) -> Result<(), ()> {
    counts.made.fetch_add(1, SeqCst);
    // How a connection ends is the matter of its ends.
    let _ = copy_bidirectional(&mut here, &mut there).await;
    Ok(())
}

fn front(server: &Identity, clients: &Identity) -> Way {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots().into(), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_client_cert_verifier(verifier.build().expect("a CA"))
        .with_single_cert(server.chain(), server.key())
        .expect("they go together");
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).to_vec();
    Way::Front(Arc::new(config))
}

fn back(server: &Identity) -> Way {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(server.roots())
        .with_no_client_auth();
    Way::Back(Arc::new(config))
}
