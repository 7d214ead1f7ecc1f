//! Which trace a span belongs to, and which span is its parent: from what was sent, or not at all.
//!
//! In: the connection and the offset of a request, its `traceparent`, and whether this host's other end of the
//! connection is traced as well. Out: [`Identity`]. Called by [`crate::pipeline`] for every span. Never: guesses a
//! parent by time or by process.
//!
//! Ids that are made up come from a keyed hash of what both ends see alike: the two endpoints, the client's first
//! sequence number and the request's offset. So both ends of one request find the same trace id without waiting.

use std::{hash::Hasher, net::IpAddr};

use agent_protocol::traceparent::TraceParent;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    endpoint::Endpoint,
    span::{Link, SpanId, TraceId},
};

/// Evidence: both spans are of the same bytes of the same TCP connection.
pub const TCP_SEQUENCE: &str = "tcp_sequence";
/// Evidence: both spans are of the same bytes between the same two unix sockets.
pub const UNIX_INODES: &str = "unix_inodes";
/// Evidence: both spans are of the same datagrams, by their ports and what they hold.
pub const DATAGRAM: &str = "datagram";
/// Evidence: the request's own `traceparent` names the parent.
pub const TRACEPARENT: &str = "traceparent";

/// What names a request on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The client's endpoint.
    pub client: Endpoint,
    /// The server's endpoint.
    pub server: Endpoint,
    /// Sequence number of the client's first byte, if known to both ends; else what is unique on this host.
    pub origin: Origin,
    /// Offset of the request's first byte.
    pub offset: u64,
}

impl RequestKey {
    /// What makes two spans with this key those of one request.
    fn evidence(&self) -> &'static str {
        match (self.origin, self.client) {
            (Origin::Datagram(_), _) => DATAGRAM,
            (_, Endpoint::Inet(_)) => TCP_SEQUENCE,
            (_, Endpoint::Unix(_)) => UNIX_INODES,
        }
    }
}

/// What tells connections between the same endpoints apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Sequence number of the client's first byte.
    Sequence(u32),
    /// This host's number of the connection.
    Connection(u64),
    /// This host's number of the client's socket.
    Datagram(u64),
}

/// A span's place.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Trace.
    pub trace_id: TraceId,
    /// Span.
    pub span_id: SpanId,
    /// Parent, if known for sure.
    pub parent_span_id: Option<SpanId>,
    /// How the parent is known.
    pub parent_evidence: Option<&'static str>,
    /// Related spans.
    pub links: Vec<Link>,
}

/// Makes ids.
#[derive(Clone, Debug)]
pub struct Correlator {
    seed: [u8; 16],
}

impl Correlator {
    /// With the key of all ids: random per start of the agent.
    pub fn new(seed: [u8; 16]) -> Self {
        Self { seed }
    }

    /// The place of a client's span.
    pub fn client(&self, key: &RequestKey, context: Option<&TraceParent>) -> Identity {
        let hasher = self.hasher(key);
        place(hasher, span_id(hasher, b"client"), context)
    }

    /// The place of a server's span. `client_traced`: this host makes a client span of the same request.
    pub fn server(&self, key: &RequestKey, context: Option<&TraceParent>, client_traced: bool) -> Identity {
        let hasher = self.hasher(key);
        let mut place = place(hasher, span_id(hasher, b"server"), context);
        if !client_traced {
            return place;
        }
        let client = span_id(hasher, b"client");
        if context.is_some() {
            place.links.push(Link { trace_id: place.trace_id, span_id: client, evidence: key.evidence() });
        } else {
            (place.parent_span_id, place.parent_evidence) = (Some(client), Some(key.evidence()));
        }
        place
    }

