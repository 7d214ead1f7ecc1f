//! What TCP did during an exchange, as attributes. What did not happen, or is not known, has none; only retransmissions
//! are told even if there were none.

use std::ops::Range;

use agent_common::{connection::tcp_flag, message::retransmit};

use super::{
    semconv::{Attributes, int, text, word},
    settle::Paired,
};
use crate::{
    flow::{
        connection::{Connection, Role},
        life::{Deltas, Retransmits},
        timing::Resent,
    },
    segment::Before,
    span::Value,
};

/// Names of `TCP_CA_*`, in the kernel's order.
const CONGESTION_STATES: [&str; 5] = ["open", "disorder", "cwr", "recovery", "loss"];

/// So many buffers that were sent again are named one by one.
const RANGES_MAX: usize = 8;
/// Bytes that TCP has for less than this are on their way; they are not held.
const HELD_NS_MIN: u64 = 1_000_000;

/// The part of the connection's life that is this exchange's.
#[derive(Debug)]
pub(super) struct Facts {
    deltas: Deltas,
    /// How long the peer's window was closed while bytes of the exchange were on their way.
    zero_window_ns: u64,
    /// `None` if what became of the bytes was not seen, or which of them a retransmission was about.
    retransmits: Option<Retransmits>,
    /// Which bytes they were.
    ranges: Vec<String>,
    /// Segments that are counted for an earlier message, but had bytes of this one too.
    shared: u64,
    receive_queue: u32,
    /// Of a server's answer: the longest that TCP had a write's last byte before it gave that to the device.
    held_ns: u64,
}

impl Facts {
    /// Takes it: what happens from here on is the next exchange's.
    pub(super) fn take(connection: &mut Connection, paired: &Paired) -> Self {
        let Connection { send, receive, life, .. } = connection;
        let nothing = || 0..0;
        let (sent, received) = match paired.role {
            Role::Client => (paired.request.clone(), paired.response.clone().unwrap_or_else(nothing)),
            Role::Server => (paired.response.clone().unwrap_or_else(nothing), paired.request.clone()),
        };
        let mut after = None;
        let (mut by_totals, mut zero_window_us, mut held_ns) = (0, 0, 0);
        for send in send.timings.sends.within(sent.clone()) {
            after = Some(send.record.tcp);
            zero_window_us = zero_window_us.max(send.record.zero_window_us);
            held_ns = held_ns.max(send.record.queued_ns.saturating_sub(send.taken_ns()));
            // Writes in flight at once saw the same retransmissions: the largest count, not the sum.
            by_totals = by_totals.max(send.record.retransmits);
        }
        let (mut out_of_order, mut receive_queue) = (None, 0);
        for read in receive.timings.calls.within(received) {
            out_of_order = Some(read.out_of_order);
            receive_queue = receive_queue.max(read.receive_queue);
        }
        // A buffer that is sent again counts for the exchange that its first byte belongs to.
        let again = send.timings.resent.within(sent.clone()).filter(|resent| sent.contains(&resent.start)).copied();
        let retransmits = life.take_retransmits(again, by_totals);
        let all = || send.timings.resent.within(sent.clone());
        let before = all().filter(|resent| resent.start < sent.start);
        let seen = by_totals == 0 || life.all_told();
        Self {
            zero_window_ns: u64::from(zero_window_us) * 1000,
            ranges: all().take(RANGES_MAX).map(|resent| told(resent, &sent)).collect(),
            shared: before.map(|resent| u64::from(resent.segments)).sum(),
            retransmits: ((after.is_some() && seen) || retransmits.segments > 0).then_some(retransmits),
            deltas: life.take_deltas(after.filter(|after| *after != Default::default()), out_of_order),
            receive_queue,
            // Of a request that is a segment.
            held_ns: if paired.role == Role::Server && held_ns >= HELD_NS_MIN { held_ns } else { 0 },
        }
    }

    pub(super) fn tell(&self, attributes: &mut Attributes) {
        let deltas = &self.deltas;
        if let Some(retransmits) = &self.retransmits {
            attributes.push(("spantap.tcp.retransmits", int(retransmits.segments)));
            some(attributes, "spantap.tcp.retransmits.tail_loss_probe", retransmits.tail_loss_probe);
            some(attributes, "spantap.tcp.retransmits.fast", retransmits.fast);
            some(attributes, "spantap.tcp.retransmits.timeout", retransmits.timeout);
        }
        some(attributes, "spantap.tcp.retransmits.shared", self.shared);
        if !self.ranges.is_empty() {
            attributes.push(("spantap.tcp.retransmits.ranges", Value::Strings(self.ranges.as_slice().into())));
        }
        self.path(attributes);
        some(attributes, "spantap.tcp.out_of_order", deltas.out_of_order);
        some(attributes, "spantap.tcp.zero_window_ns", self.zero_window_ns);
        some(attributes, "spantap.tcp.sndbuf_limited_ns", deltas.sndbuf_limited_ns);
        some(attributes, "spantap.tcp.rwnd_limited_ns", deltas.rwnd_limited_ns);
        some(attributes, "spantap.tcp.receive_queue_bytes", u64::from(self.receive_queue));
        some(attributes, "spantap.tcp.response.held_ns", self.held_ns);
    }

