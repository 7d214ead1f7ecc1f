//! DNS exchanges: what this host asks, and what it is asked.
//!
//! An answer ends a lookup, whatever it says. Without one it is given up after
//! [`crate::config::PipelineConfig::dns_wait_ns`]; its span then ends when its thread went on to something else, or with
//! its process, else with the last query: what came after that was not seen.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use agent_protocol::dns::{Message, Question, rcode_name};
use foldhash::fast::RandomState;

use super::{
    draft::{Counted, Exchange, key},
    packet::Packet,
    resolved::Answered,
    timeline::{Seen, Sent, served},
    waiting::Waiting,
};
use crate::{
    correlate::RequestKey,
    exchange::{
        Context,
        semconv::{Attributes, int, text, word},
    },
    flow::connection::Role,
    loss::Loss,
    span::{Evidence, Protocol, Status, Value},
};

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
/// After an error that the application was told of, it asks again at once or never.
const ERROR_WAIT_NS: u64 = 1_000_000_000;
/// Resolvers wait a second for an answer at least, unless they are told otherwise; less is no timeout of theirs.
const TIMEOUT_NS: u64 = 900_000_000;
/// Most queries of one lookup that a server on this host is matched with.
const WIRES_MAX: usize = 8;

/// What is asked, and the number that the answer repeats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    id: u16,
    question: Question,
}

impl Asked {
    pub fn of(message: Message) -> Self {
        Self { id: message.id, question: message.question }
    }

    pub fn is_answered_by(&self, answer: &Message) -> bool {
        self.id == answer.id && self.question == answer.question
    }
}

/// Process, and what it asks.
type LookupKey = (u32, Asked);
/// A query as both ends see it: ports of the client and the server.
type Wire = (u16, u16, Asked);

#[derive(Debug)]
struct Lookup {
    sent: Sent,
    key: RequestKey,
    wires: Vec<Wire>,
    /// When the thread went on to something else, after the last query; 0 if it did not.
    went_on_ns: u64,
    /// When the socket was closed, likewise.
    closed_ns: u64,
    /// Queries of which the network said that they cannot be delivered.
    undelivered: u32,
    /// Errno and time of a failed call, after the last query.
    failed: Option<(u32, u64)>,
    /// The process asked again over TCP: an answer to this query was truncated, or to one that it belongs to.
    elsewhere: bool,
    seen: Option<Seen>,
}

/// How a lookup ended.
struct End<'a> {
    answer: Option<(&'a Packet, &'a Message)>,
    /// Status and type of error without an answer, and the end's time.
    status: Status,
    error_type: Option<String>,
    end: (u64, Evidence),
}

/// Lookups of this host's processes.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    waiting: Waiting<LookupKey, Lookup>,
    by_wire: HashMap<Wire, LookupKey>,
    by_thread: HashMap<u32, Vec<LookupKey>, RandomState>,
    number: u64,
}

impl Lookups {
    /// A query left.
    pub fn asked(&mut self, packet: Packet, query: Message, context: &mut Context<'_>) {
        let (pid, tid) = (packet.call.pid, packet.call.tid);
        let asked = Asked::of(query);
        let wire = (packet.local.port(), packet.remote.port(), asked.clone());
        let lookup_key = (pid, asked);
        let due_ns = packet.call.return_ns.saturating_add(context.config.dns_wait_ns);
        if let Some(lookup) = self.waiting.touch(&lookup_key, due_ns) {
            lookup.sent.again(packet);
            (lookup.went_on_ns, lookup.closed_ns, lookup.failed, lookup.elsewhere) = (0, 0, None, false);
            if lookup.wires.len() < WIRES_MAX && !lookup.wires.contains(&wire) {
                lookup.wires.push(wire.clone());
                self.by_wire.insert(wire, lookup_key.clone());
            }
        } else {
            self.make_room(context);
            self.number += 1;
            let lookup = Lookup {
                key: key(&packet, Counted::Lookup, self.number),
                sent: Sent::new(packet),
                wires: vec![wire.clone()],
                went_on_ns: 0,
                closed_ns: 0,
                undelivered: 0,
                failed: None,
                elsewhere: false,
                seen: None,
            };
            self.by_wire.insert(wire, lookup_key.clone());
            self.waiting.insert(lookup_key.clone(), lookup, due_ns);
        }
        let lookups = self.by_thread.entry(tid).or_default();
        if !lookups.contains(&lookup_key) {
            lookups.push(lookup_key);
        }
    }

