//! The verdict: words from segments. Pure.

use super::text::{self, Part};
use crate::query::api::{SpanView, address_of, hex};

/// Parts below this share are not worth a word.
const MENTIONED_PERCENT: u64 = 5;

/// What to say of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Sentences; the first names the segment.
    pub words: Vec<String>,
    /// The next thing to do.
    pub next: String,
}

impl Verdict {
    pub fn of(span: &SpanView, parts: &[Part], trace: &[SpanView]) -> Self {
        let Some(longest) = text::dominant(parts) else {
            let words = vec!["verdict: nothing was observed inside this span".to_owned()];
            return Self { words, next: "`spantap check` says what is attached".to_owned() };
        };
        let mut words = vec![first(span, longest)];
        words.extend(others(span, parts, longest));
        words.extend(tcp(span));
        words.extend(not_measured(span, parts));
        words.extend(lost(span));
        Self { words, next: next(span, longest, trace) }
    }
}

fn first(span: &SpanView, part: &Part) -> String {
    let share = text::percent(part.duration_ns, span.duration_ns);
    let (duration, evidence) = (text::ms(part.duration_ns), part.evidence_words());
    format!(
        "verdict: {} took {duration} of {}, {share} ({evidence}): {}",
        part.name,
        text::ms(span.duration_ns),
        meaning(span, &part.name)
    )
}

/// What a segment means for this kind of span.
fn meaning(span: &SpanView, name: &str) -> String {
    let peer = text::or_dash(&span.peer);
    match name {
        "connect" => format!("the TCP handshake with {peer}, before the request could be sent"),
        "send" => "the application's bytes were on their way into and out of the socket".to_owned(),
        "network" => format!("the path to {peer} and back, not either host"),
        "remote" => format!("{peer} had the request and had not begun to answer"),
        "transfer" => "the message was arriving, from its first byte to its last".to_owned(),
        "receive_buffer" => format!("the bytes were here, and {} had not read them yet", text::or_dash(&span.service)),
        "run_queue" => format!("{} was ready to run and waited for a CPU", text::or_dash(&span.service)),
        "application" => {
            format!("{} itself, or what it waited for other than this socket", text::or_dash(&span.service))
        }
        "unexplained" => "no hook saw where this time went".to_owned(),
        other => format!("time in {}", text::clean(other)),
    }
}

fn others(span: &SpanView, parts: &[Part], longest: &Part) -> Option<String> {
    let mut rest: Vec<&Part> = parts.iter().filter(|part| *part != longest && part.name != "unexplained").collect();
    rest.retain(|part| {
        u128::from(part.duration_ns) * 100 >= u128::from(span.duration_ns) * u128::from(MENTIONED_PERCENT)
    });
    rest.sort_by_key(|part| std::cmp::Reverse(part.duration_ns));
    let describe = |part: &&Part| {
        format!("{} {} ({})", part.name, text::ms(part.duration_ns), text::percent(part.duration_ns, span.duration_ns))
    };
    let list = rest.iter().map(describe).collect::<Vec<_>>().join(", ");
    (!list.is_empty()).then(|| format!("also: {list}"))
}

/// What TCP says, where the kernel showed it.
fn tcp(span: &SpanView) -> Option<String> {
    let mut facts = Vec::new();
    if let Some(count) = span.int("spantap.tcp.retransmits").filter(|count| *count > 0) {
        facts.push(format!("{count} retransmitted segments"));
    }
    for (key, name) in
        [("spantap.tcp.srtt_us", "smoothed round trip"), ("spantap.tcp.min_rtt_us", "shortest round trip")]
    {
        if let Some(us) = span.int(key).and_then(|us| u64::try_from(us).ok()) {
            facts.push(format!("{name} {}", text::ms(us.saturating_mul(1_000))));
        }
    }
    (!facts.is_empty()).then(|| format!("TCP: {}", facts.join(", ")))
}

