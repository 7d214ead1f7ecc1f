//! The verdict: a cause of the catalogue with its words, for a span as the log has it. Pure.

use agent_core::{
    cause::{self, Cause, Finding, Names, View},
    span::{By, Evidence, Segment, SegmentName, SpanKind, Status, Value},
};

use super::{
    around::{Words, around, other_end, slowest_call, slowest_lookup},
    text,
};
use crate::query::api::{AttributeValue, SegmentView, SpanView, address_of, hex};

/// Parts below this share are not worth a word.
const MENTIONED_PERCENT: u64 = 5;

/// What to say of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Cause and words; `None`: nothing was observed.
    pub finding: Option<Finding>,
    /// Other large parts.
    pub also: Option<String>,
    /// The next thing to do.
    pub next: String,
    /// Whether a program sent the span.
    pub is_foreign: bool,
}

impl Verdict {
    /// `others`: spans of the same trace, or near it. `blind`: what the agent could not see, in words.
    pub fn of(span: &SpanView, others: &[SpanView], blind: &[String]) -> Self {
        let mut finding = finding(span, others);
        if let Some(finding) = finding.as_mut().filter(|finding| !finding.not_seen.is_empty()) {
            finding.not_seen.extend_from_slice(blind);
        }
        let also = also(span, finding.as_ref());
        let next = match &finding {
            Some(finding) => next(span, finding, others),
            None if is_foreign(span) => filled("spantap trace {trace}   (what belongs to it)", span),
            None => "spantap check   (what is attached)".to_owned(),
        };
        Self { finding, also, next, is_foreign: is_foreign(span) }
    }

    /// Id of the cause.
    pub fn cause(&self) -> Option<&'static str> {
        self.finding.as_ref().map(|finding| finding.decision.cause.id())
    }

    /// Sentences, the verdict first.
    pub fn words(&self) -> Vec<String> {
        let Some(finding) = &self.finding else {
            let why = if self.is_foreign { ": a program sent it, only its own times are known" } else { "" };
            return vec![format!("verdict: nothing was observed inside this span{why}")];
        };
        let mut words = vec![format!("verdict: {}: {}", finding.decision.cause.id(), finding.sentence)];
        words.extend(finding.evidence.iter().map(|words| format!("evidence: {words}")));
        words.extend(self.also.clone());
        words.extend(finding.ruled_out.clone());
        words.extend(finding.not_seen.iter().map(|words| format!("not seen: {words}")));
        if finding.not_seen.is_empty() {
            words.push("not seen: nothing, all of it is measured".to_owned());
        }
        words
    }
}

/// Whether a program sent the span: those that an agent captured say of which protocol they are.
pub(super) fn is_foreign(span: &SpanView) -> bool {
    span.protocol.is_empty()
}

/// Judges a span as it is shown.
pub(super) fn finding(span: &SpanView, others: &[SpanView]) -> Option<Finding> {
    let segments: Vec<Segment> = span.segments.iter().map(segment).collect();
    let attribute = |key: &str| span.attribute(key).and_then(value);
    let mut words = Words::default();
    let view = View {
        kind: kind(&span.kind),
        status: status(&span.status),
        protocol: &span.protocol,
        duration_ns: span.duration_ns,
        segments: &segments,
        attribute: &attribute,
        around: around(span, others, &mut words),
    };
    cause::explain(&view, Names { service: &span.service, peer: &span.peer })
}

