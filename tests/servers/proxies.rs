//! Proxies: a request is seen at its client, at both ends of the proxy and at the server behind it.
//!
//! Truth: what the client got, the proxy's own log and that of the nginx behind it, a line per request each.

use std::time::Duration;

use spantap_tests::{
    coverage::{checked, of_connections},
    http::{Client, Exchange, Place},
    nginx::Nginx,
    process::{Launch, tool},
    span::{Span, by_path},
    tools::curl,
    traced::Traced,
};

use super::{
    count,
    proxy::{DEAD, Proxy, Told},
};

const BOUND: Duration = Duration::from_secs(30);

/// nginx's log: `msec request_time status uri`.
fn nginx_log(lines: &[String]) -> Told {
    count(lines.iter().map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[_, _, status, path] = fields.as_slice() else { panic!("not a line of nginx's log: {line}") };
        (status.parse().expect("a status"), path.to_owned())
    }))
}

/// What a log says must be what the client got.
fn assert_same(whose: &str, log: &Told, told: &Told) {
    let differences: Vec<_> = log.iter().filter(|(of, times)| told.get(of) != Some(times)).take(5).collect();
    assert_eq!((log.len(), differences), (told.len(), vec![]), "the log of {whose}, and what the client got");
}

/// The parties of a test.
struct Parties {
    traced: Traced,
    nginx: Nginx,
    proxy: Proxy,
}

impl Parties {
    fn start(label: &str, proxy: impl FnOnce(Place, &str) -> Proxy) -> Self {
        let traced = Traced::with(label, |mut options| {
            options.capture += "  ring_bytes: 16MiB\n";
            options
        });
        let nginx = Nginx::start(traced.place());
        let proxy = proxy(traced.place(), &nginx.address);
        Self { traced, nginx, proxy }
    }

    /// Runs clients one after the other; each request must have its spans at each party, with its status, and nothing else may
    /// have any.
    fn check(self, loads: &[&[&str]]) {
        let mut own: Vec<(u32, Exchange)> = Vec::new();
        for args in loads {
            let client = Client::start(self.traced.place(), &self.proxy.address, args);
            let pid = client.pid();
            own.extend(client.finish().into_iter().map(|exchange| (pid, exchange)));
        }
        let is_down = |path: &str| path.starts_with("/down/");
        let told = count(own.iter().map(|(_, exchange)| (exchange.status.into(), exchange.path.clone())));
        assert_same("the proxy", &self.proxy.log(own.len()), &told);
        let down = own.iter().filter(|(_, exchange)| is_down(&exchange.path)).count();
        let expected = 4 * (own.len() - down) + 2 * down;
        let spans = self.traced.agent.wait_for_http(expected, BOUND);
        assert_eq!(self.traced.agent.losses(), Default::default(), "no loss is to be expected");
        let http: Vec<&Span> = spans.iter().filter(|span| span.is_http()).collect();
        assert_eq!(http.len(), expected, "spans of nobody's request");
        let (proxy, paths) = (self.proxy.process.pid(), by_path(&spans));
        for (client, exchange) in &own {
            let found = paths.get(exchange.path.as_str()).unwrap_or_else(|| panic!("no span of {}", exchange.path));
            let hop = |client: u32, server: u32| check_hop(found, (client, server), exchange.status.into());
            hop(*client, proxy);
            if !is_down(&exchange.path) {
                hop(proxy, self.nginx.pid());
            }
        }
        let up = told.into_iter().filter(|((_, path), _)| !is_down(path)).collect();
        assert_same("nginx", &nginx_log(&self.nginx.finish()), &up);
        let others: Vec<&Span> = spans.iter().filter(|span| !span.is_http()).collect();
        let refused = self.proxy.connections_refused(down);
        assert_eq!(others.len(), refused, "connections that were refused: {others:#?}");
        for span in others {
            assert_eq!((span.pid, span.kind.as_str(), span.status.as_str()), (proxy, "client", "error"), "{span:?}");
            assert_eq!((span.peer.as_str(), span.name.as_str()), (DEAD, "connect"), "{span:?}");
        }
    }
}

/// One request between two processes: one span at each end, of its status, the server's being the child of the client's.
fn check_hop(spans: &[&Span], (client, server): (u32, u32), status: u64) {
    let one = |kind: &str, pid: u32| {
        let found: Vec<&&Span> = spans.iter().filter(|span| span.kind == kind && span.pid == pid).collect();
        assert_eq!(found.len(), 1, "{kind} spans of process {pid} among {spans:#?}");
        *found[0]
    };
    let (client, server) = (one("client", client), one("server", server));
    for (span, fails_from) in [(client, 400), (server, 500)] {
        assert_eq!(span.http_status(), Some(status), "{span:?}");
        assert_eq!(span.status == "error", status >= fails_from, "{span:?}");
    }
    assert_eq!(server.parent_span_id.as_ref(), Some(&client.span_id), "{client:?} {server:?}");
    assert_eq!(server.trace_id, client.trace_id);
}

