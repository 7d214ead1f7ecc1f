//! OTLP/HTTP with binary protobuf: `POST` of the request's bytes as they are.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer, pki_types::pem::PemObject};

use super::{
    ExportError,
    client::{IDEMPOTENCY_KEY, USER_AGENT, explain, short},
    grpc::taken,
    retry::{Outcome, http_may_retry, retry_after},
    secrets,
};
use crate::config::{Compression, Destination};

/// Longest answer that is read. An answer is a few bytes; the specification asks for a limit.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// An idle connection is closed before most servers and firewalls do it.
const IDLE: Duration = Duration::from_secs(30);

pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    headers: HeaderMap,
    gzip: bool,
    timeout: Duration,
}

impl HttpClient {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let mut headers = secrets::headers(destination)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let gzip = destination.compression == Compression::Gzip;
        if gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector(destination)?);
        let url = format!("{}{}", destination.url.origin(), destination.url.path);
        Ok(Self { client, url, headers, gzip, timeout: destination.timeout.0 })
    }

    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        match tokio::time::timeout(self.timeout, self.post(body, key)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Outcome::Again { after: None, cause: format!("no answer from {} within {:?}", self.url, self.timeout) }
            }
        }
    }

    async fn post(&self, body: Bytes, key: &str) -> Outcome {
        let body = if self.gzip { gzip(&body) } else { body };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = self.headers.clone();
        if let Ok(key) = HeaderValue::from_str(key) {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        match self.url.parse() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(cause) => return Outcome::Never { cause: format!("{} is no URL: {cause}", self.url) },
        }
        match self.client.request(request).await {
            Ok(response) => self.answered(response).await,
            Err(error) => Outcome::Again { after: None, cause: explain(&self.url, &error) },
        }
    }

    async fn answered(&self, response: Response<Incoming>) -> Outcome {
        let status = response.status();
        let location = text(response.headers(), header::LOCATION);
        let after = text(response.headers(), header::RETRY_AFTER);
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        if status.is_success() {
            // The spans were taken; an answer that cannot be read changes nothing about that.
            return taken(ExportTraceServiceResponse::decode(body).unwrap_or_default());
        }
        let mut cause = format!("{} answered {status}", self.url);
        for detail in [message_of(&body), location.map(|to| format!("moved to {to}: correct the URL"))] {
            if let Some(detail) = detail.filter(|detail| !detail.is_empty()) {
                cause = format!("{cause}: {}", short(&detail));
            }
        }
        if status == StatusCode::NOT_FOUND {
            cause.push_str("; the usual path is /v1/traces");
        }
        if http_may_retry(status) {
            Outcome::Again { after: after.and_then(|value| retry_after(&value, SystemTime::now())), cause }
        } else {
            Outcome::Never { cause }
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The message of a `google.rpc.Status`, as the specification asks for, else the text itself if it is short and text.
fn message_of(body: &Bytes) -> Option<String> {
    let status = tonic_types::pb::Status::decode(body.clone()).ok();
    status
        .map(|status| status.message)
        .filter(|message| !message.is_empty())
        .or_else(|| str::from_utf8(body).ok().map(str::to_owned))
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    // Writing to memory does not fail.
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default().into()
}

fn connector(destination: &Destination) -> Result<HttpsConnector<HttpConnector>, ExportError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(destination.timeout.0));
    let tls = tls(destination)?;
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
}

fn tls(destination: &Destination) -> Result<ClientConfig, ExportError> {
    let unusable = |cause: String| ExportError::Tls { destination: destination.name.clone(), cause };
    let mut roots = RootCertStore::empty();
    if let Some(pem) = secrets::ca_pem(destination)? {
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|cause| unusable(format!("tls.ca_file: {cause}")))?;
            roots.add(certificate).map_err(|cause| unusable(format!("tls.ca_file: {cause}")))?;
        }
        if roots.is_empty() {
            return Err(unusable("tls.ca_file has no certificate in PEM".into()));
        }
    } else if destination.url.tls {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(unusable(
                "the system has no CA certificates; install ca-certificates or set tls.ca_file".into(),
            ));
        }
    }
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|cause| unusable(cause.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
