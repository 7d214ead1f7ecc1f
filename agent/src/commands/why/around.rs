//! What other spans say about one: the other end of its exchange, the calls that its process made meanwhile, the
//! listener that it waited for. Pure.

use agent_core::cause::Around;

use super::text;
use crate::query::api::{SegmentView, SpanView, hex};

/// How long after a span the spans that explain it may end.
pub(super) const AFTER_NS: u64 = 5_000_000_000;

/// The span of the other end of the same exchange, if it was traced here too.
pub(super) fn other_end<'a>(span: &SpanView, spans: &'a [SpanView]) -> Option<&'a SpanView> {
    let names = |from: &SpanView, to: &SpanView| {
        from.parent_span_id == to.span_id || from.links.iter().any(|link| link.span_id == to.span_id)
    };
    spans.iter().find(|other| match (span.kind.as_str(), other.kind.as_str()) {
        ("client", "server") => names(other, span),
        ("server", "client") => names(span, other),
        _ => false,
    })
}

/// The call by this span's process that covers most of its time, and how much of it.
pub(super) fn slowest_call<'a>(span: &SpanView, spans: &'a [SpanView]) -> Option<(&'a SpanView, u64)> {
    called_by(span, spans).map(|call| (call, overlap(time_of(call), time_of(span)))).max_by_key(|it| it.1)
}

/// Calls that its process made while it handled the request. Which thread made them is not known: process and time are.
fn called_by<'a>(span: &SpanView, spans: &'a [SpanView]) -> impl Iterator<Item = &'a SpanView> {
    let (id, pid, start, end) = (span.span_id.clone(), span.pid, span.start_unix_ns, span.end_unix_ns());
    let is_server = span.kind == "server";
    spans.iter().filter(move |other| {
        let within = other.start_unix_ns >= start && other.start_unix_ns < end;
        let own = other.parent_span_id == id || (pid != 0 && other.pid == pid);
        is_server && other.kind == "client" && own && within
    })
}

/// From when to when, nanoseconds since the epoch.
type Time = (u64, u64);

fn time_of(span: &SpanView) -> Time {
    (span.start_unix_ns, span.end_unix_ns())
}

fn time_of_tile(of: &SpanView, tile: &SegmentView) -> Time {
    let from = of.start_unix_ns.saturating_add(tile.start_ns);
    (from, from.saturating_add(tile.duration_ns))
}

fn overlap(one: Time, other: Time) -> u64 {
    one.1.min(other.1).saturating_sub(one.0.max(other.0))
}

/// Words for the calls to one address, and how long the span was blocked during them: at least and at most, since of what a thread did
/// between two calls how long each took is known, and not in which order; and the tiles do not say where the thread called elsewhere.
pub(super) fn downstream(span: &SpanView, spans: &[SpanView]) -> Option<(String, [u64; 2])> {
    let handling = handling(span);
    let mut groups: Vec<Vec<&SpanView>> = Vec::new();
    for call in called_by(span, spans) {
        match groups.iter_mut().find(|group| group[0].peer == call.peer && group[0].protocol == call.protocol) {
            Some(group) => group.push(call),
            None => groups.push(vec![call]),
        }
    }
    let with_blocked = |calls: Vec<&SpanView>| (words_of(span, &calls), blocked_during(&handling, &calls));
    let (words, blocked) = groups.into_iter().map(with_blocked).max_by_key(|(_, ns)| ns[1])?;
    (blocked[1] > 0).then_some((words, blocked))
}

/// How long a thread with these parts was blocked while any of the calls was in progress: at least and at most.
fn blocked_during(handling: &[Handling], calls: &[&SpanView]) -> [u64; 2] {
    let calls = union(calls.iter().map(|call| time_of(call)));
    handling.iter().fold([0_u64; 2], |[least, most], part| {
        let time = (part.start_unix_ns, part.start_unix_ns.saturating_add(part.duration_ns));
        let during: u64 = calls.iter().map(|call| overlap(*call, time)).sum();
        let elsewhere = part.duration_ns.saturating_sub(during);
        [least + part.off_cpu_ns.saturating_sub(elsewhere), most + part.off_cpu_ns.min(during)]
    })
}

/// The times without overlaps, in their order.
fn union(times: impl Iterator<Item = Time>) -> Vec<Time> {
    let mut times: Vec<Time> = times.collect();
    times.sort_unstable();
    let mut apart: Vec<Time> = Vec::new();
    for (from, to) in times {
        match apart.last_mut().filter(|last| from <= last.1) {
            Some(last) => last.1 = last.1.max(to),
            None => apart.push((from, to)),
        }
    }
    apart
}

