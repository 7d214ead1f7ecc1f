//! Dead letters: spans that a destination refused for good, kept until somebody replays or drops them.
//!
//! In: the spans' wire bytes and the reason, from the exporters. Out: lists for `spantap dlq`, and letters to be sent again, to the
//! exporters. SQLite, beside the cursor database and apart from it: a letter is on stable storage before the cursor passes its spans,
//! and losing the cursors does not lose the letters. A copy, not a mark in the log: letters outlive the log's retention.
//!
//! Limits: [`DeadLetters::open`]'s bytes of spans for each destination. At the bound letters are refused, and the destination waits with
//! its spans.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};
use tokio::sync::watch;

use super::{
    LogError,
    database::{self, error_of, signed, unsigned},
    now_unix_ns,
};
use crate::capture::lock;

const VERSION_1: &str = "
    CREATE TABLE IF NOT EXISTS letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT, destination TEXT NOT NULL, key TEXT NOT NULL, at_unix_ns INTEGER NOT NULL,
        reason TEXT NOT NULL, spans INTEGER NOT NULL, is_suspect INTEGER NOT NULL, is_replayed INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 1, bytes INTEGER NOT NULL, payload BLOB NOT NULL, UNIQUE (destination, key)
    ) STRICT;
    CREATE INDEX IF NOT EXISTS letter_replay ON letter (destination, id) WHERE is_replayed = 1;
";

/// What is kept of refused spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// Number; given by [`DeadLetters::put`].
    pub id: u64,
    /// Who refused them.
    pub destination: String,
    /// What the request was recognisable by, and which part of it this is.
    pub key: String,
    /// When they were refused.
    pub at_unix_ns: u64,
    /// What the destination said.
    pub reason: String,
    /// How many were refused.
    pub spans: u64,
    /// The destination took the others of the payload and did not say which: a replay sends all.
    pub is_suspect: bool,
    /// Waits to be sent again.
    pub is_replayed: bool,
    /// How often they were refused.
    pub attempts: u32,
    /// Bytes of the payload.
    pub bytes: u64,
    /// Protobuf of an `ExportTraceServiceRequest`; empty in lists.
    pub payload: Vec<u8>,
}

/// Which letters are meant; all that fit everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Of this destination.
    pub destination: Option<String>,
    /// Refused at or after.
    pub since_unix_ns: Option<u64>,
    /// Refused before.
    pub until_unix_ns: Option<u64>,
    /// Whose reason contains this text.
    pub reason: Option<String>,
    /// With one of these numbers; empty: any.
    pub ids: Vec<u64>,
}

/// Letters of one destination together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// The destination.
    pub destination: String,
    /// Letters.
    pub letters: u64,
    /// Spans that it refused.
    pub spans: u64,
    /// Bytes kept.
    pub bytes: u64,
    /// When the first was refused.
    pub oldest_unix_ns: u64,
}

/// The letters. Clones are the same.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    bytes_max: u64,
    connection: Mutex<Connection>,
    replays: watch::Sender<u64>,
}

