//! `spantap export test`: would a destination take spans, and if not, why? `spantap export --since` is in `late`.

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use super::{Done, Output, json, late};
use crate::{
    cli::{ExportArgs, ExportCommand},
    config::{Destination, Loaded, RunArgs},
    export::probe::{Probe, probe},
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
    let ExportCommand::Test { config, json: as_json, destination } = command;
    let destination = find(config.clone(), destination)?;
    let probe = probe(&destination).await?;
    if *as_json {
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

/// By name in the configuration, else by URL.
fn find(config: Option<std::path::PathBuf>, wanted: &str) -> anyhow::Result<Destination> {
    let args = RunArgs { config, ..RunArgs::default() };
    let destinations = Loaded::load(&args, std::env::vars())?.config.export.destinations;
    let names = destinations.iter().map(|to| to.name.clone()).collect::<Vec<_>>().join(", ");
    if let Some(known) = destinations.into_iter().find(|to| to.name == wanted) {
        return Ok(known);
    }
    let url = wanted.parse().map_err(anyhow::Error::msg);
    let url =
        url.with_context(|| format!("no destination is named `{wanted}` (there are: {names}), and it is no URL"))?;
    Ok(Destination { name: wanted.to_owned(), ..Destination::to(url) })
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
