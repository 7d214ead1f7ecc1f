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
    /// The cursor database failed.
    #[error("cannot {operation} in the cursor database {path}: {cause}")]
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
    /// A batch was settled that is not the one that the cursor gave out last.
    #[error("batch {first}..={last} of the cursor {name:?} was settled out of order")]
    BatchOrder {
        /// The cursor.
        name: String,
        /// First block of the batch.
        first: u64,
        /// Last block of the batch.
        last: u64,
    },
}

impl LogError {
    /// For `map_err` on a file operation.
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| Self::Io { operation, path, cause }
    }
}
