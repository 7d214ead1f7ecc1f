//! Judges what the guest's scenarios brought back.
//!
//! In: `spantap spans --json`, `spantap why --json` of one span of each scenario, the clients' own times. Out: a table, or all that
//! is wrong. The truth is what `tests/vm/scenarios.sh` injected and what the clients measured; it is never taken from the spans.
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::verdict;

/// What one scenario must show. Names, kinds, ports and counts are also in `tests/vm/scenarios.sh`.
struct Scenario {
    name: &'static str,
    kind: &'static str,
    port: u16,
    spans: usize,
    /// The largest part.
    segment: &'static str,
    cause: &'static str,
    /// How much of it was injected; none: the segment and its length are not what this scenario is about.
    injected_ms: Option<u64>,
}

const fn scenario(name: &'static str, kind: &'static str, port: u16, spans: usize) -> Scenario {
    Scenario { name, kind, port, spans, segment: "", cause: "", injected_ms: None }
}

impl Scenario {
    const fn shows(self, segment: &'static str, cause: &'static str, injected_ms: u64) -> Self {
        Self { segment, cause, injected_ms: Some(injected_ms), ..self }
    }
}

const SCENARIOS: &[Scenario] = &[
    scenario("slow_server", "client", 8101, 4).shows("remote", "remote_slow", 300),
    scenario("sleeping_server", "server", 8102, 4).shows("off_cpu", "blocked_sleep", 300),
    scenario("network_delay", "client", 8103, 4).shows("network", "network_delay", 300),
    scenario("network_loss", "client", 8104, 30).shows("network", "network_loss", 200),
    scenario("egress_queue", "client", 8110, 4).shows("queue", "egress_queue", 300),
    scenario("slow_reader", "client", 8105, 4).shows("receive_buffer", "reader_busy", 400),
    Scenario { cause: "connect_refused", ..scenario("refused", "client", 8106, 1) },
    scenario("syn_lost", "client", 8107, 1).shows("connect", "connect_syn_lost", 1000),
    scenario("slow_names", "client", 8111, 1).shows("dns", "dns_slow", 300),
    scenario("busy_cpu", "server", 8108, 3).shows("run_queue", "cpu_contention", 200),
    scenario("throttled", "server", 8109, 3).shows("run_queue", "cpu_throttled", 250),
];

/// Share by which a part may be off in an emulated machine.
const TOLERANCE: f64 = 0.25;

/// `spantap why --json`, as far as it is judged.
#[derive(Deserialize)]
struct Why {
    duration_ns: u64,
    parts: Vec<Part>,
    verdict: Value,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    duration_ns: u64,
    share: f64,
    evidence: std::collections::BTreeMap<String, u64>,
}

/// One line of a client.
#[derive(Deserialize)]
struct Exchange {
    start_ns: u64,
    end_ns: u64,
}

/// Judges every scenario by a function that gives the guest's files.
/// Of the `unseen` ones the cause must be called unknown.
pub fn check(unseen: &[String], file: impl Fn(&str) -> Result<Option<String>>) -> Result<String> {
    let spans = file("scenarios.jsonl")?.context("the guest brought back no scenarios.jsonl")?;
    let spans = verdict::spans(&spans)?;
    let mut lines = Vec::new();
    let mut wrong = 0;
    for scenario in SCENARIOS {
        let why = file(&format!("{}.why", scenario.name))?;
        let own = file(&format!("{}.client", scenario.name))?.unwrap_or_default();
        let result = scenario.count(&spans).and_then(|()| {
            if unseen.iter().any(|name| name == scenario.name) {
                scenario.judge_unseen(why.as_deref())
            } else {
                scenario.judge(why.as_deref(), &own)
            }
        });
        wrong += usize::from(result.is_err());
        let words = result.unwrap_or_else(|error| format!("WRONG: {error:#}\n{}", why.unwrap_or_default().trim()));
        lines.push(format!("  {:<16} {words}", scenario.name));
    }
    let table = lines.join("\n");
    ensure!(wrong == 0, "{wrong} of {} scenarios are wrong:\n{table}", SCENARIOS.len());
    Ok(format!("{} scenarios:\n{table}", SCENARIOS.len()))
}

impl Scenario {
    /// As many spans as requests, each of them sound.
    fn count(&self, spans: &[verdict::Span]) -> Result<()> {
        let end = format!(":{}", self.port);
        let mine: Vec<_> =
            spans.iter().filter(|span| span.kind == self.kind && span.server_end().ends_with(&end)).collect();
        for span in &mine {
            verdict::check_span(span).with_context(|| format!("span {}", span.span_id))?;
        }
        ensure!(mine.len() == self.spans, "{} {} spans of {}", mine.len(), self.kind, self.spans);
        Ok(())
    }

    fn judge(&self, why: Option<&str>, own: &str) -> Result<String> {
        let why: Why = serde_json::from_str(why.context("nothing to ask why of")?).context("read why --json")?;
        let cause = why.verdict["cause"].as_str().unwrap_or("none");
        ensure!(cause == self.cause, "the cause is {cause}, not {}", self.cause);
        let Some(injected_ms) = self.injected_ms else { return Ok(cause.to_owned()) };
        let largest = why.parts.iter().max_by_key(|part| part.duration_ns).context("no parts")?;
        ensure!(largest.name == self.segment, "the largest part is {}, not {}", largest.name, self.segment);
        self.check_length(largest, injected_ms, own)?;
        Ok(format!(
            "{cause}: {} {:.0} ms of {:.0} ms ({:.0} %, {}), {injected_ms} ms injected",
            largest.name,
            ms(largest.duration_ns),
            ms(why.duration_ns),
            largest.share * 100.0,
            largest.evidence.keys().map(String::as_str).collect::<Vec<_>>().join(" + "),
        ))
    }

