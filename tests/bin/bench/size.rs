//! How large the agent's own spans are, in its log and on the way: what the sizing of a fleet starts from.
//!
//! In: loads at a fixed rate. Out: a table of bytes per span as they come to a sink by OTLP/HTTP, by compression, from one run with a
//! destination for each. The same spans go to all of them.

use std::time::Duration;

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::Place,
};

use crate::{fixed::paced, load::Load, relay::sink::Sink, table::Table};

const COMPRESSIONS: [&str; 3] = ["none", "gzip", "zstd"];
const BOUND: Duration = Duration::from_secs(30);

/// Measures and prints.
pub fn run(seconds: u64) {
    println!("## Size of spans\n");
    println!("Both ends traced, one connection, for {seconds} s; the default compression levels.\n");
    let mut table = Table::new(&["load", "spans", "bytes/span", "gzip", "zstd"]);
    for load in [Load::Redis, Load::Nginx, Load::App] {
        table.row(measure(load, seconds));
    }
    table.print();
}

fn measure(load: Load, seconds: u64) -> Vec<String> {
    let cgroup = Cgroup::new("bench");
    let sinks = COMPRESSIONS.map(|_| Sink::start());
    let destination = |(name, sink): (&str, &Sink)| {
        format!("    - {{ name: {name}, url: 'otlp+http://{}/v1/traces', compression: {name} }}\n", sink.address())
    };
    let destinations: String = COMPRESSIONS.into_iter().zip(&sinks).map(destination).collect();
    let config = format!("export:\n  destinations:\n{destinations}");
    let agent = Agent::start(&AgentOptions { config, ..AgentOptions::cgroup(&cgroup) });
    let place = Place::cgroup(&cgroup);
    let server = load.start(place);
    let args = [format!("rate={}", load.rate().min(1000)), format!("seconds={seconds}"), "connections=1".to_owned()];
    paced(place, load, &server, &args.each_ref().map(String::as_str)).finish();
    drop(server); // its connections end, and with them their spans
    let spans = clock::wait_for("all spans at each sink", BOUND, || {
        let spans = agent.status()["spans_total"].as_u64().expect("a number");
        sinks.iter().all(|sink| sink.spans() == spans).then_some(spans)
    });
    let of = |sink: &Sink| format!("{:.0}", sink.requests().1 as f64 / spans as f64);
    [load.title().to_owned(), spans.to_string()].into_iter().chain(sinks.iter().map(of)).collect()
}
