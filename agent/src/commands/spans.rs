//! `spantap spans`: one line per span, of the past or as they end.

use std::process::ExitCode;

use super::{Done, Output, json, request, text};
use crate::{
    cli::SpansArgs,
    query::{
        api::{Order, SpanView, SpansRequest, hex},
        client::Client,
    },
};

/// How long a burst may be held back before it is printed; unnoticeable, and spares a write per span.
const BURST: std::time::Duration = std::time::Duration::from_millis(5);

/// What there is to say without a span.
pub(super) const NO_MATCH: &str = "no span matches; `spantap spans --follow` shows what arrives\n";

pub(super) async fn spans(args: &SpansArgs, output: &mut Output) -> Done {
    let wanted = SpansRequest {
        limit: args.limit,
        follow: args.follow,
        only_new: args.follow && args.filter.since.is_none(),
        order: Order::Newest.into(),
        ..request(&args.filter)
    };
    let mut spans = Client::connect(&args.read.socket).await?.spans(wanted).await?;
    if !args.read.json {
        output.line(&text::dim(&header(), output.colour))?;
    }
    let (mut is_flushed, mut none) = (false, true);
    loop {
        let next = if is_flushed {
            spans.next().await?
        } else {
            match tokio::time::timeout(BURST, spans.next()).await {
                Ok(next) => next?,
                Err(_) => {
                    output.flush()?;
                    is_flushed = true;
                    continue;
                }
            }
        };
        let Some(span) = next else { break };
        let line = if args.read.json { json::span(&span) } else { row(&span, output.colour) };
        output.line(&line)?;
        (is_flushed, none) = (false, false);
    }
    if none && !args.read.json {
        output.text(NO_MATCH)?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn header() -> String {
    format!(
        "{:<27}  {:>12}  {:<8}  {:<7}  {:<16}  {:<21}  {:<16}  {:<20}  {:<28}  {}",
        "START", "DURATION", "KIND", "STATUS", "SERVICE", "PEER", "SPAN", "MOST TIME IN", "CAUSE", "NAME"
    )
}

/// One line. Long services and peers push the rest aside rather than being cut: they are what is looked for.
pub(super) fn row(span: &SpanView, colour: bool) -> String {
    let status = format!("{:<7}", span.status);
    format!(
        "{:<27}  {:>12}  {:<8}  {}  {:<16}  {:<21}  {:<16}  {:<20}  {:<28}  {}",
        text::time(span.start_unix_ns),
        text::ms(span.duration_ns),
        span.kind,
        if span.status == "error" { text::red(&status, colour) } else { status },
        text::or_dash(&span.service),
        text::or_dash(&span.peer),
        hex(&span.span_id),
        text::dominant_words(span),
        text::or_dash(span.cause()),
        text::clean(&span.name),
    )
}

/// The table, without waiting for anything.
#[cfg(test)]
fn render(spans: &[SpanView]) -> String {
    let rows = spans.iter().map(|span| row(span, false));
    [header()].into_iter().chain(rows).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn spans_are_one_aligned_line_each() {
        fixtures::check_golden("spans.txt", &render(&fixtures::trace()));
    }

    /// A relayed span has whatever its sender wrote, segments too.
    #[test]
    fn nothing_in_a_span_reaches_the_terminal_as_a_command() {
        let mut span = fixtures::trace().remove(0);
        let evil = "\x1b]0;x\x07\u{9b}31m\x7f";
        for segment in &mut span.segments {
            for text in [&mut segment.name, &mut segment.evidence, &mut segment.by] {
                evil.clone_into(text);
            }
        }
        for text in [&mut span.name, &mut span.service, &mut span.peer] {
            evil.clone_into(text);
        }
        for line in [row(&span, false), json::span(&span)] {
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        let read: serde_json::Value = serde_json::from_str(&json::span(&span)).unwrap();
        assert_eq!(read["segments"][0]["name"], evil);
    }

    #[test]
    fn json_has_exactly_the_documented_fields() {
        let lines: String = fixtures::trace().iter().map(|span| json::span(span) + "\n").collect();
        fixtures::check_golden("spans.jsonl", &lines);
    }
}
