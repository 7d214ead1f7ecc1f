//! `spantap status`: how the agent is, on one screen.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::{Done, Output, late, losses, since_unix_ns, text};
use crate::{
    cli::{ReadArgs, Since},
    query::{
        api::{
            BudgetStatus, DestinationStatus, HookStatus, LateStatus, LogStatus, Loss, RelayStatus, StatusReport,
            SymptomStatus, TlsProcess,
        },
        client::Client,
    },
};

pub(super) async fn status(args: &ReadArgs, output: &mut Output) -> Done {
    let report = Client::connect(&args.socket).await?.status().await?;
    if args.json {
        output.line(&super::json::line(&json(&report)))?;
    } else {
        let now_unix_ns = since_unix_ns(Since::Ago(Duration::ZERO), SystemTime::now());
        output.text(&render(&report, now_unix_ns, output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn json(report: &StatusReport) -> Value {
    let hook = |hook: &HookStatus| json!({ "name": hook.name, "means": hook.means, "attached": hook.attached, "detail": hook.detail });
    let destination = |it: &DestinationStatus| {
        json!({
            "name": it.name, "url": it.url, "queued": it.queued, "delivered": it.delivered, "dead": it.dead,
            "dropped": it.dropped, "filtered": it.filtered,
            "possible_duplicates": it.possible_duplicates, "last_error": it.last_error,
            "last_error_unix_ns": it.last_error_unix_ns, "is_failing": it.is_failing,
        })
    };
    let log = |log: &LogStatus| {
        json!({
            "path": log.path, "bytes": log.bytes, "bytes_max": log.bytes_max, "segments": log.segments,
            "oldest_unix_ns": log.oldest_unix_ns, "spans_appended": log.spans_appended, "spans_dropped": log.spans_dropped,
            "blocks_damaged": log.blocks_damaged, "torn_bytes": log.torn_bytes, "last_error": log.last_error,
        })
    };
    let tls = |it: &TlsProcess| json!({ "pid": it.pid, "covered_by": it.covered_by, "not_covered": it.not_covered });
    let relay = |it: &RelayStatus| {
        json!({
            "accepted": it.accepted, "local": it.local, "rejected": it.rejected, "skewed": it.skewed,
            "redacted": it.redacted, "refused": it.refused,
        })
    };
    let loss = |loss: &Loss| json!({ "source": loss.source, "reason": loss.reason, "count": loss.count });
    json!({
        "version": report.version, "pid": report.pid, "started_unix_ns": report.started_unix_ns,
        "hooks": report.hooks.iter().map(hook).collect::<Vec<_>>(),
        "selection": report.selection, "connections": report.connections, "spans_total": report.spans_total,
        "destinations": report.destinations.iter().map(destination).collect::<Vec<_>>(),
        "log": report.log.as_ref().map(log),
        "losses": report.losses.iter().map(loss).collect::<Vec<_>>(),
        "budget": report.budget.as_ref().map(budget_json),
        "tls": report.tls.iter().map(tls).collect::<Vec<_>>(),
        "symptoms": report.symptoms.as_ref().map(symptoms_json),
        "late": report.late.iter().map(late_json).collect::<Vec<_>>(),
        "unselected": report.unselected, "config_file": Some(&report.config_file).filter(|file| !file.is_empty()), "only_relays": report.only_relays, "relay": report.relay.as_ref().map(relay),
    })
}

fn symptoms_json(it: &SymptomStatus) -> Value {
    json!({ "count": it.count, "last": it.last, "last_unix_ns": it.last_unix_ns })
}

fn late_json(it: &LateStatus) -> Value {
    json!({
        "request": it.id, "destination": it.destination, "reason": it.reason, "created_unix_ns": it.created_unix_ns,
        "matched": it.matched, "sent": it.sent, "delivered": it.delivered, "dead": it.dead, "gone": it.gone,
        "bytes": it.bytes, "is_done": it.is_done,
    })
}

pub(super) fn budget_json(budget: &BudgetStatus) -> Value {
    json!({
        "max_cpu_percent": budget.cpu_percent_max, "cpu_percent": budget.cpu_percent,
        "ring_percent": budget.ring_percent, "level": budget.level, "left_out": budget.left_out,
        "sheds": budget.sheds, "restores": budget.restores,
    })
}

/// `here`: what it is in the window that is told of beside it.
pub(super) fn budget_words(budget: &BudgetStatus, here: Option<f64>) -> String {
    if budget.cpu_percent_max == 0 {
        return "none (capture.max_cpu_percent is 0)".to_owned();
    }
    let (cost, max) = (budget.cpu_percent, budget.cpu_percent_max);
    let looked = format!("{cost:.2} % in the second that it last looked at");
    let mut words = match here {
        Some(here) => format!("{here:.2} % of at most {max} % of all CPUs is what it counts; {looked}"),
        None => format!("{looked}, of at most {max} % of all CPUs"),
    };
    if !budget.left_out.is_empty() {
        words.push_str(&format!("; left out: {}", budget.left_out.join(", ")));
    }
    if budget.sheds > 0 {
        let steps = text::counted(budget.sheds, "step");
        words.push_str(&format!("; {steps} taken, {} taken back since the start", budget.restores));
    }
    words
}

fn render(report: &StatusReport, now_unix_ns: u64, colour: bool) -> String {
    let up = Duration::from_secs(now_unix_ns.saturating_sub(report.started_unix_ns) / 1_000_000_000);
    let attached = report.hooks.iter().filter(|hook| hook.attached).count();
    let selection = if report.only_relays {
        "nothing is captured (capture.enabled: false)".to_owned()
    } else {
        selection_words(report)
    };
    let title = format!("spantap {}", text::clean(&report.version));
    let mut out =
        format!("{}, pid {}, up {}\n", text::bold(&title, colour), report.pid, humantime::format_duration(up));
    let mut field = |name: &str, value: String| out.push_str(&format!("{name:<13} {}\n", text::clean(&value)));
    field("selected", selection);
    if !report.only_relays {
        field("connections", report.connections.to_string());
        field("spans", report.spans_total.to_string());
        if let Some(budget) = &report.budget {
            field("budget", budget_words(budget, None));
        }
    }
    if let Some(relay) = &report.relay {
        field("relayed", relay_words(relay));
    }
    if let Some(log) = &report.log {
        field("log", log_words(log));
        if !log.last_error.is_empty() {
            field("log error", log.last_error.clone());
        }
    }
    if !report.config_file.is_empty() {
        field("configuration", report.config_file.clone());
    }
    if !report.tls.is_empty() {
        field("TLS seen of", tls_words(&report.tls));
    }
    if !report.only_relays {
        field("hooks", format!("{attached} of {} attached", report.hooks.len()));
    }
    for hook in report.hooks.iter().filter(|hook| !hook.attached) {
        field("  missing", format!("{} ({}): {}", hook.name, hook.means, hook.detail));
    }
    if report.destinations.is_empty() {
        field("destinations", "none: spans stay in the log (--export URL adds one)".to_owned());
    } else {
        out.push_str(&destinations(&report.destinations));
    }
    if let Some(symptoms) = &report.symptoms {
        out.push_str(&format!("\nsymptoms      {}\n", text::clean(&symptom_words(symptoms))));
    }
    if !report.late.is_empty() {
        out.push_str("\nSENT LATE\n");
    }
    for it in &report.late {
        out.push_str(&text::clean(&format!("{} to {}, {}", it.id, it.destination, late::state(it))));
        out.push('\n');
    }
    out.push('\n');
    out.push_str(&losses::render(&report.losses));
    out
}

/// What is captured, and what of the rest.
fn selection_words(report: &StatusReport) -> String {
    let rest = match report.unselected.as_str() {
        "timing" if report.selection.is_empty() => "timing of every connection",
        "timing" => "timing of the rest",
        "none" if report.selection.is_empty() => return "nothing (capture.unselected: none)".to_owned(),
        "none" => "nothing of the rest",
        _ => "the rest is not known",
    };
    let is_all = report.selection.iter().any(|words| words == "--select-all");
    match report.selection.as_slice() {
        [] => format!("nothing in full; {rest}"),
        words if is_all => words.join(", "),
        words => format!("{}; {rest}", words.join(", ")),
    }
}

fn symptom_words(symptoms: &SymptomStatus) -> String {
    match symptoms.count {
        0 => "none since the start".to_owned(),
        count => format!("{count}, the last at {}: {}", text::time(symptoms.last_unix_ns), symptoms.last),
    }
}

fn relay_words(relay: &RelayStatus) -> String {
    let mut words = format!("{} acknowledged", text::counted(relay.accepted, "span"));
    for (count, what) in [
        (relay.local, "kept here by sampling"),
        (relay.rejected, "rejected for good"),
        (relay.skewed, "with impossible times"),
        (relay.redacted, text::verb(relay.redacted, "value redacted", "values redacted")),
        (relay.refused, text::verb(relay.refused, "request told to come again", "requests told to come again")),
    ] {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    words
}

/// How many processes of each library.
fn tls_words(processes: &[TlsProcess]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for process in processes {
        for by in &process.covered_by {
            *counts.entry(by.clone()).or_default() += 1;
        }
        if !process.not_covered.is_empty() {
            *counts.entry(format!("not covered: {}", process.not_covered)).or_default() += 1;
        }
    }
    let words = counts.iter().map(|(by, count)| format!("{count} by {by}"));
    words.collect::<Vec<_>>().join(", ")
}

fn log_words(log: &LogStatus) -> String {
    let since =
        if log.oldest_unix_ns == 0 { "empty".to_owned() } else { format!("since {}", text::time(log.oldest_unix_ns)) };
    let (used, most) = (text::bytes(log.bytes), text::bytes(log.bytes_max));
    format!("{used} of {most} in {}, {since}, in {}", text::counted(log.segments, "segment"), log.path)
}

fn destinations(list: &[DestinationStatus]) -> String {
    let width = list.iter().map(|it| it.name.chars().count()).max().unwrap_or(0).max(11);
    let mut out = format!(
        "\n{:<width$}  {:>12}  {:>12}  {:>12}  {:>12}  {:>12}  {}\n",
        "DESTINATION", "DELIVERED", "LEFT OUT", "QUEUED", "DEAD", "DROPPED", "URL"
    );
    for it in list {
        out.push_str(&format!(
            "{:<width$}  {:>12}  {:>12}  {:>12}  {:>12}  {:>12}  {}\n",
            text::clean(&it.name),
            it.delivered,
            it.filtered,
            it.queued,
            it.dead,
            it.dropped,
            text::clean(&it.url)
        ));
        if !it.last_error.is_empty() {
            let what = if it.is_failing { "fails, last at" } else { "works again; failed last at" };
            let when = text::time(it.last_error_unix_ns);
            out.push_str(&format!("{:<width$}  {what} {when}: {}\n", "", text::clean(&it.last_error)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn status_is_one_screen() {
        let report = fixtures::status();
        let now = report.started_unix_ns + 3_723_000_000_000;
        fixtures::check_golden("status.txt", &render(&report, now, false));
    }

    #[test]
    fn what_is_recorded_of_the_rest_is_said_as_it_is() {
        let check = |selection: &[&str], unselected: &str, expected| {
            let selection = selection.iter().map(|&words| words.to_owned()).collect();
            let report = StatusReport { selection, unselected: unselected.to_owned(), ..fixtures::status() };
            assert_eq!(selection_words(&report), expected);
        };
        check(&[], "timing", "nothing in full; timing of every connection");
        check(&[], "none", "nothing (capture.unselected: none)");
        check(&[], "", "nothing in full; the rest is not known");
        check(
            &["--select-port 80", "--exclude-pid 7"],
            "timing",
            "--select-port 80, --exclude-pid 7; timing of the rest",
        );
        check(&["--select-port 80"], "none", "--select-port 80; nothing of the rest");
        check(&["--select-all", "--exclude-pid 7"], "none", "--select-all, --exclude-pid 7");
    }

    #[test]
    fn an_agent_that_only_relays_says_nothing_of_hooks() {
        let relay = RelayStatus { accepted: 500, redacted: 3, ..RelayStatus::default() };
        let report = StatusReport { only_relays: true, relay: Some(relay), ..fixtures::status() };
        let text = render(&report, report.started_unix_ns, false);
        assert!(
            text.contains("nothing is captured") && text.contains("500 spans acknowledged, 3 values redacted"),
            "{text}"
        );
        assert!(!text.contains("hooks") && !text.contains("budget"), "{text}");
    }

    #[test]
    fn status_json_is_one_line_with_every_account() {
        fixtures::check_golden("status.jsonl", &format!("{}\n", json(&fixtures::status())));
    }
}
