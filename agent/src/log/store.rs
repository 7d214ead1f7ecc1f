//! The cursor database: where each destination is, what it did not get, and which number each tenant has (which a file beside it also says).
//!
//! In: positions and counts. Out: the same after a restart. SQLite in WAL mode; a commit is not forced to disk by itself but by
//! [`Store::force_commits`], before each batch is sent and once a second: when the machine (not the agent) dies, a destination gets again
//! only what was on its way, and never misses a span. It can be rebuilt: without it every cursor begins with the oldest span of the log.
//! Called by [`Cursor`](super::Cursor) and the log.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent_core::relay::Choice;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    BlockChoices, BlockSpans, LateExport, LogError, choices,
    cursor::{DestinationCounts, Fate},
    database::{self, Opened, error_of, signed, unsigned},
    late::ENDED_MAX,
    reader::Position,
    tenants::{TenantFile, Tenants},
    wal::Wal,
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
    CREATE TABLE open_batch (
        destination TEXT NOT NULL, first_block INTEGER NOT NULL, last_block INTEGER NOT NULL, is_settled INTEGER NOT NULL,
        dead INTEGER NOT NULL, filtered INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX open_batch_destination ON open_batch (destination, first_block);
    CREATE TABLE tenant (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE log_id (id BLOB NOT NULL) STRICT;
    INSERT INTO log_id VALUES (randomblob(8));
    CREATE TABLE state (is_rebuilt INTEGER NOT NULL, closed_block INTEGER NOT NULL) STRICT;
    INSERT INTO state VALUES (0, 0);
    DROP TABLE IF EXISTS dead_letter;
";
/// What version 3 has beyond version 2: what destinations did not get of their blocks, and requests to send that after all.
const VERSION_3: &str = "
    CREATE TABLE choices (
        destination TEXT NOT NULL, first_block INTEGER NOT NULL, last_block INTEGER NOT NULL, choices BLOB NOT NULL,
        PRIMARY KEY (destination, first_block)
    ) STRICT;
    CREATE INDEX choices_block ON choices (first_block);
    CREATE TABLE late_sent (
        destination TEXT NOT NULL, block INTEGER NOT NULL, spans BLOB NOT NULL, PRIMARY KEY (destination, block)
    ) STRICT;
    CREATE INDEX late_sent_block ON late_sent (block);
    CREATE TABLE late (
        id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, created_unix_ns INTEGER NOT NULL,
        reason TEXT NOT NULL, wanted TEXT NOT NULL, since_unix_ns INTEGER NOT NULL, until_unix_ns INTEGER NOT NULL,
        is_all INTEGER NOT NULL, next_block INTEGER NOT NULL, next_span INTEGER NOT NULL, end_block INTEGER,
        given_block INTEGER, matched INTEGER NOT NULL, sent INTEGER NOT NULL, delivered INTEGER NOT NULL,
        dead INTEGER NOT NULL, gone INTEGER NOT NULL, bytes INTEGER NOT NULL, is_done INTEGER NOT NULL
    ) STRICT;
";
/// Most tenants; the log has 24 bits for their numbers.
const TENANTS_MAX: i64 = (1 << 24) - 1;

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
    wal: Wal,
    rebuilt: bool,
    tenant_file: TenantFile,
}

/// What is known of a cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub counts: DestinationCounts,
    /// Batches that were given out, from the first that is not settled on, in order.
    pub open: Vec<SavedBatch>,
}

/// A batch that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SavedBatch {
    pub first_block: u64,
    pub last_block: u64,
    /// What became of it, if that is known: one before it is not settled.
    pub fate: Option<Fate>,
}

/// What was noted of some blocks at once, and up to which block that says what was noted.
#[derive(Debug, Default)]
pub(super) struct ChoicesRow {
    from: u64,
    to: u64,
    blocks: Vec<BlockChoices>,
}

impl ChoicesRow {
    /// Whether it says what was noted of the block.
    pub fn covers(&self, block: u64) -> bool {
        (self.from..=self.to).contains(&block) && self.to > 0
    }

