//! Records of a Kafka topic: one for the spans of each trace, with the trace's id as its key, so that all of a trace is in one partition.
//!
//! In: a request. Out: what became of its records, acknowledged by all in-sync replicas (`acks=all`). Keys and values are those of
//! the OpenTelemetry Collector's Kafka exporter with `partition_traces_by_id`, partitions those of Kafka's own producers. What was taken
//! of a request is not sent again with the rest. A record that is too large is cut between its spans.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use rskafka::protocol::{
    messages::{ProduceRequest, ProduceRequestPartitionData, ProduceRequestTopicData, ProduceResponse},
    primitives::{Int16, Int32, NullableString, Records, String_},
    record::RecordBatchCompression,
};
use tokio::task::JoinSet;

use super::{
    ExportError,
    auth::Auth,
    blocking,
    explain::too_late,
    format::Format,
    parts::Unfinished,
    retry::{AgainKind, Outcome},
    secrets,
};
use crate::{
    config::{Compression, Destination},
    run::unix_ns,
};

mod cluster;
mod partition;
mod records;
mod sasl;
mod sending;
mod verdict;

#[cfg(test)]
mod tests;

use self::{
    cluster::{Broker, Cluster, Topic},
    records::Batch,
    sending::Sending,
    verdict::{Trouble, of_error, of_unanswered},
};

pub(super) struct KafkaClient {
    cluster: Cluster,
    auth: Auth,
    unfinished: Unfinished<Sending>,
    format: Format,
    headers: Vec<(String, Vec<u8>)>,
    produce: Produce,
}

/// What all requests to brokers have in common.
#[derive(Clone)]
struct Produce {
    /// The URL, for messages.
    url: Arc<str>,
    topic: Arc<str>,
    compression: RecordBatchCompression,
    timeout: Duration,
}

impl KafkaClient {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let compression = match destination.compression {
            Compression::None => RecordBatchCompression::NoCompression,
            Compression::Gzip => RecordBatchCompression::Gzip,
            Compression::Zstd => RecordBatchCompression::Zstd,
        };
        let url = destination.url.to_string().into();
        let produce =
            Produce { url, topic: destination.url.name().into(), compression, timeout: destination.timeout.0 };
        Ok(Self {
            cluster: Cluster::new(destination)?,
            auth: Auth::new(destination)?,
            unfinished: Unfinished::default(),
            format: Format::of(destination),
            headers: headers(&secrets::headers(destination)?),
            produce,
        })
    }

    /// Bytes sent on all connections.
    pub(super) fn sent(&self) -> u64 {
        self.cluster.sent()
    }

    pub(super) async fn send(&self, body: Bytes, key: &str) -> Outcome {
        let sent = self.auth.attempt(|authorization| self.send_all(body.clone(), key, authorization));
        let Produce { url, timeout, .. } = &self.produce;
        tokio::time::timeout(*timeout, sent).await.unwrap_or_else(|_| too_late(url, *timeout))
    }

    async fn send_all(&self, request: Bytes, key: &str, authorization: Option<HeaderValue>) -> Outcome {
        let topic = match self.cluster.topic(authorization.as_ref()).await {
            Ok(topic) => topic,
            Err(outcome) => return outcome,
        };
        let mut sending = match self.unfinished.take(key) {
            Some(sending) => sending,
            None => match self.prepare(request, key, topic.partitions()).await {
                Ok(sending) => sending,
                Err(cause) => return Outcome::Never { cause },
            },
        };
        loop {
            let round = sending.round();
            if round.is_empty() {
                return sending.outcome();
            }
            // Kept before it is known: whoever waits may give up.
            self.unfinished.keep(key, sending.clone());
            let answers = self.round(&topic, round, authorization.as_ref()).await;
            if let Some(outcome) = sending.settle(answers) {
                self.unfinished.keep(key, sending);
                return outcome;
            }
            self.unfinished.take(key);
        }
    }

    async fn prepare(&self, request: Bytes, key: &str, partitions: u32) -> Result<Sending, String> {
        let (format, key) = (self.format, key.to_owned());
        blocking(move || {
            records::batches(&request, &key, format, partitions).map(|batches| Sending::new(batches, format))
        })
        .await
    }

    /// Sends one batch to each partition, one request to each broker, all at the same time.
    async fn round(&self, topic: &Topic, round: Vec<Arc<Batch>>, authorization: Option<&HeaderValue>) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut by_leader: BTreeMap<&str, Vec<Arc<Batch>>> = BTreeMap::new();
        for batch in round {
            match topic.leader(batch.partition) {
                Some(leader) => by_leader.entry(leader).or_default().push(batch),
                None => {
                    let cause = format!("{}: partition {} has no leader now", self.produce.url, batch.partition);
                    answers.push((batch, Err(Trouble::Again(AgainKind::Unavailable, cause))));
                }
            }
        }
        let mut running = JoinSet::new();
        for (leader, batches) in by_leader {
            match self.cluster.broker(leader, authorization).await {
                Ok(broker) => {
                    let (produce, headers) = (self.produce.clone(), self.headers.clone());
                    running.spawn(async move { produce.send(&broker, batches, &headers).await });
                }
                Err(trouble) => answers.extend(batches.into_iter().map(|batch| (batch, Err(trouble.clone())))),
            }
        }
        while let Some(done) = running.join_next().await {
            // A task ends early only when the agent does.
            answers.extend(done.unwrap_or_default());
        }
        if answers.iter().any(|(_, answer)| matches!(answer, Err(Trouble::Again(..)))) {
            self.cluster.look_again().await;
        }
        answers
    }
}

