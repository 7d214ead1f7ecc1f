//! Goes through a request and writes the copy that is kept, and another of the spans that stay on this host.
//!
//! In: a request, a [`Judge`] of its spans, rules for attributes, what is added to resources. Out: [`Rewritten`], once or twice. Called
//! by [`super::Relay`] and [`super::Shape`]. Reads every byte once, the spans' own fields of some spans twice, and what is not in a span once
//! for each copy.

use std::{borrow::Cow, ops::Range};

use super::attributes::{List, Walker};
use super::resource::{Added, ResourceEdits};
use crate::wire::{
    ATTRIBUTE_TAG, Checkpoint, Editor, Field, Fields, Kind, Malformed, SpanView, Summary, field_number as number,
    put_true_attribute,
};

/// What becomes of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    KeepWith(SpanEdits),
    /// For the second copy, if there is one.
    Local(SpanEdits),
    LeaveOut,
}

/// What is changed in a span besides its attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SpanEdits {
    pub trace_state: Option<Vec<u8>>,
    /// Key of an attribute that is added, with the value true.
    pub mark: Option<&'static str>,
}

/// Decides about spans.
pub(super) trait Judge<'a> {
    /// Before the spans of a resource.
    fn resource(&mut self, _request: &'a [u8], _resource_spans: &Range<usize>) -> Result<(), Malformed> {
        Ok(())
    }

    /// About a span.
    fn judge(&mut self, span: &SpanView<'a>) -> Result<Verdict, Malformed>;
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Rewritten<'a> {
    /// Meaningless if no span was kept.
    pub bytes: Cow<'a, [u8]>,
    pub summary: Summary,
    pub redacted: u64,
    /// Resource attributes were added.
    pub enriched: bool,
}

/// Attribute that says that a span's times cannot be true.
pub const CLOCK_SKEWED: &str = "spantap.clock.skewed";

pub(super) struct Rewriter<'a, 'r, J> {
    request: &'a [u8],
    kept: Written<'a>,
    /// The second copy: spans that are [`Verdict::Local`].
    local: Option<Written<'a>>,
    judge: &'r mut J,
    /// Nothing: attributes stay as they are and are not looked at.
    walker: Option<Walker<'a, 'r>>,
    resources: ResourceEdits<'r>,
}

/// A copy that is written.
struct Written<'a> {
    editor: Editor<'a>,
    summary: Summary,
    left_out: u64,
    redacted: u64,
    enriched: bool,
}

/// A copy before a message, to see what became of the message.
struct Before {
    checkpoint: Checkpoint,
    kept: u32,
    left_out: u64,
}

