//! What stands in every span in the same way, encoded once: it would be the larger part of the time for a span.

use std::sync::LazyLock;

use agent_core::span::{By, Evidence, SegmentName};

use super::{SEGMENT_PREFIX, encode::ATTRIBUTES, wire::Wire};

pub(super) static FRAGMENTS: LazyLock<Fragments> = LazyLock::new(Fragments::new);

/// By the discriminants of their types.
pub(super) struct Fragments {
    names: Vec<Name>,
    /// Of the text of segments, by [`Evidence`].
    pub evidence: Vec<String>,
}

/// What a segment's name is part of.
pub(super) struct Name {
    /// Begin of its part of the text of segments, behind a space.
    pub text: String,
    /// Key of the sum.
    pub ns: String,
    /// The whole attribute, by [`Evidence`].
    pub evidence: Vec<Vec<u8>>,
    /// Key of the sum, by [`By`].
    pub by_ns: Vec<String>,
}

impl Fragments {
    fn new() -> Self {
        Self {
            names: SegmentName::ALL.into_iter().map(|name| Name::new(name.name())).collect(),
            evidence: Evidence::ALL.into_iter().map(|evidence| format!(":{}", evidence.name())).collect(),
        }
    }

    pub fn of(&self, name: SegmentName) -> &Name {
        &self.names[name as usize]
    }
}

impl Name {
    fn new(name: &str) -> Self {
        let key = format!("{SEGMENT_PREFIX}{name}.evidence");
        Self {
            text: format!(" {name}:"),
            ns: format!("{SEGMENT_PREFIX}{name}.ns"),
            evidence: Evidence::ALL.into_iter().map(|evidence| pair(ATTRIBUTES, &key, evidence.name())).collect(),
            by_ns: By::ALL.into_iter().map(|by| format!("{SEGMENT_PREFIX}{name}.{}.ns", by.name())).collect(),
        }
    }
}

fn pair(field: u32, key: &str, value: &str) -> Vec<u8> {
    let mut wire = Wire::default();
    wire.text_pair(field, key, value);
    wire.into_bytes()
}
