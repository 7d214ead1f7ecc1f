//! Answers queries, in the agent.
//!
//! In: requests of `api` over a unix socket, from peers that may ask. Out: live facts, and spans of the log. Started by the run
//! loop. Blocking work (files, decoding) runs on blocking threads. Never writes to the log.
//!
//! Limits: [`SEARCHES_MAX`] searches at a time, [`CHANNEL_SPANS`] spans on the way to each client; a client that does not read
//! holds up only itself.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    server::{Grpc, NamedService},
    transport::{Server, server::UdsConnectInfo},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

pub use super::access::BindError;
use super::{
    access::{self, Access},
    api::{
        CONNECTIONS_PATH, ConnView, ConnectionsRequest, DEAD_LETTERS_PATH, DeadLettersRequest, DestinationStatus,
        GROUPS_PATH, GroupsReport, GroupsRequest, ID_DIGITS_MIN, LATE_SPANS_PATH, LOSSES_PATH, LateSpans, Live,
        LogStatus, Loss, LossesReport, LossesRequest, SELF_PATH, SELF_WINDOW_MS_MAX, SEND_LATE_PATH, SERVICE,
        SETTLE_DEAD_LETTERS_PATH, SPANS_PATH, STATUS_PATH, SelfReport, SelfRequest, SendLateRequest, SettleRequest,
        SpanView, SpansRequest, StatusReport, StatusRequest, TRACE_PATH, TraceRequest, hex,
    },
    dead, groups, late, search,
};
use crate::{
    log::{LateExport, LogError, Reader, SpanLog},
    run::unix_ns,
};

/// Most searches at a time; more wait.
const SEARCHES_MAX: usize = 4;
/// Most requests to send spans late in a status.
const LATE_MAX: usize = 10;
/// Spans on the way to a client.
const CHANNEL_SPANS: usize = 1_024;
/// How long a shutdown waits for clients to read their answers.
const SHUTDOWN_WAIT: Duration = Duration::from_millis(500);

type Answer<T> = Result<Response<T>, Status>;
type SpanSender = mpsc::Sender<Result<SpanView, Status>>;
type SpanStream = ReceiverStream<Result<SpanView, Status>>;

/// The open socket; nothing is answered yet. The file goes when this goes.
#[derive(Debug)]
pub struct QuerySocket {
    listener: Option<UnixListener>,
    access: Access,
    path: PathBuf,
}

/// Serving failed.
#[derive(Debug, thiserror::Error)]
#[error("the query socket {path} failed: {cause}")]
pub struct ServeError {
    path: PathBuf,
    cause: tonic::transport::Error,
}

impl QuerySocket {
    /// Opens the socket, so that a busy path is found out before anything starts. `group`: who may use it besides root and the
    /// agent's user; `None`: the agent's own group. Needs a tokio runtime.
    ///
    /// # Errors
    /// The path is in use, or cannot be used.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Self, BindError> {
        let (listener, access) = access::bind(path, group)?;
        Ok(Self { listener: Some(listener), access, path: path.to_owned() })
    }

    /// Answers until `shutdown`; then ends every stream, and returns within a second.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn serve(
        mut self,
        log: SpanLog,
        live: Arc<dyn Live>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let (close, closing) = watch::channel(false);
        let searches = Arc::new(Semaphore::new(SEARCHES_MAX));
        let query = Query { log, live, access: self.access, closing: closing.clone(), searches };
        let incoming = UnixListenerStream::new(listener);
        let serve = Server::builder().add_service(query).serve_with_incoming_shutdown(incoming, closed(closing));
        tokio::pin!(serve);
        let result = tokio::select! {
            result = &mut serve => result,
            () = shutdown => {
                close.send_replace(true);
                tokio::time::timeout(SHUTDOWN_WAIT, &mut serve).await.unwrap_or(Ok(()))
            }
        };
        result.map_err(|cause| ServeError { path: self.path.clone(), cause })
    }
}

