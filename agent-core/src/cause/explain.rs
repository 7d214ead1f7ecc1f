//! The words: what a cause rests on, what was ruled out and how, and what could not be seen.

use super::{
    Cause, Names, View,
    decide::{self, Decision, decide},
    view::{Sums, grades, only_measured},
    words::{bytes, counted, ms, percent, short, verb},
};
use crate::span::{
    By,
    SegmentName::{self, *},
    SpanKind, Status,
};

/// What is less than this share of a span is ruled out as its cause.
const RULED_OUT_PERCENT: u64 = 5;
/// What is derived and less than this share is only named.
const SMALL_PERCENT: u64 = 1;
/// A kind of sleep that is less than this share of them all is not worth a word.
const MENTIONED_PERCENT: u64 = 10;
/// A second part this close to the largest one is worth a word.
const CLOSE_PERCENT: u64 = 80;

/// A cause and the words that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Cause, segment, length.
    pub decision: Decision,
    /// What happened, in one sentence: the cause, its share and its milliseconds.
    pub sentence: String,
    /// What it rests on.
    pub evidence: Vec<String>,
    /// What else it could have been, and how that is known not to be it.
    pub ruled_out: Vec<String>,
    /// What was not observed.
    pub not_seen: Vec<String>,
}

/// The cause in words; `None` if the span shows neither an error nor segments.
pub fn explain(view: &View<'_>, names: Names<'_>) -> Option<Finding> {
    let decision = decide(view)?;
    let sums = Sums::of(view.segments);
    Some(Finding {
        decision,
        sentence: sentence(view, names, decision),
        evidence: evidence(view, &sums, decision),
        ruled_out: ruled_out(view, &sums, decision),
        not_seen: not_seen(view, &sums),
    })
}

fn sentence(view: &View<'_>, names: Names<'_>, decision: Decision) -> String {
    let meaning = meaning(decision.cause, names);
    let Some(segment) = decision.segment else { return meaning };
    if decision.cause == Cause::RequestAbandoned {
        return gave_up(view, meaning, segment, decision.duration_ns);
    }
    format!(
        "{meaning}: {} took {} of {}, {} ({})",
        segment.name(),
        ms(decision.duration_ns),
        ms(view.duration_ns),
        percent(decision.duration_ns, view.duration_ns),
        super::words::evidence(view.segments, segment),
    )
}

/// When it was given up, and what took most of the time until then.
fn gave_up(view: &View<'_>, meaning: String, segment: SegmentName, ns: u64) -> String {
    format!(
        "{}; until then {} were {}, {} ({})",
        meaning.replacen("gave up", &format!("gave up after {}", ms(view.duration_ns)), 1),
        ms(ns),
        segment.name(),
        percent(ns, view.duration_ns),
        super::words::evidence(view.segments, segment),
    )
}

/// The catalogue's title, with the names of this span where it has some.
fn meaning(cause: Cause, names: Names<'_>) -> String {
    let title = cause.entry().title;
    let named =
        |general: &str, name: &str| if name.is_empty() { title.to_owned() } else { title.replacen(general, name, 1) };
    for (general, name) in [("the peer", names.peer), ("the application", names.service)] {
        if title.starts_with(general) {
            return named(general, name);
        }
    }
    match cause {
        Cause::NetworkDelay => named("the peer", names.peer),
        Cause::ReaderBusy => named("the application", names.service),
        _ => title.to_owned(),
    }
}

fn evidence(view: &View<'_>, sums: &Sums, decision: Decision) -> Vec<String> {
    let mut words = Vec::new();
    specific(view, decision, &mut words);
    if view.text("spantap.tcp.closed_by").as_deref() == Some("peer") {
        closed(view, &mut words, "the peer's close was seen");
    }
    if let Some((name, ns)) = second(sums, decision)
        && u128::from(ns) * 100 >= u128::from(decision.duration_ns) * u128::from(CLOSE_PERCENT)
    {
        words.push(format!("closely followed by {} with {} ({})", name.name(), ms(ns), percent(ns, view.duration_ns)));
    }
    if let Some(name) = decision.segment
        && name != Unexplained
        && grades(view.segments, name)[0] == 0
    {
        words.push(format!("{} is derived, not measured: {}", name.name(), rule(view, name)));
    }
    words
}

