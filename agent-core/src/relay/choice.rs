//! What was decided about each span of a block, and doing it.
//!
//! In: a stored request, one [`Choice`] per span. Out: the spans that are sent. Called for destinations that decide about whole traces,
//! when their blocks are sent; a repetition of the same choices gives the same bytes.

use std::borrow::Cow;

use super::{
    Threshold,
    resource::ResourceEdits,
    rewrite::{Judge, Rewriter, SpanEdits, Verdict},
    threshold::told,
};
use crate::wire::{Malformed, SpanView};

/// What becomes of a span for one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Choice {
    /// It is not sent.
    LeftOut,
    /// It is sent as it is: for sure, or another step has told with which probability.
    #[default]
    Kept,
    /// It is sent, and says that its trace was kept by this threshold.
    KeptBy(Threshold),
}

impl Choice {
    /// Whether it is sent.
    pub fn is_kept(self) -> bool {
        self != Self::LeftOut
    }
}

/// The spans that are kept, and how many. Spans beyond the choices are kept.
pub fn apply_choices<'a>(request: &'a [u8], choices: &[Choice]) -> Result<(Cow<'a, [u8]>, u32), Malformed> {
    let mut chosen = Chosen { choices: choices.iter() };
    let rewritten = Rewriter::new(request, &mut chosen, None, ResourceEdits::default()).run()?;
    let kept = rewritten.summary.spans;
    Ok((if kept > 0 { rewritten.bytes } else { Cow::Borrowed(&[]) }, kept))
}

struct Chosen<'r> {
    choices: std::slice::Iter<'r, Choice>,
}

impl<'a> Judge<'a> for Chosen<'_> {
    fn judge(&mut self, span: &SpanView<'a>) -> Result<Verdict, Malformed> {
        let by = match self.choices.next().copied().unwrap_or_default() {
            Choice::LeftOut => return Ok(Verdict::LeaveOut),
            Choice::Kept => return Ok(Verdict::Keep),
            Choice::KeptBy(threshold) => threshold,
        };
        let state = told(by, span.trace_id, span.trace_state);
        Ok(state.map_or(Verdict::Keep, |state| Verdict::KeepWith(SpanEdits { trace_state: Some(state), mark: None })))
    }
}
