//! Real servers and clients of other protocols than HTTP/1: as many spans as the server itself counted, named as it names them.
//!
//! Truth: `INFO commandstats` of Redis.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use spantap_tests::{
    agent::AgentOptions,
    clock,
    http::Place,
    process::{Launch, Process, tool},
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

pub(super) const BOUND: Duration = Duration::from_secs(30);
pub(super) const SPANS_WITHIN: Duration = Duration::from_secs(20);

/// An agent that loses nothing, however busy the host is: the loads here have no rate.
pub(super) fn traced(label: &str) -> Traced {
    let capture = "  ring_bytes: 64MiB".to_owned();
    Traced::with(label, |options| AgentOptions { capture, ..options })
}

/// Starts a server on a port of loopback, and waits until it listens.
pub(super) fn serve(place: Place, port: u16, launch: Launch) -> Process {
    let process = place.apply(launch).spawn();
    clock::wait_for("the server listens", BOUND, || TcpStream::connect(("127.0.0.1", port)).ok());
    process
}

/// What a server answers on a connection of its own, until `until` comes.
pub(super) fn ask(port: u16, question: &str, until: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(BOUND)).expect("set a timeout");
    stream.write_all(question.as_bytes()).expect("ask");
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    while !answer.contains(until) {
        let length = stream.read(&mut buffer).expect("an answer");
        assert!(length > 0, "it closed after: {answer}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    answer
}

/// Numbers of spans by kind and name.
pub(super) type Counts = BTreeMap<(String, String), usize>;

/// Waits until at least as many spans of these names are there as are expected and no more come, and counts all of the protocol.
/// Those of these names must have gone well.
pub(super) fn counted(traced: &Traced, protocol: &str, names: &[&str], least: usize) -> Counts {
    let named = |span: &Span| names.contains(&span.name.as_str());
    let of = |spans: &[Span]| spans.iter().filter(|span| span.protocol == protocol && named(span)).count();
    let spans = traced.agent.wait_for(protocol, SPANS_WITHIN, |spans| of(spans) >= least);
    let mut counts = Counts::new();
    for span in spans.iter().filter(|span| span.protocol == protocol) {
        assert!(span.status == "ok" || !named(span), "{span:#?}");
        *counts.entry((span.kind.clone(), span.name.clone())).or_insert(0) += 1;
    }
    counts
}

/// Both ends have so many spans of this name.
pub(super) fn assert_both_ends(counts: &Counts, name: &str, truth: usize, traced: &Traced) {
    for kind in ["client", "server"] {
        assert_count(counts, kind, name, truth, traced);
    }
}

/// So many spans of this kind and name.
pub(super) fn assert_count(counts: &Counts, kind: &str, name: &str, truth: usize, traced: &Traced) {
    let found = counts.get(&(kind.to_owned(), name.to_owned())).copied().unwrap_or(0);
    assert_eq!(found, truth, "{kind} spans `{name}`; all: {counts:?}; lost: {:?}", traced.agent.losses());
}

/// `cmdstat_get:calls=3,…`
fn redis_calls(port: u16, command: &str) -> usize {
    let info = ask(port, "INFO commandstats\r\n", "\r\n\r\n");
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or_else(|| panic!("no {command} in {info}"))
}

fn redis(args: &[&str]) {
    let traced = traced("redis");
    let (port, folder) = (free_port(), TempDir::new("redis"));
    let launch = Launch::new(tool("redis-server")).args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    let launch = launch.args(["--save", "", "--dir"]).arg(folder.path()).stdout_to(&folder.join("log"));
    let _server = serve(traced.place(), port, launch);
    let client = Launch::new(tool("redis-benchmark")).args(["-p", &port.to_string(), "-t", "set,get", "-q"]).args(args);
    traced.place().apply(client).run();
    let (set, get) = (redis_calls(port, "set"), redis_calls(port, "get"));
    let counts = counted(&traced, "redis", &["SET", "GET"], 2 * (set + get));
    assert_both_ends(&counts, "SET", set, &traced);
    assert_both_ends(&counts, "GET", get, &traced);
}

#[test]
fn redis_with_one_client_counts_the_same_commands() {
    redis(&["-c", "1", "-n", "500"]);
}

#[test]
fn redis_with_fifty_clients_counts_the_same_commands() {
    redis(&["-c", "50", "-n", "3000"]);
}

#[test]
fn redis_with_pipelines_counts_the_same_commands() {
    redis(&["-c", "4", "-n", "3200", "-P", "16"]);
}
