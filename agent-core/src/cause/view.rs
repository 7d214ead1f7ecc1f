//! What a span must show to be judged: the same for spans of the pipeline and for those of the log.

use crate::span::{Evidence, Segment, SegmentName, Span, SpanKind, Status, Text, Value};

/// A span, as far as its cause depends on it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Kind.
    pub kind: SpanKind,
    /// Outcome.
    pub status: Status,
    /// Name of the protocol.
    pub protocol: &'a str,
    /// Length.
    pub duration_ns: u64,
    /// Tiles.
    pub segments: &'a [Segment],
    /// The value of an attribute.
    pub attribute: &'a dyn Fn(&str) -> Option<Value>,
    /// What other spans add.
    pub around: Around<'a>,
}

/// What is known from other spans than the judged one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around<'a> {
    /// Connections that waited to be accepted by the listener that this span connected to, and the most that it keeps:
    /// the fullest that was seen while the span waited.
    pub accept_queue: Option<(u64, u64)>,
    /// How long the sender of what arrived waited for room in this end's receive window, as the other end saw it.
    pub peer_waited_ns: Option<u64>,
    /// How long the sender of what arrived did something else meanwhile (computed, slept, waited for a CPU), as the other end saw it.
    pub peer_paused_ns: Option<u64>,
    /// How long the other end's kernel held a part of what arrived back.
    pub peer_held_ns: Option<u64>,
    /// Segments that the other end sent again in the same exchange.
    pub peer_resent: u64,
    /// The slowest lookup that this process made while the span waited for its name, and how many queries of all of them
    /// stayed unanswered.
    pub lookup: Option<(&'a str, u64)>,
    /// The calls of this process to one address during which it may have been blocked the longest, and for how long: at least and at most.
    pub downstream: Option<(&'a str, [u64; 2])>,
}

/// Names for the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// The process.
    pub service: &'a str,
    /// The other end.
    pub peer: &'a str,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("kind", &self.kind).field("segments", &self.segments).finish_non_exhaustive()
    }
}

impl<'a> View<'a> {
    /// A span of the pipeline. `attribute` is [`super::attribute_of`] it.
    pub fn of(span: &'a Span, attribute: &'a dyn Fn(&str) -> Option<Value>) -> Self {
        Self {
            kind: span.kind,
            status: span.status,
            protocol: span.protocol.name(),
            duration_ns: span.duration_ns,
            segments: &span.segments,
            attribute,
            around: Around::default(),
        }
    }

    /// A number that is not negative.
    pub(super) fn int(&self, key: &str) -> Option<u64> {
        match (self.attribute)(key)? {
            Value::Int(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<Text> {
        match (self.attribute)(key)? {
            Value::String(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn is(&self, key: &str) -> Option<bool> {
        match (self.attribute)(key)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// Whether something that arrived had been lost on its way before.
    pub(super) fn lost_arriving(&self) -> bool {
        self.around.peer_resent > 0 || self.int("spantap.tcp.out_of_order").is_some_and(|count| count > 0)
    }

    /// Bytes of the message that the `transfer` of this span brought, if they were counted.
    pub(super) fn arriving_bytes(&self) -> Option<u64> {
        match self.kind {
            SpanKind::Server | SpanKind::Consumer => self.request_bytes(),
            _ => self.response_bytes(),
        }
    }

    /// Bytes of the message that this end sent, if they were counted.
    pub(super) fn leaving_bytes(&self) -> Option<u64> {
        match self.kind {
            SpanKind::Server | SpanKind::Consumer => self.response_bytes(),
            _ => self.request_bytes(),
        }
    }

    fn request_bytes(&self) -> Option<u64> {
        self.int("spantap.request.bytes").or_else(|| self.int("http.request.body.size"))
    }

    fn response_bytes(&self) -> Option<u64> {
        self.int("spantap.response.bytes").or_else(|| self.int("http.response.body.size"))
    }
}

/// Durations by segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums([u64; SegmentName::ALL.len()]);

impl Sums {
    pub fn of(segments: &[Segment]) -> Self {
        let mut sums = [0_u64; SegmentName::ALL.len()];
        for segment in segments {
            let sum = &mut sums[segment.name as usize];
            *sum = sum.saturating_add(segment.duration_ns);
        }
        Self(sums)
    }

    pub fn get(&self, name: SegmentName) -> u64 {
        self.0[name as usize]
    }

    pub fn all(&self, names: &[SegmentName]) -> u64 {
        names.iter().fold(0, |sum, name| sum.saturating_add(self.get(*name)))
    }

    /// The largest; of equal ones the earlier on a request's way. `None`: there is no time at all.
    pub fn largest(&self) -> Option<(SegmentName, u64)> {
        let all = SegmentName::ALL.into_iter().map(|name| (name, self.get(name)));
        all.filter(|(_, ns)| *ns > 0).reduce(|largest, other| if other.1 > largest.1 { other } else { largest })
    }

    /// Whether anything was laid under these names.
    pub fn any(&self, names: &[SegmentName]) -> bool {
        self.all(names) > 0
    }
}

/// Time under a name, by how it is known: measured, derived, inferred.
pub(super) fn grades(segments: &[Segment], name: SegmentName) -> [u64; 3] {
    let mut grades = [0_u64; 3];
    for segment in segments.iter().filter(|segment| segment.name == name) {
        let sum = &mut grades[segment.evidence as usize];
        *sum = sum.saturating_add(segment.duration_ns);
    }
    grades
}

/// Whether time under these names was measured only.
pub(super) fn only_measured(segments: &[Segment], names: &[SegmentName]) -> bool {
    segments
        .iter()
        .filter(|segment| names.contains(&segment.name) && segment.duration_ns > 0)
        .all(|segment| segment.evidence == Evidence::Measured)
}
