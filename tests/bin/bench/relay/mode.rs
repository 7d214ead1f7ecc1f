//! The relays that are compared, each a process of its own between the sender and the sink.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use spantap_tests::{
    agent::binary,
    clock,
    http::actor,
    process::{Launch, Process},
    rotel::Rotel,
    temp::{TempDir, free_port},
};

const START_BOUND: Duration = Duration::from_secs(20);
const NO_REDACTION: &str = "redact: { sensitive_keys: false, patterns: false, queries: false, statements: false }";
const WRITTEN: &str = "durability: written";
const WRITTEN_NO_REDACTION: &str = "durability: written, \
    redact: { sensitive_keys: false, patterns: false, queries: false, statements: false }";
const ENRICHED: &str = "attributes: [deployment.environment.name=production, host.name=bench, cloud.region=none], \
                        semantic_conventions: true, sampling_ratio: 0.5";

/// A relay and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Decode and encode, no network.
    ProstAlone,
    /// Bytes handed on.
    Bytes,
    /// The same, decoded and encoded between.
    Prost,
    /// rotel, which always compresses.
    Rotel,
    /// The agent, with these settings below `relay` and of the destination.
    Agent(&'static str, &'static str),
}

/// All of them: their names for `modes=`, and in the tables.
pub const ALL: [(&str, &str, Mode); 11] = [
    ("prost", "prost decode and encode, no network", Mode::ProstAlone),
    ("bytes", "bytes handed on", Mode::Bytes),
    ("bytes_prost", "bytes handed on through prost", Mode::Prost),
    ("rotel", "rotel, gzip", Mode::Rotel),
    ("agent", "agent as it ships", Mode::Agent("", "")),
    ("written", "agent, written", Mode::Agent(WRITTEN, "")),
    ("plain", "agent, no redaction", Mode::Agent(NO_REDACTION, "")),
    ("written_plain", "agent, written, no redaction", Mode::Agent(WRITTEN_NO_REDACTION, "")),
    ("gzip", "agent, gzip", Mode::Agent("", "compression: gzip")),
    ("zstd", "agent, zstd", Mode::Agent("", "compression: zstd")),
    ("enriched", "agent, enriched, half sampled", Mode::Agent(ENRICHED, "")),
];

/// A relay that runs.
pub struct Relay {
    /// Where it receives OTLP/HTTP.
    pub address: SocketAddr,
    running: Running,
}

enum Running {
    Process(Process, Option<TempDir>),
    Rotel(Rotel),
}

impl Mode {
    /// Whether a part of the spans stays behind on purpose.
    pub fn is_sampling(self) -> bool {
        matches!(self, Self::Agent(relay, _) if relay.contains("sampling"))
    }

    /// Whether it compresses what it sends on.
    pub fn is_compressing(self) -> bool {
        self == Self::Rotel || matches!(self, Self::Agent(_, destination) if destination.contains("compression"))
    }

    /// Starts the relay and waits until it listens.
    pub fn start(self, sink: SocketAddr) -> Relay {
        match self {
            Self::ProstAlone => panic!("this is no relay"),
            Self::Bytes => forward(sink, false),
            Self::Prost => forward(sink, true),
            Self::Rotel => {
                let rotel = Rotel::relaying(&format!("http://{sink}"));
                Relay { address: loopback(rotel.http_port()), running: Running::Rotel(rotel) }
            }
            Self::Agent(relay, destination) => agent(sink, &format!("relay: {{ {relay} }}"), destination),
        }
    }
}

impl Relay {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        match &self.running {
            Running::Process(_, Some(folder)) => folder.path(),
            _ => panic!("only an agent has one"),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        match &self.running {
            Running::Process(process, _) => process.pid(),
            Running::Rotel(rotel) => rotel.pid(),
        }
    }
}

fn forward(sink: SocketAddr, is_recoding: bool) -> Relay {
    let launch = actor("forward").arg(format!("to={sink}")).arg(format!("prost={}", u8::from(is_recoding)));
    let mut process = launch.stdout_piped().spawn();
    let mut line = String::new();
    BufReader::new(process.stdout()).read_line(&mut line).expect("the relay says where it listens");
    let address = line.trim().strip_prefix("ready ").and_then(|address| address.parse().ok());
    Relay { address: address.expect("an address"), running: Running::Process(process, None) }
}

/// The agent with this configuration, and this of the destination.
pub fn agent(sink: SocketAddr, config: &str, destination: &str) -> Relay {
    let (folder, address) = (TempDir::new("relay"), loopback(free_port()));
    let config = format!(
        "{config}\nexport:\n  destinations:\n    - {{ name: sink, url: \"otlp+http://{sink}/v1/traces\", {destination} }}\n"
    );
    let config = folder.write("spantap.yaml", config);
    let launch = Launch::new(binary()).args(["run", "--no-capture", "--config"]).arg(config);
    let launch = launch.arg("--data-dir").arg(folder.join("data")).arg("--socket").arg(folder.join("s.sock"));
    let launch = launch.arg("--receive-otlp-http").arg(address.to_string());
    let mut process = launch.stdout_to(&folder.join("stdout")).stderr_to(&folder.join("stderr")).spawn();
    clock::wait_for("the agent listens", START_BOUND, || {
        let said = || std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        assert!(process.ended().is_none(), "the agent ended:\n{}", said());
        TcpStream::connect(address).ok()
    });
    Relay { address, running: Running::Process(process, Some(folder)) }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
