//! Caddy: Go's own HTTP and TLS, in an executable without symbols, as server and as client of HTTP/2.
//!
//! Truth: h2load's log, a line per request with its status, and Caddy's access log.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use spantap_tests::{
    clock,
    coverage::of_connections,
    http::Place,
    http2::{H2load, Nghttpd},
    nginx::certificate,
    process::{Launch, Process, tool},
    python::program,
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

use super::{count, node::traced, proxy::listens};

const BOUND: Duration = Duration::from_secs(30);
/// Asked for before the load, so that the libraries of both ends are known; no part of it.
const WARM: &str = "/warm";

/// A site of Caddy's configuration that writes a line of JSON per request to the folder's `log`.
pub fn site(folder: &TempDir, address: &str, routes: &str) -> String {
    let log = folder.join("log");
    format!(
        "{address} {{\n bind 127.0.0.1\n log {{\n output file {} {{\n roll_disabled\n}}\n format json\n}}\n{routes}}}\n",
        log.display()
    )
}

/// Caddy with these sites, and nothing of the host's.
pub fn launch<'a>(place: Place<'a>, folder: &TempDir, sites: &str) -> Launch {
    let global = "{\n admin off\n auto_https off\n persist_config off\n servers {\n protocols h1 h2 h2c\n}\n}\n";
    let config = folder.write("Caddyfile", format!("{global}{sites}"));
    let launch = Launch::new(program("caddy")).args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
    let launch = launch.env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path());
    place.apply(launch.stdout_to(&folder.join("stdout")).stderr_to(&folder.join("stderr")))
}

/// A line of its log: status and path.
pub fn logged(line: &str) -> (u64, String) {
    let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON: {error}: {line}"));
    let status = line["status"].as_u64().unwrap_or_else(|| panic!("no status: {line}"));
    (status, line["request"]["uri"].as_str().unwrap_or_else(|| panic!("no path: {line}")).to_owned())
}

/// A running Caddy: files, and below `/up/` another server by HTTP/2.
struct Caddy {
    process: Process,
    folder: TempDir,
    address: String,
    tls: bool,
}

impl Caddy {
    fn start(place: Place, upstream: &str, tls: bool) -> Self {
        let (folder, port) = (TempDir::new("caddy"), free_port());
        folder.write("index.html", "hello\n");
        let mut routes = format!(
            "handle_path /up/* {{\n reverse_proxy h2c://{upstream}\n}}\n\
             handle {{\n file_server {{\n root {}\n disable_canonical_uris\n}}\n}}\n",
            folder.path().display()
        );
        if tls {
            let (key, certificate) = certificate(&folder);
            routes.push_str(&format!("tls {} {}\n", certificate.display(), key.display()));
        }
        let site = site(&folder, &format!("{}://:{port}", scheme(tls)), &routes);
        let process = launch(place, &folder, &site).spawn();
        let address = format!("127.0.0.1:{port}");
        clock::wait_for("Caddy listens", BOUND, || listens(&address).then_some(()));
        Self { process, folder, address, tls }
    }

    fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", scheme(self.tls), self.address)
    }

    /// Has both ends seen; only then what follows is seen from its first byte.
    fn warm_up(&self, traced: &Traced) {
        let seen = |spans: &[Span], kind: &str| spans.iter().any(|span| span.kind == kind && span.path() == WARM);
        clock::wait_for("both ends are seen", BOUND, || {
            let curl = Launch::new(tool("curl")).args(["-sk", "-o", "/dev/null", "--max-time", "20", &self.url(WARM)]);
            traced.place().apply(curl).run();
            let spans = traced.agent.spans();
            (seen(&spans, "client") && seen(&spans, "server")).then_some(())
        });
    }

    /// What its log says, once it has so many lines.
    fn log(&self, lines: usize) -> Told {
        clock::wait_for("Caddy's log has all requests", BOUND, || {
            let text = std::fs::read_to_string(self.folder.join("log")).ok()?;
            let told: Vec<_> = text.lines().map(logged).filter(|(_, path)| path != WARM).collect();
            (told.len() >= lines).then(|| count(told))
        })
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// What is there, what is not, and the same behind the other server.
const PATHS: [&str; 4] = ["/index.html", "/missing", "/up/index.html", "/up/missing"];

/// How often each status and path was there.
type Told = BTreeMap<(u64, String), usize>;

/// One end of the requests: its kind, process and protocol, and what it must have told.
type End<'a> = (&'a str, u32, &'a str, &'a Told);

fn of<'a>(spans: &'a [Span], kind: &str, pid: u32) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.kind == kind && span.pid == pid && span.path() != WARM).collect()
}