fn second(sums: &Sums, decision: Decision) -> Option<(SegmentName, u64)> {
    let others = SegmentName::ALL.into_iter().filter(|name| Some(*name) != decision.segment);
    others.map(|name| (name, sums.get(name))).filter(|(_, ns)| *ns > 0).max_by_key(|(_, ns)| *ns)
}

/// What this cause in particular rests on.
fn specific(view: &View<'_>, decision: Decision, words: &mut Vec<String>) {
    use Cause::*;
    match decision.cause {
        ConnectRefused | ConnectTimeout | ConnectReset | ConnectFailed | ConnectAbandoned | ConnectSynLost => {
            say_text(view, words, "spantap.connect.errno", "connect failed with ");
            say_count(view, words, "spantap.connect.syn_retransmits", "SYN retransmit", "SYN retransmits");
        }
        AcceptQueueFull | AcceptQueueWait => {
            say_count(view, words, "spantap.connect.syn_retransmits", "SYN retransmit", "SYN retransmits");
            if let Some((backlog, max)) = decide::accept_queue(view) {
                words.push(format!(
                    "beside it {} waited to be accepted, at most {max} may",
                    counted(backlog, "connection")
                ));
            }
        }
        DnsSlow | DnsTimeout | DnsRefused | DnsUnreachable | DnsAbandoned | DnsError => {
            if let Some((lookup, unanswered)) = view.around.lookup {
                words.push(format!("the slowest lookup was {lookup}"));
                words.extend(if_any(unanswered, "unanswered query", "unanswered queries"));
            } else {
                say_text(view, words, "dns.question.name", "asked for ");
            }
            say_count(view, words, "spantap.dns.retries", "repeated query", "repeated queries");
            say_count(view, words, "spantap.dns.undelivered", "query was not delivered", "queries were not delivered");
            say_text(view, words, "error.type", "ended with ");
        }
        SendBufferFullPeerWindow | HeldPeerWindow => window(view, words),
        SendBufferFull | HeldCwnd | HeldPaced | HeldUnknown | SendSlow => sending(view, words),
        NetworkLoss | TransferLoss => {
            words.extend(
                if_any(view.around.peer_resent, "segment", "segments")
                    .map(|resent| format!("the other end sent {resent} again")),
            );
            say_count(view, words, "spantap.tcp.retransmits", "retransmitted segment", "retransmitted segments");
            for (key, one, many) in [
                (
                    "spantap.tcp.retransmits.shared",
                    "segment sent again together with an earlier message's",
                    "segments sent again together with an earlier message's",
                ),
                (
                    "spantap.tcp.retransmits.timeout",
                    "retransmission after a timeout",
                    "retransmissions after a timeout",
                ),
                ("spantap.tcp.retransmits.fast", "fast retransmit", "fast retransmits"),
                ("spantap.tcp.retransmits.tail_loss_probe", "tail loss probe", "tail loss probes"),
                ("spantap.tcp.out_of_order", "segment out of order", "segments out of order"),
            ] {
                say_count(view, words, key, one, many);
            }
        }
        NetworkDelay | ConnectSlow => round_trip(view, words),
        // How much of the wait is the network's follows from these.
        RemoteSlow if grades(view.segments, Remote)[0] == 0 => round_trip(view, words),
        TransferHeld => {
            held_by_peer(view, words);
            arriving(view, decision, words);
        }
        TransferPaused | TransferLarge | TransferSlow => {
            let paused = view.around.peer_paused_ns.filter(|ns| *ns > 0);
            words.extend(paused.map(|ns| format!("for {} of it the other end did something else", ms(ns))));
            arriving(view, decision, words);
        }
        ReaderBusy => {
            if let Some(ns) = view.around.peer_waited_ns.filter(|_| decision.segment == Some(Transfer)) {
                words.push(format!("the sender waited {} for room in this end's receive window", ms(ns)));
            }
        }
        CpuThrottled | CpuContention => {
            let throttled = decide::blocked_by(view, By::Throttled);
            if throttled > 0 {
                words.push(format!("throttled for {} of {}", ms(throttled), ms(decision.duration_ns)));
            }
        }
        BlockedLock | BlockedDisk | BlockedDownstream | BlockedSleep | BlockedPoll | BlockedOther => {
            blocked(view, decision, words);
        }
        TlsHandshakeSlow | TlsHandshakeFailed => {
            say_text(view, words, "tls.client.server_name", "for ");
            say_text(view, words, "error.type", "ended with ");
        }
        ClosedByLocal => closed(view, words, "its close was seen"),
        ResetByPeer | ResetByLocal => say_text(view, words, "error.type", "ended with "),
        RequestAbandoned => {
            closed(view, words, "the application's close was seen");
            if decision.segment == Some(Remote) && grades(view.segments, Remote)[0] == 0 {
                round_trip(view, words);
            }
        }
        _ => {}
    }
}