/// One after the other: what is there, what is not there, and what is behind a server that is down.
const SINGLE: &[&[&str]] =
    &[&["path=/small/", "count=300"], &["path=/static/none/", "count=50"], &["path=/down/", "count=50"]];
/// Fifty connections at once.
const FIFTY: &[&[&str]] = &[
    &["path=/small/", "count=40", "connections=50"],
    &["path=/static/none/", "count=4", "connections=50"],
    &["path=/down/", "count=4", "connections=50"],
];

#[test]
fn haproxy_one_request_after_the_other() {
    Parties::start("haproxy", Proxy::haproxy).check(SINGLE);
}

#[test]
fn haproxy_fifty_connections() {
    Parties::start("haproxy-fifty", Proxy::haproxy).check(FIFTY);
}

#[test]
fn envoy_one_request_after_the_other() {
    Parties::start("envoy", |place, server| Proxy::envoy(place, server, false)).check(SINGLE);
}

#[test]
fn envoy_fifty_connections() {
    Parties::start("envoy-fifty", |place, server| Proxy::envoy(place, server, false)).check(FIFTY);
}

#[test]
fn caddy_one_request_after_the_other() {
    Parties::start("caddy", Proxy::caddy).check(SINGLE);
}

#[test]
fn caddy_fifty_connections() {
    Parties::start("caddy-fifty", Proxy::caddy).check(FIFTY);
}

/// A proxy that passes `traceparent` on makes one trace of all four spans, below the parent that it names.
fn check_one_trace(label: &str, proxy: impl FnOnce(Place, &str) -> Proxy) {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let Parties { traced, nginx, proxy } = Parties::start(label, proxy);
    let header = format!("traceparent: 00-{TRACE}-{PARENT}-01");
    let url = format!("http://{}/traced", proxy.address);
    assert_eq!(curl(traced.place(), &["-H", &header, &url])[0]["response_code"], 200);
    let spans = traced.agent.wait_for_http(4, BOUND);
    assert!(spans.iter().all(|span| span.trace_id == TRACE), "{spans:#?}");
    let shown = traced.agent.answer(["trace", TRACE]);
    println!("{shown}");
    assert_eq!(shown.matches("GET /traced").count(), 4, "{shown}");
    for (kind, pid) in [("server", proxy.process.pid()), ("client", proxy.process.pid()), ("server", nginx.pid())] {
        let own: Vec<&Span> = spans.iter().filter(|span| span.kind == kind && span.pid == pid).collect();
        assert_eq!(own.len(), 1, "{spans:#?}");
    }
    // What the header names is the parent, at each hop that has it.
    assert!(spans.iter().all(|span| span.parent_span_id.as_deref() == Some(PARENT)), "{spans:#?}");
}

#[test]
fn haproxy_passes_the_trace_on() {
    check_one_trace("haproxy-trace", Proxy::haproxy);
}

#[test]
fn envoy_passes_the_trace_on() {
    check_one_trace("envoy-trace", |place, server| Proxy::envoy(place, server, false));
}

#[test]
fn caddy_passes_the_trace_on() {
    check_one_trace("caddy-trace", Proxy::caddy);
}

/// Envoy's TLS is a copy without symbols: said so per connection, and the same requests are seen in clear where they leave Envoy.
#[test]
fn envoys_own_tls_is_said_to_be_not_covered() {
    let Parties { traced, nginx, proxy } =
        Parties::start("envoy-tls", |place, server| Proxy::envoy(place, server, true));
    let url = format!("https://{}/secret/1", proxy.address);
    let launch = Launch::new(tool("curl")).args(["-sSk", "--http1.1", "--max-time", "20", "-w", "%{http_code}"]);
    assert_eq!(traced.place().apply(launch.args(["-o", "/dev/null", &url])).run(), "200");
    let spans = traced.agent.wait_for("spans at all parties", BOUND, |spans| {
        let has = |kind: &str, pid: u32| spans.iter().any(|span| span.kind == kind && span.pid == pid);
        has("server", proxy.process.pid()) && has("client", proxy.process.pid()) && has("server", nginx.pid())
    });
    for span in spans.iter().filter(|span| span.pid == proxy.process.pid()) {
        assert_eq!(span.protocol, if span.kind == "server" { "tls" } else { "http" }, "{span:?}");
    }
    const WHY: &str = "BoringSSL, linked in without symbols";
    let told = of_connections(&traced.agent, proxy.process.pid());
    assert!(!told.is_empty(), "no connection of Envoy's with TLS");
    for tls in told {
        assert!(tls.starts_with("not covered") && tls.contains(WHY), "{tls}");
    }
    let checked = checked("envoy");
    assert!(!checked.is_empty(), "nothing is said of Envoy");
    assert!(checked.iter().all(|(covered, detail)| !covered && detail.contains(WHY)), "{checked:?}");
    assert_eq!(nginx.finish().len(), 1);
}
