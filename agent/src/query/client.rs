//! What the commands use to ask the agent.
//!
//! In: the socket's path and a request. Out: messages of `api`. Called by `commands`. Never prints; its errors say which socket was
//! tried and what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::api::{
    CONNECTIONS_PATH, ConnView, ConnectionsRequest, DEAD_LETTERS_PATH, DeadLettersRequest, GROUPS_PATH, GroupsReport,
    GroupsRequest, LATE_SPANS_PATH, LOSSES_PATH, LateSpans, LetterView, LossesReport, LossesRequest, SELF_PATH,
    SEND_LATE_PATH, SETTLE_DEAD_LETTERS_PATH, SPANS_PATH, STATUS_PATH, SelfReport, SelfRequest, SendLateReport,
    SendLateRequest, SettleReport, SettleRequest, SpanBytes, SpanView, SpansRequest, StatusReport, StatusRequest,
    TRACE_PATH, TraceRequest,
};

/// Largest answer that is accepted. A dead letter is as large as the request that was refused: at least a block of the log, else what
/// `batch.bytes` allows; its database keeps none of more than a thousand million bytes.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Why the agent did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens on the socket.
    #[error(
        "no agent answers on {path} ({cause})\n  start one with `spantap run`, or name its socket with --socket PATH (or SPANTAP_SOCKET)\n  \
         to read the log of one that is stopped: `spantap run --no-capture --data-dir DIR --socket PATH`"
    )]
    NotRunning {
        /// The socket that was tried.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// This user may not use it.
    #[error(
        "not allowed to use {path} ({cause})\n  run as root, or as a member of the socket's group: `ls -l {path}` names it"
    )]
    NotAllowed {
        /// The socket that was tried.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// The agent ended, or was killed, while it was asked.
    #[error("the agent on {path} ended before it had answered\n  `spantap status` tells whether it runs again")]
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// The agent refused.
    #[error("the agent on {path} says: {message}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// In the agent's words.
        message: String,
    },
}

/// A connection to the agent.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    channel: Channel,
}

