//! All connections, and which of them is due when.
//!
//! In: opened connections, their records, ticks. Out: drafts. Called by [`crate::pipeline`]. Limits: a number of
//! connections; beyond it the sixteenth that was idle for longest is given up, and counted.

use std::collections::{BTreeSet, HashMap};

use agent_common::connection::{ConnectionRecord, change};
use foldhash::fast::RandomState;

use super::{
    Flow,
    clock::ClockOffset,
    connection::Role,
    view::{Closed, ConnectionView},
};
use crate::{
    endpoint::Endpoint,
    event::Event,
    exchange::{Context, connect, datagram::Resolution},
    loss::Loss,
    segment::Before,
};

/// Connections by id.
#[derive(Debug, Default)]
pub struct Table {
    flows: HashMap<u64, Flow, RandomState>,
    /// By local and remote endpoint: the newest connection. Network namespaces may repeat endpoints; who looks for an
    /// other end compares sequence numbers as well.
    by_endpoints: HashMap<(Endpoint, Endpoint), u64>,
    due: BTreeSet<(u64, u64)>,
    closed: Closed,
}

impl Table {
    /// Adds a connection if it is new.
    pub fn open(&mut self, record: &ConnectionRecord, context: &mut Context<'_>) {
        if self.flows.contains_key(&record.connection_id) {
            return;
        }
        if self.flows.len() >= context.config.connections_max.max(1) {
            self.evict(context);
        }
        let mut flow = Flow::new(record);
        let facts = &flow.connection.facts;
        let id = facts.id;
        self.name_accepted(facts.local, facts.peer);
        self.by_endpoints.insert((facts.local, facts.peer), id);
        self.complete(facts.local, facts.peer);
        if let Some(other) =
            self.by_endpoints.get(&(facts.peer, facts.local)).and_then(|other| self.flows.get_mut(other))
            && facts.is_other_end_of(&other.connection.facts)
        {
            flow.connection.other_end = Some(other.connection.facts.id);
            other.connection.other_end = Some(id);
        }
        self.flows.insert(id, flow);
    }

    /// A unix client that writes before it is accepted knows no number of the other end yet; that end then knows both.
    fn complete(&mut self, local: Endpoint, peer: Endpoint) {
        let Some(id) = self.by_endpoints.get(&(peer, Endpoint::Unix(0))).copied() else { return };
        let Some(other) = self.flows.get_mut(&id) else { return };
        other.connection.facts.peer = local;
        self.by_endpoints.remove(&(peer, Endpoint::Unix(0)));
        self.by_endpoints.insert((peer, local), id);
    }

