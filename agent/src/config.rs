//! Configuration: one YAML file, the environment and flags.
//!
//! In: flags, `SPANTAP_*` variables, a file. Out: one checked [`Config`], and where each value came from. Precedence:
//! flag, then environment, then file, then default. Called by `spantap run` and `spantap config`. Never opens a
//! connection and never reads the files that headers and certificates name; `export` does when it starts.
//!
//! A list given by a stronger source replaces the whole list. Unknown keys fail with the nearest valid name.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod auth;
mod destination;
mod expected;
mod file;
pub mod flags;
mod layers;
mod push;
mod receive;
mod relay;
mod show;
mod units;
mod url;
mod validate;

#[cfg(test)]
mod samples;

pub use self::{
    auth::{AccessKey, Auth, Basic, Bearer, ClientAuth, OAuth2, Secret},
    destination::{
        Batch, Compression, Destination, Encoding, Exhausted, Export, HeaderValue, Kafka, OnSymptom, Pace, Retry,
        Rotation, S3, Sampling, Sasl, Segments, TailSampling, Tls,
    },
    file::check,
    flags::RunArgs,
    layers::{Loaded, Source},
    push::Push,
    receive::{Address, Quota, Receive, ReceiveTls, Tenant},
    relay::{Durability, Filter, Match, MatchKind, MatchStatus, Redact, Relay, matches, shape},
    show::{schema, show},
    units::{Interval, Size},
    url::{Protocol, Transport, Url},
};
pub use crate::{
    kernel::attach::{Rung, SyscallHooks},
    log::Overflow,
};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "spantap configuration")]
pub struct Config {
    /// Folder of the span log. Created with mode 0750 if missing.
    pub data_dir: PathBuf,
    /// Unix socket that the reading commands talk to.
    pub socket: PathBuf,
    /// `host.name` of every span; the host's own name by default.
    pub host_name: Option<String>,
    /// `k8s.node.name` of every span, on a node of Kubernetes.
    pub node_name: Option<String>,
    /// What is recorded.
    #[serde(deserialize_with = "or_default")]
    pub capture: Capture,
    /// What is taken out of spans before they are stored.
    #[serde(deserialize_with = "or_default")]
    pub redaction: Redaction,
    /// What is done with spans of SDKs and other agents before they are stored.
    #[serde(deserialize_with = "or_default")]
    pub relay: Relay,
    /// How connections and exchanges are put together.
    #[serde(deserialize_with = "or_default")]
    pub assembly: Assembly,
    /// The span log.
    #[serde(deserialize_with = "or_default")]
    pub log: Log,
    /// Receivers of spans that others made.
    #[serde(deserialize_with = "or_default")]
    pub receive: Receive,
    /// Destinations.
    #[serde(deserialize_with = "or_default")]
    pub export: Export,
    /// The agent's own metrics and health.
    #[serde(deserialize_with = "or_default")]
    pub metrics: Metrics,
    /// The agent's own messages on standard error.
    #[serde(deserialize_with = "or_default")]
    pub diagnostics: Diagnostics,
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Capture {
    /// Off: nothing is captured, and no privilege is needed. For a sidecar, collector or gateway, which only relays.
    pub enabled: bool,
    /// Payload bytes captured per read or write of what is selected; at most 8192. Of a call that looks as if it began a
    /// message of a known protocol, and of datagrams from and to port 53, up to 8192 are captured, so that heads, pipelines
    /// and DNS answers are whole. 0 turns payload off.
    pub payload_bytes_max: u32,
    /// Buffer between kernel and agent, which the CPUs share out; a power of two, at least 64KiB. Records that find it
    /// full are lost, and counted.
    pub ring_bytes: Size,
    /// Connections tracked in the kernel at the same time, each about 1.5KiB. With the defaults all kernel maps together
    /// take less than 21MiB.
    pub connections_max: u32,
    /// Threads tracked in the kernel at the same time.
    pub threads_max: u32,
    /// Which system calls run the kernel programs: `sockets`, only those that no single socket tells of, so that files cost nothing (needs
    /// Linux 6.3, and is `every` before and on Linux 7); `every`; or `io`, only those that move bytes. docs/performance.md has the figures.
    pub syscall_hooks: SyscallHooks,
    /// Most of all CPUs' time, in percent, that kernel programs and the agent's capture may take together. Beyond it detail is left out
    /// step by step (what is not selected, if anything is; payload; run_queue and off_cpu times; half, three quarters, seven
    /// eighths of new connections), and comes back afterwards; `spantap status` says so. What no step would lower does not count:
    /// answering queries, receiving and exporting, and the least that the hooks of system calls take of every call of the host;
    /// `spantap self` shows all of it. 0: no limit.
    pub max_cpu_percent: u32,
    /// Select everything.
    pub select_all: bool,
    /// What is traced in full: payload, and so protocols.
    #[serde(deserialize_with = "or_default")]
    pub select: Rules,
    /// Of what nothing is recorded. Stronger than `select`.
    #[serde(deserialize_with = "or_default")]
    pub exclude: Rules,
    /// What is recorded of everything else.
    pub unselected: Unselected,
    /// Exchanges of everything else that become spans, about as many a second, chosen at random, so that the log has room for what is
    /// selected; as many again that failed or took 100 ms. Others are counted (`unselected_rate` of `spantap losses`). Of an exchange
    /// with something that is selected on this host, every one does. 0: all.
    pub unselected_spans_per_second: u32,
    /// The only rung of the attach ladder to try; by hidden flag only.
    #[serde(skip)]
    pub attach: Option<Rung>,
    /// Hooks left detached; by hidden flag only.
    #[serde(skip)]
    pub without_hooks: Vec<String>,
}

/// What a selection names. Any rule that matches is enough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Cgroup paths, children included.
    #[serde(deserialize_with = "or_default")]
    pub cgroup: Vec<PathBuf>,
    /// Process ids, children included.
    #[serde(deserialize_with = "or_default")]
    pub pid: Vec<u32>,
    /// Globs of executable paths.
    #[serde(deserialize_with = "or_default")]
    pub exe: Vec<String>,
    /// Local or remote ports.
    #[serde(deserialize_with = "or_default")]
    pub port: Vec<u16>,
    /// Network namespaces, as paths.
    #[serde(deserialize_with = "or_default")]
    pub netns: Vec<PathBuf>,
    /// Containers: globs of their names, or the beginning of an identifier (12 digits or more).
    #[serde(deserialize_with = "or_default")]
    pub container: Vec<String>,
    /// Pods of Kubernetes: globs of `namespace/pod`.
    #[serde(deserialize_with = "or_default")]
    pub pod: Vec<String>,
}

