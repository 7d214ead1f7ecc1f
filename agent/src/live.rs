//! What the running agent knows of itself, for `status`, `losses` and metrics.

mod connections;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering},
    time::Duration,
};

use agent_common::loss::KernelLoss;
use agent_core::flow::{connection::Seen, view::ConnectionView};

use crate::{
    capture::{Figures, Questions, lock},
    config::{self, Unselected},
    cost::{Looker, Meter},
    export::{
        AllStats, DestinationStats,
        late::Target,
        symptom::{SharedFigures, SymptomFigures},
    },
    intake::{Intake, IntakeCounts},
    kernel::{
        attach::HookState,
        budget::{BudgetFigures, Cost},
        load::Capture,
        stats::{self, Programs, Runs},
        tls::{self, Coverage, Follower},
    },
    log::SpanLog,
    query::api::{
        BudgetStatus, ConnView, DestinationStatus, HookStatus, Live, Loss, MapMemory, ProgramCost, RelayStatus,
        SelfReport, StatusReport, SymptomStatus, TlsProcess,
    },
    receive::{Outcome, ReceiverStats},
    reload::ReloadFigures,
    run::{Capturing, unix_ns},
    telemetry::{
        health::Facts,
        metrics::{DestinationFigures, KernelLossCount, Snapshot},
        push::PushCounts,
    },
};

/// Reason of the loss that [`crate::kernel::stats::Programs::skipped`] counts.
const SKIPPED: &str = "program_skipped";

/// Live facts. Owns the kernel side, so that its counters can be read until it is detached.
pub struct LiveFacts {
    capture: Mutex<Option<Capture>>,
    hooks: Vec<HookState>,
    figures: Arc<Figures>,
    /// Nothing if nothing is captured.
    questions: Option<Arc<Questions>>,
    destinations: AllStats,
    log: SpanLog,
    intake: Intake,
    receivers: Arc<ReceiverStats>,
    /// In the words of the flags, and what is recorded of the rest.
    selection: Mutex<(Vec<String>, Unselected)>,
    config_file: Option<PathBuf>,
    started_unix_ns: u64,
    meter: Meter,
    budget: Arc<Mutex<BudgetFigures>>,
    reloads: Mutex<ReloadFigures>,
    tls: Option<Arc<Follower>>,
    symptoms: SharedFigures,
    pushes: Arc<PushCounts>,
}

/// The loaded programs, and who follows TLS libraries.
pub type Attached = (Capture, Option<Arc<Follower>>);

