//! TLS libraries beyond those of `e2e/tls.rs`: the copy of OpenSSL that a wheel brings, NSS; servers with TLS that are clients without
//! it; and what is not covered, said so. Caddy and etcd have files of their own.
//!
//! Truth: what the servers count and log, and the codes that the clients print.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpStream,
    time::Duration,
};

use spantap_tests::{
    clock,
    coverage::{checked, of_connections, wait_until_covered},
    http2::GrpcServer,
    nginx::{Nginx, certificate},
    postgres::Postgres,
    process::{Launch, Process, tool},
    python::{self, packaged},
    span::{Span, by_path},
    temp::{TempDir, free_port},
    traced::Traced,
};

use super::{
    count,
    databases::{self, PSYCOPG},
    node::{script, traced},
};

const BOUND: Duration = Duration::from_secs(30);

/// psycopg's wheel has an OpenSSL of its own, found by what the process maps.
fn psycopg(label: &str, connections: usize) {
    let traced = traced(label);
    let server = Postgres::start_tls(traced.place());
    let folder = TempDir::new(label);
    let go = folder.join("go");
    let launch = server.at(python::script(PSYCOPG)).env("PGSSLMODE", "require").arg(connections.to_string());
    let launch = launch.arg(&go).stdout_piped().stderr_to(&folder.join("stderr"));
    let client = traced.place().apply(launch).spawn();
    let copy = format!("OpenSSL {}", packaged("psycopg_binary.libs/").display());
    wait_until_covered(&traced.agent, client.pid(), &copy);
    clock::wait_for("both ends are seen", BOUND, || {
        let spans = traced.agent.spans();
        let seen = |kind: &str| spans.iter().any(|span| span.kind == kind && span.protocol == "postgresql");
        (seen("client") && seen("server")).then_some(())
    });
    let conns = of_connections(&traced.agent, client.pid());
    assert!(!conns.is_empty() && conns.iter().all(|tls| tls == "readable"), "{conns:?}");
    databases::make_tables(&server);
    folder.write("go", "");
    let said = count(client.finish(BOUND).lines().map(str::to_owned));
    databases::hold_against(&traced, &server, connections, &said);
}

#[test]
fn postgres_counts_those_inside_tls_of_psycopg_as_often() {
    psycopg("tls-psycopg", 1);
}

#[test]
fn postgres_counts_those_of_fifty_connections_inside_tls_of_psycopg_as_often() {
    psycopg("tls-psycopg-50", 50);
}

/// Each path has one span of either kind by HTTP inside TLS, the server's being the child of the client's.
fn check_paths(spans: &[Span], paths: &[String]) {
    let by_path = by_path(spans);
    for path in paths {
        let found: BTreeMap<&str, &&Span> =
            by_path.get(path.as_str()).into_iter().flatten().map(|span| (span.kind.as_str(), span)).collect();
        let all = by_path.get(path.as_str()).map_or(0, Vec::len);
        assert!(all == 2 && found.len() == 2, "{path}: {found:#?}");
        for span in found.values() {
            assert_eq!((span.protocol.as_str(), span.http_status()), ("http", Some(200)), "{span:#?}");
            assert_eq!(span.text("url.scheme"), "https", "{span:#?}");
        }
        assert_eq!(found["server"].parent_span_id.as_ref(), Some(&found["client"].span_id), "{found:#?}");
    }
}

