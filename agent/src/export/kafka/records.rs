//! Records of a request, put together for the partitions that they belong to.

use std::sync::Arc;

use agent_core::wire::{self, TraceSpans};
use bytes::Bytes;
use rskafka::protocol::record::{
    ControlBatchOrRecords, Record as WireRecord, RecordBatch, RecordBatchCompression, RecordBatchTimestampType,
    RecordHeader,
};

use super::{
    super::{client::IDEMPOTENCY_KEY, format::Format},
    partition,
};
use crate::query::api::hex;

/// Most bytes of records that are sent to a partition at once, before compression: half of what brokers take by default
/// (`message.max.bytes`). One record may have more.
const BATCH_BYTES_MAX: usize = 512 << 10;

/// Spans of one trace.
#[derive(Debug)]
pub(super) struct Record {
    /// The trace's id in lower-case hex; empty if it is none.
    trace: String,
    /// What the record may be recognised by: the same when it is sent again.
    id: String,
    /// Its spans, as an OTLP request.
    pub request: Bytes,
    /// As it is sent.
    value: Bytes,
    pub spans: u64,
}

/// Records for one partition.
#[derive(Debug)]
pub(super) struct Batch {
    pub partition: i32,
    pub records: Vec<Arc<Record>>,
}

/// The records of a request, in batches.
pub(super) fn batches(request: &[u8], key: &str, format: Format, partitions: u32) -> Result<Vec<Batch>, String> {
    let traces = wire::by_trace(request).map_err(|cause| format!("the spans cannot be decoded: {cause}"))?;
    let mut by_partition: Vec<Vec<Record>> = (0..partitions.max(1)).map(|_| Vec::new()).collect();
    for trace in traces {
        let record = Record::new(trace, key, format)?;
        // Spans without a trace have no key, and stay together.
        let key = if record.trace.is_empty() { &record.id } else { &record.trace };
        let place = usize::try_from(partition::of_key(key.as_bytes(), partitions)).unwrap_or_default();
        by_partition[place].push(record);
    }
    let mut all = Vec::new();
    for (partition, records) in (0..).zip(by_partition) {
        all.extend(chunks(records).into_iter().map(|records| Batch { partition, records }));
    }
    Ok(all)
}

fn chunks(records: Vec<Record>) -> Vec<Vec<Arc<Record>>> {
    let mut chunks: Vec<Vec<Arc<Record>>> = Vec::new();
    let mut room = 0;
    for record in records {
        let size = record.size();
        match chunks.last_mut() {
            Some(chunk) if size <= room => chunk.push(Arc::new(record)),
            _ => {
                chunks.push(vec![Arc::new(record)]);
                room = BATCH_BYTES_MAX;
            }
        }
        room = room.saturating_sub(size);
    }
    chunks
}

impl Record {
    fn new(trace: TraceSpans, key: &str, format: Format) -> Result<Self, String> {
        let is_valid = trace.trace_id.len() == 16 && trace.trace_id.iter().any(|byte| *byte != 0);
        let name = if is_valid { hex(&trace.trace_id) } else { String::new() };
        Self::with(name.clone(), format!("{key}/{name}"), trace.request.into(), trace.spans.into(), format)
    }

    fn with(trace: String, id: String, request: Bytes, spans: u64, format: Format) -> Result<Self, String> {
        let value = format.encode(&request)?.into_body();
        Ok(Self { trace, id, request, value, spans })
    }

    fn size(&self) -> usize {
        self.trace.len() + self.id.len() + self.value.len()
    }

    /// The halves; nothing if it is one span.
    fn halves(&self, format: Format) -> Option<[Self; 2]> {
        let first = self.spans / 2;
        let (left, right) = wire::split(&self.request, u32::try_from(first).ok().filter(|first| *first > 0)?).ok()?;
        let half = |place: u8, request: Vec<u8>, spans| {
            Self::with(self.trace.clone(), format!("{}/{place}", self.id), request.into(), spans, format).ok()
        };
        Some([half(0, left, first)?, half(1, right, self.spans - first)?])
    }

    fn encoded(&self, place: i32, headers: &[(String, Vec<u8>)]) -> WireRecord {
        let header = |(key, value): &(String, Vec<u8>)| RecordHeader { key: key.clone(), value: value.clone() };
        let id = RecordHeader { key: IDEMPOTENCY_KEY.to_owned(), value: self.id.clone().into_bytes() };
        WireRecord {
            timestamp_delta: 0,
            offset_delta: place,
            key: (!self.trace.is_empty()).then(|| self.trace.clone().into_bytes()),
            value: Some(self.value.to_vec()),
            headers: headers.iter().map(header).chain([id]).collect(),
        }
    }
}

impl Batch {
    pub(super) fn spans(&self) -> u64 {
        self.records.iter().map(|record| record.spans).sum()
    }

    /// Two batches with the same spans; nothing if it is one span.
    pub(super) fn halves(&self, format: Format) -> Option<[Self; 2]> {
        let half = |records: &[Arc<Record>]| Self { partition: self.partition, records: records.to_vec() };
        if let [record] = &self.records[..] {
            let [first, second] = record.halves(format)?.map(Arc::new);
            return Some([half(&[first]), half(&[second])]);
        }
        let (first, second) = self.records.split_at(self.records.len() / 2);
        Some([half(first), half(second)])
    }

    pub(super) fn encoded(
        &self,
        now_ms: i64,
        compression: RecordBatchCompression,
        headers: &[(String, Vec<u8>)],
    ) -> RecordBatch {
        let records: Vec<_> = (0..).zip(&self.records).map(|(place, record)| record.encoded(place, headers)).collect();
        RecordBatch {
            base_offset: 0,
            partition_leader_epoch: -1,
            last_offset_delta: i32::try_from(records.len()).unwrap_or_default() - 1,
            first_timestamp: now_ms,
            max_timestamp: now_ms,
            // No idempotent producer.
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records: ControlBatchOrRecords::Records(records),
            compression,
            is_transactional: false,
            timestamp_type: RecordBatchTimestampType::CreateTime,
        }
    }
}