impl Drop for QuerySocket {
    fn drop(&mut self) {
        // The next start replaces what is left behind.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn closed(mut closing: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end too.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// The service: routes a request to its method. Clones are the same service.
#[derive(Clone)]
struct Query {
    log: SpanLog,
    live: Arc<dyn Live>,
    access: Access,
    closing: watch::Receiver<bool>,
    searches: Arc<Semaphore>,
}

impl NamedService for Query {
    const NAME: &'static str = SERVICE;
}

impl Service<http::Request<Body>> for Query {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let query = self.clone();
        Box::pin(async move { Ok(query.route(request).await) })
    }
}

impl Query {
    async fn route(self, request: http::Request<Body>) -> http::Response<Body> {
        if let Err(status) = self.check_peer(&request) {
            return status.into_http();
        }
        match request.uri().path() {
            STATUS_PATH => {
                let method = service_fn(|_: Request<StatusRequest>| {
                    let query = self.clone();
                    async move { blocking(move || Ok(Response::new(query.status()))).await }
                });
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }
            LOSSES_PATH => {
                let method = service_fn(|_: Request<LossesRequest>| {
                    let query = self.clone();
                    async move { blocking(move || Ok(Response::new(LossesReport { losses: query.status().losses }))).await }
                });
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }
            CONNECTIONS_PATH => {
                let method = service_fn(|_: Request<ConnectionsRequest>| {
                    let query = self.clone();
                    async move { query.connections().await }
                });
                Grpc::new(ProstCodec::default()).server_streaming(method, request).await
            }
            DEAD_LETTERS_PATH => {
                let method = service_fn(|request: Request<DeadLettersRequest>| {
                    let letters = self.log.dead_letters().clone();
                    async move { Ok::<_, Status>(dead::list(letters, request.into_inner())) }
                });
                Grpc::new(ProstCodec::default()).server_streaming(method, request).await
            }
            SETTLE_DEAD_LETTERS_PATH => {
                if let Err(status) = self.check_owner(&request) {
                    return status.into_http();
                }
                let method = service_fn(|request: Request<SettleRequest>| {
                    let letters = self.log.dead_letters().clone();
                    async move { blocking(move || dead::settle(&letters, request.into_inner())).await }
                });
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }
            SEND_LATE_PATH => {
                if let Err(status) = self.check_owner(&request) {
                    return status.into_http();
                }
                let method = service_fn(|request: Request<SendLateRequest>| {
                    let query = self.clone();
                    async move {
                        let _permit = query.searches.acquire().await;
                        let (log, live, request) = (query.log.clone(), Arc::clone(&query.live), request.into_inner());
                        blocking(move || late::send(&log, &*live, &request)).await.map(Response::new)
                    }
                });
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }
            LATE_SPANS_PATH => {
                let method = service_fn(|request: Request<LateSpans>| {
                    let query = self.clone();
                    async move { late::spans(query.log.clone(), &*query.live, &request.into_inner()) }
                });
                Grpc::new(ProstCodec::default()).server_streaming(method, request).await
            }
            SELF_PATH => {
                let method = service_fn(|request: Request<SelfRequest>| {
                    let query = self.clone();
                    async move { blocking(move || Ok(Response::new(query.measure(request.into_inner())))).await }
                });
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }
            SPANS_PATH => {
                let method = service_fn(|request: Request<SpansRequest>| {
                    let query = self.clone();
                    async move { query.spans(request.into_inner()) }
                });
                Grpc::new(ProstCodec::default()).server_streaming(method, request).await
            }
            GROUPS_PATH => {
                let method = service_fn(|request: Request<GroupsRequest>| {
                    let query = self.clone();
                    async move { query.groups(request.into_inner()).await.map(Response::new) }
                });
                Grpc::new(ProstCodec::default()).unary(method, request).await
            }
            TRACE_PATH => {
                let method = service_fn(|request: Request<TraceRequest>| {
                    let query = self.clone();
                    async move { query.trace(request.into_inner()).await }
                });
                Grpc::new(ProstCodec::default()).server_streaming(method, request).await
            }
            path => Status::unimplemented(format!("this agent knows no {path}: is the command newer?")).into_http(),
        }
    }

    fn check_peer(&self, request: &http::Request<Body>) -> Result<(), Status> {
        let info = request.extensions().get::<UdsConnectInfo>();
        match info.and_then(|info| info.peer_cred.as_ref()) {
            Some(peer) if self.access.allows(peer) => Ok(()),
            Some(peer) => Err(Status::permission_denied(format!("user {} may not ask", peer.uid()))),
            None => Err(Status::permission_denied("a peer without credentials may not ask")),
        }
    }

    /// The group may look; only who could as well stop the agent may change what becomes of spans.
    fn check_owner(&self, request: &http::Request<Body>) -> Result<(), Status> {
        let info = request.extensions().get::<UdsConnectInfo>();
        match info.and_then(|info| info.peer_cred.as_ref()) {
            Some(peer) if self.access.owns(peer) => Ok(()),
            _ => Err(Status::permission_denied("only root and the agent's own user may send, replay or drop")),
        }
    }

