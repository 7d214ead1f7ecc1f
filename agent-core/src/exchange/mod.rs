//! From bytes to exchanges: a request with its response, as one end of a connection saw them.
//!
//! In: a connection's bytes in order, with their timings. Out: a [`Draft`] per exchange. Called by [`crate::flow`].
//! [`http`] pairs the messages of a parser; [`opaque`] alternates directions where there is none. Limits: messages that
//! wait per connection.

pub mod connect;
pub mod datagram;
pub mod dialogue;
mod ending;
pub mod http;
pub mod opaque;
mod semconv;
pub mod settle;
mod tcp;
pub mod tls;

use agent_protocol::traceparent::TraceParent;

use self::datagram::Answered;
pub(crate) use self::ending::hides_answers;
use crate::{
    config::PipelineConfig,
    correlate::RequestKey,
    flow::{
        clock::ClockOffset,
        connection::{Facts, Role},
        thread::Threads,
    },
    loss::Losses,
    reorder::Numbering,
    segment::Timeline,
    span::{Protocol, SpanKind, Status, Text, Value},
};

/// What every step works with.
#[derive(Debug)]
pub struct Context<'a> {
    /// Bounds and waits.
    pub config: &'a PipelineConfig,
    /// Which records did not arrive.
    pub numbering: &'a Numbering,
    /// What threads did last.
    pub threads: &'a Threads,
    /// Counters.
    pub losses: &'a mut Losses,
    /// To wall-clock time.
    pub clock: ClockOffset,
    /// Time of the event, or of the tick.
    pub now_ns: u64,
    /// Finished exchanges.
    pub drafts: &'a mut Vec<Draft>,
    /// Names that were looked up.
    pub answers: &'a mut Vec<Answered>,
    /// Connections of whose calls as much is wanted as can be captured, and of which calls ([`agent_common::message::whole`]).
    pub whole: &'a mut Vec<(u64, u32)>,
}

/// A finished exchange, before it has a place in a trace.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The connection.
    pub facts: Facts,
    /// Which end this is.
    pub role: Role,
    /// Kind of the span.
    pub kind: SpanKind,
    /// Protocol.
    pub protocol: Protocol,
    /// First part of the span's name.
    pub name: Text,
    /// Time.
    pub timeline: Timeline,
    /// Outcome.
    pub status: Status,
    /// Attributes of the protocol and the connection.
    pub attributes: Vec<(&'static str, Value)>,
    /// What the request says about its trace.
    pub trace_context: Option<TraceParent>,
    /// Offset of the request's first byte.
    pub request_offset: u64,
    /// What names the request, if not the connection and the offset.
    pub key: Option<RequestKey>,
    /// Whether this host makes a client span of the same request.
    pub client_traced: bool,
    /// Process; 0 if not known.
    pub pid: u32,
    /// The process at the other end; 0 if not known, or not on this host.
    pub peer_pid: u32,
    /// Whether it is of what is selected.
    pub selection: Selection,
}

/// Whether a span is of what is selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It is, or that is not known.
    Selected,
    /// It is not, but the other end is, which is on this host.
    OtherEnd,
    /// Neither end is.
    Neither,
}