    /// An answer was read. `None` if nothing waited for it: it is a second one.
    pub fn answered(&mut self, packet: &Packet, answer: &Message, context: &mut Context<'_>) -> Option<Answered> {
        let lookup_key = (packet.call.pid, Asked { id: answer.id, question: answer.question.clone() });
        let lookup = self.take(&lookup_key)?;
        let sent = &lookup.sent;
        let one_thread = sent.first.call.tid == packet.call.tid && sent.last.call.tid == packet.call.tid;
        let answered = Answered {
            pid: packet.call.pid,
            tid: if one_thread { packet.call.tid } else { 0 },
            name: answer.question.name.clone(),
            start_ns: sent.first.begin_ns(),
            end_ns: packet.call.return_ns,
            addresses: answer.addresses.clone(),
            queries: sent.count,
            retries: lookup.retries(),
            over_tcp: None,
        };
        let end = End {
            answer: Some((packet, answer)),
            status: status(answer.rcode, Role::Client),
            error_type: error_type(answer.rcode),
            end: (packet.call.return_ns, Evidence::Measured),
        };
        lookup.tell(&lookup_key.1, end, context);
        Some(answered)
    }

    /// A call on the socket failed: an ICMP message said that nobody listens, or the like.
    pub fn failed(&mut self, packet: &Packet, errno: u32, context: &Context<'_>) {
        let hit = |_: &LookupKey, lookup: &Lookup| {
            lookup.sent.last.socket == packet.socket && lookup.sent.last.remote == packet.remote
        };
        for lookup_key in self.waiting.keys_where(hit) {
            self.fail(&lookup_key, packet.call.return_ns, errno, context);
        }
    }

    fn fail(&mut self, lookup_key: &LookupKey, ns: u64, errno: u32, context: &Context<'_>) {
        let wait_ns = ERROR_WAIT_NS.min(context.config.dns_wait_ns);
        if let Some(lookup) = self.waiting.touch(lookup_key, ns.saturating_add(wait_ns)) {
            lookup.undelivered += u32::from(lookup.failed.is_none());
            lookup.failed = Some((errno, ns));
        }
    }

    /// The socket was closed. `errno` is what the network had said of it, if no call had returned that; else 0.
    pub fn closed(&mut self, socket: u64, ns: u64, errno: u32, context: &Context<'_>) {
        for lookup_key in self.waiting.keys_where(|_, lookup| lookup.sent.last.socket == socket) {
            if errno != 0 {
                self.fail(&lookup_key, ns, errno, context);
            } else if let Some(lookup) = self.waiting.get_mut(&lookup_key) {
                lookup.closed_ns = ns;
            }
        }
    }

    /// The process asked the same over TCP and has its answer: it did not wait for one to these queries.
    pub fn asked_elsewhere(&mut self, pid: u32, question: &Question) {
        for lookup_key in self.waiting.keys_where(|key, _| key.0 == pid && key.1.question == *question) {
            if let Some(lookup) = self.waiting.get_mut(&lookup_key) {
                lookup.elsewhere = true;
            }
        }
    }

