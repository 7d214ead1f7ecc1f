//! Recorded event streams (`.events`): what went into a pipeline, so that the same spans come out without root.
//!
//! In: records, facts, clock offsets as the agent had them. Out: bytes of an `.events` file, and spans from such bytes.
//! Used by tests and by `spantap replay-events`. Never: reads or writes files itself. Limits: a frame of
//! [`FRAME_BYTES_MAX`].
//!
//! A file is [`MAGIC`], format version (u32), layout version (u8), byte order of records (u8: 1 little, 2 big), two
//! zero bytes; then frames: length of the rest (u32), kind (u8), content. Numbers of the file itself are little-endian.

use std::sync::Arc;

use agent_common::header::{LAYOUT_VERSION, RecordHeader};

use crate::{
    config::PipelineConfig,
    container::ContainerFacts,
    flow::clock::ClockOffset,
    loss::Losses,
    pipeline::Pipeline,
    redact::SafeSpan,
    span::{MonotonicNs, ProcessFacts},
};

/// First bytes of a file.
pub const MAGIC: [u8; 8] = *b"SPTEVENT";
/// Version of the format.
pub const FORMAT_VERSION: u32 = 1;
/// Longest frame.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

const HEADER_BYTES: usize = 16;
const BYTE_ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
const RECORD: u8 = 1;
const FACTS: u8 = 2;
const CLOCK: u8 = 3;
/// The agent's own tick; between records a replay ticks at least this often.
const TICK_NS: u64 = 1_000_000;
/// After the last record everything has time to become due.
const AFTER_NS: u64 = 60_000_000_000;

/// Why bytes are no replayable event stream.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReplayError {
    /// Another kind of file.
    #[error("not an event stream: it does not begin with {MAGIC:?}")]
    NotEvents,
    /// Written by another version.
    #[error(
        "event stream of format {format}, layout {layout}; this program reads format {FORMAT_VERSION}, layout {LAYOUT_VERSION}"
    )]
    Version {
        /// Format version of the file.
        format: u32,
        /// Record layout version of the file.
        layout: u8,
    },
    /// Recorded on a machine with the other byte order.
    #[error("event stream was recorded on a machine with the other byte order")]
    ByteOrder,
    /// The file ends within a frame, or a frame is longer than allowed.
    #[error("event stream is cut or damaged in the frame at byte {offset}")]
    Damaged {
        /// Where the frame begins.
        offset: usize,
    },
    /// A frame of a kind that is not known, or that does not hold what its kind demands.
    #[error("event stream has a frame of kind {kind} at byte {offset} that cannot be read")]
    Frame {
        /// Where the frame begins.
        offset: usize,
        /// Its kind.
        kind: u8,
    },
}

/// Writes an event stream into memory.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend([LAYOUT_VERSION, BYTE_ORDER, 0, 0]);
        Self { bytes }
    }
}

impl Writer {
    /// Adds a record as the ring buffer gave it; answers whether it was short enough.
    pub fn record(&mut self, bytes: &[u8]) -> bool {
        self.frame(RECORD, bytes)
    }

    /// Adds facts of a process.
    pub fn facts(&mut self, facts: &ProcessFacts) -> bool {
        let mut bytes = facts.pid.to_le_bytes().to_vec();
        bytes.push(u8::from(facts.service_declared));
        // Those of a container follow, if there is one.
        for text in texts(facts).into_iter().chain(facts.container.iter().flat_map(|facts| container_texts(facts))) {
            let text = text.map(|text| &text[..text.floor_char_boundary(4096)]);
            bytes.extend(text.map_or(u16::MAX, |text| text.len() as u16).to_le_bytes());
            bytes.extend(text.unwrap_or_default().as_bytes());
        }
        self.frame(FACTS, &bytes)
    }

    /// Adds an offset between the clocks.
    pub fn clock(&mut self, clock: ClockOffset) -> bool {
        self.frame(CLOCK, &clock.0.to_le_bytes())
    }

