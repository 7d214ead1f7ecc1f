//! Servers that fork for each connection: a child that is gone before anybody can look at it is its parent's service.
//!
//! Truth: the name that the server was started with.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    time::Duration,
};

use spantap_tests::{
    process::{Launch, tool},
    temp::TempDir,
    tools::curl,
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(20);
const REQUESTS: usize = 20;
const SERVER: &str = r#"
import http.server, os, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *args): pass
class Server(socketserver.ForkingMixIn, http.server.HTTPServer): pass
server = Server(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"#;

#[test]
fn children_of_a_forking_server_have_its_name() {
    let (traced, folder) = (Traced::new("forking"), TempDir::new("forking"));
    let script = folder.write("server.py", SERVER);
    let launch = Launch::new(tool("python3")).arg(script).env("OTEL_SERVICE_NAME", "forking-test");
    let mut server = traced.place().apply(launch.stdout_piped()).spawn();
    let mut port = String::new();
    BufReader::new(server.stdout()).read_line(&mut port).expect("port of the server");
    let url = format!("http://127.0.0.1:{}/", port.trim());
    for _ in 0..REQUESTS {
        curl(traced.place(), &[&url]);
    }
    let is_served = |span: &&spantap_tests::span::Span| span.kind == "server" && span.is_http();
    let spans = traced
        .agent
        .wait_for("a span of each request", BOUND, |spans| spans.iter().filter(is_served).count() == REQUESTS);
    let served: Vec<_> = spans.iter().filter(is_served).collect();
    let pids: BTreeSet<u32> = served.iter().map(|span| span.pid).collect();
    assert_eq!(pids.len(), REQUESTS, "each was served by a child of its own");
    assert!(!pids.contains(&server.pid()));
    let named = served.iter().filter(|span| span.service == "forking-test").count();
    assert_eq!(named, REQUESTS, "{:?}", served.iter().map(|span| &span.service).collect::<Vec<_>>());
}
