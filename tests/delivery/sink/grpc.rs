//! The same sink by gRPC: HTTP/2 by hyper, statuses by tonic.
//!
//! What it says is what a server of others would: a status in the trailers, RetryInfo in its details, a stream or a connection that ends
//! in the middle of an answer.

use std::{
    collections::VecDeque,
    io,
    net::TcpStream,
    pin::Pin,
    sync::{Arc, LazyLock, atomic::Ordering::SeqCst},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{runtime::Runtime, sync::Notify, time::sleep};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Behaviour, Shared, reset_at_the_end};

/// Serves the connections of all sinks of gRPC, and TLS.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// How often a connection looks whether its sink is still open.
const LOOK: Duration = Duration::from_millis(20);

/// Serves a connection until its end, or the sink's.
pub(super) fn serve(stream: TcpStream, shared: Arc<Shared>) {
    RUNTIME.spawn(async move {
        reset_at_the_end(&stream).expect("a socket");
        stream.set_nonblocking(true).expect("a socket");
        let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
        let reset = Arc::new(Notify::new());
        let (sink, end) = (Arc::clone(&shared), Arc::clone(&reset));
        let service = service_fn(move |request| answer(request, Arc::clone(&sink), Arc::clone(&end)));
        tokio::select! {
            _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service) => {}
            () = reset.notified() => {}
            () = closed(&shared) => {}
        }
    });
}

async fn closed(shared: &Shared) {
    while shared.is_open.load(SeqCst) {
        sleep(LOOK).await;
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>, reset: Arc<Notify>) -> io::Result<Response<Answer>> {
    let token = request.headers().get("authorization").cloned();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let numbers = shared.note(&body);
    let behaviour = shared.behaviour();
    match &behaviour {
        Behaviour::Refuse { status, .. } => return Ok(plain(*status)),
        Behaviour::Exhausted(after) => {
            let details = after.map_or_else(ErrorDetails::new, |after| ErrorDetails::with_retry_info(Some(after)));
            return Ok(refused(&Status::with_error_details(Code::ResourceExhausted, "quota", details)));
        }
        Behaviour::Poison(poison) if numbers.iter().any(|number| poison.contains(number)) => {
            return Ok(refused(&Status::invalid_argument("poison")));
        }
        Behaviour::Token(expected) if token.is_none_or(|token| token != format!("Bearer {expected}")) => {
            return Ok(refused(&Status::unauthenticated("expired")));
        }
        Behaviour::Hang => {
            while shared.hangs() {
                sleep(LOOK).await;
            }
            return Err(io::ErrorKind::TimedOut.into());
        }
        Behaviour::Break => return Ok(begun(&reset, false)),
        Behaviour::Reset => return Ok(begun(&reset, true)),
        Behaviour::Slow(wait) => sleep(*wait).await,
        Behaviour::Take | Behaviour::Partial(_) | Behaviour::Poison(_) | Behaviour::Token(_) => {}
    }
    // ExportTraceServiceResponse { partial_success: { rejected_spans } }
    let said = if let Behaviour::Partial(rejected) = behaviour { vec![0x0a, 2, 0x08, rejected] } else { vec![] };
    shared.take(numbers);
    Ok(taken(&said))
}

/// An answer that is not gRPC, as a proxy gives it.
fn plain(status: u16) -> Response<Answer> {
    let mut response = Response::new(Answer::default());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn refused(status: &Status) -> Response<Answer> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).expect("a status has headers");
    grpc(Answer { frames: [Frame::trailers(trailers)].into(), end: End::Whole })
}

fn taken(message: &[u8]) -> Response<Answer> {
    // Not compressed, and its length.
    let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))]);
    let frames = [Frame::data([&head, message].concat().into()), Frame::trailers(trailers)];
    grpc(Answer { frames: frames.into(), end: End::Whole })
}

/// The first bytes of an answer, then the end of the stream or of the connection.
fn begun(reset: &Arc<Notify>, whole_connection: bool) -> Response<Answer> {
    let end = if whole_connection { End::Connection(Arc::clone(reset)) } else { End::Stream };
    grpc(Answer { frames: [Frame::data(Bytes::from_static(&[0, 0, 0]))].into(), end })
}

fn grpc(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
    response
}

/// What is answered, and how that ends.
#[derive(Default)]
struct Answer {
    frames: VecDeque<Frame<Bytes>>,
    end: End,
}

#[derive(Default)]
enum End {
    #[default]
    Whole,
    Stream,
    Connection(Arc<Notify>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match std::mem::take(&mut self.end) {
            End::Whole => Poll::Ready(None),
            End::Stream => Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into()))),
            End::Connection(reset) => {
                // When what came before is on its way.
                tokio::spawn(async move {
                    sleep(LOOK).await;
                    reset.notify_one();
                });
                self.end = End::Connection(Arc::default());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && matches!(self.end, End::Whole)
    }
}
