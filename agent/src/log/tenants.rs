//! The names and numbers of tenants in a file of their own: blocks have only numbers, and the cursor database may be lost.
//!
//! In: all names and numbers. Out: the same, also without the database. A new name is in the file before it is in the database, and there
//! before a block has its number. Called by `store`.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{LogError, now_unix_ns};

/// Version of the file; one of a later version is refused.
const VERSION: u32 = 1;

/// Numbers by name.
pub(super) type Tenants = BTreeMap<String, u32>;

/// The file.
#[derive(Debug)]
pub(super) struct TenantFile {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    tenants: Tenants,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl TenantFile {
    /// The file beside this one.
    pub fn beside(database: &Path) -> Self {
        Self { path: database.with_file_name("tenants.json") }
    }

    /// What is in it; nothing, if it is not there or damaged. A damaged one is set aside.
    pub fn read(&self) -> Result<Tenants, LogError> {
        let bytes = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tenants::new()),
            read => read.map_err(LogError::io("read", &self.path))?,
        };
        let content = serde_json::from_slice(&bytes).and_then(|Version { version }| match version {
            VERSION => Ok(Ok(serde_json::from_slice::<Content>(&bytes)?.tenants)),
            other => Ok(Err(format!("it has version {other}, this agent knows {VERSION}: was a newer one here?"))),
        });
        match content {
            Ok(tenants) => tenants.map_err(io::Error::other).map_err(LogError::io("read", &self.path)),
            Err(error) => {
                let aside = self.path.with_extension(format!("json.damaged-{}", now_unix_ns()));
                std::fs::rename(&self.path, &aside).map_err(LogError::io("set aside", &self.path))?;
                tracing::error!(path = %self.path.display(), aside = %aside.display(), %error, "damaged, set aside");
                Ok(Tenants::new())
            }
        }
    }

    /// Replaces what is in it; returns when that is on the disk.
    pub fn write(&self, tenants: &Tenants) -> Result<(), LogError> {
        let content = Content { version: VERSION, tenants: tenants.clone() };
        let next = self.path.with_extension("json.next");
        let written = serde_json::to_vec(&content).map_err(io::Error::other).and_then(|bytes| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&next)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&next, &self.path)?;
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        });
        written.map_err(LogError::io("write", &self.path))
    }
}