    fn status(&self) -> StatusReport {
        let mut report = self.live.status();
        let stats = self.log.stats();
        for (name, counts) in self.log.destinations() {
            let index = report.destinations.iter().position(|destination| destination.name == name);
            let index = index.unwrap_or_else(|| {
                report.destinations.push(DestinationStatus { name: name.clone(), ..Default::default() });
                report.destinations.len() - 1
            });
            let destination = &mut report.destinations[index];
            destination.queued = counts.queued;
            destination.delivered = counts.delivered;
            destination.dead = counts.dead;
            destination.dropped = counts.dropped;
            destination.filtered = counts.filtered;
            for (reason, count) in [("refused for good", counts.dead), ("dropped before delivery", counts.dropped)] {
                report.losses.push(Loss { source: format!("destination {name}"), reason: reason.to_owned(), count });
            }
        }
        let late = self.log.late(None).unwrap_or_default();
        let ended = late.iter().filter(|late| late.is_done).count();
        let is_shown = |late: &LateExport, index| !late.is_done || index + LATE_MAX >= ended;
        let mut ended_before = 0;
        for late in late {
            let index = ended_before;
            ended_before += usize::from(late.is_done);
            if is_shown(&late, index) {
                report.late.push(late.into());
            }
        }
        let log_losses = [
            ("spans not appended", stats.spans_dropped),
            ("damaged blocks skipped", stats.blocks_damaged),
            ("bytes of a torn tail cut", stats.torn_bytes),
            ("files that are not segments", stats.foreign_files),
        ];
        let loss = |(reason, count): (&str, u64)| Loss { source: "log".to_owned(), reason: reason.to_owned(), count };
        report.losses.extend(log_losses.map(loss));
        report.losses.retain(|loss| loss.count > 0);
        report.log = Some(LogStatus {
            bytes: stats.bytes,
            segments: stats.segments,
            oldest_unix_ns: stats.oldest_unix_ns,
            bytes_max: self.log.bytes_max(),
            spans_appended: stats.spans_appended,
            spans_dropped: stats.spans_dropped,
            blocks_damaged: stats.blocks_damaged,
            torn_bytes: stats.torn_bytes,
            last_error: stats.last_error,
            path: self.log.dir().display().to_string(),
        });
        report
    }

    async fn connections(self) -> Answer<ReceiverStream<Result<ConnView, Status>>> {
        let conns = blocking(move || self.live.connections().map_err(Status::unavailable)).await?;
        Ok(Response::new(streamed(conns)))
    }

    fn measure(&self, request: SelfRequest) -> SelfReport {
        let window_ms = if request.window_ms == 0 { 1_000 } else { request.window_ms.min(SELF_WINDOW_MS_MAX) };
        self.live.measure(Duration::from_millis(window_ms.into()))
    }

