//! `POST` of what a destination's format makes of a request, and what the answer means.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    ExportError, Pieces,
    answer::{self, Verdict, of_http},
    auth::Auth,
    client::{IDEMPOTENCY_KEY, Signal, USER_AGENT},
    compress::Compressor,
    connect::{Http, Renewed},
    explain::{no_answer, short, too_late, was_connected},
    format::{Format, Post},
    parts::{Parts, Unfinished},
    retry::{AgainKind, Outcome, retry_after},
    secrets, taken,
};
use crate::config::{Destination, Protocol};

/// What a Datadog agent wants to know of each request.
const TRACE_COUNT: header::HeaderName = header::HeaderName::from_static("x-datadog-trace-count");

pub(super) struct HttpClient {
    client: Renewed<Http>,
    auth: Auth,
    unfinished: Unfinished<Parts>,
    signal: Signal,
    protocol: Protocol,
    format: Format,
    compressor: Compressor,
    uri: Uri,
    /// The same as messages show it: a query may have a secret.
    shown: String,
    headers: HeaderMap,
    timeout: Duration,
}

impl HttpClient {
    pub(super) fn new(destination: &Destination, signal: Signal) -> Result<Self, ExportError> {
        let url = format!("{}{}", destination.url.origin(), destination.url.path);
        let uri = url.parse().map_err(|cause: http::uri::InvalidUri| ExportError::Url {
            destination: destination.name.clone(),
            url: destination.url.to_string(),
            cause: cause.to_string(),
        })?;
        let format = Format::of(destination);
        let compressor = Compressor::new(destination.compression, destination.compression_level);
        let headers = headers(destination, format, compressor)?;
        let client = Renewed::of_http(destination)?;
        let auth = Auth::new(destination)?;
        let (protocol, timeout) = (destination.url.protocol, destination.timeout.0);
        let unfinished = Unfinished::default();
        let shown = url.split('?').next().unwrap_or_default().to_owned();
        Ok(Self { client, auth, unfinished, signal, protocol, format, compressor, uri, shown, headers, timeout })
    }

    /// Bytes sent on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.client.sent()
    }

    pub(super) async fn send(&self, body: Pieces, key: &str) -> Outcome {
        match tokio::time::timeout(self.timeout, self.send_all(body, key)).await {
            Ok(outcome) => outcome,
            Err(_) => too_late(&self.shown, self.timeout),
        }
    }

    /// Sends each body, or those that are left of a request of which some were taken before.
    async fn send_all(&self, request: Pieces, key: &str) -> Outcome {
        let mut parts = match self.unfinished.take(key) {
            Some(parts) => parts,
            None => match self.format.prepare(&request, self.compressor).await {
                Ok(posts) => Parts::new(posts),
                Err(cause) => return Outcome::Never { cause },
            },
        };
        while let Some(post) = parts.next() {
            // Kept before it is known: whoever waits may give up.
            if parts.are_several() {
                self.unfinished.keep(key, parts.clone());
            }
            let outcome = self.auth.attempt(|authorization| self.post(post, key, authorization)).await;
            if let Some(outcome) = parts.settle(outcome) {
                if !matches!(outcome, Outcome::Again { .. }) {
                    self.unfinished.take(key);
                }
                return outcome;
            }
        }
        self.unfinished.take(key);
        parts.outcome()
    }

    async fn post(&self, post: &Post, key: &str, authorization: Option<HeaderValue>) -> Outcome {
        let mut request = Request::new(Full::new(post.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value);
        }
        // Several requests of another format have parts of the same spans: a key would call them repetitions.
        if let (Format::Otlp | Format::OtlpJson, Ok(key)) = (self.format, HeaderValue::from_str(key)) {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        if self.format == Format::Datadog {
            headers.insert(TRACE_COUNT, post.traces.into());
        }
        match self.client.get().request(request).await {
            Ok(response) => self.answered(response).await,
            Err(error) => no_answer(&self.shown, &error, was_connected(&error)),
        }
    }

    async fn answered(&self, response: Response<Incoming>) -> Outcome {
        let (head, body) = response.into_parts();
        let body = match answer::body(body).await {
            Ok(body) => body,
            // It may say that some spans were refused.
            Err(error) if head.status.is_success() => {
                return Outcome::again(AgainKind::Unanswered, format!("{}: the answer is cut: {error}", self.shown));
            }
            Err(_) => Bytes::new(),
        };
        let content_type = text(&head.headers, header::CONTENT_TYPE).unwrap_or_default();
        if head.status.is_success() {
            return match self.protocol {
                _ if content_type.starts_with("text/html") => Outcome::again(
                    AgainKind::Misconfigured,
                    format!("{} answered {} with a web page: it is no receiver of spans", self.shown, head.status),
                ),
                Protocol::Otlp => taken::of_body(&content_type, &body),
                _ => Outcome::Delivered { rejected: 0, message: String::new() },
            };
        }
        let mut cause = format!("{} answered {}", self.shown, head.status);
        // A query may have a key in it.
        let location =
            text(&head.headers, header::LOCATION).map(|to| to.split(['?', '#']).next().unwrap_or_default().to_owned());
        for detail in [taken::message_of(&body), location.map(|to| format!("moved to {to}: correct the URL"))] {
            if let Some(detail) = detail.filter(|detail| !detail.is_empty()) {
                cause = format!("{cause}: {}", short(&detail));
            }
        }
        let verdict = of_http(self.protocol, head.status);
        let after = text(&head.headers, header::RETRY_AFTER)
            .and_then(|value| retry_after(&value, text(&head.headers, header::DATE).as_deref()));
        match verdict {
            Verdict::Never => Outcome::Never { cause },
            Verdict::TooLarge => Outcome::TooLarge { cause },
            Verdict::Again(kind) => Outcome::Again { kind, after, cause: self.with_hint(cause, kind, head.status) },
        }
    }

    fn with_hint(&self, cause: String, kind: AgainKind, status: StatusCode) -> String {
        let path = match (self.protocol, self.signal) {
            (Protocol::Otlp, Signal::Spans) => "/v1/traces",
            (Protocol::Otlp, Signal::Metrics) => "/v1/metrics",
            (Protocol::Zipkin, _) => "/api/v2/spans",
            (Protocol::Jaeger, _) => "/api/traces",
            (Protocol::Datadog, _) => "/v0.4/traces",
        };
        match kind {
            AgainKind::Auth => format!("{cause}; {}", self.signal.hint_of_auth()),
            AgainKind::Misconfigured if status.is_redirection() => cause,
            AgainKind::Misconfigured => format!("{cause}; the usual path is {path}"),
            _ => cause,
        }
    }
}

/// The headers of every request.
fn headers(destination: &Destination, format: Format, compressor: Compressor) -> Result<HeaderMap, ExportError> {
    let mut headers = secrets::headers(destination)?;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Some(encoding) = compressor.content_encoding() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if format == Format::Datadog {
        headers.insert("datadog-meta-lang", HeaderValue::from_static("rust"));
        headers.insert("datadog-meta-tracer-version", HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    }
    Ok(headers)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
