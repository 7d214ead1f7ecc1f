//! HTTP/2: every stream is one span at each end, none merged and none lost, as long as its client says.
//!
//! Truth: h2load's own log, a line per request with its status and time.

use std::time::Duration;

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::Place,
    http2::{H2load, Load, Nghttpd},
    namespace::Namespace,
    span::Span,
    stats::{assert_within, percentile},
    traced::Traced,
    tun::{self, Tun},
};

const BOUND: Duration = Duration::from_secs(60);
/// One that is there and one that is not.
const BOTH: [&str; 2] = ["/index.html", "/missing"];

/// Spans of one end: their process, kind, and no more than HTTP/2 says.
fn of<'a>(spans: &'a [Span], kind: &str, pid: u32) -> Vec<&'a Span> {
    let own = spans.iter().filter(|span| span.kind == kind && span.pid == pid && span.protocol == "http2");
    own.collect()
}

fn traced(label: &str) -> Traced {
    Traced::with(label, |mut options| {
        options.capture += "  ring_bytes: 16MiB\n";
        options.flag("--payload-bytes", "8192")
    })
}

/// On loopback; each path is asked for as often.
fn check(label: &str, args: &[&str], paths: &[&str]) -> (Vec<u64>, Vec<u64>) {
    let traced = traced(label);
    let server = Nghttpd::start(traced.place());
    check_between(&traced, traced.place(), &server, args, paths)
}

/// Runs a load; as many spans as requests must be there at each end, of each status. Gives how long requests took by the client's
/// spans, but for the one that opened the connection, and by its log.
fn check_between(
    traced: &Traced,
    client: Place,
    server: &Nghttpd,
    args: &[&str],
    paths: &[&str],
) -> (Vec<u64>, Vec<u64>) {
    let urls: Vec<String> = paths.iter().map(|path| format!("http://{}{path}", server.address)).collect();
    let args: Vec<&str> = args.iter().copied().chain(urls.iter().map(String::as_str)).collect();
    let load = H2load::start(client, &args);
    let client = load.pid();
    let truth = load.finish();
    let spans = traced.agent.wait_for("the spans of all requests", BOUND, |spans| {
        of(spans, "client", client).len() >= truth.len() && of(spans, "server", server.pid()).len() >= truth.len()
    });
    // A load without a limit can end within one turn of the agent, and then more requests wait on its one connection for what the
    // other end saw of them than may: of the first of those less is measured, and no span is missing.
    let mut losses = traced.agent.losses();
    losses.remove("settled_early");
    assert_eq!(losses, Default::default(), "no loss is to be expected");
    for (kind, pid) in [("client", client), ("server", server.pid())] {
        assert_counts(kind, &of(&spans, kind, pid), &truth);
    }
    let seen = of(&spans, "client", client).into_iter().filter(|span| span.total_ns("connect") == 0);
    (seen.map(|span| span.duration_ns).collect(), truth.iter().map(|load| load.duration_ns).collect())
}

/// As many spans of each status as the client says, and none of nobody's request.
fn assert_counts(kind: &str, own: &[&Span], truth: &[Load]) {
    for (status, path) in [(200, "/index.html"), (404, "/missing")] {
        let expected = truth.iter().filter(|load| load.status == status).count();
        let of_status: Vec<&&Span> = own.iter().filter(|span| span.http_status() == Some(status)).collect();
        assert_eq!(of_status.len(), expected, "{kind} spans of status {status}");
        for span in of_status {
            let failed = kind == "client" && status == 404;
            assert_eq!((span.path(), span.status == "error"), (path, failed), "{span:?}");
            assert_eq!(span.name, format!("GET {path}"), "{span:?}");
        }
    }
    assert_eq!(own.len(), truth.len(), "{kind} spans of nobody's request");
}

/// 2,000 requests, 100 at a time. Calls of more bytes than are captured, which hide where frames begin, are not its matter.
const STREAMS: [&str; 6] = ["-n", "2000", "-c", "1", "-m", "100"];

/// h2load's time of a request begins when it puts it together, before it writes all that it has put together, and ends when it has
/// come to its answer among all those that it has read: some 0.3 ms of its own work for a hundred, which is no less than the
/// exchange takes on loopback. So a path that takes 40 ms is what both are held to there and back.
#[test]
fn a_hundred_streams_at_once_take_as_long_as_their_client_says() {
    const EACH_WAY: Duration = Duration::from_millis(20);
    let (client, server) = (Namespace::new(), Namespace::new());
    let _tun = Tun::join(&client, &server, EACH_WAY, EACH_WAY);
    let traced = traced("h2-streams");
    let server = Nghttpd::start_on(traced.first_place().namespace(&server), tun::SERVER);
    let client = traced.first_place().namespace(&client);
    let (seen, told) = check_between(&traced, client, &server, &STREAMS, &["/index.html"]);
    for share in [0.5, 0.99] {
        let (seen, told) = (percentile(&seen, share), percentile(&told, share));
        println!("p{}: {seen} ns seen, {told} ns by h2load", share * 100.0);
        assert_within("a percentile of the requests' times", seen, told, 0.05);
    }
}

/// What h2load adds makes its times the longer ones, each of them.
#[test]
fn a_hundred_streams_at_once_are_told_apart() {
    let (mut seen, mut told) = check("h2-loopback", &STREAMS, &["/index.html"]);
    seen.sort_unstable();
    told.sort_unstable();
    assert_eq!(seen.len() + 1, told.len(), "one request opened the connection");
    for (seen, told) in seen.iter().rev().zip(told.iter().rev()) {
        // The log has whole microseconds.
        assert!(*seen < told + 1000, "{seen} ns seen, {told} ns by h2load");
    }
}

#[test]
fn one_request_after_the_other_is_one_span_after_the_other() {
    check("h2-single", &["-n", "1000", "-c", "1", "-m", "1"], &BOTH);
}

#[test]
fn fifty_connections_are_told_apart() {
    check("h2-connections", &["-n", "4000", "-c", "50", "-m", "10"], &BOTH);
}

#[test]
fn a_connection_that_is_older_than_the_agent_is_joined() {
    let cgroup = Cgroup::new("h2-late");
    let place = Place::cgroup(&cgroup);
    let server = Nghttpd::start(place);
    let url = format!("http://{}/index.html", server.address);
    // Long enough for an agent that takes seconds to start beside other tests.
    let load = H2load::start(place, &["-n", "1000000", "-D", "12", "-c", "1", "-m", "1", "--rps=50", &url]);
    let client = load.pid();
    // So that it has made its first requests, whose fields are in the tables from then on.
    clock::pace(Duration::from_secs(1));
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup));
    let truth = load.finish();
    let spans = agent.wait_for("spans of both ends", BOUND, |spans| {
        of(spans, "client", client).len() > 20 && of(spans, "server", server.pid()).len() > 20
    });
    for (kind, pid) in [("client", client), ("server", server.pid())] {
        let own = of(&spans, kind, pid);
        assert!(own.len() < truth.len(), "{} {kind} spans of {} requests", own.len(), truth.len());
        for span in own {
            assert_eq!((span.http_status(), span.status.as_str()), (Some(200), "ok"), "{span:?}");
            // Method and path are in the static table; the server's name is not, and it is not invented.
            assert_eq!((span.name.as_str(), span.path()), ("GET /index.html", "/index.html"), "{span:?}");
            assert!(span.attribute("spantap.http.unresolved_headers").is_some(), "{span:?}");
        }
    }
}