    /// The kernel's view when the last byte's fate was known.
    fn path(&self, attributes: &mut Attributes) {
        let Some(after) = &self.deltas.after else { return };
        let known = |us: u32| u64::from(if us == u32::MAX { 0 } else { us });
        some(attributes, "spantap.tcp.srtt_us", known(after.srtt_us));
        some(attributes, "spantap.tcp.rttvar_us", known(after.rttvar_us));
        some(attributes, "spantap.tcp.min_rtt_us", known(after.min_rtt_us));
        some(attributes, "spantap.tcp.cwnd", u64::from(after.cwnd));
        if let Some(before) = &self.deltas.before {
            changed(attributes, "spantap.tcp.srtt_us.change", known(before.srtt_us), known(after.srtt_us));
            changed(attributes, "spantap.tcp.rttvar_us.change", known(before.rttvar_us), known(after.rttvar_us));
            changed(attributes, "spantap.tcp.min_rtt_us.change", known(before.min_rtt_us), known(after.min_rtt_us));
            changed(attributes, "spantap.tcp.cwnd.change", u64::from(before.cwnd), u64::from(after.cwnd));
        }
        some(attributes, "spantap.tcp.send_window_bytes", u64::from(after.send_window));
        let has = |flag: u8| after.flags & flag != 0;
        if has(tcp_flag::CWND_LIMITED) {
            attributes.push(("spantap.tcp.cwnd_limited", Value::Bool(true)));
        }
        if has(tcp_flag::PACED_BY_APPLICATION) {
            attributes.push(("spantap.tcp.paced_by_application", Value::Bool(true)));
        }
        if has(tcp_flag::PACED | tcp_flag::PACED_BY_APPLICATION) {
            some(attributes, "spantap.tcp.pacing_rate", u64::from(after.pacing_rate_kib) * 1024);
        }
        if let Some(state) = CONGESTION_STATES.get(usize::from(after.ca_state)).filter(|_| after.ca_state != 0) {
            attributes.push(("spantap.tcp.congestion_state", word(state)));
        }
    }
}

/// The bytes of a message that were sent again, counted from its first, and why: `0-1448 fast`.
fn told(resent: &Resent, message: &Range<u64>) -> String {
    let from = resent.start.saturating_sub(message.start);
    let to = resent.end.min(message.end).saturating_sub(message.start);
    format!("{from}-{to} {}", reason(resent.reason))
}

fn reason(reason: u8) -> &'static str {
    match reason {
        retransmit::SYN => "syn",
        retransmit::TAIL_LOSS_PROBE => "tail_loss_probe",
        retransmit::FAST => "fast",
        retransmit::TIMEOUT => "timeout",
        _ => "unknown",
    }
}

/// What a connection's first exchange tells of how it came to be.
pub(super) fn opening(attributes: &mut Attributes, connection: &Connection, role: Role, before: &Before) {
    let (_, handshake, _) = connection.life.retransmits();
    if role == Role::Client && before.connect.is_some() && !connection.facts.is_direct() {
        attributes.push(("spantap.connect.syn_retransmits", int(handshake)));
        some(attributes, "spantap.tcp.retransmits.syn", handshake);
    }
    if let Some(resolution) = connection.resolution.as_ref().filter(|_| before.dns.is_some()) {
        attributes.push(("dns.question.name", text(&resolution.name)));
        attributes.push(("spantap.dns.queries", int(u64::from(resolution.queries))));
        attributes.push(("spantap.dns.retries", int(u64::from(resolution.retries))));
    }
    let (backlog, most) = connection.facts.accept_backlog;
    if role == Role::Server && connection.facts.accepted_ns != 0 && most > 0 {
        attributes.push(("spantap.accept.backlog", int(u64::from(backlog))));
        attributes.push(("spantap.accept.backlog_max", int(u64::from(most))));
    }
}

/// By how much a value changed since the exchange before, if both are known.
fn changed(attributes: &mut Attributes, key: &'static str, before: u64, after: u64) {
    if before != 0 && after != 0 && before != after {
        attributes.push((key, Value::Int(after as i64 - before as i64)));
    }
}

fn some(attributes: &mut Attributes, key: &'static str, value: u64) {
    if value > 0 {
        attributes.push((key, int(value)));
    }
}
