//! The lists of spans that are not needed any more, for the next ones, so that the allocator is not asked for each.
//!
//! In: spans that were passed on. Out: empty lists with room. Called by [`crate::pipeline`] and where spans are made.

use crate::span::{Segment, Span, Value};

/// Room for the attributes of most spans, within what the allocator keeps at hand (glibc: 1032 bytes); for more it would tidy up all its
/// free memory each time.
const ATTRIBUTES: usize = 24;
const _: () = assert!(ATTRIBUTES * size_of::<(&str, Value)>() <= 1032);
/// Room for the segments of most spans.
const SEGMENTS: usize = 12;
/// Most lists of a kind that are kept: those of the spans that are passed on at once.
const LISTS_MAX: usize = 512;

/// Lists to be used again.
#[derive(Debug, Default)]
pub struct Spare {
    attributes: Vec<Vec<(&'static str, Value)>>,
    segments: Vec<Vec<Segment>>,
}

impl Spare {
    /// A list for attributes.
    pub fn attributes(&mut self) -> Vec<(&'static str, Value)> {
        self.attributes.pop().unwrap_or_else(|| Vec::with_capacity(ATTRIBUTES))
    }

    /// A list for segments.
    pub fn segments(&mut self) -> Vec<Segment> {
        self.segments.pop().unwrap_or_else(|| Vec::with_capacity(SEGMENTS))
    }

    /// Takes the lists of a span. Those of another length than most are given back.
    pub fn keep(&mut self, span: Span) {
        let Span { attributes, segments, .. } = span;
        keep(&mut self.attributes, attributes, ATTRIBUTES);
        keep(&mut self.segments, segments, SEGMENTS);
    }
}

fn keep<T>(lists: &mut Vec<Vec<T>>, mut list: Vec<T>, room: usize) {
    if lists.len() < LISTS_MAX && list.capacity() == room {
        list.clear();
        lists.push(list);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_empty_and_are_bounded() {
        let mut lists = Vec::new();
        for _ in 0..LISTS_MAX + 1 {
            let mut list = Vec::with_capacity(4);
            list.push(1);
            keep(&mut lists, list, 4);
        }
        keep(&mut lists, Vec::with_capacity(5), 4);
        assert!(lists.len() == LISTS_MAX && lists.iter().all(|list| list.is_empty() && list.capacity() == 4));
    }
}
