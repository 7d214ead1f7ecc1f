//! The whole way on one screen: record, order, connection, exchange, place in a trace, process, redaction.
//!
//! In: ring-buffer records, facts of processes, the time. Out: finished spans, as [`SafeSpan`] only. Called by `agent`'s
//! run loop (`record` for each, then `facts` for what is wanted, `tick`, `drain`) and by [`crate::replay`].

use std::collections::VecDeque;

use crate::{
    cause,
    correlate::{Correlator, RequestKey, TRACEPARENT},
    enrich::Processes,
    event::{self, Event},
    exchange::{
        Context, Draft, Selection,
        datagram::{Answered, Datagrams},
    },
    flow::{
        connection::{Facts, Role},
        table::Table,
        thread::Threads,
    },
    loss::{Loss, Losses},
    naming::Names,
    redact::{Redactor, SafeSpan},
    reorder::{Numbering, Reorder},
    span::{MonotonicNs, ProcessFacts, Span, Status, Value},
    thin::{LONG_NS, Thinner},
};
pub use crate::{
    config::PipelineConfig,
    flow::{clock::ClockOffset, view::ConnectionView},
};
use agent_common::{connection::change, process};

/// How long intervals with lost records are remembered.
const LOST_MEMORY_NS: u64 = 60_000_000_000;

/// The process at the other end, if that is on this host and known; else 0.
type PeerPid = u32;

/// Kernel records in, finished and redacted spans out.
#[derive(Debug)]
pub struct Pipeline {
    config: PipelineConfig,
    clock: ClockOffset,
    numbering: Numbering,
    reorder: Reorder,
    table: Table,
    threads: Threads,
    datagrams: Datagrams,
    correlator: Correlator,
    processes: Processes,
    redactor: Redactor,
    names: Names,
    thinner: Thinner,
    losses: Losses,
    drafts: Vec<Draft>,
    answers: Vec<Answered>,
    whole: Vec<(u64, u32)>,
    /// Spans that wait for the facts of their processes, and until when.
    waiting: VecDeque<(u64, Span, PeerPid)>,
    finished: Vec<SafeSpan>,
    /// The latest time that was heard of.
    now_ns: u64,
}

impl Pipeline {
    /// An empty pipeline.
    pub fn new(config: PipelineConfig, clock: ClockOffset) -> Self {
        Self {
            clock,
            numbering: Numbering::default(),
            reorder: Reorder::default(),
            table: Table::default(),
            threads: Threads::default(),
            datagrams: Datagrams::default(),
            correlator: Correlator::new(config.seed),
            processes: Processes::new(config.processes_max),
            redactor: Redactor::new(config.redact.clone()),
            names: Names::new(config.names_max),
            thinner: Thinner::new(config.unselected_per_second),
            losses: Losses::default(),
            drafts: Vec::new(),
            answers: Vec::new(),
            whole: Vec::new(),
            waiting: VecDeque::new(),
            finished: Vec::new(),
            now_ns: 0,
            config,
        }
    }

    /// Takes one ring-buffer record. Its length, kind and version are not trusted.
    pub fn record(&mut self, bytes: &[u8]) {
        // Events are large: moved once, to where they wait.
        let decoded = event::decode(bytes);
        let event = match &decoded {
            Ok(event) => event,
            Err(loss) => return self.losses.add(*loss, 1),
        };
        self.numbering.see(event.header());
        self.now_ns = self.now_ns.max(event.header().time_ns);
        match event {
            // A connection is opened before anything about it, whatever the times say.
            Event::Connection(record) => {
                // Told when the connection was first used, or went away: that need not be this process's doing.
                let at_ns = if record.change == change::OPENED { record.opened_ns } else { 0 };
                self.processes.see(record.pid, at_ns, &mut self.losses);
                if record.change == change::OPENED {
                    let (table, _, mut context) = self.parts(self.now_ns);
                    table.open(record, &mut context);
                }
            }
            Event::Call(call) => self.processes.see(call.record.pid, call.record.header.time_ns, &mut self.losses),
            // Acknowledgements may outlive who wrote.
            Event::Send(record) => self.processes.see(record.pid, record.locked_ns, &mut self.losses),
            Event::Process(record) => self.processes.record(record, &mut self.losses),
            Event::Datagram(datagram) => {
                self.processes.see(datagram.record.pid, datagram.record.header.time_ns, &mut self.losses);
            }
            Event::Plaintext(plaintext) => {
                self.processes.see(plaintext.record.pid, plaintext.record.header.time_ns, &mut self.losses);
            }
            Event::Arrival(_) | Event::Retransmit(_) => {}
        }
        if let Ok(event) = decoded {
            self.reorder.push(event);
        }
        self.release(self.now_ns.saturating_sub(self.config.reorder_ns));
    }