    /// What was not seen is neither given a cause nor called measured.
    fn judge_unseen(&self, why: Option<&str>) -> Result<String> {
        let why: Why = serde_json::from_str(why.context("nothing to ask why of")?).context("read why --json")?;
        let cause = why.verdict["cause"].as_str().unwrap_or("none");
        ensure!(cause == "held_unknown", "the cause is {cause}, not held_unknown, though nothing says so");
        let largest = why.parts.iter().max_by_key(|part| part.duration_ns).context("no parts")?;
        ensure!(!largest.evidence.contains_key("measured"), "{} was not seen and is called measured", largest.name);
        Ok(format!("not seen on this kernel: {cause}"))
    }

    /// At least what was injected, and not more than the client saw of the request.
    fn check_length(&self, part: &Part, injected_ms: u64, own: &str) -> Result<()> {
        let took = |line: &str| -> Result<u64> {
            let exchange: Exchange = serde_json::from_str(line).with_context(|| format!("not an exchange: {line}"))?;
            Ok(exchange.end_ns.saturating_sub(exchange.start_ns))
        };
        let longest = own.lines().map(took).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        let (least, most) =
            (injected_ms as f64 * (1.0 - TOLERANCE), ms(longest).max(injected_ms as f64) * (1.0 + TOLERANCE));
        let length = ms(part.duration_ns);
        if !(least..=most).contains(&length) {
            bail!("{} took {length:.0} ms; between {least:.0} and {most:.0} ms are right", part.name);
        }
        Ok(())
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "{\"path\":\"/\",\"start_ns\":1000000,\"end_ns\":311000000}\n";

    fn why(segment: &str, part_ms: u64, cause: &str) -> String {
        format!(
            r#"{{"duration_ns":310000000,"parts":[{{"name":"send","duration_ns":1000,"share":0.0,"evidence":{{"measured":1}}}},{{"name":"{segment}","duration_ns":{part_ms}000000,"share":0.9,"evidence":{{"derived":1}}}}],"verdict":{{"cause":"{cause}"}}}}"#
        )
    }

    #[track_caller]
    fn judged(why: &str, expected: &str) {
        let result = match SCENARIOS[0].judge(Some(why), OWN) {
            Ok(words) => words,
            Err(error) => format!("error: {error:#}"),
        };
        assert!(result.starts_with(expected), "{result}");
    }

    #[test]
    fn cause_segment_and_length_must_be_right() {
        judged(&why("remote", 300, "remote_slow"), "remote_slow: remote 300 ms of 310 ms (90 %, derived)");
        judged(&why("remote", 300, "network_delay"), "error: the cause is network_delay");
        judged(&why("network", 300, "remote_slow"), "error: the largest part is network");
        judged(&why("remote", 200, "remote_slow"), "error: remote took 200 ms; between 225 and 388 ms");
        judged(&why("remote", 400, "remote_slow"), "error: remote took 400 ms");
        judged(r#"{"duration_ns":1,"parts":[],"verdict":{}}"#, "error: the cause is none");
    }

    #[test]
    fn what_is_not_seen_must_be_called_unknown() {
        let unseen = |why: &str| SCENARIOS[4].judge_unseen(Some(why));
        unseen(&why("held", 300, "held_unknown")).unwrap();
        assert!(unseen(&why("held", 300, "held_cwnd")).is_err());
        assert!(unseen(&why("held", 300, "held_unknown").replace("derived", "measured")).is_err());
    }

    #[test]
    fn a_span_too_many_or_too_few_is_wrong() {
        let line = |peer: &str| {
            format!(
                r#"{{"span_id":"a","kind":"client","protocol":"http","local":"10.0.0.1:9","peer":"{peer}","start_unix_ns":5,"duration_ns":9,"segments":[{{"name":"remote","duration_ns":9,"evidence":"derived"}}]}}"#
            ) + "\n"
        };
        let spans = |count: usize| verdict::spans(&line("127.0.0.1:8101").repeat(count)).unwrap();
        SCENARIOS[0].count(&spans(4)).unwrap();
        assert!(SCENARIOS[0].count(&spans(3)).is_err());
        assert!(SCENARIOS[0].count(&spans(5)).is_err());
        let elsewhere = verdict::spans(&line("127.0.0.1:18101").repeat(4)).unwrap();
        assert!(SCENARIOS[0].count(&elsewhere).is_err());
    }

    #[test]
    fn the_guest_runs_the_same_scenarios() {
        let script = include_str!("../../../tests/vm/scenarios.sh");
        for Scenario { name, kind, port, spans, .. } in SCENARIOS {
            let line = format!("\njudge {name} {kind} {port} {spans} ");
            assert!(script.contains(&line), "tests/vm/scenarios.sh has no line `{}`", line.trim());
        }
        assert_eq!(script.matches("\njudge ").count(), SCENARIOS.len());
    }
}
