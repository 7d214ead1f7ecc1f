//! What stands in a span's own fields, without copying it.
//!
//! In: a request. Out: a [`SpanView`] per span, in order. Attributes are read when they are asked for. Called by filters, sampling,
//! checks and the format mappings of destinations that need a few fields only.

use std::ops::Range;

use super::{Field, Fields, Malformed, Wire, field_number as number};

/// `Span.SpanKind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Not said, or a value from a newer version.
    #[default]
    Unspecified,
    /// Within a process.
    Internal,
    /// Handled a request.
    Server,
    /// Made a request.
    Client,
    /// Sent a message that someone else handles later.
    Producer,
    /// Handled such a message.
    Consumer,
}

/// `Status.StatusCode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StatusCode {
    /// Not said, or a value from a newer version.
    #[default]
    Unset,
    /// Said to be good.
    Ok,
    /// Failed.
    Error,
}

/// A span in a request's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanView<'a> {
    /// As it stands; 16 bytes if it is valid.
    pub trace_id: &'a [u8],
    /// 8 bytes if it is valid.
    pub span_id: &'a [u8],
    /// Empty for a root.
    pub parent_span_id: &'a [u8],
    /// W3C tracestate.
    pub trace_state: &'a [u8],
    /// UTF-8, if the sender kept to protobuf's rules.
    pub name: &'a [u8],
    /// Kind.
    pub kind: Kind,
    /// Nanoseconds since the Unix epoch; 0 if there is none.
    pub start_unix_ns: u64,
    /// Likewise.
    pub end_unix_ns: u64,
    /// Outcome.
    pub status: StatusCode,
    request: &'a [u8],
    /// Where the span's fields are in the request.
    pub(crate) body: Range<usize>,
    /// The last `trace_state` field.
    pub(crate) trace_state_field: Option<Range<usize>>,
    /// The name's field; several are [`Self::is_plain`] not.
    pub(crate) name_field: Option<Field>,
    /// Where its attributes stand.
    pub(crate) attributes: Range<usize>,
    /// Of what a relay looks into there is at most a name and then attributes that follow each other, all
    /// [short](Fields::next_short).
    pub(crate) is_plain: bool,
}

/// The tag of an attribute.
pub(crate) const ATTRIBUTE_TAG: u8 = (number::span::ATTRIBUTES << 3 | 2) as u8;

impl<'a> SpanView<'a> {
    fn new(request: &'a [u8], body: Range<usize>) -> Self {
        Self {
            trace_id: &[],
            span_id: &[],
            parent_span_id: &[],
            trace_state: &[],
            name: &[],
            kind: Kind::Unspecified,
            start_unix_ns: 0,
            end_unix_ns: 0,
            status: StatusCode::Unset,
            request,
            trace_state_field: None,
            name_field: None,
            attributes: body.start..body.start,
            is_plain: true,
            body,
        }
    }

    /// Reads the span at `body`.
    pub(crate) fn read(request: &'a [u8], body: Range<usize>) -> Result<Self, Malformed> {
        let mut span = Self::new(request, body.clone());
        let mut fields = Fields::new(request, body);
        span.read_usual(&mut fields);
        loop {
            let run = fields.run(ATTRIBUTE_TAG);
            if !run.is_empty() {
                span.is_plain &= span.attributes.is_empty();
                span.attributes = run;
            }
            match fields.next()? {
                Some(field) => span.field(&field)?,
                None => return Ok(span),
            }
        }
    }

    /// One field after the other.
    #[cfg(test)]
    pub(crate) fn read_slowly(request: &'a [u8], body: Range<usize>) -> Result<Self, Malformed> {
        let mut span = Self::new(request, body.clone());
        let mut fields = Fields::new(request, body);
        while let Some(field) = fields.next()? {
            span.field(&field)?;
        }
        Ok(span)
    }

