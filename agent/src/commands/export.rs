//! `spantap export test`: would a destination take spans, and if not, why? `spantap export --since` is in `late`.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use tokio::time::timeout;

use super::{Done, Output, json, late, text};
use crate::{
    cli::{ExportArgs, ExportCommand},
    config::{Destination, Loaded, RunArgs},
    export::{
        probe::{Probe, probe},
        writable::is_read_only,
    },
    query::client::Client,
};

/// The longest that a running agent is waited for: it need not run.
const ANSWER: Duration = Duration::from_secs(3);

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
    let (destination, note) = match config {
        Some(file) => (find(Some(file.clone()), &format!("in {}", file.display()), destination)?, None),
        None => {
            let running = Running::ask(&read.socket, destination).await;
            // What is a URL needs no file, and not everybody who may ask the agent may read its.
            let found = find(running.file, &running.whose, destination);
            (found.or_else(|error| destination_of(destination).map_err(|_| error))?, running.note)
        }
    };
    if let Some(note) = note.filter(|_| !read.json) {
        output.line(&text::clean(&note))?;
    }
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

/// What the agent says that answers on a socket.
struct Running {
    /// Its configuration file, if it has one that can be used.
    file: Option<PathBuf>,
    /// Whose destinations are known then, in words.
    whose: String,
    note: Option<String>,
}

impl Running {
    async fn ask(socket: &Path, wanted: &str) -> Self {
        let asked = timeout(ANSWER, async { Client::connect(socket).await?.status().await }).await;
        let unknown = |why: String| Self { file: None, whose: format!("without --config FILE, as {why}"), note: None };
        let report = match asked {
            Err(_) => return unknown(format!("the agent on {} does not answer", socket.display())),
            Ok(Err(error)) => return unknown(error.to_string().lines().next().unwrap_or_default().to_owned()),
            Ok(Ok(report)) => report,
        };
        let file = PathBuf::from(&report.config_file);
        if report.config_file.is_empty() {
            let to: Vec<&str> = report.destinations.iter().map(|it| it.name.as_str()).collect();
            let to = if to.is_empty() { "nowhere".to_owned() } else { to.join(" and ") };
            return unknown(format!("the agent on {} names none and sends to {to}", socket.display()));
        }
        // What it names is read, and commands in it are run.
        let Some(file) = trusted(&file) else {
            return unknown(format!("others than root and this user may change the agent's {}", file.display()));
        };
        let is_known = destination_of(wanted).is_ok() || report.destinations.iter().any(|it| it.name == wanted);
        let note =
            (!is_known).then(|| format!("the agent itself does not send to `{wanted}` now, see: spantap status"));
        Self { whose: format!("in the agent's {}", file.display()), file: Some(file), note }
    }
}

/// Where it is, if only root and this user can change it or put another in its place.
fn trusted(file: &Path) -> Option<PathBuf> {
    // SAFETY: no pointers, cannot fail.
    let own = unsafe { libc::geteuid() };
    let real = std::fs::canonicalize(file).ok()?;
    let is_safe = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|it| {
            // In a sticky folder others cannot replace what is not theirs (`inode(7)`).
            let is_shared = it.mode() & 0o022 != 0 && it.mode() & 0o1000 == 0;
            // The folder of a ConfigMap is everybody's, and mounted so that nobody can write to it.
            (it.uid() == 0 || it.uid() == own) && (!is_shared || is_read_only(path))
        })
    };
    real.ancestors().all(is_safe).then_some(real)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_can_change_is_not_read_at_the_agents_word() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spantap.yaml");
        assert_eq!(trusted(&file), None, "it is not there");
        std::fs::write(&file, "").unwrap();
        let may = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        may(&file, 0o644);
        assert_eq!(trusted(&file), Some(file.canonicalize().unwrap()));
        may(&file, 0o664);
        assert_eq!(trusted(&file), None);
        may(&file, 0o600);
        may(folder.path(), 0o777);
        assert_eq!(trusted(&file), None, "it can be replaced");
        may(folder.path(), 0o1777);
        assert!(trusted(&file).is_some());
    }
}
