//! What tracing costs the traced, and what the agent itself costs.
//!
//! In: `[rate=R] [seconds=S] [rounds=N] [server=nginx|actor]`. Out: a table on standard output. At a fixed request rate,
//! in one interleaved run, with the agent off, attached but selecting nothing that runs, timing the whole host, and
//! selecting the load: CPU time per request of the traced cgroup (`cpu.stat` of a cgroup that holds server and client),
//! CPU time per request of the agent (`schedstat` of its threads), and the client's own latency.
//!
//! Called by `cargo xtask bench`. Limits: one connection; on a shared machine trust the ratios, not the digits.

use std::time::Duration;

use spantap_tests::{
    actors::{self, Arguments},
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::{Client, Place, Server},
    nginx::Nginx,
    process::require_root,
    schedstat,
    stats::{median, median_f64, percentile},
};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Off,
    NotSelecting,
    Timing,
    Selecting,
}

const MODES: [Mode; 4] = [Mode::Off, Mode::NotSelecting, Mode::Timing, Mode::Selecting];

struct Load {
    rate: u64,
    seconds: u64,
    rounds: usize,
    nginx: bool,
}

#[derive(Clone, Copy)]
struct Sample {
    traced_us: f64,
    agent_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A server that ends with the guard.
enum Running {
    Nginx(Nginx),
    Actor(Server),
}

fn main() {
    if actors::run(std::env::args().skip(1)) {
        return;
    }
    require_root();
    let arguments = Arguments::new(std::env::args().skip(1).filter(|arg| arg != "--bench"));
    let load = Load {
        rate: arguments.get("rate", 2_000),
        seconds: arguments.get("seconds", 4),
        rounds: arguments.get("rounds", 5),
        nginx: arguments.get("server", "nginx".to_owned()) == "nginx",
    };
    let requests = load.rate * load.seconds;
    println!(
        "{} requests/s, {requests} requests a sample, {} interleaved rounds, 1 connection",
        load.rate, load.rounds
    );
    let mut samples = MODES.map(|_| Vec::new());
    for round in 0..load.rounds {
        // Each round begins with another mode, so that none always follows the same one.
        for offset in 0..MODES.len() {
            let index = (round + offset) % MODES.len();
            samples[index].push(measure(MODES[index], &load));
        }
    }
    print_table(&samples);
}

fn measure(mode: Mode, load: &Load) -> Sample {
    let cgroup = Cgroup::new("bench");
    let idle = Cgroup::new("bench-idle");
    let agent = options(mode, &cgroup, &idle).map(|options| Agent::start(&options));
    let place = Place::cgroup(&cgroup);
    let server = if load.nginx { Running::Nginx(Nginx::start(place)) } else { Running::Actor(Server::start(place)) };
    let count = format!("count={}", load.rate * load.seconds);
    let rate = format!("rate={}", load.rate);

    let agent_cpu = || agent.as_ref().map_or(0, |agent| schedstat::running_ns(agent.pid()));
    let (cgroup_before, agent_before) = (cgroup.cpu_usec(), agent_cpu());
    let own = Client::start(place, server.address(), &[&count, &rate]).finish();
    let traced_us = (cgroup.cpu_usec() - cgroup_before) as f64;
    // What the agent still does for these requests belongs to them.
    clock::pace(Duration::from_millis(300));
    let agent_us = (agent_cpu() - agent_before) as f64 / 1e3;

    let times: Vec<u64> = own.iter().map(|exchange| exchange.end_ns - exchange.start_ns).collect();
    let requests = own.len() as f64;
    Sample {
        traced_us: traced_us / requests,
        agent_us: agent_us / requests,
        p50_us: median(&times) as f64 / 1e3,
        p99_us: percentile(&times, 0.99) as f64 / 1e3,
    }
}

fn options(mode: Mode, load: &Cgroup, idle: &Cgroup) -> Option<AgentOptions> {
    match mode {
        Mode::Off => None,
        Mode::NotSelecting => Some(AgentOptions::cgroup(idle)),
        Mode::Timing => Some(AgentOptions::cgroup(idle).timing_of_unselected()),
        Mode::Selecting => Some(AgentOptions::cgroup(load)),
    }
}

fn print_table(samples: &[Vec<Sample>; 4]) {
    println!(
        "{:<28} {:>16} {:>8} {:>16} {:>10} {:>10}",
        "agent", "traced us/req", "x off", "agent us/req", "p50 us", "p99 us"
    );
    let middle =
        |index: usize, value: fn(&Sample) -> f64| median_f64(&samples[index].iter().map(value).collect::<Vec<_>>());
    let off = middle(0, |sample| sample.traced_us);
    for (index, mode) in MODES.iter().enumerate() {
        let traced = middle(index, |sample| sample.traced_us);
        println!(
            "{:<28} {traced:>16.2} {:>8.3} {:>16.2} {:>10.1} {:>10.1}",
            mode.label(),
            traced / off,
            middle(index, |sample| sample.agent_us),
            middle(index, |sample| sample.p50_us),
            middle(index, |sample| sample.p99_us)
        );
    }
}

impl Mode {
    fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NotSelecting => "attached, not selecting",
            Self::Timing => "timing of the whole host",
            Self::Selecting => "selecting",
        }
    }
}

impl Running {
    fn address(&self) -> &str {
        match self {
            Self::Nginx(nginx) => &nginx.address,
            Self::Actor(server) => &server.address,
        }
    }
}