    /// The fields that nearly all spans begin with, in their usual order, as long as they are those.
    #[inline(always)]
    fn read_usual(&mut self, fields: &mut Fields<'a>) {
        const fn tag(number: u32, wire_type: u32) -> u8 {
            (number << 3 | wire_type) as u8
        }
        const TRACE_ID: u8 = tag(number::span::TRACE_ID, 2);
        const SPAN_ID: u8 = tag(number::span::SPAN_ID, 2);
        const PARENT_SPAN_ID: u8 = tag(number::span::PARENT_SPAN_ID, 2);
        const NAME: u8 = tag(number::span::NAME, 2);
        const KIND: u8 = tag(number::span::KIND, 0);
        const START_TIME: u8 = tag(number::span::START_TIME, 1);
        const END_TIME: u8 = tag(number::span::END_TIME, 1);
        let ids = fields.next_if::<28>(|ids| ids[..2] == [TRACE_ID, 16] && ids[18..20] == [SPAN_ID, 8]);
        if let Some(ids) = ids {
            (self.trace_id, self.span_id) = (&ids[2..18], &ids[20..]);
        }
        if let Some(parent) = fields.next_if::<10>(|parent| parent[..2] == [PARENT_SPAN_ID, 8]) {
            self.parent_span_id = &parent[2..];
        }
        if let Some(name) = fields.next_short(NAME) {
            self.name = name.bytes().map_or(&[], |range| &self.request[range]);
            self.name_field = Some(name);
        }
        let times = fields
            .next_if::<20>(|times| matches!(times, [KIND, ..0x80, START_TIME, _, _, _, _, _, _, _, _, END_TIME, ..]));
        if let Some([_, kind, _, times @ ..]) = times {
            let time = |at: usize| times[at..].first_chunk().map_or(0, |time| u64::from_le_bytes(*time));
            self.kind = Kind::from_number(u64::from(*kind));
            (self.start_unix_ns, self.end_unix_ns) = (time(0), time(9));
        }
    }

    #[inline]
    fn field(&mut self, field: &Field) -> Result<(), Malformed> {
        let bytes = |field: &Field| field.bytes().map(|range| &self.request[range]);
        match field.number {
            number::span::ATTRIBUTES | number::span::EVENTS | number::span::LINKS => self.is_plain = false,
            number::span::TRACE_ID => self.trace_id = bytes(field)?,
            number::span::SPAN_ID => self.span_id = bytes(field)?,
            number::span::PARENT_SPAN_ID => self.parent_span_id = bytes(field)?,
            number::span::TRACE_STATE => {
                self.trace_state = bytes(field)?;
                self.trace_state_field = Some(field.range());
            }
            number::span::NAME => {
                self.name = bytes(field)?;
                self.is_plain &= self.name_field.is_none() && self.attributes.is_empty();
                self.name_field = Some(*field);
            }
            number::span::KIND => self.kind = Kind::from_number(field.varint()?),
            number::span::START_TIME => self.start_unix_ns = field.fixed64()?,
            number::span::END_TIME => self.end_unix_ns = field.fixed64()?,
            number::span::STATUS => self.read_status(field.bytes()?)?,
            _ => {}
        }
        Ok(())
    }

    fn read_status(&mut self, body: Range<usize>) -> Result<(), Malformed> {
        let mut fields = Fields::new(self.request, body);
        while let Some(field) = fields.next()? {
            match field.number {
                number::status::CODE => self.status = StatusCode::from_number(field.varint()?),
                number::status::MESSAGE => self.is_plain = false,
                _ => {}
            }
        }
        Ok(())
    }

    /// W3C trace context: 16 bytes that are not all zero.
    pub fn has_valid_trace_id(&self) -> bool {
        self.trace_id.len() == 16 && self.trace_id.iter().any(|byte| *byte != 0)
    }

    /// W3C trace context: 8 bytes that are not all zero.
    pub fn has_valid_span_id(&self) -> bool {
        self.span_id.len() == 8 && self.span_id.iter().any(|byte| *byte != 0)
    }

    /// The span as it stands: a `Span` of OTLP.
    pub fn encoded(&self) -> &'a [u8] {
        &self.request[self.body.clone()]
    }

    /// End minus start; 0 if the end is before the start.
    pub fn duration_ns(&self) -> u64 {
        self.end_unix_ns.saturating_sub(self.start_unix_ns)
    }

    /// Its attributes, in order.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes {
            fields: Fields::new(self.request, self.body.clone()),
            request: self.request,
            number: number::span::ATTRIBUTES,
        }
    }
}

