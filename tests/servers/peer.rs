//! A script of Python that serves, and the same script as its client, in an environment of its own packages.

use std::io::{BufRead, BufReader};

use spantap_tests::{process::Process, python::script_of, temp::TempDir, traced::Traced};

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
