//! Groups of spans: how many, how slow, how many failed, and where their time went.
//!
//! In: a request and readers of the log. Out: a [`GroupsReport`]. Called by the server, on a thread that may block. Spans are read in place
//! ([`Facts`]); the values of a process are made into text once for all of its spans that follow each other.
//!
//! Limits: [`GROUPS_MAX`] groups; when there are more, half of them go, those that are the least by the order that was asked for, and their
//! spans are counted. Of a group's segments and causes [`PARTS_MAX`] each, then the rest, and those with longer names than
//! [`PART_BYTES_MAX`], are under `other`; values of [`VALUE_BYTES_MAX`] bytes, longer ones are cut. So a request holds at most some 20 MB,
//! whatever the log has, and mostly one or two.

use std::{cmp::Reverse, collections::HashMap, mem};

use agent_core::{sketch::Sketch, wire};

use super::{
    api::{CauseCount, GroupOrder, GroupView, GroupsReport, GroupsRequest, SegmentSum, address_of},
    scan::Scan,
    search::next_blocks,
};
use crate::{
    log::{LogError, SpanLog},
    otlp::{self, Common, Facts, Tile, value_text},
};

/// Most groups.
const GROUPS_MAX: usize = 1_000;
/// Most kinds of segments, and causes, of a group.
const PARTS_MAX: usize = 40;
/// Longest name of one.
const PART_BYTES_MAX: usize = 40;
/// Longest value.
const VALUE_BYTES_MAX: usize = 256;
/// What the parts beyond the limit are called.
const OTHER: &str = "other";
/// Stands after each value in a group's key, and in no value.
const END: char = '\0';

/// The groups of the spans that match and stand before the block `until`; what was found so far once nobody `waits` any more.
///
/// # Errors
/// The log cannot be read.
pub fn groups(
    log: &SpanLog,
    request: &GroupsRequest,
    until: u64,
    now_unix_ns: u64,
    waits: impl Fn() -> bool,
) -> Result<GroupsReport, LogError> {
    let mut wanted = request.spans.clone().unwrap_or_default();
    let mut groups = Groups::new(request);
    // Seen with what else a span has, by one look at its attributes.
    groups.selected_only = std::mem::take(&mut wanted.selected_only);
    let scan = Scan::new(&wanted);
    for mut reader in log.segments_newest_first(wanted.since_unix_ns) {
        while waits()
            && let Some(blocks) = next_blocks(&mut reader, &wanted, until)?
        {
            for block in blocks {
                groups.add_block(&scan, &block.payload);
            }
        }
    }
    let since_unix_ns = wanted.since_unix_ns.max(log.stats().oldest_unix_ns).min(now_unix_ns);
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(GROUPS_MAX);
    Ok(GroupsReport { since_unix_ns, until_unix_ns: now_unix_ns, ..groups.finish(limit) })
}

/// What spans of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Service,
    Kind,
    Name,
    Peer,
    Cause,
    Protocol,
    Status,
    /// The attribute of this number among those asked for.
    Attribute(usize),
}

#[derive(Debug)]
struct Groups {
    by: Vec<By>,
    /// Attributes that are asked for.
    keys: Vec<String>,
    order: GroupOrder,
    selected_only: bool,
    found: HashMap<Box<str>, Group>,
    /// The process of the last span, with its service and its values of `keys`.
    process: Option<(Common, String, Vec<Option<String>>)>,
    /// The key of the last span.
    key: String,
    report: GroupsReport,
}

impl Groups {
    fn new(request: &GroupsRequest) -> Self {
        let mut keys = Vec::new();
        let by = request.by.iter().map(|name| match name.as_str() {
            "service" => By::Service,
            "kind" => By::Kind,
            "name" => By::Name,
            "peer" => By::Peer,
            "cause" => By::Cause,
            "protocol" => By::Protocol,
            "status" => By::Status,
            key => {
                keys.push(key.to_owned());
                By::Attribute(keys.len() - 1)
            }
        });
        let by = by.collect();
        let (found, key, report) = (HashMap::new(), String::new(), GroupsReport::default());
        Self { by, keys, order: request.order(), selected_only: false, found, process: None, key, report }
    }

