//! `spantap export --since`: spans that sampling left out are sent after all, or written to a file.

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use serde::Serialize;

use super::{Done, Output, json, since_unix_ns, text};
use crate::{
    cli::{ExportArgs, Since},
    export::json_line,
    query::{
        api::{LateSpans, LateStatus, SendLateReport, SendLateRequest, SpanBytes},
        client::Client,
    },
};

#[derive(Serialize)]
struct JsonReport<'a> {
    destination: &'a str,
    /// `null`: they were only counted.
    request: Option<u64>,
    matched: u64,
    sent: u64,
    waiting: u64,
    queued: u64,
    bytes: u64,
}

pub(super) async fn export(args: &ExportArgs, output: &mut Output) -> Done {
    let to = args.to.as_deref().context("say where to: --to DEST")?;
    let spans = wanted(args);
    anyhow::ensure!(spans.since_unix_ns < spans.until_unix_ns, "--until is not after --since");
    match (to, to.strip_prefix("file:")) {
        ("-", _) => write(args, spans, &mut Lines::to(io::stdout().lock())).await.map(drop)?,
        (_, Some(path)) => {
            let path = Path::new(path);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let file =
                file.with_context(|| format!("cannot make {}; name a file that is not there", path.display()))?;
            let mut lines = Lines::to(file);
            write(args, spans, &mut lines).await?;
            lines.out.flush().and_then(|()| lines.out.get_ref().sync_all()).context("cannot write")?;
            if lines.count == 0 {
                // Nothing is in it, and it was made above.
                std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
                let all =
                    if args.all { "" } else { "; what destinations have or are about to get is only in it with --all" };
                output.line(&format!("no span to write{all}"))?;
                output.flush()?;
                return Ok(ExitCode::SUCCESS);
            }
            output.line(&format!(
                "{} of spans in {} written to {}",
                text::bytes(lines.bytes),
                text::counted(lines.count, "request"),
                path.display()
            ))?;
        }
        _ => {
            let request = SendLateRequest { destination: to.to_owned(), spans: Some(spans), only_count: args.dry_run };
            let report = Client::connect(&args.read.socket).await?.send_late(request).await?;
            output.line(&if args.read.json { json_line_of(to, &report) } else { render(to, &report) })?;
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(args: &ExportArgs) -> LateSpans {
    let at = |when: Since| since_unix_ns(when, SystemTime::now());
    LateSpans {
        since_unix_ns: args.since.map_or(0, at),
        until_unix_ns: at(args.until.unwrap_or(Since::Ago(Duration::ZERO))),
        // What was read from the command line has JSON, which is YAML.
        matches: args.matches.iter().map(|one| serde_json::to_string(one).unwrap_or_default()).collect(),
        all: args.all,
        tenant: args.tenant.clone().unwrap_or_default(),
    }
}

/// Lines of OTLP JSON.
struct Lines<W: Write> {
    out: BufWriter<W>,
    count: u64,
    bytes: u64,
}

impl<W: Write> Lines<W> {
    fn to(out: W) -> Self {
        Self { out: BufWriter::new(out), count: 0, bytes: 0 }
    }

    fn put(&mut self, spans: SpanBytes) -> io::Result<()> {
        let mut line = json_line(spans.request).map_err(io::Error::other)?;
        line.push(b'\n');
        self.count += 1;
        self.bytes += line.len() as u64;
        self.out.write_all(&line)
    }
}

async fn write<W: Write>(args: &ExportArgs, spans: LateSpans, lines: &mut Lines<W>) -> anyhow::Result<()> {
    anyhow::ensure!(!args.dry_run, "--dry-run is for destinations");
    let mut client = Client::connect(&args.read.socket).await?;
    client.late_spans(spans, |spans| lines.put(spans)).await??;
    Ok(lines.out.flush()?)
}

fn json_line_of(to: &str, report: &SendLateReport) -> String {
    let SendLateReport { id, matched, sent, waiting, queued, bytes } = *report;
    let request = Some(id).filter(|id| *id > 0);
    json::line(&JsonReport { destination: to, request, matched, sent, waiting, queued, bytes })
}

fn render(to: &str, report: &SendLateReport) -> String {
    let SendLateReport { id, matched, sent, waiting, queued, bytes } = *report;
    let mut words = format!("{} {}", text::counted(matched, "span"), text::verb(matched, "matches", "match"));
    let (was, is) = (text::verb(sent, "was", "were"), text::verb(waiting, "is", "are"));
    for (count, verb, what) in [(sent, was, "sent before"), (waiting, is, "sent anyway")] {
        if count > 0 {
            words.push_str(&format!(", {count} {verb} {what}"));
        }
    }
    let bytes = text::bytes(bytes);
    match id {
        0 => format!("{words}; {queued} ({bytes}) would be sent to {to}"),
        _ => {
            let are = text::verb(queued, "is", "are");
            format!("{words}; {queued} ({bytes}) {are} queued for {to} as request {id}: see spantap status")
        }
    }
}

/// A request's state in a line.
pub(super) fn state(late: &LateStatus) -> String {
    let LateStatus { matched, sent, delivered, dead, gone, .. } = *late;
    let mut words = format!("{matched} matched, {delivered} sent");
    for (count, what) in [(sent, "sent before"), (dead, "refused"), (gone, "gone before they could be looked at")] {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    let state = if late.is_done { "done" } else { "going on" };
    format!("{state}: {words} ({}, by {})", text::bytes(late.bytes), late.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_becomes_of_the_spans() {
        let report = SendLateReport { id: 3, matched: 10, sent: 2, waiting: 1, queued: 7, bytes: 2_048 };
        assert_eq!(
            render("backend", &report),
            "10 spans match, 2 were sent before, 1 is sent anyway; 7 (2.0 KiB) are queued for backend as request 3: see spantap status"
        );
        let one = SendLateReport { id: 3, matched: 1, sent: 0, waiting: 0, queued: 1, bytes: 2_048 };
        assert!(render("backend", &one).starts_with("1 span matches; 1 (2.0 KiB) is queued for"));
        let counted = SendLateReport { id: 0, matched: 7, queued: 7, ..report };
        assert!(render("backend", &SendLateReport { sent: 0, waiting: 0, ..counted }).contains("would be sent"));
        assert!(json_line_of("backend", &counted).contains("\"request\":null"));
    }
}
