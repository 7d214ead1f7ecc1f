//! Requests: header, then what Produce, Fetch and the APIs of groups say of topics, groups and traces.

use std::fmt::Write;

use super::{
    api::{self, Api},
    batch,
    topics::Topics,
    wire::Wire,
};
use crate::{
    fields::{Fields, name},
    session::{Facts, Kind, Texts, TraceParent},
    unpack::Budget,
};

/// Size, API key, version and correlation id.
pub(super) const FIXED_BYTES: usize = 12;
/// Longest client id that a request is recognised by.
const CLIENT_ID_BYTES_MAX: i16 = 255;

/// A request's header (versions 1 and 2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Bytes behind the size.
    pub(super) size: i32,
    pub(super) key: i16,
    pub(super) version: i16,
    pub(super) correlation: i32,
}

impl Header {
    /// From a message's first bytes; `None` if more are needed.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self { size: fields.i32()?, key: fields.i16()?, version: fields.i16()?, correlation: fields.i32()? })
    }

    /// What it asks for, if it can be a request.
    pub(super) fn api(&self) -> Option<Api> {
        if self.size < 8 { None } else { Api::of(self.key, self.version) }
    }
}

/// How the bytes behind the fixed part look: the client id's length, and the client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientId {
    /// More bytes are needed.
    Cut,
    /// There is none.
    Absent,
    /// Printable text.
    Text,
    /// None that a client has.
    Odd,
}

impl ClientId {
    /// Judges the bytes behind the fixed part of a request of this size.
    pub(super) fn judge(bytes: &[u8], size: i32) -> Self {
        let mut fields = Fields(bytes);
        let Some(length) = fields.i16() else {
            return if bytes.first().is_none_or(|high| matches!(high, 0 | 0xff)) { Self::Cut } else { Self::Odd };
        };
        match length {
            -1 | 0 => return Self::Absent,
            1..=CLIENT_ID_BYTES_MAX if i32::from(length) <= size - 10 => {}
            _ => return Self::Odd,
        }
        let captured = fields.take_captured(length as usize);
        if !captured.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Self::Odd;
        }
        if captured.len() == length as usize { Self::Text } else { Self::Cut }
    }
}

/// What a request says.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) facts: Facts,
    /// Whether it says which topic the operation is on.
    pub(super) has_destination: bool,
    /// Whether the broker answers it.
    pub(super) answered: bool,
}

/// Reads a request's captured bytes.
pub(super) fn read(
    header: &Header,
    api: &Api,
    captured: &[u8],
    topics: &Topics,
    budget: &mut Budget,
    texts: &mut Texts,
) -> Request {
    let facts = Facts { name: Some(api.name.into()), attributes: Vec::with_capacity(10), ..Facts::default() };
    let facts = facts.with("messaging.system", "kafka").with("spantap.kafka.api", api.name);
    let facts = facts.with("spantap.kafka.api_version", i64::from(header.version));
    let mut request = Request { facts, has_destination: false, answered: true };
    // The client id's length stays in the old encoding.
    let mut wire = Wire { fields: Fields(captured), flexible: false };
    let body = wire.fields.skip(FIXED_BYTES).and_then(|()| {
        let client_id = wire.string()?;
        if let Some(client_id) = name(client_id) {
            request.facts.set("messaging.client.id", texts.text(client_id));
        }
        wire.flexible = api.is_flexible(header.version);
        wire.tags()
    });
    let (operation, kind) = match header.key {
        api::PRODUCE => ("send", Some("send")),
        api::FETCH | api::SHARE_FETCH => ("poll", Some("receive")),
        api::OFFSET_COMMIT => ("commit", Some("settle")),
        _ => (api.name, None),
    };
    request.facts.set("messaging.operation.name", operation);
    if let Some(kind) = kind {
        request.facts.set("messaging.operation.type", kind);
        request.facts.name = Some(operation.into());
    }
    request.facts.kind = match header.key {
        api::PRODUCE => Kind::Produce,
        api::FETCH | api::SHARE_FETCH => Kind::Consume,
        _ => Kind::Request,
    };
    if body.is_some() && api.is_known(header.version) {
        request.read_body(header, wire, topics, budget, texts);
    }
    request
}

