//! The reasons of losses in words: what is counted, what that means for spans, and what helps.
//!
//! In: a reason as it is told. Out: words for it. A test has every reason of the kernel side and of the pipeline in it.

/// What is counted under a reason, and where something helps, what. Empty for one that is not known here.
pub(super) fn words(reason: &str) -> &'static str {
    match reason {
        // The kernel side.
        "ring_full" => "records that found the ring full: raise capture.ring_bytes, or select less",
        "connection_table_full" => "connections without a place, which have no spans: raise capture.connections_max",
        "task_table_full" => "threads without a place, whose calls are not timed: raise capture.threads_max",
        "payload_unreadable" => "payloads whose pages were not in memory; their messages may be `unknown`",
        "send_slot_evicted" => "writes beyond those timed at once on a connection: their way to the network is derived",
        "arrival_merged" => "arrivals that shared a place: their time in the receive buffer is derived",
        "write_interleaved" => "writes of several threads to one connection at once: their bytes have no sure order",
        "kernel_read_failed" => "kernel structures that could not be read; what they would have told is `unknown`",
        "collision" => "entries of another socket at the same address, which were thrown away",
        "too_many_buffers" => "calls with more buffers than are walked: the payload is known up to there",
        "selection_table_full" => "children of selected processes without a place: they are not selected",
        "read_outside_call" => "times that bytes moved outside of system calls (io_uring and the like), untimed",
        "connection_sampled_out" => "connections left out to keep capture.max_cpu_percent",
        "payload_shed" => "payloads left out to keep capture.max_cpu_percent: spans are `tcp` meanwhile",
        "datagram_table_full" => "datagram sockets without a place: their exchanges have no spans",
        "datagram_omitted" => "datagrams beyond those told of one call",
        "tls_connection_unknown" => "calls of TLS libraries whose connection is not known: their plaintext is not used",
        "tls_table_full" => "TLS sessions without a place: their plaintext is not used",
        // Either.
        "payload_truncated" => "messages longer than captured whose rest would have told more",
        // The pipeline.
        "record_malformed" | "record_version" | "record_kind_unknown" => {
            "records that this agent cannot read: restart it, that it and its kernel programs are of one version"
        }
        "kernel_records_lost" => "records that did not arrive, by their numbers; spans that need them say so",
        "reorder_overflow" => "records that were told before their turn, since too many waited",
        "connection_unknown" => "records of connections whose opening was not seen: they have no spans",
        "connection_evicted" => "connections forgotten for newer ones: raise assembly.connections_max",
        "stream_hole_bytes" => "bytes of streams that were not seen; messages in them may be missing",
        "stream_overlap_bytes" => "bytes told twice, of which the first telling counts",
        "stream_overflow" => "times that a stream waited too long for missing bytes and went on without",
        "http_malformed" | "message_malformed" => "times that a stream could not be read any further as its protocol",
        "http_too_large" | "message_too_large" => "messages beyond what a parser takes",
        "protocol_misjudged" => "connections that were taken for another protocol first",
        "stream_forgotten" => "streams beyond those kept of one connection: what comes of the oldest may be `unknown`",
        "body_forgotten" => "bodies that found no room to be looked at: operations or models in them are not told",
        "message_lost" => "exchanges seen only in part: no span, or an `unknown` outcome",
        "pairing_lost" => "exchanges after a loss that request and response cannot be told of for sure",
        "exchange_overflow" => "exchanges beyond those that wait on one connection",
        "timing_overflow" => "calls, sends or arrivals beyond those kept of one connection: segments are derived",
        "kernel_tls" => "connections whose TLS the kernel does (kTLS): what is inside is not seen",
        "plaintext_unplaced" => "plaintext of TLS calls whose place in a stream is not known",
        "role_unknown" => "exchanges of connections where client and server cannot be told apart: no spans",
        "settled_early" => "exchanges told before their last facts came, since too many waited",
        "datagram_overflow" => "queries and conversations given up, since too many waited",
        "datagram_rate" => "exchanges of UDP conversations beyond what is told of one in a second",
        "unselected_rate" => {
            "exchanges of processes that are not selected, beyond capture.unselected_spans_per_second: no spans"
        }
        "process_evicted" => "processes whose names were forgotten for newer ones",
        "name_bound" => "span names beyond redaction.names_per_service_max, told as `{other}`",
        "span_overflow" => "spans that nothing took in time",
        // Elsewhere.
        "refused for good" => "spans that a destination does not take, kept as dead letters: `spantap dlq ls`",
        "program_skipped" => "runs of kernel programs that the kernel left out: times and bytes are missing there",
        "probes_full" => "TLS libraries and programs that found no room for probes: what is inside is not seen",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use agent_common::loss::KernelLoss;
    use agent_core::loss::Loss;

    use super::*;

    #[test]
    fn every_reason_has_words() {
        let kernel = KernelLoss::ALL.iter().map(|reason| reason.name());
        let unexplained: Vec<_> = kernel
            .chain(Loss::ALL.iter().map(|reason| reason.name()))
            .filter(|reason| words(reason).is_empty())
            .collect();
        assert_eq!(unexplained, [""; 0]);
    }
}
