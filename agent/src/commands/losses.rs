//! `spantap losses`: everything that is missing, by where and why.

use std::process::ExitCode;

use serde::Serialize;

use super::{Done, Output, json, reasons::words, text};
use crate::{
    cli::ReadArgs,
    query::{api::Loss, client::Client},
};

#[derive(Serialize)]
struct JsonLoss<'a> {
    source: &'a str,
    reason: &'a str,
    count: u64,
}

pub(super) async fn losses(args: &ReadArgs, output: &mut Output) -> Done {
    let report = Client::connect(&args.socket).await?.losses().await?;
    if args.json {
        for line in json_lines(&report.losses) {
            output.line(&line)?;
        }
    } else {
        output.text(&render(&report.losses))?;
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn json_lines(losses: &[Loss]) -> Vec<String> {
    let line = |loss: &Loss| json::line(&JsonLoss { source: &loss.source, reason: &loss.reason, count: loss.count });
    losses.iter().map(line).collect()
}

/// A table; also a part of `spantap status`.
pub(super) fn render(losses: &[Loss]) -> String {
    if losses.is_empty() {
        return "nothing was lost since the agent started\n".to_owned();
    }
    let width = |text: fn(&Loss) -> &str| losses.iter().map(|loss| text(loss).chars().count()).max().unwrap_or(0);
    let (source, reason) = (width(|loss| &loss.source).max(6), width(|loss| &loss.reason).max(6));
    let mut out = format!("{:<source$}  {:<reason$}  {:>12}  MEANS\n", "SOURCE", "REASON", "COUNT");
    for loss in losses {
        let (from, why) = (text::clean(&loss.source), text::clean(&loss.reason));
        let line = format!("{from:<source$}  {why:<reason$}  {:>12}  {}", loss.count, words(&loss.reason));
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}
