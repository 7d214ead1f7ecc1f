//! The configuration while the agent runs: has its file changed, what is different, what can be changed at once.
//!
//! In: the flags, and the file as it is now. Out: a [`Change`] to be applied, or why the running configuration stays. Called by
//! the wiring. Applies nothing itself. The file is compared by its content, so that a ConfigMap's exchanged link is seen like any
//! other change, and a file that is written in parts is tried again with the next look.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Loaded, RunArgs};

/// Keys that take effect while the agent runs; all others after a restart.
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
    /// All of it.
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

    /// The configuration as it is now, and what is different.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn load(&self) -> Result<Change, ConfigError> {
        let config = Loaded::load(&self.args, std::env::vars())?.config;
        let differences = self.running.differences(&config);
        let (applied, after_restart) = differences.into_iter().partition(|key| is_applied(key));
        Ok(Change { config, applied, after_restart })
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
        assert_eq!(reloader.load().unwrap().applied, [""; 0]);

        write("relay: { smapling_ratio: 1 }\n");
        assert!(reloader.has_changed());
        assert!(reloader.load().is_err_and(|error| error.to_string().contains("sampling_ratio")));
        std::fs::remove_file(&file).unwrap();
        assert!(!reloader.has_changed());
    }
}