impl DeadLetters {
    /// Opens the letters; a damaged database is set aside, for people to look at.
    ///
    /// # Errors
    /// The database cannot be made or read.
    pub fn open(path: &Path, bytes_max: u64) -> Result<Self, LogError> {
        let connection = database::open(path, &[VERSION_1])?.connection;
        let synchronous = connection.pragma_update(None, "synchronous", "FULL");
        synchronous.map_err(error_of("set up", path))?;
        let (replays, _) = watch::channel(0);
        let inner = Inner { path: path.to_owned(), bytes_max, connection: Mutex::new(connection), replays };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Keeps a letter. One with the same destination and key is there already after a crash; it is not kept twice.
    ///
    /// # Errors
    /// The bound is reached, or the database fails. The spans are still the caller's.
    pub fn put(&self, letter: &Letter) -> Result<(), LogError> {
        let bytes = letter.payload.len() as u64;
        let sql = "SELECT coalesce(sum(bytes), 0), coalesce(max(key = ?2), 0) FROM letter WHERE destination = ?1";
        let known = self
            .connection()
            .query_row(sql, [&letter.destination, &letter.key], |row| Ok((unsigned(row, 0)?, row.get::<_, bool>(1)?)));
        let (taken, is_known) = self.done("count dead letters", known)?;
        if !is_known && taken + bytes > self.inner.bytes_max {
            return Err(LogError::DeadLettersFull { bytes: taken, max: self.inner.bytes_max });
        }
        let sql =
            "INSERT OR IGNORE INTO letter (destination, key, at_unix_ns, reason, spans, is_suspect, bytes, payload)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let values = params![
            letter.destination,
            letter.key,
            signed(now_unix_ns()),
            letter.reason,
            signed(letter.spans),
            letter.is_suspect,
            signed(bytes),
            letter.payload,
        ];
        self.done("keep a dead letter", self.connection().execute(sql, values)).map(drop)
    }

    /// Letters without their payload, oldest first, at most so many.
    ///
    /// # Errors
    /// The database fails.
    pub fn list(&self, which: &Which, count_max: usize) -> Result<Vec<Letter>, LogError> {
        let (condition, values) = condition(which);
        let sql = format!("SELECT {COLUMNS}, x'' FROM letter WHERE {condition} ORDER BY id LIMIT {count_max}");
        let connection = self.connection();
        let listed = connection.prepare(&sql).and_then(|mut statement| {
            let rows = statement.query_map(params_from_iter(values), letter)?;
            rows.collect()
        });
        self.done("list dead letters", listed)
    }

    /// A letter with its payload.
    ///
    /// # Errors
    /// The database fails.
    pub fn get(&self, id: u64) -> Result<Option<Letter>, LogError> {
        let sql = format!("SELECT {COLUMNS}, payload FROM letter WHERE id = ?1");
        self.done("read a dead letter", self.connection().query_row(&sql, [signed(id)], letter).optional())
    }

    /// Has letters sent again. Gives how many.
    ///
    /// # Errors
    /// The database fails.
    pub fn replay(&self, which: &Which) -> Result<u64, LogError> {
        let (condition, values) = condition(which);
        let sql = format!("UPDATE letter SET is_replayed = 1 WHERE {condition}");
        let marked = self.done("replay", self.connection().execute(&sql, params_from_iter(values)))?;
        self.inner.replays.send_modify(|count| *count += 1);
        Ok(marked as u64)
    }

