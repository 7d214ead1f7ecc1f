//! The agent's resident memory while it traces a high rate.

use spantap_tests::{cgroup::Cgroup, http::Place};

use crate::{
    Bench,
    fixed::paced,
    load::Load,
    mode::{Mode, Tracer},
    table::Table,
};

const CONNECTIONS: u64 = 8;

/// Runs nginx at a rate for as long as five samples and prints what the agent took.
pub fn run(bench: &Bench, rate: u64) {
    let cgroup = Cgroup::new("bench");
    let place = Place::cgroup(&cgroup);
    let tracer = Tracer::start(Mode::Full, &cgroup, bench);
    let agent = tracer.agent().expect("this mode has an agent");
    let before = status_kib(agent.pid(), "VmRSS");
    let server = Load::Nginx.start(place);
    let seconds = 5 * bench.seconds;
    let args = [format!("rate={rate}"), format!("seconds={seconds}"), format!("connections={CONNECTIONS}")];
    let report = paced(place, Load::Nginx, &server, &args.each_ref().map(String::as_str)).finish();
    let after = status_kib(agent.pid(), "VmRSS");
    let most = status_kib(agent.pid(), "VmHWM");
    let spans = agent.status()["spans_total"].as_u64().unwrap_or(0);
    println!("## The agent's memory\n");
    println!(
        "nginx, 1 KiB, {rate} requests/s asked for on {CONNECTIONS} connections for {seconds} s; both ends traced.\n"
    );
    let mut table = Table::new(&["requests/s", "spans", "losses", "idle MiB", "at the end MiB", "most MiB"]);
    let losses: Vec<String> = agent.losses().iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    table.row(vec![
        format!("{:.0}", report.requests as f64 / (report.elapsed_ns as f64 / 1e9)),
        spans.to_string(),
        if losses.is_empty() { "none".to_owned() } else { losses.join(", ") },
        mib(before),
        mib(after),
        mib(most),
    ]);
    table.print();
}

/// A field of a process's `/proc/<pid>/status` in KiB.
pub fn status_kib(pid: u32, field: &str) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = value.and_then(|value| value.trim().split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {field} in {path}"))
}
