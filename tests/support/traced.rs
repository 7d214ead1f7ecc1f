//! The usual arrangement: a cgroup of the test's own, and an agent that selects it.

use crate::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    http::Place,
};

/// A cgroup and the agent that traces what runs in it. The agent ends first.
pub struct Traced {
    /// The agent.
    pub agent: Agent,
    /// The cgroup.
    pub cgroup: Cgroup,
}

impl Traced {
    /// Starts the agent with no more than the selection.
    pub fn new(label: &str) -> Self {
        Self::with(label, |options| options)
    }

    /// Starts the agent with more options.
    pub fn with(label: &str, more: impl FnOnce(AgentOptions) -> AgentOptions) -> Self {
        let cgroup = Cgroup::new(label);
        Self { agent: Agent::start(&more(AgentOptions::cgroup(&cgroup))), cgroup }
    }

    /// In the cgroup.
    pub fn place(&self) -> Place<'_> {
        Place::cgroup(&self.cgroup)
    }
}
