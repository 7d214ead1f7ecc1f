//! An agent that only relays, between a sender and its sinks; ended and started again as the tests like.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use spantap_tests::{
    agent::binary,
    cgroup::Limit,
    clock::wait_for,
    otlp,
    process::{Launch, Process, tool},
    temp::{TempDir, free_port},
};

/// Longest that anything may take; only a hang or a loss takes longer.
pub const BOUND: Duration = Duration::from_secs(120);

/// A running agent, its folders, and how it is started again.
pub struct Relay {
    folder: TempDir,
    data: PathBuf,
    address: SocketAddr,
    process: Option<Process>,
    /// As a sidecar: without any privilege, and with so much memory.
    limit: Option<Limit>,
}

impl Relay {
    /// Starts an agent that has no capability and may take so much memory.
    pub fn start_as_sidecar(destinations: &[String], memory_bytes: u64) -> Self {
        let mut relay = Self::prepared(None);
        relay.limit = Some(Limit::memory(memory_bytes));
        relay.configure(destinations, "");
        relay.restart();
        relay
    }

    /// Starts an agent with these destinations (their YAML, without the dash) and more configuration.
    pub fn start(destinations: &[String], config: &str) -> Self {
        Self::start_in(None, destinations, config)
    }

    /// With more configuration below `export` too.
    pub fn start_with(destinations: &[String], config: &str, export: &str) -> Self {
        Self::start_in(None, destinations, &format!("{config}export:\n{export}"))
    }

    /// With its log in this folder.
    pub fn start_in(data: Option<&Path>, destinations: &[String], config: &str) -> Self {
        let mut relay = Self::prepared(data);
        relay.configure(destinations, config);
        relay.restart();
        relay
    }

    fn prepared(data: Option<&Path>) -> Self {
        let folder = TempDir::new("relay");
        let data = data.map_or_else(|| folder.join("data"), Path::to_owned);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self { folder, data, address, process: None, limit: None }
    }

    /// The agent's program, where it is to run.
    fn launch(&self) -> Launch {
        let Some(limit) = &self.limit else { return Launch::new(binary()) };
        let without = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
        Launch::new(tool("setpriv")).args(without).arg(binary()).limited_by(limit)
    }

    /// Sends spans of a service, and waits until they are acknowledged.
    pub fn send(&self, service: &str, spans: impl Iterator<Item = Vec<u8>>) {
        let request = otlp::post(&otlp::export_request(service, spans));
        assert_eq!(otlp::exchange(&mut None, self.address, &request, BOUND).expect("an answer"), Some(200));
    }

    /// Writes the configuration anew.
    pub fn configure(&self, destinations: &[String], config: &str) {
        let list: String = destinations.iter().map(|to| format!("    - {{ {to} }}\n")).collect();
        let (config, export) = config.split_once("export:\n").unwrap_or((config, ""));
        let text = format!("{config}export:\n{export}  shutdown_timeout: 1s\n  destinations:\n{list}");
        self.folder.write("spantap.yaml", text);
    }

    /// Starts the agent and waits until it answers.
    pub fn restart(&mut self) {
        let launch = self
            .launch()
            .args(["run", "--no-capture", "--config"])
            .arg(self.folder.join("spantap.yaml"))
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--socket")
            .arg(self.socket())
            .arg("--receive-otlp-http")
            .arg(self.address.to_string())
            .stderr_to(&self.folder.join("stderr"))
            .stdout_to(&self.folder.join("stdout"));
        self.process = Some(launch.spawn());
        wait_for("the agent answers", BOUND, || {
            let ended = self.process.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "the agent ended:\n{}", self.messages());
            self.try_ask(&["status"]).is_some().then_some(())
        });
    }

    /// Ends the agent as a crash does.
    pub fn kill(&mut self) {
        // The guard kills and reaps.
        self.process.take();
    }

    /// Ends the agent as an operator does.
    pub fn terminate(&mut self) {
        let status = self.process.as_mut().expect("it runs").terminate(BOUND);
        assert!(status.success(), "{status}\n{}", self.messages());
        self.process.take();
    }

    /// Memory that it takes now, and the capabilities that it has, of an agent that is a sidecar.
    pub fn taken(&self) -> (u64, String) {
        let pid = self.process.as_ref().expect("it runs").pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
        (self.limit.as_ref().expect("a limit").rss_bytes(), capabilities.trim().to_owned())
    }

    /// Where it receives.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is asked.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("s.sock")
    }

    /// Its log.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What it said since it was started last.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }

    /// Lines of a command's JSON.
    pub fn ask(&self, command: &[&str]) -> Vec<Value> {
        self.try_ask(command).unwrap_or_else(|| panic!("{command:?} failed; the agent said:\n{}", self.messages()))
    }

    /// What a command says that prints text.
    pub fn say(&self, command: &[&str]) -> String {
        let output = Launch::new(binary()).args(command).arg("--socket").arg(self.socket()).output();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A destination's accounts, by name, in `status`.
    pub fn destination(&self, name: &str) -> Value {
        let status = self.ask(&["status"]).remove(0);
        let destinations = status["destinations"].as_array().expect("a list").clone();
        destinations.into_iter().find(|to| to["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// Waits until a destination has nothing left to get.
    pub fn drained(&self, name: &str) {
        wait_for(&format!("{name} has everything"), BOUND, || (self.destination(name)["queued"] == 0).then_some(()));
    }

    fn try_ask(&self, command: &[&str]) -> Option<Vec<Value>> {
        let output = Launch::new(binary()).args(command).arg("--json").arg("--socket").arg(self.socket()).output();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(|| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
    }
}
