//! `spantap run`: what is started, in which order, and how it ends.
//!
//! Start: configuration, span log, query socket, metrics address, destinations, kernel programs, capture loop. What can
//! fail for an operator's reason fails before anything is attached, and once the capture loop runs every end goes
//! through its orderly stop. End, on SIGTERM or SIGINT: detach, finish what is known,
//! append it, send what waits for as long as the configuration allows, close. SIGHUP, or another content of its file,
//! has the configuration applied anew.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_core::{
    cause::words::counted,
    config::PipelineConfig,
    naming::Route,
    redact::{KeyPolicy, PathPolicy, RedactConfig},
};
use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

use crate::{
    capture::{CaptureLoop, lock},
    config::{self, Config, Loaded, Paths, RedisKeys, RunArgs, Unselected},
    export::{ExportError, Exporter, LogSource, symptom::Watcher},
    intake::Intake,
    kernel::{
        attach::{self, AttachOptions},
        budget::Budget,
        load::{self, Capture, LoadOptions},
        ring::Ring,
        select::{Rules, Selection, Wanted},
        tls::{self, Follower, selected},
    },
    live::{Attached, LiveFacts},
    log::{Hold, LogConfig, SpanLog},
    memory,
    query::server::QuerySocket,
    receive::Bound,
    reload::Reloader,
    telemetry::{self, push::Pusher},
};

/// Time between two looks at the configuration file, at what stands at the paths of the selection, and at the capture loop.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time before destinations that a change has stopped, or that ended by themselves, are started again, if that failed.
const RESTART_INTERVAL: Duration = Duration::from_secs(10);

/// Runs the agent until it is told to stop.
pub fn run(args: &RunArgs) -> Result<()> {
    memory::keep_buffers();
    let loaded = Loaded::load(args, std::env::vars())?;
    telemetry::log::init(&loaded.config.diagnostics);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    check_hook_names(&loaded.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(args, loaded))
}

async fn serve(args: &RunArgs, Loaded { config, file, .. }: Loaded) -> Result<()> {
    let log = SpanLog::open(&config.data_dir, log_config(&config))?;
    let socket = QuerySocket::bind(&config.socket, None)?;
    let metrics = bind_metrics(&config).await?;
    let pushers = Pusher::all(&config.metrics.push)?;
    if config.capture.enabled {
        wanted(&config).check()?;
    }
    let pipeline = pipeline_config(&config)?;
    let relay = config.relay.to_core().map_err(anyhow::Error::msg)?;
    let receivers = Bound::bind(&config.receive)?;
    // Before the first span: a new destination begins with the next span that is appended.
    let mut exporter = Exporter::start(&config.export, log.dead_letters(), |to| LogSource::open(&log, to))?;
    log.destinations_open()?;
    log.tell_forgotten();
    let kernel = if config.capture.enabled { Some(load_kernel_side(&config)?) } else { None };
    let keeping = tokio::spawn(crate::log::keep(log.clone()));
    let (attached, capturing) =
        kernel.map(|kernel| kernel.start(&log, pipeline, config.node_name.clone())).transpose()?.unzip();
    // From here on nothing returns before the loop was stopped: what it has not finished would be lost.
    let intake = Intake::new(log.clone(), relay, config.relay.durability);
    let receivers = receivers.serve(intake.clone());
    let selection = selection_words(&config);
    if capturing.is_some() {
        warn_of_vain(&selection);
    }
    let live = Arc::new(LiveFacts::new(
        attached.zip(capturing.as_ref()),
        Arc::clone(exporter.stats()),
        (log.clone(), intake.clone(), Arc::clone(receivers.stats())),
        selection,
        (&config.capture, file.as_deref()),
    ));
    let budget = capturing.as_ref().and_then(|capturing| keep_budget(&live, &capturing.selection));
    let (stop, stopped) = watch::channel(false);
    let answering = tokio::spawn(socket.serve(log.clone(), Arc::clone(&live) as _, ended(stopped.clone())));
    let metrics = metrics.map(|server| tokio::spawn(server.serve(Arc::clone(&live) as _)));
    let host_name = config.host_name.clone().or_else(host_name);
    let (end_pushes, pushes_end) = watch::channel(false);
    let pushing = Pusher::start(pushers, &live, live.pushes(), host_name.as_deref(), &pushes_end);
    tracing::info!(pid = std::process::id(), socket = %config.socket.display(), data_dir = %config.data_dir.display(), "ready");

    let mut changing = Changing {
        watcher: Watcher::start(&log, &config.export, live.symptoms()),
        live: &live,
        log: &log,
        intake: &intake,
        exporter: &mut exporter,
        stopped: None,
        capturing: capturing.as_ref(),
    };
    let ending = supervise(Reloader::new(args, config), &mut changing).await;
    drop(changing);

    receivers.shutdown().await;
    tokio::task::block_in_place(|| drop(budget));
    live.detach();
    if let Some(capturing) = capturing {
        tokio::task::block_in_place(|| capturing.looping.stop());
    }
    // While the accounts of the destinations are there; what is still sent of theirs goes on with them after the next start.
    end_pushes.send_replace(true);
    pushing.join_all().await;
    // Destinations that have ended still wait for their spans.
    let hold = log.hold();
    exporter.shutdown().await;
    stop.send_replace(true);
    if let Ok(Err(error)) = answering.await {
        tracing::warn!(%error, "the query socket ended early");
    }
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    keeping.abort();
    log.sync()?;
    drop(hold);
    tracing::info!("stopped");
    ending
}