    fn spans(self, request: SpansRequest) -> Answer<SpanStream> {
        let (sender, receiver) = mpsc::channel(CHANNEL_SPANS);
        tokio::spawn(async move {
            if let Err(error) = self.send_spans(request, &sender).await {
                // A client that is gone needs no error.
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn groups(self, request: GroupsRequest) -> Result<GroupsReport, Status> {
        request.check().map_err(Status::invalid_argument)?;
        let permit = Arc::clone(&self.searches).acquire_owned().await;
        // Goes with this future, when the client does.
        let asked = Arc::new(());
        let waits = Arc::downgrade(&asked);
        let (log, live) = (self.log.clone(), Arc::clone(&self.live));
        blocking(move || {
            let _permit = permit;
            let until = log.read_new().next_block();
            let is_waiting = || waits.strong_count() > 0;
            let report = groups::groups(&log, &request, until, unix_ns(), is_waiting).map_err(internal)?;
            Ok(GroupsReport { started_unix_ns: live.status().started_unix_ns, ..report })
        })
        .await
    }

    async fn send_spans(self, request: SpansRequest, sender: &SpanSender) -> Result<(), Status> {
        let appended = self.log.appended();
        // What is there is searched up to where following begins, so that no span comes twice and none is missed.
        let follower = self.log.read_new();
        let until = follower.next_block();
        if !(request.follow && request.only_new) {
            let _permit = self.searches.acquire().await;
            let (log, request, sender) = (self.log.clone(), request.clone(), sender.clone());
            blocking(move || send_past(&log, &request, until, &sender).map_err(internal)).await?;
        }
        if request.follow { self.send_new(request, follower, appended, sender).await } else { Ok(()) }
    }

    async fn send_new(
        self,
        request: SpansRequest,
        mut reader: Reader,
        mut appended: watch::Receiver<u64>,
        sender: &SpanSender,
    ) -> Result<(), Status> {
        let closing = closed(self.closing.clone());
        tokio::pin!(closing);
        loop {
            // Seen before reading, so that what is appended while reading is noticed afterwards.
            appended.mark_unchanged();
            let next_request = request.clone();
            let (spans, returned) = blocking(move || {
                let spans = search::next_spans(&mut reader, &next_request, u64::MAX).map_err(internal)?;
                Ok((spans, reader))
            })
            .await?;
            reader = returned;
            let is_idle = spans.is_none();
            for span in spans.into_iter().flatten() {
                tokio::select! {
                    sent = sender.send(Ok(span)) => if sent.is_err() { return Ok(()) },
                    () = &mut closing => return Ok(()),
                }
            }
            if is_idle {
                tokio::select! {
                    changed = appended.changed() => if changed.is_err() { return Ok(()) },
                    () = sender.closed() => return Ok(()),
                    () = &mut closing => return Ok(()),
                }
            }
        }
    }

    async fn trace(self, request: TraceRequest) -> Answer<SpanStream> {
        let id = request.id.trim().to_ascii_lowercase();
        // Of a `traceparent` (version-trace-parent-flags) the trace.
        let prefix = id.strip_prefix("00-").and_then(|rest| rest.split('-').next()).unwrap_or(&id).to_owned();
        if prefix.len() < ID_DIGITS_MIN || !prefix.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            let message = format!("{prefix:?} is no id: give at least {ID_DIGITS_MIN} hexadecimal digits");
            return Err(Status::invalid_argument(message));
        }
        // A search goes on when its client is gone.
        let permit = Arc::clone(&self.searches).acquire_owned().await;
        let log = self.log.clone();
        let search = move || {
            let _permit = permit;
            one_trace(&log, &prefix)
        };
        let spans = blocking(search).await?;
        Ok(Response::new(streamed(spans)))
    }
}

/// A whole answer, as fast as the client takes it.
fn streamed<T: Send + 'static>(items: Vec<T>) -> ReceiverStream<Result<T, Status>> {
    let (sender, receiver) = mpsc::channel(CHANNEL_SPANS);
    tokio::spawn(async move {
        for item in items {
            if sender.send(Ok(item)).await.is_err() {
                break;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// Sends the matching spans that stand before the block `until`.
fn send_past(log: &SpanLog, request: &SpansRequest, until: u64, sender: &SpanSender) -> Result<(), LogError> {
    if request.limit > 0 {
        for span in search::best(log, request, until)? {
            if sender.blocking_send(Ok(span)).is_err() {
                break;
            }
        }
        return Ok(());
    }
    let mut readers = log.segments_newest_first(request.since_unix_ns);
    readers.reverse();
    for mut reader in readers {
        while let Some(spans) = search::next_spans(&mut reader, request, until)? {
            for span in spans {
                if sender.blocking_send(Ok(span)).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Every span of the one trace that the prefix names, by start.
fn one_trace(log: &SpanLog, prefix: &str) -> Result<Vec<SpanView>, Status> {
    let found = search::by_id(log, prefix).map_err(internal)?;
    let mut traces: Vec<String> = found.iter().map(|span| hex(&span.trace_id)).collect();
    traces.sort();
    traces.dedup();
    let mut spans = match traces.as_slice() {
        [] => {
            return Err(Status::not_found(format!(
                "the log has no trace or span {prefix}: `spantap spans` lists them"
            )));
        }
        [trace] if trace.starts_with(prefix) => {
            found.into_iter().filter(|span| hex(&span.trace_id) == *trace).collect()
        }
        [trace] => search::by_id(log, trace).map_err(internal)?,
        many => {
            let shown = many.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
            let message = format!("{prefix} names {} traces, give more digits: {shown}", many.len());
            return Err(Status::failed_precondition(message));
        }
    };
    spans.sort_by_key(|span| (span.start_unix_ns, std::cmp::Reverse(span.duration_ns)));
    Ok(spans)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
}

pub(super) fn internal(error: LogError) -> Status {
    Status::internal(error.to_string())
}
