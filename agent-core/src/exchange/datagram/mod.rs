//! Exchanges of datagrams: DNS by its messages, other UDP by direction.
//!
//! In: datagrams, nearly in order of time; what threads and processes do besides; the time. Out: drafts, and what
//! lookups a connection's client had waited for ([`Resolution`]). Called by [`crate::pipeline`].
//!
//! - DNS: a query and the answer with its id and question. On TCP, too ([`DnsStream`]). The same query sent again, also to another server or from
//!   another socket of the process, is part of the exchange. Recognised by content, never by port.
//! - Other UDP: a datagram, or several, and the first one back from the same remote address on the same socket. What is
//!   never answered is no exchange: much of UDP is one-way.
//!
//! Multicast and mDNS (RFC 6762) are left out: who asks all is answered by anyone, or by no one.
//!
//! Limits: [`crate::config::PipelineConfig::datagrams_max`] exchanges that wait, of each kind; the oldest is given up,
//! and counted.

mod dns;
mod draft;
mod packet;
mod resolved;
mod stream;
mod timeline;
mod udp;
mod waiting;

use agent_common::{
    datagram::{DatagramRecord, flag},
    message::direction,
};
use agent_protocol::dns::Message;

use self::{
    dns::{Lookups, Served},
    packet::Packet,
    resolved::Resolved,
    udp::Conversations,
};
pub use self::{
    resolved::{Answered, Resolution},
    stream::DnsStream,
};
use super::Context;
use crate::{config::PipelineConfig, event::Datagram, flow::connection::Facts};

/// RFC 6762, 3.
const MDNS_PORT: u16 = 5353;

/// All exchanges of datagrams.
#[derive(Debug, Default)]
pub struct Datagrams {
    lookups: Lookups,
    served: Served,
    conversations: Conversations,
    resolved: Resolved,
}

impl Datagrams {
    /// Takes a datagram, or a call that failed.
    pub fn event(&mut self, datagram: &Datagram, context: &mut Context<'_>) {
        let record = &datagram.record;
        if record.flags & flag::CLOSED != 0 {
            return self.closed(record, context);
        }
        let Some(packet) = Packet::new(record) else { return self.answered_without_address(datagram, context) };
        if record.local_port == MDNS_PORT || packet.remote.port() == MDNS_PORT {
            return;
        }
        let sent = record.direction == direction::SEND;
        if record.result < 0 {
            self.lookups.failed(&packet, record.result.unsigned_abs(), context);
            return self.conversations.failed(&packet, record.result.unsigned_abs(), context);
        }
        let message = Message::parse(&datagram.payload, record.length as usize);
        match message.map(|message| (message.response, message)) {
            Ok((false, query)) if sent => self.lookups.asked(packet, query, context),
            Ok((true, answer)) if sent => self.served.answered(&packet, &answer, &mut self.lookups, context),
            Ok((false, query)) => self.served.asked(packet, query, context),
            Ok((true, answer)) => {
                let answered = self.lookups.answered(&packet, &answer, context);
                context.answers.extend(answered);
            }
            Err(_) => self.conversations.moved(packet, sent, &datagram.payload, context),
        }
    }

    /// The application closes a socket on which it waited, or of which the network told an error.
    fn closed(&mut self, record: &DatagramRecord, context: &mut Context<'_>) {
        let errno = record.result.unsigned_abs();
        self.lookups.closed(record.socket_id, record.header.time_ns, errno, context);
        if let Some(packet) = Packet::new(record).filter(|_| errno != 0) {
            self.conversations.failed(&packet, errno, context);
        }
    }

    /// Who waits for an answer need not ask for its sender (`recv` on a socket that is not connected). It still names the
    /// lookup, by number and question.
    fn answered_without_address(&mut self, datagram: &Datagram, context: &mut Context<'_>) {
        let record = &datagram.record;
        let Some(packet) = Packet::of_unknown_sender(record).filter(|_| record.local_port != MDNS_PORT) else { return };
        if let Ok(answer) = Message::parse(&datagram.payload, record.length as usize)
            && answer.response
        {
            let answered = self.lookups.answered(&packet, &answer, context);
            context.answers.extend(answered);
        }
    }

    /// A thread entered a call that has nothing to do with datagrams: by then it had given up what it waited for, or had
    /// never waited.
    pub fn thread_went_on(&mut self, tid: u32, ns: u64) {
        self.lookups.thread_went_on(tid, ns);
    }

    /// A process ended, and what it waited for with it.
    pub fn process_ended(&mut self, pid: u32, ns: u64, context: &mut Context<'_>) {
        self.lookups.process_ended(pid, ns, context);
        self.resolved.forget(pid);
    }

    /// A lookup was answered, by whatever means.
    pub fn learned(&mut self, answered: Answered, config: &PipelineConfig) {
        if let Some(question) = &answered.over_tcp {
            self.lookups.asked_elsewhere(answered.pid, question);
        }
        self.resolved.add(answered, config);
    }

    /// The lookups that the opener of this connection had waited for. They count for one connection only.
    pub fn resolution(&mut self, facts: &Facts, context: &Context<'_>) -> Option<Resolution> {
        self.resolved.take(facts, &self.lookups, context.config)
    }

    /// Gives up what is due.
    pub fn tick(&mut self, context: &mut Context<'_>) {
        self.lookups.tick(context);
        self.served.tick(context);
        self.conversations.tick(context);
        self.resolved.tick(context);
    }

    /// Shutdown: what waits has an unknown outcome, or is no exchange.
    pub fn flush(&mut self, context: &mut Context<'_>) {
        self.lookups.flush(context);
        self.served.flush(context);
        self.conversations.flush();
    }
}
