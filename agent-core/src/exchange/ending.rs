//! How an exchange ends that has no whole answer: what pairing by any parser asks alike.

use std::ops::Range;

use super::Context;
use crate::flow::connection::{Connection, Ending, Role};

/// `error.type` of what a reset ended.
pub(super) const RESET: &str = "connection_reset";
/// `error.type` of what the server's close ended.
pub(super) const CLOSED: &str = "connection_closed";
/// `error.type` of what the own application gave up: it closed before the whole answer.
pub(super) const ABANDONED: &str = "request_abandoned";
/// The same as the server saw it.
pub(super) const CLIENT_GONE: &str = "client_gone";

/// `error.type` of a request that has no whole answer; `None`: nothing says that it failed. `begun`: a part of the answer was seen.
pub(super) fn error_type(ending: Ending, role: Role, begun: bool) -> Option<&'static str> {
    match (ending, role) {
        (Ending::Reset, _) => Some(RESET),
        (Ending::LocalClosed, Role::Client) => Some(ABANDONED),
        (Ending::PeerClosed, Role::Server) => Some(CLIENT_GONE),
        _ if !begun && is_left(ending, role) => Some(CLOSED),
        _ => None,
    }
}

/// Whether this end is the server, and ended it.
pub(super) fn is_own_leave(ending: Ending, role: Role) -> bool {
    matches!((ending, role), (Ending::LocalClosed, Role::Server))
}

/// Whether the server is who ended it.
pub(super) fn is_left(ending: Ending, role: Role) -> bool {
    matches!((ending, role), (Ending::PeerClosed, Role::Client)) || is_own_leave(ending, role)
}

/// When a server ended its sending side only, though its client had not: the answer in progress will not go on.
pub(super) fn ended_sending(connection: &Connection, role: Role) -> Option<(Ending, u64)> {
    let ns = connection.send.ended_ns.filter(|_| role == Role::Server && connection.reset_ns.is_none())?;
    let was_first = connection.peer_closed_ns.is_none_or(|peer_ns| ns < peer_ns);
    (was_first && connection.receive.ended_ns.is_none()).then_some((Ending::LocalClosed, ns))
}

/// Whether the client is who ended it.
pub(super) fn is_given_up(error_type: &str) -> bool {
    matches!(error_type, ABANDONED | CLIENT_GONE)
}

/// When the last byte of what this end sent, or read, of a request was seen to move.
pub(super) fn last_seen_ns(connection: &Connection, role: Role, request: Range<u64>) -> u64 {
    let (side, _) = connection.timings(role);
    let sent = side.sends.within(request.clone()).map(|send| send.record.transmitted_ns);
    side.writes(request, &mut Vec::new()).map(|call| call.return_ns).chain(sent).max().unwrap_or(0)
}

/// Whether records were lost between a request and the connection's end. `noticed_ns`: when it was heard of.
pub(super) fn lost_since(
    connection: &Connection,
    role: Role,
    (request_start, noticed_ns): (u64, u64),
    ended_ns: u64,
    context: &Context<'_>,
) -> bool {
    // What was lost before the request's own record is no answer to it.
    let told_ns = connection.timings(role).0.calls.holding(request_start).map_or(noticed_ns, |call| call.return_ns);
    context.numbering.lost_within(told_ns.saturating_add(1), ended_ns) > 0
}

/// Whether the answers' side went further than was seen.
pub(crate) fn hides_answers(connection: &Connection) -> bool {
    let answers = connection.answers();
    answers.ended_at > answers.stream.next()
}
