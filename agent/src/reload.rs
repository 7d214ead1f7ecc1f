//! The configuration while the agent runs: has its file changed, what is different, what can be changed at once.
//!
//! In: the flags, and the file as it is now. Out: a [`Change`] to be applied, or why the running configuration stays. Called by
//! the wiring. Applies nothing itself. The file is compared by its content, so that a ConfigMap's exchanged link is seen like any
//! other change, and a file that is written in parts is tried again with the next look.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Loaded, RunArgs};

/// Keys that take effect while the agent runs; all others after a restart. [`in_effect`] says the same.
const APPLIED: [&str; 4] = ["export.", "relay.", "capture.select", "capture.exclude"];
/// Of those, what does not.
const NOT_APPLIED: [&str; 1] = ["relay.durability"];

/// Knows the running configuration and where it came from.
pub struct Reloader {
    args: RunArgs,
    path: Option<PathBuf>,
    running: Config,
    /// The file when it was last looked at.
    seen: Option<Vec<u8>>,
}

/// A configuration that may be applied.
#[derive(Debug)]
pub struct Change {
    /// What is in effect once it is applied: keys that need a restart are as they run.
    pub config: Config,
    /// Keys that differ and are applied.
    pub applied: Vec<String>,
    /// Keys that differ and need a restart.
    pub after_restart: Vec<String>,
}

/// The configuration in use, and what became of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadFigures {
    /// [`Config::hash`] of the configuration in use.
    pub hash: u64,
    /// Changes that were applied.
    pub applied: u64,
    /// Changes that could not be used: the running configuration stayed.
    pub refused: u64,
}

impl Reloader {
    /// Of an agent that was started with these flags.
    pub fn new(args: &RunArgs, running: Config) -> Self {
        let path = args.config.clone().or_else(|| std::env::var_os("SPANTAP_CONFIG").map(PathBuf::from));
        let mut reloader = Self { args: args.clone(), path, running, seen: None };
        reloader.has_changed();
        reloader
    }

    /// The configuration in use.
    pub fn running(&self) -> &Config {
        &self.running
    }

    /// Whether the file is another one than at the last look. A file that cannot be read is no change: it may be on its way.
    pub fn has_changed(&mut self) -> bool {
        let Some(content) = self.path.as_ref().and_then(|path| std::fs::read(path).ok()) else { return false };
        let has_changed = self.seen.as_ref().is_some_and(|seen| *seen != content);
        self.seen = Some(content);
        has_changed
    }

    /// What of the configuration as it is now can be applied, and what is different.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn load(&self) -> Result<Change, ConfigError> {
        let loaded = Loaded::load(&self.args, std::env::vars())?.config;
        let differences = self.running.differences(&loaded);
        let (applied, after_restart) = differences.into_iter().partition(|key| is_applied(key));
        Ok(Change { config: in_effect(&self.running, loaded), applied, after_restart })
    }

    /// The change is in effect: leaves a record of it. Values are never told.
    pub fn applied(&mut self, change: Change) {
        let Change { config, applied, after_restart } = change;
        let (before, after) = (self.running.hash(), config.hash());
        tracing::info!(
            before = format!("{before:016x}"),
            after = format!("{after:016x}"),
            applied = applied.join(", "),
            "the configuration was applied"
        );
        if !after_restart.is_empty() {
            tracing::warn!(keys = after_restart.join(", "), "these take effect only after a restart");
        }
        self.running = config;
    }
}

/// The keys that take effect while the agent runs as they are loaded, all others as they run.
fn in_effect(running: &Config, loaded: Config) -> Config {
    let mut config = Config { export: loaded.export, relay: loaded.relay, ..running.clone() };
    config.relay.durability = running.relay.durability;
    let (capture, selection) = (&mut config.capture, loaded.capture);
    (capture.select_all, capture.select, capture.exclude) = (selection.select_all, selection.select, selection.exclude);
    config
}

fn is_applied(key: &str) -> bool {
    APPLIED.iter().any(|applied| key.starts_with(applied)) && !NOT_APPLIED.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_different_is_told_by_its_key_and_whether_it_waits_for_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spantap.yaml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("relay: { sampling_ratio: 0.5 }\n");
        let args = RunArgs { config: Some(file.clone()), ..RunArgs::default() };
        let running = Loaded::load(&args, []).unwrap().config;
        let mut reloader = Reloader::new(&args, running);
        assert!(!reloader.has_changed());

        write("relay: { sampling_ratio: 0.25, durability: written }\nlog: { max_age: 1h }\n");
        assert!(reloader.has_changed() && !reloader.has_changed());
        let change = reloader.load().unwrap();
        assert_eq!(change.applied, ["relay.sampling_ratio"]);
        assert_eq!(change.after_restart, ["log.max_age", "relay.durability"]);
        let before = reloader.running().hash();
        reloader.applied(change);
        assert!(reloader.running().hash() != before);
        let change = reloader.load().unwrap();
        assert_eq!(change.applied, [""; 0]);
        assert_eq!(change.after_restart, ["log.max_age", "relay.durability"], "they still wait");

        write("relay: { smapling_ratio: 1 }\n");
        assert!(reloader.has_changed());
        assert!(reloader.load().is_err_and(|error| error.to_string().contains("sampling_ratio")));
        std::fs::remove_file(&file).unwrap();
        assert!(!reloader.has_changed());
    }

    #[test]
    fn the_hash_is_that_of_what_is_in_effect() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spantap.yaml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let args = RunArgs { config: Some(file.clone()), ..RunArgs::default() };
        let hash_after_restart = || Loaded::load(&args, []).unwrap().config.hash();
        write("{}\n");
        let mut reloader = Reloader::new(&args, Loaded::load(&args, []).unwrap().config);
        let before = reloader.running().hash();
        for restart_only in
            ["log: { max_age: 1h }\n", "relay: { durability: written }\n", "capture: { payload_bytes_max: 99 }\n"]
        {
            write(restart_only);
            reloader.applied(reloader.load().unwrap());
            assert_eq!(reloader.running().hash(), before, "{restart_only}");
            assert!(hash_after_restart() != before, "{restart_only}");
        }
        for applied in [
            "relay: { sampling_ratio: 0.5 }\n",
            "capture: { select: { port: [80] } }\n",
            "capture: { exclude: { port: [80] } }\n",
            "capture: { select_all: true }\n",
            "export: { destinations: [{ name: a, url: otlp+http://127.0.0.1:1 }] }\n",
        ] {
            write(applied);
            reloader.applied(reloader.load().unwrap());
            assert_eq!(reloader.running().hash(), hash_after_restart(), "{applied}");
        }
    }

    #[test]
    fn hosts_with_one_file_have_one_hash() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spantap.yaml");
        std::fs::write(&file, "log: { max_age: 1h }\n").unwrap();
        let args = RunArgs { config: Some(file), ..RunArgs::default() };
        let on = |host: &str| {
            let names = ["SPANTAP_HOST_NAME", "SPANTAP_NODE_NAME"].map(|name| (name.to_owned(), host.to_owned()));
            Loaded::load(&args, names).unwrap().config
        };
        let (first, second) = (on("node-1"), on("node-2"));
        assert!(first.host_name.as_deref() == Some("node-1") && second.node_name.as_deref() == Some("node-2"));
        assert_eq!(first.hash(), second.hash());
        assert!(first.hash() != Config::default().hash(), "the rest of it counts");
    }
}
