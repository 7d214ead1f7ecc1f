//! What tracing costs the traced, and what the agent itself costs.
//!
//! In: `[what=LIST] [seconds=S] [rounds=N] [modes=LIST] [rate.LOAD=R] [burst=N] [syscall_hooks=sockets|every|io]`. Out: tables in Markdown on
//! standard output. `modes` (`mode.rs`) and `burst` (`client.rs`) are for fixed rates.
//! `what` names any of the loads `ping`, `redis`, `nginx`, `app`, `fastapi` (fixed rate), `saturation`, `syscall`, `memory`, `ask`, `size`, `relay` (see
//! `relay.rs`), by default all of these, and `queue`, which needs 10 GB of disk. Each table comes from one run in which the modes take turns (see `mode.rs`).
//!
//! Called by `cargo xtask bench`. Limits: both ends of every connection run on this host, and within the traced cgroup. On a
//! shared machine trust the ratios, not the digits.

mod app;
mod ask;
mod client;
mod fastapi;
mod fixed;
mod floor;
mod load;
mod memory;
mod mode;
mod postgres;
mod queue;
mod relay;
mod saturation;
mod size;
mod syscall;
mod table;

use spantap_tests::{
    actors::{self, Arguments},
    cgroup::Cgroup,
    process::require_root,
};

use load::Load;
use mode::Mode;

/// What all measurements share.
pub struct Bench {
    /// Seconds of a sample.
    pub seconds: u64,
    /// Samples of each mode.
    pub rounds: usize,
    /// What is measured at fixed rates.
    pub modes: Vec<Mode>,
    /// Requests that begin together at fixed rates, one after the other.
    pub burst: u64,
    /// A cgroup in which nothing runs.
    pub idle: Cgroup,
    /// The tracepoints that the agent attaches.
    pub hooks: Vec<String>,
    /// `capture.syscall_hooks` of the agent.
    pub syscall_hooks: String,
}

impl Bench {
    /// Samples of each mode, in the order of the modes, taken in turns. Each round begins with another mode, so that none always follows
    /// the same one.
    pub fn interleaved<T>(&self, modes: &[Mode], mut measure: impl FnMut(Mode) -> T) -> Vec<Vec<T>> {
        let mut samples: Vec<Vec<T>> = modes.iter().map(|_| Vec::new()).collect();
        for round in 0..self.rounds {
            for offset in 0..modes.len() {
                let index = (round + offset) % modes.len();
                samples[index].push(measure(modes[index]));
            }
        }
        samples
    }
}

fn main() {
    let args = || std::env::args().skip(1).filter(|arg| arg != "--bench");
    if client::run(args()) || actors::run(args()) {
        return;
    }
    require_root();
    let arguments = Arguments::new(args());
    let what: String =
        arguments.get("what", "relay,size,ping,redis,nginx,app,fastapi,saturation,syscall,memory,ask".to_owned());
    let wanted = |name: &str| what.split(',').any(|item| item == name);
    println!("Command: `cargo xtask bench -- {}`.", args().collect::<Vec<_>>().join(" "));
    println!("{}", machine());
    let (seconds, rounds) = (arguments.get("seconds", 4), arguments.get("rounds", 5));
    if wanted("relay") {
        relay::run(&arguments, seconds, rounds);
    }
    if wanted("size") {
        size::run(seconds);
    }
    if wanted("queue") {
        queue::run(&arguments);
    }
    if matches!(what.as_str(), "relay" | "size" | "queue") {
        return;
    }
    let idle = Cgroup::new("bench-idle");
    let syscall_hooks = arguments.get("syscall_hooks", "sockets".to_owned());
    let hooks = mode::hooks_of_the_agent(&idle, &syscall_hooks);
    let bench = Bench {
        seconds,
        rounds,
        modes: Mode::listed(&arguments.get("modes", "off,floor,attached,timing,full".to_owned())),
        burst: arguments.get("burst", 1),
        idle,
        hooks,
        syscall_hooks,
    };
    for load in Load::ALL.into_iter().filter(|load| wanted(load.name())) {
        let rate = arguments.get(&format!("rate.{}", load.name()), load.rate());
        fixed::run(&bench, load, rate);
    }
    if wanted("saturation") {
        Load::ALL.into_iter().for_each(|load| saturation::run(&bench, load));
    }
    if wanted("syscall") {
        syscall::run(&bench);
    }
    if wanted("memory") {
        memory::run(&bench, arguments.get("rate.memory", 20_000));
    }
    if wanted("ask") {
        ask::run(&bench, arguments.get("rate.ask", 10_000));
    }
}

/// Kernel and processors.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("Machine: {count} x {}, Linux {}.", model.trim_start_matches(['\t', ':', ' ']), kernel.trim())
}