fn say_text(view: &View<'_>, words: &mut Vec<String>, key: &str, before: &str) {
    words.extend(view.text(key).map(|text| format!("{before}{text}")));
}

fn closed(view: &View<'_>, words: &mut Vec<String>, what: &str) {
    let after = view.int("spantap.tcp.closed_after_ns");
    words.extend(after.map(|ns| format!("{what} {} after the begin of the request", ms(ns))));
}

fn say_count(view: &View<'_>, words: &mut Vec<String>, key: &str, one: &str, many: &str) {
    words.extend(view.int(key).and_then(|count| if_any(count, one, many)));
}

fn if_any(count: u64, one: &str, many: &str) -> Option<String> {
    (count > 0).then(|| format!("{count} {}", verb(count, one, many)))
}

fn say_ns(view: &View<'_>, words: &mut Vec<String>, key: &str, what: &str) {
    words.extend(view.int(key).filter(|ns| *ns > 0).map(|ns| format!("{what} for {}", ms(ns))));
}

fn window(view: &View<'_>, words: &mut Vec<String>) {
    say_ns(view, words, "spantap.tcp.zero_window_ns", "the peer's window was zero");
    say_ns(view, words, "spantap.tcp.rwnd_limited_ns", "sending was limited by the peer's window");
}

fn sending(view: &View<'_>, words: &mut Vec<String>) {
    if view.is("spantap.tcp.paced_by_application") == Some(true) {
        words.push("the application set a pacing rate".to_owned());
    }
    if view.is("spantap.tcp.cwnd_limited") == Some(true) {
        words.push("the congestion window was full".to_owned());
    }
    let size = view.int("spantap.tcp.cwnd").and_then(|count| if_any(count, "segment", "segments"));
    words.extend(size.map(|size| format!("a congestion window of {size}")));
    if let (Some(rate), Some(ns), Some(count)) =
        (view.int("spantap.tcp.pacing_rate"), decide::paced_ns(view), view.leaving_bytes())
    {
        words.push(format!("{} at the pacing rate of {}/s take {}", bytes(count), bytes(rate), short(ns)));
    }
    say_ns(view, words, "spantap.tcp.sndbuf_limited_ns", "sending was limited by the send buffer");
    say_count(view, words, "spantap.tcp.retransmits", "retransmitted segment", "retransmitted segments");
    window(view, words);
}

fn round_trip(view: &View<'_>, words: &mut Vec<String>) {
    for (key, what) in [("spantap.tcp.min_rtt_us", "shortest"), ("spantap.tcp.srtt_us", "smoothed")] {
        words.extend(view.int(key).map(|us| format!("{what} round trip {}", short(us.saturating_mul(1_000)))));
    }
}

