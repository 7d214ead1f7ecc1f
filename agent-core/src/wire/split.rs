//! Cuts a request in two between spans, to find out which span a destination refuses.

use std::ops::Range;

use super::{Editor, Field, Fields, Malformed, field_number as number};

/// The first `first` spans, and the rest. Resources, scopes and everything else that is no span stand on both sides, but a resource
/// or scope all of whose spans are on one side stands on that side only.
pub fn split(request: &[u8], first: u32) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
    Ok((Half { request, first, wanted: true }.make()?, Half { request, first, wanted: false }.make()?))
}

struct Half<'a> {
    request: &'a [u8],
    first: u32,
    /// Whether the first spans are kept, or the others.
    wanted: bool,
}

/// Spans seen, and of those in the current message, the ones that were kept and left out.
#[derive(Default)]
struct Seen {
    spans: u32,
    kept: u32,
    left_out: u32,
}

impl<'a> Half<'a> {
    fn make(&self) -> Result<Vec<u8>, Malformed> {
        let (mut editor, mut seen) = (Editor::new(self.request), Seen::default());
        let levels = [number::request::RESOURCE_SPANS, number::resource_spans::SCOPE_SPANS, number::scope_spans::SPANS];
        self.level(&mut editor, &mut seen, 0..self.request.len(), &levels)?;
        Ok(editor.finish().unwrap_or_else(|| self.request.to_vec()))
    }

    /// Goes through the message at `body`, whose interesting field is the first of `levels`.
    fn level(
        &self,
        editor: &mut Editor<'a>,
        seen: &mut Seen,
        body: Range<usize>,
        levels: &[u32],
    ) -> Result<(), Malformed> {
        let Some((number, deeper)) = levels.split_first() else { return Ok(()) };
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            if field.number != *number {
                continue;
            }
            if deeper.is_empty() {
                field.bytes()?;
                self.span(editor, seen, &field);
            } else {
                self.parent(editor, seen, &field, deeper)?;
            }
        }
        Ok(())
    }

    fn parent(&self, editor: &mut Editor<'a>, seen: &mut Seen, field: &Field, deeper: &[u32]) -> Result<(), Malformed> {
        let (length, body) = field.message()?;
        let before = editor.checkpoint();
        let (kept, left_out) = (seen.kept, seen.left_out);
        editor.enter(length, &body);
        self.level(editor, seen, body, deeper)?;
        editor.leave();
        if seen.kept == kept && seen.left_out > left_out {
            editor.roll_back(before);
            editor.delete(field.range());
        }
        Ok(())
    }

    fn span(&self, editor: &mut Editor<'a>, seen: &mut Seen, field: &Field) {
        let is_first = seen.spans < self.first;
        seen.spans = seen.spans.saturating_add(1);
        if is_first == self.wanted {
            seen.kept += 1;
        } else {
            seen.left_out += 1;
            editor.delete(field.range());
        }
    }
}