/// libcurl on NSS, as often as nginx's log says.
fn nss_client(label: &str, connections: usize, each: usize) {
    let traced = traced(label);
    let nginx = Nginx::start_tls(traced.place(), format!("127.0.0.1:{}", free_port()));
    let folder = TempDir::new(label);
    let launch = python::script(include_str!("nss_client.py")).arg(&nginx.address).arg(folder.join("go"));
    let launch = launch.args([connections, each].map(|number| number.to_string())).stdout_piped();
    let client = traced.place().apply(launch.stderr_to(&folder.join("stderr"))).spawn();
    wait_until_covered(&traced.agent, client.pid(), "NSPR");
    wait_until_covered(&traced.agent, nginx.pid(), "OpenSSL");
    folder.write("go", "");
    let said = count(client.finish(BOUND).lines().map(str::to_owned));
    assert_eq!(said, BTreeMap::from([("200".to_owned(), connections * each)]));
    let is_own = |span: &&Span| span.path().starts_with("/nss/");
    let spans = traced.agent.wait_for("the spans of all requests", BOUND, |spans| {
        spans.iter().filter(is_own).count() >= 2 * connections * each
    });
    let log = nginx.finish();
    let paths = log.iter().filter_map(|line| line.rsplit(' ').next()).filter(|path| path.starts_with("/nss/"));
    let paths: Vec<String> = paths.map(str::to_owned).collect();
    assert_eq!(paths.len(), connections * each, "what nginx logged");
    assert_eq!(spans.iter().filter(is_own).count(), 2 * paths.len(), "spans of nobody's request");
    check_paths(&spans, &paths);
}

#[test]
fn nss_one_request_after_the_other() {
    nss_client("tls-nss", 1, 100);
}

#[test]
fn nss_fifty_connections() {
    nss_client("tls-nss-fifty", 50, 10);
}

/// The server that NSS is tested with.
fn selfserv(traced: &Traced, folder: &TempDir) -> (Process, String) {
    let (key, certificate) = certificate(folder);
    let database = format!("sql:{}", folder.path().display());
    let pair = folder.join("pair.p12");
    let openssl =
        Launch::new(tool("openssl")).args(["pkcs12", "-export", "-name", "server", "-passout", "pass:", "-in"]);
    openssl.arg(certificate).arg("-inkey").arg(key).arg("-out").arg(&pair).run();
    Launch::new(tool("certutil")).args(["-N", "--empty-password", "-d", &database]).run();
    Launch::new(tool("pk12util")).args(["-W", "", "-d", &database, "-i"]).arg(&pair).run();
    let port = free_port().to_string();
    let launch = Launch::new(tool("selfserv")).args(["-d", &database, "-n", "server", "-p", &port]);
    let launch = launch.stdout_to(&folder.join("stdout")).stderr_to(&folder.join("stderr"));
    let process = traced.place().apply(launch).spawn();
    clock::wait_for("selfserv listens", BOUND, || TcpStream::connect(format!("127.0.0.1:{port}")).ok());
    (process, format!("127.0.0.1:{port}"))
}

/// A server on NSS that serves one request per connection, and curl.
#[test]
fn nss_as_a_server() {
    let traced = traced("tls-selfserv");
    let folder = TempDir::new("selfserv");
    let (server, address) = selfserv(&traced, &folder);
    let curl = |path: &str| {
        let launch = Launch::new(tool("curl")).args(["-sk", "--http1.1", "--max-time", "20", "-o", "/dev/null"]);
        let launch = launch.args(["-w", "%{http_code}", &format!("https://{address}{path}")]);
        traced.place().apply(launch).run()
    };
    clock::wait_for("both ends are seen", BOUND, || {
        curl("/warm");
        let spans = traced.agent.spans();
        let seen = |kind: &str| spans.iter().any(|span| span.kind == kind && span.path() == "/warm");
        (seen("client") && seen("server")).then_some(())
    });
    let paths: Vec<String> = (0..20).map(|number| format!("/nss/{number}")).collect();
    paths.iter().for_each(|path| assert_eq!(curl(path), "200", "{path}"));
    let is_own = |span: &&Span| span.path().starts_with("/nss/");
    let spans = traced
        .agent
        .wait_for("the spans of all requests", BOUND, |spans| spans.iter().filter(is_own).count() >= 2 * paths.len());
    check_paths(&spans, &paths);
    assert!(spans.iter().filter(|span| span.kind == "server").all(|span| span.pid == server.pid()), "{spans:#?}");
}

