//! `spantap why ID`: where the time of one span went: the parts as bars, and a verdict in words.
//!
//! The verdict names the part that took the longest, how that is known, what else was seen, what was not measured, and what to ask
//! next. It never says more than the segments do.

mod around;
mod verdict;

use std::{path::Path, process::ExitCode};

use agent_common::loss::KernelLoss;
use agent_core::cause::Cause;
use serde::Serialize;

use super::{Done, Output, json, text};
use crate::{
    cli::IdArgs,
    query::{
        api::{SpanView, SpansRequest, StatusReport, hex},
        client::{Client, ClientError},
    },
};
use text::Part;
use verdict::Verdict;

/// Characters of a bar that is the whole span.
const BAR: usize = 40;
/// Most spans outside the trace that are looked at for what explains the span.
const NEAR_MAX: usize = 20_000;

pub(super) async fn why(args: &IdArgs, output: &mut Output) -> Done {
    let mut client = Client::connect(&args.read.socket).await?;
    let mut spans = client.trace(&args.id).await?;
    let prefix = args.id.trim().to_ascii_lowercase();
    let Some(span) = choose(&spans, &prefix).cloned() else {
        anyhow::bail!("no span {prefix} in the agent's answer");
    };
    spans.extend(near(&mut client, &span, &spans).await?);
    let blind = blind(&span, &client.status().await?);
    if args.read.json {
        output.line(&json(&span, &spans, &blind))?;
    } else {
        output.text(&render(&span, &spans, &blind, &args.read.socket, output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What this agent cannot see, or chose not to.
fn blind(span: &SpanView, status: &StatusReport) -> Vec<String> {
    let missing = status.hooks.iter().filter(|hook| !hook.attached);
    let mut words: Vec<String> =
        missing.map(|hook| format!("the hook {} is not attached: {}", hook.name, hook.means)).collect();
    let shed = status.losses.iter().filter(|loss| loss.reason == KernelLoss::PayloadShed.name());
    let times: u64 = shed.map(|loss| loss.count).sum();
    if times > 0 && span.protocol == "tcp" {
        words.push(format!(
            "payload of what is selected was left out of {times} calls since the agent started, to keep to capture.max_cpu_percent: \
             without it nobody knows what was asked"
        ));
    }
    words
}

/// Spans of other traces that may explain this one: of the listener that did not answer, or of lookups and calls that the
/// process made.
async fn near(client: &mut Client, span: &SpanView, trace: &[SpanView]) -> Result<Vec<SpanView>, ClientError> {
    let (kind, service) = match verdict::finding(span, trace).map(|finding| finding.decision.cause) {
        Some(Cause::ConnectSynLost) => ("server", ""),
        Some(Cause::DnsSlow) => ("client", span.service.as_str()),
        Some(Cause::BlockedDownstream | Cause::BlockedPoll) => ("client", span.service.as_str()),
        _ => return Ok(Vec::new()),
    };
    let request = SpansRequest {
        since_unix_ns: span.start_unix_ns,
        kind: kind.to_owned(),
        service: service.to_owned(),
        ..Default::default()
    };
    let until = span.end_unix_ns().saturating_add(around::AFTER_NS);
    let mut found = client.spans(request).await?;
    let mut near = Vec::new();
    while near.len() < NEAR_MAX
        && let Some(other) = found.next().await?
        && other.end_unix_ns() <= until.saturating_add(around::AFTER_NS)
    {
        if other.trace_id != span.trace_id && (other.pid == span.pid || other.local == span.peer) {
            near.push(other);
        }
    }
    Ok(near)
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
    by: std::collections::BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct JsonVerdict {
    /// Id of the catalogue; `null`: the span shows neither an error nor segments.
    cause: Option<&'static str>,
    /// The part that took the longest; `null`: the span has no segments.
    segment: Option<&'static str>,
    duration_ns: u64,
    share: f64,
    sentence: String,
    evidence: Vec<String>,
    ruled_out: Vec<String>,
    not_seen: Vec<String>,
    words: Vec<String>,
    next: String,
}

fn json(span: &SpanView, others: &[SpanView], blind: &[String]) -> String {
    let share = |ns: u64| if span.duration_ns == 0 { 0.0 } else { ns as f64 / span.duration_ns as f64 };
    let part = |part: Part| JsonPart {
        share: share(part.duration_ns),
        name: part.name,
        duration_ns: part.duration_ns,
        evidence: part.evidence.into_iter().collect(),
        by: part.by.into_iter().collect(),
    };
    json::line(&JsonWhy {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        kind: &span.kind,
        name: &span.name,
        service: &span.service,
        duration_ns: span.duration_ns,
        status: &span.status,
        parts: text::parts(&span.segments).into_iter().map(part).collect(),
        verdict: json_verdict(Verdict::of(span, others, blind), share),
    })
}

fn json_verdict(verdict: Verdict, share: impl Fn(u64) -> f64) -> JsonVerdict {
    let (cause, words, next) = (verdict.cause(), verdict.words(), verdict.next);
    let decision = verdict.finding.as_ref().map(|finding| finding.decision);
    let duration_ns = decision.map_or(0, |decision| decision.duration_ns);
    let segment = decision.and_then(|decision| decision.segment).map(|name| name.name());
    let (sentence, evidence, ruled_out, not_seen) =
        verdict.finding.map(|it| (it.sentence, it.evidence, it.ruled_out, it.not_seen)).unwrap_or_default();
    let share = share(duration_ns);
    JsonVerdict { cause, segment, duration_ns, share, sentence, evidence, ruled_out, not_seen, words, next }
}

fn render(span: &SpanView, others: &[SpanView], blind: &[String], socket: &Path, colour: bool) -> String {
    let verdict = Verdict::of(span, others, blind);
    let mut out = head(span, colour);
    for part in &text::parts(&span.segments) {
        out.push_str(&row(part, span.duration_ns));
    }
    out.push('\n');
    for (index, words) in verdict.words().iter().enumerate() {
        let words = text::clean(words);
        out.push_str(&if index == 0 { text::bold(&words, colour) } else { words });
        out.push('\n');
    }
    out.push_str(&format!("next: {}\n", text::ask(&verdict.next, socket)));
    out
}

fn head(span: &SpanView, colour: bool) -> String {
    let title = format!("{} {} of {}", span.kind, text::clean(&span.name), text::or_dash(&span.service));
    let whence = if verdict::is_foreign(span) { foreign(span) } else { captured(span) };
    format!(
        "{}\n{} at {}, {}\n{}, span {}, trace {}\n\n",
        text::bold(&title, colour),
        text::ms(span.duration_ns),
        text::time(span.start_unix_ns),
        outcome(span),
        text::clean(&whence),
        hex(&span.span_id),
        hex(&span.trace_id),
    )
}

/// The status, and of an error its type.
fn outcome(span: &SpanView) -> String {
    let code = span.int("http.response.status_code").map(|code| format!("HTTP {code}"));
    let kind =
        span.text("error.type").map(str::to_owned).or_else(|| span.text("rpc.grpc.status_code").map(str::to_owned));
    match (span.status.as_str(), code, kind) {
        ("error", Some(code), Some(kind)) if !code.ends_with(&kind) => {
            format!("error ({}, {code})", text::clean(&kind))
        }
        ("error", Some(code), _) => format!("error ({code})"),
        ("error", None, Some(kind)) => format!("error ({})", text::clean(&kind)),
        (status, _, _) => status.to_owned(),
    }
}

fn captured(span: &SpanView) -> String {
    let pid = if span.pid == 0 { "unknown".to_owned() } else { span.pid.to_string() };
    format!("pid {pid}{}, {} to {}", place(span), text::or_dash(&span.local), text::or_dash(&span.peer))
}

/// Its pod and container.
fn place(span: &SpanView) -> String {
    let name = span.text("k8s.container.name").or_else(|| span.text("container.name"));
    let container = name.or_else(|| span.text("container.id").map(|id| &id[..id.floor_char_boundary(12)]));
    let container = container.map_or_else(String::new, |name| format!(" in container {name}"));
    match (span.text("k8s.namespace.name"), span.text("k8s.pod.name")) {
        (Some(namespace), Some(pod)) => format!("{container} of pod {namespace}/{pod}"),
        _ => container,
    }
}

/// What a span that was sent to the agent says of its process and of whom it spoke with.
fn foreign(span: &SpanView) -> String {
    let sdk: Vec<&str> =
        ["telemetry.sdk.name", "telemetry.sdk.language"].iter().filter_map(|key| span.text(key)).collect();
    let mut words = match sdk.as_slice() {
        [] => "sent by a program, not captured".to_owned(),
        sdk => format!("sent by an SDK ({}), not captured", sdk.join(" ")),
    };
    if span.pid != 0 {
        words.push_str(&format!(", pid {}", span.pid));
    }
    if let Some(host) = span.text("host.name") {
        words.push_str(&format!(", on {host}"));
    }
    if let Some(peer) = named_peer(span) {
        words.push_str(&format!(", peer {peer}"));
    }
    words
}

/// The other end, as the semantic conventions of today or before name it.
fn named_peer(span: &SpanView) -> Option<String> {
    if !span.peer.is_empty() {
        return Some(span.peer.clone());
    }
    let keys = match span.kind.as_str() {
        "server" | "consumer" => [("client.address", "client.port"), ("net.peer.ip", "net.peer.port")],
        _ => [("server.address", "server.port"), ("net.peer.name", "net.peer.port")],
    };
    let named = |(address, port): (&str, &str)| {
        let address = span.text(address)?;
        Some(span.int(port).map_or_else(|| address.to_owned(), |port| format!("{address}:{port}")))
    };
    let service = || span.text("service.peer.name").or_else(|| span.text("peer.service")).map(str::to_owned);
    let known = keys.into_iter().find_map(named).or_else(service);
    known.or_else(|| span.text("messaging.destination.name").map(str::to_owned))
}

fn row(part: &Part, whole_ns: u64) -> String {
    let length = (u128::from(part.duration_ns) * BAR as u128).div_ceil(u128::from(whole_ns.max(1)));
    let bar = "#".repeat(usize::try_from(length).unwrap_or(BAR).min(BAR));
    let share = text::percent(part.duration_ns, whole_ns);
    let duration = text::ms(part.duration_ns);
    let line = format!("  {:<14}  {duration:>12}  {share:>7}  {bar:<BAR$}  {}", part.name, part.notes());
    format!("{}\n", text::clean(&line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::SOCKET_DEFAULT, commands::fixtures, query::api::Loss};

    #[test]
    fn payload_that_was_left_out_is_told_of_spans_that_lack_it() {
        let mut status = fixtures::status();
        let mut span = fixtures::trace().remove(0);
        span.protocol = "tcp".to_owned();
        let count = |words: Vec<String>| words.iter().filter(|words| words.contains("max_cpu_percent")).count();
        assert_eq!(count(blind(&span, &status)), 0);
        let loss = |cpu: &str| Loss { source: cpu.to_owned(), reason: "payload_shed".to_owned(), count: 7 };
        status.losses.extend([loss("kernel cpu 0"), loss("kernel cpu 1")]);
        let words = blind(&span, &status);
        assert!(words.iter().any(|words| words.contains("left out of 14 calls")), "{words:?}");
        span.protocol = "http".to_owned();
        assert_eq!(count(blind(&span, &status)), 0, "its payload was there");
    }

    #[test]
    fn the_client_is_sent_on_to_the_server() {
        let trace = fixtures::trace();
        fixtures::check_golden("why_client.txt", &render(&trace[0], &trace, &[], Path::new(SOCKET_DEFAULT), false));
    }

    #[test]
    fn the_server_names_its_application() {
        let trace = fixtures::trace();
        fixtures::check_golden("why_server.txt", &render(&trace[1], &trace, &[], Path::new(SOCKET_DEFAULT), false));
    }

    #[test]
    fn json_names_the_dominant_segment() {
        let trace = fixtures::trace();
        let line: serde_json::Value = serde_json::from_str(&json(&trace[0], &trace, &[])).expect("JSON");
        assert_eq!(line["verdict"]["segment"], "remote");
        assert_eq!(line["verdict"]["cause"], "remote_slow");
        assert_eq!(line["verdict"]["duration_ns"], 8_000_000);
        assert!(line["verdict"]["share"].as_f64().is_some_and(|share| (0.80..0.82).contains(&share)), "{line}");
        let list = |name: &str| line["verdict"][name].as_array().map(Vec::len);
        assert_eq!((list("evidence"), list("ruled_out"), list("not_seen")), (Some(2), Some(3), Some(2)), "{line}");
        assert_eq!(line["parts"].as_array().map(Vec::len), Some(4));
    }

    #[test]
    fn a_span_without_segments_says_so() {
        let mut span = fixtures::trace().remove(0);
        span.segments.clear();
        let text = render(&span, std::slice::from_ref(&span), &[], Path::new(SOCKET_DEFAULT), false);
        assert!(text.contains("nothing was observed"), "{text}");
    }

    #[test]
    fn a_span_of_an_sdk_shows_what_it_says_of_itself() {
        let mut span = fixtures::trace().remove(0);
        (span.pid, span.protocol) = (0, String::new());
        (span.local, span.peer) = (String::new(), String::new());
        span.segments.clear();
        span.attributes = vec![
            fixtures::text("telemetry.sdk.name", "opentelemetry"),
            fixtures::text("telemetry.sdk.language", "python"),
            fixtures::text("host.name", "web-1"),
            fixtures::text("server.address", "orders.example"),
            fixtures::int("server.port", 443),
        ];
        let show = |span: &SpanView| render(span, std::slice::from_ref(span), &[], Path::new(SOCKET_DEFAULT), false);
        fixtures::check_golden("why_sdk.txt", &show(&span));
        span.attributes.clear();
        assert!(show(&span).contains("\nsent by a program, not captured, span a1a1"), "{}", show(&span));
    }

    #[test]
    fn an_id_of_a_span_wins_over_the_longest_span() {
        let trace = fixtures::trace();
        let chosen = |id: &str| choose(&trace, id).map(|span| hex(&span.span_id));
        assert_eq!(chosen(&hex(&trace[1].span_id)[..6]), Some(hex(&trace[1].span_id)));
        assert_eq!(chosen(&hex(&trace[0].trace_id)), Some(hex(&trace[0].span_id)));
    }
}