    /// What was noted of a block; empty: nothing.
    pub fn of(&self, block: u64) -> Vec<Choice> {
        let found = self.blocks.iter().find(|(number, _)| *number == block);
        found.map_or_else(Vec::new, |(_, choices)| choices.clone())
    }
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
        let Opened { connection, is_new } = database::open(path, &[VERSION_1, VERSION_2, VERSION_3])?;
        if is_new && has_spans {
            let noted = connection.execute("UPDATE state SET is_rebuilt = 1", []);
            noted.and_then(|_| database::force(&connection)).map_err(error_of("note the loss", path))?;
        }
        let rebuilt = connection.query_row("SELECT is_rebuilt FROM state", [], |row| row.get(0));
        let rebuilt = rebuilt.map_err(error_of("read the state", path))?;
        let wal = Wal::open(path)?;
        let tenant_file = TenantFile::beside(path);
        let store = Self { path: path.to_owned(), connection: Mutex::new(connection), wal, rebuilt, tenant_file };
        store.agree_on_tenants()?;
        Ok(store)
    }

    /// Takes the names of tenants that only the file has, and has all of them written to it.
    fn agree_on_tenants(&self) -> Result<(), LogError> {
        let in_file = self.tenant_file.read()?;
        let added = in_file.iter().try_for_each(|(name, number)| {
            let sql = "INSERT OR IGNORE INTO tenant (number, name) VALUES (?1, ?2)";
            self.connection().execute(sql, params![number, name]).map(drop)
        });
        added.map_err(error_of("number a tenant", &self.path))?;
        let tenants = self.tenants()?;
        if tenants == in_file {
            return Ok(());
        }
        for (name, number) in in_file.iter().filter(|(name, number)| tenants.get(*name) != Some(number)) {
            tracing::error!(
                tenant = name,
                number,
                "cursors.db has another number of the tenant or the number for another, which is used"
            );
        }
        // A full disk is no reason not to drain it.
        if let Err(error) = self.tenant_file.write(&tenants) {
            tracing::error!(%error, "the numbers of tenants are only in the cursor database");
        }
        Ok(())
    }

    /// Every destination has its place again: new ones begin with new spans from the next start on.
    pub fn settle_rebuilt(&self) -> Result<(), LogError> {
        let connection = self.connection();
        let noted = connection.execute("UPDATE state SET is_rebuilt = 0", []);
        noted.and_then(|_| database::force(&connection)).map_err(error_of("save the state", &self.path))
    }

    /// How far the log went when it was last closed in order.
    pub fn closed_block(&self) -> Result<u64, LogError> {
        let block = self.connection().query_row("SELECT closed_block FROM state", [], |row| unsigned(row, 0));
        block.map_err(error_of("read the state", &self.path))
    }

    /// Notes how far the log goes, when all of it is on the disk.
    pub fn close(&self, next_block: u64) -> Result<(), LogError> {
        let noted = self.connection().execute("UPDATE state SET closed_block = ?1", [signed(next_block)]);
        noted.map(drop).map_err(error_of("save the state", &self.path))
    }

    /// Forces what was saved to the disk, together with what others save meanwhile. Nothing is done if nothing was saved since.
    pub fn force_commits(&self) -> Result<(), LogError> {
        self.wal.force(|| database::rewrite(&self.connection()).map_err(error_of("force to disk", &self.path)))
    }

    /// Forces what was saved to the disk, and empties the write-ahead log.
    pub fn force(&self) -> Result<(), LogError> {
        database::force(&self.connection()).map_err(error_of("force to disk", &self.path))
    }

    /// Whether the positions of the cursors were lost.
    pub fn rebuilt(&self) -> bool {
        self.rebuilt
    }

    /// The furthest block and span that any cursor has passed.
    pub fn furthest(&self) -> Result<(u64, u64), LogError> {
        let sql = "SELECT max(coalesce((SELECT max(next_block) FROM cursor), 0),
                              coalesce((SELECT max(last_block) + 1 FROM open_batch), 0)),
                          coalesce((SELECT max(next_span) FROM cursor), 0)";
        let row = self.connection().query_row(sql, [], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)));
        row.map_err(error_of("read the cursors", &self.path))
    }

    /// The name of every cursor, and the first span that it was not given.
    pub fn places(&self) -> Result<Vec<(String, u64)>, LogError> {
        let connection = self.connection();
        let all = || -> rusqlite::Result<Vec<(String, u64)>> {
            let mut places = connection.prepare_cached("SELECT name, next_span FROM cursor ORDER BY name")?;
            places.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?.collect()
        };
        all().map_err(error_of("read the cursors", &self.path))
    }

    /// The saved state of a cursor.
    pub fn load(&self, name: &str) -> Result<Option<Saved>, LogError> {
        load(&self.connection(), name).map_err(error_of("read a cursor", &self.path))
    }

    /// Saves a cursor.
    pub fn save(&self, name: &str, saved: &Saved) -> Result<(), LogError> {
        save(&mut self.connection(), name, saved).map_err(error_of("save a cursor", &self.path))?;
        self.wal.committed();
        Ok(())
    }

    /// Notes what was decided about blocks; forgets what was noted of blocks before `oldest`.
    pub fn note_choices(&self, destination: &str, blocks: &[BlockChoices], oldest: u64) -> Result<(), LogError> {
        let (Some((first, _)), Some((last, _))) = (blocks.first(), blocks.last()) else { return Ok(()) };
        let bytes = choices::encode(blocks);
        let connection = self.connection();
        let noted = connection
            .prepare_cached("INSERT OR REPLACE INTO choices VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut insert| insert.execute(params![destination, signed(*first), signed(*last), bytes]))
            .and_then(|_| connection.prepare_cached("DELETE FROM choices WHERE first_block < ?1 AND last_block < ?1"))
            .and_then(|mut delete| delete.execute([signed(oldest)]));
        noted.map_err(error_of("note what was left out", &self.path))?;
        self.wal.committed();
        Ok(())
    }

    /// What was noted of a block and of those near it.
    pub fn choices(&self, destination: &str, block: u64) -> Result<ChoicesRow, LogError> {
        let sql =
            "SELECT first_block, last_block, choices FROM choices WHERE destination = ?1 AND first_block >= coalesce(
                       (SELECT max(first_block) FROM choices WHERE destination = ?1 AND first_block <= ?2), 0)
                   AND last_block >= ?2 ORDER BY first_block LIMIT 1";
        let connection = self.connection();
        let row = connection.prepare_cached(sql).and_then(|mut statement| {
            let values = params![destination, signed(block)];
            let row = |row: &Row<'_>| Ok((unsigned(row, 0)?, unsigned(row, 1)?, row.get::<_, Vec<u8>>(2)?));
            statement.query_row(values, row).optional()
        });
        Ok(match row.map_err(error_of("read what was left out", &self.path))? {
            Some((_, to, bytes)) => ChoicesRow { from: block, to, blocks: choices::decode(&bytes) },
            // It may be noted later of the next one.
            None => ChoicesRow { from: block, to: block, blocks: Vec::new() },
        })
    }

    /// Keeps a request to send spans late; forgets the oldest that are over. Gives its number.
    pub fn add_late(&self, late: &LateExport) -> Result<u64, LogError> {
        let connection = self.connection();
        let sql =
            "INSERT INTO late (destination, created_unix_ns, reason, wanted, since_unix_ns, until_unix_ns, is_all,
                       next_block, next_span, end_block, matched, sent, delivered, dead, gone, bytes, is_done)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 0, 0, 0, 0, 0, 0, 0)";
        let values = params![
            late.destination,
            signed(late.created_unix_ns),
            late.reason,
            late.wanted,
            signed(late.since_unix_ns),
            signed(late.until_unix_ns),
            late.all,
            signed(late.next.block),
            signed(late.next.span),
            late.end_block.map(signed),
        ];
        let prune = "DELETE FROM late WHERE is_done = 1 AND id <= ?1 - ?2";
        let added = connection.execute(sql, values).and_then(|_| {
            let id = connection.last_insert_rowid();
            connection.execute(prune, params![id, signed(ENDED_MAX)])?;
            database::force(&connection)?;
            Ok(u64::try_from(id).unwrap_or(0))
        });
        added.map_err(error_of("keep a request", &self.path))
    }

    /// Saves how far a request is, and which spans of which blocks were sent for it; forgets such of blocks before `oldest`.
    pub fn save_late(&self, late: &LateExport, sent: &[BlockSpans], oldest: u64) -> Result<(), LogError> {
        let saved = save_late(&mut self.connection(), late, sent, oldest);
        saved.map_err(error_of("save a request", &self.path))?;
        self.wal.committed();
        Ok(())
    }

    /// Which spans of a block were sent on request, a byte each; empty: none.
    pub fn late_sent(&self, destination: &str, block: u64) -> Result<Vec<u8>, LogError> {
        late_sent(&self.connection(), destination, block).map_err(error_of("read what was sent late", &self.path))
    }

    /// Requests, oldest first.
    pub fn late(&self, open_to: Option<&str>) -> Result<Vec<LateExport>, LogError> {
        let sql =
            "SELECT id, destination, created_unix_ns, reason, wanted, since_unix_ns, until_unix_ns, is_all, next_block,
                       next_span, end_block, given_block, matched, sent, delivered, dead, gone, bytes, is_done FROM late
                   WHERE ?1 IS NULL OR (destination = ?1 AND is_done = 0) ORDER BY id";
        let connection = self.connection();
        let listed = connection.prepare_cached(sql).and_then(|mut statement| {
            let rows = statement.query_map([open_to], late_of)?;
            rows.collect()
        });
        listed.map_err(error_of("list requests", &self.path))
    }

    /// The number of a tenant; a new one gets one above `used`, which may stand for somebody in the log.
    pub fn tenant(&self, name: &str, used: u32) -> Result<u32, LogError> {
        let failed = || error_of("number a tenant", &self.path);
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(failed())?;
        let (number, is_new) = tenant(&transaction, name, used).map_err(failed())?;
        if is_new {
            // Before a block with it is on the disk: another tenant must never get the same.
            self.tenant_file.write(&tenants(&transaction).map_err(failed())?)?;
            transaction.commit().and_then(|()| database::force(&connection)).map_err(failed())?;
        }
        Ok(number)
    }

    /// All tenants that have a number.
    pub fn tenants(&self) -> Result<Tenants, LogError> {
        tenants(&self.connection()).map_err(error_of("read the tenants", &self.path))
    }

    /// The number of a tenant that was here before.
    pub fn known_tenant(&self, name: &str) -> Result<Option<u32>, LogError> {
        let connection = self.connection();
        let known = connection.query_row("SELECT number FROM tenant WHERE name = ?1", [name], |row| row.get(0));
        known.optional().map_err(error_of("read a tenant", &self.path))
    }

    /// What this log is told apart by from others, also after it was moved.
    pub fn log_id(&self) -> Result<[u8; 8], LogError> {
        let id = self.connection().query_row("SELECT id FROM log_id", [], |row| row.get(0));
        id.map_err(error_of("read the id", &self.path))
    }

    #[cfg(test)]
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolls it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn late_sent(connection: &Connection, destination: &str, block: u64) -> rusqlite::Result<Vec<u8>> {
    let sql = "SELECT spans FROM late_sent WHERE destination = ?1 AND block = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let spans = statement.query_row(params![destination, signed(block)], |row| row.get(0));
    Ok(spans.optional()?.unwrap_or_default())
}

