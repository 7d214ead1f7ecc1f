//! `docs/reference-coverage.toml`: how each row's feature is switched off.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::document::Document;

/// Everything in the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Edits. Their places in this list are the numbers that switch them.
    pub off: Vec<Edit>,
    /// Rows that no edit switches off.
    #[serde(default)]
    pub without: Vec<Without>,
    /// Made in every copy, and never switched.
    #[serde(default)]
    pub always: Vec<Change>,
}

/// One feature, and how it is switched off.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Row of the document, such as F2.
    pub row: String,
    /// A test that the row names.
    pub test: String,
    /// What the test must say when it fails, where it is the test of several rows: these are then switched off together.
    #[serde(default)]
    pub says: String,
    /// What is replaced.
    pub change: Vec<Change>,
}

/// A row that has no edit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Without {
    /// Row of the document.
    pub row: String,
    /// Why not.
    pub why: String,
}

/// A text that is replaced by another in one file; it must be there exactly once.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Path within the repository.
    pub file: String,
    /// What is replaced.
    pub search: String,
    /// By what. In Rust, `OFF` in it is whether the edit is switched off, so that all edits are built at once; in other files the
    /// change is made for the run of its test only.
    pub replace: String,
}

impl Table {
    /// Reads the table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    /// Whether every edit fits, also beside the others; whether each row names its test; and whether every row is in the table.
    pub fn check(&self, root: &Path, document: &Document) -> Result<()> {
        self.sources(root)?;
        for edit in &self.off {
            document.check(&edit.row, &edit.test)?;
            for change in &edit.change {
                change.made(&read(root, &change.file)?, "")?;
                let switched = change.is_rust() == change.replace.contains("OFF");
                ensure!(switched, "row {}: `OFF` belongs into what Rust is replaced by, and nowhere else", edit.row);
            }
        }
        let edited: BTreeSet<&str> = self.off.iter().map(|edit| edit.row.as_str()).collect();
        let without: BTreeSet<&str> = self.without.iter().map(|row| row.row.as_str()).collect();
        ensure!(edited.is_disjoint(&without), "a row has an edit, and a reason for having none");
        let listed: BTreeSet<&str> = edited.union(&without).copied().collect();
        let rows = document.rows();
        ensure!(listed == rows, "rows of only one of table and document: {:?}", listed.symmetric_difference(&rows));
        Ok(())
    }

    /// The sources with all edits in them, each behind its switch. By file, only those that differ.
    pub fn sources(&self, root: &Path) -> Result<BTreeMap<&str, String>> {
        let mut sources = BTreeMap::new();
        let numbered =
            self.off.iter().enumerate().flat_map(|(number, edit)| edit.change.iter().map(move |c| (number, c)));
        let always = self.always.iter().map(|change| (usize::MAX, change));
        for (number, change) in numbered.chain(always).filter(|(_, change)| change.is_rust()) {
            let text = match sources.remove(change.file.as_str()) {
                Some(text) => text,
                None => read(root, &change.file)?,
            };
            sources.insert(change.file.as_str(), change.made(&text, &switch(number))?);
        }
        Ok(sources)
    }
}

impl Change {
    /// Whether it is built, rather than read by the test.
    pub fn is_rust(&self) -> bool {
        self.file.ends_with(".rs")
    }

    /// The text with the change in it.
    pub fn made(&self, text: &str, switch: &str) -> Result<String> {
        let found = text.matches(&self.search).count();
        ensure!(found == 1, "{} has {found} times, not once: {}", self.file, self.search);
        Ok(text.replacen(&self.search, &self.replace.replace("OFF", switch), 1))
    }
}

/// The environment variable that switches edits off: their numbers, between commas.
pub const VARIABLE: &str = "SPANTAP_OFF";

/// Rust's question whether an edit is switched off.
fn switch(number: usize) -> String {
    format!("std::env::var({VARIABLE:?}).is_ok_and(|list| list.split(',').any(|off| off == \"{number}\"))")
}

fn read(root: &Path, name: &str) -> Result<String> {
    let path = root.join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_made_once_or_not_at_all() {
        let change = Change { file: "f.rs".into(), search: "if a".into(), replace: "if !OFF && a".into() };
        assert_eq!(change.made("x\nif a {\n", "o()").unwrap(), "x\nif !o() && a {\n");
        assert!(change.made("if a if a", "").is_err());
        assert!(change.made("none", "").is_err());
    }

    #[test]
    fn each_edit_has_a_switch_of_its_own() {
        assert!(switch(3).contains("SPANTAP_OFF") && switch(3).contains("\"3\""));
    }
}