fn no_retransmits(view: &View<'_>, words: &mut Vec<String>) {
    if nothing_sent_again(view) {
        words.push("0 retransmits".to_owned());
    }
}

fn arriving(view: &View<'_>, decision: Decision, words: &mut Vec<String>) {
    if let Some(count) = view.arriving_bytes() {
        let rate = decide::rate(count, decision.duration_ns);
        words.push(format!("{} in {}, {}/s", bytes(count), ms(decision.duration_ns), bytes(rate)));
    }
}

fn blocked(view: &View<'_>, decision: Decision, words: &mut Vec<String>) {
    let all = [By::Lock, By::Disk, By::Socket, By::Sleep, By::Poll, By::Other];
    let mut parts: Vec<_> = all.into_iter().map(|by| (by, decide::blocked_by(view, by))).collect();
    parts.retain(|(_, ns)| *ns > 0 && !is_below(*ns, MENTIONED_PERCENT, decision.duration_ns));
    parts.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    let told: u64 = parts.iter().map(|(_, ns)| ns).sum();
    words.extend(parts.into_iter().map(|(by, ns)| format!("{} {}", waited(by), ms(ns))));
    if let Some((what, [least, most])) = view.around.downstream {
        // Of all sleep; what is not worth a word may have been in it.
        let (least, most) = (least.saturating_sub(decision.duration_ns.saturating_sub(told)), most.min(told));
        let at_most = if is_below(most - least, MENTIONED_PERCENT, most) { "" } else { "at most " };
        words.push(format!("of that {at_most}{} during {what}", ms(most)));
    }
}

/// What fits into one window's worth of segments, and no window was the limit of: what is left is that TCP waits for an acknowledgement.
const SMALL_ANSWER_BYTES: u64 = 8 << 10;

fn held_by_peer(view: &View<'_>, words: &mut Vec<String>) {
    let Some(held) = view.around.peer_held_ns else { return };
    words.push(format!("the other end's TCP had its last bytes for {} before it gave them to the device", ms(held)));
    if view.arriving_bytes().is_some_and(|bytes| bytes <= SMALL_ANSWER_BYTES) {
        words.push(
            "inferred: so small an answer waits for the acknowledgement of the piece before it (Nagle's algorithm), which this end delays"
                .to_owned(),
        );
    }
}

const fn waited(by: By) -> &'static str {
    match by {
        By::Lock => "waited for a lock",
        By::Disk => "waited for a disk",
        By::Socket => "blocked in a call on a socket or pipe",
        By::Sleep => "slept by its own wish",
        By::Poll => "waited in a poll",
        By::Other => "was off the CPU for something else",
        By::Throttled => "was throttled",
    }
}

/// One thing that a span's time may go to.
struct Suspect {
    name: &'static str,
    segments: &'static [SegmentName],
    /// Something of these was laid, all of it measured: otherwise nothing says that their time was looked for.
    known_by: &'static [SegmentName],
}

const CLIENT: &[Suspect] = &[
    Suspect { name: "name resolution", segments: &[Dns], known_by: &[Dns] },
    Suspect { name: "connecting", segments: &[Connect, Tls], known_by: &[Connect, Tls] },
    Suspect { name: "sending", segments: &[Send, Held, Queue], known_by: &[Send, Held, Queue] },
    // Where the peer's time is measured, so is the network's: what may be derived is its end against `softirq`.
    Suspect { name: "network", segments: &[Network, Softirq], known_by: &[Remote] },
    Suspect { name: "the peer", segments: &[Remote], known_by: &[Remote] },
    Suspect { name: "transfer", segments: &[Transfer], known_by: &[Transfer] },
    Suspect { name: "reading", segments: &[ReceiveBuffer, Wakeup], known_by: &[ReceiveBuffer, Wakeup] },
    Suspect { name: "waiting for a CPU", segments: &[RunQueue], known_by: &[RunQueue, Wakeup] },
    Suspect { name: "the application", segments: &[Application, OffCpu], known_by: &[Application] },
];

