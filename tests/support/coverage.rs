//! How far the agent says that it sees what processes do by TLS.

use std::time::Duration;

use serde_json::Value;

use crate::{
    agent::{Agent, binary},
    clock,
    process::Launch,
};

const BOUND: Duration = Duration::from_secs(20);

/// Waits until the agent says that it sees what this process does by TLS, by a library whose name and path begin so.
pub fn wait_until_covered(agent: &Agent, pid: u32, library: &str) {
    clock::wait_for(&format!("{library} of process {pid} is probed"), BOUND, || {
        let status = agent.status();
        let processes = status["tls"].as_array().expect("a list of processes");
        let covered = |it: &&Value| {
            let by = it["covered_by"].as_array().expect("what it is covered by");
            it["pid"] == pid && by.iter().any(|by| by.as_str().is_some_and(|by| by.starts_with(library)))
        };
        processes.iter().find(covered).map(drop)
    });
}

/// What `spantap conns` says of the TLS of a process's connections: `plaintext`, or why not.
pub fn of_connections(agent: &Agent, pid: u32) -> Vec<String> {
    let conns = agent.answer(["conns", "--json"]);
    let conns = conns.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    conns.filter(|conn| conn["pid"] == pid).filter_map(|conn| Some(conn["tls"].as_str()?.to_owned())).collect()
}

/// What `spantap check` says of the TLS of a program that runs: whether it is covered, and by what or why not.
pub fn checked(program: &str) -> Vec<(bool, String)> {
    // It looks through the files of all that runs on the host.
    let check = Launch::new(binary()).args(["check", "--json"]).stdout_piped().spawn();
    let text = check.finish(Duration::from_secs(300));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let about = lines.filter(|line| line["about"] == "tls" && line["name"].as_str() == Some(program));
    about.map(|line| (line["ok"] == true, line["detail"].as_str().unwrap_or_default().to_owned())).collect()
}
