//! Exchanges that are not complete, and responses whose request was not heard of yet.
//!
//! Called by [`super::Dialogue`]. Limits: who pushes bounds the exchanges and their text; [`super::EARLY_MAX`] early responses.

use std::{collections::VecDeque, ops::Range};

use agent_protocol::session::{Boundary, Facts, Key, Part, Side, Text, Value};

use super::EARLY_MAX;

/// The attribute that is most of what an exchange keeps.
const STATEMENT: &str = "db.query.text";

/// A request, and what is known of its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub key: Key,
    pub request: Range<u64>,
    /// Whether the request is complete.
    pub request_last: bool,
    pub response: Option<Range<u64>>,
    /// Whether the response is complete.
    pub response_last: bool,
    /// Whether all bounds are sure.
    pub exact: bool,
    pub facts: Facts,
    /// Bytes of text in `facts`.
    text_bytes: usize,
    /// Whether its answer, or a part of that, may have been lost.
    pub doubt: bool,
    /// Whether bytes of the answers' side were hidden since it waits: how it ended may be among them.
    pub hidden: bool,
    /// When the latest part was heard of.
    pub noticed_ns: u64,
}

impl Exchange {
    pub(super) fn new(part: Part, now_ns: u64) -> Self {
        Self {
            key: part.key,
            request: part.range,
            request_last: part.last,
            response: None,
            response_last: false,
            exact: part.boundary == Boundary::Framed,
            text_bytes: text_bytes(&part.facts),
            facts: part.facts,
            doubt: false,
            hidden: false,
            noticed_ns: now_ns,
        }
    }

    /// More of the request.
    pub(super) fn ask(&mut self, part: Part, now_ns: u64) {
        self.request.end = self.request.end.max(part.range.end);
        self.request_last = part.last;
        self.add(part, now_ns);
    }

    /// The response, or more of it.
    pub(super) fn answer(&mut self, part: Part, now_ns: u64) {
        let range = self.response.get_or_insert(part.range.clone());
        range.end = range.end.max(part.range.end);
        self.response_last = part.last;
        self.add(part, now_ns);
    }

    fn add(&mut self, part: Part, now_ns: u64) {
        self.exact &= part.boundary == Boundary::Framed;
        self.noticed_ns = now_ns;
        self.facts.add(part.facts);
        self.text_bytes = text_bytes(&self.facts);
    }

    fn drop_statement(&mut self) -> bool {
        let before = self.facts.attributes.len();
        self.facts.attributes.retain(|(key, _)| *key != STATEMENT);
        self.text_bytes = text_bytes(&self.facts);
        self.facts.attributes.len() < before
    }

    fn is_complete(&self) -> bool {
        self.request_last && self.response_last
    }
}

/// All of one connection, in the order in which their requests began.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    exchanges: VecDeque<Exchange>,
    early: VecDeque<(u64, Part)>,
    /// Bytes of text in the exchanges, but that what left since they were last summed up still counts.
    text_bytes_most: usize,
}

