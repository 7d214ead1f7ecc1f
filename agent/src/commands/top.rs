//! `spantap top`: groups of spans, each with its rate, errors, percentiles, and where its time went.

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use agent_core::sketch::ERROR_PERCENT;
use serde::Serialize;

use super::{Done, Output, json, request, since_unix_ns, text};
use crate::{
    cli::{Since, TopArgs, TopOrder},
    query::{
        api::{CauseCount, GroupOrder, GroupView, GroupsReport, GroupsRequest, SegmentSum, SpansRequest, hex},
        client::Client,
    },
};

/// How far back if nothing else is asked for.
const SINCE: Duration = Duration::from_secs(600);
/// Between columns.
const GAP: &str = "  ";

/// One line of `spantap top --json`.
#[derive(Serialize)]
struct JsonGroup<'a> {
    /// Of all groups: of which time, and when the agent started; spans that are in none, that are not selected, and in whose time records were lost.
    since_unix_ns: u64,
    until_unix_ns: u64,
    started_unix_ns: u64,
    spans_left_out: u64,
    spans_unselected: u64,
    spans_with_losses: u64,
    /// By what was asked for; `null`: its spans have none.
    group: BTreeMap<&'a str, Option<&'a str>>,
    spans: u64,
    errors: u64,
    /// Their end was not seen.
    unknown: u64,
    duration_ns: JsonDurations,
    /// The most first.
    segments: Vec<JsonSegment<'a>>,
    /// The most frequent first.
    causes: Vec<JsonCause<'a>>,
    slowest_span_id: String,
}

#[derive(Serialize)]
struct JsonDurations {
    total: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

#[derive(Serialize)]
struct JsonSegment<'a> {
    name: &'a str,
    by: Option<&'a str>,
    total_ns: u64,
    measured_ns: u64,
}

#[derive(Serialize)]
struct JsonCause<'a> {
    id: &'a str,
    spans: u64,
}

