//! The commands: ask the agent (or look at the host), print, and say by the exit code how it went.
//!
//! In: [`Cli`]. Out: text or JSON lines on stdout, messages on stderr. Called by `main` only. The reading commands use
//! `query::client` and nothing else of the agent. Rendering is pure and tested apart from asking.

mod check;
mod config;
mod conns;
mod dlq;
mod export;
mod json;
mod late;
mod losses;
mod output;
mod reasons;
mod replay_events;
mod self_;
mod slow;
mod spans;
mod status;
mod text;
mod top;
mod trace;
mod why;

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::CommandFactory;

use crate::{
    cli::{Cli, Command, FilterArgs, Kind, Outcome, Since},
    config::RunArgs,
    query::api::{SpanView, SpansRequest},
};
use output::Output;

/// How a command ended, if not with an error.
type Done = anyhow::Result<ExitCode>;

/// Executes a command. `run` is what `spantap run` does.
pub fn execute(cli: Cli, run: impl FnOnce(RunArgs) -> anyhow::Result<()>) -> ExitCode {
    let mut output = Output::stdout();
    let done = match cli.command {
        Command::Run(args) => run(*args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::check(&args, &mut output),
        Command::Config(command) => config::config(command, &mut output),
        Command::Completions { shell } => completions(shell, &mut output),
        Command::ReplayEvents(args) => replay_events::replay_events(&args, &mut output),
        Command::Status(args) => ask(status::status(&args, &mut output)),
        Command::Conns(args) => ask(conns::conns(&args, &mut output)),
        Command::Export(args) => ask(export::export(&args, &mut output)),
        Command::Dlq(command) => ask(dlq::dlq(&command, &mut output)),
        Command::Losses(args) => ask(losses::losses(&args, &mut output)),
        Command::SelfCost(args) => ask(self_::self_cost(&args, &mut output)),
        Command::Spans(args) => ask(spans::spans(&args, &mut output)),
        Command::Slow(args) => ask(slow::slow(&args, &mut output)),
        Command::Top(args) => ask(top::top(&args, &mut output)),
        Command::Trace(args) => ask(trace::trace(&args, &mut output)),
        Command::Why(args) => ask(why::why(&args, &mut output)),
    };
    match done {
        Ok(code) => code,
        // The reader of a pipe had enough: that is its way of saying so.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spantap: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn completions(shell: clap_complete::Shell, output: &mut Output) -> Done {
    // Into memory first: writing to a pipe may fail, which this would panic of.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spantap", &mut text);
    output.text(&String::from_utf8_lossy(&text))?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn ask(command: impl Future<Output = Done>) -> Done {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Prints a whole answer: one object per line, or as `render` has it.
fn answer(
    spans: &[SpanView],
    as_json: bool,
    render: impl FnOnce(&[SpanView], bool) -> String,
    output: &mut Output,
) -> Done {
    if as_json {
        for span in spans {
            output.line(&json::span(span))?;
        }
    } else {
        output.text(&render(spans, output.colour))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn request(filter: &FilterArgs) -> SpansRequest {
    SpansRequest {
        since_unix_ns: filter.since.map_or(0, |since| since_unix_ns(since, SystemTime::now())),
        service: filter.service.clone().unwrap_or_default(),
        kind: filter.kind.map(kind_name).unwrap_or_default().to_owned(),
        min_duration_ns: filter.min_duration.map_or(0, |least| u64::try_from(least.as_nanos()).unwrap_or(u64::MAX)),
        status: filter.status.map(outcome_name).unwrap_or_default().to_owned(),
        protocol: filter.protocol.clone().unwrap_or_default(),
        peer: filter.peer.clone().unwrap_or_default(),
        cause: filter.cause.clone().unwrap_or_default(),
        attributes: filter.attributes.clone(),
        ..Default::default()
    }
}

fn since_unix_ns(since: Since, now: SystemTime) -> u64 {
    let time = match since {
        Since::Ago(duration) => now.checked_sub(duration).unwrap_or(UNIX_EPOCH),
        Since::At(time) => time,
    };
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Server => "server",
        Kind::Client => "client",
        Kind::Producer => "producer",
        Kind::Consumer => "consumer",
        Kind::Internal => "internal",
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Error => "error",
        Outcome::Unknown => "unknown",
    }
}

#[cfg(test)]
mod fixtures;
