//! Requests: statements, how many of them, with which consistency.

use super::{
    frame::{self, Compression, Header, text},
    statements::{self, Id, Statements},
};
use crate::{
    fields::Fields,
    session::{Facts, Side},
    sql::Statement,
    text::Text,
};

/// As `db.system.name`.
pub(super) const SYSTEM: &str = "cassandra";

/// By code (native_protocol_v5.spec, 3: `[consistency]`), as the semantic conventions write them.
const CONSISTENCIES: [&str; 11] = [
    "any",
    "one",
    "two",
    "three",
    "quorum",
    "all",
    "local_quorum",
    "each_quorum",
    "serial",
    "local_serial",
    "local_one",
];

/// What is known of the connection that requests are read with.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) statements: Statements,
    /// The keyspace that was set.
    pub(super) keyspace: Option<Text>,
    pub(super) compression: Option<Compression>,
}

/// What a request says; `body` is its captured part, `None` if it is compressed and cannot be opened.
pub(super) fn facts(header: &Header, body: Option<&[u8]>, context: &mut Context) -> Facts {
    let opcode = header.name(Side::Client).unwrap_or_default();
    let mut facts = Facts::named(opcode);
    if let Some(body) = body {
        let mut fields = Fields(body);
        let read = header.skip_extras(&mut fields, Side::Client);
        let _ = read.and_then(|()| match header.opcode {
            frame::STARTUP => startup(fields, context),
            frame::QUERY => query(fields, &mut facts),
            frame::PREPARE => prepare(header, fields, context, &mut facts),
            frame::EXECUTE => execute(header, fields, context, &mut facts),
            frame::BATCH => batch(fields, &mut facts),
            _ => None,
        });
    }
    facts.set("db.system.name", SYSTEM);
    facts.set("network.protocol.version", header.version_name());
    if !facts.attributes.iter().any(|(key, _)| *key == "db.operation.name") {
        facts.set("db.operation.name", opcode);
    }
    let on_keyspace = matches!(header.opcode, frame::QUERY | frame::PREPARE | frame::EXECUTE | frame::BATCH);
    let known = facts.attributes.iter().any(|(key, _)| *key == "db.namespace");
    if let Some(keyspace) = context.keyspace.as_ref().filter(|_| on_keyspace && !known) {
        facts.set("db.namespace", keyspace.clone());
    }
    facts
}

/// Options by name.
fn startup(mut fields: Fields<'_>, context: &mut Context) -> Option<()> {
    for _ in 0..fields.u16()? {
        if let (b"COMPRESSION", algorithm) = (text(&mut fields)?, text(&mut fields)?) {
            context.compression = match algorithm.to_ascii_lowercase().as_slice() {
                b"lz4" => Some(Compression::Lz4),
                b"snappy" => Some(Compression::Snappy),
                _ => None,
            };
        }
    }
    Some(())
}

/// The text, then the consistency.
fn query(mut fields: Fields<'_>, facts: &mut Facts) -> Option<()> {
    let length = fields.u32()? as usize;
    let text = fields.take_captured(length);
    let whole = text.len() == length;
    let statement = statements::read(text, whole);
    facts.trace = statement.trace;
    statement.tell(SYSTEM, facts);
    whole.then_some(())?;
    consistency(&mut fields, facts)
}

/// What a statement does is said of its executions; preparing it is an operation of its own.
fn prepare(header: &Header, mut fields: Fields<'_>, context: &mut Context, facts: &mut Facts) -> Option<()> {
    let length = fields.u32()? as usize;
    let text = fields.take_captured(length);
    let statement = statements::read(text, text.len() == length).shared();
    facts.trace = statement.trace;
    if !statement.text.is_empty() {
        facts.set("db.query.text", statement.text.clone());
    }
    context.statements.prepare(header.stream, statement);
    Some(())
}

/// The statement's id (in version 5 also that of its result's metadata), then the consistency.
fn execute(header: &Header, mut fields: Fields<'_>, context: &mut Context, facts: &mut Facts) -> Option<()> {
    let id: Id = text(&mut fields)?.try_into().ok()?;
    if let Some(statement) = context.statements.get(id) {
        Statement::clone(&statement).tell(SYSTEM, facts);
        if let Some(keyspace) = &statement.database {
            facts.set("db.namespace", keyspace.clone());
        }
    }
    if header.version == 5 {
        text(&mut fields)?;
    }
    consistency(&mut fields, facts)
}

/// The kind of batch, then how many statements.
fn batch(mut fields: Fields<'_>, facts: &mut Facts) -> Option<()> {
    fields.skip(1)?;
    let statements = fields.u16()?;
    // Of one statement it would be no batch.
    if statements != 1 {
        facts.set("db.operation.batch.size", u64::from(statements));
    }
    Some(())
}

fn consistency(fields: &mut Fields<'_>, facts: &mut Facts) -> Option<()> {
    let level = CONSISTENCIES.get(usize::from(fields.u16()?))?;
    facts.set("cassandra.consistency.level", *level);
    Some(())
}
