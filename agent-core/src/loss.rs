//! Every reason that userspace has less to tell than happened: one enum, one counter each.
//!
//! Kernel-side reasons are counted there (`agent_common::loss`); [`Loss::KernelRecordsLost`] is what the numbering of
//! the records that did arrive says about them.

/// Why data is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Loss {
    /// A record was shorter than its kind demands, or its fields contradict each other.
    RecordMalformed,
    /// A record of another layout version.
    RecordVersion,
    /// A record of a kind that is not known.
    RecordKindUnknown,
    /// Records that the kernel side tried to emit and that did not arrive, by jumps in their numbering.
    KernelRecordsLost,
    /// More records waited for their order than are kept; the oldest were released early.
    ReorderOverflow,
    /// A data record of a connection whose opening was not seen: without addresses there is no span.
    ConnectionUnknown,
    /// The table of connections was full; the longest idle were forgotten.
    ConnectionEvicted,
    /// Bytes of a stream whose record never came.
    StreamHole,
    /// Bytes that two records claim; they count for the first.
    StreamOverlap,
    /// More bytes waited for the ones before them than are kept.
    StreamOverflow,
    /// Bytes beyond the captured prefix hid a head or a length.
    PayloadTruncated,
    /// Framing was lost to malformed bytes in a stream that had been HTTP.
    HttpMalformed,
    /// A head longer than the parser's limit.
    HttpTooLarge,
    /// Framing was lost to malformed bytes in a stream of another known protocol.
    MessageMalformed,
    /// A message of another known protocol that exceeds its parser's limits.
    MessageTooLarge,
    /// Connections whose bytes turned out not to be the protocol that they were taken for.
    ProtocolMisjudged,
    /// A message that was seen only in part, so that its exchange has no span or an unknown outcome.
    MessageLost,
    /// Streams of one connection beyond what its parser keeps; what the later frames of the oldest say may be unknown.
    StreamForgotten,
    /// Bodies that were not looked at, since its connection's parser had no room for them: what they say is not told.
    BodyForgotten,
    /// Requests and responses could not be told apart any more after a loss; the exchanges in doubt have no span or an
    /// unknown outcome.
    PairingLost,
    /// More exchanges waited on one connection than are kept.
    ExchangeOverflow,
    /// Calls, sends or arrivals of one connection beyond what is kept.
    TimingOverflow,
    /// Plaintext of a TLS library's call that could not be told to be a TLS connection's, or where in its stream it lies.
    PlaintextUnplaced,
    /// A connection whose TLS the kernel does: what is inside is not seen.
    KernelTls,
    /// An exchange on a connection of which neither role nor direction could be told.
    RoleUnknown,
    /// More exchanges of one connection waited for their last facts than are kept; the oldest was told without them.
    SettledEarly,
    /// More queries or conversations waited for an answer than are kept; the oldest were given up.
    DatagramOverflow,
    /// Exchanges of one UDP conversation beyond what is told of one in a second.
    DatagramRate,
    /// Exchanges of processes that are not selected, beyond what is told of them in a second.
    UnselectedRate,
    /// Facts of more processes than are kept.
    ProcessEvicted,
    /// Span names beyond what one service may have; they became `{other}`.
    NameBound,
    /// Finished spans that nobody drained in time.
    SpanOverflow,
}

/// Number of reasons.
pub const LOSSES: usize = Loss::SpanOverflow as usize + 1;

impl Loss {
    /// Every reason, in index order.
    pub const ALL: [Self; LOSSES] = [
        Self::RecordMalformed,
        Self::RecordVersion,
        Self::RecordKindUnknown,
        Self::KernelRecordsLost,
        Self::ReorderOverflow,
        Self::ConnectionUnknown,
        Self::ConnectionEvicted,
        Self::StreamHole,
        Self::StreamOverlap,
        Self::StreamOverflow,
        Self::PayloadTruncated,
        Self::HttpMalformed,
        Self::HttpTooLarge,
        Self::MessageMalformed,
        Self::MessageTooLarge,
        Self::ProtocolMisjudged,
        Self::MessageLost,
        Self::StreamForgotten,
        Self::BodyForgotten,
        Self::PairingLost,
        Self::ExchangeOverflow,
        Self::TimingOverflow,
        Self::PlaintextUnplaced,
        Self::KernelTls,
        Self::RoleUnknown,
        Self::SettledEarly,
        Self::DatagramOverflow,
        Self::DatagramRate,
        Self::UnselectedRate,
        Self::ProcessEvicted,
        Self::NameBound,
        Self::SpanOverflow,
    ];

    /// Stable name for output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RecordMalformed => "record_malformed",
            Self::RecordVersion => "record_version",
            Self::RecordKindUnknown => "record_kind_unknown",
            Self::KernelRecordsLost => "kernel_records_lost",
            Self::ReorderOverflow => "reorder_overflow",
            Self::ConnectionUnknown => "connection_unknown",
            Self::ConnectionEvicted => "connection_evicted",
            Self::StreamHole => "stream_hole_bytes",
            Self::StreamOverlap => "stream_overlap_bytes",
            Self::StreamOverflow => "stream_overflow",
            Self::PayloadTruncated => "payload_truncated",
            Self::HttpMalformed => "http_malformed",
            Self::HttpTooLarge => "http_too_large",
            Self::MessageMalformed => "message_malformed",
            Self::MessageTooLarge => "message_too_large",
            Self::ProtocolMisjudged => "protocol_misjudged",
            Self::MessageLost => "message_lost",
            Self::StreamForgotten => "stream_forgotten",
            Self::BodyForgotten => "body_forgotten",
            Self::PairingLost => "pairing_lost",
            Self::ExchangeOverflow => "exchange_overflow",
            Self::TimingOverflow => "timing_overflow",
            Self::PlaintextUnplaced => "plaintext_unplaced",
            Self::KernelTls => "kernel_tls",
            Self::RoleUnknown => "role_unknown",
            Self::SettledEarly => "settled_early",
            Self::DatagramOverflow => "datagram_overflow",
            Self::DatagramRate => "datagram_rate",
            Self::UnselectedRate => "unselected_rate",
            Self::ProcessEvicted => "process_evicted",
            Self::NameBound => "name_bound",
            Self::SpanOverflow => "span_overflow",
        }
    }
}

/// One counter per reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    counts: [u64; LOSSES],
}

impl Losses {
    /// Counts `amount` more of `reason`.
    pub fn add(&mut self, reason: Loss, amount: u64) {
        let count = &mut self.counts[reason as usize];
        *count = count.saturating_add(amount);
    }

    /// How much of `reason` so far.
    pub fn get(&self, reason: Loss) -> u64 {
        self.counts[reason as usize]
    }

    /// Every reason with its stable name and count, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Loss, &'static str, u64)> + '_ {
        Loss::ALL.into_iter().map(|reason| (reason, reason.name(), self.get(reason)))
    }

    /// Whether nothing was lost.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_index_and_name() {
        for (index, reason) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        let names: std::collections::HashSet<_> = Loss::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), LOSSES);
    }
}