/// Without the thread the agent works on, at any cost.
fn keep_budget(live: &Arc<LiveFacts>, selection: &Arc<Mutex<Selection>>) -> Option<Budget> {
    let (measured, applied) = (Arc::clone(live), Arc::clone(selection));
    let measure = move || Arc::clone(&measured).measure_cost();
    let apply = move |detail| lock(&applied).set_detail(detail).map_err(|error| error.to_string());
    let started = Budget::start(live.budget(), measure, apply);
    started.inspect_err(|error| tracing::error!(%error, "the budget is not kept")).ok()
}

/// What a changed configuration changes while the agent runs.
struct Changing<'a> {
    watcher: Watcher,
    live: &'a LiveFacts,
    log: &'a SpanLog,
    intake: &'a Intake,
    exporter: &'a mut Exporter,
    /// After a change that failed when destinations were stopped already: what they wait for is held, and when to try again.
    stopped: Option<(Hold, Instant)>,
    capturing: Option<&'a Capturing>,
}

/// Waits for the signal that ends the agent; applies the configuration anew on SIGHUP and when its file changes.
async fn supervise(mut reloader: Reloader, changing: &mut Changing<'_>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    changing.live.reloads().hash = reloader.running().hash();
    let mut failed = None;
    loop {
        let is_asked = tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hang_up.recv() => true,
            _ = look.tick() => false,
        };
        if let Some(capturing) = changing.capturing {
            anyhow::ensure!(capturing.looping.is_running(), "the capture loop ended; see the messages above");
            tokio::task::block_in_place(|| follow(reloader.running(), capturing, changing.live, &mut failed));
        }
        if changing.stopped.is_none() {
            let log = changing.log;
            let started = changing.exporter.start_ended_anew(RESTART_INTERVAL, |to| LogSource::open(log, to));
            if let Err(error) = started {
                tracing::error!("a destination that ended is started again when it can be: {error}");
            }
        }
        let has_changed = reloader.has_changed();
        let is_due = changing.stopped.as_ref().is_some_and(|(_, at)| *at <= Instant::now());
        if !is_asked && !has_changed && !is_due {
            continue;
        }
        match reload(&mut reloader, changing).await {
            Ok(()) => {
                let mut figures = changing.live.reloads();
                (figures.hash, figures.applied) = (reloader.running().hash(), figures.applied + 1);
            }
            Err(error) => {
                changing.live.reloads().refused += 1;
                match &mut changing.stopped {
                    None => tracing::error!("the configuration stays as it was: {error:#}"),
                    // Whatever failed now, also before it came to the destinations.
                    Some((_, again_at)) => {
                        *again_at = Instant::now() + RESTART_INTERVAL;
                        tracing::error!(
                            "destinations that the new configuration changes are stopped, which is tried again every {RESTART_INTERVAL:?}: {error:#}"
                        );
                    }
                }
            }
        }
    }
}

