//! Names that were looked up, until the connection is opened that they were looked up for.
//!
//! In: answered lookups; connections that a client opened. Out: the [`Resolution`] that a connection had waited for: an
//! answer with its address ended before it was opened, and at most
//! [`crate::config::PipelineConfig::dns_to_connect_ns`] before. It spans all lookups of that name (IPv4 and IPv6 in
//! parallel, attempts that failed before) and counts for the first connection only.
//!
//! Limits: [`PER_PROCESS_MAX`] answers of a process and [`crate::config::PipelineConfig::datagrams_max`] processes; the
//! oldest are forgotten. Nothing is lost but the `dns` segment.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use agent_protocol::dns::Question;

use super::dns::Lookups;
use crate::{
    config::PipelineConfig,
    exchange::Context,
    flow::connection::{Facts, Role},
    segment::Step,
    span::Evidence,
};

/// Most answers kept of one process.
const PER_PROCESS_MAX: usize = 256;
/// Answers are looked at this often, to forget the old ones.
const SWEEP_NS: u64 = 1_000_000_000;

/// A lookup that was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The process that asked.
    pub pid: u32,
    /// The thread that asked and read the answer; 0 if they were several.
    pub tid: u32,
    /// What was looked up.
    pub name: String,
    /// When the first query began to be sent.
    pub start_ns: u64,
    /// When the answer was read.
    pub end_ns: u64,
    /// Addresses in the answer.
    pub addresses: Vec<IpAddr>,
    /// Queries that were sent.
    pub queries: u32,
    /// Those among them that repeated another one.
    pub retries: u32,
    /// What was asked, if that was over TCP: whoever does so no longer waits for an answer over UDP.
    pub over_tcp: Option<Question>,
}

/// Name resolution that a connection had waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// From the first query to the last answer that it needed. Derived, unless the thread that connected is `tid`.
    pub step: Step,
    /// The thread that did it; 0 if they were several.
    pub tid: u32,
    /// What was looked up.
    pub name: String,
    /// Queries that were sent.
    pub queries: u32,
    /// Those among them that repeated another one.
    pub retries: u32,
}

/// Answers by process, oldest first.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    by_process: HashMap<u32, VecDeque<Answered>>,
    swept_ns: u64,
}

impl Resolved {
    pub fn add(&mut self, answered: Answered, config: &PipelineConfig) {
        if self.by_process.len() >= config.datagrams_max && !self.by_process.contains_key(&answered.pid) {
            return;
        }
        let answers = self.by_process.entry(answered.pid).or_default();
        if answers.len() >= PER_PROCESS_MAX {
            answers.pop_front();
        }
        answers.push_back(answered);
    }

    pub fn forget(&mut self, pid: u32) {
        self.by_process.remove(&pid);
    }

    /// What this connection had waited for; taken out.
    pub fn take(&mut self, facts: &Facts, lookups: &Lookups, config: &PipelineConfig) -> Option<Resolution> {
        if facts.role != Some(Role::Client) || facts.preexisting || facts.opened_ns == 0 {
            return None;
        }
        let window_ns = config.dns_to_connect_ns;
        let ip = facts.peer.ip()?;
        let answers = self.by_process.get_mut(&facts.pid)?;
        let before = |answer: &Answered| answer.end_ns <= facts.opened_ns;
        let fits = |answer: &&Answered| {
            before(answer) && facts.opened_ns - answer.end_ns <= window_ns && answer.addresses.contains(&ip)
        };
        let used = answers.iter().rev().find(fits)?.clone();
        let (mut start_ns, mut end_ns, mut tid) = (used.start_ns, used.end_ns, used.tid);
        let (mut queries, mut retries) = (0_u32, 0_u32);
        for answer in answers.iter().rev().filter(|answer| before(answer) && answer.name == used.name) {
            if answer.end_ns.saturating_add(window_ns) < start_ns {
                break;
            }
            (start_ns, end_ns) = (start_ns.min(answer.start_ns), end_ns.max(answer.end_ns));
            queries = queries.saturating_add(answer.queries);
            retries = retries.saturating_add(answer.retries);
            tid = if answer.tid == tid { tid } else { 0 };
        }
        // One that is still waited for began with the others, and nothing more is known of it.
        if let Some(since_ns) = lookups.waits_since(facts.pid, &used.name)
            && since_ns <= end_ns
        {
            start_ns = start_ns.min(since_ns);
        }
        answers.retain(|answer| !(before(answer) && answer.name == used.name));
        let step = Step { start_ns, end_ns, evidence: Evidence::Derived };
        Some(Resolution { step, tid, name: used.name, queries, retries })
    }

    /// Forgets what is too old for any connection.
    pub fn tick(&mut self, context: &Context<'_>) {
        if self.by_process.is_empty() || context.now_ns < self.swept_ns.saturating_add(SWEEP_NS) {
            return;
        }
        self.swept_ns = context.now_ns;
        // A connection is told of when it is first used, which may be long after it was opened.
        let kept_ns = context.config.dns_to_connect_ns.saturating_add(context.config.dns_wait_ns);
        self.by_process.retain(|_, answers| {
            while answers.front().is_some_and(|answer| answer.end_ns.saturating_add(kept_ns) < context.now_ns) {
                answers.pop_front();
            }
            !answers.is_empty()
        });
    }
}
