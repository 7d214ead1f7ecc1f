//! A copy of the sources with changes.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Tree;
use crate::repo::Repo;
use crate::shell;

/// A text that is replaced by another in one file; it must be there exactly once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    file: String,
    search: String,
    replace: String,
}

impl Change {
    /// Whether the text is there, once.
    pub fn fits(&self, root: &Path) -> Result<()> {
        let path = root.join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        self.made(&text).map(drop)
    }

    fn made(&self, text: &str) -> Result<String> {
        let found = text.matches(&self.search).count();
        ensure!(found == 1, "{} has {found} times, not once: {}", self.file, self.search);
        Ok(text.replacen(&self.search, &self.replace, 1))
    }
}

/// Writes the copy. What has not changed since the last one is not touched, so that it is not built again.
pub fn write(repo: &Repo, changes: &[&Change]) -> Result<Tree> {
    let folder = repo.path("target/off");
    let tree = Tree { root: folder.join("tree"), target: folder.join("build") };
    let listed = shell::output(
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(&repo.root),
    )?;
    for name in listed.lines() {
        // A file that is deleted but not yet from the index.
        let Ok(mut bytes) = fs::read(repo.path(name)) else { continue };
        for change in changes.iter().filter(|change| change.file == name) {
            let text = String::from_utf8(bytes).with_context(|| format!("{name} is no text"))?;
            bytes = change.made(&text)?.into_bytes();
        }
        let copy = tree.root.join(name);
        if fs::read(&copy).is_ok_and(|old| old == bytes) {
            continue;
        }
        let parent = copy.parent().context("a file has a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::write(&copy, bytes).with_context(|| format!("write {}", copy.display()))?;
    }
    share(repo, &tree)?;
    Ok(tree)
}

/// What tests need beside the sources: the kernel programs and the environments of other languages.
fn share(repo: &Repo, tree: &Tree) -> Result<()> {
    for (name, inside) in [(".cache", tree.root.join(".cache")), ("target/bpf", tree.root.join("target/bpf"))] {
        let parent = inside.parent().context("it has a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        if inside.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(repo.path(name), &inside)
                .with_context(|| format!("link {}", inside.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Change;

    #[test]
    fn a_change_is_made_once_or_not_at_all() {
        let change = Change { file: "f".into(), search: "if a".into(), replace: "if false".into() };
        assert_eq!(change.made("x\nif a {\n").unwrap(), "x\nif false {\n");
        assert!(change.made("if a if a").is_err());
        assert!(change.made("none").is_err());
    }
}
