//! Connections that are older than the agent are picked up, and say so.
//!
//! Truth: the client's own list of requests on one connection that it opened before the agent started.

use std::time::Duration;

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::{Client, Place, Server},
    span::{Span, by_path, only},
    temp::TempDir,
};

const BOUND: Duration = Duration::from_secs(15);

#[test]
fn requests_on_an_older_connection_are_spans_that_say_so() {
    let cgroup = Cgroup::new("older");
    let place = Place::cgroup(&cgroup);
    let server = Server::start(place);
    let client = Client::start(place, &server.address, &["count=400", "rate=40", "linger_ms=500"]);
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup));
    let own = client.finish();
    let last = &own.last().expect("the client made requests").path;
    let spans =
        agent.wait_for("the last request", BOUND, |spans| spans.iter().filter(|span| span.path() == last).count() == 2);
    let paths = by_path(&spans);
    let whole =
        own.iter().rev().take_while(|exchange| paths.get(exchange.path.as_str()).is_some_and(|pair| pair.len() == 2));
    assert!(whole.count() > 20, "requests after the start have a span at each end: {spans:#?}");
    assert!(spans.len() <= 2 * own.len(), "more spans than requests");
    let marked = |span: &Span| span.attribute("spantap.connection.preexisting").and_then(|value| value.as_bool());
    assert!(spans.iter().all(|span| marked(span) == Some(true)), "{spans:#?}");
}

/// The connection is there before the agent, its first byte after.
fn check_silent_until_the_agent_is_there(server_arg: &str, client_arg: &str) {
    let (cgroup, folder) = (Cgroup::new("silent"), TempDir::new("gate"));
    let place = Place::cgroup(&cgroup);
    let server = Server::start_with(place, "127.0.0.1:0", &[server_arg]);
    let gate = format!("gate={}", folder.path().display());
    let client = Client::start(place, &server.address, &[client_arg, &gate, "count=20", "path=/big/1000/"]);
    clock::wait_for("the client's connection", BOUND, || folder.join("connected").exists().then_some(()));
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup));
    folder.write("go", "");
    let own = client.finish();
    let spans = agent.wait_for_http(2 * own.len() - 1, BOUND);
    for (n, exchange) in own.iter().enumerate() {
        for kind in ["client", "server"] {
            // The server has been in its first read since before the agent: what such a call reads may go unseen.
            if n == 0 && kind == "server" && spans.len() < 2 * own.len() {
                assert_eq!(agent.losses().get("message_lost"), Some(&1), "what went unseen is counted");
                continue;
            }
            let span = only(&spans, kind, &exchange.path);
            assert_eq!((span.http_status(), span.status.as_str()), (Some(200), "ok"), "{span:?}");
            assert_eq!(span.attribute("http.response.body.size").and_then(|value| value.as_u64()), Some(1000));
        }
    }
    assert!(own.len() == 20 && spans.len() <= 40, "{spans:#?}");
}

#[test]
fn an_older_connection_that_was_silent_is_seen() {
    check_silent_until_the_agent_is_there("read=plain", "mode=steady");
}

#[test]
fn bytes_peeked_on_an_older_connection_are_counted_once() {
    check_silent_until_the_agent_is_there("read=peek", "mode=peek");
}