impl<'a, 'r, J: Judge<'a>> Rewriter<'a, 'r, J> {
    pub fn new(
        request: &'a [u8],
        judge: &'r mut J,
        walker: Option<Walker<'a, 'r>>,
        resources: ResourceEdits<'r>,
    ) -> Self {
        Self { request, kept: Written::new(request), local: None, judge, walker, resources }
    }

    /// Goes through it.
    pub fn run(self) -> Result<Rewritten<'a>, Malformed> {
        self.run_all().map(|(kept, _)| kept)
    }

    /// Goes through it and writes both copies.
    pub fn run_both(mut self) -> Result<(Rewritten<'a>, Option<Rewritten<'a>>), Malformed> {
        self.local = Some(Written::new(self.request));
        self.run_all()
    }

    fn run_all(mut self) -> Result<(Rewritten<'a>, Option<Rewritten<'a>>), Malformed> {
        let mut fields = Fields::new(self.request, 0..self.request.len());
        while let Some(field) = fields.next()? {
            if field.number == number::request::RESOURCE_SPANS {
                self.parent(&field, Self::resource_spans)?;
            }
        }
        Ok((self.kept.finish(self.request), self.local.map(|local| local.finish(self.request))))
    }

    /// A message with spans in it, left out of a copy if all of them are.
    fn parent(
        &mut self,
        field: &Field,
        inside: impl FnOnce(&mut Self, Range<usize>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let before = (self.kept.enter(length, &body), self.local.as_mut().map(|local| local.enter(length, &body)));
        inside(self, body)?;
        self.kept.leave(field, &before.0);
        if let (Some(local), Some(before)) = (&mut self.local, &before.1) {
            local.leave(field, before);
        }
        Ok(())
    }

    fn resource_spans(&mut self, body: Range<usize>) -> Result<(), Malformed> {
        self.judge.resource(self.request, &body)?;
        let mut added = self.resources.of(self.request, body.clone())?;
        if let Some(resource) = added.take_resource() {
            for copy in both(&mut self.kept, &mut self.local) {
                copy.editor.insert(body.start, &resource);
                copy.enriched = true;
            }
        }
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            match field.number {
                number::resource_spans::RESOURCE => self.resource(&field, &mut added)?,
                number::resource_spans::SCOPE_SPANS => self.parent(&field, Self::scope_spans)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn resource(&mut self, field: &Field, added: &mut Added) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let attributes = added.take_attributes();
        for copy in both(&mut self.kept, &mut self.local) {
            copy.editor.enter(length, &body);
            let mut list = List::new(body.clone(), number::resource::ATTRIBUTES, false);
            let mut fields = Fields::new(self.request, body.clone());
            while let Some(field) = fields.next()? {
                if field.number != number::resource::ATTRIBUTES {
                    continue;
                }
                if added.replaces(self.request, &field)? {
                    copy.editor.delete(field.range());
                    copy.enriched = true;
                } else if let Some(walker) = &mut self.walker {
                    walker.attribute(&mut copy.editor, &field, &mut list)?;
                }
            }
            if let Some(attributes) = &attributes {
                copy.editor.insert(body.end, attributes);
                copy.enriched = true;
            }
            copy.editor.leave();
            copy.count(&mut self.walker);
        }
        Ok(())
    }

    fn scope_spans(&mut self, body: Range<usize>) -> Result<(), Malformed> {
        const SPAN: u8 = (number::scope_spans::SPANS << 3 | 2) as u8;
        let mut fields = Fields::new(self.request, body);
        loop {
            while let Some(span) = fields.next_short(SPAN) {
                self.span(&span)?;
            }
            let Some(field) = fields.next()? else { return Ok(()) };
            match field.number {
                number::scope_spans::SPANS => self.span(&field)?,
                number::scope_spans::SCOPE => {
                    for copy in both(&mut self.kept, &mut self.local) {
                        let mut inside = Inside::new(self.request, &mut copy.editor, &mut self.walker, false);
                        inside.attributes_of(&field, number::scope::ATTRIBUTES, None)?;
                        copy.count(&mut self.walker);
                    }
                }
                _ => {}
            }
        }
    }

    fn span(&mut self, field: &Field) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let span = SpanView::read(self.request, body.clone())?;
        let (edits, is_local) = match self.judge.judge(&span)? {
            Verdict::LeaveOut => {
                both(&mut self.kept, &mut self.local).for_each(|copy| copy.leave_out(field));
                return Ok(());
            }
            Verdict::KeepWith(edits) => (Some(edits), false),
            Verdict::Keep => (None, false),
            Verdict::Local(edits) => (Some(edits), true),
        };
        let (copy, other) = match &mut self.local {
            Some(local) if is_local => (local, Some(&mut self.kept)),
            local => (&mut self.kept, local.as_mut()),
        };
        if let Some(other) = other {
            other.leave_out(field);
        }
        copy.summary.add(span.start_unix_ns, span.end_unix_ns);
        if self.walker.is_none() && edits.is_none() {
            return Ok(());
        }
        let edits = edits.unwrap_or_default();
        copy.editor.enter(length, &body);
        let server = matches!(span.kind, Kind::Server | Kind::Consumer);
        Inside::new(self.request, &mut copy.editor, &mut self.walker, server).span(&span, &edits)?;
        copy.editor.leave();
        copy.count(&mut self.walker);
        Ok(())
    }
}

/// The copies that are written.
fn both<'c, 'a>(
    kept: &'c mut Written<'a>,
    local: &'c mut Option<Written<'a>>,
) -> impl Iterator<Item = &'c mut Written<'a>> {
    std::iter::once(kept).chain(local)
}

impl<'a> Written<'a> {
    fn new(request: &'a [u8]) -> Self {
        Self { editor: Editor::new(request), summary: Summary::default(), left_out: 0, redacted: 0, enriched: false }
    }

    fn enter(&mut self, length: usize, body: &Range<usize>) -> Before {
        let before = Before { checkpoint: self.editor.checkpoint(), kept: self.summary.spans, left_out: self.left_out };
        self.editor.enter(length, body);
        before
    }

    fn leave(&mut self, field: &Field, before: &Before) {
        self.editor.leave();
        if self.summary.spans == before.kept && self.left_out > before.left_out {
            self.editor.roll_back(before.checkpoint);
            self.editor.delete(field.range());
        }
    }

    fn leave_out(&mut self, span: &Field) {
        self.left_out += 1;
        self.editor.delete(span.range());
    }