impl LiveFacts {
    /// Facts of a started agent; without a kernel side it only relays.
    pub fn new(
        kernel: Option<(Attached, &Capturing)>,
        destinations: AllStats,
        (log, intake, receivers): (SpanLog, Intake, Arc<ReceiverStats>),
        selection: Vec<String>,
        (config, config_file): (&config::Capture, Option<&Path>),
    ) -> Self {
        let cpu_percent_max = config.max_cpu_percent;
        let (figures, questions) = match &kernel {
            Some((_, Capturing { looping, .. })) => {
                (Arc::clone(looping.figures()), Some(Arc::clone(looping.questions())))
            }
            None => (Arc::default(), None),
        };
        let (capture, tls) = kernel.map_or((None, None), |((capture, tls), _)| (Some(capture), tls));
        let programs = capture.as_ref().map_or_else(|| Arc::new(Programs::none()), Capture::programs);
        let hooks = capture.as_ref().map_or_else(Vec::new, |capture| capture.hooks().to_vec());
        Self {
            meter: Meter::new(programs, Arc::clone(&figures), config.ring_bytes.0),
            budget: Arc::new(Mutex::new(BudgetFigures { cpu_percent_max, ..BudgetFigures::default() })),
            hooks,
            capture: Mutex::new(capture),
            figures,
            questions,
            destinations,
            log,
            intake,
            receivers,
            selection: Mutex::new((selection, config.unselected)),
            // Whoever asks for it is in another folder.
            config_file: config_file.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned())),
            started_unix_ns: unix_ns(),
            reloads: Mutex::default(),
            tls,
            symptoms: SharedFigures::default(),
            pushes: Arc::default(),
        }
    }

    /// Detaches every kernel program.
    pub fn detach(&self) {
        lock(&self.capture).take();
    }

    /// What became of attempts to change the configuration is told here.
    pub fn reloads(&self) -> MutexGuard<'_, ReloadFigures> {
        lock(&self.reloads)
    }

    /// What is done about symptoms is told here.
    pub fn symptoms(&self) -> &SharedFigures {
        &self.symptoms
    }

    /// What became of pushed metrics is told here.
    pub fn pushes(&self) -> &Arc<PushCounts> {
        &self.pushes
    }

    fn symptom_status(&self) -> Option<SymptomStatus> {
        let figures = lock(&self.symptoms).clone();
        let SymptomFigures { symptoms: count, last, last_unix_ns, is_watched, .. } = figures;
        is_watched.then_some(SymptomStatus { count, last, last_unix_ns })
    }

    /// Says what is selected from now on, in the words of the flags.
    pub fn set_selection(&self, (words, unselected): (Vec<String>, Unselected)) {
        *lock(&self.selection) = (words, unselected);
    }

    /// What the budget does is told here.
    pub fn budget(&self) -> Arc<Mutex<BudgetFigures>> {
        Arc::clone(&self.budget)
    }

    /// Opens a window for the budget; what it gives closes it.
    pub fn measure_cost(self: Arc<Self>) -> impl FnOnce() -> Cost + use<> {
        let window = self.meter.begin(Looker::Budget);
        let lost_before = self.ring_full();
        move || window.end().cost(self.ring_full().saturating_sub(lost_before))
    }

    fn ring_full(&self) -> u64 {
        let losses = self.kernel_losses();
        losses.iter().filter(|loss| loss.reason == KernelLoss::RingFull.name()).map(|loss| loss.count).sum()
    }

    fn budget_status(&self) -> BudgetStatus {
        let figures = *lock(&self.budget);
        BudgetStatus {
            cpu_percent_max: figures.cpu_percent_max,
            cpu_percent: figures.cost.cpu_percent,
            ring_percent: figures.cost.ring_percent,
            level: figures.level as u32,
            left_out: figures.left_out.words(),
            sheds: figures.sheds,
            restores: figures.restores,
        }
    }

    /// Nothing if no request was ever received.
    fn relay_status(&self) -> Option<RelayStatus> {
        let IntakeCounts { accepted, local, rejected, skewed, redacted, .. } = self.intake.counts();
        let receivers = self.receivers.counts();
        let refused =
            [Outcome::RefusedFull, Outcome::RefusedQuota, Outcome::Storage].map(|outcome| receivers.of(outcome));
        let status = RelayStatus { accepted, local, rejected, skewed, redacted, refused: refused.iter().sum() };
        (!receivers.requests.is_empty()).then_some(status)
    }

    /// Kernel-side losses by reason and CPU, zeros left out.
    fn kernel_losses(&self) -> Vec<KernelLossCount> {
        let capture = lock(&self.capture);
        let losses = capture.as_ref().map(Capture::losses).unwrap_or_default();
        let by_cpu = losses.into_iter().flat_map(|(reason, counts)| {
            let count = move |(cpu, count)| KernelLossCount { reason: reason.name(), cpu: cpu as u32, count };
            counts.into_iter().enumerate().map(count)
        });
        by_cpu.filter(|loss| loss.count > 0).collect()
    }

    /// Why nothing is seen of what a process sends and receives by TLS.
    fn not_covered(&self, pid: u32) -> String {
        let Some(tls) = &self.tls else {
            let hook = self.hooks.iter().find(|hook| hook.name == tls::HOOK);
            return hook.map_or_else(String::new, |hook| format!("TLS libraries are not probed: {}", hook.detail));
        };
        tls.not_covered(pid)
    }

    /// Processes of which TLS is seen, or would be.
    fn tls_processes(&self) -> Vec<TlsProcess> {
        let process = |(pid, coverage): (u32, Coverage)| TlsProcess {
            pid,
            covered_by: coverage.by.iter().map(|(stack, path)| format!("{stack} {path}")).collect(),
            not_covered: coverage.failed.join("; "),
        };
        self.tls.iter().flat_map(|tls| tls.processes()).map(process).collect()
    }

    fn losses(&self) -> Vec<Loss> {
        let kernel = self.kernel_losses().into_iter().map(|loss| Loss {
            source: format!("kernel cpu {}", loss.cpu),
            reason: loss.reason.into(),
            count: loss.count,
        });
        let pipeline = lock(&self.figures.losses).clone();
        let pipeline = pipeline.into_iter().filter(|(_, count)| *count > 0).map(|(reason, count)| Loss {
            source: "pipeline".into(),
            reason: reason.into(),
            count,
        });
        let skipped = self.skipped().map(|count| Loss { source: "kernel".into(), reason: SKIPPED.into(), count });
        let refused = self.tls.as_ref().map(|tls| tls.refused()).filter(|count| *count > 0);
        let refused = refused.map(|count| Loss { source: "tls".into(), reason: "probes_full".into(), count });
        kernel.chain(skipped).chain(pipeline).chain(refused).collect()
    }

    /// How often the kernel skipped a program, if it did.
    fn skipped(&self) -> Option<u64> {
        let programs = lock(&self.capture).as_ref().map(Capture::programs)?;
        Some(programs.skipped()).filter(|count| *count > 0)
    }
}

fn hook_status(hook: &HookState) -> HookStatus {
    let detail = match hook.rung {
        Some(rung) => rung.name().to_owned(),
        None => hook.detail.clone(),
    };
    HookStatus { name: hook.name.into(), means: hook.gives.into(), attached: hook.rung.is_some(), detail }
}

