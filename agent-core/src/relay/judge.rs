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

/// Which of the two batches is made.
#[derive(Clone, Debug)]
pub(super) enum Side {
    Kept,
    /// The second; of each span, in their order, whether it is for this one.
    Local(std::vec::IntoIter<bool>),
}

/// Checks ids and times, samples, and counts.
pub(super) struct Checks<'r> {
    sampling: Option<&'r HeadSampling>,
    clock: Option<ClockWindow>,
    now: UnixNs,
    side: Side,
    without_trace_id: u64,
    without_span_id: u64,
    /// Of this side's spans.
    pub skewed: u64,
    /// Of each span, while the first batch is made, whether it is for the second.
    pub local: Vec<bool>,
    /// Those that are.
    pub local_count: u64,
}

impl<'r> Checks<'r> {
    pub fn new(sampling: Option<&'r HeadSampling>, clock: Option<ClockWindow>, now: UnixNs, side: Side) -> Self {
        Self {
            sampling,
            clock,
            now,
            side,
            without_trace_id: 0,
            without_span_id: 0,
            skewed: 0,
            local: vec![],
            local_count: 0,
        }
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

    /// What is decided when the first batch is made; the second is of those that are valid and not sampled.
    fn first(&mut self, span: &SpanView<'_>) -> Sampled {
        let is_valid = self.has_ids(span);
        let sampled = if is_valid { sampled(self.sampling, span) } else { Sampled::Not };
        let is_local = is_valid && sampled == Sampled::Not;
        self.local_count += u64::from(is_local);
        if self.sampling.is_some() {
            self.local.push(is_local);
        }
        sampled
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
    fn leaves_out_unread(&mut self) -> bool {
        match &mut self.side {
            Side::Kept => false,
            Side::Local(spans) => spans.next() != Some(true),
        }
    }

    fn judge(&mut self, span: &SpanView<'a>) -> Result<Verdict, Malformed> {
        let sampled = if matches!(self.side, Side::Kept) { self.first(span) } else { Sampled::Kept };
        let trace_state = match sampled {
            Sampled::Not => return Ok(Verdict::LeaveOut),
            Sampled::KeptWith(state) => Some(state),
            Sampled::Kept => None,
        };
        let skewed = self.is_skewed(span);
        self.skewed += u64::from(skewed);
        if trace_state.is_none() && !skewed {
            return Ok(Verdict::Keep);
        }
        Ok(Verdict::KeepWith(SpanEdits { trace_state, mark: skewed.then_some(CLOCK_SKEWED) }))
    }
}