/// What is recorded of what no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unselected {
    /// Sizes and times, no payload.
    #[default]
    Timing,
    /// Nothing.
    None,
}

impl Unselected {
    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timing => "timing",
            Self::None => "none",
        }
    }
}

/// What is taken out of spans before they are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redaction {
    /// Ids, tokens and numbers in `url.path`.
    pub paths: Paths,
    /// Routes that are known, as `/order/{id}`; `*` as the last segment stands for any rest. The first that matches a path is
    /// its template; other paths are judged by what their segments look like.
    pub routes: Vec<String>,
    /// Different span names that one service may have; beyond it they become `{other}`, and are counted. 0: any number.
    pub names_per_service_max: usize,
    /// Keys of Redis: nothing is told of them, or a hash of a command's first one, by a secret that each start of the agent makes anew.
    pub redis_keys: RedisKeys,
}

impl Default for Redaction {
    fn default() -> Self {
        Self { paths: Paths::Redact, routes: Vec::new(), names_per_service_max: 500, redis_keys: RedisKeys::Drop }
    }
}

/// What is told of keys of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RedisKeys {
    /// Nothing.
    #[default]
    Drop,
    /// `spantap.redis.key.hash`: equal for equal keys, as long as the agent runs.
    Hash,
}

/// What happens to ids, tokens and numbers in paths. Query and header values are never kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// They become `{id}` and the like.
    #[default]
    Redact,
    /// They stay.
    Keep,
}

/// How connections and exchanges are put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Assembly {
    /// Connections followed at the same time; the longest idle one is forgotten at the limit, and counted.
    pub connections_max: usize,
    /// Silence that ends an exchange of a protocol that is not understood.
    pub idle_exchange: Interval,
}

/// The span log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Size at which the oldest spans are deleted, delivered or not; undelivered ones are counted as dropped.
    pub max_bytes: Size,
    /// Age at which spans are deleted.
    pub max_age: Interval,
    /// Time between writes to stable storage: what a power failure may cost of this host's own spans. A crash of the agent alone
    /// costs nothing, and relayed spans are acknowledged by `receive.durability`.
    pub fsync_interval: Interval,
    /// What happens when the log is full of relayed spans that destinations have not taken.
    pub overflow: Overflow,
    /// Most of the log, in percent, that relayed spans which a destination waits for may take.
    pub relayed_percent_max: u32,
    /// Size at which the dead letters of a destination are full: it then waits with spans that it refuses.
    pub dead_letters_max_bytes: Size,
}

/// The agent's own metrics and health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where /metrics, /healthz and /readyz are served, as `ip:port`; nowhere by default.
    #[serde(deserialize_with = "listen_address")]
    #[schemars(with = "Option<String>")]
    pub address: Option<SocketAddr>,
    /// Receivers of OTLP that the metrics are sent to; none by default.
    #[serde(deserialize_with = "or_default")]
    pub push: Vec<Push>,
}

