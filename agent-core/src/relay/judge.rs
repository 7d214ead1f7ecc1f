//! What the relay decides about a span before it looks into it.

use super::{
    ClockWindow, HeadSampling,
    rewrite::{CLOCK_SKEWED, Judge, SpanEdits, Verdict},
    threshold::{Sampled, sample},
};
use crate::{
    span::UnixNs,
    wire::{Malformed, SpanView, StatusCode},
};

/// Checks ids and times, samples, and counts.
pub(super) struct Checks<'r> {
    sampling: Option<&'r HeadSampling>,
    clock: Option<ClockWindow>,
    now: UnixNs,
    without_trace_id: u64,
    without_span_id: u64,
    pub skewed: u64,
}

impl<'r> Checks<'r> {
    pub fn new(sampling: Option<&'r HeadSampling>, clock: Option<ClockWindow>, now: UnixNs) -> Self {
        Self { sampling, clock, now, without_trace_id: 0, without_span_id: 0, skewed: 0 }
    }

    pub fn rejected(&self) -> u64 {
        self.without_trace_id + self.without_span_id
    }

    /// For the answer to the sender.
    pub fn reason(&self) -> String {
        let reasons = [
            (self.without_trace_id, "without a trace id (16 bytes, not all zero)"),
            (self.without_span_id, "without a span id (8 bytes, not all zero)"),
        ];
        let said = reasons.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
        let said: Vec<_> = said.collect();
        if said.is_empty() { String::new() } else { format!("rejected spans: {}", said.join(", ")) }
    }

    fn is_skewed(&self, span: &SpanView<'_>) -> bool {
        let Some(window) = self.clock else { return false };
        let now = self.now.0;
        span.end_unix_ns < span.start_unix_ns
            || span.start_unix_ns < now.saturating_sub(window.past_ns)
            || span.end_unix_ns > now.saturating_add(window.future_ns)
    }

    /// Whether the span's ids are valid.
    fn has_ids(&mut self, span: &SpanView<'_>) -> bool {
        let count = match (span.has_valid_trace_id(), span.has_valid_span_id()) {
            (true, true) => return true,
            (false, _) => &mut self.without_trace_id,
            (true, false) => &mut self.without_span_id,
        };
        *count += 1;
        false
    }
}

/// What head sampling says; errors that are kept for sure stay as they came.
pub(super) fn sampled(sampling: Option<&HeadSampling>, span: &SpanView<'_>) -> Sampled {
    match sampling {
        Some(sampling) if !(sampling.keep_errors && span.status == StatusCode::Error) => {
            sample(sampling.threshold, span.trace_id, span.trace_state)
        }
        _ => Sampled::Kept,
    }
}

impl<'a> Judge<'a> for Checks<'_> {
    fn judge(&mut self, span: &SpanView<'a>) -> Result<Verdict, Malformed> {
        if !self.has_ids(span) {
            return Ok(Verdict::LeaveOut);
        }
        let sampled = sampled(self.sampling, span);
        let skewed = self.is_skewed(span);
        self.skewed += u64::from(skewed);
        let mark = skewed.then_some(CLOCK_SKEWED);
        Ok(match sampled {
            Sampled::Not => Verdict::Local(SpanEdits { trace_state: None, mark }),
            Sampled::Kept if !skewed => Verdict::Keep,
            Sampled::Kept => Verdict::KeepWith(SpanEdits { trace_state: None, mark }),
            Sampled::KeptWith(state) => Verdict::KeepWith(SpanEdits { trace_state: Some(state), mark }),
        })
    }
}