pub(super) async fn top(args: &TopArgs, output: &mut Output) -> Done {
    let mut filter = args.filter.clone();
    filter.since.get_or_insert(Since::Ago(SINCE));
    let all = request(&filter);
    let now_unix_ns = since_unix_ns(Since::Ago(Duration::ZERO), SystemTime::now());
    anyhow::ensure!(all.since_unix_ns <= now_unix_ns, "--since is in the future: nothing has ended since then");
    let mut client = Client::connect(&args.read.socket).await?;
    let ask = |spans| GroupsRequest {
        spans: Some(spans),
        by: args.by.clone(),
        order: order(args.sort).into(),
        limit: args.limit,
    };
    // What nobody selected may wait for as long as it likes.
    let selected = SpansRequest { selected_only: !args.unselected, ..all.clone() };
    let mut report = client.groups(ask(selected)).await?;
    if report.groups.is_empty() && !args.unselected {
        report = client.groups(ask(all)).await?;
    }
    if args.read.json {
        for group in &report.groups {
            output.line(&json_line(&report, group, &args.by))?;
        }
    } else {
        output.text(&render(&report, &args.by, &args.read.socket, output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn order(sort: TopOrder) -> GroupOrder {
    match sort {
        TopOrder::Total => GroupOrder::Total,
        TopOrder::Spans => GroupOrder::Spans,
        TopOrder::Errors => GroupOrder::Errors,
        TopOrder::P50 => GroupOrder::P50,
        TopOrder::P90 => GroupOrder::P90,
        TopOrder::P99 => GroupOrder::P99,
        TopOrder::Max => GroupOrder::Max,
    }
}

fn json_line(report: &GroupsReport, group: &GroupView, by: &[String]) -> String {
    json::line(&JsonGroup {
        since_unix_ns: report.since_unix_ns,
        until_unix_ns: report.until_unix_ns,
        started_unix_ns: report.started_unix_ns,
        spans_left_out: report.spans_left_out,
        spans_unselected: report.spans_unselected,
        spans_with_losses: report.spans_with_losses,
        group: by.iter().zip(&group.values).map(|(by, value)| (by.as_str(), known(value))).collect(),
        spans: group.spans,
        errors: group.errors,
        unknown: group.unknown,
        duration_ns: JsonDurations {
            total: group.total_ns,
            p50: group.p50_ns,
            p90: group.p90_ns,
            p99: group.p99_ns,
            max: group.max_ns,
        },
        segments: group.segments.iter().map(json_segment).collect(),
        causes: group.causes.iter().map(|CauseCount { id, spans }| JsonCause { id, spans: *spans }).collect(),
        slowest_span_id: hex(&group.slowest_span_id),
    })
}

fn json_segment(SegmentSum { name, by, total_ns, measured_ns }: &SegmentSum) -> JsonSegment<'_> {
    JsonSegment { name, by: known(by), total_ns: *total_ns, measured_ns: *measured_ns }
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn render(report: &GroupsReport, by: &[String], socket: &Path, colour: bool) -> String {
    let window_ns = report.until_unix_ns.saturating_sub(report.since_unix_ns);
    let window = match Duration::from_secs(window_ns / 1_000_000_000) {
        Duration::ZERO => "second".to_owned(),
        seconds => humantime::format_duration(seconds).to_string(),
    };
    let Some(first) = report.groups.first() else {
        return format!(
            "no span that ended in the last {window} matches; --since looks as far back as the log goes (`spantap status`), \
             `spantap spans --follow` shows what arrives\n"
        );
    };
    let said = format!(
        "{} of the last {window} in {} by {}\n",
        text::counted(report.spans, "span"),
        text::counted(report.groups_found, "group"),
        by.join(", ")
    );
    let mut out = text::dim(&said, colour);
    let titles = [
        ("SPANS", true),
        ("PER S", true),
        ("ERRORS", true),
        ("P50", true),
        ("P90", true),
        ("P99", true),
        ("MAX", true),
        ("TOTAL", true),
        ("MOST TIME IN", false),
        ("CAUSE", false),
        ("SLOWEST", false),
    ];
    let keys = by.iter().map(|by| (by.to_uppercase(), false));
    let titles: Vec<_> = keys.chain(titles.map(|(title, is_figure)| (title.to_owned(), is_figure))).collect();
    let rows: Vec<Vec<String>> = report.groups.iter().map(|group| cells(group, window_ns)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]).chain([&titles[column].0]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let aligned = |column: usize, cell: &str| match titles[column].1 {
        true => format!("{cell:>width$}", width = widths[column]),
        false => format!("{cell:<width$}", width = widths[column]),
    };
    let header: Vec<String> = titles.iter().enumerate().map(|(column, (title, _))| aligned(column, title)).collect();
    out.push_str(&text::dim(header.join(GAP).trim_end(), colour));
    out.push('\n');
    for (group, row) in report.groups.iter().zip(&rows) {
        let paint = |(column, cell): (usize, &String)| {
            let cell = aligned(column, cell);
            let is_bad = titles[column].0 == "ERRORS" && group.errors > 0;
            if is_bad { text::red(&cell, colour) } else { cell }
        };
        let row: Vec<String> = row.iter().enumerate().map(paint).collect();
        out.push_str(row.join(GAP).trim_end());
        out.push('\n');
    }
    for note in notes(report, by) {
        out.push_str(&text::dim(&(note + "\n"), colour));
    }
    let why = text::ask(&format!("spantap why {}", hex(&first.slowest_span_id)), socket);
    out.push_str(&text::dim(&format!("where the time of the first group's slowest went: {why}\n"), colour));
    out
}

/// What they have in common, then their figures.
fn cells(group: &GroupView, window_ns: u64) -> Vec<String> {
    let figures = [
        group.spans.to_string(),
        per_second(group.spans, window_ns),
        group.errors.to_string(),
        text::ms(group.p50_ns),
        text::ms(group.p90_ns),
        text::ms(group.p99_ns),
        text::ms(group.max_ns),
        format!("{:.3} s", group.total_ns as f64 / 1e9),
        most_time_in(group),
        most_frequent(group),
        hex(&group.slowest_span_id),
    ];
    group.values.iter().map(|value| text::or_dash(value)).chain(figures).collect()
}

/// The segment that took the most, by whatever it was spent on, and its share.
fn most_time_in(group: &GroupView) -> String {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for segment in &group.segments {
        match sums.iter_mut().find(|(name, _)| *name == segment.name) {
            Some((_, sum)) => *sum = sum.saturating_add(segment.total_ns),
            None => sums.push((&segment.name, segment.total_ns)),
        }
    }
    let most = sums.into_iter().reduce(|most, sum| if sum.1 > most.1 { sum } else { most });
    most.map_or_else(
        || "-".to_owned(),
        |(name, ns)| format!("{} {}", text::clean(name), text::percent(ns, group.total_ns)),
    )
}

/// The cause that most of them have, and of how many.
fn most_frequent(group: &GroupView) -> String {
    let words = |cause: &CauseCount| format!("{} {}", text::clean(&cause.id), text::percent(cause.spans, group.spans));
    group.causes.first().map_or_else(|| "-".to_owned(), words)
}

/// `-`: over less than a second there is no rate.
fn per_second(spans: u64, window_ns: u64) -> String {
    let rate = spans as f64 * 1e9 / window_ns.max(1) as f64;
    match window_ns {
        0..1_000_000_000 => "-".to_owned(),
        _ if rate < 10.0 => format!("{rate:.3}"),
        _ => format!("{rate:.1}"),
    }
}

/// What has to be known to read the table rightly.
fn notes(report: &GroupsReport, by: &[String]) -> Vec<String> {
    let shown = report.groups.len() as u64;
    let mut notes = Vec::new();
    if report.groups_found > shown {
        notes.push(format!("and {} more: --limit 0 prints all", report.groups_found - shown));
    }
    notes.push(format!(
        "P50, P90, P99: within {ERROR_PERCENT} %, if between 1 us and 73 minutes; CAUSE: of how many spans"
    ));
    for (place, by) in by.iter().enumerate() {
        if report.groups_found == shown && report.groups.iter().all(|group| group.values[place].is_empty()) {
            notes.push(format!(
                "none of these spans has `{by}`: `spantap spans --json --limit 1` shows what a span has"
            ));
        }
    }
    if report.spans_left_out > 0 {
        notes.push(format!(
            "{} more {} in no group, as there are too many groups: the least were given up on the way, and others may lack as many spans; \
             fewer keys, or a filter, make fewer groups",
            text::counted(report.spans_left_out, "span"),
            text::verb(report.spans_left_out, "is", "are")
        ));
    }
    if report.started_unix_ns > report.since_unix_ns {
        let ns = report.until_unix_ns.saturating_sub(report.started_unix_ns);
        let started = humantime::format_duration(Duration::from_secs(ns / 1_000_000_000));
        notes.push(format!(
            "the agent started {started} ago: what was between its runs is unknown, so rates may be too low"
        ));
    }
    if report.spans_unselected > 0 {
        notes.push(format!(
            "{} of processes that are not selected: of those not every one is kept (capture.unselected_spans_per_second)",
            text::counted(report.spans_unselected, "span")
        ));
    }
    if report.spans_with_losses > 0 {
        notes.push(format!(
            "in the time of {} kernel records were lost (spantap losses)",
            text::counted(report.spans_with_losses, "span")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::SOCKET_DEFAULT, commands::fixtures};

    fn by(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn report() -> GroupsReport {
        let sum = |name: &str, by: &str, total_ns, measured_ns| SegmentSum {
            name: name.to_owned(),
            by: by.to_owned(),
            total_ns,
            measured_ns,
        };
        let client = GroupView {
            values: by(&["shop", "client", "GET /orders/{id}"]),
            spans: 1_200,
            errors: 12,
            unknown: 1,
            total_ns: 12_345_678_901,
            p50_ns: 9_000_000,
            p90_ns: 20_000_000,
            p99_ns: 65_000_000,
            max_ns: 98_765_432,
            slowest_span_id: vec![0xa1; 8],
            segments: vec![
                sum("remote", "", 5_000_000_000, 0),
                sum("off_cpu", "lock", 3_500_000_000, 3_500_000_000),
                sum("off_cpu", "", 3_500_000_000, 3_500_000_000),
            ],
            causes: vec![CauseCount { id: "blocked_lock".to_owned(), spans: 900 }],
        };
        let relayed = GroupView {
            values: by(&["", "internal", "work"]),
            spans: 1,
            total_ns: 400_000,
            p50_ns: 400_000,
            p90_ns: 400_000,
            p99_ns: 400_000,
            max_ns: 400_000,
            slowest_span_id: vec![0xb2; 8],
            ..GroupView::default()
        };
        GroupsReport {
            since_unix_ns: 1_738_324_200_000_000_000,
            until_unix_ns: 1_738_324_800_000_000_000,
            groups: vec![client, relayed],
            spans: 1_201,
            groups_found: 3,
            started_unix_ns: 1_738_324_740_000_000_000,
            spans_left_out: 7,
            spans_unselected: 3,
            spans_with_losses: 1,
        }
    }

    #[test]
    fn groups_are_a_table_with_what_has_to_be_known_of_it() {
        let names = by(&["service", "kind", "name"]);
        fixtures::check_golden("top.txt", &render(&report(), &names, Path::new(SOCKET_DEFAULT), false));
        let lines: String = report().groups.iter().map(|group| json_line(&report(), group, &names) + "\n").collect();
        fixtures::check_golden("top.jsonl", &lines);
    }

    #[test]
    fn what_no_span_has_is_said() {
        let mut report = GroupsReport { groups_found: 2, ..report() };
        report.groups.iter_mut().for_each(|group| group.values = by(&[""]));
        let text = render(&report, &by(&["servce"]), Path::new(SOCKET_DEFAULT), false);
        assert!(text.contains("none of these spans has `servce`"), "{text}");
        let none = render(&GroupsReport::default(), &by(&["name"]), Path::new(SOCKET_DEFAULT), false);
        assert!(none.contains("the last second") && none.contains("--since"), "{none}");
    }

    #[test]
    fn rates_are_of_the_time_that_was_looked_at() {
        let second = 1_000_000_000;
        assert_eq!(per_second(5, second / 2), "-");
        assert_eq!(per_second(5, 100 * second), "0.050");
        assert_eq!(per_second(5_000, 100 * second), "50.0");
    }
}
