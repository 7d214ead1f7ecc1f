//! What the pipeline can be told: bounds, waits, redaction. Plain values; `agent` fills them from its configuration.

use std::sync::Arc;

use crate::redact::RedactConfig;

/// Everything that [`crate::pipeline::Pipeline`] can be told. The defaults are those of the product.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Key of all ids that are made up: random per start of the agent, so that ids differ between hosts and starts.
    pub seed: [u8; 16],
    /// Path of the agent's own query socket: what is asked there is no span.
    pub own_socket: Option<Arc<str>>,
    /// Records wait this long for older ones before they are used.
    pub reorder_ns: u64,
    /// Records that may wait so.
    pub reorder_records_max: usize,
    /// Bytes of a stream wait this long for the ones before them; then those count as lost.
    pub hole_wait_ns: u64,
    /// A complete exchange waits this long for its other half, and at a client for the acknowledgement of its request.
    pub exchange_hold_ns: u64,
    /// A server's exchange waits this long for the acknowledgement of its response, and anew when that is sent again.
    pub settle_ns: u64,
    /// A client's exchange waits this long for what the connection's other end saw, if that is on this host.
    pub other_end_wait_ns: u64,
    /// An exchange of unknown protocol ends when nothing moved for this long after its response began.
    pub idle_exchange_ns: u64,
    /// A DNS query, or a datagram of a conversation, waits this long for an answer after the last one that was sent.
    pub dns_wait_ns: u64,
    /// A connection had waited for a name's resolution if it was opened at most this long after.
    pub dns_to_connect_ns: u64,
    /// A closed connection is kept this long for records that are still on their way.
    pub closed_hold_ns: u64,
    /// A span waits this long for the facts of its process, and of the one at its other end, if they were asked for and did not come yet.
    pub facts_wait_ns: u64,
    /// Connections that are known at once.
    pub connections_max: usize,
    /// DNS queries that wait for an answer; the same for those that are served, and for UDP conversations.
    pub datagrams_max: usize,
    /// Requests, and responses, that may wait on one connection.
    pub pending_exchanges_max: usize,
    /// Bytes of text (names, statements, attributes) of the exchanges that wait on one connection for their answers, where the
    /// parser reads both directions. Beyond it the newest go without their statements (`db.query.text`), then the oldest
    /// are told without an answer; either counts as `exchange_overflow`.
    pub pending_text_bytes_max: usize,
    /// Calls, sends and arrivals remembered per connection and direction.
    pub timings_max: usize,
    /// Payload bytes that may wait on one stream for the ones before them.
    pub stream_bytes_max: usize,
    /// Exchanges of processes that are not selected that are told in a second, of those that neither failed nor took long, and of these;
    /// 0 for any number.
    pub unselected_per_second: u32,
    /// Processes whose facts are kept.
    pub processes_max: usize,
    /// Finished spans that may wait to be drained.
    pub spans_max: usize,
    /// Different span names that one service may have; 0 for any number.
    pub names_max: usize,
    /// What may leave the pipeline.
    pub redact: RedactConfig,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        Self {
            seed: [0; 16],
            own_socket: None,
            reorder_ns: 5 * MS,
            reorder_records_max: 262_144,
            hole_wait_ns: 20 * MS,
            exchange_hold_ns: 30 * MS,
            settle_ns: 300 * MS,
            // Just longer than a delayed acknowledgement: with it comes when a response left that no call record tells of.
            other_end_wait_ns: 45 * MS,
            idle_exchange_ns: 1_000 * MS,
            dns_wait_ns: 10_000 * MS,
            dns_to_connect_ns: 1_000 * MS,
            closed_hold_ns: 50 * MS,
            facts_wait_ns: 40 * MS,
            connections_max: 65_536,
            datagrams_max: 16_384,
            pending_exchanges_max: 1_024,
            pending_text_bytes_max: 64 * 1024,
            timings_max: 4_096,
            stream_bytes_max: 1 << 20,
            unselected_per_second: 100,
            processes_max: 65_536,
            spans_max: 262_144,
            names_max: 500,
            redact: RedactConfig::default(),
        }
    }
}
