//! The `spantap` command.

use std::process::ExitCode;

use agent::{cli::Cli, commands};
use clap::Parser;

fn main() -> ExitCode {
    commands::execute(Cli::parse(), |_| anyhow::bail!("`spantap run` is not wired yet"))
}
