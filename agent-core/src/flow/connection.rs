//! One connection: who its ends are, its two directions, and how it ended so far.
//!
//! In: connection records and the positions and timings of data. Out: what pairing and segments ask. Called by
//! [`crate::flow::Flow`] and [`crate::exchange`].

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use agent_common::{
    connection::{ConnectionRecord, flag, role},
    message::whole,
    sched::Blocked,
};
use agent_protocol::session::Texts;

use super::{
    life::Life,
    stream::Stream,
    timing::{CallTiming, Timings},
};
use crate::{
    correlate::Origin,
    endpoint::{self, AF_UNIX, Endpoint, IpText},
    exchange::{
        Context,
        datagram::Resolution,
        settle::{Paired, Unsettled},
    },
    segment::{Before, Step},
    span::{Evidence, SpanKind, Text},
};

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Makes requests.
    Client,
    /// Answers them.
    Server,
}

impl Role {
    /// Kind of the span of a request at this end.
    pub const fn span_kind(self) -> SpanKind {
        match self {
            Self::Client => SpanKind::Client,
            Self::Server => SpanKind::Server,
        }
    }

    /// Direction of requests at this end.
    pub const fn request_direction(self) -> Direction {
        match self {
            Self::Client => Direction::Send,
            Self::Server => Direction::Receive,
        }
    }
}

/// Direction of bytes, as this end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Read by this end.
    Receive,
    /// Written by this end.
    Send,
}

/// What is known of a connection as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Unique on this host since boot.
    pub id: u64,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Unix: the name that the server's end is bound to, if it is known.
    pub unix_path: Option<Arc<str>>,
    /// Which end this is, if known.
    pub role: Option<Role>,
    /// Whether `role` is a guess by port numbers.
    pub role_guessed: bool,
    /// Whether the connection is older than the agent.
    pub preexisting: bool,
    /// Sequence numbers of the first bytes sent and received, if known.
    pub bases: Option<(u32, u32)>,
    /// Whether bytes had been sent, and received, before or while it was first told of: then what is seen first need
    /// not be what was moved first.
    pub moved: (bool, bool),
    /// Client: when the SYN was about to leave; 0 if not observed.
    pub opened_ns: u64,
    /// When it was established; 0 if not observed.
    pub established_ns: u64,
    /// When `accept` returned it; 0 if not observed.
    pub accepted_ns: u64,
    /// Connections that waited for `accept` when it returned this one, and the most that may; 0 if not observed.
    pub accept_backlog: (u32, u32),
    /// The process that opened or first used it; 0 if not known.
    pub pid: u32,
}

impl Facts {
    /// From the record that opens a connection.
    pub fn new(record: &ConnectionRecord) -> Self {
        // Both ends of a unix connection count from 0, if both were watched from the beginning.
        let counted = record.family == AF_UNIX && record.flags & flag::PREEXISTING == 0;
        let has_bases = record.flags & flag::BASES != 0 || counted;
        Self {
            id: record.connection_id,
            local: Endpoint::new(record.family, &record.local_address, record.local_port),
            peer: Endpoint::new(record.family, &record.remote_address, record.remote_port),
            unix_path: unix_path(record),
            role: match record.role {
                role::CLIENT => Some(Role::Client),
                role::SERVER => Some(Role::Server),
                _ => None,
            },
            role_guessed: false,
            preexisting: record.flags & flag::PREEXISTING != 0,
            bases: has_bases.then_some((record.send_base, record.receive_base)),
            moved: (record.send_end != record.send_base, record.receive_end != record.receive_base),
            opened_ns: record.opened_ns,
            established_ns: record.established_ns,
            accepted_ns: record.accepted_ns,
            accept_backlog: (record.accept_backlog, record.accept_backlog_max),
            pid: record.pid,
        }
    }

    /// Whether its bytes go from socket to socket without a network (unix sockets).
    pub fn is_direct(&self) -> bool {
        matches!(self.local, Endpoint::Unix(_))
    }

    /// Direction of requests; unknown roles have none.
    pub fn request_direction(&self) -> Option<Direction> {
        self.role.map(Role::request_direction)
    }

    /// The client's and the server's endpoint.
    pub fn endpoints(&self, role: Role) -> (Endpoint, Endpoint) {
        match role {
            Role::Client => (self.local, self.peer),
            Role::Server => (self.peer, self.local),
        }
    }

    /// What tells this connection from others between the same endpoints.
    pub fn origin(&self, role: Role) -> Origin {
        match (self.bases, role) {
            (Some((send, _)), Role::Client) => Origin::Sequence(send),
            (Some((_, receive)), Role::Server) => Origin::Sequence(receive),
            (None, _) => Origin::Connection(self.id),
        }
    }

    /// Whether these are the two ends of one connection: the same endpoints, the same first bytes. Unix sockets are named
    /// by numbers that no other socket has.
    pub fn is_other_end_of(&self, other: &Self) -> bool {
        let same = match (self.bases, other.bases) {
            (Some((send, receive)), Some(theirs)) => (receive, send) == theirs,
            _ => self.is_direct() && other.is_direct(),
        };
        same && (self.local, self.peer) == (other.peer, other.local) && self.id != other.id
    }

