//! Objects in a bucket of S3, or of what speaks its protocol: one for each request, `PUT` whole.
//!
//! In: a request. Out: what the store says about its object. The name of an object comes from the spans in it and their key alone, so
//! that the same spans are the same object, however often they are sent. Signed by AWS Signature Version 4 with credentials that are
//! read for each request.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::{
    ExportError, Pieces, answer, blocking,
    client::USER_AGENT,
    compress::Compressor,
    connect::{Http, Renewed},
    explain::{no_answer, too_late},
    format::Format,
    retry::{AgainKind, Outcome},
    secrets,
};
use crate::{
    config::{AccessKey, Destination},
    run::{host_name, unix_ns},
};

mod name;
mod sign;
mod verdict;

use self::sign::{Credentials, Scope, hex_sha256};

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

pub(super) struct S3Client {
    client: Renewed<Http>,
    access_key: Option<AccessKey>,
    place: Place,
    format: Format,
    compressor: Compressor,
    headers: HeaderMap,
    timeout: Duration,
}

/// Where objects are.
struct Place {
    /// `https://HOST:PORT`, and the bucket if it is part of the host's name.
    origin: String,
    host: HeaderValue,
    bucket: String,
    /// `/`, and the bucket and a `/` if it is part of the path.
    root: String,
    /// Begin of the names, with a `/` at the end if there is one.
    prefix: String,
    region: String,
    /// Who writes, in names.
    writer: String,
}

/// An object that is to be.
struct Object {
    name: String,
    body: Bytes,
    sha256: String,
}

impl S3Client {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let client = Renewed::of_http(destination)?;
        let format = Format::of(destination);
        let mut headers = secrets::headers(destination)?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        Ok(Self {
            client,
            access_key: destination.auth.as_ref().and_then(|auth| auth.access_key.clone()),
            place: Place::new(destination)?,
            format,
            compressor: Compressor::new(destination.compression, destination.compression_level),
            headers,
            timeout: destination.timeout.0,
        })
    }

    /// Bytes sent on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.client.sent()
    }

    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        let put = tokio::time::timeout(self.timeout, self.put(body, key));
        put.await.unwrap_or_else(|_| too_late(&self.place.origin, self.timeout))
    }

    async fn put(&self, body: Bytes, key: &str) -> Outcome {
        let object = match self.object(body, key).await {
            Ok(object) => object,
            Err(cause) => return Outcome::Never { cause },
        };
        let request = match self.request(object) {
            Ok(request) => request,
            Err(outcome) => return outcome,
        };
        match self.client.get().request(request).await {
            Ok(response) => self.answered(response).await,
            // An object that comes again replaces itself.
            Err(error) => no_answer(&self.place.origin, &error, false),
        }
    }

    /// That takes a while and waits for nothing, so it is not done where others wait.
    async fn object(&self, request: Bytes, key: &str) -> Result<Object, String> {
        let (format, compressor) = (self.format, self.compressor);
        let name = name::of(&self.place.writer, key, &request, name::extension(format, compressor));
        let name = format!("{}{name}", self.place.prefix);
        blocking(move || {
            let mut body = format.encode(&request)?.into_body();
            if format == Format::OtlpJson {
                // A line of a file of lines.
                body = [&body[..], b"\n"].concat().into();
            }
            let body = compressor.compress(body).map_err(|cause| cause.to_string())?;
            let sha256 = hex_sha256(&body);
            Ok::<_, String>(Object { name, body, sha256 })
        })
        .await
    }

    fn request(&self, object: Object) -> Result<Request<Full<Pieces>>, Outcome> {
        let path = format!("{}{}", self.place.root, sign::path(&object.name));
        let failed =
            |cause: String| Outcome::again(AgainKind::Misconfigured, format!("{}: {cause}", self.place.origin));
        let mut headers = self.headers.clone();
        headers.insert(header::HOST, self.place.host.clone());
        headers
            .insert(CONTENT_SHA256, HeaderValue::try_from(&object.sha256).map_err(|cause| failed(cause.to_string()))?);
        if let Some(access_key) = &self.access_key {
            let credentials = Credentials::read(access_key).map_err(|cause| Outcome::again(AgainKind::Auth, cause))?;
            let scope = Scope { region: &self.place.region, unix_s: unix_ns() / 1_000_000_000 };
            sign::sign(&path, &mut headers, &object.sha256, &credentials, scope).map_err(failed)?;
        }
        let mut request = Request::new(Full::new(object.body.into()));
        *request.method_mut() = Method::PUT;
        let uri = format!("{}{path}", self.place.origin).parse();
        *request.uri_mut() = uri.map_err(|cause: http::uri::InvalidUri| failed(cause.to_string()))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn answered(&self, response: Response<Incoming>) -> Outcome {
        let (head, body) = response.into_parts();
        let body = answer::body(body).await.unwrap_or_default();
        verdict::of(&self.place.origin, &self.place.bucket, &head, &body)
    }
}

impl Place {
    fn new(destination: &Destination) -> Result<Self, ExportError> {
        let s3 = destination.s3.clone().unwrap_or_default();
        let bucket = destination.url.host.clone();
        let unusable = |cause: String| ExportError::Url {
            destination: destination.name.clone(),
            url: destination.url.to_string(),
            cause,
        };
        let (origin, root) = match &s3.endpoint {
            Some(endpoint) => (endpoint.trim_end_matches('/').to_owned(), format!("/{bucket}/")),
            None => (format!("https://{bucket}.s3.{}.amazonaws.com", s3.region), "/".to_owned()),
        };
        let uri: http::Uri = origin.parse().map_err(|cause| unusable(format!("{cause}")))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority).map_err(|cause| unusable(cause.to_string()))?;
        let prefix = destination.url.name();
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let writer = host_name().unwrap_or_else(|| "unknown".to_owned());
        Ok(Self { origin, host, bucket, root, prefix, region: s3.region, writer })
    }
}