fn kind(name: &str) -> SpanKind {
    let all = [SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
    all.into_iter().find(|kind| kind.name() == name).unwrap_or(SpanKind::Internal)
}

fn status(name: &str) -> Status {
    [Status::Ok, Status::Error].into_iter().find(|status| status.name() == name).unwrap_or(Status::Unknown)
}

/// A name that this version does not know explains nothing to it.
fn segment(view: &SegmentView) -> Segment {
    let all = [Evidence::Measured, Evidence::Derived, Evidence::Inferred];
    Segment {
        name: SegmentName::from_name(&view.name).unwrap_or(SegmentName::Unexplained),
        offset_ns: view.start_ns,
        duration_ns: view.duration_ns,
        evidence: all.into_iter().find(|evidence| evidence.name() == view.evidence).unwrap_or(Evidence::Inferred),
        by: By::from_name(&view.by),
        lost_records: u32::try_from(view.lost_records).unwrap_or(u32::MAX),
    }
}

fn value(value: &AttributeValue) -> Option<Value> {
    match value {
        AttributeValue::Text(text) => Some(Value::String(text.clone().into())),
        AttributeValue::Int(value) => Some(Value::Int(*value)),
        AttributeValue::Bool(value) => Some(Value::Bool(*value)),
        AttributeValue::Real(_) | AttributeValue::Texts(_) => None,
    }
}

fn also(span: &SpanView, finding: Option<&Finding>) -> Option<String> {
    let largest = finding?.decision.segment.map(SegmentName::name).unwrap_or_default();
    let mut rest = text::parts(&span.segments);
    rest.retain(|part| {
        part.name != largest
            && part.name != "unexplained"
            && u128::from(part.duration_ns) * 100 >= u128::from(span.duration_ns) * u128::from(MENTIONED_PERCENT)
    });
    rest.sort_by_key(|part| std::cmp::Reverse(part.duration_ns));
    let describe = |part: &text::Part| {
        format!("{} {} ({})", part.name, text::ms(part.duration_ns), text::percent(part.duration_ns, span.duration_ns))
    };
    let list = rest.iter().map(describe).collect::<Vec<_>>().join(", ");
    (!list.is_empty()).then(|| format!("also: {list}"))
}

/// A span that answers more directly, else what the catalogue suggests.
fn next(span: &SpanView, finding: &Finding, others: &[SpanView]) -> String {
    use Cause::*;
    let why = |other: &SpanView, what: &str| format!("spantap why {}   ({what})", hex(&other.span_id));
    match finding.decision.cause {
        RemoteSlow
        | TransferSlow
        | TransferPaused
        | TransferLoss
        | SendBufferFullPeerWindow
        | HeldPeerWindow
        | ConnectSlow
        | AcceptQueueFull
        | ResetByPeer
        | ClosedByPeer
        | RequestAbandoned
        | ClientGone => {
            if let Some(other) = other_end(span, others) {
                return why(other, if other.kind == "server" { "what the server did" } else { "what the client did" });
            }
        }
        DnsSlow | DnsTimeout => {
            if let Some(lookup) = slowest_lookup(span, others) {
                return why(lookup, "the slowest lookup");
            }
        }
        BlockedDownstream | BlockedPoll | ApplicationCpu | ApplicationUnwatched => {
            let call = slowest_call(span, others);
            if let Some((call, _)) =
                call.filter(|(_, ns)| u128::from(*ns) * 2 >= u128::from(finding.decision.duration_ns))
            {
                return why(call, "the slowest thing that it called");
            }
        }
        _ => {}
    }
    filled(finding.decision.cause.entry().next, span)
}

fn filled(template: &str, span: &SpanView) -> String {
    let address = address_of(&span.peer);
    let pid = if span.pid == 0 { "PID".to_owned() } else { span.pid.to_string() };
    let words = template
        .replace("{span}", &hex(&span.span_id))
        .replace("{trace}", &hex(&span.trace_id))
        .replace("{pid}", &pid)
        .replace("{address}", if address.is_empty() { "ADDRESS" } else { address })
        .replace("{peer}", if span.peer.is_empty() { "the peer" } else { &span.peer });
    text::clean(&words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    /// The verdict of a client span that is all of one segment.
    fn check(name: &str, cause: &str, expected_words: &str, expected_next: &str) {
        let mut span = fixtures::trace().remove(0);
        span.segments.truncate(1);
        span.segments[0].name = name.to_owned();
        span.segments[0].duration_ns = span.duration_ns;
        let verdict = Verdict::of(&span, std::slice::from_ref(&span), &[]);
        assert_eq!(verdict.cause(), Some(cause), "{verdict:?}");
        assert!(verdict.words()[0].contains(name) && verdict.words()[0].contains(expected_words), "{verdict:?}");
        assert!(verdict.next.contains(expected_next), "{verdict:?}");
    }

    #[test]
    fn each_segment_has_its_meaning_and_its_next_step() {
        check("connect", "connect_slow", "handshake", "spantap top --peer 10.0.0.2 --by cause ");
        check("send", "send_buffer_full", "send buffer", "ss -tin dst 10.0.0.2 ");
        check("network", "network_delay", "path to 10.0.0.2:80", "spantap top --peer 10.0.0.2 --by cause ");
        check("remote", "remote_slow", "10.0.0.2:80 had the request", "on the host of 10.0.0.2:80");
        check("transfer", "transfer_slow", "first byte to its last", "spantap slow");
        check("receive_buffer", "reader_busy", "and shop had not read", "spantap trace 0102");
        check("run_queue", "cpu_contention", "shop was ready to run", "/proc/pressure/cpu");
        check("off_cpu", "blocked_other", "shop was off the CPU", "/proc/4242/task");
        check("application", "application_cpu", "shop itself", "spantap trace");
        check("unexplained", "unexplained", "nothing that was observed", "spantap check");
    }

    #[test]
    fn a_segment_of_another_version_explains_nothing_to_this_one() {
        let mut span = fixtures::trace().remove(0);
        span.segments[2].name = "of_tomorrow".to_owned();
        assert_eq!(Verdict::of(&span, &[], &[]).cause(), Some("unexplained"));
    }

    #[test]
    fn what_was_lost_or_is_not_attached_is_said() {
        let mut span = fixtures::trace().remove(0);
        span.attributes.push(fixtures::int("spantap.lost_records", 3));
        let blind = ["the hook sched_switch is not attached: run queue".to_owned()];
        let words = Verdict::of(&span, &[], &blind).words();
        assert!(words.iter().any(|words| words.contains("3 kernel records were lost")), "{words:?}");
        assert!(
            words.iter().any(|words| words == "not seen: the hook sched_switch is not attached: run queue"),
            "{words:?}"
        );
    }

    #[test]
    fn a_sender_that_waited_for_this_end_shows_a_busy_reader() {
        let mut trace = fixtures::trace();
        trace[0].segments = fixtures::tiles(&[("send", 20_000, "measured"), ("transfer", 9_856_543, "measured")]);
        assert_eq!(Verdict::of(&trace[0], &trace, &[]).cause(), Some("transfer_paused"), "the server was busy");
        trace[1].segments = fixtures::tiles(&[("send", 8_000_000, "measured")]);
        assert_eq!(Verdict::of(&trace[0], &trace, &[]).cause(), Some("transfer_slow"));
        trace[1].attributes.push(fixtures::int("spantap.tcp.rwnd_limited_ns", 8_000_000));
        let verdict = Verdict::of(&trace[0], &trace, &[]);
        assert_eq!(verdict.cause(), Some("reader_busy"));
        let words = verdict.words().join("\n");
        assert!(words.contains("the sender waited 8.000 ms for room in this end's receive window"), "{words}");
    }

    #[test]
    fn a_poll_during_a_call_of_its_own_is_that_call() {
        let mut trace = fixtures::trace();
        trace[1].segments =
            fixtures::tiles(&[("application", 900_000, "measured"), ("off_cpu", 7_100_000, "measured")]);
        trace[1].segments[1].by = "poll".to_owned();
        let verdict = Verdict::of(&trace[1], &trace[..2], &[]);
        assert_eq!(verdict.cause(), Some("blocked_poll"));
        let verdict = Verdict::of(&trace[1], &trace, &[]);
        assert_eq!(verdict.cause(), Some("blocked_downstream"));
        assert!(verdict.next.starts_with("spantap why c3c3c3c3c3c3c3c3"), "{verdict:?}");
        assert!(verdict.words().iter().any(|words| words.contains("during its call tcp to [::1]:5432")), "{verdict:?}");
    }
}
