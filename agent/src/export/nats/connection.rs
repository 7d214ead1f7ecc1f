//! A connection to a server of NATS: one request at a time, and its answer.

use http::Uri;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

use super::{
    super::connect::Dial,
    wire::{Answer, Info, Publication, Said, read},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who the agent is. Has a secret: no debug output.
pub(super) enum Login {
    None,
    Password { user: String, password: String },
    Token(String),
}

/// Why there is no answer.
pub(super) enum Failure {
    /// A secret cannot be read.
    Login(String),
    /// The connection cannot be made or broke.
    Broken { place: String, cause: BoxError },
    /// What the server said instead.
    Said { place: String, text: String },
    /// One end speaks TLS, the other does not.
    Tls { place: String, is_wanted: bool },
    /// More than the server takes.
    TooLarge { bytes: usize, limit: usize },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) struct Connection {
    stream: Box<dyn Stream>,
    place: String,
    info: Info,
    /// What was read and not understood yet.
    buffer: Vec<u8>,
    inbox: String,
    requests: u64,
    /// When it was last heard of.
    pub used: Instant,
}

impl Connection {
    /// Connects, by TLS if that is asked for, and says who the agent is.
    pub(super) async fn open(place: &str, dial: Dial, is_tls: bool, login: &Login) -> Result<Self, Failure> {
        let broken = |cause: BoxError| Failure::Broken { place: place.to_owned(), cause };
        let uri: Uri =
            format!("http://{place}").parse().map_err(|cause: http::uri::InvalidUri| broken(cause.into()))?;
        let name = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let stream = dial.way.clone().oneshot(uri).await.map_err(broken)?.into_inner();
        let inbox = format!("_INBOX.{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let (buffer, info) = (Vec::new(), Info::default());
        let (place, used) = (place.to_owned(), Instant::now());
        let mut connection = Self { stream: Box::new(stream), place, info, buffer, inbox, requests: 0, used };
        // A server speaks first, in plain text, of TLS too.
        connection.info = match connection.hear().await? {
            Said::Info(info) => info,
            Said::Error(text) => return Err(connection.said(text)),
            _ => Info::default(),
        };
        let offers = connection.info.tls_required || connection.info.tls_available;
        if is_tls != connection.info.tls_required && !(is_tls && offers) {
            return Err(Failure::Tls { place: connection.place, is_wanted: !is_tls });
        }
        if is_tls {
            connection = connection.secured(&dial, name).await?;
        }
        connection.log_in(is_tls, login).await?;
        Ok(connection)
    }

    async fn secured(self, dial: &Dial, name: String) -> Result<Self, Failure> {
        let Self { stream, place, .. } = self;
        let broken = |cause: BoxError| Failure::Broken { place: place.clone(), cause };
        let name = ServerName::try_from(name).map_err(|cause| broken(cause.into()))?;
        let stream = TlsConnector::from(dial.tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|cause| broken(cause.into()))?;
        Ok(Self { stream: Box::new(stream), place, buffer: Vec::new(), ..self })
    }

    async fn log_in(&mut self, is_tls: bool, login: &Login) -> Result<(), Failure> {
        let mut options = json!({
            "verbose": false, "pedantic": false, "tls_required": is_tls, "name": "spantap", "lang": "rust",
            "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "echo": false, "headers": true, "no_responders": true,
        });
        match login {
            Login::None => {}
            Login::Password { user, password } => {
                options["user"] = user.as_str().into();
                options["pass"] = password.as_str().into();
            }
            Login::Token(token) => options["auth_token"] = token.as_str().into(),
        }
        let inbox = &self.inbox;
        self.say(format!("CONNECT {options}\r\nSUB {inbox}.* 1\r\nPING\r\n").as_bytes()).await?;
        loop {
            match self.hear().await? {
                Said::Pong => return Ok(()),
                Said::Error(text) => return Err(self.said(text)),
                _ => {}
            }
        }
    }

    /// Sends a message and waits for its answer.
    pub(super) async fn request(&mut self, publication: &Publication<'_>) -> Result<Answer, Failure> {
        let (bytes, limit) = (publication.size(), self.info.max_payload);
        if limit > 0 && bytes > limit {
            return Err(Failure::TooLarge { bytes, limit });
        }
        self.requests += 1;
        let reply = format!("{}.{}", self.inbox, self.requests);
        self.say(&publication.bytes(&reply)).await?;
        loop {
            match self.hear().await? {
                Said::Message { subject, answer } if subject == reply => return Ok(answer),
                Said::Info(info) => self.info = info,
                Said::Error(text) => return Err(self.said(text)),
                _ => {}
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let said = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        said.await.map_err(|cause| self.broken(cause.into()))
    }

    /// The next thing that the server says. Whether the agent is there is answered on the way.
    async fn hear(&mut self) -> Result<Said, Failure> {
        loop {
            match read(&self.buffer).map_err(|cause| self.broken(cause.into()))? {
                Some((said, bytes)) => {
                    self.buffer.drain(..bytes);
                    self.used = Instant::now();
                    if said != Said::Ping {
                        return Ok(said);
                    }
                    self.say(b"PONG\r\n").await?;
                }
                None => {
                    let count =
                        self.stream.read_buf(&mut self.buffer).await.map_err(|cause| self.broken(cause.into()))?;
                    if count == 0 {
                        return Err(self.broken("the connection was closed before an answer".into()));
                    }
                }
            }
        }
    }

    fn broken(&self, cause: BoxError) -> Failure {
        Failure::Broken { place: self.place.clone(), cause }
    }

    fn said(&self, text: String) -> Failure {
        Failure::Said { place: self.place.clone(), text }
    }
}