    fn add_block(&mut self, scan: &Scan<'_>, payload: &[u8]) {
        let mut spans = scan.block(payload);
        while let Some(span) = spans.next() {
            if let Some(process) = spans.process_of(&span) {
                self.add(&span, &process);
            }
        }
    }

    fn add(&mut self, span: &wire::SpanView<'_>, process: &Common) {
        let Some(facts) = Facts::read(span, &self.keys) else { return };
        if facts.is_unselected && self.selected_only {
            return;
        }
        self.report.spans_unselected += u64::from(facts.is_unselected);
        self.report.spans_with_losses += u64::from(facts.segments.iter().any(|tile| tile.lost_records > 0));
        self.set_key(span, &facts, process);
        if let Some(group) = self.found.get_mut(self.key.as_str()) {
            return group.add(span, &facts);
        }
        if self.found.len() >= GROUPS_MAX {
            self.make_room();
        }
        self.found.entry(self.key.as_str().into()).or_default().add(span, &facts);
    }

    /// Gives up the half that is the least.
    fn make_room(&mut self) {
        let mut ranked = self.ranked();
        let least = ranked.drain(GROUPS_MAX / 2..);
        self.report.spans_left_out += least.map(|(_, group)| group.durations.len()).sum::<u64>();
        self.found.extend(ranked);
    }

    /// Takes them all, the most first.
    fn ranked(&mut self) -> Vec<(Box<str>, Group)> {
        let order = self.order;
        let mut ranked: Vec<_> =
            self.found.drain().map(|(key, group)| (Reverse(group.rank(order)), key, group)).collect();
        ranked.sort_unstable_by(|(one, first, _), (other, second, _)| (one, first).cmp(&(other, second)));
        ranked.into_iter().map(|(_, key, group)| (key, group)).collect()
    }

    fn set_key(&mut self, span: &wire::SpanView<'_>, facts: &Facts<'_>, process: &Common) {
        if self.process.as_ref().is_none_or(|(known, ..)| !known.is_same(process)) {
            let values = self.keys.iter().map(|key| process.text(key)).collect();
            self.process = Some((process.clone(), process.service(), values));
        }
        let (service, of_process) =
            self.process.as_ref().map_or(("", &[][..]), |(_, service, values)| (service, values));
        let mut key = mem::take(&mut self.key);
        key.clear();
        for by in &self.by {
            match *by {
                By::Service => push(&mut key, service),
                By::Kind => push(&mut key, otlp::kind_name(span.kind)),
                By::Name => push(&mut key, facts.name),
                By::Peer => {
                    let peer = facts.peer();
                    // A client's port says nothing: it has another one for each connection.
                    let is_clients = facts.is_server_end && !peer.starts_with("unix:");
                    push(&mut key, if is_clients { address_of(&peer) } else { &peer });
                }
                By::Cause => push(&mut key, facts.cause),
                By::Protocol => push(&mut key, facts.protocol),
                By::Status => push(&mut key, facts.status),
                By::Attribute(place) => match (facts.values[place], of_process[place].as_deref()) {
                    (Some(value), _) => push(&mut key, &value_text(value)),
                    (None, value) => push(&mut key, value.unwrap_or_default()),
                },
            }
        }
        self.key = key;
    }

    fn finish(mut self, limit: usize) -> GroupsReport {
        let ranked = self.ranked();
        let spans = ranked.iter().map(|(_, group)| group.durations.len()).sum();
        let groups_found = ranked.len() as u64;
        let groups = ranked.into_iter().take(limit).map(|(key, group)| group.finish(&key)).collect();
        GroupsReport { groups, spans, groups_found, ..self.report }
    }
}