    /// Servers listen on ports below the range that clients get theirs from (32768 in Linux); if that does not tell,
    /// nothing does.
    pub fn guess_role(&mut self) {
        const EPHEMERAL: u16 = 32_768;
        let (Some(local), Some(peer)) = (self.local.port(), self.peer.port()) else { return };
        let role = match (local < EPHEMERAL, peer < EPHEMERAL) {
            (true, false) => Role::Server,
            (false, true) => Role::Client,
            _ => return,
        };
        (self.role, self.role_guessed) = (Some(role), true);
    }
}

fn unix_path(record: &ConnectionRecord) -> Option<Arc<str>> {
    let bytes = record.path.as_flattened().get(..record.path_len as usize)?;
    if record.family == AF_UNIX { endpoint::unix_path(bytes) } else { None }
}

/// One direction.
#[derive(Debug)]
pub struct Side {
    /// Its bytes.
    pub stream: Stream,
    /// Their timings.
    pub timings: Timings,
    /// When its orderly end was seen: end of stream read, or sending closed by the application.
    pub ended_ns: Option<u64>,
    /// The stream goes at least this far, by the position at which its end was read.
    pub ended_at: u64,
    /// Whether the parser was told.
    pub end_told: bool,
}

impl Side {
    /// The stream's bytes go up to `sequence`. Its end takes a number of its own (RFC 9293, 3.4): `fin` is 1 if that may be counted.
    pub fn goes_to(&mut self, sequence: u32, fin: u64) {
        self.ended_at = self.stream.next() + self.stream.ahead(sequence).saturating_sub(fin);
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// As a whole.
    pub facts: Facts,
    /// What this end reads.
    pub receive: Side,
    /// What it writes.
    pub send: Side,
    /// When it was reset.
    pub reset_ns: Option<u64>,
    /// Which end sent the reset, if that was seen.
    pub reset_by: Option<ResetBy>,
    /// When this end's application closed it whole: it reads nothing more.
    pub local_closed_ns: Option<u64>,
    /// When the peer's FIN arrived before this end had closed: it writes nothing more, and may read or not.
    pub peer_closed_ns: Option<u64>,
    /// The last call that moved nothing: it failed, or met the end.
    pub moved_nothing: Option<CallTiming>,
    /// Whether the process that made its last call, or the connection, is selected; `None`: no call was seen.
    pub is_selected: Option<bool>,
    /// When the socket went away.
    pub closed_ns: Option<u64>,
    /// Whether it never came to be.
    pub failed: bool,
    /// Exchanges paired so far.
    pub exchanges: u64,
    /// Client: what its first exchange waited for. `connect` is told by [`Connection::before`].
    pub before: Before,
    /// Client: the name resolution in `before`.
    pub resolution: Option<Box<Resolution>>,
    /// What TCP counts.
    pub life: Life,
    /// The process of its calls; 0: several had some.
    user: Option<u32>,
    /// The connection's other end, if it is on this host as well.
    pub other_end: Option<u64>,
    /// The only process that used that end; 0: it is not known, or not on this host.
    pub peer_pid: u32,
    /// Server: where requests began of which the client had a span, if that end is forgotten already.
    pub client_told: VecDeque<u64>,
    /// The first byte of each direction, received and sent, whose timings exchanges in progress need.
    pub open_from: [u64; 2],
    /// Only of what is inside a TLS connection: exchanges that were paired, whose times are those of the outer one.
    pub inner: Option<Vec<Paired>>,
    /// Whether it is TLS, and whether what is inside is seen.
    pub tls: Option<Seen>,
    /// Whether the rest of what its calls move was asked for.
    asked_whole: bool,
    /// Texts of its spans that repeat.
    pub texts: Texts,
    /// Those of addresses.
    addresses: [Option<(IpAddr, Text)>; 2],
    /// Exchanges that wait for their last facts, and what is kept of those that do not any more.
    pub unsettled: Unsettled,
}

/// What is seen of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its records.
    Records,
    /// What is inside.
    Plaintext,
    /// That the kernel encrypts it (kTLS), and so the application's calls are not what moves.
    Kernel,
}

/// Which end gave a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetBy {
    /// The other one.
    Peer,
    /// This one.
    Local,
}

impl ResetBy {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Local => "local",
        }
    }
}

/// How a connection ended for an exchange that still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By a reset.
    Reset,
    /// The application closed it.
    LocalClosed,
    /// The peer closed its direction; a client that asked and did so is gone.
    PeerClosed,
    /// The socket is gone, or is no longer watched.
    Gone,
}