const SERVER: &[Suspect] = &[
    Suspect { name: "accept queue", segments: &[AcceptQueue], known_by: &[AcceptQueue] },
    Suspect { name: "transfer of the request", segments: &[Transfer], known_by: &[Transfer] },
    Suspect { name: "reading", segments: &[ReceiveBuffer, Wakeup], known_by: &[ReceiveBuffer, Wakeup] },
    Suspect { name: "waiting for a CPU", segments: &[RunQueue], known_by: &[RunQueue, Application, OffCpu] },
    Suspect { name: "blocking", segments: &[OffCpu], known_by: &[OffCpu] },
    Suspect { name: "the application", segments: &[Application], known_by: &[Application] },
    Suspect { name: "sending", segments: &[Send, Held, Queue], known_by: &[Send] },
];

fn ruled_out(view: &View<'_>, sums: &Sums, decision: Decision) -> Vec<String> {
    let suspects = if matches!(view.kind, SpanKind::Server | SpanKind::Consumer) { SERVER } else { CLIENT };
    let hidden_ns = hidden(view);
    let innocent = suspects.iter().filter(|suspect| {
        let ns = sums.all(suspect.segments);
        decision.segment.is_some_and(|name| !suspect.segments.contains(&name))
            && sums.any(suspect.known_by)
            // Only what was measured rules out.
            && only_measured(view.segments, suspect.known_by)
            && !(suspect.segments.contains(&Network) && view.lost_arriving())
            && is_below(ns, RULED_OUT_PERCENT, view.duration_ns)
            // How fast the peer makes the rest of its message is not told by when it began.
            && !(suspect.segments == [Remote] && decision.segment == Some(Transfer))
            // What a thread did in a time that was not seen whole may be any of these.
            && (!suspect.segments.iter().any(|name| THREADS.contains(name))
                || is_below(hidden_ns, RULED_OUT_PERCENT, view.duration_ns))
    });
    let mut words: Vec<_> =
        innocent.map(|suspect| format!("{} ruled out: {}", suspect.name, how(view, sums, suspect))).collect();
    if view.is("spantap.connection.reused") == Some(true) {
        words.push("connecting ruled out: the connection was open before".to_owned());
    }
    let about_loss = matches!(decision.cause, Cause::NetworkLoss | Cause::TransferLoss);
    let told = words.iter().any(|words| words.contains("retransmits"));
    if nothing_sent_again(view) && !about_loss && !told {
        words.push("loss of what was sent ruled out: 0 retransmits".to_owned());
    }
    words
}

/// What a thread's own time goes to.
const THREADS: &[SegmentName] = &[RunQueue, OffCpu, Application];

/// Time of which it was not seen what the thread did: unexplained, or derived for this end's application.
fn hidden(view: &View<'_>) -> u64 {
    let of = |name| grades(view.segments, name)[1..].iter().sum::<u64>();
    [Unexplained, ReceiveBuffer, Wakeup, RunQueue, OffCpu, Application].into_iter().map(of).sum()
}

fn nothing_sent_again(view: &View<'_>) -> bool {
    view.int("spantap.tcp.retransmits") == Some(0) && view.int("spantap.tcp.retransmits.shared").is_none()
}

fn is_below(part: u64, percent: u64, whole: u64) -> bool {
    u128::from(part) * 100 < u128::from(whole) * u128::from(percent)
}

fn how(view: &View<'_>, sums: &Sums, suspect: &Suspect) -> String {
    let ns = sums.all(suspect.segments);
    if ns == 0 {
        return if suspect.segments[0] == RunQueue { "no time in run queues" } else { "none of it" }.to_owned();
    }
    let took = short(ns);
    let first = suspect.segments[0];
    let words = match first {
        Network => network(view, &short(sums.get(Network))),
        Send => format!("the last byte had left {took} after the write began"),
        Remote => format!("the peer began its answer {took} after it had the request"),
        Transfer => format!("{took} from the first byte to the last"),
        ReceiveBuffer => format!("read {took} after it had arrived"),
        RunQueue => format!("{took} in run queues"),
        OffCpu => format!("{took} off the CPU"),
        _ => format!("{took} ({})", percent(ns, view.duration_ns)),
    };
    // Sending of a server is the write calls: when its bytes left is not part of its span.
    if first == Send && view.kind == SpanKind::Server { format!("{took} in calls that write") } else { words }
}

