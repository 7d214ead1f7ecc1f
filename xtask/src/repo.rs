//! Where things are: the repository, its caches and its build output.
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout that this xtask was built from.
pub struct Repo {
    /// The workspace root.
    pub root: PathBuf,
}

impl Repo {
    /// Finds the workspace root: the folder above this crate.
    pub fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map(PathBuf::from)
            .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = manifest.parent().context("xtask has no parent folder")?;
        Ok(Self { root: root.to_path_buf() })
    }

    /// A path inside the repository.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A path inside `.cache/`, which git ignores and `cargo clean` leaves alone.
    pub fn cache(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(".cache").join(relative)
    }

    /// Cargo's output folder for the userspace crates: `CARGO_TARGET_DIR`, else `target/`.
    pub fn target(&self) -> PathBuf {
        match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
            // cargo resolves a relative value against its own working folder, which is the root in every task.
            Some(value) => self.root.join(value),
            None => self.root.join("target"),
        }
    }

    /// The agent's binary for a profile (`debug` or `release`).
    pub fn agent_binary(&self, profile: &str) -> PathBuf {
        self.target().join(profile).join("spantap")
    }

    /// The linked kernel programs, as `agent/build.rs` looks for them.
    pub fn object(&self) -> PathBuf {
        self.path("target/bpf/spantap.bpf.o")
    }

    /// A path shortened for messages: relative to the root where it lies inside.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}