fn save_late(connection: &mut Connection, late: &LateExport, sent: &[BlockSpans], oldest: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (block, now) in sent {
        let mut spans = late_sent(&transaction, &late.destination, *block)?;
        spans.resize(spans.len().max(now.len()), 0);
        spans.iter_mut().zip(now).for_each(|(span, now)| *span |= u8::from(*now));
        transaction.prepare_cached("INSERT OR REPLACE INTO late_sent VALUES (?1, ?2, ?3)")?.execute(params![
            late.destination,
            signed(*block),
            spans
        ])?;
    }
    transaction.prepare_cached("DELETE FROM late_sent WHERE block < ?1")?.execute([signed(oldest)])?;
    let sql =
        "UPDATE late SET next_block = ?2, next_span = ?3, end_block = ?4, given_block = ?5, matched = ?6, sent = ?7,
                   delivered = ?8, dead = ?9, gone = ?10, bytes = ?11, is_done = ?12 WHERE id = ?1";
    transaction.prepare_cached(sql)?.execute(params![
        signed(late.id),
        signed(late.next.block),
        signed(late.next.span),
        late.end_block.map(signed),
        late.given_block.map(signed),
        signed(late.matched),
        signed(late.sent),
        signed(late.delivered),
        signed(late.dead),
        signed(late.gone),
        signed(late.bytes),
        late.is_done,
    ])?;
    transaction.commit()
}

