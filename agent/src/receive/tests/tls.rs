//! TLS, senders' certificates, and files that change.

use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::*;
use crate::{config::ReceiveTls, receive::Bound};

/// Someone who signs certificates.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// Certificate and key of `localhost`.
    fn sign(&self) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn files(folder: &Path, (cert, key): &(String, String)) -> Receive {
    let tls = ReceiveTls {
        cert_file: Some(write(folder, "cert.pem", cert)),
        key_file: Some(write(folder, "key.pem", key)),
        client_ca_file: None,
    };
    Receive { tls, ..Receive::default() }
}

async fn connect(
    address: SocketAddr,
    tls: ClientTlsConfig,
) -> Result<TraceServiceClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let endpoint = endpoint.tls_config(tls.domain_name("localhost")).unwrap();
    Ok(TraceServiceClient::new(endpoint.connect().await?))
}

fn trusting(authority: &Authority) -> ClientTlsConfig {
    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem))
}

async fn works(address: SocketAddr, tls: ClientTlsConfig) -> bool {
    match connect(address, tls).await {
        // In TLS 1.3 a sender learns only after the handshake that its certificate is refused.
        Ok(mut client) => client.export(request(&["a"])).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn grpc_and_http_are_received_by_tls_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let running = Running::start(Script::new(&[]), files(folder.path(), &authority.sign()));
    assert!(works(running.grpc, trusting(&authority)).await);
    assert!(!works(running.grpc, trusting(&Authority::new())).await);
    let plain = Endpoint::from_shared(format!("http://{}", running.grpc)).unwrap();
    let failed = match plain.connect().await {
        Ok(channel) => TraceServiceClient::new(channel).export(request(&["a"])).await.is_err(),
        Err(_) => true,
    };
    assert!(failed);
    eventually("both failures are counted", || running.receivers.stats().counts().tls_failures == 2).await;
    assert_eq!(over_https(running.http, &authority).await, 200);
    assert_eq!(running.script.taken().len(), 2);
}

async fn over_https(address: SocketAddr, authority: &Authority) -> u16 {
    use http_body_util::Full;
    use hyper_util::rt::TokioIo;
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(Bytes::from(request(&["a"]).encode_to_vec()));
    let request = http::Request::post("/v1/traces").header("host", "localhost");
    let request = request.header("content-type", "application/x-protobuf").body(body).unwrap();
    sender.send_request(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn with_mtls_only_senders_with_a_certificate_are_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut receive = files(folder.path(), &ours.sign());
    receive.tls.client_ca_file = Some(write(folder.path(), "clients.pem", &theirs.pem));
    let running = Running::start(Script::new(&[]), receive);
    let with = |authority: &Authority| {
        let (cert, key) = authority.sign();
        trusting(&ours).identity(Identity::from_pem(cert, key))
    };
    assert!(works(running.grpc, with(&theirs)).await);
    assert!(!works(running.grpc, with(&Authority::new())).await);
    assert!(!works(running.grpc, trusting(&ours)).await);
    assert_eq!(running.script.taken().len(), 1);
}

#[tokio::test]
async fn unusable_files_are_named_with_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.sign();
    let check = |change: &dyn Fn(&mut ReceiveTls), key_of: &str, part: &str| {
        let mut receive = files(folder.path(), &(cert.clone(), key.clone()));
        change(&mut receive.tls);
        let error = Bound::bind(&receive).err().unwrap().to_string();
        assert!(error.contains(&format!("receive.tls.{key_of}")) && error.contains(part), "{error}");
    };
    let garbage = write(folder.path(), "garbage", "no PEM at all");
    let other_key = write(folder.path(), "other", &authority.sign().1);
    let missing = || Some("/nowhere/x.pem".into());
    check(&|tls| tls.cert_file = missing(), "cert_file", "cannot read /nowhere/x.pem");
    check(&|tls| tls.key_file = missing(), "key_file", "cannot read /nowhere/x.pem");
    check(&|tls| tls.client_ca_file = missing(), "client_ca_file", "cannot read /nowhere/x.pem");
    check(&|tls| tls.cert_file = Some(garbage.clone()), "cert_file", "no certificate");
    check(&|tls| tls.key_file = Some(garbage.clone()), "key_file", "no private key");
    check(&|tls| tls.client_ca_file = Some(garbage.clone()), "client_ca_file", "no certificate");
    check(&|tls| tls.key_file = Some(other_key.clone()), "key_file", "not the key of the certificate in");
}

/// Exchanged while senders send: no request fails, new connections get the new certificate.
#[tokio::test]
async fn a_changed_certificate_is_used_and_an_unusable_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let running = Running::start(Script::new(&[]), files(folder.path(), &old.sign()));
    let mut client = connect(running.grpc, trusting(&old)).await.unwrap();
    let (cert, key) = new.sign();
    // The certificate alone does not fit the key.
    write(folder.path(), "cert.pem", &cert);
    let failures = || running.receivers.stats().counts().reload_failures;
    eventually("the mismatch is noticed", || failures() > 0).await;
    assert!(works(running.grpc, trusting(&old)).await);
    write(folder.path(), "key.pem", &key);
    eventually("the pair is used", || running.receivers.stats().counts().reloads == 1).await;
    assert!(works(running.grpc, trusting(&new)).await);
    assert!(!works(running.grpc, trusting(&old)).await);
    client.export(request(&["b"])).await.unwrap();
}

#[tokio::test]
async fn a_changed_token_is_used_as_in_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, token: &str| {
        let dir = folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("token"), token).unwrap();
        dir
    };
    let link = folder.path().join("current");
    std::os::unix::fs::symlink(version("1", "old-token"), &link).unwrap();
    let token = Secret::File { file: link.join("token") };
    let receive = Receive {
        tenants: vec![Tenant { name: "blue".into(), tokens: vec![token], quota: None }],
        ..Receive::default()
    };
    let running = Running::start(Script::new(&[]), receive);
    let send = async |token: &str| {
        let mut request = tonic::Request::new(request(&["a"]));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        super::over_grpc::client(running.grpc).await.export(request).await.is_ok()
    };
    assert!(send("old-token").await && !send("new-token").await);
    let next = folder.path().join("next");
    std::os::unix::fs::symlink(version("2", "new-token"), &next).unwrap();
    std::fs::rename(&next, &link).unwrap();
    eventually("the token is used", || running.receivers.stats().counts().reloads == 1).await;
    assert!(send("new-token").await && !send("old-token").await);
}
