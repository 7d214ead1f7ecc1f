//! `spantap why ID`: where the time of one span went: the parts as bars, and a verdict in words.
//!
//! The verdict names the part that took the longest, how that is known, what else was seen, what was not measured, and what to ask
//! next. It never says more than the segments do.

mod verdict;

use std::process::ExitCode;

use serde::Serialize;

use super::{Done, Output, json, text};
use crate::{
    cli::IdArgs,
    query::{
        api::{SpanView, hex},
        client::Client,
    },
};
use text::Part;
use verdict::Verdict;

/// Characters of a bar that is the whole span.
const BAR: usize = 40;

pub(super) async fn why(args: &IdArgs, output: &mut Output) -> Done {
    let spans = Client::connect(&args.read.socket).await?.trace(&args.id).await?;
    let prefix = args.id.trim().to_ascii_lowercase();
    let Some(span) = choose(&spans, &prefix) else {
        anyhow::bail!("no span {prefix} in the agent's answer");
    };
    if args.read.json {
        output.line(&json(span, &spans))?;
    } else {
        output.text(&render(span, &spans, output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The span with the id; if it is the trace's id, the longest span.
fn choose<'a>(spans: &'a [SpanView], prefix: &str) -> Option<&'a SpanView> {
    let by_id = spans.iter().find(|span| hex(&span.span_id).starts_with(prefix));
    by_id.or_else(|| spans.iter().max_by_key(|span| (span.duration_ns, std::cmp::Reverse(span.start_unix_ns))))
}

/// One line of `spantap why --json`.
#[derive(Serialize)]
struct JsonWhy<'a> {
    trace_id: String,
    span_id: String,
    kind: &'a str,
    name: &'a str,
    service: &'a str,
    duration_ns: u64,
    status: &'a str,
    parts: Vec<JsonPart>,
    verdict: JsonVerdict,
}

#[derive(Serialize)]
struct JsonPart {
    name: String,
    duration_ns: u64,
    share: f64,
    evidence: std::collections::BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct JsonVerdict {
    /// The part that took the longest; `null`: the span has no segments.
    segment: Option<String>,
    duration_ns: u64,
    words: Vec<String>,
    next: String,
}

fn json(span: &SpanView, trace: &[SpanView]) -> String {
    let parts = text::parts(&span.segments);
    let verdict = Verdict::of(span, &parts, trace);
    let dominant = text::dominant(&parts);
    let part = |part: &Part| JsonPart {
        name: part.name.clone(),
        duration_ns: part.duration_ns,
        share: if span.duration_ns == 0 { 0.0 } else { part.duration_ns as f64 / span.duration_ns as f64 },
        evidence: part.evidence.iter().cloned().collect(),
    };
    json::line(&JsonWhy {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        kind: &span.kind,
        name: &span.name,
        service: &span.service,
        duration_ns: span.duration_ns,
        status: &span.status,
        parts: parts.iter().map(part).collect(),
        verdict: JsonVerdict {
            segment: dominant.map(|part| part.name.clone()),
            duration_ns: dominant.map_or(0, |part| part.duration_ns),
            words: verdict.words,
            next: verdict.next,
        },
    })
}

fn render(span: &SpanView, trace: &[SpanView], colour: bool) -> String {
    let parts = text::parts(&span.segments);
    let verdict = Verdict::of(span, &parts, trace);
    let mut out = head(span, colour);
    for part in &parts {
        out.push_str(&row(part, span.duration_ns));
    }
    out.push('\n');
    for (index, words) in verdict.words.iter().enumerate() {
        let line = if index == 0 { text::bold(words, colour) } else { words.clone() };
        out.push_str(&line);
        out.push('\n');
    }
    out.push_str(&format!("next: {}\n", verdict.next));
    out
}

fn head(span: &SpanView, colour: bool) -> String {
    let title = format!("{} {} of {}", span.kind, text::clean(&span.name), text::or_dash(&span.service));
    let pid = if span.pid == 0 { "unknown".to_owned() } else { span.pid.to_string() };
    format!(
        "{}\n{} at {}, {}\npid {pid}, {} to {}, span {}, trace {}\n\n",
        text::bold(&title, colour),
        text::ms(span.duration_ns),
        text::time(span.start_unix_ns),
        span.status,
        text::or_dash(&span.local),
        text::or_dash(&span.peer),
        hex(&span.span_id),
        hex(&span.trace_id),
    )
}

fn row(part: &Part, whole_ns: u64) -> String {
    let length = (u128::from(part.duration_ns) * BAR as u128).div_ceil(u128::from(whole_ns.max(1)));
    let bar = "#".repeat(usize::try_from(length).unwrap_or(BAR).min(BAR));
    let share = text::percent(part.duration_ns, whole_ns);
    let duration = text::ms(part.duration_ns);
    let line = format!("  {:<14}  {duration:>12}  {share:>7}  {bar:<BAR$}  {}", part.name, part.evidence_words());
    format!("{}\n", text::clean(&line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn the_client_is_sent_on_to_the_server() {
        let trace = fixtures::trace();
        fixtures::check_golden("why_client.txt", &render(&trace[0], &trace, false));
    }

    #[test]
    fn the_server_names_its_application() {
        let trace = fixtures::trace();
        fixtures::check_golden("why_server.txt", &render(&trace[1], &trace, false));
    }

    #[test]
    fn json_names_the_dominant_segment() {
        let trace = fixtures::trace();
        let line: serde_json::Value = serde_json::from_str(&json(&trace[0], &trace)).expect("JSON");
        assert_eq!(line["verdict"]["segment"], "remote");
        assert_eq!(line["verdict"]["duration_ns"], 8_000_000);
        assert_eq!(line["parts"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn a_span_without_segments_says_so() {
        let mut span = fixtures::trace().remove(0);
        span.segments.clear();
        let text = render(&span, std::slice::from_ref(&span), false);
        assert!(text.contains("nothing was observed"), "{text}");
    }

    #[test]
    fn an_id_of_a_span_wins_over_the_longest_span() {
        let trace = fixtures::trace();
        let chosen = |id: &str| choose(&trace, id).map(|span| hex(&span.span_id));
        assert_eq!(chosen(&hex(&trace[1].span_id)[..6]), Some(hex(&trace[1].span_id)));
        assert_eq!(chosen(&hex(&trace[0].trace_id)), Some(hex(&trace[0].span_id)));
    }
}
