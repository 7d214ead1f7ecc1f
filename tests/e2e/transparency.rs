//! Applications cannot tell whether the agent is there: bytes, return values, errno and short reads are the same.
//!
//! Truth: the transcript of the same calls without the agent, and curl's checksum of a file. That the agent was there is known by
//! its spans of the same process.

use std::time::Duration;

use spantap_tests::{
    agent::{Agent, AgentOptions},
    http::{Place, actor},
    nginx::Nginx,
    process::{Launch, tool},
    span::Span,
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(20);

/// The transcript, and whose it is.
fn transcript(place: Place) -> (String, u32) {
    let process = place.apply(actor("transcript").stdout_piped()).spawn();
    let pid = process.pid();
    let text = process.finish(BOUND);
    assert!(text.lines().count() > 50, "that is no transcript: {text}");
    (text, pid)
}

fn wait_for_span(agent: &Agent, what: &str, wanted: impl Fn(&Span) -> bool) {
    agent.wait_for(what, BOUND, |spans| spans.iter().any(&wanted));
}

#[test]
fn every_call_gives_the_same_with_payload_traced() {
    let (without, _) = transcript(Place::default());
    let traced = Traced::new("transcript");
    let (with, pid) = transcript(traced.place());
    assert_eq!(with, without);
    wait_for_span(&traced.agent, "its request", |span| span.pid == pid && span.path() == "/transcript");
}

#[test]
fn every_call_gives_the_same_with_timing_only() {
    let (without, _) = transcript(Place::default());
    let agent = Agent::start(&AgentOptions::none().timing_of_unselected());
    let (with, pid) = transcript(Place::default());
    assert_eq!(with, without);
    wait_for_span(&agent, "its times", |span| span.pid == pid && span.protocol == "tcp");
}

#[test]
fn a_file_arrives_unchanged() {
    let checksum = |place: Place| {
        let nginx = Nginx::start(place);
        let get = "curl -sS --max-time 20 \"$1\" \"$1\" | sha256sum";
        let url = format!("http://{}/static/big", nginx.address);
        place.apply(Launch::new(tool("sh")).args(["-c", get, "sh", &url])).run()
    };
    let without = checksum(Place::default());
    let traced = Traced::new("checksum");
    assert_eq!(checksum(traced.place()), without);
    let both = |spans: &[Span]| ["client", "server"].map(|kind| spans.iter().filter(|span| span.kind == kind).count());
    traced.agent.wait_for("both requests at both ends", BOUND, |spans| both(spans) == [2, 2]);
}
