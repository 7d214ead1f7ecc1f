//! Opening a SQLite database beside the log: WAL, checked, brought to this version; a damaged one is set aside.
//!
//! In: a path and the steps of its schema. Out: a connection. Called by `store` and `dead`.

use std::{
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, Row};

use super::{LogError, now_unix_ns};

/// Who may read and write it.
const MODE: u32 = 0o640;

/// An open database.
#[derive(Debug)]
pub(super) struct Opened {
    pub connection: Connection,
    /// It had nothing: it was not there, not yet on the disk when the machine died, or damaged and set aside.
    pub is_new: bool,
}

/// Opens the database. `steps[n]` brings it from version `n` to `n + 1`; one of a later version is refused.
pub(super) fn open(path: &Path, steps: &[&str]) -> Result<Opened, LogError> {
    keep_private(path).map_err(LogError::io("open", path))?;
    match connect(path, steps) {
        Ok(opened) => Ok(opened),
        Err(error) if is_damage(&error) => {
            let aside = set_aside(path)?;
            keep_private(path).map_err(LogError::io("open", path))?;
            tracing::error!(path = %path.display(), aside = %aside.display(), %error, "damaged, set aside and made anew");
            let opened = connect(path, steps).map_err(error_of("open", path))?;
            Ok(Opened { is_new: true, ..opened })
        }
        Err(cause) => Err(error_of("open", path)(cause)),
    }
}

/// Nobody else reads it, whatever folder it is in: dead letters have whole spans. SQLite gives its other files the same mode.
fn keep_private(path: &Path) -> io::Result<()> {
    if path == Path::new(":memory:") {
        return Ok(());
    }
    let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o777 & !MODE == 0 { Ok(()) } else { file.set_permissions(Permissions::from_mode(mode & MODE)) }
}

fn connect(path: &Path, steps: &[&str]) -> rusqlite::Result<Opened> {
    let connection = Connection::open(path)?;
    // Counts only before the first table.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let failure = |code, text| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text));
    if check != "ok" {
        return Err(failure(rusqlite::ffi::SQLITE_CORRUPT, format!("check: {check}")));
    }
    let Some(steps_left) = usize::try_from(version).ok().and_then(|version| steps.get(version..)) else {
        let text =
            format!("it has version {version}, this agent knows {} and older: was a newer one here?", steps.len());
        return Err(failure(rusqlite::ffi::SQLITE_MISMATCH, text));
    };
    if !steps_left.is_empty() {
        let (sql, version) = (steps_left.join(""), steps.len());
        connection.execute_batch(&format!("BEGIN; {sql} PRAGMA user_version = {version}; COMMIT;"))?;
        force(&connection)?;
    }
    Ok(Opened { connection, is_new: version == 0 })
}

/// Forces everything that was committed to the disk: moves it from the write-ahead log into the database file, or, as long as somebody
/// else reads that, leaves it where it is.
pub(super) fn force(connection: &Connection) -> rusqlite::Result<()> {
    if checkpoint(connection)? { Ok(()) } else { force_wal(connection) }
}

/// Moves everything from the write-ahead log into the database file, forced to disk; an error if somebody else reads that.
pub(super) fn rewrite(connection: &Connection) -> rusqlite::Result<()> {
    if checkpoint(connection)? {
        return Ok(());
    }
    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(busy, Some("another process reads it".to_owned())))
}

/// Says whether all of it could be moved.
fn checkpoint(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

fn force_wal(connection: &Connection) -> rusqlite::Result<()> {
    let Some(path) = connection.path().filter(|path| !path.is_empty()) else { return Ok(()) };
    let forced = std::fs::File::open(format!("{path}-wal")).and_then(|file| file.sync_all());
    forced.map_err(|error| {
        let failed = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        rusqlite::Error::SqliteFailure(failed, Some(format!("{path}-wal: {error}")))
    })
}

/// Gives room that nothing is in any more back to the file system.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let mut vacuum = connection.prepare_cached("PRAGMA incremental_vacuum")?;
    let mut steps = vacuum.query([])?;
    while steps.next()?.is_some() {} // a page each
    force(connection)
}

/// SQLite's integers are signed; numbers of spans and blocks never get that large.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A column that [`signed`] has filled.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase))
}

fn set_aside(path: &Path) -> Result<PathBuf, LogError> {
    let aside = path.with_extension(format!("db.damaged-{}", now_unix_ns()));
    std::fs::rename(path, &aside).map_err(LogError::io("set aside", path))?;
    for suffix in ["-wal", "-shm"] {
        let with_suffix = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            name
        };
        // Usually not there; a new database must not find the old one's.
        let _ = std::fs::rename(with_suffix(path), with_suffix(&aside));
    }
    Ok(aside)
}

/// For `map_err` on an operation of the database.
pub(super) fn error_of(operation: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> LogError {
    let path = path.to_owned();
    move |cause| LogError::Store { operation, path, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_it_elsewhere_keeps_nothing_from_the_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let Opened { connection, .. } = open(&path, &["CREATE TABLE t (x INTEGER) STRICT;"]).expect("opens");
        let insert = || connection.execute("INSERT INTO t VALUES (1)", []).expect("inserts");
        insert();
        let reader = Connection::open(&path).expect("opens");
        reader.execute_batch("BEGIN; SELECT count(*) FROM t;").expect("reads");
        insert();
        let wal_bytes = || std::fs::metadata(folder.path().join("a.db-wal")).expect("there").len();
        assert!(rewrite(&connection).is_err(), "what stands in the write-ahead log is not believed");
        force(&connection).expect("forced where it is");
        assert!(wal_bytes() > 0);
        reader.execute_batch("COMMIT").expect("ends");
        rewrite(&connection).expect("moved");
        force(&connection).expect("nothing to force");
        assert_eq!(wal_bytes(), 0);
    }
}
