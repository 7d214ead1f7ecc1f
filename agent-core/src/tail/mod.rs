//! Sampling by whole traces: what becomes of a trace is decided when it has had time to come.
//!
//! In: blocks of the log in their order, and when each was appended; the time. Out: a [`Choice`] per span, block by block. Called for
//! destinations with tail sampling. Pure: time arrives with the blocks and by [`Tail::tick`], so that a log read again is decided
//! alike. The spans themselves stay in the log; here is what is needed to decide.
//!
//! A trace is decided once, [`TailConfig::decision_wait_ns`] after its first span; spans that come later follow the decision for as
//! long as it is remembered ([`TailConfig::decisions_max`]). In this order: kept for sure are traces with an error, a slow span, a
//! span that matches, and the first ones of each minute of a service and name. Of the rest, those are kept whose randomness is at
//! least a threshold, which is told (`ot=th`), so that counts stay exact: which of the two a trace is in depends on itself and on what
//! came before, never on its randomness.

mod decide;
mod remember;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, Hasher},
};

use foldhash::fast::FixedState;

pub use self::decide::{Reason, TailConfig};
use self::{
    decide::{By, Judge},
    remember::Decisions,
};
use crate::{
    relay::{Choice, Resource, Threshold, randomness},
    wire::{Kind, Malformed, SpanView, spans},
};

/// Times of blocks that follow each other may be so much out of order with a clock that nobody sets.
const UNORDERED_NS: u64 = 1_000_000_000;
/// Bytes that a trace takes here until it is decided, about.
const TRACE_BYTES: u64 = 200;
/// Bytes that a span takes here until its block is taken.
const SPAN_BYTES: u64 = 4;
/// Different services and names of a trace that are looked at.
const KEYS_MAX: usize = 16;

type TraceId = [u8; 16];
type Map<K, V> = HashMap<K, V, FixedState>;

/// What was decided, in traces but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailCounts {
    /// Kept, by [`Reason`].
    pub kept: [u64; Reason::ALL.len()],
    /// Left out.
    pub left_out: u64,
    /// Decided before their time, for want of room.
    pub early: u64,
    /// Spans that came after the decision about their trace, and followed it.
    pub late_spans: u64,
}

/// Decides about traces.
#[derive(Debug)]
pub struct Tail {
    judge: Judge,
    traces: Map<TraceId, Trace>,
    /// Undecided traces by their first span, with their deadline.
    queue: VecDeque<(u64, TraceId)>,
    /// What was decided or is to be decided, for the spans of blocks.
    slots: Slots,
    blocks: VecDeque<Block>,
    decisions: Decisions,
    span_bytes: u64,
    key_bytes: u64,
    counts: TailCounts,
}

/// A trace that is not decided.
#[derive(Debug)]
struct Trace {
    first_block: u64,
    slot: u32,
    facts: Facts,
}

/// What a trace is judged by.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Why it is kept for sure.
    pub certain: Option<Reason>,
    /// Service and name of what the trace begins with, as far as that is seen, and how sure that is.
    pub entry: (u8, u64),
    /// Services and names in it, hashed; at most [`KEYS_MAX`].
    pub keys: Vec<u64>,
    /// 56 bits; nothing if the trace has none.
    pub randomness: Option<u64>,
}

#[derive(Debug)]
struct Block {
    number: u64,
    /// A slot per span.
    spans: Vec<u32>,
}

impl Tail {
    /// With this configuration.
    pub fn new(config: TailConfig) -> Self {
        Self {
            decisions: Decisions::new(config.decisions_max),
            judge: Judge::new(config),
            traces: Map::default(),
            queue: VecDeque::new(),
            slots: Slots::default(),
            blocks: VecDeque::new(),
            span_bytes: 0,
            key_bytes: 0,
            counts: TailCounts::default(),
        }
    }

    /// Looks at a block, appended at `now_ns`. Blocks come in the order of their numbers. Bytes that are no request have no spans.
    pub fn add(&mut self, number: u64, request: &[u8], now_ns: u64) {
        self.tick(now_ns);
        let mut block = Block { number, spans: Vec::new() };
        // What is malformed ends here as it does for whoever sends it.
        let _ = self.spans(request, now_ns, &mut block);
        self.span_bytes += block.spans.len() as u64 * SPAN_BYTES;
        self.blocks.push_back(block);
        while self.is_full() && self.decide_oldest(now_ns) {
            self.counts.early += 1;
        }
    }

    fn spans(&mut self, request: &[u8], now_ns: u64, block: &mut Block) -> Result<(), Malformed> {
        let mut all = spans(request);
        let (mut at, mut resource) = (0..0, Resource::default());
        while let Some(span) = all.next() {
            let span = span?;
            if at != all.resource_spans() {
                at = all.resource_spans();
                resource = Resource::read(request, at.clone())?;
            }
            let slot = self.span(&span, &resource, now_ns, block.number)?;
            self.slots.refer(slot);
            block.spans.push(slot);
        }
        Ok(())
    }

    /// Takes a span in; gives the slot of its trace.
    fn span(
        &mut self,
        span: &SpanView<'_>,
        resource: &Resource<'_>,
        now_ns: u64,
        block: u64,
    ) -> Result<u32, Malformed> {
        let Ok(id) = TraceId::try_from(span.trace_id) else {
            return Ok(self.slots.decided(Choice::Kept));
        };
        if let Some(choice) = self.decisions.find(&id) {
            self.counts.late_spans += 1;
            return Ok(self.slots.decided(choice));
        }
        let key = key(resource.service(), span.name);
        let trace = self.traces.entry(id).or_insert_with(|| {
            self.queue.push_back((now_ns.saturating_add(self.judge.config.decision_wait_ns), id));
            let facts = Facts { randomness: randomness(span.trace_id, span.trace_state), ..Facts::default() };
            let slot = self.slots.open();
            Trace { first_block: block, slot, facts }
        });
        let sureness = sureness(span);
        if sureness > trace.facts.entry.0 {
            trace.facts.entry = (sureness, key);
        }
        if trace.facts.keys.len() < KEYS_MAX && !trace.facts.keys.contains(&key) {
            trace.facts.keys.push(key);
            self.key_bytes += size_of::<u64>() as u64;
        }
        let slot = trace.slot;
        let certain = self.judge.certain(span, resource, By { key, is_entry: sureness >= ENTRY, now_ns })?;
        trace.facts.certain = trace.facts.certain.or(certain);
        Ok(slot)
    }

