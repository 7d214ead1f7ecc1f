//! Judges what the guest's scenarios brought back.
//!
//! In: `spantap spans --json`, `spantap why --json` of one span of each expectation, `spantap check --json`, and what the clients and
//! servers say. Out: a table, or all that is wrong. The truth is what `tests/vm/scenarios.sh` injected and what the clients and
//! servers measured; it is never taken from the spans.
mod expected;
mod truth;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::verdict::{self, Span};
use expected::Ask;
pub use expected::{Expect, Scenario, list, read};
use truth::Requests;

/// Share by which a part may be off in an emulated machine.
const TOLERANCE: f64 = 0.25;

/// `spantap why --json`, as far as it is judged.
#[derive(Deserialize)]
struct Why {
    span_id: String,
    duration_ns: u64,
    parts: Vec<Part>,
    verdict: Value,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    duration_ns: u64,
    evidence: std::collections::BTreeMap<String, u64>,
}

/// A line of `spantap check --json`.
#[derive(Deserialize)]
struct Finding {
    about: String,
    name: String,
    ok: bool,
}

/// Judges every scenario by a function that gives the guest's files. `derived` are the segments that this kernel only derives.
pub fn check(
    scenarios: &[Scenario],
    derived: &[String],
    file: impl Fn(&str) -> Result<Option<String>>,
) -> Result<String> {
    let spans = file("scenarios.jsonl")?.context("the guest brought back no scenarios.jsonl")?;
    let spans = verdict::spans(&spans)?;
    let means = file("check.jsonl")?.context("the guest brought back no check.jsonl")?;
    let mut lines = vec![line("spantap check", published(&means, derived))];
    for scenario in scenarios {
        let text = |end: &str| Ok::<_, anyhow::Error>(file(&format!("{}.{end}", scenario.name))?.unwrap_or_default());
        let requests = Requests::read(&text("client")?, &text("server")?)
            .with_context(|| format!("read what {} says", scenario.name))?;
        for expect in &scenario.expect {
            let why = text(&format!("{}.why", expect.kind))?;
            let judge = Judge { expect, derived, spans: of(expect, &spans), requests: &requests };
            let result = judge.all(&why).map_err(|error| anyhow::anyhow!("{error:#}\n{}", why.trim()));
            lines.push(line(&format!("{} ({})", scenario.name, expect.kind), result));
        }
    }
    let table: String = lines.iter().map(|(_, text)| text.as_str()).collect();
    let wrong = lines.iter().filter(|(right, _)| !right).count();
    ensure!(wrong == 0, "{wrong} of {} findings are wrong:\n{table}", lines.len());
    Ok(format!("{} scenarios:\n{table}", scenarios.len()))
}

fn line(name: &str, result: Result<String>) -> (bool, String) {
    let right = result.is_ok();
    let words = result.unwrap_or_else(|error| format!("WRONG: {error:#}"));
    (right, format!("  {name:<37} {words}\n"))
}

/// Whether `spantap check` says of exactly these segments that they are degraded.
fn published(lines: &str, derived: &[String]) -> Result<String> {
    let finding = |line: &str| serde_json::from_str::<Finding>(line).with_context(|| format!("not a finding: {line}"));
    let findings = lines.lines().map(finding).collect::<Result<Vec<_>>>()?;
    let segments: Vec<&Finding> = findings.iter().filter(|finding| finding.about == "segment").collect();
    ensure!(!segments.is_empty(), "it says nothing of segments");
    let degraded: Vec<&str> =
        segments.iter().filter(|finding| !finding.ok).map(|finding| finding.name.as_str()).collect();
    ensure!(degraded == derived, "degraded are {degraded:?}; tests/kernels.toml says {derived:?}");
    Ok(format!(
        "{} of {} segments as on the newest kernel; derived: {degraded:?}",
        segments.len() - degraded.len(),
        segments.len()
    ))
}

/// The spans that an expectation is about, in the order of time.
fn of<'a>(expect: &Expect, spans: &'a [Span]) -> Vec<&'a Span> {
    let end = format!(":{}", expect.port);
    let is_one = |span: &&Span| {
        span.kind == expect.kind && span.protocol == expect.protocol && span.server_end().ends_with(&end)
    };
    let mut found: Vec<&Span> = spans.iter().filter(is_one).collect();
    found.sort_by_key(|span| span.start_unix_ns);
    found
}

/// Holds one expectation against what came.
struct Judge<'a> {
    expect: &'a Expect,
    derived: &'a [String],
    spans: Vec<&'a Span>,
    requests: &'a Requests,
}