fn push(key: &mut String, value: &str) {
    let is_cut = value.len() > VALUE_BYTES_MAX;
    let value = if is_cut { &value[..value.floor_char_boundary(VALUE_BYTES_MAX)] } else { value };
    match value.contains(END) {
        // As many bytes as before.
        true => key.push_str(&value.replace(END, " ")),
        false => key.push_str(value),
    }
    key.extend(is_cut.then_some('…'));
    key.push(END);
}

#[derive(Debug, Default)]
struct Group {
    durations: Sketch,
    errors: u64,
    unknown: u64,
    total_ns: u64,
    min_ns: Option<u64>,
    slowest: Option<(u64, [u8; 8])>,
    segments: Vec<SegmentSum>,
    causes: Vec<CauseCount>,
}

impl Group {
    fn add(&mut self, span: &wire::SpanView<'_>, facts: &Facts<'_>) {
        let duration_ns = span.duration_ns();
        self.durations.add(duration_ns);
        self.total_ns = self.total_ns.saturating_add(duration_ns);
        self.errors += u64::from(facts.status == "error");
        self.unknown += u64::from(facts.status == "unknown");
        self.min_ns = Some(self.min_ns.map_or(duration_ns, |least| least.min(duration_ns)));
        // Of equal ones the same, in whatever order they come.
        self.slowest = self.slowest.max(Some((duration_ns, span.span_id.try_into().unwrap_or_default())));
        facts.segments.iter().for_each(|tile| self.add_segment(tile));
        if !facts.cause.is_empty() {
            self.add_cause(facts.cause);
        }
    }

    fn add_segment(&mut self, tile: &Tile<'_>) {
        let known = self.segments.iter().position(|sum| sum.name == tile.name && sum.by == tile.by);
        let place = known.unwrap_or_else(|| {
            let has_room = self.segments.len() < PARTS_MAX && tile.name.len().max(tile.by.len()) <= PART_BYTES_MAX;
            let (name, by) = if has_room { (tile.name, tile.by) } else { (OTHER, "") };
            place_of(
                &mut self.segments,
                |sum| sum.name == name && sum.by == by,
                || SegmentSum { name: name.to_owned(), by: by.to_owned(), ..SegmentSum::default() },
            )
        });
        let sum = &mut self.segments[place];
        sum.total_ns = sum.total_ns.saturating_add(tile.duration_ns);
        if tile.evidence == "measured" {
            sum.measured_ns = sum.measured_ns.saturating_add(tile.duration_ns);
        }
    }

    fn add_cause(&mut self, id: &str) {
        let known = self.causes.iter().position(|cause| cause.id == id);
        let place = known.unwrap_or_else(|| {
            let has_room = self.causes.len() < PARTS_MAX && id.len() <= PART_BYTES_MAX;
            let id = if has_room { id } else { OTHER };
            place_of(&mut self.causes, |cause| cause.id == id, || CauseCount { id: id.to_owned(), spans: 0 })
        });
        self.causes[place].spans += 1;
    }

    fn max_ns(&self) -> u64 {
        self.slowest.map_or(0, |(duration_ns, _)| duration_ns)
    }

    fn quantile(&self, part: f64) -> u64 {
        let quantile = self.durations.quantile(part).unwrap_or_default();
        quantile.clamp(self.min_ns.unwrap_or_default(), self.max_ns())
    }

    /// The more, the earlier it comes.
    fn rank(&self, order: GroupOrder) -> u64 {
        match order {
            GroupOrder::Total => self.total_ns,
            GroupOrder::Spans => self.durations.len(),
            GroupOrder::Errors => self.errors,
            GroupOrder::P50 => self.quantile(0.5),
            GroupOrder::P90 => self.quantile(0.9),
            GroupOrder::P99 => self.quantile(0.99),
            GroupOrder::Max => self.max_ns(),
        }
    }

