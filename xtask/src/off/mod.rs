//! `cargo xtask off`: each feature of `docs/reference-coverage.md` is switched off in a copy of the sources, and the test that is said to
//! prove it must fail.
//!
//! In: `docs/reference-coverage.toml`, edits by row; the tests that the document names. Out: an error if a test passes without its
//! feature, if an edit fits no longer, or if a row does not name the test. Edits of one `build` are made together, so they must not
//! touch each other's tests. Copy and builds are kept in `target/off/`. Tests of the agent as a process need root.
mod document;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::repo::Repo;
use crate::shell;
use document::Document;

/// Arguments of `cargo xtask off`.
#[derive(Args)]
pub struct OffArgs {
    /// Only these rows, such as F2; repeatable.
    #[arg(long)]
    row: Vec<String>,
    /// Only the edits of this build; repeatable.
    #[arg(long)]
    build: Vec<String>,
    /// Only check that every edit fits and every row names its test; build nothing.
    #[arg(long)]
    check: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    off: Vec<Edit>,
    #[serde(default)]
    always: Vec<tree::Change>,
}

/// One feature, and how it is switched off.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    /// Rows of the document, such as F2.
    row: String,
    /// A test that the row names.
    test: String,
    /// Edits with the same name are made and built together.
    build: String,
    /// What the test must say when it fails, where it is the test of several rows.
    #[serde(default)]
    says: String,
    change: Vec<tree::Change>,
}

/// Longest that one test may take; by then it waits for what never comes.
const SECONDS_MAX: u32 = 150;
/// What `timeout` says then.
const TIMED_OUT: i32 = 124;
const TABLE: &str = "docs/reference-coverage.toml";
const DOCUMENT: &str = "docs/reference-coverage.md";

/// Switches off and tests.
pub fn off(repo: &Repo, args: &OffArgs) -> Result<()> {
    let table = table(repo)?;
    let document = Document::read(&repo.path(DOCUMENT))?;
    for edit in &table.off {
        edit.change.iter().chain(&table.always).try_for_each(|change| change.fits(&repo.root))?;
        document.check(&edit.row, &edit.test)?;
    }
    let missing = document.rows_without(&table.off.iter().map(|edit| edit.row.as_str()).collect::<Vec<_>>());
    println!("{} edits fit; {} rows have none yet: {}", table.off.len(), missing.len(), missing.join(" "));
    if args.check {
        return Ok(());
    }
    let mut builds: BTreeMap<&str, Vec<&Edit>> = BTreeMap::new();
    for edit in &table.off {
        let is_wanted = |list: &[String], value: &String| list.is_empty() || list.contains(value);
        if is_wanted(&args.row, &edit.row) && is_wanted(&args.build, &edit.build) {
            builds.entry(&edit.build).or_default().push(edit);
        }
    }
    ensure!(!builds.is_empty(), "no edit is wanted");
    let mut wrong = Vec::new();
    for (name, edits) in builds {
        shell::heading(&format!("without: {name}"));
        let changes: Vec<_> = edits.iter().flat_map(|edit| &edit.change).chain(&table.always).collect();
        let tree = tree::write(repo, &changes)?;
        wrong.extend(one_build(&tree, &edits)?);
    }
    ensure!(wrong.is_empty(), "these tests do not show what they are said to show:\n  {}", wrong.join("\n  "));
    Ok(())
}