impl Judge<'_> {
    fn all(&self, why: &str) -> Result<String> {
        let (expect, spans) = (self.expect, &self.spans);
        for span in spans {
            verdict::check_span(span).with_context(|| format!("span {}", span.span_id))?;
        }
        ensure!(spans.len() == expect.spans, "{} {} spans of {}", spans.len(), expect.kind, expect.spans);
        ensure!(!why.is_empty(), "nothing to ask why of");
        let why: Why = serde_json::from_str(why).context("read why --json")?;
        let words = self.verdict(&why)?;
        // Where each is slow, each must say so; the first of a connection had also to open it.
        let others = if expect.ask == Ask::Last { &spans[1..] } else { &[] };
        for span in others {
            self.segments(span).with_context(|| format!("span {}", span.span_id))?;
        }
        Ok(words)
    }

    fn verdict(&self, why: &Why) -> Result<String> {
        let expect = self.expect;
        let cause = why.verdict["cause"].as_str().unwrap_or("none");
        ensure!(expect.cause.iter().any(|id| id == cause), "the cause is {cause}, not {:?}", expect.cause);
        if expect.segment.is_empty() {
            return Ok(cause.to_owned());
        }
        let largest = why.parts.iter().max_by_key(|part| part.duration_ns).context("no parts")?;
        ensure!(largest.name == expect.segment, "the largest part is {}, not {}", largest.name, expect.segment);
        let evidence: Vec<&str> = largest.evidence.keys().map(String::as_str).collect();
        self.evidence(&expect.segment, &evidence)?;
        let place = self.spans.iter().position(|span| span.span_id == why.span_id);
        let span = self.spans[place.context("why told of a span that is not among the scenario's")?];
        let (ns, truth_ns) = self.length(span)?;
        Ok(format!(
            "{cause}: {} of {:.0} ms {:.0} ms ({}), truth {:.0} ms",
            expect.segment,
            ms(why.duration_ns as i64),
            ms(ns),
            evidence.join(" + "),
            ms(truth_ns)
        ))
    }

    /// The same by a span's own segments, without why.
    fn segments(&self, span: &Span) -> Result<()> {
        let expect = self.expect;
        if expect.segment.is_empty() {
            return Ok(());
        }
        let largest = span.largest();
        ensure!(largest == expect.segment, "the largest part is {largest}, not {}", expect.segment);
        let tiles = span.segments.iter().filter(|tile| tile.name == expect.segment);
        self.evidence(&expect.segment, &tiles.map(|tile| tile.evidence.as_str()).collect::<Vec<_>>())?;
        self.length(span).map(drop)
    }

    /// What is measured elsewhere may be derived here; then it must be.
    fn evidence(&self, segment: &str, found: &[&str]) -> Result<()> {
        let derived = self.derived.iter().any(|name| name == segment);
        let here = |word: &'_ str| if derived && word == "measured" { "derived".to_owned() } else { word.to_owned() };
        let allowed: Vec<String> = self.expect.evidence.iter().map(|word| here(word)).collect();
        let wrong = found.iter().find(|word| !allowed.iter().any(|allowed| allowed == *word));
        wrong.map_or(Ok(()), |word| bail!("{segment} is {word}; {allowed:?} is right"))
    }

    /// Length of a span's segment, and what it was.
    fn length(&self, span: &Span) -> Result<(i64, i64)> {
        let place = self.spans.iter().position(|other| other.span_id == span.span_id).unwrap_or(0);
        let facts = self.requests.of(span.path(), place)?;
        self.fits(self.measured(span), truth::value(&self.expect.truth, &facts)?)
    }

    fn measured(&self, span: &Span) -> i64 {
        let own = std::slice::from_ref(&self.expect.segment);
        let names = if self.expect.measure.is_empty() { own } else { &self.expect.measure };
        let tiles = span.segments.iter().filter(|tile| names.contains(&tile.name));
        tiles.map(|tile| tile.duration_ns as i64).sum()
    }

    fn fits(&self, ns: i64, truth_ns: i64) -> Result<(i64, i64)> {
        let injected_ms = self.expect.injected_ms;
        ensure!(
            truth_ns >= injected_ms as i64 * 1_000_000,
            "the rig made {:.0} ms slow and not {injected_ms}",
            ms(truth_ns)
        );
        let off = (ns - truth_ns).abs() as f64;
        ensure!(
            off <= truth_ns as f64 * TOLERANCE,
            "{} took {:.0} ms; the truth is {:.0} ms",
            self.expect.segment,
            ms(ns),
            ms(truth_ns)
        );
        Ok((ns, truth_ns))
    }
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests;
