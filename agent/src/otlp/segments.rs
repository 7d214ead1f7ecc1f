//! The segments of a span as one text: `wakeup:10213:measured off_cpu:49449000:measured:poll run_queue:559000:measured::2`.
//!
//! Of each its name, its length in nanoseconds, how it is known, and where there is any, by what (`by`) and how many records were lost in
//! its time. They follow each other without a gap, so that where one begins is the sum of those before it. A list of lists took three
//! times the bytes, and most of the time that it takes to encode a span.

use agent_core::span::Segment;

use super::{fragments::FRAGMENTS, wire::Wire};
use crate::query::api::SegmentView;

/// Writes the text.
pub(super) fn write(wire: &mut Wire, segments: &[Segment]) {
    let fixed = &*FRAGMENTS;
    let mut number = itoa::Buffer::new();
    for (index, segment) in segments.iter().enumerate() {
        let name = fixed.of(segment.name).text.as_bytes();
        wire.append(if index > 0 { name } else { &name[1..] });
        wire.append(number.format(segment.duration_ns).as_bytes());
        wire.append(fixed.evidence[segment.evidence as usize].as_bytes());
        match (segment.by, segment.lost_records) {
            (None, 0) => {}
            (by, lost_records) => {
                wire.append(b":");
                wire.append(by.map_or("", |by| by.name()).as_bytes());
                if lost_records > 0 {
                    wire.append(b":");
                    wire.append(number.format(lost_records).as_bytes());
                }
            }
        }
    }
}

/// A segment in the text.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// Where the time went.
    pub name: &'a str,
    /// From the span's start.
    pub start_ns: u64,
    /// Length.
    pub duration_ns: u64,
    /// How it is known.
    pub evidence: &'a str,
    /// By what in particular; empty: nothing says.
    pub by: &'a str,
    /// Records that were lost in its time.
    pub lost_records: u64,
}

/// Most segments that are read: a text of a sender may have millions.
const TILES_MAX: usize = 10_000;

/// Reads it in place, segment by segment; `None` in place of one that is none, and of one too many.
pub(super) fn tiles(text: &str) -> impl Iterator<Item = Option<Tile<'_>>> {
    let mut start_ns = 0_u64;
    text.split(' ').take(TILES_MAX + 1).enumerate().map(move |(index, text)| {
        let mut parts = text.split(':');
        let name = parts.next().filter(|name| !name.is_empty() && index < TILES_MAX)?;
        let duration_ns = parts.next()?.parse().ok()?;
        let evidence = parts.next()?;
        let by = parts.next().unwrap_or_default();
        let lost_records = parts.next().map_or(Some(0), |lost| lost.parse().ok())?;
        let tile = Tile { name, start_ns, duration_ns, evidence, by, lost_records };
        start_ns = start_ns.checked_add(duration_ns)?;
        parts.next().is_none().then_some(tile)
    })
}

/// Likewise all of them, as texts of their own; `None` if it is no such text.
pub(super) fn read(text: &str) -> Option<Vec<SegmentView>> {
    let view = |tile: Tile<'_>| SegmentView {
        name: tile.name.to_owned(),
        start_ns: tile.start_ns,
        duration_ns: tile.duration_ns,
        evidence: tile.evidence.to_owned(),
        by: tile.by.to_owned(),
        lost_records: tile.lost_records,
    };
    tiles(text).map(|tile| tile.map(view)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_none_of_segments_is_not_read_in_part() {
        let read_all = |text| read(text).map(|views| views.len());
        assert_eq!(read_all("send:10:measured network:5:derived:poll run_queue:7:measured::2"), Some(3));
        for text in [
            "",
            "send",
            "send:10",
            "send:x:measured",
            ":10:measured",
            "send:10:measured ",
            "send:10:measured::x",
            "send:10:measured:poll:2:3",
            "send:18446744073709551615:measured network:1:measured",
        ] {
            assert_eq!(read_all(text), None, "{text}");
        }
        let [most, more] = [0, 1].map(|more| vec!["send:1:measured"; TILES_MAX + more].join(" "));
        assert_eq!((read_all(&most), read_all(&more)), (Some(TILES_MAX), None));
    }
}
