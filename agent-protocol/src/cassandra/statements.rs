//! Prepared statements: what they do and on which table, by the id that the server gave them.

use std::collections::VecDeque;

/// A statement's id: an MD5 sum in all known servers.
pub(super) type Id = [u8; 16];

/// Most statements that are remembered of a connection; the oldest is forgotten.
const STATEMENTS_MAX: usize = 128;
/// Most that are being prepared at a time.
const PREPARING_MAX: usize = 64;
/// Longest name of a keyspace or table that is kept (Cassandra's own limit is 48 characters).
const NAME_BYTES_MAX: usize = 96;

/// What is remembered of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) operation: Box<str>,
    pub(super) keyspace: Option<Box<str>>,
    pub(super) table: Option<Box<str>>,
}

/// Those of a connection.
#[derive(Debug, Default)]
pub(super) struct Statements {
    /// By stream.
    preparing: VecDeque<(i16, Statement)>,
    prepared: VecDeque<(Id, Statement)>,
}

impl Statements {
    /// A statement is to be prepared.
    pub(super) fn prepare(&mut self, stream: i16, statement: Statement) {
        self.preparing.retain(|(known, _)| *known != stream);
        if self.preparing.len() >= PREPARING_MAX {
            self.preparing.pop_front();
        }
        self.preparing.push_back((stream, statement));
    }

    /// A stream's request was answered: with a statement's id, and the table that its values are for, or otherwise.
    pub(super) fn answered(&mut self, stream: i16, prepared: Option<(Id, Option<(&str, &str)>)>) {
        let Some(at) = self.preparing.iter().position(|(known, _)| *known == stream) else { return };
        let Some((_, mut statement)) = self.preparing.remove(at) else { return };
        let Some((id, table)) = prepared else { return };
        let fits = table.filter(|(keyspace, table)| keyspace.len().max(table.len()) <= NAME_BYTES_MAX);
        if let Some((keyspace, table)) = fits {
            (statement.keyspace, statement.table) = (Some(keyspace.into()), Some(table.into()));
        }
        self.prepared.retain(|(known, _)| *known != id);
        if self.prepared.len() >= STATEMENTS_MAX {
            self.prepared.pop_front();
        }
        self.prepared.push_back((id, statement));
    }

    /// What is known of a statement.
    pub(super) fn get(&self, id: Id) -> Option<&Statement> {
        self.prepared.iter().find(|(known, _)| *known == id).map(|(_, statement)| statement)
    }
}
