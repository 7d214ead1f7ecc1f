//! The cursor database: where each destination is, and which number each tenant has.
//!
//! In: positions and counts. Out: the same after a restart. SQLite in WAL mode; a commit is not forced to disk, so after the
//! machine (not the agent) died a destination may get some spans twice, and never misses one. It can be rebuilt: without it every
//! cursor begins with the oldest span of the log. Called by [`Cursor`](super::Cursor) and the log.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    LogError,
    cursor::DestinationCounts,
    database::{self, Opened, error_of},
    reader::Position,
};

const VERSION_1: &str = "
    CREATE TABLE IF NOT EXISTS cursor (
        name TEXT PRIMARY KEY, start_span INTEGER NOT NULL, next_block INTEGER NOT NULL, next_span INTEGER NOT NULL,
        delivered INTEGER NOT NULL, dead INTEGER NOT NULL, dropped INTEGER NOT NULL
    ) STRICT;
";
/// What version 2 has beyond version 1, whose dead letters were only marks in the log.
const VERSION_2: &str = "
    ALTER TABLE cursor ADD COLUMN filtered INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE open_batch (destination TEXT NOT NULL, first_block INTEGER NOT NULL, last_block INTEGER NOT NULL) STRICT;
    CREATE INDEX open_batch_destination ON open_batch (destination, first_block);
    CREATE TABLE tenant (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE log_id (id BLOB NOT NULL) STRICT;
    INSERT INTO log_id VALUES (randomblob(8));
    DROP TABLE IF EXISTS dead_letter;
";
/// Most tenants; the log has 24 bits for their numbers.
const TENANTS_MAX: i64 = (1 << 24) - 1;

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
    rebuilt: bool,
}

/// What is known of a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub counts: DestinationCounts,
    /// First and last block of each batch that was given out and not settled, in order.
    pub open: Vec<(u64, u64)>,
}

impl Saved {
    /// Nothing is open.
    pub fn new(counts: DestinationCounts) -> Self {
        Self { counts, open: Vec::new() }
    }
}

impl Store {
    /// Opens the database; a missing or damaged one is made anew (the damaged one is kept beside it).
    pub fn open(path: &Path, has_spans: bool) -> Result<Self, LogError> {
        let Opened { connection, is_new } = database::open(path, &[VERSION_1, VERSION_2])?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection), rebuilt: has_spans && is_new })
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
    pub fn load(&self, name: &str) -> Result<Option<Saved>, LogError> {
        load(&self.connection(), name).map_err(error_of("read a cursor", &self.path))
    }

    /// Saves a cursor.
    pub fn save(&self, name: &str, saved: &Saved) -> Result<(), LogError> {
        save(&mut self.connection(), name, saved).map_err(error_of("save a cursor", &self.path))
    }

    /// The number of a tenant, given to it now if it has none.
    pub fn tenant(&self, name: &str) -> Result<u32, LogError> {
        tenant(&self.connection(), name).map_err(error_of("number a tenant", &self.path))
    }

    /// What this log is told apart by from others, also after it was moved.
    pub fn log_id(&self) -> Result<[u8; 8], LogError> {
        let id = self.connection().query_row("SELECT id FROM log_id", [], |row| row.get(0));
        id.map_err(error_of("read the id", &self.path))
    }

    /// Moves everything from the write-ahead log into the database file, forced to disk.
    pub fn checkpoint(&self) -> Result<(), LogError> {
        let done = self.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        done.map_err(error_of("checkpoint", &self.path))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(connection: &Connection, name: &str) -> rusqlite::Result<Option<Saved>> {
    let sql =
        "SELECT start_span, next_block, next_span, delivered, dead, dropped, filtered FROM cursor WHERE name = ?1";
    let counts = connection.query_row(sql, [name], |row| {
        Ok(DestinationCounts {
            start_span: unsigned(row.get(0)?),
            next: Position { block: unsigned(row.get(1)?), span: unsigned(row.get(2)?) },
            delivered: unsigned(row.get(3)?),
            dead: unsigned(row.get(4)?),
            dropped: unsigned(row.get(5)?),
            filtered: unsigned(row.get(6)?),
            queued: 0,
        })
    });
    let Some(counts) = counts.optional()? else { return Ok(None) };
    let sql = "SELECT first_block, last_block FROM open_batch WHERE destination = ?1 ORDER BY first_block";
    let mut statement = connection.prepare(sql)?;
    let open = statement.query_map([name], |row| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?))))?;
    Ok(Some(Saved { counts, open: open.collect::<rusqlite::Result<_>>()? }))
}

fn save(connection: &mut Connection, name: &str, Saved { counts, open }: &Saved) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let sql =
        "INSERT OR REPLACE INTO cursor (name, start_span, next_block, next_span, delivered, dead, dropped, filtered)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    transaction.prepare_cached(sql)?.execute(params![
        name,
        signed(counts.start_span),
        signed(counts.next.block),
        signed(counts.next.span),
        signed(counts.delivered),
        signed(counts.dead),
        signed(counts.dropped),
        signed(counts.filtered),
    ])?;
    transaction.prepare_cached("DELETE FROM open_batch WHERE destination = ?1")?.execute([name])?;
    let mut insert = transaction.prepare_cached("INSERT INTO open_batch VALUES (?1, ?2, ?3)")?;
    for (first, last) in open {
        insert.execute(params![name, signed(*first), signed(*last)])?;
    }
    drop(insert);
    transaction.commit()
}

fn tenant(connection: &Connection, name: &str) -> rusqlite::Result<u32> {
    let find = "SELECT number FROM tenant WHERE name = ?1";
    let known = connection.query_row(find, [name], |row| row.get(0)).optional()?;
    if let Some(number) = known {
        return Ok(number);
    }
    let sql = "INSERT INTO tenant (number, name) SELECT coalesce(max(number), 0) + 1, ?1 FROM tenant
               HAVING coalesce(max(number), 0) < ?2 RETURNING number";
    connection.query_row(sql, params![name, TENANTS_MAX], |row| row.get(0))
}

/// SQLite's integers are signed; numbers of spans and blocks never get that large.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
