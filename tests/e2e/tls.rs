//! What is inside TLS connections, by the library of the process: the same spans as in clear text.
//!
//! Servers and clients are other people's; the truth is what they say they did: nginx's access log, status codes that a
//! client prints.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;
use spantap_tests::{
    agent::repository,
    clock,
    coverage::wait_until_covered,
    nginx::{BIG_BYTES, Nginx, certificate},
    process::{Launch, Process, tool},
    span::{Span, only},
    temp::{TempDir, free_port},
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(20);
const PYTHON: &str = include_str!("tls_python.py");
const NODE: &str = include_str!("tls_node.js");

fn server(traced: &Traced, library: &str) -> Nginx {
    let nginx = Nginx::start_tls(traced.place(), format!("127.0.0.1:{}", free_port()));
    wait_until_covered(&traced.agent, nginx.pid(), library);
    nginx
}

/// Every span is HTTP, and each of these paths has one at either end, of one trace.
fn assert_as_in_clear(spans: &[Span], paths: &[String]) {
    let tls: Vec<&Span> = spans.iter().filter(|span| !span.is_http()).collect();
    assert!(tls.is_empty(), "spans of bytes that are seen in clear: {tls:#?}");
    for path in paths {
        let (client, server) = (only(spans, "client", path), only(spans, "server", path));
        for span in [client, server] {
            assert_eq!(span.http_status(), Some(200), "{span:?}");
            assert_eq!(span.attribute("url.scheme"), Some(&Value::from("https")), "{span:?}");
            assert!(span.attribute("tls.protocol.version").is_some(), "{span:?}");
        }
        assert_eq!(server.parent_span_id.as_ref(), Some(&client.span_id), "{path}: {client:?} {server:?}");
    }
}

fn paths(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

fn curl(traced: &Traced, args: &[String]) {
    let launch = Launch::new(tool("curl")).args(["-sSk", "--http1.1", "--max-time", "20"]);
    let urls = args.iter().filter(|arg| arg.starts_with("https://")).flat_map(|_| ["-o", "/dev/null"]);
    traced.place().apply(launch.args(urls).args(args)).run();
}

#[test]
fn openssl_by_curl_and_nginx() {
    let traced = Traced::new("tls-openssl");
    let nginx = server(&traced, "OpenSSL");
    let mut paths = paths("/small/", 20);
    paths.push("/static/big".to_owned());
    let urls: Vec<String> = paths.iter().map(|path| format!("https://{}{path}", nginx.address)).collect();
    curl(&traced, &urls);
    let spans = traced.agent.wait_for_http(paths.len() * 2, BOUND);
    assert_as_in_clear(&spans, &paths);
    let first = only(&spans, "client", "/small/0");
    assert!(first.total_ns("tls") > 0 && first.total_ns("connect") > 0, "{first:?}");
    let big = only(&spans, "client", "/static/big");
    let size = big.attribute("http.response.body.size").and_then(Value::as_u64);
    assert_eq!(size, Some(BIG_BYTES as u64), "{big:?}");
    assert!(big.total_ns("transfer") + big.total_ns("receive_buffer") > 0, "{big:?}");
    let conns = traced.agent.answer(["conns", "--json"]);
    assert!(conns.lines().all(|line| line.contains(r#""tls":"readable""#)), "{conns}");
    assert_eq!(nginx.finish().len(), paths.len());
}

/// A server and a client of one runtime.
fn check_runtime(label: &str, library: &str, launch: impl Fn(&TempDir) -> Launch) {
    let traced = Traced::new(label);
    let folder = TempDir::new(label);
    let (key, certificate) = certificate(&folder);
    let serve = launch(&folder).arg("serve").arg(certificate).arg(key).stdout_piped();
    let mut server: Process = traced.place().apply(serve.stderr_to(&folder.join("stderr"))).spawn();
    let mut port = String::new();
    BufReader::new(server.stdout()).read_line(&mut port).expect("the port");
    wait_until_covered(&traced.agent, server.pid(), library);
    let address = format!("127.0.0.1:{}", port.trim());
    let mut expected = paths("/small/", 10);
    expected.extend(paths("/big/40000/", 3));
    for (prefix, count) in [("/small/", "10"), ("/big/40000/", "3")] {
        let said = traced.place().apply(launch(&folder).args(["get", &address, prefix, count])).run();
        assert!(said.lines().all(|status| status == "200") && said.lines().count().to_string() == count, "{said}");
    }
    let spans = traced.agent.wait_for_http(expected.len() * 2, BOUND);
    assert_as_in_clear(&spans, &expected);
}

#[test]
fn without_probes_spans_are_those_of_records_and_connections_say_why() {
    let traced = Traced::with("tls-off", |options| options.flag("--without-hook", "tls_libraries"));
    let nginx = Nginx::start_tls(traced.place(), format!("127.0.0.1:{}", free_port()));
    curl(&traced, &[format!("https://{}/small/0", nginx.address)]);
    let spans = traced.agent.wait_for("a span of either end", BOUND, |spans| spans.len() >= 2);
    assert!(spans.iter().all(|span| span.protocol == "tls"), "{spans:#?}");
    assert_eq!(traced.agent.status()["tls"], Value::Array(Vec::new()));
    let conns = traced.agent.answer(["conns", "--json"]);
    let reason = r#""tls":"not covered: TLS libraries are not probed: left out by request""#;
    assert!(conns.lines().count() >= 2 && conns.lines().all(|line| line.contains(reason)), "{conns}");
    assert_eq!(nginx.finish().len(), 1);
}

#[test]
fn openssl_by_python() {
    check_runtime("tls-python", "OpenSSL", |folder| Launch::new(tool("python3")).arg(folder.write("tls.py", PYTHON)));
}

#[test]
fn openssl_inside_node() {
    check_runtime("tls-node", "OpenSSL", |folder| Launch::new(tool("node")).arg(folder.write("tls.js", NODE)));
}

/// Builds the Go program; `flags` are the linker's.
fn go(folder: &TempDir, flags: &str) -> PathBuf {
    let program = folder.join("tls_go");
    let source = folder.write("main.go", include_str!("tls_go.go"));
    let go = repository().join(".cache/venv/bin/go");
    assert!(go.exists(), "Go is not installed; `cargo xtask setup --tests` installs it into .cache/venv");
    Launch::new(go)
        .args(["build", "-ldflags", flags, "-o"])
        .arg(&program)
        .arg(source)
        .env("GOCACHE", repository().join(".cache/go-build"))
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .spawn()
        .wait(Duration::from_secs(600));
    assert!(program.exists(), "the Go program was not built");
    program
}

#[test]
fn go_with_symbols() {
    let folder = TempDir::new("go");
    let program = go(&folder, "");
    check_runtime("tls-go", "Go crypto/tls", |_| Launch::new(&program));
}

#[test]
fn go_without_symbols() {
    let folder = TempDir::new("go-stripped");
    let program = go(&folder, "-s -w");
    check_runtime("tls-go-stripped", "Go crypto/tls", |_| Launch::new(&program));
}

#[test]
fn java_is_said_to_be_not_covered_and_has_opaque_spans() {
    let traced = Traced::new("tls-java");
    let nginx = server(&traced, "OpenSSL");
    let folder = TempDir::new("java");
    let (host, port) = nginx.address.split_once(':').expect("address and port");
    let launch = Launch::new(tool("java")).arg(folder.write("Client.java", include_str!("tls_java.java")));
    let launch = launch.args([host, port, "/java"]).stdout_piped().stderr_to(&folder.join("stderr"));
    let mut java = traced.place().apply(launch).spawn();
    let mut status = String::new();
    BufReader::new(java.stdout()).read_line(&mut status).expect("the status line");
    assert!(status.contains("200"), "{status}");
    let told = clock::wait_for("the connection of Java is told", BOUND, || {
        let conns = traced.agent.answer(["conns", "--json"]);
        let mut conns = conns.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        conns.find(|conn| conn["pid"] == java.pid() && conn["tls"].is_string())
    });
    assert!(told["tls"].as_str().is_some_and(|tls| tls.starts_with("not covered: Java")), "{told}");
    let spans = traced.agent.wait_for("a span of either end", BOUND, |spans| spans.len() >= 2);
    let client: Vec<&Span> = spans.iter().filter(|span| span.kind == "client").collect();
    assert!(client.iter().all(|span| span.protocol == "tls"), "{client:#?}");
    assert_eq!(only(&spans, "server", "/java").http_status(), Some(200));
}

#[test]
fn gnutls_by_wget() {
    let traced = Traced::new("tls-gnutls");
    let nginx = server(&traced, "OpenSSL");
    let wget = |path: &str| {
        let launch = Launch::new(tool("wget")).args(["-q", "--no-check-certificate", "-O", "/dev/null"]);
        traced.place().apply(launch.arg(format!("https://{}{path}", nginx.address))).run();
    };
    // The first run makes the library known; it may be over before.
    let is_seen = |span: &Span| span.kind == "client" && span.path() == "/warm";
    clock::wait_for("wget is seen", BOUND, || {
        wget("/warm");
        traced.agent.spans().iter().any(is_seen).then_some(())
    });
    let paths = paths("/file/", 5);
    paths.iter().for_each(|path| wget(path));
    let all = |spans: &[Span]| spans.iter().filter(|span| span.path().starts_with("/file/")).count() >= 10;
    let spans = traced.agent.wait_for("the spans of wget", BOUND, all);
    let spans: Vec<Span> = spans.into_iter().filter(|span| span.path() != "/warm" && span.is_http()).collect();
    assert_as_in_clear(&spans, &paths);
}
