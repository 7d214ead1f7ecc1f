//! Messages of a NATS JetStream stream: a request is one, delivered when the server has acknowledged that it is stored.
//!
//! In: a request. Out: what the server says about it. The message id (`Nats-Msg-Id`) is the same for the same spans, so that the server
//! drops what comes twice within the stream's window (`duplicate_window`). Connections are made when they are needed, one for each
//! request on its way, with the certificates and credentials of that time.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::{
    ExportError,
    auth::Auth,
    client::IDEMPOTENCY_KEY,
    compress::Compressor,
    connect::{Dial, Renewed, Target},
    format::Format,
    retry::{AgainKind, Outcome},
    secrets,
};
use crate::{
    capture::lock,
    config::{Basic, Destination},
};

mod connection;
mod verdict;
mod wire;

#[cfg(test)]
mod tests;

use self::{
    connection::{Connection, Failure, Login},
    verdict::of_failure,
    wire::Publication,
};

/// By what JetStream knows a message that comes twice.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Longest that a connection is kept without use: servers ask after those that are silent for minutes, and nobody would answer.
const IDLE: Duration = Duration::from_secs(30);

pub(super) struct NatsClient {
    dial: Renewed<Dial>,
    auth: Auth,
    basic: Option<Basic>,
    is_tls: bool,
    places: Vec<String>,
    /// The URL, for messages.
    url: String,
    subject: String,
    format: Format,
    compressor: Compressor,
    /// Names and values of every message.
    headers: Vec<(String, String)>,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl NatsClient {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let url = &destination.url;
        let format = Format::of(destination);
        let compressor = Compressor::new(destination.compression, destination.compression_level);
        Ok(Self {
            dial: Renewed::of_dial(Target::new(destination, ""))?,
            auth: Auth::new(destination)?,
            basic: destination.auth.as_ref().and_then(|auth| auth.basic.clone()),
            is_tls: url.tls,
            places: url.places(),
            url: url.to_string(),
            subject: url.name().to_owned(),
            format,
            compressor,
            headers: headers(&secrets::headers(destination)?, format, compressor),
            timeout: destination.timeout.0,
            idle: Mutex::default(),
        })
    }

    /// Bytes sent on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.dial.sent()
    }

    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        let sent = self.auth.attempt(|authorization| self.publish(body.clone(), key, authorization));
        tokio::time::timeout(self.timeout, sent).await.unwrap_or_else(|_| {
            let (url, timeout) = (&self.url, self.timeout);
            let cause = format!(
                "no acknowledgement from {url} within {timeout:?}; if that stays, no stream stores the subject"
            );
            Outcome::again(AgainKind::Timeout, cause)
        })
    }

    async fn publish(&self, body: Bytes, key: &str, authorization: Option<HeaderValue>) -> Outcome {
        // Other spans may come under the same key: numbers of blocks begin anew when the log was lost, and filters change.
        let id = format!("{key}#{:08x}", crc32fast::hash(&body));
        let payload = match self.format.prepare(&body.clone().into(), self.compressor).await {
            Ok(posts) => posts.into_body(),
            Err(cause) => return Outcome::Never { cause },
        };
        let mut headers = self.headers.clone();
        headers.extend([MESSAGE_ID, IDEMPOTENCY_KEY].map(|name| (name.to_owned(), id.clone())));
        let publication = Publication { subject: &self.subject, headers: &headers, payload: &payload };
        self.request(&publication, authorization.as_ref())
            .await
            .unwrap_or_else(|failure| of_failure(&self.url, failure))
    }

    async fn request(
        &self,
        publication: &Publication<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Outcome, Failure> {
        if let Some(connection) = self.kept() {
            match self.request_on(connection, publication).await {
                // It may have ended unnoticed. That the message may have arrived does not matter: it has an id.
                Err(Failure::Broken { .. }) => {}
                other => return other,
            }
        }
        let connection = self.connect(authorization).await?;
        self.request_on(connection, publication).await
    }

    /// The connection is kept unless something is wrong with it, or whoever waits gives up.
    async fn request_on(&self, mut connection: Connection, publication: &Publication<'_>) -> Result<Outcome, Failure> {
        let answer = connection.request(publication).await?;
        lock(&self.idle).push(connection);
        Ok(verdict::of_answer(&self.url, &answer))
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        idle.retain(|connection| connection.used.elapsed() < IDLE);
        idle.pop()
    }

    async fn connect(&self, authorization: Option<&HeaderValue>) -> Result<Connection, Failure> {
        let login = self.login(authorization).map_err(Failure::Login)?;
        let mut first = None;
        for place in &self.places {
            match Connection::open(place, self.dial.get(), self.is_tls, &login).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => _ = first.get_or_insert(failure),
            }
        }
        // There is a place in every URL.
        Err(first.unwrap_or(Failure::Login("no server is known".to_owned())))
    }

    fn login(&self, authorization: Option<&HeaderValue>) -> Result<Login, String> {
        if let Some(basic) = &self.basic {
            return Ok(Login::Password { user: basic.username.clone(), password: secrets::read(&basic.password)? });
        }
        let Some(authorization) = authorization else { return Ok(Login::None) };
        Ok(Login::Token(secrets::token(authorization)?))
    }
}

/// The headers of every message.
fn headers(configured: &HeaderMap, format: Format, compressor: Compressor) -> Vec<(String, String)> {
    let pairs = configured.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let encoding = compressor.content_encoding().map(|encoding| ("content-encoding", encoding));
    let own = [("content-type", format.content_type())].into_iter().chain(encoding);
    pairs.chain(own).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
