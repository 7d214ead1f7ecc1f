//! A destination that is down for an hour, by a clock that the test moves. Intake, log and exporter are the real ones, with real files
//! and sockets; only tokio's clock stands still until it is told to go on.
//!
//! Scale: an hour at 20,000 spans/s would be 72,000,000 spans. Here each block stands for four seconds and has 200 spans, 1 for 400; in
//! the last minute and during the return it is 4,000 spans/s, so that the pace of the return is above its lower bound.

use std::{collections::HashSet, path::Path, sync::mpsc, time::Duration};

use agent_core::relay::{Relay, RelayConfig};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use tokio::{task::spawn_blocking, time::advance};

use super::{
    Exporter, LogSource,
    fakes::{Answer, Fake, destination},
};
use crate::{
    config::{Durability, Export, Interval},
    intake::{Intake, Refusal, Take},
    log::{self, LogConfig, SpanLog},
    run::unix_ns,
};

const HOUR: u64 = 3_600;
const NAME: &str = "GET /orders";
/// Seconds of a block in most of the hour, and its spans.
const STEP: u64 = 4;
const STEP_SPANS: u64 = 200;
/// Spans per second in the last minute and after it.
const RATE: u64 = 4_000;

/// Keeps tokio from moving its clock by itself when nothing is to be done: what waits for a socket or a file is not idle.
struct Clock(#[expect(dead_code, reason = "ends the task when dropped")] mpsc::Sender<()>);

impl Clock {
    fn hold() -> Self {
        let (sender, ended) = mpsc::channel();
        drop(spawn_blocking(move || ended.recv()));
        Self(sender)
    }

    /// Moves it on, and lets what is due then happen for a moment of real time.
    async fn go(&self, seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
        let moment = || std::thread::sleep(Duration::from_millis(2));
        spawn_blocking(moment).await.unwrap();
    }
}

struct Rig {
    clock: Clock,
    log: SpanLog,
    intake: Intake,
    exporter: Exporter,
    fake: Fake,
    /// Spans that were acknowledged, and requests that were not.
    acknowledged: u64,
    refused: Vec<Bytes>,
    next: u64,
    /// Requests that the destination got before it was back; it took none of them.
    in_vain: usize,
}

impl Rig {
    async fn new(folder: &Path, bytes_max: u64) -> Self {
        let clock = Clock::hold();
        let fake = Fake::http(&[], None).await;
        fake.poison(NAME, Answer::Http { status: 503, retry_after: None, body: "" });
        let log = SpanLog::open(folder, LogConfig { bytes_max, ..LogConfig::default() }).unwrap();
        tokio::spawn(log::keep(log.clone()));
        let intake = Intake::new(log.clone(), Relay::new(RelayConfig::default()).unwrap(), Durability::Fsync);
        let to = destination(&format!("otlp+http://{}", fake.address));
        let export = Export { destinations: vec![to], shutdown_timeout: Interval::secs(5), ..Export::default() };
        let exporter = Exporter::start(&export, log.dead_letters(), |to| LogSource::open(&log, to)).unwrap();
        Self { clock, log, intake, exporter, fake, acknowledged: 0, refused: vec![], next: 0, in_vain: 0 }
    }

    /// What a sender does that keeps what is refused.
    async fn send(&mut self, spans: u64) {
        let request = request(self.next..self.next + spans);
        self.next += spans;
        self.refused.push(request);
        self.send_refused().await;
    }

    async fn send_refused(&mut self) {
        while let Some(request) = self.refused.first() {
            match self.intake.accept(request.clone(), "default").await {
                Ok(accepted) => assert_eq!((accepted.rejected, &accepted.message[..]), (0, "")),
                Err(Refusal::Full { retry_after }) => return assert!(!retry_after.is_zero()),
                Err(other) => panic!("not retryable: {other:?}"),
            }
            let request = self.refused.remove(0);
            self.acknowledged += numbers(&request).len() as u64;
        }
    }

    fn delivered(&self) -> u64 {
        self.log.destinations()["backend"].delivered
    }

    async fn hour(&mut self) {
        for _ in 0..(HOUR - 60) / STEP {
            self.send(STEP_SPANS).await;
            self.clock.go(STEP).await;
        }
        for _ in 0..60 {
            self.send(RATE).await;
            self.clock.go(1).await;
        }
        assert_eq!(self.delivered(), 0);
    }

    /// The destination is back; spans go on coming. Gives how many were delivered in each second until the backlog is gone.
    async fn back(&mut self) -> Vec<u64> {
        self.in_vain = self.fake.received().len();
        self.fake.heal();
        let mut seconds = Vec::new();
        for _ in 0..600 {
            let before = self.delivered();
            self.send(RATE).await;
            self.clock.go(1).await;
            self.settled().await;
            seconds.push(self.delivered() - before);
            let is_behind = self.acknowledged - self.delivered() > 2 * RATE;
            if !is_behind && self.refused.is_empty() {
                return seconds;
            }
        }
        panic!("the backlog is still there after ten minutes: {} of {}", self.delivered(), self.acknowledged);
    }

    /// Returns when nothing more is delivered without the clock.
    async fn settled(&self) {
        let mut before = None;
        while before.replace(self.delivered()) != Some(self.delivered()) {
            spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
        }
    }

    /// Ends everything; each acknowledged span must be at the destination.
    async fn check(self) {
        for _ in 0..60 {
            if self.delivered() == self.acknowledged {
                break;
            }
            self.clock.go(1).await;
            self.settled().await;
        }
        let counts = self.log.destinations()["backend"];
        self.exporter.shutdown().await;
        assert_eq!((counts.delivered, counts.dropped, counts.dead), (self.acknowledged, 0, 0));
        assert!(self.in_vain > 100, "{} attempts in an hour", self.in_vain);
        let received = self.fake.received();
        let all: HashSet<u64> = received[self.in_vain..].iter().flat_map(|request| numbers(&request.body)).collect();
        let missing = (0..self.acknowledged).filter(|number| !all.contains(number)).count();
        assert_eq!(missing, 0);
    }
}

fn request(numbers: std::ops::Range<u64>) -> Bytes {
    let now = unix_ns();
    let span = |number: u64| Span {
        trace_id: [7, number].map(u64::to_be_bytes).concat(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        name: NAME.to_owned(),
        start_time_unix_nano: now,
        end_time_unix_nano: now + 1_000_000,
        ..Span::default()
    };
    let scope = ScopeSpans { spans: numbers.map(span).collect(), ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec().into()
}

fn numbers(request: &Bytes) -> Vec<u64> {
    let request = ExportTraceServiceRequest::decode(request.clone()).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let id = |span: Span| u64::from_be_bytes(span.span_id.try_into().unwrap()) - 1;
    scopes.flat_map(|scope| scope.spans).map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_refusals_costs_nothing_and_the_return_is_gentle() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(folder.path(), 1 << 30).await;
    rig.hour().await;
    assert_eq!(rig.acknowledged, (HOUR - 60) / STEP * STEP_SPANS + 60 * RATE, "something was refused");
    let seconds = rig.back().await;
    // At most twice what comes in, over any ten seconds: what was measured of it is smoothed, and a request is sent whole.
    let most = seconds.windows(10).map(|ten| ten.iter().sum::<u64>()).max().unwrap();
    assert!(most <= 2 * 10 * RATE * 11 / 10, "{most} in ten seconds: {seconds:?}");
    let mean = seconds.iter().sum::<u64>() / seconds.len() as u64;
    assert!(mean > RATE * 3 / 2, "slower than it may be: {seconds:?}");
    rig.check().await;
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_senders_wait_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(folder.path(), 8 << 20).await;
    rig.hour().await;
    let stored = rig.acknowledged;
    assert!(!rig.refused.is_empty() && rig.log.stats().bytes <= 8 << 20);
    rig.back().await;
    assert!(rig.acknowledged > stored);
    rig.check().await;
}
