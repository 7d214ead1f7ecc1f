//! `spantap trace ID`: the spans of a trace below each other, each with its segments, on one time axis.

use super::{Done, Output, answer, text};
use crate::{
    cli::IdArgs,
    query::{
        api::{SpanView, hex},
        client::Client,
    },
};

/// Characters of the time axis.
const AXIS: usize = 48;
/// Deepest indentation; what is deeper stands at the same depth.
const DEPTH_MAX: usize = 12;

pub(super) async fn trace(args: &IdArgs, output: &mut Output) -> Done {
    let spans = Client::connect(&args.read.socket).await?.trace(&args.id).await?;
    answer(&spans, args.read.json, render, output)
}

/// Start and length of the time axis.
#[derive(Clone, Copy)]
struct Axis {
    start_unix_ns: u64,
    duration_ns: u64,
}

impl Axis {
    fn of(spans: &[SpanView]) -> Self {
        let start = spans.iter().map(|span| span.start_unix_ns).min().unwrap_or(0);
        let end = spans.iter().map(SpanView::end_unix_ns).max().unwrap_or(0);
        Self { start_unix_ns: start, duration_ns: end - start }
    }

    /// A bar where the time is; never empty, so that nothing is invisible.
    fn bar(self, start_unix_ns: u64, duration_ns: u64, fill: char) -> String {
        let column = |unix_ns: u64| {
            let offset = u128::from(unix_ns.saturating_sub(self.start_unix_ns));
            let column =
                (offset * AXIS as u128 + u128::from(self.duration_ns) / 2) / u128::from(self.duration_ns.max(1));
            usize::try_from(column).unwrap_or(AXIS).min(AXIS)
        };
        let start = column(start_unix_ns).min(AXIS - 1);
        let end = column(start_unix_ns.saturating_add(duration_ns)).max(start + 1);
        let fill: String = std::iter::repeat_n(fill, end - start).collect();
        format!("|{}{fill}{}|", " ".repeat(start), " ".repeat(AXIS - end))
    }
}

fn render(spans: &[SpanView], colour: bool) -> String {
    let Some(first) = spans.first() else { return String::new() };
    let axis = Axis::of(spans);
    let label = |(depth, span): &(usize, &SpanView)| format!("{}{}", "  ".repeat(*depth), title(span));
    let rows = tree(spans);
    let segment_labels = rows.iter().flat_map(|(depth, span)| {
        span.segments.iter().map(move |segment| 2 * depth + 4 + text::segment_label(segment).chars().count())
    });
    let label_widths = rows.iter().map(|row| label(row).chars().count());
    let width = label_widths.chain(segment_labels).max().unwrap_or(0);
    let mut out = format!(
        "{}\n{} {}, {} from {}\n\n",
        text::bold(&format!("trace {}", hex(&first.trace_id)), colour),
        spans.len(),
        if spans.len() == 1 { "span" } else { "spans" },
        text::ms(axis.duration_ns),
        text::time(axis.start_unix_ns),
    );
    for row in &rows {
        let (depth, span) = *row;
        let bar = axis.bar(span.start_unix_ns, span.duration_ns, '=');
        let label = format!("{:<width$}", label(row));
        let label = text::bold(&label, colour);
        out.push_str(&format!("{label}  {:>12}  {bar}  {}\n", text::ms(span.duration_ns), notes(span)));
        for segment in &span.segments {
            let label = format!("{}{}", " ".repeat(2 * depth + 4), text::segment_label(segment));
            let start = span.start_unix_ns.saturating_add(segment.start_ns);
            let bar = axis.bar(start, segment.duration_ns, '-');
            let duration = text::ms(segment.duration_ns);
            out.push_str(&format!("{label:<width$}  {duration:>12}  {bar}  {}\n", text::clean(&segment.evidence)));
        }
    }
    out
}

fn title(span: &SpanView) -> String {
    format!("{} {} {}", span.kind, text::or_dash(&span.service), text::clean(&span.name))
}

fn notes(span: &SpanView) -> String {
    let mut notes = format!("{} span {}", span.status, hex(&span.span_id));
    // The parent is where the indentation says.
    for link in span.links.iter().filter(|link| link.span_id != span.parent_span_id) {
        notes.push_str(&format!(", see {} ({})", hex(&link.span_id), text::clean(&link.evidence)));
    }
    notes
}

/// The spans in the order in which they are shown, with their depths: children below their parents, by start. A span whose parent is
/// not there is a root; so is the first span of a circle, which only foreign data has.
pub(super) fn tree(spans: &[SpanView]) -> Vec<(usize, &SpanView)> {
    let mut rows = Vec::with_capacity(spans.len());
    let mut is_shown = vec![false; spans.len()];
    let is_root = |span: &SpanView| {
        span.parent_span_id.is_empty() || !spans.iter().any(|other| other.span_id == span.parent_span_id)
    };
    // Roots first; the second round finds what hangs on a circle.
    for only_roots in [true, false] {
        for (index, span) in spans.iter().enumerate() {
            if !is_shown[index] && (!only_roots || is_root(span)) {
                below(spans, index, &mut is_shown, &mut rows);
            }
        }
    }
    rows
}

/// Adds a span and what hangs below it. A stack of its own: how deep a trace is is up to whoever wrote it.
fn below<'a>(spans: &'a [SpanView], root: usize, is_shown: &mut [bool], rows: &mut Vec<(usize, &'a SpanView)>) {
    let mut stack = vec![(0, root)];
    while let Some((depth, index)) = stack.pop() {
        if std::mem::replace(&mut is_shown[index], true) {
            continue;
        }
        let span = &spans[index];
        rows.push((depth.min(DEPTH_MAX), span));
        let children = spans.iter().enumerate().filter(|(_, child)| child.parent_span_id == span.span_id);
        let mut children: Vec<(usize, usize)> = children.map(|(child, _)| (depth + 1, child)).collect();
        children.reverse();
        stack.extend(children);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn a_trace_is_a_waterfall_with_segments() {
        fixtures::check_golden("trace.txt", &render(&fixtures::trace(), false));
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let mut spans = fixtures::trace();
        spans[0].parent_span_id = spans[1].span_id.clone();
        assert_eq!(tree(&spans).len(), spans.len());
    }

    #[test]
    fn every_bar_is_as_long_as_the_axis_and_never_empty() {
        let axis = Axis { start_unix_ns: 100, duration_ns: 10 };
        for (start, duration) in [(100, 0), (110, 0), (100, 10), (105, 1), (0, u64::MAX)] {
            let bar = axis.bar(start, duration, '=');
            assert_eq!(bar.chars().count(), AXIS + 2, "{start} {duration}");
            assert!(bar.contains('='), "{start} {duration}");
        }
    }
}