/// The agent's own messages on standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Diagnostics {
    /// Least severe level shown.
    pub level: Level,
    /// Form of a line.
    pub format: Format,
}

/// Severity of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The agent cannot do its work.
    Error,
    /// Something is lost or degraded.
    Warn,
    /// Start, stop, and changes of state.
    #[default]
    Info,
    /// For developers.
    Debug,
    /// For developers, much.
    Trace,
}

/// Form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/spantap".into(),
            socket: "/run/spantap/spantap.sock".into(),
            host_name: None,
            node_name: None,
            capture: Capture::default(),
            redaction: Redaction::default(),
            relay: Relay::default(),
            assembly: Assembly::default(),
            log: Log::default(),
            receive: Receive::default(),
            export: Export::default(),
            metrics: Metrics::default(),
            diagnostics: Diagnostics::default(),
        }
    }
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            enabled: true,
            payload_bytes_max: 1024,
            ring_bytes: Size::mib(2),
            connections_max: 5_120,
            threads_max: 8_192,
            syscall_hooks: SyscallHooks::default(),
            max_cpu_percent: 5,
            select_all: false,
            select: Rules::default(),
            exclude: Rules::default(),
            unselected: Unselected::Timing,
            unselected_spans_per_second: 100,
            attach: None,
            without_hooks: Vec::new(),
        }
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Self { connections_max: 65_536, idle_exchange: Interval::secs(1) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_bytes: Size::mib(1024),
            max_age: Interval::secs(24 * 3600),
            fsync_interval: Interval::secs(1),
            overflow: Overflow::Refuse,
            relayed_percent_max: 75,
            dead_letters_max_bytes: Size::mib(256),
        }
    }
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self { level: Level::Info, format: Format::Text }
    }
}

impl Config {
    /// The effective configuration. `environment` is what `std::env::vars()` gives.
    pub fn load(args: &RunArgs, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Loaded::load(args, environment).map(|loaded| loaded.config)
    }
}

impl Config {
    /// Keys whose values differ; whole lists, never values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (layers::leaves(self), layers::leaves(other));
        let keys: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key)).cloned().collect()
    }

    /// The same for the same configuration, on every host and in every run: what names the host is left out. Says nothing about its content.
    pub fn hash(&self) -> u64 {
        let everywhere = Self { host_name: None, node_name: None, ..self.clone() };
        let text = serde_json::to_string(&everywhere).unwrap_or_default();
        // FNV-1a: nobody attacks it, and a change of one value has to show.
        text.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

/// Why there is no configuration. Every message says where and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {cause}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is not YAML, or a value is of the wrong type.
    #[error("{}: {message}", at(path, line))]
    Invalid {
        /// File.
        path: PathBuf,
        /// Line, if known.
        line: Option<u64>,
        /// What is wrong.
        message: String,
    },
    /// The file has keys that do not exist.
    #[error("{}: {}", at(path, line), keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    UnknownKeys {
        /// File.
        path: PathBuf,
        /// Line of the first one, if known.
        line: Option<u64>,
        /// The keys.
        keys: Vec<UnknownKey>,
    },
    /// An environment variable has a value that does not fit.
    #[error("environment variable {name}: {message}")]
    Environment {
        /// Name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A flag has a value that does not fit.
    #[error("flag {flag}: {message}")]
    Flag {
        /// Flag.
        flag: String,
        /// What is wrong.
        message: String,
    },
    /// Each value is well-formed, but not usable, alone or together.
    #[error("{}", problems.join("; "))]
    Unusable {
        /// Each one with its key and source.
        problems: Vec<String>,
    },
}

/// A key that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// Where, for example `export.destinations[0].urll`.
    pub path: String,
    /// The valid name that looks most like it, if any does.
    pub nearest: Option<String>,
    /// Every valid name there.
    pub valid: Vec<String>,
}

impl std::fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.nearest {
            Some(nearest) => write!(f, "unknown key `{}`, did you mean `{nearest}`?", self.path),
            None => write!(f, "unknown key `{}`, valid are {}", self.path, self.valid.join(", ")),
        }
    }
}

/// A key without a value, as when everything below it is commented out, is the default.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn listen_address<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let bad = |text: &str| format!("`{text}` is no address; write for example 127.0.0.1:9464 or [::]:9464");
    text.map(|text| text.parse().map_err(|_| serde::de::Error::custom(bad(&text)))).transpose()
}

fn at(path: &std::path::Path, line: &Option<u64>) -> String {
    match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    }
}

/// The name that looks most like `given`, if one is near enough to be a slip.
fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