fn late_of(row: &Row<'_>) -> rusqlite::Result<LateExport> {
    let block = |column| row.get(column).map(|block: Option<i64>| block.and_then(|block| u64::try_from(block).ok()));
    Ok(LateExport {
        id: unsigned(row, 0)?,
        destination: row.get(1)?,
        created_unix_ns: unsigned(row, 2)?,
        reason: row.get(3)?,
        wanted: row.get(4)?,
        since_unix_ns: unsigned(row, 5)?,
        until_unix_ns: unsigned(row, 6)?,
        all: row.get(7)?,
        next: Position { block: unsigned(row, 8)?, span: unsigned(row, 9)? },
        end_block: block(10)?,
        given_block: block(11)?,
        matched: unsigned(row, 12)?,
        sent: unsigned(row, 13)?,
        delivered: unsigned(row, 14)?,
        dead: unsigned(row, 15)?,
        gone: unsigned(row, 16)?,
        bytes: unsigned(row, 17)?,
        is_done: row.get(18)?,
    })
}

fn load(connection: &Connection, name: &str) -> rusqlite::Result<Option<Saved>> {
    let sql =
        "SELECT start_span, next_block, next_span, delivered, dead, dropped, filtered FROM cursor WHERE name = ?1";
    let counts = connection.query_row(sql, [name], |row| {
        Ok(DestinationCounts {
            start_span: unsigned(row, 0)?,
            next: Position { block: unsigned(row, 1)?, span: unsigned(row, 2)? },
            delivered: unsigned(row, 3)?,
            dead: unsigned(row, 4)?,
            dropped: unsigned(row, 5)?,
            filtered: unsigned(row, 6)?,
            queued: 0,
        })
    });
    let Some(counts) = counts.optional()? else { return Ok(None) };
    let sql = "SELECT first_block, last_block, is_settled, dead, filtered FROM open_batch WHERE destination = ?1
               ORDER BY first_block";
    let mut statement = connection.prepare(sql)?;
    let open = statement.query_map([name], |row| {
        let fate = Fate { dead: unsigned(row, 3)?, filtered: unsigned(row, 4)? };
        Ok(SavedBatch {
            first_block: unsigned(row, 0)?,
            last_block: unsigned(row, 1)?,
            fate: row.get::<_, bool>(2)?.then_some(fate),
        })
    })?;
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
    let mut insert = transaction.prepare_cached("INSERT INTO open_batch VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for SavedBatch { first_block, last_block, fate } in open {
        let Fate { dead, filtered } = fate.unwrap_or_default();
        let (first, last) = (signed(*first_block), signed(*last_block));
        insert.execute(params![name, first, last, fate.is_some(), signed(dead), signed(filtered)])?;
    }
    drop(insert);
    transaction.commit()
}

fn tenants(connection: &Connection) -> rusqlite::Result<Tenants> {
    let mut all = connection.prepare_cached("SELECT name, number FROM tenant")?;
    let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// The number, and whether it is new.
fn tenant(connection: &Connection, name: &str, used: u32) -> rusqlite::Result<(u32, bool)> {
    let find = "SELECT number FROM tenant WHERE name = ?1";
    let known = connection.query_row(find, [name], |row| row.get(0)).optional()?;
    if let Some(number) = known {
        return Ok((number, false));
    }
    let sql = "INSERT INTO tenant (number, name) SELECT max(coalesce(max(number), 0), ?3) + 1, ?1 FROM tenant
               HAVING max(coalesce(max(number), 0), ?3) < ?2 RETURNING number";
    Ok((connection.query_row(sql, params![name, TENANTS_MAX, used], |row| row.get(0))?, true))
}
