//! Jaeger's model in Thrift's binary protocol (`jaeger.thrift`): a `Batch` without an envelope.

use thrift::protocol::{
    TBinaryOutputProtocol, TFieldIdentifier, TListIdentifier, TOutputProtocol, TStructIdentifier, TType,
};

use super::jaeger_proto::{Batch, Log, Process, Span, SpanRef, SpanRefType, Tag, Time, ValueType};

type Written = thrift::Result<()>;

/// The bytes of a batch.
pub(super) fn encode(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail.
    let _ = Writer(TBinaryOutputProtocol::new(&mut bytes, true)).batch(batch);
    bytes
}

struct Writer<'a>(TBinaryOutputProtocol<&'a mut Vec<u8>>);

impl Writer<'_> {
    fn begin(&mut self) -> Written {
        self.0.write_struct_begin(&TStructIdentifier::new(""))
    }

    fn end(&mut self) -> Written {
        self.0.write_field_stop()?;
        self.0.write_struct_end()
    }

    fn field(&mut self, kind: TType, id: i16) -> Written {
        self.0.write_field_begin(&TFieldIdentifier::new("", kind, id))
    }

    fn text(&mut self, id: i16, text: &str) -> Written {
        self.field(TType::String, id)?;
        self.0.write_string(text)
    }

    fn i32(&mut self, id: i16, value: i32) -> Written {
        self.field(TType::I32, id)?;
        self.0.write_i32(value)
    }

    fn i64(&mut self, id: i16, value: i64) -> Written {
        self.field(TType::I64, id)?;
        self.0.write_i64(value)
    }

    fn list<T>(&mut self, id: i16, list: &[T], each: fn(&mut Self, &T) -> Written) -> Written {
        self.field(TType::List, id)?;
        let len = list.len().try_into().unwrap_or(i32::MAX);
        self.0.write_list_begin(&TListIdentifier::new(TType::Struct, len))?;
        list.iter().try_for_each(|item| each(self, item))?;
        self.0.write_list_end()
    }

    fn batch(&mut self, batch: &Batch) -> Written {
        self.begin()?;
        self.field(TType::Struct, 1)?;
        self.process(&batch.process.clone().unwrap_or_default())?;
        self.list(2, &batch.spans, Self::span)?;
        self.end()
    }

    fn process(&mut self, process: &Process) -> Written {
        self.begin()?;
        self.text(1, &process.service_name)?;
        self.list(2, &process.tags, Self::tag)?;
        self.end()
    }

    fn span(&mut self, span: &Span) -> Written {
        let (high, low) = trace_id(&span.trace_id);
        let parent = span.references.iter().find(|reference| reference.ref_type() == SpanRefType::ChildOf);
        self.begin()?;
        self.i64(1, low)?;
        self.i64(2, high)?;
        self.i64(3, id(&span.span_id))?;
        self.i64(4, parent.map_or(0, |parent| id(&parent.span_id)))?;
        self.text(5, &span.operation_name)?;
        self.list(6, &span.references, Self::reference)?;
        self.i32(7, span.flags.cast_signed())?;
        self.i64(8, span.start_time.map_or(0, Time::micros))?;
        self.i64(9, span.duration.map_or(0, Time::micros))?;
        self.list(10, &span.tags, Self::tag)?;
        self.list(11, &span.logs, Self::log)?;
        self.end()
    }

    fn reference(&mut self, reference: &SpanRef) -> Written {
        let (high, low) = trace_id(&reference.trace_id);
        self.begin()?;
        self.i32(1, reference.ref_type)?;
        self.i64(2, low)?;
        self.i64(3, high)?;
        self.i64(4, id(&reference.span_id))?;
        self.end()
    }

    fn log(&mut self, log: &Log) -> Written {
        self.begin()?;
        self.i64(1, log.timestamp.map_or(0, Time::micros))?;
        self.list(2, &log.fields, Self::tag)?;
        self.end()
    }

    fn tag(&mut self, tag: &Tag) -> Written {
        self.begin()?;
        self.text(1, &tag.key)?;
        match tag.v_type() {
            ValueType::String => {
                self.i32(2, 0)?;
                self.text(3, &tag.v_str)?;
            }
            ValueType::Float64 => {
                self.i32(2, 1)?;
                self.field(TType::Double, 4)?;
                self.0.write_double(tag.v_float64)?;
            }
            ValueType::Bool => {
                self.i32(2, 2)?;
                self.field(TType::Bool, 5)?;
                self.0.write_bool(tag.v_bool)?;
            }
            ValueType::Int64 => {
                self.i32(2, 3)?;
                self.i64(6, tag.v_int64)?;
            }
            ValueType::Binary => {
                self.i32(2, 4)?;
                self.field(TType::String, 7)?;
                self.0.write_bytes(&tag.v_binary)?;
            }
        }
        self.end()
    }
}

/// An id as Thrift has it: the same bits, signed.
fn id(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_be_bytes)
}

/// High and low half.
fn trace_id(bytes: &[u8]) -> (i64, i64) {
    bytes.split_at_checked(8).map_or((0, 0), |(high, low)| (id(high), id(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_binary_protocol() {
        let tag = Tag { key: "k".into(), v_type: ValueType::Bool.into(), v_bool: true, ..Tag::default() };
        let process = Process { service_name: "s".into(), tags: vec![tag] };
        let bytes = encode(&Batch { spans: Vec::new(), process: Some(process) });
        let expected: Vec<u8> = [
            // Field 1: the process, with its name and a list of one tag.
            &b"\x0c\x00\x01"[..],
            b"\x0b\x00\x01\x00\x00\x00\x01s",
            b"\x0f\x00\x02\x0c\x00\x00\x00\x01",
            // The tag: key, type 2 (bool), value.
            b"\x0b\x00\x01\x00\x00\x00\x01k\x08\x00\x02\x00\x00\x00\x02\x02\x00\x05\x01\x00",
            b"\x00",
            // Field 2: no spans.
            b"\x0f\x00\x02\x0c\x00\x00\x00\x00\x00",
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn ids_keep_their_bits() {
        assert_eq!(id(&[0xff, 0, 0, 0, 0, 0, 0, 0]), -72_057_594_037_927_936);
        let (high, low) = trace_id(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!((high, low), (1, 2));
        assert_eq!(trace_id(b"short"), (0, 0));
    }
}
