//! gRPC of Node (`@grpc/grpc-js`): every call is one span at each end, with its status and numbers of messages; and how scripts of
//! Node are run.
//!
//! Truth: what the client says of its calls; `node_grpc.js` says what each is.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use serde_json::Value;
use spantap_tests::{
    agent::{AgentOptions, repository},
    http2::grpc_calls as calls,
    process::{Launch, Process, tool},
    span::Span,
    temp::TempDir,
    traced::Traced,
};

use super::count;

const BOUND: Duration = Duration::from_secs(60);
const GRPC: &str = include_str!("node_grpc.js");

/// An agent that loses nothing, however busy the host is: the loads here have no rate.
pub(super) fn traced(label: &str) -> Traced {
    let capture = "  ring_bytes: 64MiB\n".to_owned();
    Traced::with(label, |options| AgentOptions { capture, ..options })
}

/// A script, run by Node with the packages that `cargo xtask test --only servers` installs.
pub(super) fn script(text: &str) -> Launch {
    let packages = repository().join(".cache/npm/node_modules");
    assert!(packages.is_dir(), "{} is not there; `cargo xtask test --only servers` makes it", packages.display());
    Launch::new(tool("node")).env("NODE_PATH", packages).arg("-e").arg(text)
}

struct Server {
    _process: Process,
    _folder: TempDir,
    address: String,
}

impl Server {
    fn start(traced: &Traced) -> Self {
        let folder = TempDir::new("node-grpc");
        let launch = script(GRPC).arg("serve").stdout_piped().stderr_to(&folder.join("stderr"));
        let mut process = traced.place().apply(launch).spawn();
        let mut port = String::new();
        BufReader::new(process.stdout()).read_line(&mut port).expect("port of the gRPC server");
        Self { _process: process, _folder: folder, address: format!("127.0.0.1:{}", port.trim()) }
    }

    /// A call: `<method> <number of the status code> <messages sent> <messages received>`.
    fn call(&self, traced: &Traced, args: &[&str]) -> Vec<String> {
        let launch = script(GRPC).arg(args[0]).arg(&self.address).args(&args[1..]);
        traced.place().apply(launch).run().lines().map(str::to_owned).collect()
    }
}

/// As the client says it.
fn told(span: &Span) -> String {
    let count = |way: &str| span.attribute(&format!("spantap.rpc.{way}.messages")).and_then(Value::as_u64);
    let [sent, got] = ["request", "response"].map(|way| count(way).map_or("?".to_owned(), |count| count.to_string()));
    let method = span.name.strip_prefix("spantap.test.Echo/").unwrap_or(&span.name);
    format!("{method} {} {sent} {got}", span.text("rpc.response.status_code"))
}

/// The spans, once those of all calls are there.
fn wait(traced: &Traced, count: usize) -> Vec<Span> {
    traced.agent.wait_for("spans of all calls", BOUND, |spans| {
        ["client", "server"].iter().all(|kind| calls(spans, kind).len() >= count)
    })
}

#[test]
fn each_kind_of_call_of_node_is_told_as_it_was() {
    let traced = traced("node-grpc");
    let server = Server::start(&traced);
    let own = server.call(&traced, &["each"]);
    assert_eq!(own.len(), 11, "{own:?}");
    let spans = wait(&traced, own.len());
    for kind in ["client", "server"] {
        let seen = calls(&spans, kind);
        let all: Vec<String> = seen.iter().map(|span| told(span)).collect();
        assert_eq!(all[..10], own[..10], "{kind}: {seen:#?}");
        for (span, told) in seen.iter().zip(&all).take(10) {
            let code = told.split(' ').nth(1).unwrap_or_default();
            let servers_fault = ["INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNIMPLEMENTED"].contains(&code);
            let error = code != "OK" && (kind == "client" || servers_fault);
            assert_eq!(span.status, if error { "error" } else { "ok" }, "{kind} {told}: {span:#?}");
            assert_eq!(span.text("error.type"), if error { code } else { "" }, "{kind} {told}: {span:#?}");
        }
        // The deadline passed. Either end may tell the other first.
        let late = seen[10];
        assert_eq!((late.name.as_str(), late.status.as_str()), ("spantap.test.Echo/Slow", "error"), "{late:#?}");
        assert!(["CANCEL", "DEADLINE_EXCEEDED"].contains(&late.text("error.type")), "{late:#?}");
        assert_eq!(seen.len(), own.len(), "{kind}: {seen:#?}");
    }
}

/// Twenty calls at a time on each of so many connections: as many spans at each end as the client says, and nothing else.
fn many(label: &str, connections: usize, each: usize) {
    let traced = traced(label);
    let server = Server::start(&traced);
    let own = server.call(&traced, &["many", &connections.to_string(), &each.to_string()]);
    assert_eq!(own.len(), connections * each);
    let spans = wait(&traced, own.len());
    let truth = count(own);
    for kind in ["client", "server"] {
        let seen = count(calls(&spans, kind).into_iter().map(told));
        assert_eq!(seen, truth, "{kind} spans; losses: {:?}", traced.agent.losses());
    }
}

#[test]
fn many_calls_of_node_on_one_connection_are_told_apart() {
    many("node-grpc-many", 1, 300);
}

#[test]
fn fifty_connections_of_node_are_told_apart() {
    many("node-grpc-fifty", 50, 20);
}
