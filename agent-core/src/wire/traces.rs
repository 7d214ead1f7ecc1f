//! Takes a request apart by trace, for destinations that keep the spans of a trace together.

use std::{collections::HashMap, ops::Range};

use super::{Field, Fields, Malformed, field_number as number, put_bytes};

/// The spans of one trace, as a request of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpans {
    /// As in the spans: 16 bytes, or whatever stands there.
    pub trace_id: Vec<u8>,
    /// An `ExportTraceServiceRequest`.
    pub request: Vec<u8>,
    /// Spans in it.
    pub spans: u32,
}

/// One request for each trace, in the order of their first spans. Resources, scopes and everything else that is no span stand in each,
/// but only those that have a span of it; spans are byte for byte what they were, in their order. Looks at each span once.
pub fn by_trace(request: &[u8]) -> Result<Vec<TraceSpans>, Malformed> {
    let mut traces = Traces::default();
    let mut fields = Fields::new(request, 0..request.len());
    while let Some(field) = fields.next()? {
        if field.number == number::request::RESOURCE_SPANS {
            traces.resource_spans(request, field.bytes()?)?;
        }
    }
    Ok(traces.all)
}

#[derive(Default)]
struct Traces<'a> {
    all: Vec<TraceSpans>,
    places: HashMap<&'a [u8], usize>,
}

/// Bytes for some of the traces, by their place in [`Traces::all`], in the order in which they came.
#[derive(Default)]
struct Pieces {
    bytes: Vec<(usize, Vec<u8>)>,
    places: HashMap<usize, usize>,
}

impl Pieces {
    fn of(&mut self, trace: usize) -> &mut Vec<u8> {
        let place = *self.places.entry(trace).or_insert_with(|| {
            self.bytes.push((trace, Vec::new()));
            self.bytes.len() - 1
        });
        &mut self.bytes[place].1
    }
}

impl<'a> Traces<'a> {
    fn resource_spans(&mut self, request: &'a [u8], body: Range<usize>) -> Result<(), Malformed> {
        let (mut rest, mut scopes) = (Vec::new(), Pieces::default());
        let mut fields = Fields::new(request, body);
        while let Some(field) = fields.next()? {
            match field.number {
                number::resource_spans::SCOPE_SPANS => self.scope_spans(request, field.bytes()?, &mut scopes)?,
                _ => rest.extend_from_slice(&request[field.range()]),
            }
        }
        for (trace, scopes) in scopes.bytes {
            let all = [&rest[..], &scopes].concat();
            put_bytes(&mut self.all[trace].request, number::request::RESOURCE_SPANS, &all);
        }
        Ok(())
    }

    fn scope_spans(&mut self, request: &'a [u8], body: Range<usize>, to: &mut Pieces) -> Result<(), Malformed> {
        let (mut rest, mut spans) = (Vec::new(), Pieces::default());
        let mut fields = Fields::new(request, body);
        while let Some(field) = fields.next()? {
            match field.number {
                number::scope_spans::SPANS => {
                    let trace = self.trace(trace_id(request, &field)?);
                    self.all[trace].spans += 1;
                    spans.of(trace).extend_from_slice(&request[field.range()]);
                }
                _ => rest.extend_from_slice(&request[field.range()]),
            }
        }
        for (trace, spans) in spans.bytes {
            put_bytes(to.of(trace), number::resource_spans::SCOPE_SPANS, &[&rest[..], &spans].concat());
        }
        Ok(())
    }

    fn trace(&mut self, id: &'a [u8]) -> usize {
        *self.places.entry(id).or_insert_with(|| {
            self.all.push(TraceSpans { trace_id: id.to_vec(), request: Vec::new(), spans: 0 });
            self.all.len() - 1
        })
    }
}

/// The trace id of the span in this field; the last one, if there are several.
fn trace_id<'a>(request: &'a [u8], span: &Field) -> Result<&'a [u8], Malformed> {
    let mut id = &[][..];
    let mut fields = Fields::new(request, span.bytes()?);
    while let Some(field) = fields.next()? {
        if field.number == number::span::TRACE_ID {
            id = &request[field.bytes()?];
        }
    }
    Ok(id)
}