/// One call by its name; several by their number, by what most of them were, and by the longest.
fn words_of(span: &SpanView, calls: &[&SpanView]) -> String {
    let Some(longest) = calls.iter().max_by_key(|call| call.duration_ns) else { return String::new() };
    let known = calls.iter().all(|call| call.parent_span_id == span.span_id);
    let by = if known { "" } else { ", known by process and time" };
    let id = hex(&longest.span_id);
    if calls.len() == 1 {
        return format!("its call {} to {} (span {id}{by})", longest.name, longest.peer);
    }
    let times = |name: &str| calls.iter().filter(|call| call.name == name).count();
    let most = calls.iter().map(|call| call.name.as_str()).max_by_key(|name| times(name)).unwrap_or_default();
    let all_ns: u64 = calls.iter().map(|call| call.duration_ns).sum();
    format!(
        "{}{} calls to {}{}, {} together, {} of them {most} (the longest {}: span {id}{by})",
        if known { "its " } else { "" },
        calls.len(),
        longest.peer,
        if known { "" } else { " by its process" },
        text::ms(all_ns),
        times(most),
        text::ms(longest.duration_ns),
    )
}

/// Neighbouring tiles of one thread's doing: their order is not known to be true.
struct Handling {
    start_unix_ns: u64,
    duration_ns: u64,
    off_cpu_ns: u64,
}

fn handling(span: &SpanView) -> Vec<Handling> {
    let is_own =
        |tile: &&SegmentView| ["application", "off_cpu", "run_queue", "unexplained"].contains(&tile.name.as_str());
    let mut parts: Vec<Handling> = Vec::new();
    for tile in span.segments.iter().filter(is_own) {
        let start_unix_ns = span.start_unix_ns.saturating_add(tile.start_ns);
        let off_cpu_ns = if tile.name == "off_cpu" { tile.duration_ns } else { 0 };
        match parts.last_mut().filter(|last| last.start_unix_ns.saturating_add(last.duration_ns) == start_unix_ns) {
            Some(last) => {
                last.duration_ns += tile.duration_ns;
                last.off_cpu_ns += off_cpu_ns;
            }
            None => parts.push(Handling { start_unix_ns, duration_ns: tile.duration_ns, off_cpu_ns }),
        }
    }
    parts
}

/// The fullest that the listener's accept queue was seen while this client waited to be connected.
pub(super) fn accept_queue(span: &SpanView, spans: &[SpanView]) -> Option<(u64, u64)> {
    let end = span.end_unix_ns().saturating_add(AFTER_NS);
    let accepted = spans.iter().filter(|other| {
        let meanwhile = other.end_unix_ns() >= span.start_unix_ns && other.start_unix_ns <= end;
        other.kind == "server" && other.local == span.peer && meanwhile
    });
    let queue = |other: &SpanView| {
        let number = |key| u64::try_from(other.int(key)?).ok();
        Some((number("spantap.accept.backlog")?, number("spantap.accept.backlog_max")?))
    };
    accepted.filter_map(queue).max_by_key(|(backlog, max)| (backlog >= max, *backlog))
}

/// How long the other end waited for this end's receive window.
fn peer_waited_ns(span: &SpanView, spans: &[SpanView]) -> Option<u64> {
    let other = other_end(span, spans)?;
    let keys = ["spantap.tcp.zero_window_ns", "spantap.tcp.rwnd_limited_ns"];
    keys.into_iter().filter_map(|key| u64::try_from(other.int(key)?).ok()).max()
}

/// How long the other end computed, slept or waited for a CPU while what it sent arrived here.
fn peer_paused_ns(span: &SpanView, spans: &[SpanView]) -> Option<u64> {
    let other = other_end(span, spans)?;
    let is_pause = |tile: &&SegmentView| ["application", "off_cpu", "run_queue"].contains(&tile.name.as_str());
    let pauses: Vec<Time> = other.segments.iter().filter(is_pause).map(|tile| time_of_tile(other, tile)).collect();
    let arriving = span.segments.iter().filter(|tile| tile.name == "transfer").map(|tile| time_of_tile(span, tile));
    let during = |time: Time| pauses.iter().map(|pause| overlap(*pause, time)).sum::<u64>();
    Some(arriving.map(during).sum())
}

/// How long the other end's TCP kept the last bytes of what arrived here.
fn peer_held_ns(span: &SpanView, spans: &[SpanView]) -> Option<u64> {
    u64::try_from(other_end(span, spans)?.int("spantap.tcp.response.held_ns")?).ok()
}

