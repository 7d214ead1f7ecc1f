//! What it costs to ask the agent: its own CPU time for each question, and how long the answer takes.
//!
//! In: a rate. Out: a table. The log has the spans of nginx and of its client at that rate, and then nothing runs but the questions,
//! which take turns.

use std::time::Instant;

use spantap_tests::{cgroup::Cgroup, http::Place, schedstat::cpu_ns};

use crate::{
    Bench,
    fixed::paced,
    load::Load,
    mode::{Mode, Tracer},
    table::{Spread, Table},
};

const CONNECTIONS: u64 = 8;

/// Each looks at every span, but for those that no block of the log can match.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("the newest hundred", &["spans"]),
    ("the slowest ten", &["slow"]),
    ("groups by service, kind and name", &["top"]),
    ("groups by service and peer", &["top", "--by", "service,peer"]),
    ("groups by an attribute", &["top", "--by", "http.response.status_code"]),
    ("errors", &["spans", "--status", "error"]),
    ("by an attribute that all have", &["spans", "--attribute", "http.response.status_code=5??"]),
    ("by an attribute that none has", &["spans", "--attribute", "absent=*"]),
];

/// Fills the log at a rate for as long as five samples, asks and prints.
pub fn run(bench: &Bench, rate: u64) {
    let cgroup = Cgroup::new("bench");
    let place = Place::cgroup(&cgroup);
    let tracer = Tracer::start(Mode::Full, &cgroup, bench);
    let agent = tracer.agent().expect("this mode has an agent");
    let server = Load::Nginx.start(place);
    let seconds = 5 * bench.seconds;
    let args = [format!("rate={rate}"), format!("seconds={seconds}"), format!("connections={CONNECTIONS}")];
    let report = paced(place, Load::Nginx, &server, &args.each_ref().map(String::as_str)).finish();
    drop(server);
    let status = || agent.status();
    let spans = spantap_tests::clock::wait_for("every span is in the log", std::time::Duration::from_secs(30), || {
        let (total, log) = (status()["spans_total"].as_u64()?, status()["log"]["spans_appended"].as_u64()?);
        (total == log && total >= report.requests).then_some(total)
    });
    let bytes = status()["log"]["bytes"].as_u64().unwrap_or(0);
    println!("## Asking\n");
    println!(
        "{spans} spans of nginx and its client, {:.0} MiB of log; {} rounds; {}.\n",
        bytes as f64 / f64::from(1 << 20),
        bench.rounds,
        Spread::legend(bench.rounds)
    );
    let mut samples: Vec<Vec<(f64, f64)>> = QUESTIONS.iter().map(|_| Vec::new()).collect();
    for _ in 0..bench.rounds {
        for ((_, args), samples) in QUESTIONS.iter().zip(&mut samples) {
            let (began, before) = (Instant::now(), cpu_ns(agent.pid()));
            agent.answer(args.iter().copied().chain(["--since", "1h", "--json"]));
            let cpu_ns = (cpu_ns(agent.pid()) - before) as f64;
            samples.push((began.elapsed().as_secs_f64() * 1e3, cpu_ns / 1e3 / spans as f64));
        }
    }
    let mut table = Table::new(&["question", "command", "answer ms", "agent us/span"]);
    for ((question, args), samples) in QUESTIONS.iter().zip(samples) {
        let answer = Spread::of(samples.iter().map(|(ms, _)| *ms));
        let cost = Spread::of(samples.iter().map(|(_, us)| *us));
        let command = format!("`spantap {}`", args.join(" "));
        table.row(vec![(*question).to_owned(), command, answer.show(0), cost.show(3)]);
    }
    table.print();
}
