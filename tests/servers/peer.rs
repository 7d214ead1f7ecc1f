//! A script of Python that serves, and the same script as its client, in an environment of its own packages.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    time::Duration,
};

use spantap_tests::{process::Process, python::script_of, span::Span, temp::TempDir, traced::Traced};

use super::count;

const BOUND: Duration = Duration::from_secs(60);

/// The spans of each end that are `wanted`, as `told` says them, must be as many as the client says of each. Gives all spans.
pub(super) fn assert_told(
    traced: &Traced,
    truth: Vec<String>,
    wanted: impl Fn(&Span) -> bool,
    told: impl Fn(&Span) -> String,
) -> Vec<Span> {
    let of = |spans: &[Span], kind: &str| -> Vec<Span> {
        spans.iter().filter(|span| span.kind == kind && wanted(span)).cloned().collect()
    };
    let spans = traced.agent.wait_for("spans of all calls", BOUND, |spans| {
        ["client", "server"].iter().all(|kind| of(spans, kind).len() >= truth.len())
    });
    let truth = count(truth);
    for kind in ["client", "server"] {
        let seen: BTreeMap<String, usize> = count(of(&spans, kind).iter().map(&told));
        assert_eq!(seen, truth, "{kind} spans; losses: {:?}", traced.agent.losses());
    }
    let all = format!("{spans:?}");
    assert!(!all.contains("secret"), "{all}");
    spans
}

/// A running server.
pub(super) struct Peer {
    _process: Process,
    _folder: TempDir,
    environment: &'static str,
    script: &'static str,
    address: String,
}

impl Peer {
    /// Starts the script with a command; it prints the port on which it listens.
    pub(super) fn start(traced: &Traced, environment: &'static str, script: &'static str, command: &str) -> Self {
        let folder = TempDir::new("peer");
        let launch = script_of(environment, script).arg(command).stdout_piped().stderr_to(&folder.join("stderr"));
        let mut process = traced.place().apply(launch).spawn();
        let mut port = String::new();
        BufReader::new(process.stdout()).read_line(&mut port).expect("port of the server");
        let address = format!("127.0.0.1:{}", port.trim());
        Self { _process: process, _folder: folder, environment, script, address }
    }

    /// Runs the script as a client; gives the lines that it printed.
    pub(super) fn talk(&self, traced: &Traced, command: &str, rounds: usize) -> Vec<String> {
        let launch = script_of(self.environment, self.script).arg(command).arg(&self.address).arg(rounds.to_string());
        traced.place().apply(launch).run().lines().map(str::to_owned).collect()
    }
}
