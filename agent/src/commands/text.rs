//! Words and columns for people.
//!
//! Pure. Durations are milliseconds with three digits after the point, everywhere, so that columns can be compared at a glance.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

pub(super) use agent_core::cause::words::{counted, ms, percent, verb};

use crate::{
    cli::SOCKET_DEFAULT,
    query::api::{SegmentView, SpanView},
};

/// `2025-01-31T12:00:00.123456Z`.
pub(super) fn time(unix_ns: u64) -> String {
    humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

/// `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// Dims a text.
pub(super) fn dim(text: &str, colour: bool) -> String {
    paint(text, "2", colour)
}

/// Makes a text bold.
pub(super) fn bold(text: &str, colour: bool) -> String {
    paint(text, "1", colour)
}

/// Makes a text red.
pub(super) fn red(text: &str, colour: bool) -> String {
    paint(text, "31", colour)
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Text from the network or from another process, without anything that a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|character| if is_obeyed(character) { '\u{fffd}' } else { character }).collect()
}

/// Control characters, line ends, and what turns the direction of the text around it (Unicode Bidirectional Algorithm, 2).
fn is_obeyed(character: char) -> bool {
    let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') || turns
}

/// The sum of a span's tiles of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub name: String,
    pub duration_ns: u64,
    /// Durations by evidence, in the order of their first tile.
    pub evidence: Vec<(String, u64)>,
    /// Durations by what they were spent on in particular, likewise.
    pub by: Vec<(String, u64)>,
}

impl Part {
    /// `measured`, or with shares if the evidence is mixed.
    pub fn evidence_words(&self) -> String {
        match self.evidence.as_slice() {
            [] => "unknown".to_owned(),
            [(name, _)] => name.clone(),
            many => {
                let share = |(name, ns): &(String, u64)| format!("{} {name}", percent(*ns, self.duration_ns));
                many.iter().map(share).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// How it is known, and what it was spent on in particular.
    pub fn notes(&self) -> String {
        let by = self.by.iter().map(|(name, ns)| format!("{name} {}", ms(*ns)));
        [self.evidence_words()].into_iter().chain(by).collect::<Vec<_>>().join(", ")
    }
}

/// Sums tiles by name, in the order of their first tile.
pub(super) fn parts(segments: &[SegmentView]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for segment in segments {
        let index = parts.iter().position(|part| part.name == segment.name).unwrap_or_else(|| {
            parts.push(Part { name: segment.name.clone(), duration_ns: 0, evidence: Vec::new(), by: Vec::new() });
            parts.len() - 1
        });
        let part = &mut parts[index];
        part.duration_ns += segment.duration_ns;
        add(&mut part.evidence, &segment.evidence, segment.duration_ns);
        if !segment.by.is_empty() {
            add(&mut part.by, &segment.by, segment.duration_ns);
        }
    }
    parts
}

fn add(sums: &mut Vec<(String, u64)>, name: &str, ns: u64) {
    match sums.iter_mut().find(|(known, _)| known == name) {
        Some((_, sum)) => *sum += ns,
        None => sums.push((name.to_owned(), ns)),
    }
}

/// `off_cpu lock`: a tile with what its time was spent on.
pub(super) fn segment_label(segment: &SegmentView) -> String {
    let by = if segment.by.is_empty() { "" } else { " " };
    clean(&format!("{}{by}{}", segment.name, segment.by))
}

/// The part that took the longest; of equal ones the first.
pub(super) fn dominant(parts: &[Part]) -> Option<&Part> {
    parts.iter().reduce(|longest, part| if part.duration_ns > longest.duration_ns { part } else { longest })
}

/// `remote 85.2 %`; `-`: the span has no segments.
pub(super) fn dominant_words(span: &SpanView) -> String {
    let parts = parts(&span.segments);
    dominant(&parts).map_or_else(
        || "-".to_owned(),
        |part| format!("{} {}", clean(&part.name), percent(part.duration_ns, span.duration_ns)),
    )
}

/// A command that may be tried next (what it answers follows in parentheses, after three spaces), of the agent that was asked.
pub(super) fn ask(command: &str, socket: &Path) -> String {
    let (words, answers) = command.find("   (").map_or((command, ""), |at| command.split_at(at));
    // `spantap check` asks the kernel, and no agent.
    let asks = words.starts_with("spantap ") && !words.starts_with("spantap check");
    if asks && socket != Path::new(SOCKET_DEFAULT) && std::env::var_os("SPANTAP_SOCKET").is_none() {
        return format!("{words} --socket {}{answers}", socket.display());
    }
    command.to_owned()
}

/// A value, or `-`.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { clean(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_ask_next_is_asked_of_the_same_agent() {
        let check = |command, expected| assert_eq!(ask(command, Path::new("/tmp/x")), expected);
        check("spantap why 12", "spantap why 12 --socket /tmp/x");
        check("spantap status   (what is selected)", "spantap status --socket /tmp/x   (what is selected)");
        check("spantap check   (hooks), and spantap losses", "spantap check   (hooks), and spantap losses");
        check("cat /proc/pressure/io", "cat /proc/pressure/io");
        assert_eq!(ask("spantap why 12", Path::new(SOCKET_DEFAULT)), "spantap why 12");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\r\n"), "a\u{fffd}[31mb\u{fffd}\u{fffd}");
        assert_eq!(clean("\u{9b}31m \u{202e}txt\u{2028}"), "\u{fffd}31m \u{fffd}txt\u{fffd}");
    }

    #[test]
    fn parts_keep_their_evidence_apart() {
        let tile = |name: &str, start_ns, duration_ns, evidence: &str| SegmentView {
            name: name.to_owned(),
            start_ns,
            duration_ns,
            evidence: evidence.to_owned(),
            ..Default::default()
        };
        let parts =
            parts(&[tile("send", 0, 1, "measured"), tile("remote", 1, 3, "derived"), tile("send", 4, 3, "derived")]);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].evidence_words(), "25.0 % measured, 75.0 % derived");
        assert_eq!(dominant(&parts).map(|part| part.name.as_str()), Some("send"));
    }
}