    /// Of what all ids of a request have in common.
    fn hasher(&self, key: &RequestKey) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_key(&self.seed);
        for endpoint in [key.client, key.server] {
            write_endpoint(&mut hasher, endpoint);
        }
        match key.origin {
            Origin::Sequence(sequence) => hasher.write_u64(u64::from(sequence)),
            Origin::Connection(id) => {
                hasher.write_u8(1);
                hasher.write_u64(id);
            }
            Origin::Datagram(id) => {
                hasher.write_u8(2);
                hasher.write_u64(id);
            }
        }
        hasher.write_u64(key.offset);
        hasher
    }
}

fn place(hasher: SipHasher13, span_id: SpanId, context: Option<&TraceParent>) -> Identity {
    Identity {
        trace_id: context.map_or_else(|| trace_id(hasher), |context| TraceId(context.trace_id)),
        span_id,
        parent_span_id: context.map(|context| SpanId(context.parent_id)),
        parent_evidence: context.map(|_| TRACEPARENT),
        links: Vec::new(),
    }
}

fn trace_id(hasher: SipHasher13) -> TraceId {
    let hash = hash(hasher, b"trace");
    TraceId(if hash == 0 { 1 } else { hash }.to_be_bytes())
}

fn span_id(hasher: SipHasher13, role: &[u8]) -> SpanId {
    let hash = hash(hasher, role) as u64;
    SpanId(if hash == 0 { 1 } else { hash }.to_be_bytes())
}

fn hash(mut hasher: SipHasher13, what: &[u8]) -> u128 {
    hasher.write(what);
    hasher.finish128().as_u128()
}

fn write_endpoint(hasher: &mut SipHasher13, endpoint: Endpoint) {
    let address = match endpoint {
        Endpoint::Inet(address) => address,
        Endpoint::Unix(inode) => return hasher.write_u64(inode),
    };
    match address.ip() {
        IpAddr::V4(ip) => hasher.write(&ip.octets()),
        IpAddr::V6(ip) => hasher.write(&ip.octets()),
    }
    hasher.write_u16(address.port());
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn key(offset: u64) -> RequestKey {
        let [client, server] = ["10.0.0.1:40000", "10.0.0.2:80"].map(|text| text.parse::<SocketAddr>().unwrap().into());
        RequestKey { client, server, origin: Origin::Sequence(77), offset }
    }

    const CONTEXT: TraceParent = TraceParent { version: 0, trace_id: [3; 16], parent_id: [4; 8], flags: 1 };

    #[test]
    fn both_ends_of_a_request_share_a_trace_and_nothing_else_does() {
        let correlator = Correlator::new([9; 16]);
        let (client, server) = (correlator.client(&key(0), None), correlator.server(&key(0), None, true));
        assert_eq!(client.trace_id, server.trace_id);
        assert_eq!((server.parent_span_id, server.parent_evidence), (Some(client.span_id), Some(TCP_SEQUENCE)));
        assert_eq!(client.parent_span_id, None);
        assert_ne!(client.span_id, server.span_id);
        assert_ne!(correlator.client(&key(1), None).trace_id, client.trace_id);
        assert_ne!(Correlator::new([8; 16]).client(&key(0), None).trace_id, client.trace_id);
    }

    #[test]
    fn a_server_whose_client_is_not_traced_has_no_parent() {
        let server = Correlator::new([9; 16]).server(&key(0), None, false);
        assert_eq!((server.parent_span_id, server.parent_evidence, server.links), (None, None, vec![]));
    }

    #[test]
    fn traceparent_decides_trace_and_parent_of_both_and_the_bytes_only_link() {
        let correlator = Correlator::new([9; 16]);
        let (client, server) =
            (correlator.client(&key(0), Some(&CONTEXT)), correlator.server(&key(0), Some(&CONTEXT), true));
        for span in [&client, &server] {
            assert_eq!((span.trace_id, span.parent_span_id), (TraceId([3; 16]), Some(SpanId([4; 8]))));
        }
        let link = Link { trace_id: TraceId([3; 16]), span_id: client.span_id, evidence: TCP_SEQUENCE };
        assert_eq!(server.links, [link]);
    }
}