/// Segments that the other end sent again.
fn peer_resent(span: &SpanView, spans: &[SpanView]) -> u64 {
    let resent = other_end(span, spans).and_then(|other| other.int("spantap.tcp.retransmits"));
    resent.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// Lookups that this client's process made while it waited for a name.
fn lookups<'a>(span: &SpanView, spans: &'a [SpanView]) -> impl Iterator<Item = &'a SpanView> {
    let tiles = span.segments.iter().filter(|tile| tile.name == "dns");
    let start = tiles.clone().map(|tile| span.start_unix_ns.saturating_add(tile.start_ns)).min().unwrap_or(u64::MAX);
    let end = |tile: &SegmentView| span.start_unix_ns.saturating_add(tile.start_ns).saturating_add(tile.duration_ns);
    let end = tiles.map(end).max().unwrap_or(0);
    let (id, pid) = (span.span_id.clone(), span.pid);
    spans.iter().filter(move |other| {
        let own = pid != 0 && other.pid == pid && other.span_id != id;
        let within = other.start_unix_ns < end && other.end_unix_ns() > start;
        own && other.kind == "client" && other.protocol == "dns" && within
    })
}

/// The slowest of them.
pub(super) fn slowest_lookup<'a>(span: &SpanView, spans: &'a [SpanView]) -> Option<&'a SpanView> {
    lookups(span, spans).max_by_key(|lookup| lookup.duration_ns)
}

/// Words for the slowest lookup, and the queries of all of them that stayed unanswered.
fn lookup(span: &SpanView, spans: &[SpanView]) -> Option<(String, u64)> {
    let slowest = slowest_lookup(span, spans)?;
    let name = slowest.text("dns.question.name").unwrap_or(&slowest.name);
    let words = format!("{} for {name} by {} (span {})", slowest.name, slowest.peer, hex(&slowest.span_id));
    let unanswered = |lookup: &SpanView| {
        let retries = lookup.int("spantap.dns.retries").and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        retries + u64::from(lookup.text("error.type") == Some("timeout"))
    };
    Some((words, lookups(span, spans).map(unanswered).sum()))
}

/// The words of [`around`].
#[derive(Default)]
pub(super) struct Words {
    call: String,
    lookup: String,
}

