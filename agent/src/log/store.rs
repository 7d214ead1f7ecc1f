//! The cursor database: where each destination is, and what it refused.
//!
//! In: positions and counts. Out: the same after a restart. SQLite in WAL mode; a commit is not forced to disk, so after the
//! machine (not the agent) died a destination may get some spans twice, and never misses one. It can be rebuilt: without it every
//! cursor begins with the oldest span of the log. Called by [`Cursor`](super::Cursor) and the writer.
//!
//! Limits: [`DEAD_LETTERS_MAX`] dead-letter rows per destination; the oldest go, the counts stay.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};

use super::{LogError, cursor::DestinationCounts, now_unix_ns, reader::Position};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS cursor (
        name TEXT PRIMARY KEY, start_span INTEGER NOT NULL, next_block INTEGER NOT NULL, next_span INTEGER NOT NULL,
        delivered INTEGER NOT NULL, dead INTEGER NOT NULL, dropped INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS dead_letter (
        id INTEGER PRIMARY KEY, destination TEXT NOT NULL, first_block INTEGER NOT NULL, last_block INTEGER NOT NULL,
        spans INTEGER NOT NULL, reason TEXT NOT NULL, at_unix_ns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS dead_letter_destination ON dead_letter (destination, id);
";
/// Version of the tables above, in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;
/// Most dead-letter rows of a destination.
pub(super) const DEAD_LETTERS_MAX: u64 = 10_000;

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
    rebuilt: bool,
}

/// Spans that a destination refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetter<'a> {
    pub first_block: u64,
    pub last_block: u64,
    pub spans: u64,
    pub reason: &'a str,
}

impl Store {
    /// Opens the database; a missing or damaged one is made anew (the damaged one is kept beside it).
    pub fn open(path: &Path, has_spans: bool) -> Result<Self, LogError> {
        let is_new = !path.exists();
        let (connection, damaged) = match connect(path) {
            Ok(connection) => (connection, false),
            Err(error) if is_damage(&error) => {
                set_aside(path)?;
                (connect(path).map_err(error_of("open", path))?, true)
            }
            Err(cause) => return Err(error_of("open", path)(cause)),
        };
        let rebuilt = has_spans && (is_new || damaged);
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection), rebuilt })
    }

    /// Whether the positions of the cursors were lost.
    pub fn rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// The furthest block and span that any cursor has passed.
    pub fn furthest(&self) -> Result<(u64, u64), LogError> {
        let sql = "SELECT coalesce(max(next_block), 0), coalesce(max(next_span), 0) FROM cursor";
        let row = self.connection().query_row(sql, [], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))));
        row.map_err(error_of("read the cursors", &self.path))
    }

    /// The saved state of a cursor.
    pub fn load(&self, name: &str) -> Result<Option<DestinationCounts>, LogError> {
        let sql = "SELECT start_span, next_block, next_span, delivered, dead, dropped FROM cursor WHERE name = ?1";
        let row = self.connection().query_row(sql, [name], |row| {
            Ok(DestinationCounts {
                start_span: unsigned(row.get(0)?),
                next: Position { block: unsigned(row.get(1)?), span: unsigned(row.get(2)?) },
                delivered: unsigned(row.get(3)?),
                dead: unsigned(row.get(4)?),
                dropped: unsigned(row.get(5)?),
                queued: 0,
            })
        });
        row.optional().map_err(error_of("read a cursor", &self.path))
    }

    /// Saves a cursor, and with it what the destination refused.
    pub fn save(&self, name: &str, counts: &DestinationCounts, dead: Option<DeadLetter<'_>>) -> Result<(), LogError> {
        let saved = save(&mut self.connection(), name, counts, dead);
        saved.map_err(error_of("save a cursor", &self.path))
    }

    /// Deletes the dead-letter rows whose blocks are gone.
    pub fn forget_dead_before(&self, block: u64) -> Result<(), LogError> {
        let deleted = self.connection().execute("DELETE FROM dead_letter WHERE last_block < ?1", [signed(block)]);
        deleted.map(drop).map_err(error_of("delete dead letters", &self.path))
    }

    /// Moves everything from the write-ahead log into the database file, forced to disk.
    pub fn checkpoint(&self) -> Result<(), LogError> {
        let done = self.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        done.map_err(error_of("checkpoint", &self.path))
    }

    #[cfg(test)]
    pub fn dead_letters(&self, destination: &str) -> Vec<(u64, u64, u64, String)> {
        let connection = self.connection();
        let sql = "SELECT first_block, last_block, spans, reason FROM dead_letter WHERE destination = ?1 ORDER BY id";
        let mut statement = connection.prepare(sql).expect("the table exists");
        let rows = statement.query_map([destination], |row| {
            Ok((unsigned(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?), row.get(3)?))
        });
        rows.expect("the query is valid").map(|row| row.expect("the columns have these types")).collect()
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if check != "ok" || !(version == 0 || version == SCHEMA_VERSION) {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(format!("version {version}, check {check}"))));
    }
    connection.execute_batch(SCHEMA)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(connection)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase))
}

fn set_aside(path: &Path) -> Result<(), LogError> {
    let aside = path.with_extension(format!("db.damaged-{}", now_unix_ns()));
    std::fs::rename(path, &aside).map_err(LogError::io("set aside", path))?;
    for suffix in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        // Usually not there; a new database must not find the old one's.
        let _ = std::fs::remove_file(name);
    }
    Ok(())
}

fn save(
    connection: &mut Connection,
    name: &str,
    counts: &DestinationCounts,
    dead: Option<DeadLetter<'_>>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.prepare_cached("INSERT OR REPLACE INTO cursor VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
        params![
            name,
            signed(counts.start_span),
            signed(counts.next.block),
            signed(counts.next.span),
            signed(counts.delivered),
            signed(counts.dead),
            signed(counts.dropped),
        ],
    )?;
    if let Some(dead) = dead {
        let sql = "INSERT INTO dead_letter (destination, first_block, last_block, spans, reason, at_unix_ns)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (first, last) = (signed(dead.first_block), signed(dead.last_block));
        transaction.prepare_cached(sql)?.execute(params![
            name,
            first,
            last,
            signed(dead.spans),
            dead.reason,
            signed(now_unix_ns())
        ])?;
        let sql = "DELETE FROM dead_letter WHERE destination = ?1 AND id <= (
                       SELECT id FROM dead_letter WHERE destination = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
        transaction.prepare_cached(sql)?.execute(params![name, signed(DEAD_LETTERS_MAX)])?;
    }
    transaction.commit()
}

fn error_of(operation: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> LogError {
    let path = path.to_owned();
    move |cause| LogError::Store { operation, path, cause }
}

/// SQLite's integers are signed; numbers of spans and blocks never get that large.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
