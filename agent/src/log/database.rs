//! Opening a SQLite database beside the log: WAL, checked, brought to this version; a damaged one is set aside.
//!
//! In: a path and the steps of its schema. Out: a connection. Called by `store` and `dead`.

use std::path::Path;

use rusqlite::Connection;

use super::{LogError, now_unix_ns};

/// An open database.
#[derive(Debug)]
pub(super) struct Opened {
    pub connection: Connection,
    /// It was not there, or damaged and set aside.
    pub is_new: bool,
}

/// Opens the database. `steps[n]` brings it from version `n` to `n + 1`; one of a later version counts as damaged.
pub(super) fn open(path: &Path, steps: &[&str]) -> Result<Opened, LogError> {
    let is_new = !path.exists();
    match connect(path, steps) {
        Ok(connection) => Ok(Opened { connection, is_new }),
        Err(error) if is_damage(&error) => {
            set_aside(path)?;
            let connection = connect(path, steps).map_err(error_of("open", path))?;
            Ok(Opened { connection, is_new: true })
        }
        Err(cause) => Err(error_of("open", path)(cause)),
    }
}

fn connect(path: &Path, steps: &[&str]) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = usize::try_from(version).ok().and_then(|version| steps.get(version..));
    let Some(steps_left) = known.filter(|_| check == "ok") else {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(format!("version {version}, check {check}"))));
    };
    if !steps_left.is_empty() {
        let (sql, version) = (steps_left.join(""), steps.len());
        connection.execute_batch(&format!("BEGIN; {sql} PRAGMA user_version = {version}; COMMIT;"))?;
    }
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

/// For `map_err` on an operation of the database.
pub(super) fn error_of(operation: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> LogError {
    let path = path.to_owned();
    move |cause| LogError::Store { operation, path, cause }
}