/// All of it, for a cause.
pub(super) fn around<'a>(span: &SpanView, spans: &[SpanView], words: &'a mut Words) -> Around<'a> {
    fn keep<T>((text, count): (String, T), place: &mut String) -> (&str, T) {
        *place = text;
        (place, count)
    }
    Around {
        accept_queue: if span.kind == "client" { accept_queue(span, spans) } else { None },
        peer_waited_ns: peer_waited_ns(span, spans),
        peer_paused_ns: peer_paused_ns(span, spans),
        peer_held_ns: peer_held_ns(span, spans),
        peer_resent: peer_resent(span, spans),
        lookup: lookup(span, spans).map(|found| keep(found, &mut words.lookup)),
        downstream: downstream(span, spans).map(|found| keep(found, &mut words.call)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn both_ends_find_each_other() {
        let mut trace = fixtures::trace();
        let other = |index: usize| other_end(&trace[index], &trace).map(|span| span.span_id.clone());
        assert_eq!(other(0), Some(trace[1].span_id.clone()));
        assert_eq!(other(1), Some(trace[0].span_id.clone()), "not the server's own call");
        assert_eq!(other(2), None);
        trace[1].attributes.push(fixtures::int("spantap.tcp.retransmits", 5));
        assert_eq!([0, 1].map(|index| peer_resent(&trace[index], &trace)), [5, 0]);
    }

    #[test]
    fn how_much_of_a_wait_was_a_call_is_within_bounds() {
        let mut trace = fixtures::trace();
        let at = trace[1].start_unix_ns;
        let tiles = [("application", 160, "measured"), ("off_cpu", 300, "measured"), ("run_queue", 10, "measured")];
        trace[1].segments = fixtures::tiles(&tiles);
        let mut check = |start: u64, duration_ns: u64, expected: [u64; 2]| {
            (trace[2].start_unix_ns, trace[2].duration_ns) = (at + start, duration_ns);
            assert_eq!(downstream(&trace[1], &trace).map(|(_, ns)| ns), Some(expected), "{start} {duration_ns}");
        };
        // Wherever the computing was drawn: the call may have been first, or last.
        check(0, 302, [132, 300]);
        check(168, 302, [132, 300]);
        check(0, 470, [300, 300]);
        check(0, 100, [0, 100]);
    }

    #[test]
    fn many_calls_to_one_address_count_together() {
        let mut trace = fixtures::trace();
        let at = trace[1].start_unix_ns;
        trace[1].segments = fixtures::tiles(&[("application", 100, "measured"), ("off_cpu", 900, "measured")]);
        let call = |number: u8, start: u64, peer: &str| SpanView {
            span_id: vec![number; 8],
            start_unix_ns: at + start,
            duration_ns: 100 + u64::from(number),
            peer: peer.to_owned(),
            ..trace[2].clone()
        };
        // One overlaps with the one before it; one is to another address.
        let calls = [call(1, 0, "a:1"), call(2, 150, "a:1"), call(3, 200, "a:1"), call(9, 500, "b:1")];
        let spans: Vec<_> = trace[..2].iter().cloned().chain(calls).collect();
        let (words, blocked) = downstream(&spans[1], &spans).unwrap();
        assert_eq!(
            words,
            "its 3 calls to a:1, 0.000 ms together, 3 of them tcp (the longest 0.000 ms: span 0303030303030303)"
        );
        assert_eq!(blocked, [154, 254], "101 and 153, of which 100 may have been computing");
    }

    #[test]
    fn what_the_sender_did_while_its_message_arrived_are_pauses() {
        let mut trace = fixtures::trace();
        let mut check = |client: &[(&str, u64, &str)], server: &[(&str, u64, &str)], expected| {
            (trace[0].start_unix_ns, trace[1].start_unix_ns) = (1_000, 1_050);
            (trace[0].segments, trace[1].segments) = (fixtures::tiles(client), fixtures::tiles(server));
            assert_eq!(peer_paused_ns(&trace[0], &trace), Some(expected), "{server:?}");
        };
        let client = [("remote", 100, "measured"), ("transfer", 500, "measured")];
        check(&client, &[("application", 60, "measured"), ("send", 440, "measured")], 10);
        check(&client, &[("send", 60, "measured"), ("off_cpu", 300, "measured"), ("run_queue", 40, "measured")], 340);
        check(&client[..1], &[("off_cpu", 500, "measured")], 0);
        assert_eq!(peer_paused_ns(&trace[0], &trace[..1]), None);
    }

    #[test]
    fn calls_are_those_of_the_process_while_it_handled_the_request() {
        let mut trace = fixtures::trace();
        let slowest = |trace: &[SpanView]| slowest_call(&trace[1], trace).map(|(call, ns)| (call.span_id.clone(), ns));
        assert_eq!(slowest(&trace), Some((vec![0xc3; 8], 5_000_000)));
        trace[2].parent_span_id = vec![];
        assert_eq!(slowest(&trace), Some((vec![0xc3; 8], 5_000_000)), "the same process");
        trace[2].pid = 78;
        assert_eq!(slowest(&trace), None);
    }

    #[test]
    fn lookups_are_those_of_the_process_while_it_waited_for_the_name() {
        let mut trace = fixtures::trace();
        trace[0].segments = fixtures::tiles(&[("dns", 5_000_000, "measured"), ("remote", 4_876_543, "measured")]);
        let ask = |start_ns: u64, pid| SpanView {
            span_id: vec![start_ns as u8; 8],
            kind: "client".to_owned(),
            protocol: "dns".to_owned(),
            name: "dns A".to_owned(),
            peer: "10.0.0.53:53".to_owned(),
            start_unix_ns: trace[0].start_unix_ns + start_ns,
            duration_ns: 2_000_000,
            pid,
            attributes: vec![fixtures::int("spantap.dns.retries", 1), fixtures::text("dns.question.name", "shop.test")],
            ..Default::default()
        };
        let spans = [ask(0, 4242), ask(2_000_000, 4242), ask(0, 1), ask(6_000_000, 4242)];
        let words = "dns A for shop.test by 10.0.0.53:53 (span 8080808080808080)";
        assert_eq!(lookup(&trace[0], &spans), Some((words.to_owned(), 2)), "neither another process's nor a later one");
        assert_eq!(lookup(&trace[1], &spans), None);
    }

    #[test]
    fn a_full_queue_is_seen_by_any_accept_of_the_listener_meanwhile() {
        let mut trace = fixtures::trace();
        assert_eq!(accept_queue(&trace[0], &trace), None);
        trace[1].attributes.push(fixtures::int("spantap.accept.backlog", 5));
        trace[1].attributes.push(fixtures::int("spantap.accept.backlog_max", 5));
        assert_eq!(accept_queue(&trace[0], &trace), Some((5, 5)));
        trace[1].local = "10.0.0.9:80".to_owned();
        assert_eq!(accept_queue(&trace[0], &trace), None);
    }
}