impl Kind {
    const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Internal,
            2 => Self::Server,
            3 => Self::Client,
            4 => Self::Producer,
            5 => Self::Consumer,
            _ => Self::Unspecified,
        }
    }
}

impl StatusCode {
    const fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Ok,
            2 => Self::Error,
            _ => Self::Unset,
        }
    }
}

/// An attribute's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a [u8]),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Floating point.
    Double(f64),
    /// An array or pairs: the encoded `AnyValue`.
    Nested(&'a [u8]),
    /// None.
    Empty,
}

/// A key and its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribute<'a> {
    /// Key.
    pub key: &'a [u8],
    /// Value.
    pub value: Value<'a>,
}

/// The attributes of a span or a resource.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    fields: Fields<'a>,
    request: &'a [u8],
    number: u32,
}

impl<'a> Attributes<'a> {
    /// Of the message at `body`, which has them as field `number`.
    pub(crate) fn new(request: &'a [u8], body: Range<usize>, number: u32) -> Self {
        Self { fields: Fields::new(request, body), request, number }
    }

    /// Those whose key is wanted. Of the others, which are most, no more than the key is read.
    pub fn of_keys(
        mut self,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> impl Iterator<Item = Result<Attribute<'a>, Malformed>> {
        std::iter::from_fn(move || self.next_of(&is_wanted))
    }

    /// After an error nothing follows.
    fn next_of(&mut self, is_wanted: &impl Fn(&[u8]) -> bool) -> Option<Result<Attribute<'a>, Malformed>> {
        let next = self.advance_to(is_wanted).transpose();
        if matches!(next, Some(Err(_))) {
            self.fields = Fields::new(&[], 0..0);
        }
        next
    }

    fn advance_to(&mut self, is_wanted: &impl Fn(&[u8]) -> bool) -> Result<Option<Attribute<'a>>, Malformed> {
        const KEY: u8 = (number::key_value::KEY << 3 | 2) as u8;
        while let Some(field) = self.fields.next()? {
            if field.number != self.number {
                continue;
            }
            let body = field.bytes()?;
            if let [KEY, length @ ..0x80, pair @ ..] = &self.request[body.clone()]
                && pair.get(..usize::from(*length)).is_some_and(|key| !is_wanted(key))
            {
                continue;
            }
            let attribute = self.read(body)?;
            if is_wanted(attribute.key) {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    fn read(&self, body: Range<usize>) -> Result<Attribute<'a>, Malformed> {
        let (key, value) = pair(self.request, body)?;
        let value = value.map_or(Ok(Value::Empty), |field| Value::read(self.request, field.bytes()?))?;
        Ok(Attribute { key: &self.request[key], value })
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_of(&|_| true)
    }
}

/// The key's range and the last value's field of the `KeyValue` at `body`.
pub(crate) fn pair(request: &[u8], body: Range<usize>) -> Result<(Range<usize>, Option<Field>), Malformed> {
    let (mut key, mut value) = (body.start..body.start, None);
    let mut fields = Fields::new(request, body);
    while let Some(field) = fields.next()? {
        match field.number {
            number::key_value::KEY => key = field.bytes()?,
            number::key_value::VALUE => value = Some(field),
            _ => {}
        }
    }
    Ok((key, value))
}

impl<'a> Value<'a> {
    pub(crate) fn read(request: &'a [u8], body: Range<usize>) -> Result<Self, Malformed> {
        let (mut value, mut fields) = (Self::Empty, Fields::new(request, body.clone()));
        while let Some(field) = fields.next()? {
            value = match (field.number, field.wire) {
                (number::any::STRING, _) => Self::Text(&request[field.bytes()?]),
                (number::any::BOOL, _) => Self::Bool(field.varint()? != 0),
                (number::any::INT, _) => Self::Int(field.varint()? as i64),
                (number::any::DOUBLE, _) => Self::Double(f64::from_bits(field.fixed64()?)),
                (number::any::ARRAY | number::any::PAIRS, Wire::Bytes { .. }) => Self::Nested(&request[body.clone()]),
                (number::any::BYTES, _) => Self::Bytes(&request[field.bytes()?]),
                _ => value,
            };
        }
        Ok(value)
    }
}

