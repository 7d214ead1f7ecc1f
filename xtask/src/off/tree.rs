//! A copy of the sources with every edit in it, and its build folder.
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::table::{Edit, Table};
use crate::repo::Repo;
use crate::shell;

/// The scratch copy and its builds.
pub struct Tree {
    pub root: PathBuf,
    pub target: PathBuf,
}

/// Beginnings of names of what is built from this repository, or links to it; all else in a build folder is built from registries.
const OWN: &[&str] = &[
    "agent",
    "libagent",
    "spantap",
    "libspantap",
    "xtask",
    "actor",
    "bench",
    "phoenix",
    "e2e",
    "delivery",
    "hooks",
    "scenarios",
    "servers",
];

impl Tree {
    /// Writes the copy. What has not changed since the last one is not touched, so that it is not built again.
    pub fn write(repo: &Repo, table: &Table) -> Result<Self> {
        let folder = repo.path("target/off");
        let tree = Self { root: folder.join("tree"), target: folder.join("build") };
        let changed = table.sources(&repo.root)?;
        let files = ["ls-files", "--cached", "--others", "--exclude-standard"];
        let listed = shell::output(Command::new("git").args(files).current_dir(&repo.root))?;
        for name in listed.lines() {
            let bytes = match changed.get(name) {
                Some(text) => text.clone().into_bytes(),
                // A file that is deleted but not yet from the index.
                None => match fs::read(repo.path(name)) {
                    Ok(bytes) => bytes,
                    Err(_) => continue,
                },
            };
            put(&tree.root.join(name), &bytes)?;
        }
        tree.share(repo)?;
        tree.seed(repo)?;
        Ok(tree)
    }

    /// What tests need beside the sources: the kernel programs and the environments of other languages.
    fn share(&self, repo: &Repo) -> Result<()> {
        for (name, inside) in [(".cache", self.root.join(".cache")), ("target/bpf", self.root.join("target/bpf"))] {
            create(inside.parent().context("it has a folder")?)?;
            if inside.symlink_metadata().is_err() {
                std::os::unix::fs::symlink(repo.path(name), &inside)
                    .with_context(|| format!("link {}", inside.display()))?;
            }
        }
        Ok(())
    }

    /// A new build folder begins with links to what this repository's own builds made of its dependencies.
    fn seed(&self, repo: &Repo) -> Result<()> {
        if self.target.exists() {
            return Ok(());
        }
        for part in ["deps", "build", ".fingerprint"] {
            let from = repo.target().join("debug").join(part);
            for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
                if !is_own(&entry.file_name()) {
                    link(&entry.path(), &self.target.join("debug").join(part).join(entry.file_name()))?;
                }
            }
        }
        Ok(())
    }

    /// Makes the changes of these edits in files that are not built, until what is given is dropped.
    pub fn edit(&self, repo: &Repo, edits: &[(usize, &Edit)]) -> Result<Edited> {
        let mut texts = BTreeMap::new();
        for change in edits.iter().flat_map(|(_, edit)| &edit.change).filter(|change| !change.is_rust()) {
            let original = repo.path(&change.file);
            let read = || fs::read_to_string(&original).with_context(|| format!("read {}", original.display()));
            let text = texts.remove(&change.file).map_or_else(read, Ok)?;
            texts.insert(change.file.clone(), change.made(&text, "")?);
        }
        let mut edited = Edited(Vec::new());
        for (name, text) in texts {
            edited.0.push((repo.path(&name), self.root.join(&name)));
            put(&self.root.join(&name), text.as_bytes())?;
        }
        Ok(edited)
    }
}

/// Files that are as they were again when this is dropped: the originals, and the copies.
pub struct Edited(Vec<(PathBuf, PathBuf)>);

impl Drop for Edited {
    fn drop(&mut self) {
        for (original, copy) in &self.0 {
            if let Err(error) = fs::copy(original, copy) {
                eprintln!("{} is not as it was: {error}", copy.display());
            }
        }
    }
}

fn is_own(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    OWN.iter().any(|own| name.starts_with(own))
}

/// Writes what differs.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    create(path.parent().context("a file has a folder")?)?;
    fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

/// Hard links of a file, or of all in a folder: they keep their times, by which cargo knows that they are not old.
fn link(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        create(to.parent().context("a file has a folder")?)?;
        return fs::hard_link(from, to).with_context(|| format!("link {} to {}", from.display(), to.display()));
    }
    create(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        link(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_from_registries_is_shared() {
        for own in ["agent-0a1b", "libagent_core-0a.rlib", "delivery-0a", "spantap.d"] {
            assert!(is_own(OsStr::new(own)), "{own}");
        }
        assert!(!is_own(OsStr::new("libtokio-0a.rlib")));
    }
}
