//! `POST` of what a destination's format makes of a request, and what the answer means.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer, pki_types::pem::PemObject};

use super::{
    ExportError,
    answer::{Verdict, of_http},
    client::{IDEMPOTENCY_KEY, USER_AGENT},
    compress::Compressor,
    explain::{explain, short},
    format::{Format, Post, Posts},
    retry::{AgainKind, Outcome, retry_after},
    secrets, taken,
};
use crate::config::{Destination, Encoding, Protocol};

/// Longest answer that is read. An answer is a few bytes; the specification asks for a limit.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// An idle connection is closed before most servers and firewalls do it.
const IDLE: Duration = Duration::from_secs(30);

pub(super) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    protocol: Protocol,
    format: Format,
    compressor: Compressor,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl HttpClient {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let url = format!("{}{}", destination.url.origin(), destination.url.path);
        let uri = url.parse().map_err(|cause: http::uri::InvalidUri| ExportError::Url {
            destination: destination.name.clone(),
            url: destination.url.to_string(),
            cause: cause.to_string(),
        })?;
        let format = format(destination);
        let compressor = Compressor::new(destination.compression, destination.compression_level);
        let mut headers = secrets::headers(destination)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(format)));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(encoding) = compressor.content_encoding() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector(destination)?);
        let (protocol, timeout) = (destination.url.protocol, destination.timeout.0);
        Ok(Self { client, protocol, format, compressor, uri, headers, timeout })
    }

    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        match tokio::time::timeout(self.timeout, self.send_all(body, key)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let cause = format!("no answer from {} within {:?}", self.uri, self.timeout);
                Outcome::again(AgainKind::Timeout, cause)
            }
        }
    }

    async fn send_all(&self, body: Bytes, key: &str) -> Outcome {
        let posts = match self.bodies(body).await {
            Ok(posts) => posts,
            Err(cause) => return Outcome::Never { cause },
        };
        let mut outcome = Outcome::Delivered { rejected: 0, message: String::new() };
        for post in posts.posts {
            outcome = self.post(post, key).await;
        }
        with_left_out(outcome, posts.left_out)
    }

    /// Formatted and compressed. Neither waits for anything, so it is not done where others wait.
    async fn bodies(&self, body: Bytes) -> Result<Posts, String> {
        let (format, compressor) = (self.format, self.compressor);
        if format == Format::Otlp && compressor.content_encoding().is_none() {
            return format.encode(&body);
        }
        let made = tokio::task::spawn_blocking(move || {
            let mut posts = format.encode(&body)?;
            for post in &mut posts.posts {
                post.body = compressor.compress(post.body.clone()).map_err(|cause| cause.to_string())?;
            }
            Ok(posts)
        });
        made.await.map_err(|failure| failure.to_string())?
    }

    async fn post(&self, post: Post, key: &str) -> Outcome {
        let mut request = Request::new(Full::new(post.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Ok(key) = HeaderValue::from_str(key) {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        match self.client.request(request).await {
            Ok(response) => self.answered(response).await,
            Err(error) => Outcome::again(AgainKind::Unavailable, explain(&self.uri.to_string(), &error)),
        }
    }

    async fn answered(&self, response: Response<Incoming>) -> Outcome {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let content_type = text(&head.headers, header::CONTENT_TYPE).unwrap_or_default();
        if head.status.is_success() {
            return match self.protocol {
                _ if content_type.starts_with("text/html") => Outcome::again(
                    AgainKind::Misconfigured,
                    format!("{} answered {} with a web page: it is no receiver of spans", self.uri, head.status),
                ),
                Protocol::Otlp => taken::of_body(&content_type, &body),
                _ => Outcome::Delivered { rejected: 0, message: String::new() },
            };
        }
        let mut cause = format!("{} answered {}", self.uri, head.status);
        let location = text(&head.headers, header::LOCATION);
        for detail in [taken::message_of(&body), location.map(|to| format!("moved to {to}: correct the URL"))] {
            if let Some(detail) = detail.filter(|detail| !detail.is_empty()) {
                cause = format!("{cause}: {}", short(&detail));
            }
        }
        let verdict = of_http(self.protocol, head.status);
        let after = text(&head.headers, header::RETRY_AFTER).and_then(|value| retry_after(&value, SystemTime::now()));
        match verdict {
            Verdict::Never => Outcome::Never { cause },
            Verdict::TooLarge => Outcome::TooLarge { cause },
            Verdict::Again(kind) => Outcome::Again { kind, after, cause: with_hint(cause, kind, self.protocol) },
        }
    }
}

fn format(destination: &Destination) -> Format {
    match destination.url.protocol {
        Protocol::Zipkin => Format::Zipkin,
        _ if destination.encoding == Encoding::Json => Format::OtlpJson,
        _ => Format::Otlp,
    }
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Otlp => "application/x-protobuf",
        Format::OtlpJson | Format::Zipkin => "application/json",
    }
}

/// What could not be said in the format counts as refused.
fn with_left_out(outcome: Outcome, left_out: u64) -> Outcome {
    match outcome {
        Outcome::Delivered { rejected, message } if left_out > 0 => {
            let cause = format!("{left_out} spans have no valid ids");
            let message = if message.is_empty() { cause } else { format!("{message}; {cause}") };
            Outcome::Delivered { rejected: rejected + left_out, message }
        }
        other => other,
    }
}

fn with_hint(cause: String, kind: AgainKind, protocol: Protocol) -> String {
    match kind {
        AgainKind::Auth => format!("{cause}; correct `auth` or `headers`, the spans wait in the log"),
        AgainKind::Misconfigured => {
            let path = match protocol {
                Protocol::Otlp => "/v1/traces",
                Protocol::Zipkin => "/api/v2/spans",
                Protocol::Jaeger => "/api/traces",
                Protocol::Datadog => "/v0.4/traces",
            };
            format!("{cause}; the usual path is {path}")
        }
        _ => cause,
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
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
