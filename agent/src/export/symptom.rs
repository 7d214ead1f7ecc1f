//! Sends what sampling left out when something goes wrong: watches the log, and asks as `spantap export` does.
//!
//! In: every span that is appended. Out: requests to the destinations that are configured for it, a message, and figures. One task,
//! started and ended by the run loop; a changed configuration starts it anew, and what it had learned is learned again.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agent_core::{
    cause::words::{counted, verb},
    symptom::{Symptom, SymptomConfig, SymptomKind, Watch},
};
use tokio::task::JoinHandle;

use super::{
    blocking,
    late::{self, Asked, LateError, Target},
};
use crate::{
    capture::lock,
    config::{Export, Match, OnSymptom},
    log::{READ_BYTES, READ_SPANS, Reader, SpanLog},
    run::unix_ns,
};

/// Time between two looks, while spans come.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two looks, while none come.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// What was seen since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymptomFigures {
    /// Whether it is looked for symptoms.
    pub is_watched: bool,
    /// Symptoms seen.
    pub symptoms: u64,
    /// Spans that were queued for destinations because of them; what came afterwards is not in it.
    pub queued: u64,
    /// Spans of services and names for which there was no room.
    pub unwatched: u64,
    /// The last symptom, in words; empty: none.
    pub last: String,
    /// When it was seen.
    pub last_unix_ns: u64,
    /// Whether the next look panics.
    #[cfg(test)]
    pub panics_next: bool,
}

/// Figures that outlive changes of the configuration.
pub type SharedFigures = Arc<Mutex<SymptomFigures>>;

/// The running watch; ends with it.
#[derive(Debug)]
pub struct Watcher {
    task: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches, if the configuration says so. Needs a tokio runtime.
    pub fn start(log: &SpanLog, export: &Export, figures: &SharedFigures) -> Self {
        let config = &export.on_symptom;
        let is_named = |target: &Target| config.destinations.contains(&target.name);
        let targets: Vec<Target> = export.destinations.iter().map(Target::from).filter(is_named).collect();
        lock(figures).is_watched = !targets.is_empty();
        if targets.is_empty() {
            return Self { task: None };
        }
        let (log, config, figures) = (log.clone(), config.clone(), Arc::clone(figures));
        let begin = move || Watching {
            log: log.clone(),
            targets: targets.clone(),
            config: config.clone(),
            watch: Watch::new(core_config(&config)),
            reader: log.read_new(),
            unwatched: lock(&figures).unwatched,
            figures: Arc::clone(&figures),
        };
        // From now on, and not from when the task begins.
        Self { task: Some(tokio::spawn(keep(begin(), begin))) }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Watches on after a panic, from what comes then.
async fn keep(mut watching: Watching, begin: impl Fn() -> Watching) {
    loop {
        let failure = watching.run().await;
        tracing::error!(%failure, "looking for symptoms failed, it begins anew");
        tokio::time::sleep(IDLE_INTERVAL).await;
        watching = begin();
    }
}

struct Watching {
    log: SpanLog,
    targets: Vec<Target>,
    config: OnSymptom,
    watch: Watch,
    reader: Reader,
    figures: SharedFigures,
    /// Before this watch.
    unwatched: u64,
}

impl Watching {
    /// Ends only with a panic, and says with which.
    async fn run(mut self) -> String {
        let mut appended = self.log.appended();
        loop {
            appended.mark_unchanged();
            let looked = blocking(move || {
                let looked = self.look();
                Ok::<_, LateError>((self, looked))
            });
            let (this, looked) = match looked.await {
                Ok(done) => done,
                Err(failure) => return failure,
            };
            self = this;
            if let Err(error) = looked {
                tracing::warn!(%error, "symptoms cannot be looked for now");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
            // At the end of the log nothing changes any more.
            let _ = tokio::time::timeout(IDLE_INTERVAL, appended.changed()).await;
        }
    }

    /// Reads what came, and acts on what it shows.
    fn look(&mut self) -> Result<(), LateError> {
        #[cfg(test)]
        assert!(!std::mem::take(&mut lock(&self.figures).panics_next), "the test says so");
        loop {
            let read = self.reader.read(READ_SPANS, READ_BYTES)?;
            for block in &read.blocks {
                self.act(block.header.appended_unix_ns)?;
                self.watch.look(&block.payload);
            }
            if read.blocks.is_empty() {
                break;
            }
        }
        self.act(unix_ns())?;
        lock(&self.figures).unwatched = self.unwatched + self.watch.unwatched();
        Ok(())
    }

    fn act(&mut self, now_unix_ns: u64) -> Result<(), LateError> {
        for symptom in self.watch.tick(now_unix_ns) {
            self.send(&symptom, now_unix_ns)?;
        }
        Ok(())
    }

    fn send(&self, symptom: &Symptom, now_unix_ns: u64) -> Result<(), LateError> {
        let of_it = Match { service: Some(symptom.service.clone()), ..Match::default() };
        let asked = Asked {
            since_unix_ns: now_unix_ns.saturating_sub(self.config.keep.ns()),
            until_unix_ns: now_unix_ns.saturating_add(self.config.after.ns()),
            matches: if self.config.all_services { Vec::new() } else { vec![of_it] },
            ..Asked::default()
        };
        let words = words(symptom, &self.config);
        let mut queued = 0;
        for target in &self.targets {
            let (request, found) = late::ask(&self.log, target, &asked, &words)?;
            queued += found.queued;
            tracing::warn!(
                destination = target.name,
                request,
                "{words}: {} of the last {} that {} left out {} sent, and those of the next {}",
                counted(found.queued, "span"),
                self.config.keep,
                verb(found.queued, "was", "were"),
                verb(found.queued, "is", "are"),
                self.config.after
            );
        }
        let mut figures = lock(&self.figures);
        figures.symptoms += 1;
        figures.queued += queued;
        (figures.last, figures.last_unix_ns) = (words, now_unix_ns);
        Ok(())
    }
}

fn words(symptom: &Symptom, config: &OnSymptom) -> String {
    let service = if symptom.service.is_empty() { "a service without name" } else { &symptom.service };
    match &symptom.kind {
        SymptomKind::Errors { errors, spans } => {
            format!("errors of {service}: {errors} of {} within {}", counted(*spans, "span"), config.window)
        }
        SymptomKind::Slow { name, p99_ns, limit_ns } => format!(
            "slow requests of {service}: p99 of {name} is {:?} within {}, above {:?}",
            Duration::from_nanos(*p99_ns),
            config.window,
            Duration::from_nanos(*limit_ns)
        ),
    }
}

fn core_config(config: &OnSymptom) -> SymptomConfig {
    SymptomConfig {
        window_ns: config.window.ns(),
        errors_min: config.errors,
        error_share_min: config.error_share,
        p99_ns: config.p99.ns(),
        p99_factor: config.p99_factor,
        p99_spans_min: config.p99_requests,
        cool_down_ns: config.cool_down.ns(),
    }
}

#[cfg(test)]
mod tests;