    /// Processes whose facts are wanted now. Each is asked for once, and again after it replaced its program.
    pub fn wanted_facts(&mut self) -> Vec<u32> {
        self.processes.take_wanted()
    }

    /// Connections, by their ids, of whose calls as much is wanted as can be captured, since messages begin within them, and of
    /// which calls ([`agent_common::message::whole`]). Each is told once.
    pub fn wanted_whole(&mut self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.whole)
    }

    /// Takes what is known of a process.
    pub fn facts(&mut self, facts: ProcessFacts) {
        self.processes.facts(facts, &mut self.losses);
        self.finish_waiting(0);
    }

    /// Takes a new offset between the clocks; spans that are finished from now on use it.
    pub fn set_clock(&mut self, clock: ClockOffset) {
        self.clock = clock;
    }

    /// Finishes what is due.
    pub fn tick(&mut self, now: MonotonicNs) {
        self.now_ns = self.now_ns.max(now.0);
        let settled_ns = self.now_ns.saturating_sub(self.config.reorder_ns);
        self.release(settled_ns);
        let lost = self.numbering.newly_lost(settled_ns);
        self.losses.add(Loss::KernelRecordsLost, lost);
        self.numbering.forget(self.now_ns.saturating_sub(LOST_MEMORY_NS));
        let (table, datagrams, mut context) = self.parts(self.now_ns);
        table.tick(&mut context);
        datagrams.tick(&mut context);
        self.finish();
        self.finish_waiting(self.now_ns);
    }

    /// Takes the finished spans.
    pub fn drain(&mut self) -> Vec<SafeSpan> {
        // The next ones are likely as many.
        let room = Vec::with_capacity(self.finished.len());
        std::mem::replace(&mut self.finished, room)
    }

    /// What was lost so far.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Shutdown: finishes everything as known so far; what is not complete has an unknown outcome.
    pub fn flush(&mut self, now: MonotonicNs) {
        self.tick(now);
        self.release(u64::MAX);
        let lost = self.numbering.newly_lost(u64::MAX);
        self.losses.add(Loss::KernelRecordsLost, lost);
        let (table, datagrams, mut context) = self.parts(self.now_ns);
        table.flush(&mut context);
        datagrams.flush(&mut context);
        self.finish();
        self.finish_waiting(u64::MAX);
    }

    /// The life of each connection but those with the agent: those known now by their ids, and the last that closed.
    pub fn connections_view(&self) -> Vec<ConnectionView> {
        let mut views = self.table.views(self.clock);
        views.retain(|view| !self.is_own(view.unix_path.as_deref()));
        views
    }

    /// Connections known now.
    pub fn connections(&self) -> usize {
        self.table.len()
    }

    /// Uses the events that nothing older is expected before.
    fn release(&mut self, until_ns: u64) {
        // Events are large: they are used where they lie.
        let mut reorder = std::mem::take(&mut self.reorder);
        loop {
            let overflow = reorder.len() > self.config.reorder_records_max;
            let until_ns = if overflow { u64::MAX } else { until_ns };
            if !reorder.pop(until_ns, |event| self.assemble(event)) {
                break;
            }
            self.losses.add(Loss::ReorderOverflow, u64::from(overflow));
            for answered in std::mem::take(&mut self.answers) {
                self.datagrams.learned(answered, &self.config);
            }
        }
        self.reorder = reorder;
        self.finish();
    }

    fn assemble(&mut self, event: &mut Event) {
        if let Event::Call(call) = event {
            self.threads.called(&call.record);
        }
        let (table, datagrams, mut context) = self.parts(self.now_ns);
        let id = match event {
            Event::Connection(record) => record.connection_id,
            Event::Call(call) => {
                datagrams.thread_went_on(call.record.tid, call.record.enter_ns);
                call.record.connection_id
            }
            Event::Send(record) => record.connection_id,
            Event::Arrival(record) => record.connection_id,
            Event::Retransmit(record) => record.connection_id,
            Event::Plaintext(plaintext) => plaintext.record.connection_id,
            Event::Datagram(datagram) => return datagrams.event(datagram, &mut context),
            Event::Process(record) => {
                if record.change == process::change::EXIT {
                    datagrams.process_ended(record.pid, record.header.time_ns, &mut context);
                }
                return;
            }
        };
        // What was looked up before is known by the time at which the connection is first used.
        if let Event::Connection(record) = event
            && record.change == change::OPENED
            && let Some(resolution) = datagrams.resolution(&Facts::new(record), &context)
        {
            table.resolved(id, resolution);
        }
        table.event(id, event, &mut context);
    }

    fn parts(&mut self, now_ns: u64) -> (&mut Table, &mut Datagrams, Context<'_>) {
        let context = Context {
            config: &self.config,
            numbering: &self.numbering,
            threads: &self.threads,
            losses: &mut self.losses,
            clock: self.clock,
            now_ns,
            drafts: &mut self.drafts,
            answers: &mut self.answers,
            whole: &mut self.whole,
        };
        (&mut self.table, &mut self.datagrams, context)
    }

    /// Drafts to spans.
    fn finish(&mut self) {
        let mut drafts = std::mem::take(&mut self.drafts);
        for draft in drafts.drain(..) {
            let (selection, peer_pid) = (draft.selection, draft.peer_pid);
            let span = self.span(draft);
            if selection == Selection::Neither && !self.has_place(&span) {
                self.losses.add(Loss::UnselectedRate, 1);
                continue;
            }
            if self.is_awaited(&span, peer_pid) {
                let full = self.waiting.len() >= self.config.spans_max;
                self.waiting.push_back((self.now_ns.saturating_add(self.config.facts_wait_ns), span, peer_pid));
                if full && let Some((_, span, peer_pid)) = self.waiting.pop_front() {
                    self.leave(span, peer_pid);
                }
            } else {
                self.leave(span, peer_pid);
            }
        }
        self.drafts = drafts; // with its room
    }

    /// Whether a span of what is not selected is one of those that are told.
    fn has_place(&mut self, span: &Span) -> bool {
        let is_notable = span.status == Status::Error || span.duration_ns >= LONG_NS;
        self.thinner.keeps(span.trace_id, is_notable, self.now_ns)
    }

    /// Lets go of the spans whose process is known now, or that waited until `until_ns`.
    fn finish_waiting(&mut self, until_ns: u64) {
        for _ in 0..self.waiting.len() {
            let Some((due_ns, span, peer_pid)) = self.waiting.pop_front() else { break };
            if due_ns > until_ns && self.is_awaited(&span, peer_pid) {
                self.waiting.push_back((due_ns, span, peer_pid));
            } else {
                self.leave(span, peer_pid);
            }
        }
    }

    fn is_awaited(&self, span: &Span, peer_pid: PeerPid) -> bool {
        self.processes.is_awaited(span.process.pid) || self.processes.is_unread(peer_pid)
    }

    /// The last step: the processes as they are known now, and redaction.
    fn leave(&mut self, mut span: Span, peer_pid: PeerPid) {
        if self.is_own(span.unix_path.as_deref()) {
            return;
        }
        if self.finished.len() >= self.config.spans_max {
            return self.losses.add(Loss::SpanOverflow, 1);
        }
        span.process = self.processes.get(span.process.pid);
        if let Some(service) = self.processes.service(peer_pid) {
            span.attributes.push(("service.peer.name", Value::String(service.to_owned().into())));
        }
        span.cause = cause::of(&span);
        let mut span = self.redactor.redact(span);
        self.names.bound(&mut span, &mut self.losses);
        self.finished.push(span);
    }

    /// Whether it is a call of the agent: who asks it is no part of what it is asked about.
    fn is_own(&self, unix_path: Option<&str>) -> bool {
        unix_path.is_some() && unix_path == self.config.own_socket.as_deref()
    }

    fn span(&self, draft: Draft) -> Span {
        let Draft { facts, role, mut timeline, mut attributes, .. } = draft;
        let (client, server) = facts.endpoints(role);
        let origin = facts.origin(role);
        let key = draft.key.unwrap_or(RequestKey { client, server, origin, offset: draft.request_offset });
        let context = draft.trace_context.as_ref();
        let place = match role {
            Role::Client => self.correlator.client(&key, context),
            Role::Server => self.correlator.server(&key, context, draft.client_traced),
        };
        if let Some(evidence) = place.parent_evidence.filter(|evidence| *evidence != TRACEPARENT) {
            attributes.push(("spantap.parent.evidence", Value::String(evidence.into())));
        }
        let lost = self.numbering.lost_within(timeline.start_ns, timeline.end_ns);
        if lost > 0 {
            for segment in &mut timeline.segments {
                let start_ns = timeline.start_ns + segment.offset_ns;
                let lost = self.numbering.lost_within(start_ns, start_ns + segment.duration_ns);
                segment.lost_records = u32::try_from(lost).unwrap_or(u32::MAX);
            }
            attributes.push(("spantap.lost_records", Value::Int(i64::try_from(lost).unwrap_or(i64::MAX))));
        }
        if draft.selection != Selection::Selected {
            attributes.push(("spantap.selected", Value::Bool(false)));
        }
        let process = self.processes.get(draft.pid);
        Span {
            trace_id: place.trace_id,
            span_id: place.span_id,
            parent_span_id: place.parent_span_id,
            kind: draft.kind,
            name: draft.name,
            process,
            start: self.clock.unix(MonotonicNs(timeline.start_ns)),
            duration_ns: timeline.end_ns - timeline.start_ns,
            status: draft.status,
            protocol: draft.protocol,
            local: facts.local,
            peer: facts.peer,
            unix_path: facts.unix_path,
            attributes,
            segments: timeline.segments,
            cause: None,
            links: place.links,
        }
    }
}
