//! Tasks of the repository, as `cargo xtask TASK`.
//!
//! In: the command line. Out: built files under `target/`, caches under `.cache/`, and an exit code. Called by people and by CI.
//! Never: a dependency on the product's crates; it must compile when they do not.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod build;
mod cgroup;
mod doctor;
mod fuzz;
mod off;
mod repo;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;
mod toolchain;
mod vm;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::repo::Repo;

/// Tasks of the spantap repository.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what building needs, and says what and why. Run twice, it does nothing the second time.
    Setup(setup::SetupArgs),
    /// Builds the kernel programs, then the agent with them inside.
    Build(build::BuildArgs),
    /// Sets up, builds in release and starts the agent on this host. Arguments after `--` go to `spantap run`.
    Run(run::RunArgs),
    /// Everything that CI runs, in order; stops at the first failure.
    Test(test::TestArgs),
    /// Runs the fuzz targets for a time, each on new inputs; `cargo xtask test --only fuzz` runs them over fixed ones.
    Fuzz(fuzz::FuzzArgs),
    /// The rules of ARCHITECTURE.md that a program can check.
    Tidy,
    /// What this machine has and lacks for building and testing, with the fix for each.
    Doctor,
    /// Boots Debian kernels under QEMU and runs the guest check, or a command, in them.
    Vm(vm::VmArgs),
    /// Switches each feature of docs/reference-coverage.md off in a copy of the sources; the test that proves it must fail.
    Off(off::OffArgs),
    /// The benchmark of the tests crate: CPU per request with the agent off, attached and selecting.
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    match task() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes on one line; a stack trace would bury what the failing program printed.
            eprintln!("error: {error:#}");
            error.downcast_ref::<vm::GuestFailed>().map_or(ExitCode::FAILURE, |guest| ExitCode::from(guest.code))
        }
    }
}

fn task() -> Result<()> {
    let cli = Cli::parse();
    let repo = Repo::find()?;
    match cli.task {
        Task::Setup(args) => setup::setup(&repo, &args),
        Task::Build(args) => build::build(&repo, &args),
        Task::Run(args) => run::run(&repo, &args),
        Task::Test(args) => test::test(&repo, &args),
        Task::Fuzz(args) => fuzz::fuzz(&repo, &args),
        Task::Tidy => tidy::tidy(&repo),
        Task::Doctor => doctor::doctor(&repo),
        Task::Vm(args) => vm::vm(&repo, &args),
        Task::Off(args) => off::off(&repo, &args),
        Task::Bench(args) => bench::bench(&repo, &args),
    }
}
