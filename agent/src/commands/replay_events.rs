//! `spantap replay-events FILE`: the spans of a recorded event stream, by the same code as the agent's, without a kernel.

use std::process::ExitCode;

use agent_core::{config::PipelineConfig, replay};
use anyhow::Context;

use super::{Done, Output, json, spans};
use crate::{cli::ReplayArgs, otlp};

pub(super) fn replay_events(args: &ReplayArgs, output: &mut Output) -> Done {
    let path = args.file.display();
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read the event stream {path}"))?;
    let replayed =
        replay::replay(&bytes, PipelineConfig::default()).with_context(|| format!("cannot replay {path}"))?;
    // Through OTLP and back, as the agent's own log: what is printed is what a destination would get.
    let encoded = otlp::Encoder::default().encode(&replayed.spans);
    let views = otlp::decode(&encoded.bytes).context("the encoder and the decoder disagree")?;
    if !args.json {
        output.line(&spans::header())?;
    }
    for span in &views {
        output.line(&if args.json { json::span(span) } else { spans::row(span, output.colour) })?;
    }
    output.flush()?;
    for (_, reason, count) in replayed.losses.iter().filter(|(_, _, count)| *count > 0) {
        eprintln!("lost: {reason}: {count}");
    }
    Ok(ExitCode::SUCCESS)
}
