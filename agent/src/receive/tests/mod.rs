//! Real clients against running receivers; the intake says what the tests want.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use tokio::sync::Semaphore;

use super::{Outcome, Protocol, Receivers};
use crate::{
    config::{Address, Receive, Secret, Tenant},
    intake::{Accepted, Refusal, Take},
};

mod life;
mod limits;
mod over_grpc;
mod over_http;
mod tls;

/// Waits until `holds`, and fails after a time that only a hang exceeds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An intake that answers as scripted, then takes everything, and remembers what came.
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<VecDeque<Result<Accepted, Refusal>>>>,
    taken: Arc<Mutex<Vec<(String, Bytes)>>>,
    /// One permit lets one request through.
    gate: Arc<Semaphore>,
}

impl Script {
    fn new(answers: &[Result<Accepted, Refusal>]) -> Self {
        let answers = Arc::new(Mutex::new(answers.iter().cloned().collect()));
        Self { answers, taken: Arc::default(), gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    /// Holds every request until permits are added.
    fn closed() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), ..Self::new(&[]) }
    }

    /// Tenant and names of the spans of every request so far.
    fn taken(&self) -> Vec<(String, Vec<String>)> {
        let taken = self.taken.lock().unwrap();
        taken.iter().map(|(tenant, request)| (tenant.clone(), names(request))).collect()
    }

    fn bytes(&self) -> Vec<Bytes> {
        self.taken.lock().unwrap().iter().map(|(_, request)| request.clone()).collect()
    }
}

impl Take for Script {
    async fn accept(&self, request: Bytes, tenant: &str) -> Result<Accepted, Refusal> {
        self.taken.lock().unwrap().push((tenant.to_owned(), request));
        self.gate.acquire().await.unwrap().forget();
        self.answers.lock().unwrap().pop_front().unwrap_or(Ok(Accepted::default()))
    }
}

fn request(names: &[&str]) -> ExportTraceServiceRequest {
    let span =
        |name: &&str| Span { name: (*name).to_owned(), trace_id: vec![1; 16], span_id: vec![2; 8], ..Span::default() };
    let scope = ScopeSpans { spans: names.iter().map(span).collect(), ..ScopeSpans::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() }],
    }
}

fn names(request: &Bytes) -> Vec<String> {
    let request = ExportTraceServiceRequest::decode(request.clone()).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
}

/// Receivers with OTLP/gRPC and OTLP/HTTP on free ports of the loopback interface.
struct Running {
    receivers: Receivers,
    script: Script,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Running {
    fn start(script: Script, receive: Receive) -> Self {
        let free = || vec![Address::Tcp(([127, 0, 0, 1], 0).into())];
        let receive = Receive { otlp_grpc: free(), otlp_http: free(), ..receive };
        let receivers = Receivers::start(&receive, script.clone()).unwrap();
        let tcp = |index: usize| match receivers.addresses()[index] {
            Address::Tcp(address) => address,
            Address::Unix(_) => panic!("no TCP address"),
        };
        let (grpc, http) = (tcp(0), tcp(1));
        Self { receivers, script, grpc, http }
    }

    fn with(answers: &[Result<Accepted, Refusal>]) -> Self {
        Self::start(Script::new(answers), Receive::default())
    }

    fn count(&self, protocol: Protocol, outcome: Outcome) -> u64 {
        let counts = self.receivers.stats().counts();
        let of = counts.requests.iter().find(|count| (count.protocol, count.outcome) == (protocol, outcome));
        of.map_or(0, |count| count.requests)
    }
}

/// Tenants `blue` and `red` whose tokens are `blue-token` and `red-token`.
fn with_tenants(folder: &std::path::Path) -> Receive {
    let tenant = |name: &str| {
        let file = folder.join(name);
        std::fs::write(&file, format!("{name}-token\n")).unwrap();
        Tenant { name: name.into(), tokens: vec![Secret::File { file }], quota: None }
    };
    Receive { tenants: vec![tenant("blue"), tenant("red")], ..Receive::default() }
}
