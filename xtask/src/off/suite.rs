//! Binaries of tests: which has a test, how they are built, and what a test says.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::table::VARIABLE;
use super::tree::Tree;
use crate::shell;

/// Longest that one test may take; by then it waits for what never comes.
const SECONDS_MAX: u32 = 150;
/// What `timeout` says then.
const TIMED_OUT: i32 = 124;

/// A binary of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// Unit tests of `agent-core`.
    Core,
    /// Unit tests of `agent`.
    Agent,
    /// The agent as a relay, in a process of its own.
    Delivery,
    /// The agent with its kernel programs.
    EndToEnd,
}

/// What a test printed.
pub enum Said {
    /// It ended.
    Ended(String),
    /// It waits for what never comes, which is a failure too, but without words.
    Hangs,
}

impl Suite {
    /// The suite that has a test, and the name that it has there.
    pub fn of<'t>(root: &Path, test: &'t str) -> Result<(Self, &'t str)> {
        let Some((first, rest)) = test.split_once("::") else { bail!("{test} is no path of a test") };
        let is_in = |krate: &str| {
            let module = root.join(krate).join("src").join(first);
            module.is_dir() || module.with_extension("rs").is_file()
        };
        Ok(match first {
            "delivery" => (Self::Delivery, rest),
            "e2e" => (Self::EndToEnd, rest),
            _ if is_in("agent") => (Self::Agent, test),
            _ if is_in("agent-core") => (Self::Core, test),
            _ => bail!("there is no module {first} for {test}"),
        })
    }

    fn arguments(self) -> [&'static str; 3] {
        match self {
            Self::Core => ["-pagent-core", "--lib", "--no-run"],
            Self::Agent => ["-pagent", "--lib", "--no-run"],
            Self::Delivery => ["-pspantap-tests", "--test=delivery", "--no-run"],
            Self::EndToEnd => ["-pspantap-tests", "--test=e2e", "--no-run"],
        }
    }

    /// Builds it, and the agent that it starts; gives its path.
    pub fn build(self, tree: &Tree) -> Result<PathBuf> {
        if matches!(self, Self::Delivery | Self::EndToEnd) {
            shell::run(cargo(tree).args(["build", "--quiet", "-pagent"]))?;
        }
        let mut command = cargo(tree);
        command.arg("test").args(self.arguments()).args(["--quiet", "--message-format=json-render-diagnostics"]);
        println!("  $ {}", shell::shown(&command));
        let output = command.stderr(Stdio::inherit()).output().context("start cargo")?;
        ensure!(output.status.success(), "`{}` failed: {}", shell::shown(&command), output.status);
        let executable = |line: &str| {
            let message: Value = serde_json::from_str(line).ok()?;
            let is_test = message["profile"]["test"] == true;
            message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
        };
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().filter_map(executable).next_back().context("cargo names no binary of tests")
    }

    /// Runs one test without these edits, by their numbers.
    pub fn run(self, tree: &Tree, binary: &Path, name: &str, off: &str) -> Result<Said> {
        // `timeout` ends the test, and what it has started ends with it.
        let mut command = Command::new("timeout");
        command.arg(SECONDS_MAX.to_string()).arg(binary).args(["--exact", name, "--test-threads=1", "--nocapture"]);
        command.env(VARIABLE, off).env("SPANTAP_BIN", tree.target.join("debug/spantap"));
        let package = match self {
            Self::Core => "agent-core",
            Self::Agent => "agent",
            Self::Delivery | Self::EndToEnd => "tests",
        };
        let command = command.current_dir(tree.root.join(package)).stdin(Stdio::null());
        let output = command.output().with_context(|| format!("start `{}`", shell::shown(command)))?;
        if output.status.code() == Some(TIMED_OUT) {
            return Ok(Said::Hangs);
        }
        let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Ok(Said::Ended(texts.concat()))
    }
}

impl Said {
    /// Whether this is of a test that ran and passed.
    pub fn passed(&self) -> Result<()> {
        let Self::Ended(output) = self else { bail!("does not end") };
        ensure!(output.contains("1 passed"), "does not pass with its feature:\n{}", tail(output));
        Ok(())
    }

    /// Whether this is of a test that ran and failed, with these words.
    pub fn failed(&self, says: &str) -> Result<()> {
        let Self::Ended(output) = self else {
            ensure!(says.is_empty(), "does not end, and so does not say {says:?}");
            return Ok(());
        };
        ensure!(!output.contains("1 passed"), "passes without its feature");
        ensure!(output.contains("1 failed"), "did not run:\n{}", tail(output));
        ensure!(output.contains(says), "fails, but does not say {says:?}:\n{}", tail(output));
        Ok(())
    }
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn cargo(tree: &Tree) -> Command {
    let mut command = shell::cargo();
    command.current_dir(&tree.root).env("CARGO_TARGET_DIR", &tree.target);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::Repo;

    #[test]
    fn a_test_must_run_fail_and_say_why() {
        let ended = |text: &str| Said::Ended(text.to_owned());
        let failed = ended("M6: rate_limited is missing\ntest result: FAILED. 0 passed; 1 failed; 0 ignored");
        failed.failed("M6").unwrap();
        failed.failed("").unwrap();
        Said::Hangs.failed("").unwrap();
        assert!(failed.failed("M7").is_err() && failed.passed().is_err());
        assert!(Said::Hangs.failed("M6").is_err() && Said::Hangs.passed().is_err());
        let passed = ended("test result: ok. 1 passed; 0 failed");
        assert!(passed.failed("").is_err() && passed.passed().is_ok());
        let absent = ended("test result: ok. 0 passed; 0 failed; 0 ignored; 90 filtered out");
        assert!(absent.failed("").is_err() && absent.passed().is_err());
    }

    #[test]
    fn tests_are_found_by_their_module() {
        let root = Repo::find().unwrap().root;
        for (test, suite, name) in [
            ("delivery::kills::x", Suite::Delivery, "kills::x"),
            ("export::tests::x", Suite::Agent, "export::tests::x"),
            ("config::show::tests::x", Suite::Agent, "config::show::tests::x"),
            ("relay::tests::x", Suite::Core, "relay::tests::x"),
        ] {
            assert_eq!(Suite::of(&root, test).unwrap(), (suite, name));
        }
        assert!(Suite::of(&root, "nowhere::tests::x").is_err() && Suite::of(&root, "x").is_err());
    }
}