    /// Forgets letters. Gives how many letters and spans that were.
    ///
    /// # Errors
    /// The database fails.
    pub fn forget(&self, which: &Which) -> Result<(u64, u64), LogError> {
        let (condition, values) = condition(which);
        let sql = format!("DELETE FROM letter WHERE {condition} RETURNING spans");
        let connection = self.connection();
        let gone = connection.prepare(&sql).and_then(|mut statement| {
            let rows = statement.query_map(params_from_iter(values), |row| unsigned(row, 0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        });
        let gone =
            self.done("drop dead letters", gone.and_then(|gone| database::shrink(&connection).map(|()| gone)))?;
        Ok((gone.len() as u64, gone.iter().sum()))
    }

    /// The oldest letter that is to be sent again to a destination.
    ///
    /// # Errors
    /// The database fails.
    pub fn next_replay(&self, destination: &str) -> Result<Option<Letter>, LogError> {
        let sql = format!(
            "SELECT {COLUMNS}, payload FROM letter WHERE destination = ?1 AND is_replayed = 1 ORDER BY id LIMIT 1"
        );
        let found = self.connection().query_row(&sql, [destination], letter).optional();
        self.done("read a dead letter", found)
    }

    /// A replayed letter was refused again.
    ///
    /// # Errors
    /// The database fails.
    pub fn refused_again(&self, id: u64, reason: &str) -> Result<(), LogError> {
        let sql = "UPDATE letter SET is_replayed = 0, attempts = attempts + 1, reason = ?2 WHERE id = ?1";
        self.done("keep a dead letter", self.connection().execute(sql, params![signed(id), reason])).map(drop)
    }

    /// Per destination.
    ///
    /// # Errors
    /// The database fails.
    pub fn sums(&self) -> Result<Vec<Sum>, LogError> {
        let sql =
            "SELECT destination, count(*), sum(spans), sum(bytes), min(at_unix_ns) FROM letter GROUP BY destination";
        let connection = self.connection();
        let sums = connection.prepare_cached(sql).and_then(|mut statement| {
            let rows = statement.query_map([], |row| {
                Ok(Sum {
                    destination: row.get(0)?,
                    letters: unsigned(row, 1)?,
                    spans: unsigned(row, 2)?,
                    bytes: unsigned(row, 3)?,
                    oldest_unix_ns: unsigned(row, 4)?,
                })
            })?;
            rows.collect()
        });
        self.done("count dead letters", sums)
    }

    /// Changes when letters are to be sent again.
    pub fn replays(&self) -> watch::Receiver<u64> {
        self.inner.replays.subscribe()
    }

    /// Size at which they are full.
    pub fn bytes_max(&self) -> u64 {
        self.inner.bytes_max
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a statement rolls it back.
        lock(&self.inner.connection)
    }

    fn done<T>(&self, operation: &'static str, result: rusqlite::Result<T>) -> Result<T, LogError> {
        result.map_err(error_of(operation, &self.inner.path))
    }
}

const COLUMNS: &str = "id, destination, key, at_unix_ns, reason, spans, is_suspect, is_replayed, attempts, bytes";

fn letter(row: &Row<'_>) -> rusqlite::Result<Letter> {
    Ok(Letter {
        id: unsigned(row, 0)?,
        destination: row.get(1)?,
        key: row.get(2)?,
        at_unix_ns: unsigned(row, 3)?,
        reason: row.get(4)?,
        spans: unsigned(row, 5)?,
        is_suspect: row.get(6)?,
        is_replayed: row.get(7)?,
        attempts: row.get(8)?,
        bytes: unsigned(row, 9)?,
        payload: row.get(10)?,
    })
}

/// A `WHERE` condition and its values.
fn condition(which: &Which) -> (String, Vec<Box<dyn ToSql>>) {
    let mut parts = vec!["1".to_owned()];
    let mut values: Vec<Box<dyn ToSql>> = Vec::new();
    let mut add = |part: &str, value: Option<Box<dyn ToSql>>| {
        if let Some(value) = value {
            values.push(value);
            parts.push(part.replace('?', &format!("?{}", values.len())));
        }
    };
    add("destination = ?", which.destination.clone().map(|name| Box::new(name) as _));
    add("at_unix_ns >= ?", which.since_unix_ns.map(|at| Box::new(signed(at)) as _));
    add("at_unix_ns < ?", which.until_unix_ns.map(|at| Box::new(signed(at)) as _));
    add("instr(reason, ?) > 0", which.reason.clone().map(|text| Box::new(text) as _));
    if !which.ids.is_empty() {
        let ids: Vec<String> = which.ids.iter().map(ToString::to_string).collect();
        parts.push(format!("id IN ({})", ids.join(", ")));
    }
    (parts.join(" AND "), values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes_max: u64) -> (tempfile::TempDir, DeadLetters) {
        let folder = tempfile::tempdir().expect("a folder");
        let letters = DeadLetters::open(&folder.path().join("dead.db"), bytes_max).expect("opens");
        (folder, letters)
    }

    fn letter(destination: &str, key: &str, reason: &str) -> Letter {
        Letter {
            destination: destination.into(),
            key: key.into(),
            reason: reason.into(),
            spans: 2,
            payload: vec![7; 10],
            ..Letter::default()
        }
    }

    fn keys(letters: &[Letter]) -> Vec<&str> {
        letters.iter().map(|letter| letter.key.as_str()).collect()
    }

    #[test]
    fn the_file_shrinks_when_letters_are_forgotten() {
        let (folder, letters) = open(100 << 20);
        let size = || std::fs::metadata(folder.path().join("dead.db")).expect("a file").len();
        for key in ["1", "2", "3"] {
            letters.put(&Letter { payload: vec![7; 1 << 20], ..letter("a", key, "no") }).expect("kept");
        }
        assert_eq!(letters.forget(&Which::default()).expect("forgotten").0, 3);
        assert!(size() < 1 << 20, "{}", size());
    }

    #[test]
    fn letters_are_found_by_everything_that_is_given() {
        let (_folder, letters) = open(1_000);
        for (destination, key, reason) in [("a", "1", "too old"), ("a", "2", "bad id"), ("b", "1", "too old")] {
            letters.put(&letter(destination, key, reason)).expect("kept");
        }
        let of = |which: &Which| keys(&letters.list(which, 10).expect("listed")).join(" ");
        assert_eq!(of(&Which::default()), "1 2 1");
        let old = Which { reason: Some("old".into()), ..Which::default() };
        assert_eq!(of(&old), "1 1");
        assert_eq!(of(&Which { destination: Some("a".into()), ..old.clone() }), "1");
        assert_eq!(of(&Which { ids: vec![2, 9], ..Which::default() }), "2");
        assert_eq!(of(&Which { until_unix_ns: Some(1), ..Which::default() }), "");
        assert_eq!(of(&Which { since_unix_ns: Some(1), ..old }), "1 1");
    }

    #[test]
    fn the_same_part_of_the_same_request_is_kept_once() {
        let (_folder, letters) = open(1_000);
        letters.put(&letter("a", "1", "x")).expect("kept");
        letters.put(&letter("a", "1", "x")).expect("known");
        assert_eq!(letters.sums().expect("counted")[0].letters, 1);
    }

    #[test]
    fn at_the_bound_letters_are_refused() {
        let (_folder, letters) = open(25);
        letters.put(&letter("a", "1", "x")).expect("kept");
        letters.put(&letter("a", "2", "x")).expect("kept");
        let error = letters.put(&letter("a", "3", "x")).expect_err("full");
        assert!(error.to_string().contains("spantap dlq"), "{error}");
        assert_eq!(letters.forget(&Which { ids: vec![1], ..Which::default() }).expect("gone"), (1, 2));
        letters.put(&letter("a", "3", "x")).expect("there is room again");
    }

    #[test]
    fn replayed_letters_come_once_in_order_until_they_are_settled() {
        let (_folder, letters) = open(1_000);
        for key in ["1", "2"] {
            letters.put(&letter("a", key, "x")).expect("kept");
        }
        assert_eq!(letters.next_replay("a").expect("readable"), None);
        let mut told = letters.replays();
        assert_eq!(letters.replay(&Which::default()).expect("marked"), 2);
        assert!(told.has_changed().expect("open"));
        let first = letters.next_replay("a").expect("readable").expect("a letter");
        assert_eq!((first.key.as_str(), first.payload.len()), ("1", 10));
        assert_eq!(letters.next_replay("b").expect("readable"), None);
        letters.refused_again(first.id, "still x").expect("kept");
        let second = letters.next_replay("a").expect("readable").expect("a letter");
        letters.forget(&Which { ids: vec![second.id], ..Which::default() }).expect("gone");
        assert_eq!(letters.next_replay("a").expect("readable"), None);
        let left = letters.list(&Which::default(), 10).expect("listed");
        assert_eq!((left[0].reason.as_str(), left[0].attempts), ("still x", 2));
        told.mark_unchanged();
    }
}
