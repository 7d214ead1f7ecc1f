//! Connections: accepted, secured, served, and ended in an orderly way.
//!
//! Limits: as many connections at a time as configured, others wait in the kernel; handshakes and headers within the configured time;
//! silent connections are closed; windows and headers of HTTP/2 are bounded, so that what a connection may make us keep is known.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    answer::AnswerBody,
    front::{Front, Peer},
    grpc, http as otlp_http,
    listen::{Listener, Stream, Takes},
};
use crate::intake::Take;

/// What HTTP/2 lets a sender send of one request, and of all of a connection, before it is read.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const STREAMS_MAX: u32 = 128;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Smallest that hyper takes is 8 KiB; heads that are longer are refused (431).
const HTTP1_BUFFER_BYTES_MAX: usize = 128 << 10;
/// While nothing comes, so that a peer that vanished is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a listener until it is told to stop, and then its connections until they are done.
pub(super) async fn serve<T: Take>(
    listener: Listener,
    front: Arc<Front<T>>,
    places: Arc<Semaphore>,
    mut stopping: watch::Receiver<bool>,
) {
    let builder = Arc::new(builder(&front));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(cause) => {
                // Out of descriptors, mostly; the wait keeps this from becoming a busy loop.
                tracing::warn!(%cause, address = %listener.address, "cannot accept a connection");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        // After accepting, so that a listener without senders keeps no place from another one.
        let place = tokio::select! {
            () = stopped(&mut stopping) => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let connection = Connection {
            front: Arc::clone(&front),
            builder: Arc::clone(&builder),
            takes: listener.takes,
            stopping: stopping.clone(),
        };
        let tls = listener.tls.as_ref().map(|tls| TlsAcceptor::from(tls.current()));
        connections.spawn(async move {
            let _connected = connection.front.stats.connected();
            connection.run(stream, tls).await;
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn builder<T: Take>(front: &Front<T>) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Also runs between requests.
        .header_read_timeout(front.idle_timeout)
        .max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

struct Connection<T> {
    front: Arc<Front<T>>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    takes: Takes,
    stopping: watch::Receiver<bool>,
}

impl<T: Take> Connection<T> {
    async fn run(self, stream: Stream, tls: Option<TlsAcceptor>) {
        match (stream, tls) {
            (Stream::Unix(stream), _) => self.converse(stream, Peer(None)).await,
            (Stream::Tcp(stream, peer), None) => self.converse(stream, Peer(Some(peer))).await,
            (Stream::Tcp(stream, peer), Some(tls)) => match timeout(self.front.timeout, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.converse(stream, Peer(Some(peer))).await,
                failed => {
                    self.front.stats.count_tls_failure();
                    tracing::debug!(cause = ?failed.map(|result| result.err()), %peer, "a TLS handshake failed");
                }
            },
        }
    }

    /// Answers requests until the sender is done, too long silent, or the receivers stop.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, peer: Peer) {
        let Self { front, builder, takes, mut stopping } = self;
        let activity = Arc::new(Activity::default());
        let (limit, idle_limit) = (front.timeout, front.idle_timeout);
        let service = {
            let activity = Arc::clone(&activity);
            service_fn(move |request| {
                let (front, busy) = (Arc::clone(&front), activity.begin());
                async move {
                    let response = answer(&front, takes, peer, request).await;
                    drop(busy);
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        // The first request has to begin in time.
        let mut look_at = Instant::now() + limit;
        let mut seen = 0;
        loop {
            tokio::select! {
                // The peer's trouble is not ours.
                _ = serving.as_mut() => return,
                () = stopped(&mut stopping) => break,
                () = sleep_until(look_at) => {
                    if activity.is_silent_since(seen) {
                        break;
                    }
                    seen = activity.begun.load(Relaxed);
                    look_at = Instant::now() + idle_limit;
                }
            }
        }
        serving.as_mut().graceful_shutdown();
        // A peer that has nothing under way and does not close either is closed by us.
        loop {
            tokio::select! {
                _ = serving.as_mut() => return,
                () = sleep(limit) => if activity.is_idle() { return },
            }
        }
    }
}

async fn answer<T: Take>(
    front: &Front<T>,
    takes: Takes,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    match grpc::is_grpc(request.headers()) {
        true if takes.grpc => grpc::answer(front, peer, request).await,
        false if !takes.http => otlp_http::only_grpc(front, peer).await,
        _ => otlp_http::answer(front, peer, request).await,
    }
}

/// Requests of one connection.
#[derive(Debug, Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request that is being answered.
struct Busy(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    fn is_idle(&self) -> bool {
        self.begun.load(Relaxed) == self.ended.load(Relaxed)
    }

    /// Whether nothing is under way and nothing began since `seen` requests had begun.
    fn is_silent_since(&self, seen: u64) -> bool {
        self.is_idle() && self.begun.load(Relaxed) == seen
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}
