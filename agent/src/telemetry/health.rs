//! Serves `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! In: [`Facts`] of the running agent. Out: short answers to `GET` and `HEAD`. Called by the wiring if an address is
//! configured. Reads no request body, keeps at most [`CONNECTIONS_MAX`] connections, answers nothing else.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{metrics::Snapshot, text as metrics};

/// Connections served at the same time; others wait.
pub const CONNECTIONS_MAX: usize = 16;
/// Time for the headers of a request.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the running agent knows about itself. Called for each request, so it is quick.
pub trait Facts: Send + Sync + 'static {
    /// Every figure now.
    fn snapshot(&self) -> Snapshot;

    /// `Err` with the reason if only a restart helps.
    fn healthy(&self) -> Result<(), String>;

    /// `Err` with the reason if the agent does not trace yet, or no longer.
    fn ready(&self) -> Result<(), String>;
}

/// The address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {cause}; choose another address with --metrics")]
pub struct ServeError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub cause: std::io::Error,
}

/// A bound address, not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let failed = |cause| ServeError { address, cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, facts: Arc<dyn Facts>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(cause) => {
                    // Out of descriptors, mostly; the wait keeps this from becoming a busy loop.
                    tracing::warn!(%cause, "cannot accept a connection to the metrics address");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let facts = Arc::clone(&facts);
            tokio::spawn(async move {
                let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &*facts))));
                // The peer's trouble is not ours.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADERS_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                drop(place);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, facts: &dyn Facts) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    let state = |state: Result<(), String>| match state {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    match request.uri().path() {
        "/metrics" => {
            // Counts in databases and files: may wait for a disk.
            let snapshot = tokio::task::block_in_place(|| facts.snapshot());
            let open = metrics::render(&snapshot);
            let (body, kind) = if asks_for_open_metrics(request) {
                (open, metrics::CONTENT_TYPE)
            } else {
                (metrics::plain(&open), metrics::PLAIN_CONTENT_TYPE)
            };
            let mut response = text(StatusCode::OK, body);
            response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
            response
        }
        "/healthz" => state(facts.healthy()),
        "/readyz" => state(facts.ready()),
        _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n".into()),
    }
}

/// Prometheus and OpenTelemetry's collector do.
fn asks_for_open_metrics(request: &Request<Incoming>) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT);
    accepted.iter().any(|value| value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text")))
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    struct Starting;

    impl Facts for Starting {
        fn snapshot(&self) -> Snapshot {
            Snapshot { spans_generated: 42, ..Snapshot::default() }
        }

        fn healthy(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            Err("hooks are not attached yet".into())
        }
    }

    async fn check(line: &str, status: &str, part: &str) {
        check_with("", line, status, part).await;
    }

    async fn check_with(headers: &str, line: &str, status: &str, part: &str) {
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.address();
        let serving = tokio::spawn(server.serve(Arc::new(Starting)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part), "{line}: {answer}");
        serving.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_path_gives_its_answer() {
        check("GET /metrics", "200", "spantap_spans_generated_total 42\n").await;
        check("GET /metrics", "200", "# TYPE spantap_spans_generated_total counter\n").await;
        check("GET /metrics", "200", "content-type: text/plain; version=0.0.4").await;
        let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
        check_with(accept, "GET /metrics", "200", "content-type: application/openmetrics-text").await;
        check_with(accept, "GET /metrics", "200", "# TYPE spantap_spans_generated counter\n").await;
        check("GET /healthz", "200", "ok\n").await;
        check("GET /readyz", "503", "hooks are not attached yet\n").await;
        check("GET /", "404", "/metrics").await;
        check("POST /metrics", "405", "GET").await;
    }

    #[tokio::test]
    async fn a_busy_address_is_named_with_the_next_step() {
        let first = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let error = Server::bind(first.address()).await.unwrap_err().to_string();
        assert!(error.contains(&first.address().to_string()) && error.contains("--metrics"), "{error}");
    }
}