fn table(repo: &Repo) -> Result<Table> {
    let path = repo.path(TABLE);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// The scratch copy and its builds.
struct Tree {
    root: PathBuf,
    target: PathBuf,
}

/// Runs each test once; gives those that are wrong.
fn one_build(tree: &Tree, edits: &[&Edit]) -> Result<Vec<String>> {
    let mut said: BTreeMap<&str, Said> = BTreeMap::new();
    let mut wrong = Vec::new();
    for edit in edits {
        if !said.contains_key(edit.test.as_str()) {
            said.insert(&edit.test, run(tree, &edit.test)?);
        }
        match judge(&said[edit.test.as_str()], &edit.says) {
            Ok(()) => println!("  {:<4} off: {} fails", edit.row, edit.test),
            Err(error) => {
                println!("  {:<4} off: {}: {error}", edit.row, edit.test);
                wrong.push(format!("{} {}: {error}", edit.row, edit.test));
            }
        }
    }
    Ok(wrong)
}

/// What a test printed.
enum Said {
    Ended(String),
    /// It waits for what never comes, which is a failure too, but without words.
    Hangs,
}

/// Whether this is of a test that ran and failed, with these words.
fn judge(said: &Said, says: &str) -> Result<()> {
    let Said::Ended(output) = said else {
        ensure!(says.is_empty(), "does not end, and so does not say {says:?}");
        return Ok(());
    };
    ensure!(!output.contains("1 passed"), "passes without its feature");
    ensure!(output.contains("1 failed"), "did not run:\n{}", tail(output));
    ensure!(output.contains(says), "fails, but does not say {says:?}:\n{}", tail(output));
    Ok(())
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Runs a test by its name in the document.
fn run(tree: &Tree, test: &str) -> Result<Said> {
    let mut arguments = vec!["test", "--quiet", "-p"];
    let name = match test.split_once("::") {
        Some(("delivery", name)) => {
            let mut agent = cargo(tree);
            shell::run(agent.args(["build", "--quiet", "-p", "agent"]))?;
            arguments.extend(["spantap-tests", "--test", "delivery"]);
            name
        }
        Some(("relay" | "redact" | "wire", _)) => {
            arguments.extend(["agent-core", "--lib"]);
            test
        }
        Some(_) => {
            arguments.extend(["agent", "--lib"]);
            test
        }
        None => bail!("{test} is no path of a test"),
    };
    let mut build = cargo(tree);
    shell::run(build.args(&arguments).arg("--no-run"))?;
    let cargo = cargo(tree);
    // `timeout` ends the test with all that it has started.
    let mut command = Command::new("timeout");
    command.arg(SECONDS_MAX.to_string()).arg(cargo.get_program()).args(&arguments).current_dir(&tree.root);
    command.envs(cargo.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["--", "--exact", name, "--test-threads=1", "--nocapture"]);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start `{}`", shell::shown(&command)))?;
    if output.status.code() == Some(TIMED_OUT) {
        return Ok(Said::Hangs);
    }
    Ok(Said::Ended(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)))
}

fn cargo(tree: &Tree) -> Command {
    let mut command = shell::cargo();
    command.current_dir(&tree.root).env("CARGO_TARGET_DIR", &tree.target);
    command.env("SPANTAP_BIN", tree.target.join("debug/spantap"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_must_run_fail_and_say_why() {
        let ended = |text: &str| Said::Ended(text.to_owned());
        let failed = ended("M6: rate_limited is missing\ntest result: FAILED. 0 passed; 1 failed; 0 ignored");
        judge(&failed, "M6").unwrap();
        judge(&failed, "").unwrap();
        judge(&Said::Hangs, "").unwrap();
        assert!(judge(&failed, "M7").is_err());
        assert!(judge(&Said::Hangs, "M6").is_err());
        assert!(judge(&ended("test result: ok. 1 passed; 0 failed"), "").is_err());
        assert!(judge(&ended("test result: ok. 0 passed; 0 failed; 0 ignored; 90 filtered out"), "").is_err());
    }

    #[test]
    fn every_edit_fits_and_every_row_names_its_test() {
        let repo = Repo::find().unwrap();
        let table = table(&repo).unwrap();
        let document = Document::read(&repo.path(DOCUMENT)).unwrap();
        for edit in &table.off {
            edit.change.iter().chain(&table.always).for_each(|change| change.fits(&repo.root).unwrap());
            document.check(&edit.row, &edit.test).unwrap();
        }
    }
}
