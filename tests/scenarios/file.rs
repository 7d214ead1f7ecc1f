//! The form of a scenario's data file.
//!
//! In: `NAME.toml` beside this file. Out: [`Scenario`]. Unknown keys are errors.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use spantap_tests::agent::repository;

/// One scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What is slow, why, and where the truth about it comes from.
    pub about: String,
    /// Which ends are in the traced cgroup.
    #[serde(default = "both")]
    pub traced: Vec<End>,
    /// Conditions that show, without the agent, that the rig does what it says; see [`crate::expression`]. Each holds for every
    /// request, or with `some:` before it for at least one.
    pub injected: Vec<String>,
    /// How client and server are joined.
    #[serde(default)]
    pub path: Path,
    /// Who answers.
    #[serde(default)]
    pub server: Server,
    /// Who asks.
    #[serde(default)]
    pub client: Client,
    /// A server that the server asks.
    pub downstream: Option<Server>,
    /// A name server for the client.
    pub dns: Option<Dns>,
    /// Processes that want a CPU.
    #[serde(default)]
    pub hogs: Vec<Hog>,
    /// More arguments for the client, by the name of the run: `single`, `concurrent`, `pipelined`.
    pub runs: BTreeMap<String, Vec<String>>,
    /// What the agent must say.
    pub expect: Vec<Expect>,
}

/// A side of the connection.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Who opens it.
    Client,
    /// Who accepts it.
    Server,
    /// Whom the server asks.
    Downstream,
}

/// A link between two namespaces: a pair of TUN devices and a forwarder with a log.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Path {
    /// Join by veth instead: quick, and without a log.
    pub veth: bool,
    /// Delay from client to server.
    pub there_ms: u64,
    /// Delay from server to client.
    pub back_ms: u64,
    /// More delay for packets with SYN.
    pub syn_more_ms: u64,
    /// More delay for the server's packets that begin with a TLS handshake record.
    pub tls_more_ms: u64,
    /// Rules of a chain at prerouting in the client's namespace.
    pub client_rules: Vec<String>,
    /// Rules of a chain at prerouting in the server's namespace.
    pub server_rules: Vec<String>,
    /// Limits of a token bucket on the client's device (`tc`, `tbf`).
    pub client_bucket: String,
    /// Limits of a token bucket on the server's device.
    pub server_bucket: String,
    /// Parameters of the client's kernel.
    pub client_sysctl: BTreeMap<String, String>,
}

/// A program that answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// `server` or `udp_server` (the tests' own), `nginx_tls`, or `none`.
    pub program: String,
    /// Arguments of the tests' own.
    pub args: Vec<String>,
    /// Listens on a unix socket.
    pub unix: bool,
    /// CPU to pin it to.
    pub cpu: Option<usize>,
    /// Milliseconds of CPU time that it may use in each 100 ms.
    pub quota_ms: Option<u64>,
    /// Reads per second that its disk allows.
    pub disk_reads: Option<u32>,
}

/// A program that asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// `client` or `udp_client` (the tests' own), or `curl`.
    pub program: String,
    /// Arguments.
    pub args: Vec<String>,
    /// CPU to pin it to.
    pub cpu: Option<usize>,
    /// Name that it looks up for the server's address; `%` stands for the label of the request.
    pub host: Option<String>,
}

/// The tests' own name server, in the server's namespace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Arguments; see the actor `dns`.
    pub args: Vec<String>,
    /// `options` of the client's `resolv.conf`.
    #[serde(default)]
    pub options: String,
    /// The client asks dnsmasq on its own loopback, which asks the name server.
    #[serde(default)]
    pub through_dnsmasq: bool,
}

/// Processes that want a CPU.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hog {
    /// Which CPU.
    pub cpu: usize,
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// Arguments; see the actor `hog`.
    #[serde(default)]
    pub args: Vec<String>,
}

/// What the agent must say of one end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// `client` or `server`.
    pub kind: String,
    /// The spans' protocol.
    #[serde(default = "http")]
    pub protocol: String,
    /// The spans' name, if it matters.
    pub name: Option<String>,
    /// Only in these runs; empty: in all.
    #[serde(default)]
    pub runs: Vec<String>,
    /// Only requests of which these conditions hold.
    #[serde(default)]
    pub when: Vec<String>,
    /// The segment with the largest total, if it matters.
    #[serde(default)]
    pub segment: String,
    /// Causes that the verdict may have, if it matters.
    #[serde(default)]
    pub cause: Vec<String>,
    /// The cause that at least one verdict must have.
    pub must: Option<String>,
    /// Evidence that each tile of the segment may have.
    #[serde(default)]
    pub evidence: Vec<String>,
    /// Truth about the segment's length, as an expression; empty: there is none from outside.
    #[serde(default)]
    pub truth: String,
    /// Segments whose total is held against the truth, if not only the largest; `*` stands for the whole span, and
    /// `NAME:BY` for those tiles of a name that say by what.
    #[serde(default)]
    pub measure: Vec<String>,
    /// The truth is about the sum over all requests, or over the run if it names only facts of the run.
    #[serde(default)]
    pub sum: bool,
    /// Share of the truth that the agent may be off; it may always be off 10 us.
    #[serde(default = "tenth")]
    pub tolerance: f64,
    /// Share of the spans that must have the segment, and its length.
    #[serde(default = "all")]
    pub share: f64,
    /// Words that the verdict must say.
    #[serde(default)]
    pub says: Vec<String>,
    /// Attributes that every span must have: `> 0`, `= words`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl Scenario {
    /// Reads a scenario's file.
    pub fn read(name: &str) -> Self {
        let path = folder().join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Names of all files.
    pub fn names_of_files() -> Vec<String> {
        let entries = std::fs::read_dir(folder()).expect("the folder of scenarios");
        let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
        let files = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    }
}

impl Expect {
    /// Whether it is about this run.
    pub fn is_for(&self, run: &str) -> bool {
        self.runs.is_empty() || self.runs.iter().any(|name| name == run)
    }
}

impl Default for Server {
    fn default() -> Self {
        let program = "server".to_owned();
        Self { program, args: Vec::new(), unix: false, cpu: None, quota_ms: None, disk_reads: None }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self { program: "client".to_owned(), args: Vec::new(), cpu: None, host: None }
    }
}

fn folder() -> PathBuf {
    repository().join("tests/scenarios")
}

fn both() -> Vec<End> {
    vec![End::Client, End::Server, End::Downstream]
}

fn http() -> String {
    "http".to_owned()
}

fn one() -> usize {
    1
}

fn tenth() -> f64 {
    0.1
}

fn all() -> f64 {
    1.0
}
