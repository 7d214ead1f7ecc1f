//! `spantap self`: what the agent costs: each kernel program, the maps, the agent itself, and all of it per span.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    Done, Output, losses,
    status::{budget_json, budget_words},
    text,
};
use crate::{
    cli::SelfArgs,
    query::{
        api::{MapMemory, ProgramCost, SelfReport},
        client::Client,
    },
};

pub(super) async fn self_cost(args: &SelfArgs, output: &mut Output) -> Done {
    let window_ms = u32::try_from(args.window.as_millis()).unwrap_or(u32::MAX);
    let report = Client::connect(&args.read.socket).await?.measure(window_ms).await?;
    if args.read.json {
        output.line(&super::json::line(&json(&report)))?;
    } else {
        output.text(&render(&report, output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is computed of a report.
struct Sums<'a> {
    report: &'a SelfReport,
    kernel_ns: u64,
}

impl<'a> Sums<'a> {
    fn of(report: &'a SelfReport) -> Self {
        let kernel_ns = report.programs.iter().map(|it| program_ns(report, it)).sum();
        Self { report, kernel_ns }
    }

    /// Share of all CPUs.
    fn percent(&self, ns: u64) -> f64 {
        ns as f64 * 100.0 / (self.report.window_ns.max(1) as f64 * self.report.cpus.max(1) as f64)
    }

    /// Kernel programs and agent, per span that was finished in the window; `None`: there was none.
    fn per_span_ns(&self) -> Option<(u64, u64)> {
        let spans = self.report.spans;
        Some((self.kernel_ns.checked_div(spans)?, self.report.agent_cpu_ns.checked_div(spans)?))
    }

    fn map_bytes(&self, bytes: impl Fn(&MapMemory) -> u64) -> u64 {
        self.report.maps.iter().map(bytes).sum()
    }
}

/// A program's time, the way into it and out included.
fn program_ns(report: &SelfReport, program: &ProgramCost) -> u64 {
    program.run_ns.saturating_add(program.runs.saturating_mul(report.empty_run_ns))
}

fn per_second(count: u64, window_ns: u64) -> u64 {
    let per_second = u128::from(count) * 1_000_000_000 / u128::from(window_ns.max(1));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

fn json(report: &SelfReport) -> Value {
    let sums = Sums::of(report);
    let program = |it: &ProgramCost| {
        json!({
            "hook": it.hook, "means": it.means, "runs": it.runs, "run_ns": it.run_ns,
            "runs_per_second": per_second(it.runs, report.window_ns), "ns_per_run": it.run_ns.checked_div(it.runs),
            "cpu_percent": sums.percent(program_ns(report, it)),
        })
    };
    let map = |it: &MapMemory| json!({ "name": it.name, "bytes": it.bytes, "bytes_max": it.bytes_max });
    json!({
        "window_ns": report.window_ns, "cpus": report.cpus,
        "programs": report.programs.iter().map(program).collect::<Vec<_>>(),
        "empty_run_ns": report.empty_run_ns,
        "not_counted": (!report.not_counted.is_empty()).then_some(&report.not_counted),
        "kernel": { "ns": sums.kernel_ns, "cpu_percent": sums.percent(sums.kernel_ns) },
        "agent": {
            "ns": report.agent_cpu_ns, "cpu_percent": sums.percent(report.agent_cpu_ns),
            "memory_bytes": report.agent_memory_bytes,
        },
        "maps": report.maps.iter().map(map).collect::<Vec<_>>(),
        "spans": report.spans, "records": report.records, "ring_percent": report.ring_percent,
        "per_span": sums.per_span_ns().map(|(kernel, agent)| json!({ "kernel_ns": kernel, "agent_ns": agent })),
        "losses": losses::json_lines(&report.losses).iter().filter_map(|line| serde_json::from_str(line).ok())
            .collect::<Vec<Value>>(),
        "budget": report.budget.as_ref().map(budget_json),
        "budget_counts": { "ns": report.budget_ns, "cpu_percent": sums.percent(report.budget_ns) },
    })
}

fn render(report: &SelfReport, colour: bool) -> String {
    let sums = Sums::of(report);
    let seconds = report.window_ns as f64 / 1e9;
    let title = format!("{seconds:.1} s on {}", text::counted(report.cpus, "CPU"));
    let mut out = format!("{}\n\n", text::bold(&title, colour));
    out.push_str(&programs(&sums));
    let mut field = |name: &str, value: String| out.push_str(&format!("{name:<13} {}\n", text::clean(&value)));
    if report.not_counted.is_empty() {
        let way = report.empty_run_ns;
        field(
            "kernel",
            format!(
                "{:.3} % of all CPUs, {way} ns per run for the way in and out included",
                sums.percent(sums.kernel_ns)
            ),
        );
    } else {
        field("kernel", format!("not known: {}", report.not_counted));
    }
    let memory = text::bytes(report.agent_memory_bytes);
    field("agent", format!("{:.3} % of all CPUs, {memory} resident", sums.percent(report.agent_cpu_ns)));
    field("spans", spans_words(&sums));
    field("ring", format!("{:.1} % full at most, {}", report.ring_percent, text::counted(report.records, "record")));
    // Without programs there is nothing to leave out.
    if let Some(budget) = report.budget.as_ref().filter(|_| !report.programs.is_empty()) {
        let here = report.not_counted.is_empty().then(|| sums.percent(report.budget_ns));
        field("budget", budget_words(budget, here));
    }
    out.push('\n');
    out.push_str(&maps(&sums));
    out.push('\n');
    out.push_str(&losses::render(&report.losses));
    out
}

fn spans_words(sums: &Sums) -> String {
    let spans = sums.report.spans;
    let us = |ns: u64| format!("{}.{} us", ns / 1_000, ns % 1_000 / 100);
    match sums.per_span_ns() {
        None => "none in this window".to_owned(),
        Some((_, agent)) if !sums.report.not_counted.is_empty() => format!("{spans}, each {} in the agent", us(agent)),
        Some((kernel, agent)) => format!("{spans}, each {} in the kernel and {} in the agent", us(kernel), us(agent)),
    }
}

/// Those that ran, the most expensive first, then in how many words the others stand.
fn programs(sums: &Sums) -> String {
    let report = sums.report;
    if !report.not_counted.is_empty() {
        return String::new();
    }
    let mut ran: Vec<&ProgramCost> = report.programs.iter().filter(|it| it.runs > 0).collect();
    ran.sort_by_key(|it| std::cmp::Reverse(program_ns(report, it)));
    let width = ran.iter().map(|it| it.hook.len()).max().unwrap_or(0).max(4);
    let mut out = format!("{:<width$}  {:<10}  {:>10}  {:>7}  {:>7}\n", "HOOK", "MEANS", "RUNS/S", "NS/RUN", "CPU %");
    for it in &ran {
        let (rate, each) = (per_second(it.runs, report.window_ns), it.run_ns / it.runs.max(1));
        let share = sums.percent(program_ns(report, it));
        let (hook, means) = (text::clean(&it.hook), text::clean(&it.means));
        out.push_str(&format!("{hook:<width$}  {means:<10}  {rate:>10}  {each:>7}  {share:>7.3}\n"));
    }
    let idle = report.programs.len() - ran.len();
    if idle > 0 {
        out.push_str(&format!("{idle} more did not run\n"));
    }
    out.push('\n');
    out
}

fn maps(sums: &Sums) -> String {
    let (used, most) = (sums.map_bytes(|map| map.bytes), sums.map_bytes(|map| map.bytes_max));
    let mut out = format!("{:<16}  {:>10}  {:>10}\n", "MAP", "IN USE", "AT MOST");
    let mut row = |name: &str, used: u64, most: u64| {
        out.push_str(&format!("{:<16}  {:>10}  {:>10}\n", text::clean(name), text::bytes(used), text::bytes(most)));
    };
    for map in &sums.report.maps {
        row(&map.name, map.bytes, map.bytes_max);
    }
    row("together", used, most);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn the_cost_is_one_screen() {
        fixtures::check_golden("self.txt", &render(&fixtures::self_report(), false));
    }

    #[test]
    fn the_cost_as_json_is_one_line() {
        fixtures::check_golden("self.jsonl", &format!("{}\n", json(&fixtures::self_report())));
    }

    #[test]
    fn what_was_not_counted_is_not_known() {
        let report = SelfReport { not_counted: "only for root".to_owned(), ..fixtures::self_report() };
        let text = render(&report, false);
        assert!(text.contains("not known: only for root") && !text.contains("tcp_probe"), "{text}");
        assert_eq!(json(&report)["not_counted"], "only for root");
    }
}
