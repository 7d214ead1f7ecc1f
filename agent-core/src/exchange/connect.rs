//! A `connect` that failed, as a span of its own.
//!
//! In: the record of its failure. Out: a draft. Called by [`crate::flow::table`].

use agent_common::connection::{ConnectionRecord, flag};

use super::{
    Draft, Selection,
    semconv::{self, int, text},
};
use crate::{
    flow::connection::{Connection, Facts, Role},
    segment::{Before, Step, Timeline},
    span::{Evidence, Protocol, Status},
};

/// What `connect` may tell a caller (connect(2), and what the network tells by ICMP), by Linux's numbers. These are the
/// same on all architectures that the agent is built for.
const ERRNO: [(u32, &str); 18] = [
    (1, "EPERM"),
    (4, "EINTR"),
    (11, "EAGAIN"),
    (13, "EACCES"),
    (22, "EINVAL"),
    (71, "EPROTO"),
    (98, "EADDRINUSE"),
    (99, "EADDRNOTAVAIL"),
    (100, "ENETDOWN"),
    (101, "ENETUNREACH"),
    (103, "ECONNABORTED"),
    (104, "ECONNRESET"),
    (105, "ENOBUFS"),
    (110, "ETIMEDOUT"),
    (111, "ECONNREFUSED"),
    (112, "EHOSTDOWN"),
    (113, "EHOSTUNREACH"),
    (92, "ENOPROTOOPT"),
];

/// The span of the attempt that `record` tells the end of; `before`: what it waited for first.
pub fn failed(record: &ConnectionRecord, before: &Before) -> Draft {
    let facts = Facts { role: Some(Role::Client), ..Facts::new(record) };
    let end_ns = if record.changed_ns != 0 { record.changed_ns } else { record.header.time_ns };
    let seen = facts.opened_ns != 0 && facts.opened_ns <= end_ns;
    let evidence = if seen && !facts.preexisting { Evidence::Measured } else { Evidence::Derived };
    let connect = Step { start_ns: if seen { facts.opened_ns } else { end_ns }, end_ns, evidence };
    let before = Before { connect: Some(connect), tls: None, ..*before };
    let mut connection = Connection::new(facts);
    let mut attributes = Vec::with_capacity(12);
    attributes.push(("spantap.connect.syn_retransmits", int(u64::from(record.handshake_retransmits))));
    if record.errno != 0 {
        attributes.push(("spantap.connect.errno", text(errno(record.errno))));
    }
    // Nobody saw it fail: who asked went away before.
    let error = if record.errno != 0 { errno(record.errno) } else { "connect_abandoned".into() };
    attributes.push(("error.type", text(error)));
    semconv::server(&mut attributes, &mut connection, Role::Client, None);
    semconv::connection(&mut attributes, &mut connection, Role::Client);
    let pid = connection.facts.pid;
    Draft {
        facts: connection.facts,
        role: Role::Client,
        kind: Role::Client.span_kind(),
        protocol: Protocol::Tcp,
        name: "connect".into(),
        timeline: Timeline::of_steps(&before),
        status: Status::Error,
        attributes,
        trace_context: None,
        request_offset: 0,
        key: None,
        client_traced: false,
        pid,
        peer_pid: 0,
        selection: if record.flags & flag::UNSELECTED != 0 { Selection::Neither } else { Selection::Selected },
    }
}

/// The name of an error number; unknown ones keep their number.
pub(super) fn errno(number: u32) -> String {
    let name = ERRNO.iter().find(|(other, _)| *other == number).map(|(_, name)| *name);
    name.map_or_else(|| number.to_string(), str::to_owned)
}
