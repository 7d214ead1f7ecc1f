//! Responses: the first error code that is not 0, how many records a Fetch brought, and of which topic.
//!
//! What was not captured may hold an error: without one, the outcome is `Ok` only if all places for one were seen.

use super::{
    api::{self, Api},
    batch, error,
    topics::{Id, Topics},
    wire::Wire,
};
use crate::{
    fields::{Fields, name},
    session::{Facts, Texts},
};

/// Size and correlation id.
pub(super) const FIXED_BYTES: usize = 8;

/// What is remembered of a request until it is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) correlation: i32,
    pub(super) key: i16,
    pub(super) version: i16,
    pub(super) has_destination: bool,
}

/// Reads a response's captured bytes.
pub(super) fn read(asked: &Asked, captured: &[u8], topics: &mut Topics, texts: &mut Texts) -> Facts {
    let mut facts = Facts::default();
    let Some(api) = Api::of(asked.key, asked.version).filter(|api| api.is_known(asked.version)) else { return facts };
    let flexible = api.is_flexible(asked.version);
    let mut wire = Wire { fields: Fields(captured), flexible };
    let body = wire.fields.skip(FIXED_BYTES).and_then(|()| match asked.key {
        // KIP-511: so that a client that does not know the version reads the error.
        api::API_VERSIONS => Some(()),
        _ => wire.tags(),
    });
    if body.is_none() {
        return facts;
    }
    let (version, named) = (asked.version, Vec::new());
    let mut response = Response { version, wire, topics, error: 0, fetched: Fetched::default(), named };
    let whole = response.body(asked.key).is_some();
    if whole || response.error != 0 {
        // KIP-394: who joins without a member id is given one, with which it asks again.
        let joins = asked.key == api::JOIN_GROUP && response.error == error::MEMBER_ID_REQUIRED;
        facts.outcome = Some(error::outcome(if joins { 0 } else { response.error }));
    }
    response.fetched.tell(asked, whole, &mut facts, texts);
    let named = response.named;
    named.into_iter().for_each(|(id, name)| topics.learn(id, &name));
    facts
}

/// A response as it is read; every step gives `None` where the captured bytes end.
struct Response<'a> {
    version: i16,
    wire: Wire<'a>,
    topics: &'a Topics,
    /// The first that is not 0.
    error: i16,
    fetched: Fetched<'a>,
    /// Topics whose ids and names it says.
    named: Vec<(Id, String)>,
}

/// What a Fetch brought.
#[derive(Default)]
struct Fetched<'a> {
    topics: usize,
    topic: Option<&'a str>,
    /// `None` once some batch's number is not known.
    records: Option<u64>,
}

impl Fetched<'_> {
    fn tell(&self, asked: &Asked, whole: bool, facts: &mut Facts, texts: &mut Texts) {
        if asked.key != api::FETCH {
            return;
        }
        if let Some(topic) = self.topic.filter(|_| self.topics == 1 && !asked.has_destination) {
            facts.name = Some(texts.concat(&["poll ", topic]));
            facts.set("messaging.destination.name", texts.text(topic));
        }
        if let Some(records) = self.records.filter(|_| whole) {
            facts.set("messaging.batch.message_count", records);
        }
    }
}

impl<'a> Response<'a> {
    /// `None` if there may be errors that were not seen.
    fn body(&mut self, key: i16) -> Option<()> {
        match key {
            api::PRODUCE => self.produce(),
            api::FETCH => self.fetch(),
            api::METADATA => self.metadata(),
            api::OFFSET_COMMIT => self.partitions(self.version >= 3, 0),
            api::LIST_OFFSETS if self.version >= 1 => {
                self.partitions(self.version >= 2, 16 + if self.version >= 4 { 4 } else { 0 })
            }
            api::OFFSET_FETCH if self.version <= 7 => self.offset_fetch(),
            api::CREATE_TOPICS => self.only_topic(self.version >= 2, self.version >= 7),
            api::DELETE_TOPICS => self.only_topic(self.version >= 1, self.version >= 6),
            api::LEAVE_GROUP if self.version >= 3 => self.left(),
            _ => {
                self.wire.fields.skip(bytes_before_error(key, self.version)?)?;
                self.note_error()
            }
        }
    }

    fn note_error(&mut self) -> Option<()> {
        let code = self.wire.fields.i16()?;
        if self.error == 0 {
            self.error = code;
        }
        Some(())
    }

    fn throttle(&mut self, present: bool) -> Option<()> {
        self.wire.fields.skip(if present { 4 } else { 0 })
    }

    /// An array whose elements end with tags.
    fn each(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        for _ in 0..self.wire.count()? {
            element(self)?;
            self.wire.tags()?;
        }
        Some(())
    }

    fn produce(&mut self) -> Option<()> {
        let version = self.version;
        self.each(|response| {
            response.wire.topic(version >= 13, response.topics)?;
            response.each(|response| {
                response.wire.fields.skip(4)?;
                response.note_error()?;
                response.wire.fields.skip(8 + if version >= 2 { 8 } else { 0 } + if version >= 5 { 8 } else { 0 })?;
                if version >= 8 {
                    response.each(|response| {
                        response.wire.fields.skip(4)?;
                        response.wire.string().map(drop)
                    })?;
                    response.wire.string()?;
                }
                Some(())
            })
        })
    }