impl Request {
    /// What the captured part of the body gives.
    fn read_body<'a>(
        &mut self,
        header: &Header,
        mut wire: Wire<'a>,
        topics: &'a Topics,
        budget: &mut Budget,
        texts: &mut Texts,
    ) {
        match header.key {
            api::PRODUCE => drop(self.produce(header.version, &mut wire, topics, budget, texts)),
            api::FETCH => drop(self.fetch(header.version, &mut wire, topics, texts)),
            _ if begins_with_group(header.key, header.version) => {
                if let Some(group) = wire.string().and_then(name) {
                    self.facts.set("messaging.consumer.group.name", texts.text(group));
                }
            }
            _ => {}
        }
    }

    fn produce<'a>(
        &mut self,
        version: i16,
        wire: &mut Wire<'a>,
        topics: &'a Topics,
        budget: &mut Budget,
        texts: &mut Texts,
    ) -> Option<()> {
        if version >= 3 {
            wire.string()?;
        }
        self.answered = wire.fields.i16()? != 0;
        wire.fields.skip(4)?;
        let mut seen = Seen::default();
        let whole = seen.topics(version, wire, topics, budget).is_some();
        if let Some(topic) = seen.topic.filter(|_| seen.topics == 1) {
            self.set_destination(topic, texts);
        }
        if let Some(partition) = seen.partition.filter(|_| seen.topics == 1 && seen.partitions == 1) {
            let id = texts.written(|id| write!(id, "{partition}").expect("a text takes all"));
            self.facts.set("messaging.destination.partition.id", id);
        }
        if let Some(messages) = seen.messages.filter(|_| whole || (seen.topics == 1 && seen.partitions == 1)) {
            self.facts.set("messaging.batch.message_count", messages);
        }
        self.facts.trace = seen.trace;
        Some(())
    }

    fn fetch<'a>(&mut self, version: i16, wire: &mut Wire<'a>, topics: &'a Topics, texts: &mut Texts) -> Option<()> {
        if version <= 14 {
            wire.fields.skip(4)?;
        }
        let wait_ms = wire.fields.u32()?;
        self.facts.set("spantap.kafka.max_wait_ms", wait_ms);
        // Bytes at least, and at most; the isolation level.
        wire.fields.skip(4 + if version >= 3 { 4 } else { 0 } + usize::from(version >= 4))?;
        let mut full = true;
        if version >= 7 {
            wire.fields.skip(4)?;
            // KIP-227: in a session only what changes is listed.
            full = matches!(wire.fields.i32()?, -1 | 0);
        }
        if wire.count()? == 1 && full {
            self.set_destination(wire.topic(version >= 13, topics)??, texts);
        }
        Some(())
    }

    fn set_destination(&mut self, topic: &str, texts: &mut Texts) {
        let name = self.facts.name.as_deref().unwrap_or_default();
        self.facts.name = Some(texts.concat(&[name, " ", topic]));
        self.facts.set("messaging.destination.name", texts.text(topic));
        self.has_destination = true;
    }
}

/// What was seen of a Produce request's topics.
#[derive(Debug, Default)]
struct Seen<'a> {
    topics: usize,
    topic: Option<&'a str>,
    partitions: usize,
    partition: Option<i32>,
    /// `None` once some part's number is not known.
    messages: Option<u64>,
    trace: Option<TraceParent>,
}

impl<'a> Seen<'a> {
    /// `None` if not all was captured.
    fn topics(&mut self, version: i16, wire: &mut Wire<'a>, topics: &'a Topics, budget: &mut Budget) -> Option<()> {
        self.topics = wire.count()?;
        let mut first = true;
        for _ in 0..self.topics {
            self.topic = wire.topic(version >= 13, topics)?;
            self.partitions = wire.count()?;
            for _ in 0..self.partitions {
                self.partition = Some(wire.fields.i32()?);
                let length = wire.count()?;
                let captured = wire.fields.take_captured(length);
                let records = batch::records(captured, length);
                self.messages = if first { records } else { self.messages.zip(records).map(|(a, b)| a + b) };
                if std::mem::take(&mut first) {
                    self.trace = batch::trace(captured, length, budget);
                }
                if captured.len() < length {
                    return None;
                }
                wire.tags()?;
            }
            wire.tags()?;
        }
        wire.tags()
    }
}

/// Whether the body's first field is a group's id.
const fn begins_with_group(key: i16, version: i16) -> bool {
    match key {
        api::OFFSET_COMMIT
        | api::JOIN_GROUP
        | api::HEARTBEAT
        | api::LEAVE_GROUP
        | api::SYNC_GROUP
        | api::CONSUMER_GROUP_HEARTBEAT => true,
        api::OFFSET_FETCH => version <= 7,
        _ => false,
    }
}