    /// See [`super::Datagrams::thread_went_on`].
    pub fn thread_went_on(&mut self, tid: u32, ns: u64) {
        if self.by_thread.is_empty() {
            return;
        }
        for lookup_key in self.by_thread.remove(&tid).unwrap_or_default() {
            if let Some(lookup) = self.waiting.get_mut(&lookup_key)
                && lookup.went_on_ns == 0
                && ns > lookup.sent.last.call.return_ns
            {
                lookup.went_on_ns = ns;
            }
        }
    }

    /// What the process waited for ended with it.
    pub fn process_ended(&mut self, pid: u32, ns: u64, context: &mut Context<'_>) {
        for lookup_key in self.waiting.keys_where(|key, _| key.0 == pid) {
            if let Some(lookup) = self.take(&lookup_key) {
                let end = lookup.given_up(Some(ns));
                lookup.tell(&lookup_key.1, end, context);
            }
        }
    }

    /// Of a query that a server on this host has answered: what names it, if it is one of these. Notes what was seen of
    /// it there.
    fn served(&mut self, query: &Packet, asked: &Asked, seen: Option<Seen>) -> Option<RequestKey> {
        let wire = (query.remote.port(), query.local.port(), asked.clone());
        let lookup = self.waiting.get_mut(self.by_wire.get(&wire)?)?;
        let same = |one: IpAddr, other: IpAddr| one.is_unspecified() || other.is_unspecified() || one == other;
        let sent = &lookup.sent.last;
        if !same(sent.local.ip(), query.remote.ip()) || !same(sent.remote.ip(), query.local.ip()) {
            return None;
        }
        lookup.seen = seen;
        Some(lookup.key)
    }

    /// When the oldest lookup of this name that the process still waits for began.
    pub fn waits_since(&self, pid: u32, name: &str) -> Option<u64> {
        let of = self.waiting.iter().filter(|((owner, asked), _)| *owner == pid && asked.question.name == name);
        of.map(|(_, lookup)| lookup.sent.first.begin_ns()).min()
    }

    /// Gives up what is due.
    pub fn tick(&mut self, context: &mut Context<'_>) {
        while let Some((lookup_key, lookup)) = self.waiting.pop_due(context.now_ns) {
            self.unlink(&lookup_key, &lookup);
            let end = lookup.given_up(None);
            lookup.tell(&lookup_key.1, end, context);
        }
    }

    /// Nothing that waits is known to have been given up.
    pub fn flush(&mut self, context: &mut Context<'_>) {
        for (lookup_key, lookup) in self.waiting.pop_all() {
            self.unlink(&lookup_key, &lookup);
            lookup.unknown(&lookup_key.1, context);
        }
    }

    fn make_room(&mut self, context: &mut Context<'_>) {
        if let Some((lookup_key, lookup)) = self.waiting.pop_excess(context.config.datagrams_max) {
            self.unlink(&lookup_key, &lookup);
            lookup.unknown(&lookup_key.1, context);
            context.losses.add(Loss::DatagramOverflow, 1);
        }
    }

    fn take(&mut self, lookup_key: &LookupKey) -> Option<Lookup> {
        let lookup = self.waiting.remove(lookup_key)?;
        self.unlink(lookup_key, &lookup);
        Some(lookup)
    }

    fn unlink(&mut self, lookup_key: &LookupKey, lookup: &Lookup) {
        for wire in &lookup.wires {
            if self.by_wire.get(wire) == Some(lookup_key) {
                self.by_wire.remove(wire);
            }
        }
        for tid in [lookup.sent.first.call.tid, lookup.sent.last.call.tid] {
            if let Some(lookups) = self.by_thread.get_mut(&tid) {
                lookups.retain(|other| other != lookup_key);
                if lookups.is_empty() {
                    self.by_thread.remove(&tid);
                }
            }
        }
    }
}

impl Lookup {
    /// Queries that repeated an unanswered one. To go on at once, as the server was not there, is another matter.
    fn retries(&self) -> u32 {
        let told = self.undelivered.saturating_sub(u32::from(self.failed.is_some()));
        (self.sent.count - 1).saturating_sub(told)
    }

