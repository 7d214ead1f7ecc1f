//! Runs the benchmark binary of the tests crate.
use anyhow::{Result, bail};
use clap::Args;

use crate::apt::{self, Package, package};
use crate::build::{self, BuildArgs};
use crate::repo::Repo;
use crate::shell;

/// The servers and load generators that the benchmark measures; `cargo xtask setup --tests` has the rest.
const PACKAGES: &[Package] = &[
    package("nginx-light", "measured server"),
    package("wrk", "load without a limit"),
    package("redis-server", "measured server"),
    package("redis-tools", "load without a limit (redis-benchmark)"),
    package("php-fpm", "measured application"),
    package("php-pgsql", "measured application"),
    package("postgresql", "measured application's database"),
    package("util-linux", "runs PostgreSQL as its own user (setpriv)"),
];

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
    apt::install(PACKAGES)?;
    build::build(repo, &BuildArgs { release: true, toolchain: None })?;
    let mut command = shell::cargo();
    command.args(["run", "--release", "-p", "spantap-tests", "--bin", "bench", "--"]).args(&args.args);
    command.env("SPANTAP_BIN", repo.agent_binary("release"));
    shell::run(command.current_dir(&repo.root))
}
