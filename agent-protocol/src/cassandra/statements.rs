//! Statements, and those that are prepared by the id that the server gave them.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    sql::{Backslash, Dialect, Prepared, Rules, Statement},
    text::Text,
};

/// A statement's id: an MD5 sum in all known servers.
pub(super) type Id = [u8; 16];

/// Most statements that are remembered of a connection, and most bytes of them.
const PREPARED_MAX: usize = 256;
const PREPARED_BYTES_MAX: usize = 48 * 1024;
/// Most that are being prepared at a time.
const PREPARING_MAX: usize = 16;
/// Longest name of a keyspace or table that is kept (Cassandra's own limit is 48 characters).
const NAME_BYTES_MAX: usize = 96;

/// Reads a statement; `whole`: all of it was captured. Else its last word is left out: it may be the begin of a UUID.
pub(super) fn read(text: &[u8], whole: bool) -> Statement {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let words_end =
        if whole { text.len() } else { text.iter().rposition(|byte| !is_word(byte)).map_or(0, |at| at + 1) };
    Statement::read(&text[..words_end], whole, Rules { dialect: Dialect::Cql, backslash: Backslash::Plain })
}

/// Those of a connection.
#[derive(Debug)]
pub(super) struct Statements {
    /// By stream.
    preparing: VecDeque<(i16, Statement)>,
    prepared: Prepared<Id>,
}

impl Default for Statements {
    fn default() -> Self {
        Self { preparing: VecDeque::new(), prepared: Prepared::new(PREPARED_MAX, PREPARED_BYTES_MAX) }
    }
}

impl Statements {
    /// A statement is to be prepared; its texts are [shared](Statement::shared).
    pub(super) fn prepare(&mut self, stream: i16, statement: Statement) {
        self.preparing.retain(|(known, _)| *known != stream);
        if self.preparing.len() >= PREPARING_MAX {
            self.preparing.pop_front();
        }
        self.preparing.push_back((stream, statement));
    }

    /// A stream's request was answered: with a statement's id, and the keyspace and table that its values are for, or otherwise.
    /// The keyspace is kept as the statement's database.
    pub(super) fn answered(&mut self, stream: i16, prepared: Option<(Id, Option<(&str, &str)>)>) {
        let Some(at) = self.preparing.iter().position(|(known, _)| *known == stream) else { return };
        let Some((_, mut statement)) = self.preparing.remove(at) else { return };
        let Some((id, table)) = prepared else { return };
        let fits = table.filter(|(keyspace, table)| keyspace.len().max(table.len()) <= NAME_BYTES_MAX);
        if let Some((keyspace, table)) = fits {
            statement.database = Some(Text::Shared(keyspace.into()));
            statement.collection.get_or_insert_with(|| Text::Shared(table.into()));
        }
        self.prepared.insert(id, Arc::new(statement));
    }

    /// Requests or answers were lost: an answer is not known to be about what is being prepared. Ids stay what they are.
    pub(super) fn lose(&mut self) {
        self.preparing.clear();
    }

    /// What is known of a statement.
    pub(super) fn get(&mut self, id: Id) -> Option<Arc<Statement>> {
        self.prepared.get(&id)
    }
}
