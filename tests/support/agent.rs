//! The agent, run as an operator runs it, and asked through its CLI only.
//!
//! In: [`AgentOptions`]. Out: [`Agent`], ready to record. Called by every test. The agent records nothing but what the
//! options select: `capture.unselected` is `none` unless a test says otherwise.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    clock,
    process::{Launch, Process, require_root},
    span::Span,
    temp::TempDir,
};

const READY_WITHIN: Duration = Duration::from_secs(30);
const STOPPED_WITHIN: Duration = Duration::from_secs(15);

/// How to start the agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Flags after those that place data and socket.
    pub args: Vec<String>,
    /// What is recorded of what no rule selects: `none` or `timing`.
    pub unselected: &'static str,
    /// `capture.max_cpu_percent`; 0, no limit: what is counted exactly must not be left out.
    pub max_cpu_percent: u32,
    /// More of the configuration file's section `capture`, indented by two.
    pub capture: String,
    /// More of the configuration file, at its top level.
    pub config: String,
    /// Folder of the span log, if not a temporary one.
    pub data_dir: Option<PathBuf>,
}

impl AgentOptions {
    /// Selects nothing.
    pub fn none() -> Self {
        Self {
            args: Vec::new(),
            unselected: "none",
            max_cpu_percent: 0,
            capture: String::new(),
            config: String::new(),
            data_dir: None,
        }
    }

    /// Selects a cgroup.
    pub fn cgroup(cgroup: &Cgroup) -> Self {
        Self::none().flag("--select-cgroup", cgroup.path())
    }

