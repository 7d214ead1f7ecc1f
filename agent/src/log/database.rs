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

/// Moves everything from the write-ahead log into the database file, forced to disk.
pub(super) fn force(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
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
