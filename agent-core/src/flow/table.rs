//! All connections, and which of them is due when.
//!
//! In: opened connections, their records, ticks. Out: drafts. Called by [`crate::pipeline`]. Limits: a number of
//! connections; beyond it the sixteenth that was idle for longest is given up, and counted.

use std::collections::{BTreeSet, HashMap};

use agent_common::connection::ConnectionRecord;

use super::{Flow, connection::Role};
use crate::{correlate::Origin, endpoint::Endpoint, event::Event, exchange::Context, loss::Loss};

/// Connections by id.
#[derive(Debug, Default)]
pub struct Table {
    flows: HashMap<u64, Flow>,
    /// By local and remote endpoint: the newest connection. Network namespaces may repeat endpoints; who asks compares
    /// sequence numbers as well.
    by_endpoints: HashMap<(Endpoint, Endpoint), u64>,
    due: BTreeSet<(u64, u64)>,
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
        let flow = Flow::new(record);
        let facts = &flow.connection.facts;
        self.by_endpoints.insert((facts.local, facts.peer), facts.id);
        self.flows.insert(facts.id, flow);
    }

    /// Takes a record of a connection.
    pub fn event(&mut self, id: u64, event: Event, context: &mut Context<'_>) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return context.losses.add(Loss::ConnectionUnknown, u64::from(moves_bytes(&event)));
        };
        flow.event(event, context);
        Self::settle(&mut self.due, id, flow, context);
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
            if flow.is_done(context) {
                self.forget(id);
            } else {
                // What is due now and was not finished now is asked again at the next tick, not in this one.
                let next_ns = flow.next_due_ns(context).map(|next_ns| next_ns.max(context.now_ns + 1));
                Self::plan(&mut self.due, id, flow, next_ns);
            }
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

    /// How many.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Whether the client end of the same request is on this host and has a span: the same endpoints, the same first
    /// sequence number, the same offset.
    pub fn client_has_span(&self, client: Endpoint, server: Endpoint, origin: Origin, offset: u64) -> bool {
        let Some(flow) = self.by_endpoints.get(&(client, server)).and_then(|id| self.flows.get(id)) else {
            return false;
        };
        let facts = &flow.connection.facts;
        let same = matches!(origin, Origin::Sequence(_)) && facts.origin(Role::Client) == origin;
        same && facts.role == Some(Role::Client) && flow.has_request(offset)
    }

    fn settle(due: &mut BTreeSet<(u64, u64)>, id: u64, flow: &mut Flow, context: &Context<'_>) {
        let next_ns = flow.next_due_ns(context);
        Self::plan(due, id, flow, next_ns);
    }

    fn plan(due: &mut BTreeSet<(u64, u64)>, id: u64, flow: &mut Flow, next_ns: Option<u64>) {
        if flow.due_ns == next_ns {
            return;
        }
        if let Some(old_ns) = flow.due_ns.take() {
            due.remove(&(old_ns, id));
        }
        if let Some(next_ns) = next_ns {
            due.insert((next_ns, id));
        }
        flow.due_ns = next_ns;
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
            self.forget(id);
        }
    }

    fn forget(&mut self, id: u64) {
        let Some(flow) = self.flows.remove(&id) else { return };
        if let Some(due_ns) = flow.due_ns {
            self.due.remove(&(due_ns, id));
        }
        let endpoints = (flow.connection.facts.local, flow.connection.facts.peer);
        if self.by_endpoints.get(&endpoints) == Some(&id) {
            self.by_endpoints.remove(&endpoints);
        }
    }
}

/// A connection that never moved bytes is not told of, but its end may be.
fn moves_bytes(event: &Event) -> bool {
    match event {
        Event::Call(call) => call.record.start != call.record.end,
        Event::Send(_) | Event::Arrival(_) => true,
        Event::Connection(_) | Event::Process(_) | Event::Retransmit(_) | Event::Datagram(_) => false,
    }
}