/// Applies the configuration as it is now: all of it that can change while the agent runs, or nothing.
async fn reload(reloader: &mut Reloader, changing: &mut Changing<'_>) -> Result<()> {
    let change = reloader.load()?;
    let relay = change.config.relay.to_core().map_err(anyhow::Error::msg)?;
    if changing.capturing.is_some() {
        wanted(&change.config).check()?;
    }
    let log = changing.log;
    // Until all run again: what stopped destinations wait for must not go meanwhile.
    let hold = log.hold();
    let applied = changing.exporter.apply(&change.config.export, |to| LogSource::open(log, to)).await;
    match &applied {
        Ok(()) => changing.stopped = None,
        // The only one that comes after some were stopped.
        Err(ExportError::Source { .. }) => changing.stopped = Some((hold, Instant::now())),
        // They run as before, or are stopped as before.
        Err(_) => {}
    }
    applied?;
    changing.intake.set_relay(relay);
    if reloader.running().export != change.config.export {
        changing.watcher = Watcher::start(log, &change.config.export, changing.live.symptoms());
    }
    if let Some(capturing) = changing.capturing {
        let words = reselect(&change.config, capturing);
        lock(&changing.live.budget()).left_out = lock(&capturing.selection).left_out();
        changing.live.set_selection(words.context("all is applied but the selection, which stays")?);
    }
    log.tell_forgotten();
    reloader.applied(change);
    Ok(())
}

/// Selects what stands at the paths of the selection by now, and the containers that it names. `failed`: why that failed the last time.
fn follow(config: &Config, capturing: &Capturing, live: &LiveFacts, failed: &mut Option<String>) {
    let applied = lock(&capturing.selection).applied();
    let Some(wanted) = applied else { return };
    // Found without the lock: the capture loop waits for it.
    let followed = wanted.find().and_then(|found| lock(&capturing.selection).follow(&wanted, found));
    let error = followed.as_ref().err().map(ToString::to_string);
    match followed {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!("what the selection names is another by now, and is followed");
            live.set_selection(selected_anew(config, capturing));
        }
        Err(_) if *failed == error => {}
        Err(error) => tracing::error!(%error, "what the selection names by now cannot be selected, or excluded"),
    }
    *failed = error;
}

/// What stands behind a name that no container has, and behind a path at which nothing is.
const NONE_THERE: &str = " (none there)";
const NOT_THERE: &str = " (not there)";

/// Applies the selection. On error the previous one is restored.
fn reselect(config: &Config, capturing: &Capturing) -> Result<(Vec<String>, Unselected)> {
    lock(&capturing.selection).replace(&wanted(config))?;
    let words = selected_anew(config, capturing);
    warn_of_vain(&words.0);
    Ok(words)
}

/// What the selection names and is not there may be misspelt.
fn warn_of_vain(words: &[String]) {
    for vain in words.iter().filter(|words| words.ends_with(NONE_THERE) || words.ends_with(NOT_THERE)) {
        tracing::warn!("{vain}: looked for again each second");
    }
}

/// Has the TLS libraries looked at of what is selected by now; gives the selection in words.
fn selected_anew(config: &Config, capturing: &Capturing) -> (Vec<String>, Unselected) {
    if let Some(tls) = &capturing.tls {
        tls.see_now(&selected::processes(&wanted(config)));
    }
    (selection_words(config), config.capture.unselected)
}

/// What is loaded and attached.
struct KernelSide {
    ring: Ring,
    selection: Arc<Mutex<Selection>>,
    capture: Capture,
    tls: Option<Arc<Follower>>,
}

/// The running loop, and what it captures.
pub struct Capturing {
    pub(crate) looping: CaptureLoop,
    selection: Arc<Mutex<Selection>>,
    tls: Option<Arc<Follower>>,
}

impl KernelSide {
    fn start(
        self,
        log: &SpanLog,
        pipeline: PipelineConfig,
        node_name: Option<String>,
    ) -> Result<(Attached, Capturing)> {
        let Self { ring, selection, capture, tls } = self;
        let looping = CaptureLoop::start(ring, Arc::clone(&selection), tls.clone(), log.clone(), pipeline, node_name)
            .context("cannot start the capture loop")?;
        Ok(((capture, tls.clone()), Capturing { looping, selection, tls }))
    }
}

