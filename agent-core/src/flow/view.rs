//! Connections as they are shown: their whole life in one line.
//!
//! In: a connection that lives, closed, or could not be made. Out: [`ConnectionView`]. Called by [`super::table`].

use std::{collections::VecDeque, sync::Arc};

use agent_common::connection::ConnectionRecord;

use super::connection::{Connection, Facts, ResetBy, Role, Seen};
use crate::{
    endpoint::Endpoint,
    flow::{clock::ClockOffset, life::Life},
    span::{MonotonicNs, UnixNs},
};

/// Closed connections that are remembered.
pub const CLOSED_MAX: usize = 1_000;

/// How a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Both directions may move.
    Open,
    /// One end said that it will send no more.
    Closing,
    /// Over.
    Closed,
    /// Over, by a reset.
    Reset,
    /// It never came to be.
    Failed,
}

impl State {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Failed => "failed",
        }
    }
}

/// What is known of a connection's life. Retransmitted segments in requests, in the handshake and outside of both sum to
/// the total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Unique on this host since boot.
    pub id: u64,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Unix: the name that the listening end is bound to.
    pub unix_path: Option<Arc<str>>,
    /// Which end this is, if known.
    pub role: Option<Role>,
    /// The process that opened or first used it; 0 if not known.
    pub pid: u32,
    /// How it is.
    pub state: State,
    /// When it was opened; `None` if it is older than the agent.
    pub opened: Option<UnixNs>,
    /// When it went away.
    pub closed: Option<UnixNs>,
    /// Bytes that this end wrote; those of a connection that is older than the agent may be fewer than in truth.
    pub bytes_sent: u64,
    /// Bytes that it read, likewise.
    pub bytes_received: u64,
    /// Requests with their responses, or what came instead.
    pub exchanges: u64,
    /// Segments that this end sent again.
    pub retransmits_total: u64,
    /// Those of bytes of a request that a client sent, or of a response that a server sent.
    pub retransmits_in_requests: u64,
    /// SYN of a client, SYN-ACK of a server.
    pub retransmits_handshake: u64,
    /// The rest: FIN, probes, bytes of no exchange.
    pub retransmits_outside: u64,
    /// Segments that arrived here out of order.
    pub out_of_order: u32,
    /// Smoothed round-trip time; `None` without a sample.
    pub srtt_us: Option<u32>,
    /// Smallest round-trip time of the kernel's window; `None` without a sample.
    pub min_rtt_us: Option<u32>,
    /// Which end reset it.
    pub reset_by: Option<ResetBy>,
    /// Whether it is TLS, and whether what is inside is seen.
    pub tls: Option<Seen>,
}

impl ConnectionView {
    fn new(facts: &Facts, life: &Life, state: State, clock: ClockOffset) -> Self {
        let (total, handshake, in_requests) = life.retransmits();
        let known = |us: u32| (us != 0 && us != u32::MAX).then_some(us);
        let opened = facts.opened_ns != 0 && !facts.preexisting;
        Self {
            id: facts.id,
            local: facts.local,
            peer: facts.peer,
            unix_path: facts.unix_path.clone(),
            role: facts.role,
            pid: facts.pid,
            state,
            opened: opened.then(|| clock.unix(MonotonicNs(facts.opened_ns))),
            closed: None,
            bytes_sent: 0,
            bytes_received: 0,
            exchanges: 0,
            retransmits_total: total,
            retransmits_in_requests: in_requests,
            retransmits_handshake: handshake,
            retransmits_outside: total.saturating_sub(handshake + in_requests),
            out_of_order: life.out_of_order(),
            srtt_us: known(life.latest.srtt_us),
            min_rtt_us: known(life.latest.min_rtt_us),
            reset_by: None,
            tls: None,
        }
    }

    /// Of a connection that was made.
    pub fn of(connection: &Connection, clock: ClockOffset) -> Self {
        let ended = connection.send.ended_ns.is_some() || connection.receive.ended_ns.is_some();
        let state = match (connection.reset_ns, connection.closed_ns) {
            _ if connection.failed => State::Failed,
            (Some(_), _) => State::Reset,
            (None, Some(_)) => State::Closed,
            (None, None) if ended => State::Closing,
            (None, None) => State::Open,
        };
        Self {
            closed: connection.closed_ns.map(|ns| clock.unix(MonotonicNs(ns))),
            bytes_sent: connection.send.stream.next(),
            bytes_received: connection.receive.stream.next(),
            exchanges: connection.exchanges,
            reset_by: connection.reset_by,
            tls: connection.tls,
            ..Self::new(&connection.facts, &connection.life, state, clock)
        }
    }

    /// Of one that could not be.
    pub fn of_failed(record: &ConnectionRecord, clock: ClockOffset) -> Self {
        let mut life = Life::default();
        life.handshake(record.handshake_retransmits);
        let facts = Facts { role: Some(Role::Client), ..Facts::new(record) };
        let closed = clock.unix(MonotonicNs(record.changed_ns));
        Self { closed: Some(closed), ..Self::new(&facts, &life, State::Failed, clock) }
    }
}

/// The last connections that closed, oldest first.
#[derive(Debug, Default)]
pub struct Closed(VecDeque<ConnectionView>);

impl Closed {
    /// Adds one.
    pub fn push(&mut self, view: ConnectionView) {
        if self.0.len() >= CLOSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(view);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &ConnectionView> {
        self.0.iter()
    }
}
