//! rotel, a real OTLP receiver: prints the spans it got, or relays them.

use std::{net::TcpStream, path::PathBuf, time::Duration};

use crate::{
    agent::repository,
    clock,
    process::{Launch, Process},
    temp::{TempDir, free_port},
};

/// A running rotel.
pub struct Rotel {
    process: Process,
    folder: TempDir,
    grpc_port: u16,
    http_port: u16,
}

/// A span as rotel prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// Hex.
    pub trace_id: String,
    /// Hex, empty if none.
    pub parent_id: String,
    /// Hex.
    pub span_id: String,
    /// Name.
    pub name: String,
    /// `SPAN_KIND_…`.
    pub kind: String,
    /// Unix nanoseconds.
    pub start_ns: u64,
    /// Unix nanoseconds.
    pub end_ns: u64,
}

impl Rotel {
    /// Starts it on free ports of loopback; it prints what it gets.
    pub fn start() -> Self {
        Self::with(&["--debug-log", "traces", "--debug-log-verbosity", "detailed", "--exporter", "blackhole"])
    }

    /// Starts it on free ports of loopback; it sends what it gets to `url` by OTLP/HTTP, with gzip: 0.0.1a15 does that whatever
    /// `--otlp-exporter-compression` and `--otlp-exporter-traces-compression` say, also `none`.
    pub fn relaying(url: &str) -> Self {
        Self::with(&["--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", url])
    }

    fn with(args: &[&str]) -> Self {
        let folder = TempDir::new("rotel");
        let (grpc_port, http_port) = (free_port(), free_port());
        let process = Launch::new(program())
            .arg("start")
            .args(args)
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc_port}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http_port}")])
            .arg("--pid-file")
            .arg(folder.join("pid"))
            .stdout_to(&folder.join("stdout"))
            .stderr_to(&folder.join("stderr"))
            .spawn();
        for port in [grpc_port, http_port] {
            clock::wait_for("rotel listens", Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", port)).ok());
        }
        Self { process, folder, grpc_port, http_port }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it receives OTLP/HTTP.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// For `--export`, by gRPC.
    pub fn grpc_url(&self) -> String {
        format!("otlp+grpc://127.0.0.1:{}", self.grpc_port)
    }

    /// For `--export`, by HTTP.
    pub fn http_url(&self) -> String {
        format!("otlp+http://127.0.0.1:{}/v1/traces", self.http_port)
    }

    /// Spans received so far.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        parse(&self.text())
    }

    /// Everything it printed.
    pub fn text(&self) -> String {
        ["stdout", "stderr"].map(|name| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()).concat()
    }
}

fn program() -> PathBuf {
    let library = repository().join(".cache/venv/lib");
    let versions = std::fs::read_dir(&library).into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("site-packages/rotel/rotel-agent"))
        .find(|path| path.exists())
        .expect("rotel is not installed; `cargo xtask setup --tests` installs it into .cache/venv")
}

fn parse(text: &str) -> Vec<ReceivedSpan> {
    let mut spans: Vec<ReceivedSpan> = Vec::new();
    for line in text.lines() {
        if line.starts_with("Span #") {
            spans.push(ReceivedSpan::default());
        }
        let (Some(span), Some((key, value))) = (spans.last_mut(), line.split_once(':')) else { continue };
        let value = value.trim();
        match key.trim() {
            "Trace ID" => span.trace_id = value.to_owned(),
            "Parent ID" => span.parent_id = value.to_owned(),
            "ID" => span.span_id = value.to_owned(),
            "Name" => span.name = value.to_owned(),
            "Kind" => span.kind = value.to_owned(),
            "Start time" => span.start_ns = value.parse().unwrap_or(0),
            "End time" => span.end_ns = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_from_the_debug_log() {
        let text = "ScopeSpans #0\nSpan #0\n    Trace ID       : 0102\n    Parent ID      : 0b0c\n    ID             : 0a\n    \
                    Name           : GET /x\n    Kind           : SPAN_KIND_CLIENT\nStart time: 10\nEnd time: 15\n";
        let expected = ReceivedSpan {
            trace_id: "0102".into(),
            parent_id: "0b0c".into(),
            span_id: "0a".into(),
            name: "GET /x".into(),
            kind: "SPAN_KIND_CLIENT".into(),
            start_ns: 10,
            end_ns: 15,
        };
        assert_eq!(parse(text), [expected]);
    }
}
