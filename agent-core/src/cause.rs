//! Why a span took its time: one cause of a fixed catalogue, and the words that go with it.
//!
//! In: a [`View`] of a span (kind, outcome, segments, attributes), whoever holds it. Out: [`decide`] names the cause, cheaply, for every
//! span (`spantap.cause`); [`explain`] adds the evidence, what was ruled out and how, and what could not be seen. Called by
//! [`crate::pipeline`] and by the command line. Never: names a cause that the segments and attributes do not show; what
//! nothing explains is [`Cause::Unexplained`].
//!
//! An error that ended the exchange decides before any duration. Then the largest segment (tiles of a name together;
//! of equal ones the earlier on a request's way) decides, and attributes refine it.

mod catalogue;
mod decide;
mod explain;
mod view;
pub mod words;

pub use catalogue::{Cause, Entry};
pub use decide::{Decision, decide};
pub use explain::{Finding, explain};
pub use view::{Around, Names, View};

use crate::span::{Span, Value};

/// The id of a span's cause, if there is one.
pub fn of(span: &Span) -> Option<&'static str> {
    let attribute = |key: &str| attribute_of(span, key);
    decide(&View::of(span, &attribute)).map(|decision| decision.cause.id())
}

/// The value of a span's attribute.
pub fn attribute_of(span: &Span, key: &str) -> Option<Value> {
    span.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests;