    /// No answer came. `exit_ns`: when the process ended, if it did.
    fn given_up(&self, exit_ns: Option<u64>) -> End<'static> {
        let closed = (self.closed_ns != 0).then_some((self.closed_ns, Evidence::Measured));
        let went_on = (self.went_on_ns != 0).then_some((self.went_on_ns, Evidence::Derived));
        let exited = exit_ns.map(|ns| (ns, Evidence::Derived));
        let (error_type, end) = match self.failed {
            Some((errno, ns)) => (crate::exchange::connect::errno(errno), (ns, Evidence::Measured)),
            None => {
                let last = (self.sent.last.call.return_ns, Evidence::Inferred);
                let seen = closed.or(went_on).or(exited);
                let early = seen.is_some_and(|(ns, _)| ns.saturating_sub(self.sent.first.begin_ns()) < TIMEOUT_NS);
                (if early { "lookup_abandoned" } else { "timeout" }.to_owned(), seen.unwrap_or(last))
            }
        };
        if self.elsewhere {
            return End { answer: None, status: Status::Unknown, error_type: None, end };
        }
        End { answer: None, status: Status::Error, error_type: Some(error_type), end }
    }

    fn unknown(&self, asked: &Asked, context: &mut Context<'_>) {
        let end = (self.sent.last.call.return_ns, Evidence::Inferred);
        self.tell(asked, End { answer: None, status: Status::Unknown, error_type: None, end }, context);
    }

    fn tell(&self, asked: &Asked, end: End<'_>, context: &mut Context<'_>) {
        let timeline = match end.answer {
            Some((packet, _)) => self.sent.answered(packet, self.seen.as_ref()),
            None => self.sent.given_up(end.end.0),
        };
        let mut attributes = attributes(asked, end.answer.map(|(_, answer)| answer));
        attributes.push(("spantap.dns.retries", int(u64::from(self.retries()))));
        if self.undelivered > 0 {
            attributes.push(("spantap.dns.undelivered", int(u64::from(self.undelivered))));
        }
        attributes.push(("spantap.request.bytes", int(u64::from(self.sent.last.length))));
        if let Some((packet, _)) = end.answer {
            attributes.push(("spantap.response.bytes", int(u64::from(packet.length))));
        }
        if self.elsewhere && end.answer.is_none() {
            attributes.push(("spantap.dns.asked_again", word("tcp")));
        }
        if end.end.1 != Evidence::Measured {
            attributes.push(("spantap.end.evidence", word(end.end.1.name())));
        }
        let exchange = Exchange {
            role: Role::Client,
            protocol: Protocol::Dns,
            name: name(asked),
            request: &self.sent.last,
            timeline,
            status: end.status,
            error_type: end.error_type,
            key: self.key,
            client_traced: false,
        };
        context.drafts.push(exchange.draft(attributes));
    }
}

/// Queries that a server on this host was asked: its socket, who asks, and what.
#[derive(Debug, Default)]
pub(super) struct Served {
    waiting: Waiting<(u64, SocketAddr, Asked), Packet>,
    number: u64,
}

impl Served {
    /// A query was read. The same one again is not another exchange.
    pub fn asked(&mut self, packet: Packet, query: Message, context: &mut Context<'_>) {
        let served_key = (packet.socket, packet.remote, Asked::of(query));
        let due_ns = packet.call.return_ns.saturating_add(context.config.dns_wait_ns);
        if self.waiting.touch(&served_key, due_ns).is_some() {
            return;
        }
        if let Some(((.., asked), query)) = self.waiting.pop_excess(context.config.datagrams_max) {
            self.unanswered(&asked, &query, context);
            context.losses.add(Loss::DatagramOverflow, 1);
        }
        self.waiting.insert(served_key, packet, due_ns);
    }

