//! The `spantap` command.

use std::process::ExitCode;

use agent::{cli::Cli, commands, run};
use clap::Parser;

fn main() -> ExitCode {
    commands::execute(Cli::parse(), |args| run::run(&args))
}