fn not_measured(span: &SpanView, parts: &[Part]) -> Option<String> {
    let mut sums: Vec<(String, u64)> = Vec::new();
    for part in parts {
        if part.name == "unexplained" {
            sums.push(("unexplained".to_owned(), part.duration_ns));
            continue;
        }
        for (evidence, ns) in part.evidence.iter().filter(|(evidence, _)| evidence != "measured") {
            sums.push((format!("{} {evidence}", part.name), *ns));
        }
    }
    let describe =
        |(name, ns): &(String, u64)| format!("{name} {} ({})", text::ms(*ns), text::percent(*ns, span.duration_ns));
    let list = sums.iter().filter(|(_, ns)| *ns > 0).map(describe).collect::<Vec<_>>().join(", ");
    Some(if list.is_empty() { "not measured: nothing".to_owned() } else { format!("not measured: {list}") })
}

fn lost(span: &SpanView) -> Option<String> {
    let count = span.int("spantap.lost_records").filter(|count| *count > 0)?;
    Some(format!("careful: {count} kernel records were lost while this span ran; `spantap losses` says why"))
}

fn next(span: &SpanView, longest: &Part, trace: &[SpanView]) -> String {
    let command = |verb: &str, id: &[u8]| format!("spantap {verb} {}", hex(id));
    match longest.name.as_str() {
        "remote" => match other_end(span, trace) {
            Some(server) => format!("{}   (what the server did)", command("why", &server.span_id)),
            None => format!("on the host of {}: spantap slow --kind server", text::or_dash(&span.peer)),
        },
        "application" => match slowest_child(span, trace) {
            Some(child) => format!("{}   (the slowest thing that it called)", command("why", &child.span_id)),
            None => format!("{}   (what else happened in this trace)", command("trace", &span.trace_id)),
        },
        "network" | "connect" | "transfer" => {
            let address = address_of(&span.peer);
            format!("spantap slow --peer {}   (does every request to it wait?)", text::clean(address))
        }
        "run_queue" => {
            "cat /proc/pressure/cpu   (is the host short of CPUs, or this cgroup throttled: cpu.max?)".to_owned()
        }
        "unexplained" => "spantap check   (which hooks are missing), and spantap losses".to_owned(),
        _ => format!("{}   (the whole trace)", command("trace", &span.trace_id)),
    }
}

/// The span of the other end of the same exchange, if it was traced here too.
fn other_end<'a>(span: &SpanView, trace: &'a [SpanView]) -> Option<&'a SpanView> {
    let is_other = |other: &&SpanView| {
        let is_linked = other.links.iter().any(|link| link.span_id == span.span_id);
        other.kind != span.kind && (is_linked || other.parent_span_id == span.span_id)
    };
    trace.iter().find(is_other)
}

fn slowest_child<'a>(span: &SpanView, trace: &'a [SpanView]) -> Option<&'a SpanView> {
    let children = trace.iter().filter(|other| other.parent_span_id == span.span_id && other.kind == "client");
    children.max_by_key(|child| child.duration_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    /// The verdict of a client span that is all of one segment.
    fn check(name: &str, expected_words: &str, expected_next: &str) {
        let mut span = fixtures::trace().remove(0);
        span.segments.truncate(1);
        span.segments[0].name = name.to_owned();
        span.segments[0].duration_ns = span.duration_ns;
        let verdict = Verdict::of(&span, &text::parts(&span.segments), std::slice::from_ref(&span));
        assert!(verdict.words[0].contains(name) && verdict.words[0].contains(expected_words), "{verdict:?}");
        assert!(verdict.next.contains(expected_next), "{verdict:?}");
    }

    #[test]
    fn each_segment_has_its_meaning_and_its_next_step() {
        check("connect", "handshake", "spantap slow --peer 10.0.0.2");
        check("send", "socket", "spantap trace");
        check("network", "path to 10.0.0.2:80", "spantap slow --peer 10.0.0.2");
        check("remote", "had the request", "on the host of 10.0.0.2:80");
        check("transfer", "arriving", "spantap slow");
        check("receive_buffer", "had not read", "spantap trace");
        check("run_queue", "waited for a CPU", "/proc/pressure/cpu");
        check("application", "shop itself", "spantap trace");
        check("unexplained", "no hook saw", "spantap check");
    }

    #[test]
    fn lost_records_are_a_warning() {
        let mut span = fixtures::trace().remove(0);
        span.attributes.push(fixtures::int("spantap.lost_records", 3));
        let verdict = Verdict::of(&span, &text::parts(&span.segments), &[]);
        assert!(verdict.words.iter().any(|words| words.contains("3 kernel records were lost")), "{verdict:?}");
    }
}
