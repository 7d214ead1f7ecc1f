//! Kafka: as many spans as librdkafka itself counted requests, and as there were messages, named at both ends.
//!
//! Truth: librdkafka's statistics; the errors that it got.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    time::Duration,
};

use spantap_tests::{
    agent::AgentOptions,
    process::{Launch, Process},
    python,
    span::Span,
    traced::Traced,
};

const SPANS_WITHIN: Duration = Duration::from_secs(30);

/// An agent that loses nothing, however busy the host is: the loads here have no rate.
fn traced(label: &str) -> Traced {
    let capture = "  ring_bytes: 64MiB\n".to_owned();
    Traced::with(label, |options| AgentOptions { capture, ..options })
}

fn kafka_load(args: &[&str]) -> Launch {
    python::script(include_str!("../support/kafka_load.py")).args(args)
}

/// What a load printed: numbers by name.
fn numbers(said: &str) -> BTreeMap<String, usize> {
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("not numbers: {error}\n{said}"))
}

/// Spans of a protocol by kind and name.
struct Seen(Vec<Span>);

impl Seen {
    fn wait(traced: &Traced, protocol: &str, enough: impl Fn(&Self) -> bool) -> Self {
        let of = |spans: &[Span]| Self(spans.iter().filter(|span| span.protocol == protocol).cloned().collect());
        Self(of(&traced.agent.wait_for(protocol, SPANS_WITHIN, |spans| enough(&of(spans)))).0)
    }

    fn all(&self, kind: &str, name: &str) -> Vec<&Span> {
        self.0.iter().filter(|span| span.kind == kind && span.name == name).collect()
    }

    fn count(&self, kind: &str, name: &str) -> usize {
        self.all(kind, name).len()
    }

    /// How many there are of each kind and name, for messages.
    fn summary(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for span in &self.0 {
            *counts.entry(format!("{} {} {}", span.kind, span.name, span.status)).or_insert(0) += 1;
        }
        counts
    }
}

fn number(span: &Span, attribute: &str) -> u64 {
    span.attribute(attribute).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{attribute}: {span:#?}"))
}

/// librdkafka's broker, in a process of its own, and its address.
fn kafka_broker(traced: &Traced) -> (Process, String) {
    let mut process = traced.place().apply(kafka_load(&["broker"])).stdout_piped().spawn();
    let mut address = String::new();
    BufReader::new(process.stdout()).read_line(&mut address).expect("the broker's address");
    (process, address.trim().to_owned())
}

fn kafka(clients: usize, messages: usize) {
    let traced = traced("kafka");
    let (_broker, address) = kafka_broker(&traced);
    let load = |args: &[&str]| numbers(&traced.place().apply(kafka_load(args)).run());
    let produced = load(&["produce", &address, &clients.to_string(), &messages.to_string()])["Produce"];
    assert_eq!(produced, clients * messages, "each message is a request of its own");
    let fetched = load(&["consume", &address, &produced.to_string()])["Fetch"];

    let seen = Seen::wait(&traced, "kafka", |seen| {
        seen.count("producer", "send orders") >= produced && seen.count("consumer", "poll") >= fetched
    });
    let lost = traced.agent.losses();
    let all = seen.summary();
    // The broker's end is a server's whoever asks. A fetch names its topic by an id only.
    for (kind, name, truth) in [
        ("producer", "send orders", produced),
        ("server", "send orders", produced),
        ("consumer", "poll", fetched),
        ("server", "poll", fetched),
    ] {
        let spans = seen.all(kind, name);
        assert_eq!(spans.len(), truth, "{kind} spans `{name}`; all: {all:?}; lost: {lost:?}");
        assert!(spans.iter().all(|span| span.status == "ok"), "{all:?}");
    }
    let count =
        |kind, name| seen.all(kind, name).iter().map(|span| number(span, "messaging.batch.message_count")).sum::<u64>();
    assert_eq!(count("producer", "send orders"), produced as u64);
    assert!(count("consumer", "poll") >= produced as u64, "every message came at least once");
    // The first message of each client carries the same trace.
    let carried = |kind| {
        let sent = seen.all(kind, "send orders").into_iter();
        sent.filter(|span| span.trace_id == "0af7651916cd43dd8448eb211c80319c").count()
    };
    assert_eq!((carried("producer"), carried("server")), (clients, clients), "{all:?}");
}

#[test]
fn kafka_with_one_client_counts_the_same_requests() {
    kafka(1, 200);
}

#[test]
fn kafka_with_fifty_clients_counts_the_same_requests() {
    kafka(50, 20);
}

#[test]
fn what_kafka_refuses_has_its_error() {
    let traced = traced("kafka-error");
    let (_broker, address) = kafka_broker(&traced);
    let place = traced.place();
    place.apply(kafka_load(&["produce", &address, "1", "1"])).run();
    place.apply(kafka_load(&["beyond", &address])).run();
    let refused = |seen: &Seen| {
        let fetches = seen.0.iter().filter(|span| span.kind == "consumer" && span.status == "error");
        fetches.filter_map(|span| span.attribute("error.type")?.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let seen = Seen::wait(&traced, "kafka", |seen| !refused(seen).is_empty());
    assert_eq!(refused(&seen), ["OFFSET_OUT_OF_RANGE"], "{:?}", seen.summary());
}
