//! Spans arrive in Arize Phoenix and are read back over its REST API, in the trace that `traceparent` names.
//!
//! In: `.cache/phoenix/bin/phoenix`. Out: exit status 0 and one line, or a panic that says what differs. A program and
//! not a test, since Phoenix takes half a minute to start and a gigabyte to install; runs outside CI.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use spantap_tests::{
    agent::repository,
    clock,
    process::{Launch, Process, require_root, tool},
    span::{Span, only},
    temp::{TempDir, free_port},
    tools::{PythonServer, curl},
    traced::Traced,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const START_BOUND: Duration = Duration::from_secs(180);
const BOUND: Duration = Duration::from_secs(30);

struct Phoenix {
    process: Process,
    folder: TempDir,
    port: u16,
    grpc_port: u16,
}

impl Phoenix {
    fn start() -> Self {
        let (folder, port, grpc_port) = (TempDir::new("phoenix"), free_port(), free_port());
        let process = Launch::new(program())
            .arg("serve")
            .env("PHOENIX_HOST", "127.0.0.1")
            .env("PHOENIX_PORT", port.to_string())
            .env("PHOENIX_GRPC_PORT", grpc_port.to_string())
            .env("PHOENIX_WORKING_DIR", folder.path())
            .stdout_to(&folder.join("stdout"))
            .stderr_to(&folder.join("stderr"))
            .spawn();
        let mut phoenix = Self { process, folder, port, grpc_port };
        clock::wait_for("Phoenix answers", START_BOUND, || {
            let ended = phoenix.process.ended();
            assert!(ended.is_none(), "Phoenix ended with {ended:?}:\n{}", phoenix.messages());
            phoenix.get("/healthz").map(|_| ())
        });
        phoenix
    }

    fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let output = Launch::new(tool("curl")).args(["-sSf", "--max-time", "10", &url]).output();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn spans(&self) -> Vec<Value> {
        let text = self.get("/v1/projects/default/spans?limit=1000").unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        answer["data"].as_array().cloned().unwrap_or_default()
    }
}

fn program() -> PathBuf {
    let path = repository().join(".cache/phoenix/bin/phoenix");
    assert!(
        path.exists(),
        "Phoenix is not installed; `python3 -m venv .cache/phoenix && .cache/phoenix/bin/pip install arize-phoenix` \
         installs it"
    );
    path
}

fn main() {
    require_root();
    let phoenix = Phoenix::start();
    check(&phoenix, "grpc", &format!("otlp+grpc://127.0.0.1:{}", phoenix.grpc_port));
    check(&phoenix, "http", &format!("otlp+http://127.0.0.1:{}/v1/traces", phoenix.port));
    println!("Phoenix has every span, by gRPC and by HTTP, with the trace and parent of the traceparent");
}

fn check(phoenix: &Phoenix, name: &str, url: &str) {
    let traced = Traced::with("phoenix", |options| options.flag("--export", url));
    let python = PythonServer::start(traced.place());
    let header = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let path = format!("/{name}");
    curl(traced.place(), &["-H", &header, &format!("http://{}{path}", python.address)]);
    let own = traced.agent.wait_for_http(2, BOUND);
    for kind in ["client", "server"] {
        let span = only(&own, kind, &path);
        let back = clock::poll(BOUND, || phoenix.spans().into_iter().find(|back| is(back, span)));
        let back = back.unwrap_or_else(|| panic!("Phoenix has no {kind} span of {path}: {:#?}", phoenix.spans()));
        assert_eq!(back["context"]["trace_id"], TRACE, "{back}");
        assert_eq!(back["parent_id"], PARENT, "{back}");
        assert_eq!(back["name"], span.name.as_str(), "{back}");
    }
    traced.agent.stop();
}

fn is(back: &Value, span: &Span) -> bool {
    back["context"]["span_id"] == span.span_id.as_str()
}