    /// Adds a flag with a value.
    pub fn flag(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.args.push(name.to_owned());
        self.args.push(value.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Records sizes and times of everything else, of every exchange.
    pub fn timing_of_unselected(mut self) -> Self {
        self.unselected = "timing";
        self.capture.push_str("  unselected_spans_per_second: 0\n");
        self
    }

    fn yaml(&self) -> String {
        let Self { unselected, max_cpu_percent, capture, config, .. } = self;
        format!(
            "redaction:\n  paths: keep\ncapture:\n  unselected: {unselected}\n  max_cpu_percent: {max_cpu_percent}\n\
             {capture}{config}"
        )
    }
}

/// One line of `spantap losses --json`.
#[derive(Deserialize)]
struct Loss {
    source: String,
    reason: String,
    count: u64,
}

/// A running agent that ends with the guard.
pub struct Agent {
    process: Process,
    socket: PathBuf,
    folder: TempDir,
}

impl Agent {
    /// Starts the agent and waits until it answers.
    pub fn start(options: &AgentOptions) -> Self {
        require_root();
        let mut agent = Self::launch(options);
        let ready = clock::poll(READY_WITHIN, || {
            if agent.process.ended().is_some() {
                return Some(false);
            }
            agent.ask(["status", "--json"]).status.success().then_some(true)
        });
        assert_eq!(ready, Some(true), "the agent is not ready; it said:\n{}", agent.messages());
        agent
    }

    /// Starts the agent and does not wait.
    pub fn launch(options: &AgentOptions) -> Self {
        let folder = TempDir::new("agent");
        let config = folder.write("spantap.yaml", options.yaml());
        let socket = folder.join("run/s.sock");
        let data = options.data_dir.clone().unwrap_or_else(|| folder.join("data"));
        let process = Launch::new(binary())
            .args(["run", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(data)
            .arg("--socket")
            .arg(&socket)
            .args(&options.args)
            .stderr_to(&folder.join("stderr"))
            .stdout_to(&folder.join("stdout"))
            .spawn();
        Self { process, socket, folder }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its query socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes its configuration file anew and tells it to apply the selection (`SIGHUP`).
    pub fn reselect(&self, options: &AgentOptions) {
        self.folder.write("spantap.yaml", options.yaml());
        self.process.signal(libc::SIGHUP);
    }

    /// What it wrote to standard error so far.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    /// Runs a reading command against it.
    pub fn ask<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        Launch::new(binary()).args(args).arg("--socket").arg(&self.socket).output()
    }

    /// Like [`Agent::ask`]; anything but success fails the test. Gives standard output.
    pub fn answer<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        let args: Vec<&str> = args.into_iter().collect();
        let output = self.ask(args.iter().copied());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "spantap {} failed: {errors}\n{text}", args.join(" "));
        text
    }

    /// All spans so far, each checked to be sound.
    pub fn spans(&self) -> Vec<Span> {
        self.spans_where(&[])
    }

    /// All spans that pass these filter flags, each checked to be sound.
    pub fn spans_where(&self, filters: &[&str]) -> Vec<Span> {
        let mut args = vec!["spans", "--json", "--since", "1h", "--limit", "10000000"];
        args.extend(filters);
        let spans: Vec<Span> = self.answer(args).lines().map(Span::parse).collect();
        spans.iter().for_each(Span::assert_sound);
        spans
    }

    /// Waits until at least `count` HTTP spans are there, and gives all spans once their number has come to rest. The
    /// rest lets spans that nobody asked for show themselves.
    pub fn wait_for_http(&self, count: usize, bound: Duration) -> Vec<Span> {
        self.wait_for(&format!("{count} HTTP spans"), bound, |spans| {
            spans.iter().filter(|span| span.is_http()).count() >= count
        })
    }

    /// Waits until `enough` says so, then until two looks in a row give the same number of spans.
    pub fn wait_for(&self, what: &str, bound: Duration, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut last = Vec::new();
        let mut before = usize::MAX;
        let settled = clock::poll(bound, || {
            last = self.spans();
            let same = std::mem::replace(&mut before, last.len()) == last.len();
            clock::pace(Duration::from_millis(150));
            (same && enough(&last)).then_some(())
        });
        assert!(
            settled.is_some(),
            "{what}: not within {bound:?}; {} spans are there: {:?}\nlosses: {}\nagent: {}",
            last.len(),
            summary(&last),
            self.answer(["losses", "--json"]),
            self.messages()
        );
        last
    }

    /// `spantap status --json`.
    pub fn status(&self) -> Value {
        let text = self.answer(["status", "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("status is not JSON: {error}\n{text}"))
    }

    /// `spantap losses --json`: count by reason, summed over sources and CPUs, zeros left out.
    pub fn losses(&self) -> BTreeMap<String, u64> {
        self.losses_where(|_| true)
    }

    /// The same, of the sources that pass: `kernel…`, `pipeline`, `log`, `destination NAME`.
    pub fn losses_where(&self, source: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for line in self.answer(["losses", "--json"]).lines() {
            let loss: Loss = serde_json::from_str(line).unwrap_or_else(|error| panic!("not a loss: {error}: {line}"));
            if loss.count > 0 && source(&loss.source) {
                *counts.entry(loss.reason).or_default() += loss.count;
            }
        }
        counts
    }

    /// `spantap why ID`, in words.
    pub fn why(&self, span: &Span) -> String {
        self.answer(["why", &span.span_id])
    }

    /// `spantap why ID --json`: the segment that the verdict names.
    pub fn verdict(&self, span: &Span) -> String {
        let text = self.answer(["why", &span.span_id, "--json"]);
        let line: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
            .unwrap_or_else(|error| panic!("why is not JSON: {error}\n{text}"));
        let named = line["verdict"]["segment"].as_str();
        named.unwrap_or_else(|| panic!("the verdict names no segment: {text}")).to_owned()
    }

    /// Stops the agent with `SIGTERM`; it must flush and exit with success.
    pub fn stop(mut self) {
        let status = self.process.terminate(STOPPED_WITHIN);
        assert!(status.success(), "the agent ended with {status}; it said:\n{}", self.messages());
    }
}

/// How many there are of each kind, name and outcome; of many names the most frequent.
fn summary(spans: &[Span]) -> Vec<(usize, String)> {
    let mut counts = BTreeMap::new();
    for span in spans {
        let name = format!("{} {} {} {}", span.kind, span.protocol, span.name, span.status);
        *counts.entry(name).or_insert(0) += 1;
    }
    let mut counts: Vec<(usize, String)> = counts.into_iter().map(|(name, count)| (count, name)).collect();
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    counts.truncate(20);
    counts
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let messages = self.messages();
            let tail: Vec<&str> = messages.lines().rev().take(40).collect();
            // Not `eprintln!`: a closed standard error must not turn the panic into an abort that cleans nothing up.
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "--- last messages of the agent ---");
            tail.iter().rev().for_each(|line| drop(writeln!(stderr, "{line}")));
        }
        if self.process.ended().is_none() {
            self.process.signal(libc::SIGTERM);
            let _ = clock::poll(STOPPED_WITHIN, || self.process.ended());
        }
    }
}

/// The built `spantap`: `SPANTAP_BIN`, else the newest one beside the tests or in the checkout's target folder.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SPANTAP_BIN") {
        return path.into();
    }
    let folders = [target_dir(), repository().join("target")];
    let candidates =
        folders.iter().flat_map(|folder| ["release", "debug"].map(|profile| folder.join(profile).join("spantap")));
    let newest = candidates.filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    newest.map(|(_, path)| path).expect("there is no built `spantap`; `cargo xtask build` makes one")
}

/// Cargo's target folder, from where this program lies in it.
pub fn target_dir() -> PathBuf {
    let program = std::env::current_exe().expect("path of this program");
    let folder = program.ancestors().skip(1).find(|folder| folder.join("CACHEDIR.TAG").exists());
    folder.map(Path::to_owned).unwrap_or_else(|| panic!("{} is not in a target folder", program.display()))
}

/// The root of the checkout.
pub fn repository() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    folder.expect("the tests lie in the workspace").to_owned()
}
