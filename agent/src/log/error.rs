//! What can go wrong with the span log; every variant names the operation and the file. The messages are whole: the cause stands in
//! them, and is not also given as `source()`, so that no chain prints it twice.

use std::{io, path::PathBuf};

/// An error of the span log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another agent uses the folder.
    #[error(
        "{path} is in use by another spantap agent ({holder}): stop that agent, or give this one its own --data-dir"
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// What the lock file says about its holder.
        holder: String,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}: {cause}")]
    Io {
        /// In words: `append to`, `create`, `read`.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// A segment of the log cannot be read at start.
    #[error(
        "cannot read the span log's segment {path}: {cause}; its spans may be whole, so they are not given up: repair the cause, or move the \
         file out of the folder to start without them (they are counted as dropped)"
    )]
    Segment {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// A database beside the log failed.
    #[error("cannot {operation} in the database {path}: {cause}")]
    Store {
        /// In words.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        cause: rusqlite::Error,
    },
    /// One span is larger than a block may be.
    #[error("a span of {bytes} bytes is larger than a block may be ({max})")]
    SpanTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A cursor of this name is open already.
    #[error("the cursor {name:?} is open already: destination names must differ")]
    CursorOpen {
        /// Its name.
        name: String,
    },
    /// A batch was settled that is not open.
    #[error("the batch that begins with block {first} of the cursor {name:?} is not open")]
    NotOpen {
        /// The cursor.
        name: String,
        /// First block of the batch.
        first: u64,
    },
    /// The log is full of relayed spans that destinations have not taken yet.
    #[error(
        "the span log is full ({bytes} of {max} bytes) of spans that destinations have not taken: see `spantap status`; raise \
         log.max_bytes, or let the oldest go by log.overflow: drop_oldest"
    )]
    Full {
        /// What it holds.
        bytes: u64,
        /// Its bound.
        max: u64,
    },
    /// There is no room for more dead letters.
    #[error(
        "the destination's dead letters are full ({bytes} of {max} bytes), it waits: see `spantap dlq ls`, replay or drop some, or raise \
         log.dead_letters_max_bytes"
    )]
    DeadLettersFull {
        /// What they hold.
        bytes: u64,
        /// Their bound.
        max: u64,
    },
    /// Forcing to disk failed after the spans were appended.
    #[error("the spans could not be forced to disk: {cause}")]
    NotDurable {
        /// Why.
        cause: String,
    },
}

impl LogError {
    /// For `map_err` on a file operation.
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { operation, path, cause }
    }
}
