//! A consumer of a destination, written with code of others: counts the numbered spans that it reads, and makes the destination fail.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;
use spantap_tests::{
    agent::{binary, repository},
    clock::{poll, wait_for},
    process::{Launch, Process},
    python,
    temp::{TempDir, free_port},
};

use crate::rig::{BOUND, Relay};

/// A running script of this folder that answers questions (`judge.py`).
pub struct Judge {
    folder: TempDir,
    port: u16,
    _process: Process,
}

impl Judge {
    /// Starts a script with the Python of this environment. Its first argument is the port for questions.
    pub fn start(environment: &str, script: &str, arguments: &[String]) -> Self {
        let (folder, port) = (TempDir::new("judge"), free_port());
        let process = Launch::new(python::program_of(environment, "python"))
            .arg(repository().join("tests/delivery").join(script))
            .arg(port.to_string())
            .args(arguments)
            .stdout_to(&folder.join("stdout"))
            .stderr_to(&folder.join("stderr"))
            .spawn();
        let judge = Self { folder, port, _process: process };
        if poll(BOUND, || judge.try_ask("seen")).is_none() {
            panic!("{script} does not answer: {}", judge.messages());
        }
        judge
    }

    /// What it says to a command.
    pub fn ask(&self, command: &str) -> Value {
        self.try_ask(command).unwrap_or_else(|| panic!("no answer to {command}: {}", self.messages()))
    }

    /// Waits until it has read spans 0 to `count`, and checks that nothing is wrong with them. Gives how many came twice.
    pub fn check(&self, what: &str, count: u64, relay: &Relay) -> u64 {
        let seen = poll(BOUND, || Some(self.ask("seen")).filter(|seen| seen["next"] == count));
        let seen = seen.unwrap_or_else(|| panic!("{what}: {}\n{}", self.ask("seen"), relay.messages()));
        let twice = seen["twice"].as_u64().expect("a number");
        println!("{what}: {count} acknowledged, {} delivered, {twice} twice", seen["spans"]);
        assert_eq!((&seen["spans"], &seen["leaks"]), (&count.into(), &0.into()), "{what}: {seen}");
        assert_eq!(seen["wrong"], Value::Array(Vec::new()), "{what}");
        twice
    }

    fn try_ask(&self, command: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(&answer).ok()
    }

    fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.join("stderr")).unwrap_or_default()
    }
}

/// Waits until a destination says this of its last failure.
pub fn wait_for_trouble(relay: &Relay, name: &str, parts: &[&str]) {
    wait_for(&format!("{name} says {parts:?}"), BOUND, || {
        let said = relay.destination(name)["last_error"].to_string();
        parts.iter().all(|part| said.contains(part)).then_some(())
    });
}

/// `spantap export test` of a destination of the running agent: whether it was taken, and what was said.
pub fn export_test(relay: &Relay, name: &str) -> (bool, String) {
    let output = Launch::new(binary()).args(["export", "test", name, "--socket"]).arg(relay.socket()).output();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.success(), said)
}
