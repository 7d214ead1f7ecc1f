//! Cost at a fixed rate: CPU time of the traced per request, of the agent per span, and the client's own latency.

use std::{
    io::{BufRead, BufReader},
    time::Duration,
};

use spantap_tests::{
    agent::Agent,
    cgroup::Cgroup,
    clock,
    http::{Place, actor},
    process::Process,
    realtime, schedstat,
};

use crate::{
    Bench,
    client::Report,
    load::{Load, Running},
    mode::{Losses, Mode, Tracer},
    table::{Spread, Table},
};

/// Before the counters are read: caches, connections between servers, the agent's own tables.
const WARM_UP: &str = "seconds=1";
/// After the last answer: the agent's work for these requests belongs to them.
const SETTLE: Duration = Duration::from_millis(500);
/// Any will do: nothing else has one.
const REALTIME_PRIORITY: i32 = 10;
/// The CPU that client and server share where a load is pinned.
const CPU: usize = 1;

struct Sample {
    traced_us: f64,
    agent: Option<AgentCost>,
    report: Report,
}

struct AgentCost {
    us: f64,
    spans: u64,
}

/// Measures a load in every mode and prints its table.
pub fn run(bench: &Bench, load: Load, rate: u64) {
    let mut losses = Losses::default();
    let samples = bench.interleaved(&bench.modes, |mode| measure(bench, load, mode, rate, &mut losses));
    print(load, rate, bench, &samples);
    losses.print();
}

fn measure(bench: &Bench, load: Load, mode: Mode, rate: u64, losses: &mut Losses) -> Sample {
    let cgroup = Cgroup::new("bench");
    let place = Place::cgroup(&cgroup);
    let place = if load.is_pinned() { place.cpu(CPU) } else { place };
    let tracer = Tracer::start(mode, &cgroup, bench);
    let server = load.start(place);
    let rate = format!("rate={rate}");
    let burst = format!("burst={}", bench.burst);
    paced(place, load, &server, &[&rate, &burst, WARM_UP]).finish();

    let spans_before = tracer.agent().map_or(0, spans);
    let client = paced(place, load, &server, &[&rate, &burst, &format!("seconds={}", bench.seconds)]);
    run_first(&cgroup);
    let agent_cpu = || tracer.agent().map_or(0, |agent| schedstat::running_ns(agent.pid()));
    let (cgroup_before, agent_before) = (cgroup.cpu_usec(), agent_cpu());
    let report = client.finish();
    let traced_us = (cgroup.cpu_usec() - cgroup_before) as f64;
    clock::pace(SETTLE);
    let agent_us = (agent_cpu() - agent_before) as f64 / 1e3;
    let agent = tracer.agent().map(|agent| AgentCost { us: agent_us, spans: spans(agent) - spans_before });
    losses.add(mode, &tracer);
    Sample { traced_us: traced_us / report.requests as f64, agent, report }
}

/// Lets nothing else of a busy machine come between the load's own threads: waiting behind others would be measured as latency,
/// and their traces in the caches as the cost of tracing.
fn run_first(cgroup: &Cgroup) {
    let path = cgroup.path().join("cgroup.threads");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    for tid in text.lines() {
        realtime::give(tid.parse().expect("a thread's id"), REALTIME_PRIORITY);
    }
}

fn spans(agent: &Agent) -> u64 {
    agent.status()["spans_total"].as_u64().expect("status has spans_total")
}

/// A paced client that has connected.
pub struct Paced {
    _process: Process,
    output: BufReader<std::process::ChildStdout>,
}

/// Starts it; its first request is some milliseconds away when this returns.
pub fn paced(place: Place, load: Load, server: &Running, args: &[&str]) -> Paced {
    let launch = actor("paced").arg(format!("address={}", server.address())).args(args);
    let launch = launch.args([format!("protocol={}", load.protocol()), format!("path={}", load.path())]);
    let mut process = place.apply(launch.stdout_piped()).spawn();
    let mut output = BufReader::new(process.stdout());
    let mut line = String::new();
    output.read_line(&mut line).expect("the client says that it is connected");
    assert_eq!(line.trim(), "ready", "the client did not connect");
    Paced { _process: process, output }
}

impl Paced {
    /// Waits for its report.
    pub fn finish(mut self) -> Report {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the client reports");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("not a report: {error}: {line:?}"))
    }
}

fn print(load: Load, rate: u64, bench: &Bench, samples: &[Vec<Sample>]) {
    println!("## {}\n", load.title());
    println!(
        "{rate} requests/s on one connection{} for {} s, {} rounds; {}, differences within a round. Client and server {}.\n",
        if bench.burst > 1 { format!(", {} one after the other at a time,", bench.burst) } else { String::new() },
        bench.seconds,
        bench.rounds,
        Spread::legend(bench.rounds),
        if load.is_pinned() { "share one CPU" } else { "run on any CPU" }
    );
    let mut table = Table::new(&[
        "mode",
        "traced CPU us/request",
        "over off",
        "over off, us per message and side",
        "over off, %",
        "agent CPU us/request",
        "agent CPU us/span",
        "spans/request",
        "p50 us",
        "p99 us",
        "late",
    ]);
    for (mode, of_mode) in bench.modes.iter().zip(samples) {
        table.row(row(*mode, load, &samples[0], of_mode));
    }
    table.print();
}

fn row(mode: Mode, load: Load, off: &[Sample], samples: &[Sample]) -> Vec<String> {
    let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value));
    let mut cells = vec![mode.label().to_owned(), spread(|sample| sample.traced_us).show(2)];
    if mode == Mode::Off {
        cells.extend(["", "", ""].map(str::to_owned));
    } else {
        // Within a round, so that what drifts over the run does not count.
        let pairs = || samples.iter().zip(off).map(|(sample, off)| (sample.traced_us, off.traced_us));
        let per_side = |(with, without): (f64, f64)| (with - without) / load.message_sides() as f64;
        cells.push(Spread::of(pairs().map(|(with, without)| with - without)).show(2));
        cells.push(Spread::of(pairs().map(per_side)).show(2));
        cells.push(Spread::of(pairs().map(|(with, without)| (with / without - 1.0) * 100.0)).show(1));
    }
    cells.extend(agent_cells(samples));
    cells.push(spread(|sample| sample.report.p50_ns as f64 / 1e3).show(1));
    cells.push(spread(|sample| sample.report.p99_ns as f64 / 1e3).show(1));
    cells.push(samples.iter().map(|sample| sample.report.late).sum::<u64>().to_string());
    cells
}

/// CPU time of the agent per request and per span, and spans per request.
fn agent_cells(samples: &[Sample]) -> [String; 3] {
    let cost = |value: fn(&AgentCost, f64) -> Option<f64>| {
        let values = samples.iter().filter_map(|sample| value(sample.agent.as_ref()?, sample.report.requests as f64));
        let values: Vec<f64> = values.collect();
        if values.is_empty() { String::new() } else { Spread::of(values.into_iter()).show(2) }
    };
    [
        cost(|agent, requests| Some(agent.us / requests)),
        cost(|agent, _| (agent.spans > 0).then(|| agent.us / agent.spans as f64)),
        cost(|agent, requests| Some(agent.spans as f64 / requests)),
    ]
}
