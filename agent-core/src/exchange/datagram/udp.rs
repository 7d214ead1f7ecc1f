//! Other UDP: a datagram, and the next one back.
//!
//! Who is seen to send first is the client, which is a guess and says so; it stays the client as long as its conversation is
//! remembered. Datagrams of the client before the answer are one request; those of the server after its first one belong to it, and
//! are not timed. What they mean is not understood, so the outcome stays unknown.
//!
//! QUIC (RFC 9000) is a stream of datagrams, not of exchanges: it is left out where its begin was captured. Of any
//! conversation [`EXCHANGES_PER_SECOND_MAX`] are told in a second; the others are counted.

use std::{collections::HashMap, net::SocketAddr};

use super::{
    draft::{Counted, Exchange, key},
    packet::Packet,
    timeline::{Seen, Sent, served},
    waiting::Waiting,
};
use crate::{
    correlate::RequestKey,
    exchange::{
        Context,
        connect::errno,
        semconv::{int, word},
    },
    flow::connection::Role,
    loss::Loss,
    segment::Timeline,
    span::{Evidence, Protocol, Status},
};

/// Most spans of one conversation in a second.
const EXCHANGES_PER_SECOND_MAX: u32 = 1000;
const SECOND_NS: u64 = 1_000_000_000;

/// Socket, and the other end.
type Ends = (u64, SocketAddr);

/// What outlasts a silence.
#[derive(Clone, Copy, Debug)]
struct Known {
    role: Role,
    /// Whether it is QUIC.
    quic: bool,
}

#[derive(Debug)]
struct Conversation {
    known: Known,
    /// The client's and the server's.
    ports: (u16, u16),
    request: Option<Request>,
    /// A second's begin, and exchanges in it.
    rate: (u64, u32),
}

#[derive(Debug)]
struct Request {
    sent: Sent,
    bytes: u64,
    key: RequestKey,
    seen: Option<Seen>,
}

/// All conversations.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    waiting: Waiting<Ends, Conversation>,
    /// What those were that are silent, the longest silent first; of those that there is no room for it is guessed anew.
    silent: Waiting<Ends, Known>,
    /// Clients by their port and the server's.
    clients: HashMap<(u16, u16), Ends>,
    number: u64,
}

impl Conversations {
    /// A datagram was sent or read.
    pub fn moved(&mut self, packet: Packet, sent: bool, payload: &[u8], context: &mut Context<'_>) {
        let ends = (packet.socket, packet.remote);
        let due_ns = packet.call.return_ns.saturating_add(context.config.dns_wait_ns);
        if self.waiting.touch(&ends, due_ns).is_none() {
            if let Some((old, conversation)) = self.waiting.pop_excess(context.config.datagrams_max) {
                self.fall_silent(old, &conversation, context);
                context.losses.add(Loss::DatagramOverflow, 1);
            }
            let known = self.silent.remove(&ends).unwrap_or_else(|| Known {
                role: if sent { Role::Client } else { Role::Server },
                quic: is_quic(packet.length, payload),
            });
            let (local, remote) = (packet.local.port(), packet.remote.port());
            let ports = if known.role == Role::Client { (local, remote) } else { (remote, local) };
            if known.role == Role::Client {
                self.clients.insert(ports, ends);
            }
            self.waiting.insert(ends, Conversation { known, ports, request: None, rate: (0, 0) }, due_ns);
        }
        let Some(conversation) = self.waiting.get_mut(&ends) else { return };
        if conversation.known.quic {
            return;
        }
        if sent == (conversation.known.role == Role::Client) {
            conversation.asked(packet, &mut self.number);
        } else if let Some(request) = conversation.request.take() {
            if !conversation.may_tell(packet.call.return_ns) {
                return context.losses.add(Loss::DatagramRate, 1);
            }
            let role = conversation.known.role;
            self.answered(role, request, &packet, context);
        }
    }

    /// A call on the socket failed: nobody listens there, or the like.
    pub fn failed(&mut self, packet: &Packet, number: u32, context: &mut Context<'_>) {
        let Some(conversation) = self.waiting.get_mut(&(packet.socket, packet.remote)) else { return };
        if conversation.known.role != Role::Client {
            return;
        }
        let Some(request) = conversation.request.take() else { return };
        let timeline = request.sent.given_up(packet.call.return_ns);
        request.tell(Role::Client, None, timeline, Some(errno(number)), None, context);
    }

    /// Forgets who was silent for long.
    pub fn tick(&mut self, context: &Context<'_>) {
        while let Some((ends, conversation)) = self.waiting.pop_due(context.now_ns) {
            self.fall_silent(ends, &conversation, context);
        }
    }

