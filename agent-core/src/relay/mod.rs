//! What is done with spans that applications send, before they are stored: on their wire bytes.
//!
//! In: a request as it was received, and the time. Out: a [`SafeBatch`] of the spans that may be sent away, another of those
//! that sampling keeps on this host, and exact counts. Called by the agent's intake, before it acknowledges. Never: panics,
//! decodes a request into objects, changes a time, or drops a span without counting it. All of it is stateless, so nothing is lost
//! between here and the log.
//!
//! Per span, in this order: ids are checked; times are compared with the clock; sampling decides; then attributes, names
//! and messages are redacted and renamed. Bytes that no rule touches stay as they are, in their order.

mod attributes;
mod choice;
mod config;
mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod judge;
mod late;
mod patterns;
mod resource;
mod rewrite;
mod rules;
mod semconv;
mod sensitive;
mod shape;
mod statement;
mod threshold;
mod url;

pub use self::{
    attributes::NESTED_MAX,
    choice::{Choice, apply_choices},
    config::{Action, ClockWindow, HeadSampling, Redaction, RelayConfig, RelayError, Renames, ShapeConfig},
    filter::{Filter, SpanMatch},
    glob::Glob,
    late::{LATE, Late, LateCounts},
    resource::TENANT,
    rewrite::CLOCK_SKEWED,
    rules::{KEYS_MAX, QUERY_KEYS, RENAMES_MAX, STATEMENT_KEYS, URL_KEYS},
    semconv::{SEMANTIC_CONVENTIONS, SEMANTIC_CONVENTIONS_OF_SERVERS},
    sensitive::SENSITIVE_KEYS,
    shape::{Shape, ShapeCounts},
    threshold::Threshold,
};
use std::borrow::Cow;

use bytes::Bytes;

use self::{
    attributes::Walker,
    judge::Checks,
    patterns::Patterns,
    resource::ResourceEdits,
    rewrite::{Rewriter, Rewritten},
    rules::Rules,
};
pub(crate) use self::{filter::Resource, threshold::randomness};
use crate::{redact::SafeBatch, span::UnixNs, wire::Malformed};

/// Checks, redacts, enriches and samples requests.
#[derive(Clone, Debug)]
pub struct Relay {
    rules: Rules,
    patterns: Patterns,
    resource_attributes: Vec<(String, String)>,
    sampling: Option<HeadSampling>,
    clock: Option<ClockWindow>,
}

/// What became of a request. Every span of it is in `kept`, in `local` or in `rejected`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// For the log and the destinations; nothing if no span is left.
    pub kept: Option<SafeBatch>,
    /// For the log only: spans that sampling does not send away.
    pub local: Option<SafeBatch>,
    /// Spans that are in neither, for the partial success of the answer.
    pub rejected: u64,
    /// Why; empty if none was.
    pub reason: String,
    /// Spans whose times cannot be true, marked by [`CLOCK_SKEWED`].
    pub skewed: u64,
    /// Values replaced and attributes left out; those of a resource or scope in both batches count twice.
    pub redacted: u64,
    /// Whether a resource got attributes.
    pub enriched: bool,
}

impl Relay {
    /// A relay with this configuration.
    pub fn new(config: RelayConfig) -> Result<Self, RelayError> {
        if config.resource_attributes.iter().any(|(key, _)| key.is_empty()) {
            return Err(RelayError::EmptyKey("resource_attributes"));
        }
        Ok(Self {
            rules: Rules::new(config.redact, &config.renames)?,
            patterns: Patterns::new(),
            resource_attributes: config.resource_attributes,
            sampling: config.sampling,
            clock: config.clock,
        })
    }

    /// Handles the request of a sender that is nobody in particular: what it says of its tenant stays.
    ///
    /// Never panics. Fails only if the bytes are no request at all, so that nothing of it can be kept.
    pub fn accept(&self, request: &[u8], now: UnixNs) -> Result<Relayed, Malformed> {
        self.accept_from(&Bytes::copy_from_slice(request), None, now)
    }

    /// Handles the request of a sender that proved to be `tenant`: every resource gets that as [`TENANT`], whatever it said itself. Of a
    /// request that stays as it is no copy is made.
    pub fn accept_from(&self, request: &Bytes, tenant: Option<&str>, now: UnixNs) -> Result<Relayed, Malformed> {
        let mut checks = Checks::new(self.sampling.as_ref(), self.clock, now);
        let walker = Walker::new(request, &self.rules, &self.patterns);
        let resources = ResourceEdits { attributes: &self.resource_attributes, tenant };
        let rewriter = Rewriter::new(request, &mut checks, Some(walker), resources);
        // Without sampling no span stays here.
        let (kept, local) = if self.sampling.is_some() { rewriter.run_both()? } else { (rewriter.run()?, None) };
        let mut relayed = Relayed {
            rejected: checks.rejected(),
            reason: checks.reason(),
            skewed: checks.skewed,
            ..Relayed::default()
        };
        relayed.kept = relayed.add(request, kept);
        relayed.local = local.and_then(|local| relayed.add(request, local));
        Ok(relayed)
    }
}

/// Bytes that may be kept for long, and so not in room for many more.
pub fn fitted(mut bytes: Vec<u8>) -> Bytes {
    if bytes.capacity() / 2 > bytes.len() {
        bytes.shrink_to_fit();
    }
    bytes.into()
}

impl Relayed {
    fn add(&mut self, request: &Bytes, rewritten: Rewritten<'_>) -> Option<SafeBatch> {
        if rewritten.summary.spans == 0 {
            return None;
        }
        self.redacted += rewritten.redacted;
        self.enriched |= rewritten.enriched;
        let bytes = match rewritten.bytes {
            Cow::Borrowed(_) => request.clone(),
            Cow::Owned(bytes) => fitted(bytes),
        };
        Some(SafeBatch::new(bytes, rewritten.summary))
    }
}

#[cfg(test)]
mod tests;