    /// Takes over what was redacted in this copy.
    fn count(&mut self, walker: &mut Option<Walker<'_, '_>>) {
        self.redacted += walker.as_mut().map_or(0, |walker| std::mem::take(&mut walker.redacted));
    }

    fn finish(self, request: &'a [u8]) -> Rewritten<'a> {
        Rewritten {
            bytes: self.editor.finish().map_or(Cow::Borrowed(request), Cow::Owned),
            summary: self.summary,
            redacted: self.redacted,
            enriched: self.enriched,
        }
    }
}

/// What is in a span or a scope, and the copy that it goes to.
struct Inside<'a, 'r, 'c> {
    request: &'a [u8],
    editor: &'c mut Editor<'a>,
    walker: Option<&'c mut Walker<'a, 'r>>,
    /// Of a span of kind server or consumer.
    server: bool,
}

impl<'a, 'r, 'c> Inside<'a, 'r, 'c> {
    fn new(
        request: &'a [u8],
        editor: &'c mut Editor<'a>,
        walker: &'c mut Option<Walker<'a, 'r>>,
        server: bool,
    ) -> Self {
        Self { request, editor, walker: walker.as_mut(), server }
    }

    fn span(&mut self, span: &SpanView<'a>, edits: &SpanEdits) -> Result<(), Malformed> {
        if let (None, Some(state)) = (&span.trace_state_field, &edits.trace_state) {
            self.put_trace_state(span.body.start..span.body.start, state);
        }
        if span.is_plain && (edits.trace_state.is_none() || span.trace_state_field.is_none()) {
            self.plain_fields(span)?;
        } else {
            self.fields(span, edits)?;
        }
        if let Some(mark) = edits.mark {
            let mut attribute = Vec::new();
            put_true_attribute(&mut attribute, number::span::ATTRIBUTES, mark);
            self.editor.insert(span.body.end, &attribute);
        }
        Ok(())
    }

    fn fields(&mut self, span: &SpanView<'a>, edits: &SpanEdits) -> Result<(), Malformed> {
        let mut list = List::new(span.body.clone(), number::span::ATTRIBUTES, self.server);
        let mut fields = Fields::new(self.request, span.body.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &mut self.walker) {
                (number::span::ATTRIBUTES, Some(walker)) => walker.attribute(self.editor, &field, &mut list)?,
                (number::span::NAME, Some(walker)) => walker.text(self.editor, &field)?,
                (number::span::EVENTS, _) => {
                    self.attributes_of(&field, number::event::ATTRIBUTES, Some(number::event::NAME))?;
                }
                (number::span::LINKS, _) => self.attributes_of(&field, number::link::ATTRIBUTES, None)?,
                (number::span::STATUS, _) => self.attributes_of(&field, u32::MAX, Some(number::status::MESSAGE))?,
                (number::span::TRACE_STATE, _) => self.trace_state(&field, span, edits),
                _ => {}
            }
        }
        Ok(())
    }

    /// The same for a span that [is plain](SpanView::is_plain), whose fields are known.
    fn plain_fields(&mut self, span: &SpanView<'a>) -> Result<(), Malformed> {
        let Some(walker) = &mut self.walker else { return Ok(()) };
        if let Some(name) = &span.name_field {
            walker.text(self.editor, name)?;
        }
        let mut list = List::new(span.attributes.clone(), number::span::ATTRIBUTES, self.server);
        walker.run(self.editor, ATTRIBUTE_TAG, &mut list)
    }

    /// A message with attributes in its field `attributes`, and perhaps a text in its field `text`.
    fn attributes_of(&mut self, field: &Field, attributes: u32, text: Option<u32>) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let Some(walker) = &mut self.walker else { return Ok(()) };
        self.editor.enter(length, &body);
        let mut list = List::new(body.clone(), attributes, self.server);
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            if field.number == attributes {
                walker.attribute(self.editor, &field, &mut list)?;
            } else if Some(field.number) == text {
                walker.text(self.editor, &field)?;
            }
        }
        self.editor.leave();
        Ok(())
    }

    /// The last one counts.
    fn trace_state(&mut self, field: &Field, span: &SpanView<'a>, edits: &SpanEdits) {
        if let (Some(state), true) = (&edits.trace_state, span.trace_state_field == Some(field.range())) {
            self.put_trace_state(field.range(), state);
        }
    }

    fn put_trace_state(&mut self, range: Range<usize>, state: &[u8]) {
        self.editor.replace_field(range, number::span::TRACE_STATE, state);
    }
}
