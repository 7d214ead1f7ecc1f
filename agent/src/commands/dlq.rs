//! `spantap dlq`: spans that destinations refused for good; look at them, send them again, take them out, or forget them.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, process::ExitCode, time::SystemTime};

use anyhow::Context;
use serde::Serialize;

use super::{Done, Output, json, since_unix_ns, spans, text};
use crate::{
    cli::{DlqCommand, LetterArgs},
    otlp,
    query::{
        api::{DeadLettersRequest, LetterView, SettleRequest, Settlement, WhichLetters},
        client::Client,
    },
};

#[derive(Serialize)]
struct JsonLetter<'a> {
    id: u64,
    destination: &'a str,
    at_unix_ns: u64,
    reason: &'a str,
    spans: u64,
    is_suspect: bool,
    is_replayed: bool,
    attempts: u32,
    bytes: u64,
}

pub(super) async fn dlq(command: &DlqCommand, output: &mut Output) -> Done {
    match command {
        DlqCommand::Ls { read, which, limit } => {
            let letters = letters(&read.socket, which, *limit, false).await?;
            if read.json {
                letters.iter().try_for_each(|letter| output.line(&json_line(letter)))?;
            } else {
                output.text(&render(&letters))?;
            }
        }
        DlqCommand::Show { read, id } => {
            let which = LetterArgs { ids: vec![*id], ..LetterArgs::default() };
            let letters = letters(&read.socket, &which, 1, true).await?;
            let letter = letters.first().with_context(|| none_of(&which, &read.socket))?;
            show(letter, read.json, output)?;
        }
        DlqCommand::Replay { read, which } => {
            let count = settle(&read.socket, which, Settlement::Replay).await?;
            let are = text::verb(count, "is", "are");
            let ls = text::ask("spantap dlq ls", &read.socket);
            output.line(&format!("{} {are} sent again; what is refused again stays: {ls}", letters_of(count)))?;
        }
        DlqCommand::Drop { read, which } => {
            let count = settle(&read.socket, which, Settlement::Drop).await?;
            output.line(&format!("{} {} dropped", letters_of(count), text::verb(count, "was", "were")))?;
        }
        DlqCommand::Export { read, which, file } => {
            let written = export(&read.socket, which, file).await?;
            let (were, stay) = (text::verb(written, "was", "were"), text::verb(written, "it stays", "they stay"));
            let path = file.display();
            output.line(&format!("{} {were} written to {path}; {stay} until dropped", letters_of(written)))?;
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn letters_of(count: u64) -> String {
    text::counted(count, "dead letter")
}

/// The letters that are meant are there: each that is named, and any if the others are described.
async fn ensure(socket: &Path, which: &LetterArgs) -> anyhow::Result<usize> {
    let found = letters(socket, which, 0, false).await?;
    let missing: Vec<u64> =
        which.ids.iter().copied().filter(|id| !found.iter().any(|letter| letter.id == *id)).collect();
    let is_for_all = LetterArgs { all: true, ..LetterArgs::default() } == LetterArgs { all: true, ..which.clone() };
    if !missing.is_empty() {
        let is_partly = missing.len() < which.ids.len();
        let none = none_of(&LetterArgs { ids: missing, ..which.clone() }, socket);
        anyhow::bail!("{none}{}", if is_partly { "; nothing was done with the others" } else { "" });
    }
    anyhow::ensure!(!found.is_empty() || is_for_all, none_of(which, socket));
    Ok(found.len())
}

/// Says that there are no such letters.
fn none_of(which: &LetterArgs, socket: &Path) -> String {
    let ids: Vec<String> = which.ids.iter().map(u64::to_string).collect();
    let described = *which != LetterArgs { ids: which.ids.clone(), all: which.all, ..LetterArgs::default() };
    let fits = if described { " that fits" } else { "" };
    let ls = text::ask("spantap dlq ls", socket);
    match ids.as_slice() {
        [] => format!("there is no dead letter{fits}: {ls} lists all"),
        ids => format!("there is no dead letter {}{fits}: {ls} lists all", ids.join(" and no ")),
    }
}

async fn letters(socket: &Path, which: &LetterArgs, limit: u64, with_spans: bool) -> anyhow::Result<Vec<LetterView>> {
    let request = DeadLettersRequest { which: Some(wanted(which)), limit, with_spans };
    let mut letters = Vec::new();
    let keep = |letter| {
        letters.push(letter);
        Ok(())
    };
    Client::connect(socket).await?.dead_letters(request, keep).await??;
    Ok(letters)
}

async fn settle(socket: &Path, which: &LetterArgs, settlement: Settlement) -> anyhow::Result<u64> {
    anyhow::ensure!(
        which.all || *which != LetterArgs::default(),
        "say which: IDs, --destination, --reason, --since, or --all"
    );
    ensure(socket, which).await?;
    let request = SettleRequest { which: Some(wanted(which)), settlement: settlement.into() };
    Ok(Client::connect(socket).await?.settle_dead_letters(request).await?.letters)
}

fn wanted(which: &LetterArgs) -> WhichLetters {
    WhichLetters {
        destination: which.destination.clone().unwrap_or_default(),
        since_unix_ns: which.since.map_or(0, |since| since_unix_ns(since, SystemTime::now())),
        until_unix_ns: which.until.map_or(0, |until| since_unix_ns(until, SystemTime::now())),
        reason: which.reason.clone().unwrap_or_default(),
        ids: which.ids.clone(),
    }
}

fn json_line(letter: &LetterView) -> String {
    json::line(&JsonLetter {
        id: letter.id,
        destination: &letter.destination,
        at_unix_ns: letter.at_unix_ns,
        reason: &letter.reason,
        spans: letter.spans,
        is_suspect: letter.is_suspect,
        is_replayed: letter.is_replayed,
        attempts: letter.attempts,
        bytes: letter.bytes,
    })
}

fn show(letter: &LetterView, as_json: bool, output: &mut Output) -> anyhow::Result<()> {
    let views = otlp::decode(&letter.request).context("the letter cannot be read")?;
    if as_json {
        views.iter().try_for_each(|span| output.line(&json::span(span)))?;
        return Ok(());
    }
    output.text(&render(std::slice::from_ref(letter)))?;
    if letter.is_suspect {
        output.line("the destination took the other spans of this request and did not say which it refused")?;
    }
    output.line(&spans::header())?;
    views.iter().try_for_each(|span| output.line(&spans::row(span, output.colour)))?;
    Ok(())
}

/// The requests one after the other are one request. The spans are for those only who may read the log.
async fn export(socket: &Path, which: &LetterArgs, file: &Path) -> anyhow::Result<u64> {
    anyhow::ensure!(ensure(socket, which).await? > 0, none_of(which, socket));
    let cannot = || format!("cannot write {}", file.display());
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o640).open(file).with_context(cannot)?;
    let request = DeadLettersRequest { which: Some(wanted(which)), limit: 0, with_spans: true };
    let mut count = 0;
    let write = |letter: LetterView| {
        count += 1;
        out.write_all(&letter.request)
    };
    Client::connect(socket).await?.dead_letters(request, write).await?.with_context(cannot)?;
    out.sync_all().with_context(cannot)?;
    Ok(count)
}

fn render(letters: &[LetterView]) -> String {
    if letters.is_empty() {
        return "there are no dead letters\n".to_owned();
    }
    let width = letters.iter().map(|letter| letter.destination.chars().count()).max().unwrap_or(0).max(11);
    let mut out = format!(
        "{:>6}  {:<27}  {:<width$}  {:>7}  {:>8}  {:<9}  REASON\n",
        "ID", "REFUSED", "DESTINATION", "SPANS", "ATTEMPTS", "STATE"
    );
    for letter in letters {
        let state = match letter {
            LetterView { is_replayed: true, .. } => "replaying",
            LetterView { is_suspect: true, .. } => "suspect",
            _ => "dead",
        };
        out.push_str(&format!(
            "{:>6}  {:<27}  {:<width$}  {:>7}  {:>8}  {state:<9}  {}\n",
            letter.id,
            text::time(letter.at_unix_ns),
            text::clean(&letter.destination),
            letter.spans,
            letter.attempts,
            text::clean(&letter.reason),
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::fixtures;

    #[test]
    fn letters_that_are_not_there_are_named() {
        let socket = Path::new(crate::cli::SOCKET_DEFAULT);
        let of = |ids: &[u64], destination: Option<&str>| {
            let which =
                LetterArgs { ids: ids.to_vec(), destination: destination.map(str::to_owned), ..Default::default() };
            none_of(&which, socket)
        };
        assert_eq!(of(&[77], None), "there is no dead letter 77: spantap dlq ls lists all");
        assert!(of(&[7, 8], Some("a")).starts_with("there is no dead letter 7 and no 8 that fits:"));
        assert_eq!(of(&[], Some("a")), "there is no dead letter that fits: spantap dlq ls lists all");
    }

    #[test]
    fn letters_are_one_aligned_line_each() {
        let letter = |id, is_suspect, is_replayed| LetterView {
            id,
            destination: "backend".into(),
            at_unix_ns: 1_700_000_000_000_000_000,
            reason: "http://h:1 answered 400 Bad Request: no such tenant".into(),
            spans: 3,
            is_suspect,
            is_replayed,
            attempts: 1,
            bytes: 700,
            request: Vec::new(),
        };
        let letters = [letter(1, false, false), letter(2, true, false), letter(12, true, true)];
        fixtures::check_golden("dlq.txt", &render(&letters));
        let lines: String = letters.iter().map(|letter| json_line(letter) + "\n").collect();
        fixtures::check_golden("dlq.jsonl", &lines);
    }
}
