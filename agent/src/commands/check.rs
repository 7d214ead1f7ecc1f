//! `spantap check`: can the agent run here, and what would be degraded?

use std::process::ExitCode;

use serde::Serialize;

use super::{Done, Output, json, text};
use crate::{
    cli::CheckArgs,
    kernel::{
        attach::{AttachOptions, HookState},
        preflight::{self, Finding, Report},
        segments::{self, SegmentMeans},
        tls::survey::{self, Program},
    },
};

/// One line of `spantap check --json`.
#[derive(Serialize)]
struct JsonFinding<'a> {
    /// `host`, `hook`, `segment` or `tls`.
    about: &'static str,
    name: &'a str,
    ok: bool,
    required: bool,
    detail: String,
}

pub(super) fn check(args: &CheckArgs, output: &mut Output) -> Done {
    let report = preflight::check(AttachOptions::default());
    let programs = survey::programs();
    if args.json {
        for line in json_lines(&report).into_iter().chain(tls_findings(&programs).iter().map(json::line)) {
            output.line(&line)?;
        }
    } else {
        output.text(&render(&report, output.colour))?;
        output.text(&render_tls(&programs, output.colour))?;
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

/// How each segment is known; nothing if the hooks could not be tried.
fn segment_findings(report: &Report) -> Vec<JsonFinding<'_>> {
    let segments = if report.hooks.is_empty() { Vec::new() } else { segments::means(&report.hooks) };
    let finding = |SegmentMeans { segment, complete, detail }| JsonFinding {
        about: "segment",
        name: segment,
        ok: complete,
        required: false,
        detail,
    };
    segments.into_iter().map(finding).collect()
}

/// What would be seen of the TLS of each program that runs.
fn tls_findings(programs: &[(Program, usize)]) -> Vec<JsonFinding<'_>> {
    let mut findings = Vec::new();
    for (Program { name, covered, detail }, count) in programs {
        let processes = if *count == 1 { String::new() } else { format!(" ({count} processes)") };
        let detail = format!("{detail}{processes}");
        findings.push(JsonFinding { about: "tls", name, ok: *covered, required: false, detail });
    }
    findings
}

fn render_tls(programs: &[(Program, usize)], colour: bool) -> String {
    if programs.is_empty() {
        return String::new();
    }
    let findings = tls_findings(programs);
    let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let line = |finding: &JsonFinding<'_>| {
        let word = if finding.ok { "covered    " } else { "not covered" };
        format!("{word}  {:<width$}  {}\n", text::clean(finding.name), text::clean(&finding.detail))
    };
    let title = text::bold("TLS of the programs that run, if they are selected", colour);
    format!("\n{title}\n{}", findings.iter().map(line).collect::<String>())
}

fn json_lines(report: &Report) -> Vec<String> {
    findings(report).iter().chain(&segment_findings(report)).map(json::line).collect()
}

fn lines(findings: &[JsonFinding<'_>], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let line = |finding: &JsonFinding<'_>| {
        let word = match (finding.ok, finding.required) {
            (true, _) => "ok      ".to_owned(),
            (false, true) => text::red("missing ", colour),
            (false, false) => "degraded".to_owned(),
        };
        format!("{word}  {:<width$}  {}\n", text::clean(finding.name), text::clean(&finding.detail))
    };
    findings.iter().map(line).collect()
}

fn render(report: &Report, colour: bool) -> String {
    let findings = findings(report);
    let mut out = lines(&findings, colour);
    let segments = segment_findings(report);
    if !segments.is_empty() {
        let title = text::bold("how each segment is known on this kernel", colour);
        out.push_str(&format!("\n{title}\n{}", lines(&segments, colour)));
    }
    let degraded = findings.iter().filter(|finding| !finding.ok).count();
    let verdict = match (report.can_run(), degraded) {
        (true, 0) => "the agent can run here".to_owned(),
        (true, count) => {
            let ways = text::counted(count as u64, "way");
            format!("the agent can run here, degraded in {ways}: each line above says what is missing")
        }
        (false, _) => "the agent cannot run here: each line with `missing` says what to do".to_owned(),
    };
    out.push_str(&format!("\n{}\n", text::bold(&verdict, colour)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::attach::Rung;

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
            render(&report(&[("BTF", true, true), ("cgroup", false, false)]), false).contains("degraded in 1 way:")
        );
        assert!(render(&report(&[("BTF", false, true)]), false).contains("cannot run here"));
    }

    #[test]
    fn programs_say_by_what_their_tls_is_covered_or_why_it_is_not() {
        let program = |name: &str, covered, detail: &str| Program { name: name.into(), covered, detail: detail.into() };
        let programs = [(program("nginx", true, "OpenSSL /x"), 3), (program("java", false, "JSSE"), 1)];
        let text = render_tls(&programs, false);
        assert!(text.contains("covered      nginx  OpenSSL /x (3 processes)\n"), "{text}");
        assert!(text.contains("not covered  java   JSSE\n"), "{text}");
        let line = json::line(&tls_findings(&programs)[1]);
        assert_eq!(line, r#"{"about":"tls","name":"java","ok":false,"required":false,"detail":"JSSE"}"#);
        assert_eq!(render_tls(&[], false), "");
    }

    #[test]
    fn each_segment_says_how_it_is_known_once_the_hooks_were_tried() {
        let none = report(&[("BTF", true, true)]);
        assert!(!render(&none, false).contains("how each segment"));
        let hook = HookState {
            name: "tcp_probe",
            gives: "arrivals",
            rung: Some(Rung::TpBtf),
            required: false,
            detail: String::new(),
        };
        let tried = Report { hooks: vec![hook], ..none };
        let text = render(&tried, false);
        assert!(text.contains("ok        transfer        by tcp_probe (tp_btf)\n"), "{text}");
        assert!(text.contains("degraded  off_cpu         without sched_switch, sched_waking: "), "{text}");
        assert!(json_lines(&tried).iter().any(|line| line.contains(r#""about":"segment","name":"dns","ok":false"#)));
    }
}