fn network(view: &View<'_>, took: &str) -> String {
    if view.segments.iter().all(|segment| segment.name != Network) {
        return "none of it".to_owned();
    }
    let legs = view.segments.iter().filter(|segment| segment.name == Network && segment.duration_ns > 0).count();
    let mut words = match legs {
        // Two tiles are the ways there and back, each seen at both ends. One is up to the acknowledgement, with which the
        // peer's time is measured too; else it is the way there alone, as where no answer came.
        1 if only_measured(view.segments, &[Remote]) && view.text("spantap.tcp.closed_by").is_none() => {
            vec![format!("ACK {took} after the last byte left")]
        }
        1 => vec![format!("the last byte was at the other end {took} after it left")],
        _ => vec![format!("{took} there and back, seen at both ends")],
    };
    no_retransmits(view, &mut words);
    words.join(", ")
}

fn not_seen(view: &View<'_>, sums: &Sums) -> Vec<String> {
    let (mut words, mut small) = (Vec::new(), Vec::new());
    let unexplained = sums.get(Unexplained);
    if unexplained > 0 {
        words.push(format!("unexplained {} ({})", ms(unexplained), percent(unexplained, view.duration_ns)));
    }
    for name in SegmentName::ALL.into_iter().filter(|name| *name != Unexplained) {
        let [_, derived, inferred] = grades(view.segments, name);
        for (ns, grade) in [(derived, "derived"), (inferred, "inferred")] {
            if ns > 0 && is_below(ns, SMALL_PERCENT, view.duration_ns) {
                small.push(name.name());
            } else if ns > 0 {
                let share = percent(ns, view.duration_ns);
                let rule = rule(view, name);
                words.push(format!("{} {grade} {} ({share}): {rule}", name.name(), ms(ns)));
            }
        }
    }
    if !small.is_empty() {
        words.push(format!("derived, each under {SMALL_PERCENT} %: {}", small.join(", ")));
    }
    if view.status == Status::Unknown {
        words.push("the outcome: the end of the exchange was not seen or not understood".to_owned());
    }
    if view.text("spantap.start.evidence").is_some() {
        words.push("the start: it is not measured".to_owned());
    }
    if let Some(grade) = view.text("spantap.end.evidence") {
        words.push(format!("the end: it is {grade}"));
    }
    let lost = view.segments.iter().map(|segment| u64::from(segment.lost_records)).sum::<u64>();
    let lost = lost.max(view.int("spantap.lost_records").unwrap_or(0));
    if lost > 0 {
        words.push(format!(
            "{} {} lost while this span ran",
            counted(lost, "kernel record"),
            verb(lost, "was", "were")
        ));
    }
    words
}

/// By what rule a segment is derived.
fn rule(view: &View<'_>, name: SegmentName) -> &'static str {
    let has = |name| view.segments.iter().any(|segment| segment.name == name);
    match name {
        Network if grades(view.segments, Network)[0] > 0 => "the way back ends before `softirq`",
        Remote if !has(Network) => "the network's part of it is not known",
        Network => {
            "no ACK of its own was seen in time, so the kernel's shortest (else smoothed) round trip stands for it"
        }
        Remote => "what is left of the wait for the answer after the derived round trip",
        Dns => "another thread of the process asked",
        Send => "when TCP had the last byte, or when it left, was not seen",
        Softirq => "the packet may be younger than the interrupt",
        Transfer => "bytes were missing in between",
        Application | OffCpu => "what the thread did between its calls was not seen whole",
        ReceiveBuffer | Wakeup => "what the reader did meanwhile was not seen whole",
        _ => "one of its ends was not observed",
    }
}
