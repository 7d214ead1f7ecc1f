//! `spantap spans --follow`, each line with the moment of its arrival.

use std::{
    io::{BufRead, BufReader},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    agent::{Agent, binary},
    clock,
    process::{Launch, Process},
    span::Span,
};

/// A running `spans --follow --json`.
pub struct Follow {
    lines: Arc<Mutex<Vec<(u64, String)>>>,
    _process: Process,
}

impl Follow {
    /// Starts following.
    pub fn start(agent: &Agent) -> Self {
        let mut process = Launch::new(binary())
            .args(["spans", "--follow", "--json", "--socket"])
            .arg(agent.socket())
            .stdout_piped()
            .spawn();
        let stdout = process.stdout();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let now = clock::monotonic_ns();
                sink.lock().expect("lines of follow").push((now, line));
            }
        });
        Self { lines, _process: process }
    }

    /// What has come so far: arrival in nanoseconds of `CLOCK_MONOTONIC`, and the span.
    pub fn spans(&self) -> Vec<(u64, Span)> {
        let lines = self.lines.lock().expect("lines of follow");
        lines.iter().map(|(at, line)| (*at, Span::parse(line))).collect()
    }

    /// Waits until `enough` says so, and gives what has come.
    pub fn wait_for(&self, what: &str, bound: Duration, enough: impl Fn(&[(u64, Span)]) -> bool) -> Vec<(u64, Span)> {
        clock::wait_for(what, bound, || {
            let spans = self.spans();
            enough(&spans).then_some(spans)
        })
    }
}
