//! The libFuzzer targets: a fixed run for CI, a long one for people.
//!
//! In: the `fuzz/` folder of each crate. Out: `target/fuzz/`, with the corpora that long runs grow and any input that fails. Called by
//! `cargo xtask fuzz` and by [`crate::test`]. Built with a stable compiler: coverage counters are an LLVM pass, and only sanitizers
//! need a nightly.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{repo::Repo, shell, tidy};

/// Inputs that the run of CI gives each target: with one seed and the fixtures alone, the same inputs every time.
const FIXED_RUNS: u32 = 2_500;
const CRATES: [&str; 2] = ["agent-protocol", "agent-core"];
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

#[derive(Args)]
pub struct FuzzArgs {
    /// Seconds for each target.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    seconds: u32,
    /// Targets, by name; without one, all.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Runs targets for a time, each time with other inputs; what they find of use stays for the next run.
pub fn fuzz(repo: &Repo, args: &FuzzArgs) -> Result<()> {
    let targets = build(repo)?;
    if let Some(unknown) = args.targets.iter().find(|name| targets.iter().all(|target| target.name != **name)) {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        bail!("no target is named {unknown}; there are {}", names.join(", "));
    }
    let wanted = targets.iter().filter(|target| args.targets.is_empty() || args.targets.contains(&target.name));
    for target in wanted {
        shell::heading(&target.name);
        // New inputs go to the first folder; the fixtures are only read.
        let corpus = repo.path("target/fuzz/corpus").join(&target.name);
        fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        target.run(repo, &[format!("-max_total_time={}", args.seconds).into(), corpus.into()])?;
    }
    Ok(())
}

/// Runs each target over the same inputs every time.
pub fn fixed(repo: &Repo) -> Result<()> {
    for target in build(repo)? {
        // Empty each time; without it, what is found would go to the fixtures.
        let corpus = repo.path("target/fuzz/fixed").join(&target.name);
        if corpus.is_dir() {
            fs::remove_dir_all(&corpus).with_context(|| format!("remove {}", corpus.display()))?;
        }
        fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        target.run(repo, &[format!("-runs={FIXED_RUNS}").into(), "-seed=1".into(), corpus.into()])?;
    }
    Ok(())
}

/// A built target.
struct Target {
    name: String,
    program: PathBuf,
    fixtures: PathBuf,
    dictionary: PathBuf,
}

impl Target {
    fn of(repo: &Repo, krate: &str, name: String) -> Self {
        let parser = name.split('_').next().unwrap_or(&name);
        Self {
            program: repo.path("target/fuzz").join(TRIPLE).join("release").join(&name),
            fixtures: repo.path(krate).join("fixtures").join(parser),
            dictionary: repo.path(krate).join("fuzz").join(format!("{parser}.dict")),
            name,
        }
    }

    fn run(&self, repo: &Repo, arguments: &[OsString]) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["-max_len=65536", "-print_final_stats=1", "-verbosity=0"]).args(arguments);
        if self.dictionary.is_file() {
            command.arg(format!("-dict={}", self.dictionary.display()));
        }
        command.args(self.fixtures.is_dir().then_some(&self.fixtures));
        // An input that fails is written into the working folder, which git ignores.
        shell::run(command.current_dir(repo.path("target/fuzz")))
    }
}

/// Builds the targets of every crate that has some.
fn build(repo: &Repo) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for krate in CRATES {
        let folder = repo.path(krate).join("fuzz");
        build_crate(&folder, &repo.path("target/fuzz"))?;
        let names = tidy::fuzz_targets(&folder)?;
        if names.is_empty() {
            bail!("{} has no targets", folder.display());
        }
        targets.extend(names.into_iter().map(|name| Target::of(repo, krate, name)));
    }
    Ok(targets)
}

fn build_crate(folder: &Path, output: &Path) -> Result<()> {
    const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Ccodegen-units=1";
    let mut command = shell::cargo();
    // A named target keeps the flags away from build scripts, which would not link with them.
    command.args(["build", "--release", "--quiet", "--bins", "--target", TRIPLE, "--target-dir"]).arg(output);
    shell::run(command.env("RUSTFLAGS", FLAGS).env_remove("CARGO_TARGET_DIR").current_dir(folder))
}
