//! Connections that are older than the agent are picked up, and say so.
//!
//! Truth: the client's own list of requests on one connection that it opened before the agent started.

use std::time::Duration;

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    http::{Client, Place, Server},
    span::{Span, by_path},
};

#[test]
fn requests_on_an_older_connection_are_spans_that_say_so() {
    let cgroup = Cgroup::new("older");
    let place = Place::cgroup(&cgroup);
    let server = Server::start(place);
    let client = Client::start(place, &server.address, &["count=400", "rate=40", "linger_ms=500"]);
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup));
    let own = client.finish();
    let last = &own.last().expect("the client made requests").path;
    let spans = agent.wait_for("the last request", Duration::from_secs(15), |spans| {
        spans.iter().filter(|span| span.path() == last).count() == 2
    });
    let paths = by_path(&spans);
    let whole =
        own.iter().rev().take_while(|exchange| paths.get(exchange.path.as_str()).is_some_and(|pair| pair.len() == 2));
    assert!(whole.count() > 20, "requests after the start have a span at each end: {spans:#?}");
    assert!(spans.len() <= 2 * own.len(), "more spans than requests");
    let marked = |span: &Span| span.attribute("spantap.connection.preexisting").and_then(|value| value.as_bool());
    assert!(spans.iter().all(|span| marked(span) == Some(true)), "{spans:#?}");
}