    /// Takes what was written since the last time; the file's header comes first.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    fn frame(&mut self, kind: u8, content: &[u8]) -> bool {
        let fits = content.len() < FRAME_BYTES_MAX;
        if fits {
            self.bytes.extend((content.len() as u32 + 1).to_le_bytes());
            self.bytes.push(kind);
            self.bytes.extend(content);
        }
        fits
    }
}

/// What a replay gave.
#[derive(Debug)]
pub struct Replayed {
    /// Finished spans, in order.
    pub spans: Vec<SafeSpan>,
    /// What was lost.
    pub losses: Losses,
    /// Records read.
    pub records: u64,
}

/// Sends an event stream through a new pipeline, to its end.
pub fn replay(bytes: &[u8], config: PipelineConfig) -> Result<Replayed, ReplayError> {
    let mut rest = check_header(bytes)?;
    let mut pipeline = Pipeline::new(config, ClockOffset::default());
    let (mut spans, mut records, mut now_ns, mut ticked_ns) = (Vec::new(), 0, 0, 0);
    while !rest.is_empty() {
        let offset = bytes.len() - rest.len();
        let (kind, content, behind) = next_frame(rest).ok_or(ReplayError::Damaged { offset })?;
        rest = behind;
        let bad = ReplayError::Frame { offset, kind };
        match kind {
            RECORD => {
                records += 1;
                let time_ns = agent_common::read::<RecordHeader>(content).map_or(0, |header| header.time_ns);
                now_ns = now_ns.max(time_ns);
                if now_ns - ticked_ns >= TICK_NS {
                    ticked_ns = now_ns;
                    pipeline.tick(MonotonicNs(now_ns));
                }
                pipeline.record(content);
            }
            FACTS => pipeline.facts(read_facts(content).ok_or(bad)?),
            CLOCK => pipeline.set_clock(ClockOffset(i64::from_le_bytes(content.try_into().map_err(|_| bad)?))),
            _ => return Err(bad),
        }
        spans.append(&mut pipeline.drain());
    }
    pipeline.tick(MonotonicNs(now_ns.saturating_add(AFTER_NS)));
    pipeline.flush(MonotonicNs(now_ns.saturating_add(AFTER_NS)));
    spans.append(&mut pipeline.drain());
    Ok(Replayed { spans, losses: pipeline.losses().clone(), records })
}

fn check_header(bytes: &[u8]) -> Result<&[u8], ReplayError> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or(ReplayError::NotEvents)?;
    if header[..8] != MAGIC {
        return Err(ReplayError::NotEvents);
    }
    let format = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    let layout = header[12];
    if (format, layout) != (FORMAT_VERSION, LAYOUT_VERSION) {
        return Err(ReplayError::Version { format, layout });
    }
    if header[13] != BYTE_ORDER {
        return Err(ReplayError::ByteOrder);
    }
    Ok(rest)
}

fn next_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return None;
    }
    let (frame, rest) = rest.split_at_checked(length)?;
    let (kind, content) = frame.split_first()?;
    Some((*kind, content, rest))
}

fn texts(facts: &ProcessFacts) -> [Option<&str>; 6] {
    [
        facts.executable_name.as_deref(),
        facts.executable_path.as_deref(),
        facts.service_name.as_deref(),
        facts.service_namespace.as_deref(),
        facts.service_version.as_deref(),
        facts.deployment_environment.as_deref(),
    ]
}

fn container_texts(facts: &ContainerFacts) -> [Option<&str>; 9] {
    [
        Some(&facts.id),
        facts.name.as_deref(),
        facts.image_name.as_deref(),
        facts.image_tag.as_deref(),
        facts.namespace.as_deref(),
        facts.pod_name.as_deref(),
        facts.pod_uid.as_deref(),
        facts.compose_service.as_deref(),
        facts.compose_project.as_deref(),
    ]
}