    /// Notes the name resolution that a connection's first exchange had waited for.
    pub fn resolved(&mut self, id: u64, resolution: Resolution) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.connection.before.dns = Some(resolution.step);
            flow.connection.resolution = Some(Box::new(resolution));
        }
    }

    /// A unix socket gets its number when it is accepted; its client may have been told of before.
    fn name_accepted(&mut self, accepted: Endpoint, client: Endpoint) {
        if let Some(id) = self.by_endpoints.remove(&(client, Endpoint::Unix(0)))
            && let Some(flow) = self.flows.get_mut(&id)
        {
            flow.connection.facts.peer = accepted;
            self.by_endpoints.insert((client, accepted), id);
        }
    }

    /// Takes a record of a connection.
    pub fn event(&mut self, id: u64, event: &mut Event, context: &mut Context<'_>) {
        if let Event::Connection(record) = event
            && record.change == change::CONNECT_FAILED
        {
            self.connect_failed(record, context);
            if !self.flows.contains_key(&id) {
                self.closed.push(ConnectionView::of_failed(record, context.clock));
                return;
            }
        }
        let Some(flow) = self.flows.get_mut(&id) else {
            return context.losses.add(Loss::ConnectionUnknown, u64::from(moves_bytes(event)));
        };
        flow.event(event, context);
        let other_end = flow.connection.other_end.filter(|other| *other != id);
        self.settle(id, context);
        // What this end saw may be what the other end's exchanges wait for.
        if let Some(other_end) = other_end
            && self.flows.get(&other_end).is_some_and(|other| !other.connection.unsettled.is_empty())
        {
            self.settle(other_end, context);
        }
    }

    /// Finishes what is due.
    pub fn tick(&mut self, context: &mut Context<'_>) {
        while let Some(&(due_ns, id)) = self.due.first() {
            if due_ns > context.now_ns {
                break;
            }
            self.due.pop_first();
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            flow.due_ns = None;
            flow.advance(context);
            // What is due now and was not finished now is asked again at the next tick, not in this one.
            self.settle_from(id, context.now_ns + 1, context);
            if self.flows.get(&id).is_some_and(|flow| flow.is_done(context)) {
                self.forget(id, context);
            }
        }
    }

    /// Settles the exchanges of one connection, with what its other end saw of them.
    fn settle(&mut self, id: u64, context: &mut Context<'_>) {
        self.settle_from(id, 0, context);
    }

    /// The same; it is due again at `from_ns` at the earliest.
    fn settle_from(&mut self, id: u64, from_ns: u64, context: &mut Context<'_>) {
        let Some(mut flow) = self.flows.get_mut(&id) else { return };
        if !flow.connection.unsettled.is_empty() {
            let other = match flow.connection.other_end.filter(|other| *other != id) {
                Some(other) => {
                    let [Some(this), other] = self.flows.get_disjoint_mut([&id, &other]) else { return };
                    flow = this;
                    other
                }
                None => None,
            };
            flow.settle(other.map(|other| &*other), context);
        }
        let next_ns = flow.next_due_ns(context).map(|next_ns| next_ns.max(from_ns));
        Self::plan(&mut self.due, id, flow, next_ns);
    }

    /// An attempt to connect has a span, told once, whether or not anything else is known of it.
    fn connect_failed(&self, record: &ConnectionRecord, context: &mut Context<'_>) {
        let connection = self.flows.get(&record.connection_id).map(|flow| &flow.connection);
        if connection.is_none_or(|connection| connection.closed_ns.is_none() && connection.exchanges == 0) {
            let before = connection.map_or(Before::default(), |connection| connection.before);
            context.drafts.push(connect::failed(record, &before));
        }
    }

    /// Finishes everything as known so far, and forgets it.
    pub fn flush(&mut self, context: &mut Context<'_>) {
        let mut ids: Vec<u64> = self.flows.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.give_up(id, context);
        }
    }

    /// What is known of each connection, those that closed last included.
    pub fn views(&self, clock: ClockOffset) -> Vec<ConnectionView> {
        let mut views: Vec<_> = self.flows.values().map(|flow| ConnectionView::of(&flow.connection, clock)).collect();
        views.sort_unstable_by_key(|view| view.id);
        views.extend(self.closed.iter().cloned());
        views
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Nearly every record puts off when its connection is due. What is planned already is kept then: the tick that finds nothing due
    /// plans anew.
    fn plan(due: &mut BTreeSet<(u64, u64)>, id: u64, flow: &mut Flow, next_ns: Option<u64>) {
        let Some(next_ns) = next_ns else { return };
        match flow.due_ns {
            Some(planned_ns) if planned_ns <= next_ns => return,
            Some(planned_ns) => drop(due.remove(&(planned_ns, id))),
            None => {}
        }
        due.insert((next_ns, id));
        flow.due_ns = Some(next_ns);
    }

    fn evict(&mut self, context: &mut Context<'_>) {
        let mut ages: Vec<_> = self.flows.iter().map(|(id, flow)| (flow.active_ns, *id)).collect();
        let count = (context.config.connections_max / 16).clamp(1, ages.len());
        ages.select_nth_unstable(count - 1);
        for (_, id) in ages.drain(..count) {
            self.give_up(id, context);
            context.losses.add(Loss::ConnectionEvicted, 1);
        }
    }

    fn give_up(&mut self, id: u64, context: &mut Context<'_>) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.give_up(context);
            let [flow, other] = match flow.connection.other_end.filter(|other| *other != id) {
                Some(other) => self.flows.get_disjoint_mut([&id, &other]),
                None => [Some(flow), None],
            };
            if let Some(flow) = flow {
                flow.settle_all(other.map(|other| &*other), context);
            }
            self.forget(id, context);
        }
    }

    fn forget(&mut self, id: u64, context: &Context<'_>) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.closed.push(ConnectionView::of(&flow.connection, context.clock));
        if let Some(due_ns) = flow.due_ns {
            self.due.remove(&(due_ns, id));
        }
        let endpoints = (flow.connection.facts.local, flow.connection.facts.peer);
        if self.by_endpoints.get(&endpoints) == Some(&id) {
            self.by_endpoints.remove(&endpoints);
        }
        let Some(other) = flow.connection.other_end.and_then(|other| self.flows.get_mut(&other)) else { return };
        other.connection.peer_pid = flow.connection.user();
        // A client that gave up is gone before its server answers.
        if flow.connection.facts.role == Some(Role::Client) {
            other.connection.client_told = flow.connection.unsettled.into_told();
        }
    }
}

/// A connection that never moved bytes is not told of, but its end may be.
fn moves_bytes(event: &Event) -> bool {
    match event {
        Event::Call(call) => call.record.start != call.record.end,
        Event::Send(_) | Event::Arrival(_) => true,
        Event::Connection(_) | Event::Process(_) | Event::Retransmit(_) | Event::Datagram(_) | Event::Plaintext(_) => {
            false
        }
    }
}
