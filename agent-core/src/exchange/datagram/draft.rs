//! Drafts of exchanges of datagrams.

use super::packet::Packet;
use crate::{
    correlate::{Origin, RequestKey},
    endpoint::IpText,
    exchange::{
        Draft, Selection,
        semconv::{self, Attributes, int, text, word},
    },
    flow::connection::Role,
    segment::Timeline,
    span::{Evidence, Protocol, Status, Value},
};

/// What numbers an exchange.
#[derive(Clone, Copy)]
pub(super) enum Counted {
    Lookup = 0,
    Served = 1,
    Conversation = 2,
}

/// What an exchange is called by both ends on this host: the number is unique among those of its kind.
pub(super) fn key(first: &Packet, counted: Counted, number: u64) -> RequestKey {
    let (client, server) = (first.local.into(), first.remote.into());
    RequestKey { client, server, origin: Origin::Datagram(first.socket), offset: number << 2 | counted as u64 }
}

/// What makes a span of an exchange.
pub(super) struct Exchange<'a> {
    pub role: Role,
    pub protocol: Protocol,
    pub name: String,
    /// The request's first datagram.
    pub request: &'a Packet,
    pub timeline: Timeline,
    pub status: Status,
    pub error_type: Option<String>,
    pub key: RequestKey,
    /// Whether this host makes a client span of the same exchange, by the same key.
    pub client_traced: bool,
}

impl Exchange<'_> {
    /// The draft; `more` are attributes of the protocol.
    pub fn draft(self, more: Attributes) -> Draft {
        let mut attributes: Attributes = Vec::with_capacity(16);
        attributes.extend(more);
        if let Some(error_type) = self.error_type {
            attributes.push(("error.type", text(error_type)));
        }
        let packet = self.request;
        let server = if self.role == Role::Client { packet.remote } else { packet.local };
        if !server.ip().is_unspecified() {
            attributes.push(("server.address", text(IpText::new(server.ip()).as_str())));
        }
        attributes.push(("server.port", int(u64::from(server.port()))));
        semconv::inet(&mut attributes, packet.remote, self.role, "udp", |address| {
            IpText::new(address).as_str().to_owned().into()
        });
        if packet.call.tid != 0 {
            attributes.push(("thread.id", Value::Int(i64::from(packet.call.tid))));
        }
        if self.timeline.start != Evidence::Measured {
            attributes.push(("spantap.start.evidence", word(self.timeline.start.name())));
        }
        Draft {
            facts: packet.facts(self.role),
            role: self.role,
            kind: self.role.span_kind(),
            protocol: self.protocol,
            name: self.name.into(),
            timeline: self.timeline,
            status: self.status,
            attributes,
            trace_context: None,
            request_offset: 0,
            key: Some(self.key),
            client_traced: self.client_traced,
            pid: packet.call.pid,
            peer_pid: 0,
            selection: Selection::Selected,
        }
    }
}