impl Connection {
    /// A connection without data so far.
    pub fn new(facts: Facts) -> Self {
        let side = |base, moved| Side {
            stream: Stream::new(base, facts.preexisting || moved),
            timings: Timings::default(),
            ended_ns: None,
            ended_at: 0,
            end_told: false,
        };
        let send = side(facts.bases.map(|bases| bases.0), facts.moved.0);
        let receive = side(facts.bases.map(|bases| bases.1), facts.moved.1);
        Self {
            facts,
            receive,
            send,
            reset_ns: None,
            reset_by: None,
            local_closed_ns: None,
            peer_closed_ns: None,
            moved_nothing: None,
            is_selected: None,
            closed_ns: None,
            failed: false,
            exchanges: 0,
            before: Before::default(),
            resolution: None,
            life: Life::default(),
            user: None,
            other_end: None,
            peer_pid: 0,
            client_told: VecDeque::new(),
            open_from: [u64::MAX; 2],
            inner: None,
            tls: None,
            asked_whole: false,
            texts: Texts::default(),
            addresses: Default::default(),
            unsettled: Unsettled::default(),
        }
    }

    /// Takes note of who made its last call.
    pub fn used_by(&mut self, pid: u32, is_selected: bool) {
        self.user = Some(if self.user.is_none_or(|user| user == pid) { pid } else { 0 });
        self.is_selected = Some(is_selected);
    }

    /// The process that made all of its calls; 0: none was seen, or several made some.
    pub fn user(&self) -> u32 {
        self.user.unwrap_or(0)
    }

    /// One direction.
    pub fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Receive => &self.receive,
            Direction::Send => &self.send,
        }
    }

    /// The direction of answers; what is received, as long as nobody knows who asks.
    pub fn answers(&self) -> &Side {
        self.side(self.facts.request_direction().map_or(Direction::Receive, Direction::other))
    }

    /// One direction.
    pub fn side_mut(&mut self, direction: Direction) -> &mut Side {
        match direction {
            Direction::Receive => &mut self.receive,
            Direction::Send => &mut self.send,
        }
    }

    /// Timings of requests and of responses.
    pub fn timings(&self, role: Role) -> (&Timings, &Timings) {
        match role {
            Role::Client => (&self.send.timings, &self.receive.timings),
            Role::Server => (&self.receive.timings, &self.send.timings),
        }
    }

    /// What the exchange waited for whose `first` write this is: it is the connection's first, and each step was followed by
    /// the next, or by the write, within 50 ms; or the thread that wrote had last slept until the step's end, and did not
    /// sleep since, however long it then waited for a CPU.
    pub fn before(&self, first: &CallTiming) -> Before {
        const PAUSE_NS: u64 = 50_000_000;
        const WOKEN_NS: u64 = 1_000_000;
        let Facts { opened_ns, established_ns, preexisting, .. } = self.facts;
        if self.exchanges > 0 || preexisting || self.facts.role != Some(Role::Client) {
            return Before::default();
        }
        let waits_in = [Blocked::Socket as u8, Blocked::Poll as u8];
        let woken_by = |end_ns: u64| {
            let woken = (end_ns..=end_ns.saturating_add(WOKEN_NS)).contains(&first.woken_ns);
            first.sched && woken && first.woken_ns <= first.enter_ns && waits_in.contains(&first.slept_in)
        };
        let followed =
            |end_ns: u64, next_ns: u64| next_ns >= end_ns && (next_ns - end_ns <= PAUSE_NS || woken_by(end_ns));
        let tls = self.before.tls.filter(|tls| followed(tls.end_ns, first.enter_ns));
        let next_ns = tls.map_or(first.enter_ns, |tls| tls.start_ns);
        let observed = opened_ns != 0 && established_ns >= opened_ns && followed(established_ns, next_ns);
        let connect = Step { start_ns: opened_ns, end_ns: established_ns, evidence: Evidence::Measured };
        let mut dns = self.before.dns.filter(|_| observed);
        // One thread waited for the name and then wrote: it waited for nothing else in between.
        if let (Some(dns), Some(resolution)) = (&mut dns, &self.resolution)
            && resolution.tid != 0
            && resolution.tid == first.tid
        {
            dns.evidence = Evidence::Measured;
        }
        Before { dns, connect: observed.then_some(connect), tls }
    }

    /// The text of the address of one of its ends.
    pub fn address(&mut self, address: IpAddr) -> Text {
        let made = || Text::from(IpText::new(address).as_str().to_owned()).shared();
        let mut places = self.addresses.iter_mut();
        let known = places.find(|place| place.as_ref().is_none_or(|(known, _)| *known == address));
        known.map_or_else(made, |place| place.get_or_insert_with(|| (address, made())).1.clone())
    }

    /// Asks, once, for as much of each of its calls as can be captured.
    pub fn want_whole(&mut self, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.asked_whole, true) {
            let which = if self.inner.is_some() { whole::PLAINTEXT } else { whole::SOCKET };
            context.whole.push((self.facts.id, which));
        }
    }

    /// Forgets timings before `from`, but for those of exchanges that are in progress or not settled yet.
    pub fn trim(&mut self, direction: Direction, from: u64) {
        let from = from.min(self.open_from[usize::from(direction == Direction::Send)]);
        let from = self.unsettled.needed_from(direction).map_or(from, |needed| needed.min(from));
        self.side_mut(direction).timings.trim(from);
    }
}

impl Direction {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Receive => Self::Send,
            Self::Send => Self::Receive,
        }
    }
}
