//! Runs the benchmark binary of the tests crate.
use anyhow::{Result, bail};
use clap::Args;

use crate::build::{self, BuildArgs};
use crate::repo::Repo;
use crate::shell;

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// Arguments for the benchmark.
    #[arg(last = true)]
    args: Vec<String>,
}

/// Builds the agent in release and measures it.
pub fn bench(repo: &Repo, args: &BenchArgs) -> Result<()> {
    if !shell::is_root() {
        bail!("the benchmark loads kernel programs and needs root: {}", shell::as_root("bench"));
    }
    build::build(repo, &BuildArgs { release: true, toolchain: None })?;
    let mut command = shell::cargo();
    command.args(["run", "--release", "-p", "spantap-tests", "--bin", "bench", "--"]).args(&args.args);
    command.env("SPANTAP_BIN", repo.agent_binary("release"));
    shell::run(command.current_dir(&repo.root))
}
