//! HTTP/2 by the upgrade of HTTP/1 (RFC 7540, 3.2), with curl and nghttpx: the request that asked for it is one span at each end, with the
//! status of its answer, which is stream 1; what follows on the connection are further streams.
//!
//! Truth: what curl says of each transfer. Behind nghttpx is nghttpd, which is not traced.

use std::time::Duration;

use spantap_tests::{
    clock,
    http::Place,
    http2::Nghttpd,
    process::{Launch, tool},
    span::Span,
    temp::{TempDir, free_port},
    tools::curl,
};

use super::{count, node::traced};

const BOUND: Duration = Duration::from_secs(30);

#[test]
fn a_request_that_upgrades_has_the_status_of_its_stream() {
    let traced = traced("upgrade");
    let folder = TempDir::new("nghttpx");
    let behind = Nghttpd::start(Place::default());
    let port = free_port();
    let launch = Launch::new(tool("nghttpx")).arg(format!("--frontend=127.0.0.1,{port};no-tls"));
    let backend = format!("--backend={};;proto=h2", behind.address.replace(':', ","));
    let launch = launch.arg(backend).args(["--conf=/dev/null", "--workers=1", "--no-ocsp", "--single-process"]);
    let _proxy = traced.place().apply(launch.stderr_to(&folder.join("stderr"))).spawn();
    clock::wait_for("nghttpx listens", BOUND, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let mut truth = Vec::new();
    for paths in [["/index.html", "/missing"], ["/missing", "/index.html"]] {
        let said = curl(traced.place(), &["--http2", &url(paths[0]), &url(paths[1])]);
        for (place, (said, path)) in said.iter().zip(paths).enumerate() {
            assert_eq!(said["http_version"], "2", "{said}");
            truth.push(format!("GET {path} {} {}", said["response_code"], place == 0));
        }
    }
    let ends = |spans: &[Span], kind: &str| -> Vec<Span> {
        let own = |span: &&Span| {
            let [local, peer] = [&span.local, &span.peer];
            let address = if kind == "client" { peer } else { local };
            span.kind == kind && address.ends_with(&format!(":{port}"))
        };
        spans.iter().filter(own).cloned().collect()
    };
    let spans = traced.agent.wait_for("spans of all transfers", BOUND, |spans| {
        ["client", "server"].iter().all(|kind| ends(spans, kind).len() >= truth.len())
    });
    let truth = count(truth);
    for kind in ["client", "server"] {
        let told = ends(&spans, kind).into_iter().map(|span| {
            let upgraded = span.attribute("spantap.http.upgraded").is_some();
            assert_eq!((span.protocol.as_str(), span.text("network.protocol.version")), ("http2", "2"), "{span:#?}");
            format!("{} {} {upgraded}", span.name, span.http_status().unwrap_or_default())
        });
        assert_eq!(count(told), truth, "{kind} spans; losses: {:?}", traced.agent.losses());
    }
}