    /// The time: decides what is due. What would wait for far longer than the configured time came before the clock was set back, and is
    /// due too: all that came later waits behind it.
    pub fn tick(&mut self, now_ns: u64) {
        let wait = self.judge.config.decision_wait_ns;
        let latest = now_ns.saturating_add(wait.saturating_mul(2)).saturating_add(UNORDERED_NS);
        let is_due = |deadline: u64| deadline <= now_ns || deadline > latest;
        while self.queue.front().is_some_and(|(deadline, _)| is_due(*deadline)) {
            self.decide_oldest(now_ns);
        }
    }

    /// When the next trace is due; nothing if none waits.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.queue.front().map(|(deadline, _)| *deadline)
    }

    /// The first block of which something is not decided.
    pub fn undecided(&self) -> Option<u64> {
        let (_, id) = self.queue.front()?;
        self.traces.get(id).map(|trace| trace.first_block)
    }

    /// What was decided about the spans of a block, once; blocks before it are forgotten. Nothing if it was not looked at.
    pub fn take(&mut self, number: u64) -> Option<Vec<Choice>> {
        while let Some(block) = self.blocks.front().filter(|block| block.number <= number) {
            let is_it = block.number == number;
            let block = self.blocks.pop_front()?;
            self.span_bytes -= block.spans.len() as u64 * SPAN_BYTES;
            let choices = block.spans.into_iter().map(|slot| self.slots.release(slot)).collect();
            if is_it {
                return Some(choices);
            }
        }
        None
    }

    /// After a restart: a block of which it is known what was decided, so that spans which come later follow.
    pub fn remember(&mut self, request: &[u8], choices: &[Choice]) {
        for (index, span) in spans(request).enumerate() {
            let Ok(span) = span else { return };
            if let Ok(id) = TraceId::try_from(span.trace_id) {
                self.decisions.put(id, choices.get(index).copied().unwrap_or_default());
            }
        }
    }

    /// What was decided so far.
    pub fn counts(&self) -> TailCounts {
        self.counts
    }

    /// Traces that are not decided.
    pub fn waiting(&self) -> usize {
        self.traces.len()
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> u64 {
        self.traces.len() as u64 * TRACE_BYTES + self.key_bytes + self.span_bytes
    }

    fn is_full(&self) -> bool {
        let config = &self.judge.config;
        // What is decided and not taken is not made less by deciding more.
        let waiting = self.traces.len() as u64 * TRACE_BYTES + self.key_bytes;
        self.traces.len() > config.traces_max || waiting > config.bytes_max
    }

    /// Whether there was one.
    fn decide_oldest(&mut self, now_ns: u64) -> bool {
        let Some((deadline, id)) = self.queue.pop_front() else { return false };
        let Some(trace) = self.traces.remove(&id) else { return true };
        self.key_bytes -= (trace.facts.keys.len() * size_of::<u64>()) as u64;
        let (choice, reason) = self.judge.decide(&trace.facts, deadline.min(now_ns));
        match reason {
            Some(reason) => self.counts.kept[reason as usize] += 1,
            None => self.counts.left_out += 1,
        }
        self.slots.decide(trace.slot, choice);
        self.decisions.put(id, choice);
        true
    }
}

/// A span that a service begins with.
const ENTRY: u8 = 2;

/// How sure it is that a trace begins with this span.
fn sureness(span: &SpanView<'_>) -> u8 {
    match span.kind {
        _ if span.parent_span_id.is_empty() => 3,
        Kind::Server | Kind::Consumer => ENTRY,
        _ => 1,
    }
}

fn key(service: &[u8], name: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    service.hash(&mut hasher);
    name.hash(&mut hasher);
    hasher.finish()
}

/// Choices that several blocks refer to.
#[derive(Debug, Default)]
struct Slots {
    /// References, and what was decided; a trace that is not decided is one reference.
    slots: Vec<(u32, Choice)>,
    free: Vec<u32>,
}

impl Slots {
    /// Of a trace that is not decided.
    fn open(&mut self) -> u32 {
        self.put(1, Choice::Kept)
    }

    /// Of a span that follows a decision.
    fn decided(&mut self, choice: Choice) -> u32 {
        self.put(0, choice)
    }

    fn put(&mut self, references: u32, choice: Choice) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = (references, choice);
            return slot;
        }
        self.slots.push((references, choice));
        (self.slots.len() - 1) as u32
    }

    fn refer(&mut self, slot: u32) {
        self.slots[slot as usize].0 += 1;
    }

    fn decide(&mut self, slot: u32, choice: Choice) {
        self.slots[slot as usize].1 = choice;
        self.release(slot);
    }

    fn release(&mut self, slot: u32) -> Choice {
        let (references, choice) = &mut self.slots[slot as usize];
        *references -= 1;
        if *references == 0 {
            self.free.push(slot);
        }
        *choice
    }
}

/// At least as strict as both.
fn stricter(one: Threshold, other: Threshold) -> Threshold {
    one.max(other)
}

#[cfg(test)]
mod tests;
