//! The usual arrangement: a cgroup of the test's own, and an agent that selects it.

use crate::{
    agent::{Agent, AgentOptions},
    cgroup::{Cgroup, Limit},
    http::Place,
};

/// A cgroup and the agent that traces what runs in it. The agent ends first.
pub struct Traced {
    /// The agent.
    pub agent: Agent,
    /// The cgroup.
    pub cgroup: Cgroup,
    /// A group that gets CPU time before the host's other work.
    pub first: Limit,
}

impl Traced {
    /// Starts the agent with no more than the selection.
    pub fn new(label: &str) -> Self {
        Self::with(label, |options| options)
    }

    /// Starts the agent with more options.
    pub fn with(label: &str, more: impl FnOnce(AgentOptions) -> AgentOptions) -> Self {
        let cgroup = Cgroup::new(label);
        Self { agent: Agent::start(&more(AgentOptions::cgroup(&cgroup))), cgroup, first: Limit::cpu_first() }
    }

    /// In the cgroup.
    pub fn place(&self) -> Place<'_> {
        Place::cgroup(&self.cgroup)
    }

    /// In the cgroup, and before the host's other work, the agent's too: where the truth is a time by a program's own clock, what
    /// a busy host adds between the clock and the call would be nobody's. Not for loads that need all CPUs.
    pub fn first_place(&self) -> Place<'_> {
        Place { limits: [Some(&self.first), None], ..self.place() }
    }
}