    fn fetch(&mut self) -> Option<()> {
        let version = self.version;
        self.throttle(version >= 1)?;
        if version >= 7 {
            self.note_error()?;
            self.wire.fields.skip(4)?;
        }
        self.fetched.topics = Wire::count(&mut { self.wire })?;
        self.fetched.records = Some(0);
        self.each(|response| {
            response.fetched.topic = response.wire.topic(version >= 13, response.topics)?;
            response.each(Self::fetched_partition)
        })
    }

    fn fetched_partition(&mut self) -> Option<()> {
        let version = self.version;
        self.wire.fields.skip(4)?;
        self.note_error()?;
        self.wire.fields.skip(8 + if version >= 4 { 8 } else { 0 } + if version >= 5 { 8 } else { 0 })?;
        if version >= 4 {
            self.each(|response| response.wire.fields.skip(16))?;
        }
        self.wire.fields.skip(if version >= 11 { 4 } else { 0 })?;
        let length = self.wire.count()?;
        let captured = self.wire.fields.take_captured(length);
        let records = batch::records(captured, length);
        self.fetched.records = self.fetched.records.zip(records).map(|(before, here)| before + here);
        (captured.len() == length).then_some(())
    }

    fn metadata(&mut self) -> Option<()> {
        let version = self.version;
        self.throttle(version >= 3)?;
        self.each(|response| {
            response.wire.fields.skip(4)?;
            response.wire.string()?;
            response.wire.fields.skip(4)?;
            if version >= 1 { response.wire.string().map(drop) } else { Some(()) }
        })?;
        if version >= 2 {
            self.wire.string()?;
        }
        self.wire.fields.skip(if version >= 1 { 4 } else { 0 })?;
        self.each(|response| {
            response.note_error()?;
            let topic = response.wire.string()?;
            if version >= 10 {
                response.named.extend(Some(response.wire.fields.array()?).zip(name(topic).map(String::from)));
            }
            response.wire.fields.skip(usize::from(version >= 1))?;
            // A partition without a leader is a fact about the cluster, no failure of the request.
            response.each(|response| {
                response.wire.fields.skip(10 + if version >= 7 { 4 } else { 0 })?;
                for _replicas_and_in_sync_and_offline in 0..2 + usize::from(version >= 5) {
                    response.wire.skip_array(4)?;
                }
                Some(())
            })?;
            response.wire.fields.skip(if version >= 8 { 4 } else { 0 })
        })?;
        if version >= 13 {
            self.note_error()?;
        }
        Some(())
    }

    /// Topics, of each its partitions: the index, an error, and so many bytes.
    fn partitions(&mut self, throttle: bool, more_bytes: usize) -> Option<()> {
        self.throttle(throttle)?;
        self.each(|response| {
            response.wire.string()?;
            response.each(|response| {
                response.wire.fields.skip(4)?;
                response.note_error()?;
                response.wire.fields.skip(more_bytes)
            })
        })
    }

    fn offset_fetch(&mut self) -> Option<()> {
        let version = self.version;
        self.throttle(version >= 3)?;
        self.each(|response| {
            response.wire.string()?;
            response.each(|response| {
                response.wire.fields.skip(12 + if version >= 5 { 4 } else { 0 })?;
                response.wire.string()?;
                response.note_error()
            })
        })?;
        if version >= 2 { self.note_error() } else { Some(()) }
    }

    /// One error of all, and one of each member (KIP-345).
    fn left(&mut self) -> Option<()> {
        self.throttle(true)?;
        self.note_error()?;
        self.each(|response| {
            let (_member_id, _group_instance_id) = (response.wire.string()?, response.wire.string()?);
            response.note_error()
        })
    }

    /// Topics with their errors; what follows an error is not read, so only the first is known.
    fn only_topic(&mut self, throttle: bool, id: bool) -> Option<()> {
        self.throttle(throttle)?;
        let topics = self.wire.count()?;
        self.wire.string()?;
        self.wire.fields.skip(if id { 16 } else { 0 })?;
        self.note_error()?;
        (topics == 1).then_some(())
    }
}

/// Where the only error code stands, in responses that begin with it or with the throttle time before it.
const fn bytes_before_error(key: i16, version: i16) -> Option<usize> {
    let throttle_from = match key {
        api::API_VERSIONS | api::SASL_HANDSHAKE | api::SASL_AUTHENTICATE => i16::MAX,
        api::JOIN_GROUP => 2,
        api::HEARTBEAT | api::LEAVE_GROUP | api::SYNC_GROUP | api::LIST_GROUPS => 1,
        api::FIND_COORDINATOR if version <= 3 => 1,
        api::INIT_PRODUCER_ID | api::ADD_OFFSETS_TO_TXN | api::END_TXN | api::CONSUMER_GROUP_HEARTBEAT => 0,
        _ => return None,
    };
    Some(if version >= throttle_from { 4 } else { 0 })
}
