//! What a destination gets of a stored request: a part of its spans, with other keys.

use std::{borrow::Cow, ops::Range};

use super::{
    Action, Choice, Filter, HeadSampling, Redaction, RelayError, ShapeConfig, Threshold,
    attributes::Walker,
    filter::Resource,
    judge::sampled,
    patterns::Patterns,
    resource::ResourceEdits,
    rewrite::{Judge, Rewriter, SpanEdits, Verdict},
    rules::Rules,
    threshold::Sampled,
};
use crate::wire::{Malformed, SpanView};

/// Filters, samples and renames for one destination.
#[derive(Clone, Debug)]
pub struct Shape {
    pub(super) filter: Filter,
    sampling: Option<HeadSampling>,
    rules: Rules,
    patterns: Patterns,
}

/// What became of a request's spans. Every one is in one of the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShapeCounts {
    /// In the answer.
    pub kept: u64,
    /// Not for this destination.
    pub filtered: u64,
    /// Left out by sampling; others stand for them.
    pub sampled_out: u64,
}

impl Shape {
    /// A shape with this configuration.
    pub fn new(config: ShapeConfig) -> Result<Self, RelayError> {
        let deny = config.drop_attributes.into_iter().map(|key| (key, Action::Drop)).collect();
        Ok(Self {
            filter: config.filter,
            sampling: config.sampling,
            rules: Rules::new(Redaction { deny, ..Redaction::off() }, &config.renames)?,
            patterns: Patterns::new(),
        })
    }

    /// Whether [`apply`](Self::apply) changes nothing, at [`Threshold::ALWAYS`].
    pub fn is_identity(&self) -> bool {
        let samples = self.sampling.as_ref().is_some_and(|sampling| sampling.threshold != Threshold::ALWAYS);
        self.filter.is_empty() && self.rules.is_idle() && !samples
    }

    /// The spans for this destination; borrowed if nothing changes. With [`ShapeCounts::kept`] 0 there is nothing to send.
    /// `at_least`: sample as strictly as this even where the configuration is less strict, for a destination that cannot keep up.
    pub fn apply<'a>(&self, request: &'a [u8], at_least: Threshold) -> Result<(Cow<'a, [u8]>, ShapeCounts), Malformed> {
        self.apply_noting(request, at_least, &mut Vec::new())
    }

    /// As [`apply`](Self::apply); also notes what became of each span, in their order.
    pub fn apply_noting<'a>(
        &self,
        request: &'a [u8],
        at_least: Threshold,
        choices: &mut Vec<Choice>,
    ) -> Result<(Cow<'a, [u8]>, ShapeCounts), Malformed> {
        let own = self.sampling.clone().unwrap_or_default();
        let sampling = HeadSampling { threshold: own.threshold.max(at_least), ..own };
        let mut selection = Selection {
            filter: &self.filter,
            sampling,
            resource: Resource::default(),
            counts: ShapeCounts::default(),
            choices,
        };
        let walker = (!self.rules.is_idle()).then(|| Walker::new(request, &self.rules, &self.patterns));
        let rewritten = Rewriter::new(request, &mut selection, walker, ResourceEdits::default()).run()?;
        Ok((rewritten.bytes, selection.counts))
    }
}

struct Selection<'a, 'r> {
    filter: &'r Filter,
    sampling: HeadSampling,
    resource: Resource<'a>,
    counts: ShapeCounts,
    choices: &'r mut Vec<Choice>,
}

impl<'a> Judge<'a> for Selection<'a, '_> {
    fn resource(&mut self, request: &'a [u8], resource_spans: &Range<usize>) -> Result<(), Malformed> {
        if !self.filter.is_empty() {
            self.resource = Resource::read(request, resource_spans.clone())?;
        }
        Ok(())
    }

    fn judge(&mut self, span: &SpanView<'a>) -> Result<Verdict, Malformed> {
        if !self.filter.is_empty() && !self.filter.passes(span, &self.resource)? {
            self.counts.filtered += 1;
            self.choices.push(Choice::LeftOut);
            return Ok(Verdict::LeaveOut);
        }
        let verdict = match sampled(Some(&self.sampling), span) {
            Sampled::Not => {
                self.counts.sampled_out += 1;
                self.choices.push(Choice::LeftOut);
                return Ok(Verdict::LeaveOut);
            }
            Sampled::Kept => Verdict::Keep,
            Sampled::KeptWith(state) => Verdict::KeepWith(SpanEdits { trace_state: Some(state), mark: None }),
        };
        self.counts.kept += 1;
        self.choices.push(Choice::Kept);
        Ok(verdict)
    }
}
