//! `cargo xtask off`: each feature of `docs/reference-coverage.md` is switched off, and the test that is said to prove it must fail.
//!
//! In: `docs/reference-coverage.toml`, edits by row; the tests that the document names. Out: an error if a test passes without its
//! feature, or fails with it; if an edit fits no longer; if a row names no test, or has no edit and no reason for it. All edits are
//! built at once in one copy of the sources, each behind a switch that is read while it runs, so that a test runs without its own
//! feature and with all others. Copy and builds are kept in `target/off/`. Tests of the agent as a process need root.
mod document;
mod suite;
mod table;
mod tree;

use std::collections::btree_map::{BTreeMap, Entry};

use anyhow::{Result, ensure};
use clap::Args;

use crate::repo::Repo;
use crate::shell;
use document::Document;
use suite::Suite;
use table::{Edit, Table};
use tree::Tree;

/// Arguments of `cargo xtask off`.
#[derive(Args)]
pub struct OffArgs {
    /// Only these rows, such as F2; repeatable.
    #[arg(long)]
    row: Vec<String>,
    /// Only check that every edit fits and every row names its test; build nothing.
    #[arg(long)]
    check: bool,
    /// Build what is needed, and run nothing.
    #[arg(long)]
    no_run: bool,
}

const TABLE: &str = "docs/reference-coverage.toml";
const DOCUMENT: &str = "docs/reference-coverage.md";

/// An edit, and its number.
type Numbered<'t> = (usize, &'t Edit);

/// Switches off and tests.
pub fn off(repo: &Repo, args: &OffArgs) -> Result<()> {
    let table = Table::read(&repo.path(TABLE))?;
    table.check(&repo.root, &Document::read(&repo.path(DOCUMENT))?)?;
    println!("{} edits fit", table.off.len());
    for row in &table.without {
        println!("  {:<4} has none: {}", row.row, row.why);
    }
    if args.check {
        return Ok(());
    }
    let is_wanted = |edit: &Edit| args.row.is_empty() || args.row.contains(&edit.row);
    let wanted: Vec<Numbered> = table.off.iter().enumerate().filter(|(_, edit)| is_wanted(edit)).collect();
    ensure!(!wanted.is_empty(), "no edit is wanted");
    shell::heading("build");
    let tree = Tree::write(repo, &table)?;
    let mut binaries = BTreeMap::new();
    for (_, edit) in &wanted {
        let (suite, _) = Suite::of(&repo.root, &edit.test)?;
        if let Entry::Vacant(binary) = binaries.entry(suite) {
            binary.insert(suite.build(&tree)?);
        }
    }
    if args.no_run {
        return Ok(());
    }
    let mut wrong = Vec::new();
    for (test, edits) in by_test(&wanted) {
        shell::heading(test);
        let (suite, name) = Suite::of(&repo.root, test)?;
        let run = |off: &str| suite.run(&tree, &binaries[&suite], name, off);
        if let Err(error) = run("")?.passed() {
            println!("  {error}");
            wrong.push(format!("{test}: {error}"));
            continue;
        }
        for together in runs(&edits) {
            let _edited = tree.edit(repo, &together)?;
            let numbers: Vec<String> = together.iter().map(|(number, _)| number.to_string()).collect();
            let said = run(&numbers.join(","))?;
            for (_, edit) in together {
                match said.failed(&edit.says) {
                    Ok(()) => println!("  {:<4} off: fails", edit.row),
                    Err(error) => {
                        println!("  {:<4} off: {error}", edit.row);
                        wrong.push(format!("{} {test}: {error}", edit.row));
                    }
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "these tests do not show what they are said to show:\n  {}", wrong.join("\n  "));
    Ok(())
}

/// Edits by test, in the order of the table.
fn by_test<'t>(wanted: &[Numbered<'t>]) -> Vec<(&'t str, Vec<Numbered<'t>>)> {
    let mut tests: Vec<(&str, Vec<Numbered>)> = Vec::new();
    for (number, edit) in wanted {
        match tests.iter_mut().find(|(test, _)| *test == edit.test) {
            Some((_, edits)) => edits.push((*number, edit)),
            None => tests.push((&edit.test, vec![(*number, edit)])),
        }
    }
    tests
}

/// What of a test's edits is switched off in the same run: those that are told apart by what the test says.
fn runs<'t>(edits: &[Numbered<'t>]) -> Vec<Vec<Numbered<'t>>> {
    let (together, alone): (Vec<_>, Vec<_>) = edits.iter().partition(|(_, edit)| !edit.says.is_empty());
    let mut runs: Vec<Vec<Numbered>> = alone.into_iter().map(|edit| vec![edit]).collect();
    if !together.is_empty() {
        runs.push(together);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(test: &str, says: &str) -> Edit {
        Edit { row: "F1".into(), test: test.into(), says: says.into(), change: Vec::new() }
    }

    #[test]
    fn edits_that_a_test_tells_apart_share_a_run() {
        let edits = [edit("a", "M1"), edit("b", ""), edit("a", ""), edit("a", "M2"), edit("a", "")];
        let wanted: Vec<Numbered> = edits.iter().enumerate().collect();
        let numbers = |edits: &[Numbered]| edits.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        let tests: Vec<_> = by_test(&wanted).into_iter().map(|(test, edits)| (test, numbers(&edits))).collect();
        assert_eq!(tests, [("a", vec![0, 2, 3, 4]), ("b", vec![1])]);
        let of_a: Vec<_> = runs(&by_test(&wanted)[0].1).iter().map(|run| numbers(run)).collect();
        assert_eq!(of_a, [vec![2], vec![4], vec![0, 3]]);
    }

    #[test]
    fn every_edit_fits_and_every_row_is_accounted_for() {
        let repo = Repo::find().unwrap();
        let table = Table::read(&repo.path(TABLE)).unwrap();
        table.check(&repo.root, &Document::read(&repo.path(DOCUMENT)).unwrap()).unwrap();
    }
}
