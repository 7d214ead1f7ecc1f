//! Goes through a request and writes the copy that is kept.
//!
//! In: a request, a [`Judge`] of its spans, rules for attributes, what is added to resources. Out: [`Rewritten`]. Called by
//! [`super::Relay`] and [`super::Shape`]. Reads every byte once, and the spans' own fields twice.

use std::{borrow::Cow, ops::Range};

use super::attributes::{List, Walker};
use super::resource::{Added, ResourceEdits};
use crate::wire::{
    ATTRIBUTE_TAG, Editor, Field, Fields, Kind, Malformed, SpanView, Summary, field_number as number,
    put_true_attribute,
};

/// What becomes of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    KeepWith(SpanEdits),
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

    /// Before each span: whether it is left out, whatever it says.
    fn leaves_out_unread(&mut self) -> bool {
        false
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
    editor: Editor<'a>,
    judge: &'r mut J,
    /// Nothing: attributes stay as they are and are not looked at.
    walker: Option<Walker<'a, 'r>>,
    resources: ResourceEdits<'r>,
    summary: Summary,
    left_out: u64,
    enriched: bool,
}

impl<'a, 'r, J: Judge<'a>> Rewriter<'a, 'r, J> {
    pub fn new(
        request: &'a [u8],
        judge: &'r mut J,
        walker: Option<Walker<'a, 'r>>,
        resources: ResourceEdits<'r>,
    ) -> Self {
        Self {
            request,
            editor: Editor::new(request),
            judge,
            walker,
            resources,
            summary: Summary::default(),
            left_out: 0,
            enriched: false,
        }
    }

    /// Goes through it.
    pub fn run(mut self) -> Result<Rewritten<'a>, Malformed> {
        let mut fields = Fields::new(self.request, 0..self.request.len());
        while let Some(field) = fields.next()? {
            if field.number == number::request::RESOURCE_SPANS {
                self.parent(&field, Self::resource_spans)?;
            }
        }
        Ok(Rewritten {
            bytes: self.editor.finish().map_or(Cow::Borrowed(self.request), Cow::Owned),
            summary: self.summary,
            redacted: self.walker.map_or(0, |walker| walker.redacted),
            enriched: self.enriched,
        })
    }

    /// A message with spans in it, left out if all of them are.
    fn parent(
        &mut self,
        field: &Field,
        inside: impl FnOnce(&mut Self, Range<usize>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let (before, kept, left_out) = (self.editor.checkpoint(), self.summary.spans, self.left_out);
        self.editor.enter(length, &body);
        inside(self, body)?;
        self.editor.leave();
        if self.summary.spans == kept && self.left_out > left_out {
            self.editor.roll_back(before);
            self.editor.delete(field.range());
        }
        Ok(())
    }

    fn resource_spans(&mut self, body: Range<usize>) -> Result<(), Malformed> {
        self.judge.resource(self.request, &body)?;
        let mut added = self.resources.of(self.request, body.clone())?;
        if let Some(resource) = added.take_resource() {
            self.editor.insert(body.start, &resource);
            self.enriched = true;
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
        self.editor.enter(length, &body);
        let mut list = List::new(body.clone(), number::resource::ATTRIBUTES, false);
        let mut fields = Fields::new(self.request, body.clone());
        while let Some(field) = fields.next()? {
            if field.number != number::resource::ATTRIBUTES {
                continue;
            }
            if added.replaces(self.request, &field)? {
                self.editor.delete(field.range());
                self.enriched = true;
            } else if let Some(walker) = &mut self.walker {
                walker.attribute(&mut self.editor, &field, &mut list)?;
            }
        }
        if let Some(attributes) = added.take_attributes() {
            self.editor.insert(body.end, &attributes);
            self.enriched = true;
        }
        self.editor.leave();
        Ok(())
    }

    fn scope_spans(&mut self, body: Range<usize>) -> Result<(), Malformed> {
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            match field.number {
                number::scope_spans::SPANS => self.span(&field)?,
                number::scope_spans::SCOPE => self.attributes_of(&field, number::scope::ATTRIBUTES, None, false)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn span(&mut self, field: &Field) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        if self.judge.leaves_out_unread() {
            self.leave_out(field);
            return Ok(());
        }
        let span = SpanView::read(self.request, body.clone())?;
        let edits = match self.judge.judge(&span)? {
            Verdict::LeaveOut => {
                self.leave_out(field);
                return Ok(());
            }
            Verdict::KeepWith(edits) => Some(edits),
            Verdict::Keep => None,
        };
        self.summary.add(span.start_unix_ns, span.end_unix_ns);
        if self.walker.is_none() && edits.is_none() {
            return Ok(());
        }
        let edits = edits.unwrap_or_default();
        self.editor.enter(length, &body);
        if let (None, Some(state)) = (&span.trace_state_field, &edits.trace_state) {
            self.put_trace_state(body.start..body.start, state);
        }
        self.span_fields(&span, &edits)?;
        if let Some(mark) = edits.mark {
            let mut attribute = Vec::new();
            put_true_attribute(&mut attribute, number::span::ATTRIBUTES, mark);
            self.editor.insert(body.end, &attribute);
        }
        self.editor.leave();
        Ok(())
    }

    fn leave_out(&mut self, span: &Field) {
        self.left_out += 1;
        self.editor.delete(span.range());
    }

    fn span_fields(&mut self, span: &SpanView<'a>, edits: &SpanEdits) -> Result<(), Malformed> {
        let server = matches!(span.kind, Kind::Server | Kind::Consumer);
        if span.is_plain && (edits.trace_state.is_none() || span.trace_state_field.is_none()) {
            return self.plain_fields(span, server);
        }
        let mut list = List::new(span.body.clone(), number::span::ATTRIBUTES, server);
        let mut fields = Fields::new(self.request, span.body.clone());
        while let Some(field) = fields.next()? {
            match (field.number, &mut self.walker) {
                (number::span::ATTRIBUTES, Some(walker)) => walker.attribute(&mut self.editor, &field, &mut list)?,
                (number::span::NAME, Some(walker)) => walker.text(&mut self.editor, &field)?,
                (number::span::EVENTS, _) => {
                    self.attributes_of(&field, number::event::ATTRIBUTES, Some(number::event::NAME), server)?;
                }
                (number::span::LINKS, _) => self.attributes_of(&field, number::link::ATTRIBUTES, None, server)?,
                (number::span::STATUS, _) => {
                    self.attributes_of(&field, u32::MAX, Some(number::status::MESSAGE), server)?
                }
                (number::span::TRACE_STATE, _) => self.trace_state(&field, span, edits),
                _ => {}
            }
        }
        Ok(())
    }

    /// The same for a span that [is plain](SpanView::is_plain), whose fields are known.
    fn plain_fields(&mut self, span: &SpanView<'a>, server: bool) -> Result<(), Malformed> {
        let Some(walker) = &mut self.walker else { return Ok(()) };
        if let Some(name) = &span.name_field {
            walker.text(&mut self.editor, name)?;
        }
        let mut list = List::new(span.attributes.clone(), number::span::ATTRIBUTES, server);
        walker.run(&mut self.editor, ATTRIBUTE_TAG, &mut list)
    }

    /// A message with attributes in its field `attributes`, and perhaps a text in its field `text`.
    fn attributes_of(
        &mut self,
        field: &Field,
        attributes: u32,
        text: Option<u32>,
        server: bool,
    ) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let Some(walker) = &mut self.walker else { return Ok(()) };
        self.editor.enter(length, &body);
        let mut list = List::new(body.clone(), attributes, server);
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            if field.number == attributes {
                walker.attribute(&mut self.editor, &field, &mut list)?;
            } else if Some(field.number) == text {
                walker.text(&mut self.editor, &field)?;
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