/// The spans of a request, in order. After an error nothing follows.
pub fn spans(request: &[u8]) -> Spans<'_> {
    let nothing = Fields::new(request, 0..0);
    Spans {
        request,
        resources: Fields::new(request, 0..request.len()),
        scopes: nothing.clone(),
        spans: nothing,
        resource_spans: 0..0,
    }
}

/// Reads the spans of a request.
#[derive(Clone, Debug)]
pub struct Spans<'a> {
    request: &'a [u8],
    resources: Fields<'a>,
    scopes: Fields<'a>,
    spans: Fields<'a>,
    resource_spans: Range<usize>,
}

/// A span, and where it was found.
pub type Scanned<'a> = Result<SpanView<'a>, Malformed>;

impl<'a> Spans<'a> {
    /// Where the `ResourceSpans` of the span that came last is.
    pub(crate) fn resource_spans(&self) -> Range<usize> {
        self.resource_spans.clone()
    }

    /// Tells apart the `ResourceSpans` of a request, and so their resources: that of the span that came last.
    pub fn resource_place(&self) -> usize {
        self.resource_spans.start
    }

    /// A `Resource` as it stands, of the span that came last: one after the other, if it is in several pieces, which is the same message.
    ///
    /// # Errors
    /// What is around it is malformed.
    pub fn resource_encoded(&self) -> Result<Vec<u8>, Malformed> {
        let pieces = resource_pieces(self.request, self.resource_spans.clone())?;
        Ok(pieces.into_iter().flat_map(|piece| &self.request[piece]).copied().collect())
    }

    /// The value of a resource attribute that is text, of the resource of the span that came last.
    pub fn resource_text(&self, key: &[u8]) -> Result<Option<&'a [u8]>, Malformed> {
        let mut text = None;
        for piece in resource_pieces(self.request, self.resource_spans.clone())? {
            for attribute in Attributes::new(self.request, piece, number::resource::ATTRIBUTES) {
                match attribute? {
                    Attribute { key: found, value: Value::Text(value) } if found == key => text = Some(value),
                    _ => {}
                }
            }
        }
        Ok(text)
    }

    fn advance(&mut self) -> Result<Option<SpanView<'a>>, Malformed> {
        loop {
            if let Some(body) = next_message(&mut self.spans, number::scope_spans::SPANS)? {
                return SpanView::read(self.request, body).map(Some);
            }
            if let Some(body) = next_message(&mut self.scopes, number::resource_spans::SCOPE_SPANS)? {
                self.spans = Fields::new(self.request, body);
                continue;
            }
            let Some(body) = next_message(&mut self.resources, number::request::RESOURCE_SPANS)? else {
                return Ok(None);
            };
            self.scopes = Fields::new(self.request, body.clone());
            self.resource_spans = body;
        }
    }
}

/// The bodies of the resource of a `ResourceSpans`; almost always one.
pub(crate) fn resource_pieces(request: &[u8], resource_spans: Range<usize>) -> Result<Vec<Range<usize>>, Malformed> {
    let (mut pieces, mut fields) = (Vec::new(), Fields::new(request, resource_spans));
    while let Some(body) = next_message(&mut fields, number::resource_spans::RESOURCE)? {
        pieces.push(body);
    }
    Ok(pieces)
}

/// The body of the next field with this number.
pub(crate) fn next_message(fields: &mut Fields<'_>, number: u32) -> Result<Option<Range<usize>>, Malformed> {
    while let Some(field) = fields.next()? {
        if field.number == number {
            return field.bytes().map(Some);
        }
    }
    Ok(None)
}

impl<'a> Iterator for Spans<'a> {
    type Item = Scanned<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        if matches!(next, Some(Err(_))) {
            *self = spans(&[]);
        }
        next
    }
}