impl Live for LiveFacts {
    fn status(&self) -> StatusReport {
        let destination = |stats: &Arc<DestinationStats>| {
            let counts = stats.counts();
            DestinationStatus {
                name: counts.name,
                url: counts.url,
                last_error: counts.last_error.unwrap_or_default(),
                last_error_unix_ns: counts.last_error_unix_ns,
                is_failing: counts.failing,
                possible_duplicates: counts.possible_duplicates,
                ..DestinationStatus::default()
            }
        };
        let (selection, unselected) = lock(&self.selection).clone();
        StatusReport {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started_unix_ns: self.started_unix_ns,
            hooks: self.hooks.iter().map(hook_status).collect(),
            selection,
            connections: self.figures.connections.load(Ordering::Relaxed),
            spans_total: self.figures.spans.load(Ordering::Relaxed),
            destinations: lock(&self.destinations).iter().map(destination).collect(),
            log: None,
            losses: self.losses(),
            budget: Some(self.budget_status()),
            tls: self.tls_processes(),
            only_relays: self.questions.is_none(),
            relay: self.relay_status(),
            late: Vec::new(),
            symptoms: self.symptom_status(),
            unselected: unselected.name().into(),
            config_file: self.config_file.as_ref().map_or_else(String::new, |path| path.display().to_string()),
        }
    }

    fn measure(&self, length: Duration) -> SelfReport {
        let window = self.meter.begin(Looker::Operator);
        std::thread::sleep(length);
        let measured = window.end();
        let program = |runs: &Runs| ProgramCost {
            hook: runs.hook.into(),
            means: runs.means.into(),
            runs: runs.runs,
            run_ns: runs.run_ns,
        };
        let map = |map: stats::MapMemory| MapMemory { name: map.name, bytes: map.bytes, bytes_max: map.bytes_max };
        let budget_ns = measured.sheddable_ns();
        SelfReport {
            window_ns: measured.window_ns,
            cpus: measured.cpus,
            programs: measured.programs.iter().map(program).collect(),
            empty_run_ns: measured.empty_run_ns,
            not_counted: measured.not_counted.unwrap_or_default(),
            budget_ns,
            agent_cpu_ns: measured.agent_cpu_ns,
            agent_memory_bytes: stats::own_memory_bytes(),
            maps: stats::maps().into_iter().map(map).collect(),
            spans: measured.spans,
            records: measured.records,
            ring_percent: measured.ring_percent,
            losses: self.losses(),
            budget: Some(self.budget_status()),
        }
    }

    fn targets(&self) -> Vec<Target> {
        lock(&self.destinations).iter().map(|stats| stats.target().clone()).collect()
    }

    fn connections(&self) -> Result<Vec<ConnView>, String> {
        self.figures.healthy()?;
        let questions = self.questions.as_ref().ok_or("this agent captures nothing (capture.enabled: false)")?;
        let views = questions.connections()?;
        let mut reasons: HashMap<u32, String> = HashMap::new();
        let told = |view: &ConnectionView| match view.tls {
            Some(Seen::Records) => {
                connections::told(view, reasons.entry(view.pid).or_insert_with(|| self.not_covered(view.pid)))
            }
            _ => connections::told(view, ""),
        };
        Ok(views.iter().map(told).collect())
    }
}

impl Facts for LiveFacts {
    fn snapshot(&self) -> Snapshot {
        let log = self.log.stats();
        let losses = lock(&self.figures.losses).clone().into_iter().chain(self.skipped().map(|count| (SKIPPED, count)));
        let losses = losses.map(|(name, count)| (name.to_owned(), count)).collect();
        let accounts = self.log.destinations();
        let destination = |stats: &Arc<DestinationStats>| {
            let counts = stats.counts();
            DestinationFigures { accounts: accounts.get(&counts.name).copied().unwrap_or_default(), counts }
        };
        Snapshot {
            records_decoded: self.figures.records.load(Ordering::Relaxed),
            spans_generated: self.figures.spans.load(Ordering::Relaxed),
            connections: self.figures.connections.load(Ordering::Relaxed),
            kernel_losses: self.kernel_losses(),
            losses,
            log_bytes: log.bytes,
            log_awaited_bytes: log.awaited_bytes,
            log_bytes_max: self.log.bytes_max(),
            log_segments: log.segments,
            log_spans_dropped: log.spans_dropped,
            log_sync_errors: log.sync_errors,
            hooks: self.hooks.iter().map(|hook| (hook.name.to_owned(), hook.rung.is_some())).collect(),
            destinations: lock(&self.destinations).iter().map(destination).collect(),
            letters: self.log.dead_letters().sums().unwrap_or_default(),
            intake: self.intake.counts(),
            receivers: self.receivers.counts(),
            budget: *lock(&self.budget),
            reloads: *self.reloads(),
            symptoms: lock(&self.symptoms).clone(),
            cpu_ns: stats::own_cpu_ns(),
            memory_bytes: stats::own_memory_bytes(),
            started_unix_ns: self.started_unix_ns,
            pushes: self.pushes.now(),
            dead_letters_bytes_max: self.log.dead_letters().bytes_max(),
        }
    }

    fn healthy(&self) -> Result<(), String> {
        self.figures.healthy()
    }

    fn ready(&self) -> Result<(), String> {
        if self.questions.is_none() || lock(&self.capture).is_some() {
            Ok(())
        } else {
            Err("the kernel programs are detached".into())
        }
    }
}