fn load_kernel_side(config: &Config) -> Result<KernelSide> {
    let attach = AttachOptions {
        rung: config.capture.attach,
        syscalls: config.capture.syscall_hooks,
        without: config.capture.without_hooks.clone(),
        ..AttachOptions::default()
    };
    let loaded = load::load(&load_options(&config.capture, attach))?;
    let mut selection = loaded.selection;
    let wanted = wanted(config);
    selection.replace(&wanted)?;
    if let Some(tls) = &loaded.tls {
        tls.see_now(&selected::processes(&wanted));
    }
    for hook in loaded.capture.hooks().iter().filter(|hook| hook.rung.is_none()) {
        tracing::warn!(hook = hook.name, reason = hook.detail, "not attached; unknown without it: {}", hook.gives);
    }
    Ok(KernelSide {
        ring: Ring::new(loaded.records, loaded.wake),
        selection: Arc::new(Mutex::new(selection)),
        capture: loaded.capture,
        tls: loaded.tls.map(Arc::new),
    })
}

fn load_options(capture: &config::Capture, attach: AttachOptions) -> LoadOptions {
    LoadOptions {
        attach,
        // Checked with the configuration to be far below.
        ring_bytes: u32::try_from(capture.ring_bytes.0).unwrap_or(u32::MAX),
        connections_max: capture.connections_max,
        tasks_max: capture.threads_max,
        log_level: kernel_log_level(),
    }
}

/// Kernel-side diagnostics are for developers and cost the traced programs: off unless `SPANTAP_KERNEL_LOG` asks.
fn kernel_log_level() -> u8 {
    std::env::var("SPANTAP_KERNEL_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(0)
}

fn check_hook_names(config: &Config) -> Result<()> {
    for name in &config.capture.without_hooks {
        let names = || attach::names().chain([tls::HOOK]);
        let known = || names().collect::<Vec<_>>().join(", ");
        anyhow::ensure!(names().any(|known| known == name), "there is no hook {name}; there are {}", known());
    }
    Ok(())
}

fn wanted(config: &Config) -> Wanted {
    let rules = |rules: &config::Rules| Rules {
        pids: rules.pid.clone(),
        cgroups: rules.cgroup.clone(),
        exes: rules.exe.clone(),
        ports: rules.port.clone(),
        netns: rules.netns.clone(),
        containers: rules.container.clone(),
        pods: rules.pod.clone(),
    };
    Wanted {
        select: rules(&config.capture.select),
        exclude: rules(&config.capture.exclude),
        select_all: config.capture.select_all,
        unselected_timing: config.capture.unselected == Unselected::Timing,
        payload_bytes_max: config.capture.payload_bytes_max,
    }
}

/// The selection in the words of the flags.
fn selection_words(config: &Config) -> Vec<String> {
    let mut words = Vec::new();
    if config.capture.select_all {
        words.push("--select-all".to_owned());
    }
    for (verb, rules) in [("select", &config.capture.select), ("exclude", &config.capture.exclude)] {
        let path = |path: &PathBuf| format!("{}{}", path.display(), if path.exists() { "" } else { NOT_THERE });
        words.extend(rules.cgroup.iter().map(|value| format!("--{verb}-cgroup {}", path(value))));
        words.extend(rules.pid.iter().map(|value| format!("--{verb}-pid {value}")));
        words.extend(rules.exe.iter().map(|value| format!("--{verb}-exe {value}")));
        words.extend(rules.port.iter().map(|value| format!("--{verb}-port {value}")));
        words.extend(rules.netns.iter().map(|value| format!("--{verb}-netns {}", path(value))));
        let found = |rules: Rules| match rules.cgroup_folders().len() {
            0 => NONE_THERE.to_owned(),
            count => format!(" ({})", counted(count as u64, "container")),
        };
        let container = |value: &String| found(Rules { containers: vec![value.clone()], ..Rules::default() });
        let pod = |value: &String| found(Rules { pods: vec![value.clone()], ..Rules::default() });
        words.extend(rules.container.iter().map(|value| format!("--{verb}-container {value}{}", container(value))));
        words.extend(rules.pod.iter().map(|value| format!("--{verb}-pod {value}{}", pod(value))));
    }
    words
}

fn log_config(config: &Config) -> LogConfig {
    LogConfig {
        bytes_max: config.log.max_bytes.0,
        age_max: config.log.max_age.0,
        sync_interval: Some(config.log.fsync_interval.0),
        host_name: config.host_name.clone().or_else(host_name),
        node_name: config.node_name.clone(),
        overflow: config.log.overflow,
        relayed_percent_max: config.log.relayed_percent_max,
        dead_letters_bytes_max: config.log.dead_letters_max_bytes.0,
    }
}

pub(crate) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string(Path::new("/proc/sys/kernel/hostname")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty() && name != "(none)")
}