/// What became of a batch.
type Answer = (Arc<Batch>, Result<(), Trouble>);

impl Produce {
    async fn send(&self, broker: &Broker, batches: Vec<Arc<Batch>>, headers: &[(String, Vec<u8>)]) -> Vec<Answer> {
        match broker.messenger.request(self.request(&batches, headers)).await {
            Ok(response) => self.answers(batches, &response),
            Err(error) => {
                let trouble = of_unanswered(&broker.place, &error);
                batches.into_iter().map(|batch| (batch, Err(trouble.clone()))).collect()
            }
        }
    }

    fn request(&self, batches: &[Arc<Batch>], headers: &[(String, Vec<u8>)]) -> ProduceRequest {
        let now_ms = i64::try_from(unix_ns() / 1_000_000).unwrap_or_default();
        let data = |batch: &Arc<Batch>| ProduceRequestPartitionData {
            index: Int32(batch.partition),
            records: Records(vec![batch.encoded(now_ms, self.compression, headers)]),
        };
        ProduceRequest {
            transactional_id: NullableString(None),
            // All in-sync replicas.
            acks: Int16(-1),
            timeout_ms: Int32(i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)),
            topic_data: vec![ProduceRequestTopicData {
                name: String_(self.topic.to_string()),
                partition_data: batches.iter().map(data).collect(),
            }],
        }
    }

    /// That a broker delays its answers because of a quota (`throttle_time_ms`) is no refusal: the records are taken.
    fn answers(&self, batches: Vec<Arc<Batch>>, response: &ProduceResponse) -> Vec<Answer> {
        let answer = |batch: Arc<Batch>| {
            let all = response.responses.iter().flat_map(|topic| &topic.partition_responses);
            let result = match all.into_iter().find(|answer| answer.index.0 == batch.partition) {
                Some(answer) => answer.error.map_or(Ok(()), |error| Err(of_error(error, &self.url, &self.topic))),
                None => {
                    let cause = format!("{}: no answer about partition {}", self.url, batch.partition);
                    Err(Trouble::Again(AgainKind::Unavailable, cause))
                }
            };
            (batch, result)
        };
        batches.into_iter().map(answer).collect()
    }
}

fn headers(all: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    all.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}