    /// An answer was sent.
    pub fn answered(&mut self, packet: &Packet, answer: &Message, lookups: &mut Lookups, context: &mut Context<'_>) {
        let asked = Asked { id: answer.id, question: answer.question.clone() };
        let served_key = (packet.socket, packet.remote, asked);
        let Some(query) = self.waiting.remove(&served_key) else { return };
        let asked = served_key.2;
        let seen = query.arrived.map(|arrived| Seen { arrived, left_ns: packet.left_ns() });
        let client = lookups.served(&query, &asked, seen);
        self.tell(&asked, &query, Some((packet, answer)), client, context);
    }

    /// What is not answered in time never is: a server may want that.
    pub fn tick(&mut self, context: &mut Context<'_>) {
        while let Some(((.., asked), query)) = self.waiting.pop_due(context.now_ns) {
            self.unanswered(&asked, &query, context);
        }
    }

    pub fn flush(&mut self, context: &mut Context<'_>) {
        for ((.., asked), query) in self.waiting.pop_all() {
            self.unanswered(&asked, &query, context);
        }
    }

    fn unanswered(&mut self, asked: &Asked, query: &Packet, context: &mut Context<'_>) {
        self.tell(asked, query, None, None, context);
    }

    fn tell(
        &mut self,
        asked: &Asked,
        query: &Packet,
        answer: Option<(&Packet, &Message)>,
        client: Option<RequestKey>,
        context: &mut Context<'_>,
    ) {
        self.number += 1;
        let mut attributes = attributes(asked, answer.map(|(_, answer)| answer));
        attributes.push(("spantap.request.bytes", int(u64::from(query.length))));
        if let Some((packet, _)) = answer {
            attributes.push(("spantap.response.bytes", int(u64::from(packet.length))));
        } else {
            attributes.push(("spantap.end.evidence", word(Evidence::Inferred.name())));
        }
        let rcode = answer.map(|(_, answer)| answer.rcode);
        let exchange = Exchange {
            role: Role::Server,
            protocol: Protocol::Dns,
            name: name(asked),
            request: query,
            timeline: served(query, answer.map(|(packet, _)| packet)),
            status: rcode.map_or(Status::Unknown, |rcode| status(rcode, Role::Server)),
            error_type: rcode.filter(|rcode| status(*rcode, Role::Server) == Status::Error).and_then(error_type),
            key: client.unwrap_or_else(|| key(query, Counted::Served, self.number)),
            client_traced: client.is_some(),
        };
        context.drafts.push(exchange.draft(attributes));
    }
}

pub(super) fn name(asked: &Asked) -> String {
    format!("dns {}", asked.question.kind_name())
}

/// That a name does not exist is an answer like any other. What else is no success failed who asked; the server itself
/// failed only if it says so.
pub(super) fn status(rcode: u8, role: Role) -> Status {
    match (rcode, role) {
        (0 | NXDOMAIN, _) => Status::Ok,
        (SERVFAIL, _) | (_, Role::Client) => Status::Error,
        (_, Role::Server) => Status::Ok,
    }
}

pub(super) fn error_type(rcode: u8) -> Option<String> {
    (status(rcode, Role::Client) == Status::Error).then(|| rcode_name(rcode))
}

pub(super) fn attributes(asked: &Asked, answer: Option<&Message>) -> Attributes {
    let mut attributes: Attributes = Vec::with_capacity(12);
    attributes.push(("dns.question.name", text(&asked.question.name)));
    attributes.push(("network.protocol.name", word("dns")));
    if let Some(answer) = answer {
        attributes.push(("spantap.dns.rcode", text(rcode_name(answer.rcode))));
        if answer.truncated {
            attributes.push(("spantap.dns.truncated", Value::Bool(true)));
        }
        if !answer.addresses.is_empty() {
            let addresses = answer.addresses.iter().map(ToString::to_string).collect();
            attributes.push(("dns.answers", Value::Strings(addresses)));
        }
    }
    attributes
}
