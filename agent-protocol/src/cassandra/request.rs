//! Requests: what they do, on which table, with which consistency.

use super::{
    frame::{self, Compression, Header, text},
    statements::{Id, Statement, Statements},
};
use crate::{
    fields::{Fields, name},
    session::{Facts, Side},
};

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
    pub(super) keyspace: Option<Box<str>>,
    pub(super) compression: Option<Compression>,
}

/// What a request says; `body` is its captured part, `None` if it is compressed and cannot be opened.
pub(super) fn facts(header: &Header, body: Option<&[u8]>, context: &mut Context) -> Facts {
    let opcode = header.name(Side::Client).unwrap_or_default();
    let facts = Facts { attributes: Vec::with_capacity(8), ..Facts::named(opcode) };
    let mut facts = facts.with("db.system.name", "cassandra").with("db.operation.name", opcode);
    facts.set("network.protocol.version", header.version.to_string());
    let mut keyspace = context.keyspace.clone();
    if let Some(body) = body {
        let mut fields = Fields(body);
        let read = header.skip_extras(&mut fields, Side::Client);
        let _ = read.and_then(|()| match header.opcode {
            frame::STARTUP => startup(fields, context),
            frame::QUERY => query(fields, &mut facts),
            frame::PREPARE => prepare(header, fields, context),
            frame::EXECUTE => execute(header, fields, context, &mut keyspace, &mut facts),
            frame::BATCH => batch(fields, &mut facts),
            _ => None,
        });
    }
    let with_keyspace = matches!(header.opcode, frame::QUERY | frame::PREPARE | frame::EXECUTE | frame::BATCH);
    if let Some(keyspace) = keyspace.filter(|_| with_keyspace) {
        facts.set("db.namespace", &*keyspace);
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
    if let Some(operation) = operation(text) {
        facts.set("db.operation.name", operation);
        facts.name = Some(operation.to_owned().into());
    }
    (text.len() == length).then_some(())?;
    consistency(&mut fields, facts)
}

fn prepare(header: &Header, mut fields: Fields<'_>, context: &mut Context) -> Option<()> {
    let length = fields.u32()? as usize;
    let operation = operation(fields.take_captured(length))?;
    let statement = Statement { operation: operation.into(), ..Statement::default() };
    context.statements.prepare(header.stream, statement);
    Some(())
}

/// The statement's id (in version 5 also that of its result's metadata), then the consistency.
fn execute(
    header: &Header,
    mut fields: Fields<'_>,
    context: &Context,
    keyspace: &mut Option<Box<str>>,
    facts: &mut Facts,
) -> Option<()> {
    let id: Id = text(&mut fields)?.try_into().ok()?;
    if let Some(statement) = context.statements.get(id) {
        facts.set("db.operation.name", &*statement.operation);
        let table = statement.table.as_deref();
        facts.name = Some(
            table
                .map_or_else(|| statement.operation.to_string(), |table| format!("{} {table}", statement.operation))
                .into(),
        );
        if let Some(table) = table {
            facts.set("db.collection.name", table);
        }
        *keyspace = statement.keyspace.clone().or_else(|| keyspace.take());
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

/// The first word of a statement, if it is one of CQL's: literals and comments are not read.
fn operation(text: &[u8]) -> Option<&'static str> {
    const WORDS: [&str; 17] = [
        "SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "APPLY", "TRUNCATE", "USE", "CREATE", "ALTER", "DROP",
        "GRANT", "REVOKE", "LIST", "DESCRIBE", "DESC", "ADD",
    ];
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let word = name(&text[..end])?;
    WORDS.iter().find(|known| known.eq_ignore_ascii_case(word)).copied()
}