fn pipeline_config(config: &Config) -> Result<PipelineConfig> {
    let paths = match config.redaction.paths {
        Paths::Redact => PathPolicy::Redact,
        Paths::Keep => PathPolicy::Keep,
    };
    let routes = config.redaction.routes.iter().map(|route| Route::parse(route)).collect::<Result<_, _>>()?;
    let redis_keys = match config.redaction.redis_keys {
        RedisKeys::Drop => KeyPolicy::Drop,
        RedisKeys::Hash => KeyPolicy::Hash(seed().context("cannot read random bytes for hashes")?),
    };
    Ok(PipelineConfig {
        seed: seed().context("cannot read random bytes for ids")?,
        own_socket: config.socket.to_str().map(Into::into),
        connections_max: config.assembly.connections_max,
        idle_exchange_ns: config.assembly.idle_exchange.0.as_nanos() as u64,
        unselected_per_second: config.capture.unselected_spans_per_second,
        names_max: config.redaction.names_per_service_max,
        redact: RedactConfig { paths, routes, redis_keys, ..RedactConfig::default() },
        ..PipelineConfig::default()
    })
}

fn seed() -> std::io::Result<[u8; 16]> {
    use std::io::Read;
    let mut seed = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}

async fn bind_metrics(config: &Config) -> Result<Option<telemetry::health::Server>> {
    let Some(address) = config.metrics.address else { return Ok(None) };
    let server = telemetry::health::Server::bind(address).await?;
    tracing::info!(address = %server.address(), "serving metrics");
    Ok(Some(server))
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_sizes_reach_the_kernel_side() {
        let capture = config::Capture {
            ring_bytes: config::Size(1 << 16),
            connections_max: 7,
            threads_max: 9,
            ..Default::default()
        };
        let options = load_options(&capture, AttachOptions::default());
        assert_eq!((options.ring_bytes, options.connections_max, options.tasks_max), (1 << 16, 7, 9));
    }

    #[test]
    fn the_default_sizes_are_the_same_in_both_places() {
        let (ours, theirs) =
            (load_options(&config::Capture::default(), AttachOptions::default()), LoadOptions::default());
        assert_eq!(
            (ours.ring_bytes, ours.connections_max, ours.tasks_max),
            (theirs.ring_bytes, theirs.connections_max, theirs.tasks_max)
        );
    }

    /// Whatever an operator got wrong is said before anything is attached, and so also without privileges.
    fn check_start_fails(yaml: &str, part: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spantap.yaml");
        std::fs::write(&file, yaml).unwrap();
        let args = RunArgs {
            config: Some(file),
            data_dir: Some(folder.path().join("data")),
            socket: Some(folder.path().join("s.sock")),
            ..RunArgs::default()
        };
        let mut loaded = Loaded::load(&args, []).unwrap();
        // No kernel makes a ring of one byte: a start that gets as far as loading says so on every host.
        loaded.config.capture.ring_bytes = config::Size(1);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let error = runtime.block_on(serve(&args, loaded)).unwrap_err();
        assert!(format!("{error:#}").contains(part), "{error:#}");
    }

    #[test]
    fn a_busy_metrics_address_is_said_before_attaching() {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = busy.local_addr().unwrap();
        check_start_fails(&format!("metrics: {{ address: '{address}' }}"), "cannot serve metrics");
    }

    #[test]
    fn a_selection_that_names_nothing_is_said_before_attaching() {
        check_start_fails("capture: { exclude: { cgroup: [/nowhere/cgroup] } }", "/nowhere/cgroup");
        check_start_fails("capture: { select: { netns: [/dev/null] } }", "network namespace");
    }

    #[test]
    fn a_missing_ca_file_is_said_before_attaching() {
        let destination = "{ url: 'otlp+grpcs://127.0.0.1:1', tls: { ca_file: /nowhere/ca.pem } }";
        check_start_fails(&format!("export: {{ destinations: [ {destination} ] }}"), "/nowhere/ca.pem");
    }
}
