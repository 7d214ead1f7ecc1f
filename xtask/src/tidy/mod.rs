//! `cargo xtask tidy`: the rules of ARCHITECTURE.md that a program can check.
//!
//! In: the repository's files and cargo's metadata. Out: every problem found, then an error if there was one. Each check is a pure
//! function over names and texts, with a test that it can fail.
mod arrows;
mod lexer;
mod parsers;
mod sources;
mod strings;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::shell;

/// Something that breaks a rule: where, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(pub String);

/// A text file of the repository.
pub struct Source {
    /// Path from the root, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Checks everything.
pub fn tidy(repo: &Repo) -> Result<()> {
    let files = files(repo)?;
    let mut problems = arrows::check(&packages(repo)?);
    problems.extend(sources::check(&files));
    problems.extend(strings::check(&files));
    let lib =
        files.iter().find(|file| file.path == "agent-protocol/src/lib.rs").context("agent-protocol has no lib.rs")?;
    problems.extend(parsers::check(&lib.text, &fuzz_targets(&repo.path("agent-protocol/fuzz"))?));

    for note in sources::long_files(&files) {
        println!("note: {note}");
    }
    for Problem(problem) in &problems {
        println!("tidy: {problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} problem(s)", problems.len());
    }
    println!("tidy: {} files, no problem", files.len());
    Ok(())
}

/// The names of the fuzz targets in a crate's `fuzz` folder, sorted; none where the folder is missing.
pub fn fuzz_targets(fuzz: &Path) -> Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).into_iter().flatten() {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The packages of the workspace, of the kernel programs and of the fuzz targets, with what they depend on.
fn packages(repo: &Repo) -> Result<Vec<arrows::Package>> {
    let mut packages = Vec::new();
    for manifest in ["Cargo.toml", "agent-ebpf/Cargo.toml"] {
        if !repo.path(manifest).is_file() {
            bail!("{manifest} is missing");
        }
        let mut command = shell::cargo();
        command.args(["metadata", "--format-version", "1", "--no-deps", "--manifest-path", manifest]);
        packages.extend(arrows::parse(&shell::output(command.current_dir(&repo.root))?)?);
    }
    Ok(packages)
}

/// Every text file that git knows or would add.
fn files(repo: &Repo) -> Result<Vec<Source>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&repo.root);
    let listing = shell::output(&mut command).context("tidy asks git which files belong to the repository")?;
    let mut files = Vec::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // Deleted but not yet staged files are listed, and binary ones are not text: neither has anything to check.
        if let Some(text) = read_text(&repo.path(path))? {
            files.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

fn read_text(path: &Path) -> Result<Option<String>> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file for the checks' tests.
    pub fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn the_repository_finds_its_own_sources() {
        let files = files(&Repo::find().unwrap()).unwrap();
        assert!(files.iter().any(|file| file.path == "xtask/src/tidy/mod.rs"));
        assert!(files.iter().all(|file| !file.path.starts_with("target/")));
    }
}
