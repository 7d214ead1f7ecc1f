//! Runs the benchmark binary of the tests crate.
use anyhow::{Result, bail};
use clap::Args;

use crate::apt::{self, Package, package};
use crate::build::{self, BuildArgs};
use crate::repo::Repo;
use crate::{setup, shell};

/// The servers and load generators that the benchmark measures; `cargo xtask setup --tests` has the rest.
const PACKAGES: &[Package] = &[
    package("nginx-light", "measured server"),
    package("wrk", "load without a limit"),
    package("redis-server", "measured server"),
    package("redis-tools", "load without a limit (redis-benchmark)"),
    package("php-fpm", "measured application"),
    package("php-pgsql", "measured application"),
    package("python3-venv", "the environment of the measured application in Python"),
    package("postgresql", "measured applications' database"),
    package("util-linux", "runs PostgreSQL as its own user (setpriv)"),
];

/// From the Python index: the measured application in Python, in an environment of its own.
const PYTHON_ENVIRONMENT: &str = "venv-bench";
const PYTHON_PACKAGES: &[(&str, &str)] = &[
    ("fastapi", "measured application's framework"),
    ("uvicorn[standard]", "serves it, with uvloop and httptools"),
    ("asyncpg", "measured application's client of PostgreSQL"),
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
    setup::python(repo, PYTHON_ENVIRONMENT, PYTHON_PACKAGES)?;
    build::build(repo, &BuildArgs { release: true, toolchain: None })?;
    let mut command = shell::cargo();
    command.args(["run", "--release", "-p", "spantap-tests", "--bin", "bench", "--"]).args(&args.args);
    command.env("SPANTAP_BIN", repo.agent_binary("release"));
    shell::run(command.current_dir(&repo.root))
}
