//! The ways in which a load is measured: without anything, with empty programs, with the agent.

use std::collections::BTreeMap;

use serde_json::Value;
use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
};

use crate::{
    Bench,
    floor::{self, Floor},
};

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is attached.
    Off,
    /// An empty program on each hook that the agent uses.
    Floor,
    /// The agent selects a cgroup in which nothing runs.
    Attached,
    /// The agent selects nothing of the load, but times every connection of the host.
    Timing,
    /// The agent selects the load: payload, spans, segments.
    Full,
}

impl Mode {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 5] = [Self::Off, Self::Floor, Self::Attached, Self::Timing, Self::Full];

    /// Those that a list of names has, in the order of [`Mode::ALL`]. The first is [`Mode::Off`]: the others are told by it.
    pub fn listed(names: &str) -> Vec<Self> {
        let wanted: Vec<&str> = names.split(',').collect();
        let unknown = wanted.iter().find(|name| Self::ALL.iter().all(|mode| mode.name() != **name));
        assert!(unknown.is_none(), "no mode `{}`", unknown.unwrap_or(&""));
        Self::ALL.into_iter().filter(|mode| *mode == Self::Off || wanted.contains(&mode.name())).collect()
    }

    /// Its name in arguments.
    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Floor => "floor",
            Self::Attached => "attached",
            Self::Timing => "timing",
            Self::Full => "full",
        }
    }

    /// Its name in the tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Floor => "floor (empty programs)",
            Self::Attached => "attached, nothing selected",
            Self::Timing => "timing only",
            Self::Full => "full",
        }
    }
}

/// What is attached while a sample is taken; it goes with the guard.
pub enum Tracer {
    /// Nothing.
    None,
    /// Empty programs.
    Floor(#[expect(dead_code, reason = "held so that the programs stay attached")] Floor),
    /// The agent.
    Agent(Box<Agent>),
}

impl Tracer {
    /// Attaches what a mode says.
    pub fn start(mode: Mode, load: &Cgroup, bench: &Bench) -> Self {
        let agent = |options: AgentOptions| {
            Self::Agent(Box::new(Agent::start(&options.flag("--syscall-hooks", &bench.syscall_hooks))))
        };
        match mode {
            Mode::Off => Self::None,
            Mode::Floor => Self::Floor(Floor::attach(&bench.hooks)),
            Mode::Attached => agent(AgentOptions::cgroup(&bench.idle)),
            Mode::Timing => agent(AgentOptions::cgroup(&bench.idle).timing_of_unselected()),
            Mode::Full => agent(AgentOptions::cgroup(load)),
        }
    }

    /// The agent, if there is one.
    pub fn agent(&self) -> Option<&Agent> {
        match self {
            Self::Agent(agent) => Some(agent),
            _ => None,
        }
    }
}

/// What the agent of a mode lost over all rounds, by reason.
#[derive(Default)]
pub struct Losses(BTreeMap<(&'static str, String), u64>);

impl Losses {
    /// Adds what was lost in a sample.
    pub fn add(&mut self, mode: Mode, tracer: &Tracer) {
        for (reason, count) in tracer.agent().map(Agent::losses).unwrap_or_default() {
            *self.0.entry((mode.label(), reason)).or_default() += count;
        }
    }

    /// Says it in one line: a tracer that loses records is cheaper than one that does not.
    pub fn print(&self) {
        let one = |((mode, reason), count): (&(&str, String), &u64)| format!("{mode}: {reason} {count}");
        let all: Vec<String> = self.0.iter().map(one).collect();
        println!("Lost in all rounds: {}.\n", if all.is_empty() { "nothing".to_owned() } else { all.join("; ") });
    }
}

/// Tracepoints that an agent attached; each of them can carry an empty program.
pub fn hooks_of_the_agent(idle: &Cgroup, syscall_hooks: &str) -> Vec<String> {
    let agent = Agent::start(&AgentOptions::cgroup(idle).flag("--syscall-hooks", syscall_hooks));
    let status = agent.status();
    agent.stop();
    let hooks = status["hooks"].as_array().cloned().unwrap_or_default();
    let text = |hook: &Value, key: &str| hook[key].as_str().unwrap_or_default().to_owned();
    // Of single system calls: an empty program would be at every one.
    let may_be_empty =
        |hook: &&Value| !text(hook, "detail").contains("syscalls") && floor::has_tracepoint(&text(hook, "name"));
    let (with, without): (Vec<_>, Vec<_>) =
        hooks.iter().filter(|hook| hook["attached"] == true).partition(may_be_empty);
    let [with, without] =
        [with, without].map(|hooks| hooks.into_iter().map(|hook| text(hook, "name")).collect::<Vec<_>>());
    println!("Floor: {}.", with.join(", "));
    if !without.is_empty() {
        println!("The agent has these besides, which the floor has not: {}.", without.join(", "));
    }
    println!();
    with
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_always_measured_and_first() {
        assert_eq!(Mode::listed("full,floor"), [Mode::Off, Mode::Floor, Mode::Full]);
    }
}