impl Client {
    /// Connects to the agent's socket.
    ///
    /// # Errors
    /// No agent listens there, or this user may not use it.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(|cause| connect_error(path, cause))?;
        // The transport asks for a connection once; if the agent goes away, the command ends and is run again.
        let mut stream = Some(stream);
        let connector = tower::service_fn(move |_| {
            let stream = stream.take().map(TokioIo::new);
            async move { stream.ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionAborted, "the agent hung up")) }
        });
        // The address is not used: the connector ignores it.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|_| ClientError::Gone { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), channel })
    }

    /// The agent's state.
    ///
    /// # Errors
    /// The agent refused or broke off; likewise for the other methods.
    pub async fn status(&mut self) -> Result<StatusReport, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(STATUS_PATH);
        let answer = grpc.unary(Request::new(StatusRequest {}), path, ProstCodec::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Every counted loss.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn losses(&mut self) -> Result<LossesReport, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(LOSSES_PATH);
        let answer = grpc.unary(Request::new(LossesRequest {}), path, ProstCodec::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// The connections that are known now, and the last that closed.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn connections(&mut self) -> Result<Vec<ConnView>, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(CONNECTIONS_PATH);
        let answer = grpc.server_streaming(Request::new(ConnectionsRequest {}), path, ProstCodec::default()).await;
        let mut stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        let mut all = Vec::new();
        while let Some(conn) = stream.message().await.map_err(|status| self.refused(&status))? {
            all.push(conn);
        }
        Ok(all)
    }

    /// What the agent costs, measured for `window_ms`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn measure(&mut self, window_ms: u32) -> Result<SelfReport, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(SELF_PATH);
        let answer = grpc.unary(Request::new(SelfRequest { window_ms }), path, ProstCodec::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Spans that match.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn spans(&mut self, request: SpansRequest) -> Result<Spans, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(SPANS_PATH);
        let answer = grpc.server_streaming(Request::new(request), path, ProstCodec::default()).await;
        let stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        Ok(Spans { path: self.path.clone(), stream })
    }

    /// Groups of the spans that match.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn groups(&mut self, request: GroupsRequest) -> Result<GroupsReport, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(GROUPS_PATH);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Every span of the trace that an id names, in the order of their starts.
    ///
    /// # Errors
    /// See [`Client::status`]; no span or more than one trace has the id.
    pub async fn trace(&mut self, id: &str) -> Result<Vec<SpanView>, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(TRACE_PATH);
        let request = Request::new(TraceRequest { id: id.to_owned() });
        let answer = grpc.server_streaming(request, path, ProstCodec::default()).await;
        let stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        Spans { path: self.path.clone(), stream }.all().await
    }

    /// Gives each dead letter to `each`, oldest first; its error ends it.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn dead_letters(
        &mut self,
        request: DeadLettersRequest,
        mut each: impl FnMut(LetterView) -> io::Result<()>,
    ) -> Result<io::Result<()>, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(DEAD_LETTERS_PATH);
        let answer = grpc.server_streaming(Request::new(request), path, ProstCodec::default()).await;
        let mut stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        while let Some(letter) = stream.message().await.map_err(|status| self.refused(&status))? {
            if let Err(error) = each(letter) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Replays or drops dead letters.
    ///
    /// # Errors
    /// See [`Client::status`]; this user may not.
    pub async fn settle_dead_letters(&mut self, request: SettleRequest) -> Result<SettleReport, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(SETTLE_DEAD_LETTERS_PATH);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Has spans sent that a destination did not get.
    ///
    /// # Errors
    /// See [`Client::status`]; this user may not, or there is no such destination.
    pub async fn send_late(&mut self, request: SendLateRequest) -> Result<SendLateReport, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(SEND_LATE_PATH);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        Ok(answer.map_err(|status| self.refused(&status))?.into_inner())
    }

    /// Gives the spans that no destination got to `each`, block by block; its error ends it.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn late_spans(
        &mut self,
        request: LateSpans,
        mut each: impl FnMut(SpanBytes) -> io::Result<()>,
    ) -> Result<io::Result<()>, ClientError> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(LATE_SPANS_PATH);
        let answer = grpc.server_streaming(Request::new(request), path, ProstCodec::default()).await;
        let mut stream = answer.map_err(|status| self.refused(&status))?.into_inner();
        while let Some(spans) = stream.message().await.map_err(|status| self.refused(&status))? {
            if let Err(error) = each(spans) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn ready(&self) -> Result<Grpc<Channel>, ClientError> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|_| ClientError::Gone { path: self.path.clone() })?;
        Ok(grpc)
    }

    fn refused(&self, status: &Status) -> ClientError {
        refused(&self.path, status)
    }
}

/// Spans as they arrive.
#[derive(Debug)]
pub struct Spans {
    path: PathBuf,
    stream: Streaming<SpanView>,
}

impl Spans {
    /// The next span; `None`: that was all.
    ///
    /// # Errors
    /// The agent broke off.
    pub async fn next(&mut self) -> Result<Option<SpanView>, ClientError> {
        self.stream.message().await.map_err(|status| refused(&self.path, &status))
    }

    /// All of them.
    ///
    /// # Errors
    /// The agent broke off.
    pub async fn all(mut self) -> Result<Vec<SpanView>, ClientError> {
        let mut all = Vec::new();
        while let Some(span) = self.next().await? {
            all.push(span);
        }
        Ok(all)
    }
}

fn connect_error(path: &Path, cause: io::Error) -> ClientError {
    let path = path.to_owned();
    match cause.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path, cause },
        _ => ClientError::NotRunning { path, cause },
    }
}

fn refused(path: &Path, status: &Status) -> ClientError {
    let path = path.to_owned();
    // What the agent says has no cause on this side.
    match std::error::Error::source(status) {
        Some(_) => ClientError::Gone { path },
        None => ClientError::Refused { path, message: status.message().to_owned() },
    }
}
