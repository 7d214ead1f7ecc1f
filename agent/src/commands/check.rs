//! `spantap check`: can the agent run here, and what would be degraded?

use std::process::ExitCode;

use serde::Serialize;

use super::{Done, Output, json, text};
use crate::{
    cli::CheckArgs,
    kernel::{
        attach::{AttachOptions, HookState},
        preflight::{self, Finding, Report},
    },
};

/// One line of `spantap check --json`.
#[derive(Serialize)]
struct JsonFinding<'a> {
    /// `host` or `hook`.
    about: &'static str,
    name: &'a str,
    ok: bool,
    required: bool,
    detail: String,
}

pub(super) fn check(args: &CheckArgs, output: &mut Output) -> Done {
    let report = preflight::check(AttachOptions::default());
    if args.json {
        for line in json_lines(&report) {
            output.line(&line)?;
        }
    } else {
        output.text(&render(&report, output.colour))?;
    }
    output.flush()?;
    Ok(if report.can_run() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn findings(report: &Report) -> Vec<JsonFinding<'_>> {
    let host = |it: &Finding| (it.name, it.ok, it.required, it.detail.clone());
    let hook = |it: &HookState| (it.name, it.rung.is_some(), it.required, hook_detail(it));
    let named = |about| {
        move |(name, ok, required, detail): (&'static str, bool, bool, String)| JsonFinding {
            about,
            name,
            ok,
            required,
            detail,
        }
    };
    let host = report.findings.iter().map(host).map(named("host"));
    host.chain(report.hooks.iter().map(hook).map(named("hook"))).collect()
}

fn hook_detail(hook: &HookState) -> String {
    match hook.rung {
        Some(rung) if hook.detail.is_empty() => format!("{} by {}", hook.gives, rung.name()),
        Some(rung) => format!("{} by {} ({})", hook.gives, rung.name(), hook.detail),
        None => format!("without it: no {}; {}", hook.gives, hook.detail),
    }
}

fn json_lines(report: &Report) -> Vec<String> {
    findings(report).iter().map(json::line).collect()
}

fn render(report: &Report, colour: bool) -> String {
    let findings = findings(report);
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in &findings {
        let word = match (finding.ok, finding.required) {
            (true, _) => "ok      ".to_owned(),
            (false, true) => text::red("missing ", colour),
            (false, false) => "degraded".to_owned(),
        };
        out.push_str(&format!("{word}  {:<width$}  {}\n", finding.name, text::clean(&finding.detail)));
    }
    let degraded = findings.iter().filter(|finding| !finding.ok).count();
    let verdict = match (report.can_run(), degraded) {
        (true, 0) => "the agent can run here".to_owned(),
        (true, count) => {
            format!("the agent can run here, degraded in {count} ways: each line above says what is missing")
        }
        (false, _) => "the agent cannot run here: each line with `missing` says what to do".to_owned(),
    };
    out.push_str(&format!("\n{}\n", text::bold(&verdict, colour)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: &[(&'static str, bool, bool)]) -> Report {
        let finding = |(name, ok, required): &(&'static str, bool, bool)| Finding {
            name,
            ok: *ok,
            required: *required,
            detail: "why".to_owned(),
        };
        Report { findings: findings.iter().map(finding).collect(), hooks: Vec::new() }
    }

    #[test]
    fn the_verdict_tells_degraded_from_impossible() {
        assert!(render(&report(&[("BTF", true, true)]), false).ends_with("\nthe agent can run here\n"));
        assert!(
            render(&report(&[("BTF", true, true), ("cgroup", false, false)]), false).contains("degraded in 1 ways")
        );
        assert!(render(&report(&[("BTF", false, true)]), false).contains("cannot run here"));
    }
}