    /// What was not answered is no exchange.
    pub fn flush(&mut self) {
        (self.waiting, self.silent, self.clients) = (Waiting::default(), Waiting::default(), HashMap::new());
    }

    fn answered(&mut self, role: Role, request: Request, answer: &Packet, context: &mut Context<'_>) {
        if role == Role::Client {
            let timeline = request.sent.answered(answer, request.seen.as_ref());
            return request.tell(role, Some(answer), timeline, None, None, context);
        }
        let asked = &request.sent.last;
        let client = self.client_of(asked, answer);
        let timeline = served(&request.sent.first, Some(answer));
        request.tell(role, Some(answer), timeline, None, client, context);
    }

    /// The client of a request that a server on this host has answered, if it is on this host as well: the ports, the
    /// addresses as far as they are known, the length, and the order in time. Notes what was seen of it there.
    fn client_of(&mut self, asked: &Packet, answer: &Packet) -> Option<RequestKey> {
        let ends = self.clients.get(&(asked.remote.port(), asked.local.port()))?;
        let request = self.waiting.get_mut(ends)?.request.as_mut()?;
        let sent = &request.sent.last;
        let same = |one: SocketAddr, other: SocketAddr| {
            one.ip().is_unspecified() || other.ip().is_unspecified() || one.ip() == other.ip()
        };
        let arrived_ns = asked.arrived.map_or(asked.call.return_ns, |arrived| arrived.ns);
        let fits = same(sent.local, asked.remote) && same(sent.remote, asked.local);
        if !fits || sent.length != asked.length || sent.begin_ns() > arrived_ns {
            return None;
        }
        request.seen = asked.arrived.map(|arrived| Seen { arrived, left_ns: answer.left_ns() });
        Some(request.key)
    }

    fn fall_silent(&mut self, ends: Ends, conversation: &Conversation, context: &Context<'_>) {
        if self.clients.get(&conversation.ports) == Some(&ends) {
            self.clients.remove(&conversation.ports);
        }
        self.silent.pop_excess(context.config.datagrams_max);
        self.silent.insert(ends, conversation.known, context.now_ns);
    }
}

/// RFC 9000, 17.2 and 14.1: a client begins with a long header, a version that is known, and much padding.
fn is_quic(length: u32, payload: &[u8]) -> bool {
    const VERSIONS: [[u8; 4]; 2] = [[0, 0, 0, 1], [0x6b, 0x33, 0x43, 0xcf]];
    const INITIAL_BYTES_MIN: u32 = 1200;
    let [first, a, b, c, d, ..] = *payload else { return false };
    first & 0xc0 == 0xc0 && VERSIONS.contains(&[a, b, c, d]) && length >= INITIAL_BYTES_MIN
}

impl Conversation {
    fn may_tell(&mut self, now_ns: u64) -> bool {
        if now_ns.saturating_sub(self.rate.0) >= SECOND_NS {
            self.rate = (now_ns, 0);
        }
        self.rate.1 = self.rate.1.saturating_add(1);
        self.rate.1 <= EXCHANGES_PER_SECOND_MAX
    }

    fn asked(&mut self, packet: Packet, number: &mut u64) {
        if let Some(request) = &mut self.request {
            request.bytes = request.bytes.saturating_add(u64::from(packet.length));
            return request.sent.again(packet);
        }
        *number += 1;
        let (bytes, key) = (u64::from(packet.length), key(&packet, Counted::Conversation, *number));
        self.request = Some(Request { sent: Sent::new(packet), bytes, key, seen: None });
    }
}

impl Request {
    fn tell(
        &self,
        role: Role,
        answer: Option<&Packet>,
        timeline: Timeline,
        error_type: Option<String>,
        client: Option<RequestKey>,
        context: &mut Context<'_>,
    ) {
        let role_evidence = ("spantap.role.evidence", word(Evidence::Inferred.name()));
        let mut attributes = vec![role_evidence, ("spantap.request.bytes", int(self.bytes))];
        attributes.extend(answer.map(|answer| ("spantap.response.bytes", int(u64::from(answer.length)))));
        let exchange = Exchange {
            role,
            protocol: Protocol::Udp,
            name: "udp".to_owned(),
            request: &self.sent.first,
            timeline,
            status: if error_type.is_some() { Status::Error } else { Status::Unknown },
            error_type,
            key: client.unwrap_or(self.key),
            client_traced: client.is_some(),
        };
        context.drafts.push(exchange.draft(attributes));
    }
}