/// What comes in by TLS goes on without, on a new connection each time: what is read from that is not taken for TLS.
#[test]
fn node_with_tls_in_front_of_a_server_without() {
    const REQUESTS: usize = 100;
    let traced = traced("tls-node-proxy");
    let nginx = Nginx::start(traced.place());
    let folder = TempDir::new("node-proxy");
    let (key, certificate) = certificate(&folder);
    let (_, port) = nginx.address.split_once(':').expect("address and port");
    let launch = script(include_str!("node_tls_proxy.js")).arg(certificate).arg(key).arg(port).stdout_piped();
    let mut proxy = traced.place().apply(launch.stderr_to(&folder.join("stderr"))).spawn();
    let mut port = String::new();
    BufReader::new(proxy.stdout()).read_line(&mut port).expect("port of the proxy");
    wait_until_covered(&traced.agent, proxy.pid(), "OpenSSL");
    // curl's library is not known before it has run.
    let urls = |name: &str, last: usize| format!("https://127.0.0.1:{}/{name}/[1-{last}]", port.trim());
    let curl = |url: &str| {
        let launch = Launch::new(tool("curl")).args(["-sSk", "--http1.1", "--max-time", "20", "-o", "/dev/null"]);
        traced.place().apply(launch.arg(url)).run();
    };
    clock::wait_for("curl is seen", BOUND, || {
        curl(&urls("warm", 1));
        traced
            .agent
            .spans()
            .iter()
            .any(|span| span.kind == "client" && span.text("url.scheme") == "https")
            .then_some(())
    });
    curl(&urls("node", REQUESTS));
    let is_own = |span: &&Span| span.path().starts_with("/node/");
    let spans = traced
        .agent
        .wait_for("the spans of all requests", BOUND, |spans| spans.iter().filter(is_own).count() >= 4 * REQUESTS);
    let log = nginx.finish();
    let paths: Vec<&str> = log.iter().filter_map(|line| line.rsplit(' ').next()).collect();
    let paths: Vec<&str> = paths.into_iter().filter(|path| path.starts_with("/node/")).collect();
    assert_eq!(paths.len(), REQUESTS, "what nginx logged");
    let by_path = by_path(&spans);
    for path in paths {
        let ends = by_path[path].iter().map(|span| (span.kind.as_str(), span.text("url.scheme"), span.http_status()));
        let truth = [("client", "http"), ("client", "https"), ("server", "http"), ("server", "https")];
        let truth = truth.map(|(kind, scheme)| ((kind, scheme, Some(200)), 1));
        assert_eq!(count(ends), BTreeMap::from(truth), "{path}; lost: {:?}", traced.agent.losses());
    }
}

/// The wheel of grpcio has a BoringSSL without symbols beside Python's own OpenSSL, which covers nothing of it.
#[test]
fn the_tls_of_grpcio_is_said_to_be_not_covered() {
    const WHY: &str = "BoringSSL, linked in without symbols";
    let traced = traced("tls-grpcio");
    let server = GrpcServer::start_tls(traced.place());
    let own = server.call(traced.place(), &["calls", "5", "1"]);
    assert!(own.len() == 5 && own.iter().all(|call| call == "Unary OK"), "{own:?}");
    let spans = traced.agent.wait_for("spans of either end", BOUND, |spans| {
        ["client", "server"].iter().all(|kind| spans.iter().any(|span| span.kind == *kind))
    });
    assert!(spans.iter().all(|span| span.protocol == "tls"), "{spans:#?}");
    let conns = of_connections(&traced.agent, server.pid());
    assert!(!conns.is_empty(), "no connection of grpcio's with TLS");
    for tls in conns {
        assert!(tls.starts_with("not covered") && tls.contains("cygrpc") && tls.contains(WHY), "{tls}");
    }
    let exe = std::fs::read_link(format!("/proc/{}/exe", server.pid())).expect("the program of the server");
    let told = checked(&exe.file_name().unwrap_or_default().to_string_lossy());
    let not = told.iter().any(|(covered, detail)| !covered && detail.contains("cygrpc") && detail.contains(WHY));
    assert!(not, "{told:?}");
}
