//! `spantap export test`: would a destination take spans, and if not, why? `spantap export --since` is in `late`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use serde::Serialize;

use super::{Done, Output, json, late};
use crate::{
    cli::{ExportArgs, ExportCommand},
    config::{Destination, Loaded, RunArgs},
    export::probe::{Probe, probe},
    query::client::Client,
};

#[derive(Serialize)]
struct JsonProbe<'a> {
    destination: &'a str,
    taken: bool,
    trouble: &'a str,
    message: &'a str,
    took_ms: u128,
}

pub(super) async fn export(args: &ExportArgs, output: &mut Output) -> Done {
    let Some(command) = &args.command else { return late::export(args, output).await };
    let ExportCommand::Test { config, read, destination } = command;
    let destination = match config {
        Some(file) => find(Some(file.clone()), &format!("in {}", file.display()), destination)?,
        None => {
            let (file, whose) = running(&read.socket).await;
            // What is a URL needs no file, and not everybody who may ask the agent may read its.
            find(file, &whose, destination).or_else(|error| destination_of(destination).map_err(|_| error))?
        }
    };
    let probe = probe(&destination).await?;
    if read.json {
        output.line(&json::line(&JsonProbe {
            destination: &destination.name,
            taken: probe.is_taken,
            trouble: probe.trouble,
            message: &probe.message,
            took_ms: probe.took.as_millis(),
        }))?;
    } else {
        output.line(&render(&destination, &probe))?;
    }
    output.flush()?;
    Ok(if probe.is_taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The configuration file of the agent that answers on the socket, if there is one, and whose destinations are known then, in words.
async fn running(socket: &Path) -> (Option<PathBuf>, String) {
    let report = match Client::connect(socket).await {
        Ok(mut client) => client.status().await,
        Err(error) => Err(error),
    };
    match report {
        Err(_) => (None, format!("without --config FILE, as no agent answers on {}", socket.display())),
        Ok(report) if report.config_file.is_empty() => {
            (None, format!("of the agent on {}, which has no configuration file; give the URL", socket.display()))
        }
        Ok(report) => (Some(report.config_file.clone().into()), format!("in the agent's {}", report.config_file)),
    }
}

/// By name in the configuration, else by URL.
fn find(config: Option<PathBuf>, whose: &str, wanted: &str) -> anyhow::Result<Destination> {
    let args = RunArgs { config, ..RunArgs::default() };
    let destinations = Loaded::load(&args, std::env::vars())?.config.export.destinations;
    let names = destinations.iter().map(|to| to.name.clone()).collect::<Vec<_>>().join(", ");
    let names = if names.is_empty() { "none".to_owned() } else { names };
    if let Some(known) = destinations.into_iter().find(|to| to.name == wanted) {
        return Ok(known);
    }
    let unknown = || format!("no destination is named `{wanted}` (known {whose}: {names}), and it is no URL");
    destination_of(wanted).with_context(unknown)
}

fn destination_of(url: &str) -> anyhow::Result<Destination> {
    let to = url.parse().map_err(anyhow::Error::msg)?;
    Ok(Destination { name: url.to_owned(), ..Destination::to(to) })
}

fn render(destination: &Destination, probe: &Probe) -> String {
    if !probe.is_sent {
        let would = if probe.is_taken { "would take spans" } else { "would take no spans" };
        return format!("{} {would}: {}; nothing was written", destination.name, probe.message);
    }
    let took = format!("{:.1} ms", probe.took.as_secs_f64() * 1e3);
    if probe.is_taken {
        let says = if probe.message.is_empty() { String::new() } else { format!("; it says: {}", probe.message) };
        return format!("{} took a span in {took}{says}", destination.name);
    }
    format!("{} did not take a span ({}, after {took}): {}", destination.name, probe.trouble, probe.message)
}