    fn finish(mut self, key: &str) -> GroupView {
        self.segments
            .sort_by(|one, other| (other.total_ns, &one.name, &one.by).cmp(&(one.total_ns, &other.name, &other.by)));
        self.causes.sort_by(|one, other| (other.spans, &one.id).cmp(&(one.spans, &other.id)));
        GroupView {
            values: key.split_terminator(END).map(str::to_owned).collect(),
            spans: self.durations.len(),
            errors: self.errors,
            unknown: self.unknown,
            total_ns: self.total_ns,
            p50_ns: self.quantile(0.5),
            p90_ns: self.quantile(0.9),
            p99_ns: self.quantile(0.99),
            max_ns: self.max_ns(),
            slowest_span_id: self.slowest.unwrap_or_default().1.to_vec(),
            segments: self.segments,
            causes: self.causes,
        }
    }
}

/// Where it is in the list, into which it comes if it is not there.
fn place_of<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> usize {
    list.iter().position(is_it).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        otlp::decode,
        query::{
            api::{AttributeMatch, AttributeValue, SpanView, SpansRequest, hex},
            scan::tests::block,
            search::matches,
        },
    };

    /// What a view shows under this name.
    fn value(view: &SpanView, by: &str) -> String {
        match by {
            "service" => view.service.clone(),
            "kind" => view.kind.clone(),
            "name" => view.name.clone(),
            "peer" if view.kind == "server" || view.attribute("client.address").is_some() => {
                address_of(&view.peer).to_owned()
            }
            "peer" => view.peer.clone(),
            "cause" => view.cause().to_owned(),
            "protocol" => view.protocol.clone(),
            "status" => view.status.clone(),
            "process.pid" if view.pid == 0 => String::new(),
            "process.pid" => view.pid.to_string(),
            key => match view.attribute(key) {
                None => String::new(),
                Some(AttributeValue::Text(text)) => text.clone(),
                Some(AttributeValue::Int(number)) => number.to_string(),
                Some(AttributeValue::Bool(truth)) => truth.to_string(),
                Some(AttributeValue::Real(number)) => number.to_string(),
                Some(AttributeValue::Texts(texts)) => texts.values.join(","),
            },
        }
    }

    fn by(by: &[&str]) -> GroupsRequest {
        GroupsRequest { by: by.iter().map(|by| (*by).to_owned()).collect(), ..GroupsRequest::default() }
    }

    fn grouped(request: &SpansRequest, keys: &[&str]) -> GroupsReport {
        let mut groups = Groups::new(&by(keys));
        groups.selected_only = request.selected_only;
        groups.add_block(&Scan::new(&SpansRequest { selected_only: false, ..request.clone() }), &block());
        groups.finish(GROUPS_MAX)
    }

    fn check(request: &SpansRequest, by: &[&str]) {
        let views = decode(&block()).expect("a block");
        let views: Vec<_> = views.iter().filter(|view| matches(request, view)).collect();
        let report = grouped(request, by);
        assert_eq!(report.groups.iter().map(|group| group.spans).sum::<u64>(), views.len() as u64, "{by:?}");
        for group in &report.groups {
            let of_group =
                |view: &&&SpanView| by.iter().zip(&group.values).all(|(by, found)| value(view, by) == *found);
            let views: Vec<_> = views.iter().filter(of_group).collect();
            let count = |is_it: &dyn Fn(&SpanView) -> bool| views.iter().filter(|view| is_it(view)).count() as u64;
            assert_eq!(group.spans, views.len() as u64, "{by:?} {:?}", group.values);
            assert_eq!(group.errors, count(&|view| view.status == "error"), "{by:?} {:?}", group.values);
            assert_eq!(group.unknown, count(&|view| view.status == "unknown"), "{by:?} {:?}", group.values);
            let durations: Vec<u64> = views.iter().map(|view| view.duration_ns).collect();
            assert_eq!(group.total_ns, durations.iter().sum::<u64>());
            assert_eq!(Some(group.max_ns), durations.iter().max().copied());
            assert!(group.p50_ns <= group.p90_ns && group.p90_ns <= group.p99_ns && group.p99_ns <= group.max_ns);
            assert!(views.iter().any(|view| view.span_id == group.slowest_span_id && view.duration_ns == group.max_ns));
            let tiles = || views.iter().flat_map(|view| &view.segments);
            for sum in &group.segments {
                let of_sum = || tiles().filter(|tile| tile.name == sum.name && tile.by == sum.by);
                assert_eq!(sum.total_ns, of_sum().map(|tile| tile.duration_ns).sum::<u64>(), "{sum:?}");
                let measured = of_sum().filter(|tile| tile.evidence == "measured");
                assert_eq!(sum.measured_ns, measured.map(|tile| tile.duration_ns).sum::<u64>(), "{sum:?}");
            }
            let told: u64 = group.segments.iter().map(|sum| sum.total_ns).sum();
            assert_eq!(told, tiles().map(|tile| tile.duration_ns).sum::<u64>());
            for cause in &group.causes {
                assert_eq!(cause.spans, count(&|view| view.cause() == cause.id), "{cause:?}");
            }
            assert_eq!(
                group.causes.iter().map(|cause| cause.spans).sum::<u64>(),
                count(&|view| !view.cause().is_empty())
            );
        }
    }

    #[test]
    fn groups_say_what_their_spans_say_one_by_one() {
        let attributes = vec![AttributeMatch { key: "host.name".to_owned(), glob: "host-*".to_owned() }];
        let requests = [
            SpansRequest::default(),
            SpansRequest { service: "shop".to_owned(), ..Default::default() },
            SpansRequest { protocol: "postgresql".to_owned(), ..Default::default() },
            SpansRequest { selected_only: true, ..Default::default() },
            SpansRequest { attributes, status: "error".to_owned(), ..Default::default() },
        ];
        for request in &requests {
            for by in [
                &["service", "kind", "name"][..],
                &["peer"],
                &["kind", "peer"],
                &["cause"],
                &["protocol", "status"],
                &["http.response.status_code"],
                &["spantap.connection.reused", "service"],
                &["spantap.url.query_names"],
                &["host.name"],
                &["process.pid"],
                &["service.version"],
                &["absent"],
            ] {
                check(request, by);
            }
        }
        let all = grouped(&SpansRequest::default(), &["service", "peer", "cause", "spantap.url.query_names"]);
        assert!(all.groups.len() > 10, "{} groups", all.groups.len());
        assert_eq!((all.spans_left_out, all.spans_unselected), (0, 3));
    }

    /// A group of so many spans of a nanosecond each.
    fn group(spans: u64) -> Group {
        let mut group = Group { total_ns: spans, ..Group::default() };
        (0..spans).for_each(|_| group.durations.add(1));
        group
    }

    #[test]
    fn of_too_many_groups_the_least_are_given_up_and_their_spans_counted() {
        let request = SpansRequest::default();
        let mut groups = Groups::new(&by(&["service"]));
        // The last ones have the most.
        groups.found = (0..GROUPS_MAX as u64).map(|number| (format!("{number}\0").into(), group(number))).collect();
        groups.add_block(&Scan::new(&request), &block());
        let report = groups.finish(3);
        let half = GROUPS_MAX as u64 / 2;
        assert_eq!(report.spans_left_out, (0..half).sum::<u64>());
        // And three services: of the block's spans nine each, and one without.
        assert_eq!((report.groups_found, report.spans), (half + 3, (half..2 * half).sum::<u64>() + 19));
        let first: Vec<&str> = report.groups.iter().map(|group| group.values[0].as_str()).collect();
        assert_eq!(first[2], (GROUPS_MAX - 1).to_string(), "the block's take longer: {first:?}");
    }

    #[test]
    fn each_order_puts_the_most_first() {
        let named = |name: &str, durations: &[u64], errors| {
            let mut group =
                Group { errors, slowest: durations.iter().max().map(|ns| (*ns, [0; 8])), ..Group::default() };
            durations.iter().for_each(|ns| group.durations.add(*ns));
            group.total_ns = durations.iter().sum();
            (format!("{name}\0").into_boxed_str(), group)
        };
        let (ms, first) = (1_000_000, |order: GroupOrder| {
            let mut groups = Groups::new(&GroupsRequest { order: order.into(), ..by(&["name"]) });
            groups.found.extend([
                named("long", &[40 * 1_000_000], 0),
                named("many", &[1_000_000; 30], 1),
                named("failed", &[20 * 1_000_000, 25 * 1_000_000, 41 * 1_000_000], 2),
            ]);
            groups.finish(1).groups.remove(0)
        });
        assert_eq!(first(GroupOrder::Total).total_ns, 86 * ms);
        let names = [GroupOrder::Spans, GroupOrder::Errors, GroupOrder::P50, GroupOrder::Max];
        let names = names.map(|order| first(order).values.remove(0));
        assert_eq!(names, ["many", "failed", "long", "failed"]);
    }

    #[test]
    fn the_log_is_read_from_the_time_and_up_to_the_block_that_are_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = SpanLog::open(folder.path(), crate::log::LogConfig::default()).expect("a log");
        let lossy = |number| {
            let mut span = crate::otlp::tests::span(number);
            span.segments.iter_mut().for_each(|segment| segment.lost_records = u32::from(number == 2));
            crate::otlp::tests::safe(span)
        };
        for number in 1..=3 {
            log.append(&[lossy(number)]).expect("appends");
        }
        let until = log.read_new().next_block();
        log.append(&[lossy(4)]).expect("appends");
        let oldest = log.stats().oldest_unix_ns;
        let ask =
            |spans| groups(&log, &GroupsRequest { spans: Some(spans), ..by(&["kind"]) }, until, oldest + 7, || true);
        let report = ask(SpansRequest::default()).expect("it can be read");
        assert_eq!((report.spans, report.spans_with_losses), (3, 1));
        assert_eq!((report.since_unix_ns, report.until_unix_ns), (oldest, oldest + 7));
        let since_unix_ns = 1_000_000_000 + 2 + 600;
        let report = ask(SpansRequest { since_unix_ns, ..SpansRequest::default() }).expect("it can be read");
        assert_eq!((report.spans, report.since_unix_ns), (2, oldest), "by their end");
        let later =
            ask(SpansRequest { since_unix_ns: oldest + 99, ..SpansRequest::default() }).expect("it can be read");
        assert_eq!((later.spans, later.since_unix_ns), (0, oldest + 7), "never later than now");
        let nobody = groups(&log, &by(&["kind"]), until, oldest, || false).expect("it can be read");
        assert_eq!(nobody.spans, 0);
    }

    #[test]
    fn keys_that_cannot_be_answered_are_refused() {
        assert_eq!(by(&["service", "http.route"]).check(), Ok(()));
        for (keys, part) in [(vec!["a"; 2], "twice"), (vec![""], "between 1 and"), (vec!["a"; 9], "at most 8")] {
            let refused = by(&keys).check().expect_err("refused");
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn long_values_are_cut_and_many_parts_are_one() {
        let mut key = String::new();
        push(&mut key, &"é".repeat(VALUE_BYTES_MAX));
        push(&mut key, "a\0b");
        push(&mut key, "");
        let group = Group::default().finish(&key);
        assert_eq!(group.values, ["é".repeat(VALUE_BYTES_MAX / 2) + "…", "a b".to_owned(), String::new()]);

        let mut group = Group::default();
        let long = "x".repeat(PART_BYTES_MAX + 1);
        let names = (0..PARTS_MAX + 5).map(|number| format!("s{number}")).chain([long]);
        for name in names {
            let tile = Tile { name: &name, start_ns: 0, duration_ns: 2, evidence: "measured", by: "", lost_records: 0 };
            group.add_segment(&tile);
            group.add_cause(&name);
        }
        let view = group.finish("");
        assert_eq!((view.segments.len(), view.causes.len()), (PARTS_MAX + 1, PARTS_MAX + 1));
        assert_eq!((view.segments[0].name.as_str(), view.segments[0].total_ns), (OTHER, 12));
        assert_eq!((view.causes[0].id.as_str(), view.causes[0].spans), (OTHER, 6));
        assert_eq!(hex(&view.slowest_span_id), "0000000000000000");
    }
}