impl Waiting {
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Exchange> {
        self.exchanges.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// Takes note of what an exchange is about to keep.
    pub(super) fn add_text(&mut self, facts: &Facts) {
        self.text_bytes_most = self.text_bytes_most.saturating_add(text_bytes(facts));
    }

    /// Whether more bytes of text wait than this.
    pub(super) fn has_more_text_than(&mut self, bytes_max: usize) -> bool {
        if self.text_bytes_most > bytes_max {
            self.text_bytes_most = self.exchanges.iter().map(|exchange| exchange.text_bytes).sum();
        }
        self.text_bytes_most > bytes_max
    }

    /// The newest exchange that has a statement loses it; answers whether there was one.
    pub(super) fn drop_statement(&mut self) -> bool {
        self.exchanges.iter_mut().rev().any(Exchange::drop_statement)
    }

    pub(super) fn push(&mut self, exchange: Exchange) {
        self.exchanges.push_back(exchange);
    }

    pub(super) fn newest(&mut self) -> Option<&mut Exchange> {
        self.exchanges.back_mut()
    }

    /// The exchange whose request goes on.
    pub(super) fn asking(&mut self, key: Key) -> Option<&mut Exchange> {
        self.exchanges.iter_mut().rev().find(|exchange| exchange.key == key).filter(|exchange| !exchange.request_last)
    }

    /// The oldest exchange of a key that still wants an answer.
    pub(super) fn answering(&mut self, key: Key) -> Option<&mut Exchange> {
        self.exchanges.iter_mut().find(|exchange| exchange.key == key && !exchange.response_last)
    }

    /// The oldest exchange of a key, if it is complete.
    pub(super) fn take_complete(&mut self, key: Key) -> Option<Exchange> {
        let at = self.exchanges.iter().position(|exchange| exchange.key == key)?;
        if self.exchanges[at].is_complete() { self.exchanges.remove(at) } else { None }
    }

    /// The oldest exchange that has its answer, though not the whole request, since `until_ns`.
    pub(super) fn take_half(&mut self, until_ns: u64) -> Option<Exchange> {
        self.take_where(|exchange| exchange.response_last && exchange.noticed_ns <= until_ns)
    }

    /// The oldest exchange of a key.
    pub(super) fn take(&mut self, key: Key) -> Option<Exchange> {
        self.take_where(|exchange| exchange.key == key)
    }

    /// The oldest of which this is true.
    pub(super) fn take_where(&mut self, wanted: impl Fn(&Exchange) -> bool) -> Option<Exchange> {
        self.exchanges.remove(self.exchanges.iter().position(wanted)?)
    }

    pub(super) fn take_oldest(&mut self) -> Option<Exchange> {
        self.exchanges.pop_front()
    }

    /// Those that only order tells, of which something may have been hidden: a request in progress, and if the client
    /// pipelines, everything.
    pub(super) fn take_doubtful(&mut self, pipelines: bool) -> Vec<Exchange> {
        let doubtful = |exchange: &Exchange| exchange.key == Key::InOrder && (pipelines || !exchange.request_last);
        let (hidden, kept) = self.exchanges.drain(..).partition::<VecDeque<_>, _>(doubtful);
        self.exchanges = kept;
        if pipelines {
            self.early.retain(|(_, part)| part.key != Key::InOrder);
        }
        hidden.into()
    }

    /// Bytes of the answers' side were hidden.
    pub(super) fn hide(&mut self) {
        self.exchanges.iter_mut().for_each(|exchange| exchange.hidden = true);
    }

    /// Answers were hidden: whatever waits for one by order may wait in vain, and one in progress does not go on.
    pub(super) fn doubt(&mut self) {
        for exchange in self.exchanges.iter_mut().filter(|exchange| exchange.key == Key::InOrder) {
            exchange.doubt = true;
        }
    }

    /// The oldest `count` that are told by order.
    pub(super) fn take_first(&mut self, count: usize) -> Vec<Exchange> {
        let mut left = count;
        let first = |exchange: &Exchange| {
            let is = exchange.key == Key::InOrder && left > 0;
            left -= usize::from(is);
            is
        };
        let (taken, kept) = self.exchanges.drain(..).partition::<VecDeque<_>, _>(first);
        self.exchanges = kept;
        taken.into()
    }

    /// Keeps a response until its request is heard of; answers whether one was given up for it.
    pub(super) fn push_early(&mut self, part: Part, now_ns: u64) -> bool {
        self.early.push_back((now_ns, part));
        self.early.len() > EARLY_MAX && self.early.pop_front().is_some()
    }

    /// The oldest response of a key that waits for its request.
    pub(super) fn take_early(&mut self, key: Key) -> Option<Part> {
        let at = self.early.iter().position(|(_, part)| part.key == key)?;
        self.early.remove(at).map(|(_, part)| part)
    }

    /// Since when the oldest response waits for its request.
    pub(super) fn early_since_ns(&self) -> Option<u64> {
        self.early.front().map(|(since_ns, _)| *since_ns)
    }

    /// The responses of a key that wait for their request.
    pub(super) fn early(&self, key: Key) -> impl Iterator<Item = &Part> {
        self.early.iter().map(|(_, part)| part).filter(move |part| part.key == key)
    }

    /// The responses of which this is true, while they wait for their requests.
    pub(super) fn take_early_where(&mut self, wanted: impl Fn(&Part) -> bool) -> Vec<Part> {
        if self.early.is_empty() {
            return Vec::new();
        }
        let (taken, kept) = self.early.drain(..).partition::<VecDeque<_>, _>(|(_, part)| wanted(part));
        self.early = kept;
        taken.into_iter().map(|(_, part)| part).collect()
    }

    /// The oldest response, if it waited for its request since `until_ns`.
    pub(super) fn take_early_since(&mut self, until_ns: u64) -> Option<Part> {
        self.early.pop_front_if(|(since_ns, _)| *since_ns <= until_ns).map(|(_, part)| part)
    }

    /// The first byte of a side whose timings are needed.
    pub(super) fn needed_from(&self, side: Side) -> Option<u64> {
        let of = |exchange: &Exchange| match side {
            Side::Client => Some(exchange.request.start),
            Side::Server => exchange.response.as_ref().map(|response| response.start),
        };
        let early = self.early.iter().filter(|_| side == Side::Server).map(|(_, part)| part.range.start);
        self.exchanges.iter().filter_map(of).chain(early).min()
    }
}

/// Bytes of text that were allocated for facts; those that are shared count each time.
fn text_bytes(facts: &Facts) -> usize {
    let of = |value: &Value| match value {
        Value::String(text) => text.allocated(),
        Value::Strings(texts) => texts.iter().map(|text| text.capacity() + size_of::<String>()).sum(),
        Value::Int(_) | Value::Bool(_) => 0,
    };
    let attributes: usize = facts.attributes.iter().map(|(_, value)| of(value)).sum();
    attributes + facts.name.as_ref().map_or(0, Text::allocated) + facts.host.as_ref().map_or(0, Text::allocated)
}
