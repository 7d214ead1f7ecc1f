//! What a command says: its name, its collection and database, how many operations it holds.

use super::{
    bson::{Document, Value},
    message::{self, Body},
};
use crate::{
    fields::name,
    session::{Facts, ROOM, Texts},
};

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 64;

/// Commands whose first value is a collection.
const ON_COLLECTION: [&[u8]; 26] = [
    b"find",
    b"insert",
    b"update",
    b"delete",
    b"aggregate",
    b"count",
    b"distinct",
    b"findAndModify",
    b"findandmodify",
    b"mapReduce",
    b"create",
    b"drop",
    b"createIndexes",
    b"listIndexes",
    b"dropIndexes",
    b"collMod",
    b"collStats",
    b"compact",
    b"validate",
    b"killCursors",
    b"convertToCapped",
    b"createSearchIndexes",
    b"dropSearchIndex",
    b"updateSearchIndex",
    b"reIndex",
    b"planCacheClear",
];

/// Whether it is a `bulkWrite`.
pub(super) fn is_bulk_write(body: &Body<'_>) -> bool {
    body.document.and_then(|document| document.elements().next()).is_some_and(|(key, _)| key == b"bulkWrite")
}

/// What a request says.
pub(super) fn facts(opcode: u32, body: &Body<'_>, texts: &mut Texts) -> Facts {
    let command = match (opcode, body.document) {
        (message::OP_UPDATE, _) => Command { name: Some("update"), ..Command::default() },
        (message::OP_INSERT, _) => Command { name: Some("insert"), ..Command::default() },
        (message::OP_DELETE, _) => Command { name: Some("delete"), ..Command::default() },
        (message::OP_GET_MORE, _) => Command { name: Some("getMore"), ..Command::default() },
        (message::OP_KILL_CURSORS, _) => Command { name: Some("killCursors"), ..Command::default() },
        (_, Some(document)) => Command::read(&document),
        (_, None) => Command::default(),
    };
    command.within(opcode, body).facts(texts)
}

#[derive(Debug, Default)]
struct Command<'a> {
    name: Option<&'a str>,
    collection: Option<&'a str>,
    database: Option<&'a str>,
    operations: Option<u64>,
}

impl<'a> Command<'a> {
    fn read(document: &Document<'a>) -> Self {
        let mut elements = document.elements();
        let Some((key, value)) = elements.next() else { return Self::default() };
        // In messages of the old kind options may stand around the command.
        if let (b"$query" | b"query", Value::Document(query)) = (key, value) {
            return Self::read(&query);
        }
        let mut command = Self { name: command_name(key), ..Self::default() };
        if let (Value::Text(text), true) = (value, ON_COLLECTION.contains(&key)) {
            command.collection = name(text);
        }
        for element in elements {
            match element {
                (b"$db", Value::Text(text)) => command.database = name(text),
                (b"collection", Value::Text(text)) if key == b"getMore" => command.collection = name(text),
                (key, Value::Document(array)) if array.whole && message::OPERATIONS.contains(&key) => {
                    command.operations = Some(array.elements().count() as u64);
                }
                _ => {}
            }
        }
        command
    }

    /// Takes what the message around it says.
    fn within(mut self, opcode: u32, body: &Body<'a>) -> Self {
        self.operations = self.operations.or(body.sequence);
        let full = body.full_collection_name.and_then(name).and_then(|full| full.split_once('.'));
        if let Some((database, collection)) = full {
            self.database = Some(database);
            if collection != "$cmd" {
                self.collection = Some(collection);
                self.name = if opcode == message::OP_QUERY { Some("find") } else { self.name };
            }
        }
        self
    }

    fn facts(self, texts: &mut Texts) -> Facts {
        let target = self.collection.or(self.database);
        let name = self.name.map(|name| match target {
            Some(target) => texts.concat(&[name, " ", target]),
            None => texts.text(name),
        });
        let mut facts =
            Facts { attributes: Vec::with_capacity(ROOM), name, ..Facts::default() }.with("db.system.name", "mongodb");
        if let Some(name) = self.name {
            facts.set("db.operation.name", texts.text(name));
        }
        if let Some(collection) = self.collection {
            facts.set("db.collection.name", texts.text(collection));
        }
        if let Some(database) = self.database {
            facts.set("db.namespace", texts.text(database));
        }
        // Of one operation it would be no batch.
        if let Some(operations) = self.operations.filter(|operations| *operations > 1) {
            facts.set("db.operation.batch.size", operations);
        }
        facts
    }
}

/// A command's name: letters, digits, underscores.
fn command_name(key: &[u8]) -> Option<&str> {
    let plain = key.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    if plain && key.len() <= NAME_BYTES_MAX { name(key) } else { None }
}