/// Each span of an end must say what is true of it; gives how often each status and path was there.
fn told(spans: &[Span], (kind, pid, protocol, _): End) -> Told {
    count(of(spans, kind, pid).into_iter().map(|span| {
        assert_eq!(span.protocol, protocol, "{span:#?}");
        let status = span.http_status().unwrap_or_else(|| panic!("no status: {span:#?}"));
        assert_eq!(span.status == "error", kind == "client" && status >= 400, "{span:#?}");
        assert_eq!(span.name, format!("GET {}", span.path()), "{span:#?}");
        (status, span.path().to_owned())
    }))
}

/// Every span of the server must be the child of one of the client's, another one each, of the same path. Inside TLS a few may have
/// no parent, since it is not always known in time that the client waits for the answer; but none has a wrong one.
fn check_hop(spans: &[Span], client: u32, server: u32, tls: bool) {
    let clients = of(spans, "client", client).into_iter();
    let mut clients: BTreeMap<&str, &str> = clients.map(|span| (span.span_id.as_str(), span.path())).collect();
    let all = of(spans, "server", server);
    let mut alone = 0;
    for span in &all {
        match span.parent_span_id.as_deref() {
            None => alone += 1,
            Some(parent) => assert_eq!(clients.remove(parent), Some(span.path()), "{span:#?}"),
        }
    }
    let allowed = if tls { all.len() / 20 } else { 0 };
    assert!(alone <= allowed, "{alone} spans of {} have no parent", all.len());
}

/// Runs a load of so many requests: as many spans of each path and status as h2load and Caddy counted, at each of four ends.
fn check(label: &str, tls: bool, protocol: &str, args: &[&str]) {
    let traced = traced(label);
    let upstream = Nghttpd::start(traced.place());
    let caddy = Caddy::start(traced.place(), &upstream.address, tls);
    caddy.warm_up(&traced);
    let urls = PATHS.map(|path| caddy.url(path));
    let args: Vec<&str> = args.iter().copied().chain(urls.iter().map(String::as_str)).collect();
    let load = H2load::start(traced.place(), &args);
    let (client, server) = (load.pid(), caddy.process.pid());
    let loads = load.finish();
    let truth = caddy.log(loads.len());
    let behind = truth
        .iter()
        .filter_map(|((status, path), times)| Some(((*status, path.strip_prefix("/up")?.to_owned()), *times)));
    let behind: Told = behind.collect();
    assert_eq!((truth.len(), behind.len()), (4, 2), "{truth:?}");
    let of_status = |wanted| truth.iter().filter(|((status, _), _)| *status == wanted).map(|(_, times)| times).sum();
    let statuses = BTreeMap::from([200, 404].map(|status| (status, of_status(status))));
    assert_eq!(count(loads.iter().map(|load| load.status)), statuses, "the logs of h2load and of Caddy");
    let ends: [End; 4] = [
        ("client", client, protocol, &truth),
        ("server", server, protocol, &truth),
        ("client", server, "http2", &behind),
        ("server", upstream.pid(), "http2", &behind),
    ];
    let spans = traced.agent.wait_for("the spans of all requests", BOUND, |spans| {
        ends.iter().all(|(kind, pid, _, truth)| of(spans, kind, *pid).len() >= truth.values().sum())
    });
    for end in ends {
        assert_eq!(told(&spans, end), *end.3, "{} of {}; lost: {:?}", end.0, end.1, traced.agent.losses());
    }
    check_hop(&spans, client, server, tls);
    check_hop(&spans, server, upstream.pid(), false);
    let secured = of_connections(&traced.agent, server);
    assert!(tls != secured.is_empty() && secured.iter().all(|tls| tls == "readable"), "{secured:?}");
}

const SINGLE: [&str; 6] = ["-n", "400", "-c", "1", "-m", "1"];
const FIFTY: [&str; 6] = ["-n", "4000", "-c", "50", "-m", "10"];

#[test]
fn http2_one_request_after_the_other() {
    check("caddy-h2", false, "http2", &SINGLE);
}

#[test]
fn http2_fifty_connections() {
    check("caddy-h2-fifty", false, "http2", &FIFTY);
}

#[test]
fn http2_inside_tls_one_request_after_the_other() {
    check("caddy-tls", true, "http2", &SINGLE);
}

#[test]
fn http2_inside_tls_fifty_connections() {
    check("caddy-tls-fifty", true, "http2", &FIFTY);
}

#[test]
fn http1_inside_tls_one_request_after_the_other() {
    check("caddy-tls-h1", true, "http", &["--h1", "-n", "400", "-c", "1"]);
}

#[test]
fn http1_inside_tls_fifty_connections() {
    check("caddy-tls-h1-fifty", true, "http", &["--h1", "-n", "4000", "-c", "50"]);
}