fn read_facts(bytes: &[u8]) -> Option<ProcessFacts> {
    let (pid, rest) = bytes.split_first_chunk()?;
    let (declared, mut rest) = rest.split_first()?;
    let mut text = || read_text(&mut rest);
    let facts = ProcessFacts {
        pid: u32::from_le_bytes(*pid),
        service_declared: *declared != 0,
        command: None,
        inherited: false,
        service_inferred: false,
        executable_name: text()?,
        executable_path: text()?,
        service_name: text()?,
        service_namespace: text()?,
        service_version: text()?,
        deployment_environment: text()?,
        container: None,
    };
    let container = if rest.is_empty() { None } else { Some(Arc::new(read_container(rest)?)) };
    Some(ProcessFacts { container, ..facts })
}

fn read_container(mut bytes: &[u8]) -> Option<ContainerFacts> {
    let mut text = || read_text(&mut bytes);
    Some(ContainerFacts {
        id: text()?.unwrap_or_default(),
        name: text()?,
        image_name: text()?,
        image_tag: text()?,
        namespace: text()?,
        pod_name: text()?,
        pod_uid: text()?,
        compose_service: text()?,
        compose_project: text()?,
    })
}

/// A text, or that there is none.
fn read_text(bytes: &mut &[u8]) -> Option<Option<String>> {
    let (length, behind) = bytes.split_first_chunk()?;
    let length = usize::from(u16::from_le_bytes(*length));
    if length == usize::from(u16::MAX) {
        *bytes = behind;
        return Some(None);
    }
    let (text, behind) = behind.split_at_checked(length)?;
    *bytes = behind;
    Some(Some(String::from_utf8(text.to_vec()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ProcessFacts {
        ProcessFacts {
            pid: 7,
            service_name: Some("shop".into()),
            service_version: Some(String::new()),
            service_declared: true,
            container: Some(Arc::new(ContainerFacts {
                id: "3a1f".into(),
                name: Some("web".into()),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    #[test]
    fn facts_survive_the_way_through_a_file() {
        let mut writer = Writer::default();
        assert!(writer.facts(&facts()));
        let bytes = writer.take();
        let (kind, content, rest) = next_frame(check_header(&bytes).unwrap()).unwrap();
        assert_eq!((kind, read_facts(content), rest.len()), (FACTS, Some(facts()), 0));
        let outside = ProcessFacts { container: None, ..facts() };
        assert!(writer.facts(&outside));
        let (_, content, _) = next_frame(&writer.bytes).unwrap();
        assert_eq!(read_facts(content), Some(outside));
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_stream_never_a_panic() {
        let mut writer = Writer::default();
        writer.clock(ClockOffset(5));
        let whole_frames = [HEADER_BYTES, writer.bytes.len()];
        writer.facts(&facts());
        let bytes = writer.take();
        for length in 0..bytes.len() {
            let replayed = replay(&bytes[..length], PipelineConfig::default());
            assert_eq!(replayed.is_ok(), whole_frames.contains(&length), "length {length}");
        }
    }

    #[test]
    fn other_files_and_versions_are_named() {
        let check = |change: fn(&mut Vec<u8>), expected| {
            let mut bytes = Writer::default().take();
            change(&mut bytes);
            assert_eq!(replay(&bytes, PipelineConfig::default()).err(), Some(expected));
        };
        check(|bytes| bytes[0] = b'x', ReplayError::NotEvents);
        check(|bytes| bytes[8] = 9, ReplayError::Version { format: 9, layout: LAYOUT_VERSION });
        check(|bytes| bytes[13] = 3 - BYTE_ORDER, ReplayError::ByteOrder);
        check(|bytes| bytes.extend([1, 0, 0, 0, 77]), ReplayError::Frame { offset: HEADER_BYTES, kind: 77 });
        check(|bytes| bytes.extend([255; 8]), ReplayError::Damaged { offset: HEADER_BYTES });
    }

    #[test]
    fn a_record_that_is_too_long_is_refused() {
        assert!(!Writer::default().record(&[0; FRAME_BYTES_MAX]));
    }
}
