//! Messages: what the method before them says of exchange and routing key, and the header that follows it of size and trace.

use super::method::{self, Id, text};
use crate::{
    destination,
    fields::{Fields, name},
    session::{Facts, Kind, Outcome, Text, Texts, TraceParent},
    traceparent,
};

/// Names that the server or a client made up for one connection begin like this.
const GENERATED: [&str; 3] = ["amq.gen-", "amq.rabbitmq.reply-to", "amq.ctag-"];

/// What the method says that a message follows.
pub(super) fn facts(id: Id, mut fields: Fields<'_>, texts: &mut Texts) -> Facts {
    // A broker pushes what it delivers, which by the conventions is `process`; who gets a message asks for it: `receive`.
    let (operation, kind, span_kind) = match id {
        method::PUBLISH => ("publish", Some("send"), Kind::Produce),
        method::DELIVER => ("deliver", Some("process"), Kind::Consume),
        _ => ("return", None, Kind::Request),
    };
    let route = Route::read(id, &mut fields).unwrap_or_default();
    let mut facts = system(operation);
    facts.kind = span_kind;
    if let Some(kind) = kind {
        facts.set("messaging.operation.type", kind);
    }
    route.tell(&mut facts, texts);
    facts
}

/// What the answer to a request for one message adds to what the request says.
pub(super) fn got(mut fields: Fields<'_>, texts: &mut Texts) -> Facts {
    let mut facts = Facts::default().with("messaging.batch.message_count", 1_u64).outcome(Outcome::Ok);
    if let Some(key) = Route::read(method::GET_OK, &mut fields).and_then(|route| route.key(texts)) {
        facts.set("messaging.rabbitmq.destination.routing_key", key);
    }
    facts
}

/// Facts of an operation.
pub(super) fn system(operation: &'static str) -> Facts {
    let facts = Facts { attributes: Vec::with_capacity(8), ..Facts::named(operation) };
    let facts = facts.with("messaging.system", "rabbitmq").with("network.protocol.version", "0-9-1");
    facts.with("messaging.operation.name", operation)
}

/// Where a message goes, or came from.
#[derive(Debug, Default)]
struct Route<'a> {
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
}

impl<'a> Route<'a> {
    fn read(id: Id, fields: &mut Fields<'a>) -> Option<Self> {
        match id {
            method::PUBLISH => fields.skip(2)?,
            // The consumer's tag, the delivery's tag, whether it was delivered before.
            method::DELIVER => {
                text(fields)?;
                fields.skip(8 + 1)?;
            }
            method::GET_OK => fields.skip(8 + 1)?,
            // The code of the reply and its text.
            _ => {
                fields.skip(2)?;
                text(fields)?;
            }
        }
        Some(Self { exchange: name(text(fields)?), routing_key: text(fields).and_then(name) })
    }

    /// The routing key. To an exchange it may name one order or user, and loses its ids; else it is a queue's name.
    fn key(&self, texts: &mut Texts) -> Option<Text> {
        let key = self.routing_key?;
        Some(match self.exchange {
            Some(_) => texts.written(|name| destination::write(name, key.as_bytes(), b'.')),
            None => texts.text(key),
        })
    }

    /// The destination is exchange and routing key; of the default exchange, whose name is empty, the key alone: a queue.
    /// The span is named after exchange or queue, of which there are few, unless it was made up.
    fn tell(&self, facts: &mut Facts, texts: &mut Texts) {
        let operation = facts.name.take().unwrap_or_default();
        let target = self.exchange.or(self.routing_key);
        facts.name = match target {
            Some(target) if !is_generated(target) => Some(texts.concat(&[&operation, " ", target])),
            _ => Some(operation),
        };
        let key = self.key(texts);
        let destination = match (self.exchange, &key) {
            (Some(exchange), Some(key)) => Some(texts.concat(&[exchange, ":", key])),
            (Some(exchange), None) => Some(texts.text(exchange)),
            (None, key) => key.clone(),
        };
        if let Some(destination) = destination {
            facts.set("messaging.destination.name", destination);
        }
        if let Some(key) = key {
            facts.set("messaging.rabbitmq.destination.routing_key", key);
        }
        if target.is_some_and(is_generated) {
            facts.set("messaging.destination.temporary", true);
        }
    }
}

/// Sets what an operation on a queue or exchange is about.
pub(super) fn set_destination(facts: &mut Facts, destination: &str, texts: &mut Texts) {
    facts.set("messaging.destination.name", texts.text(destination));
    if is_generated(destination) {
        return facts.set("messaging.destination.temporary", true);
    }
    let operation = facts.name.take().unwrap_or_default();
    facts.name = Some(texts.concat(&[&operation, " ", destination]));
}

fn is_generated(destination: &str) -> bool {
    let group = |group: &str| group.len() >= 8 && group.bytes().all(|byte| byte.is_ascii_hexdigit());
    GENERATED.iter().any(|begin| destination.starts_with(begin))
        || destination
            .split(['-', '_', '.', ':', '/'])
            .any(|part| group(part) && part.bytes().any(|b| b.is_ascii_digit()))
}

/// A content header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) body_bytes: u64,
    pub(super) trace: Option<TraceParent>,
}

impl Header {
    /// Reads a header frame's payload.
    pub(super) fn read(captured: &[u8]) -> Option<Self> {
        let mut fields = Fields(captured);
        fields.skip(4)?;
        Some(Self { body_bytes: fields.u64()?, trace: trace(fields) })
    }
}

/// The trace context in the table of headers.
fn trace(mut fields: Fields<'_>) -> Option<TraceParent> {
    const CONTENT_TYPE: u16 = 1 << 15;
    const CONTENT_ENCODING: u16 = 1 << 14;
    const HEADERS: u16 = 1 << 13;
    let flags = fields.u16()?;
    for flag in [CONTENT_TYPE, CONTENT_ENCODING] {
        if flags & flag != 0 {
            text(&mut fields)?;
        }
    }
    if flags & HEADERS == 0 {
        return None;
    }
    let length = fields.u32()? as usize;
    let mut table = Fields(fields.take_captured(length));
    loop {
        let key = text(&mut table)?;
        let value = value(&mut table)?;
        if key == b"traceparent" {
            return traceparent::parse(std::str::from_utf8(value).ok()?);
        }
    }
}

/// A field's value; empty if it is no text. Kinds are RabbitMQ's (its document on AMQP 0-9-1's errata).
fn value<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let bytes = match fields.u8()? {
        b'S' | b'x' => {
            let length = fields.u32()? as usize;
            return fields.take(length);
        }
        b'A' | b'F' => fields.u32()? as usize,
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'i' | b'I' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        _ => return None,
    };
    fields.skip(bytes)?;
    Some(b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_were_made_up_are_known() {
        let generated = [
            "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
            "reply-8c7cdd2e-20a2-4a4e-9a3b-3d6b2f2a9c11",
            "job.20261128",
            "celery.a3f81c09d2",
        ];
        assert!(generated.iter().all(|name| is_generated(name)));
        assert!(["orders", "order.created", "billing-v2", "decade", "deadbeef"].iter().all(|name| !is_generated(name)));
    }
}
