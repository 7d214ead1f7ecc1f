//! Spans that sampling left out, sent later because somebody asked.
//!
//! In: a stored request, what is asked for, and which of its spans were sent before. Out: the spans to be sent, each marked by
//! [`LATE`] and without a `th`: the spans that sampling kept stand for them already, so that whoever counts must not count them again.

use std::{borrow::Cow, ops::Range};

use super::{
    Choice, Filter, Shape,
    filter::Resource,
    resource::ResourceEdits,
    rewrite::{Judge, Rewriter, SpanEdits, Verdict},
    threshold::untold,
};
use crate::wire::{Malformed, SpanView};

/// Attribute of spans that were sent on request, outside of sampling: rates and counts have to leave them out.
pub const LATE: &str = "spantap.sampling.late";

/// Which spans are asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Late {
    /// Which; an empty one is all.
    pub filter: Filter,
    /// Ended at or after this.
    pub since_unix_ns: u64,
    /// Ended before this.
    pub until_unix_ns: u64,
    /// Also those that were sent before.
    pub all: bool,
}

/// What was found in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateCounts {
    /// Spans that are asked for and for this destination.
    pub matched: u64,
    /// Of these, sent before.
    pub sent: u64,
    /// Spans in the answer.
    pub kept: u64,
}

impl Shape {
    /// The spans of `request` that are to be sent later; there is nothing to send if none is kept. `choices` says what became of
    /// each span before; spans beyond it are like its `rest`. Whether each is in the answer is added to `kept`.
    pub fn late<'a>(
        &self,
        request: &'a [u8],
        late: &Late,
        choices: &[Choice],
        rest: Choice,
        kept: &mut Vec<bool>,
    ) -> Result<(Cow<'a, [u8]>, LateCounts), Malformed> {
        let mut judge = Wanted {
            shape: self,
            late,
            choices: choices.iter(),
            rest,
            resource: Resource::default(),
            counts: LateCounts::default(),
            kept,
        };
        let rewritten = Rewriter::new(request, &mut judge, None, ResourceEdits::default()).run()?;
        Ok((if judge.counts.kept > 0 { rewritten.bytes } else { Cow::Borrowed(&[]) }, judge.counts))
    }
}

struct Wanted<'a, 'r> {
    shape: &'r Shape,
    late: &'r Late,
    choices: std::slice::Iter<'r, Choice>,
    rest: Choice,
    resource: Resource<'a>,
    counts: LateCounts,
    kept: &'r mut Vec<bool>,
}

impl<'a> Judge<'a> for Wanted<'a, '_> {
    fn resource(&mut self, request: &'a [u8], resource_spans: &Range<usize>) -> Result<(), Malformed> {
        self.resource = Resource::read(request, resource_spans.clone())?;
        Ok(())
    }

    fn judge(&mut self, span: &SpanView<'a>) -> Result<Verdict, Malformed> {
        let is_kept = self.keeps(span)?;
        self.kept.push(is_kept);
        self.counts.kept += u64::from(is_kept);
        Ok(if is_kept {
            Verdict::KeepWith(SpanEdits { trace_state: untold(span.trace_state), mark: Some(LATE) })
        } else {
            Verdict::LeaveOut
        })
    }
}

impl<'a> Wanted<'a, '_> {
    fn keeps(&mut self, span: &SpanView<'a>) -> Result<bool, Malformed> {
        let was_sent = self.choices.next().copied().unwrap_or(self.rest).is_kept();
        let is_then = (self.late.since_unix_ns..self.late.until_unix_ns).contains(&span.end_unix_ns);
        let passes = |filter: &Filter| Ok(filter.is_empty() || filter.passes(span, &self.resource)?);
        if !is_then || !passes(&self.late.filter)? || !passes(&self.shape.filter)? {
            return Ok(false);
        }
        self.counts.matched += 1;
        self.counts.sent += u64::from(was_sent);
        Ok(!was_sent || self.late.all)
    }
}
