//! Applications cannot tell whether the agent is there: bytes, return values, errno and short reads are the same.
//!
//! Truth: the transcript of the same calls without the agent, and curl's checksum of a file.

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    http::{Place, actor},
    nginx::Nginx,
    process::{Launch, tool},
    traced::Traced,
};

fn transcript(place: Place) -> String {
    place.apply(actor("transcript")).run()
}

#[test]
fn every_call_gives_the_same_with_payload_traced() {
    let without = transcript(Place::default());
    let traced = Traced::new("transcript");
    assert_eq!(transcript(traced.place()), without);
}

#[test]
fn every_call_gives_the_same_with_timing_only() {
    let without = transcript(Place::default());
    let cgroup = Cgroup::new("timing");
    let agent = Agent::start(&AgentOptions::none().timing_of_unselected());
    assert_eq!(transcript(Place::cgroup(&cgroup)), without);
    drop(agent);
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
}
