//! The reading commands, as a user runs them, against a real socket and a real log. No root.

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use agent::{
    log::{LogConfig, SpanLog},
    query::{
        api::{ConnView, DestinationStatus, HookStatus, Live, Loss, ProgramCost, SelfReport, StatusReport},
        server::{BindError, QuerySocket},
    },
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};

struct FixedFacts;

impl Live for FixedFacts {
    fn status(&self) -> StatusReport {
        StatusReport {
            version: "9.9.9".to_owned(),
            pid: 7,
            hooks: vec![HookStatus { name: "sched_switch".to_owned(), attached: true, ..Default::default() }],
            destinations: vec![DestinationStatus {
                name: "a".to_owned(),
                url: "otlp+grpc://x:1".to_owned(),
                ..Default::default()
            }],
            losses: vec![Loss { source: "kernel cpu 0".to_owned(), reason: "ring_full".to_owned(), count: 5 }],
            ..Default::default()
        }
    }

    fn connections(&self) -> Result<Vec<ConnView>, String> {
        let conn = |id, retransmits_total| ConnView {
            id,
            peer: format!("10.0.0.{id}:80"),
            retransmits_total,
            ..Default::default()
        };
        Ok(vec![conn(1, 5), conn(2, 7), conn(3, 0)])
    }

    fn measure(&self, window: Duration) -> SelfReport {
        let program = ProgramCost { hook: "tcp_probe".to_owned(), means: "tp_btf".to_owned(), runs: 10, run_ns: 1_000 };
        SelfReport { window_ns: window.as_nanos() as u64, cpus: 2, programs: vec![program], ..Default::default() }
    }
}

/// A server with a log, and what ends it.
struct Agent {
    dir: TempDir,
    log: SpanLog,
    runtime: Runtime,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Agent {
    fn start() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let log = SpanLog::open(&dir.path().join("data"), LogConfig::default()).expect("the log opens");
        let mut agent = Self { dir, log, runtime, serving: None };
        agent.serve();
        agent
    }

    fn serve(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (path, log) = (self.socket(), self.log.clone());
        let _guard = self.runtime.enter();
        let socket = QuerySocket::bind(&path, None).expect("the socket is free");
        let serving = self.runtime.spawn(async move {
            let shutdown = async { drop(stopped.await) };
            socket.serve(log, Arc::new(FixedFacts), shutdown).await.expect("it serves");
        });
        self.serving = Some((stop, serving));
    }

    fn stop(&mut self) {
        let (stop, serving) = self.serving.take().expect("it was started");
        stop.send(()).expect("it still serves");
        self.runtime.block_on(serving).expect("no panic");
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run").join("s.sock")
    }

    fn command(&self, args: &[&str]) -> Command {
        command(&self.socket(), args)
    }

    #[track_caller]
    fn answer(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("it starts");
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Vec<Value> {
        let answer = self.answer(&[args, &["--json"]].concat());
        answer
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The numbers of the spans that a command prints.
    #[track_caller]
    fn numbers(&self, args: &[&str]) -> Vec<u64> {
        self.json(args).iter().map(number).collect()
    }
}

fn number(line: &Value) -> u64 {
    u64::from_str_radix(line["span_id"].as_str().expect("an id"), 16).expect("hexadecimal")
}

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spantap"));
    command.args(args).arg("--socket").arg(socket).env_remove("SPANTAP_SOCKET");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn failure(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// Ends a child that follows for ever, also when the test fails.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn spans_are_filtered_limited_and_ordered() {
    let agent = Agent::start();
    for number in 1..=6 {
        agent.log.append(&[common::span(number, number * 1_000_000)]).expect("appends");
    }
    assert_eq!(agent.numbers(&["spans"]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(agent.numbers(&["spans", "--limit", "0"]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(agent.numbers(&["spans", "--limit", "2"]), [5, 6], "the newest ones");
    assert_eq!(agent.numbers(&["spans", "--kind", "client"]), [2, 4, 6]);
    assert_eq!(agent.numbers(&["spans", "--min-duration", "5ms"]), [5, 6]);
    assert_eq!(agent.numbers(&["spans", "--peer", "10.0.0.2", "--service", "shop", "--protocol", "http"]).len(), 6);
    assert_eq!(agent.numbers(&["spans", "--peer", "10.0.0.3"]), [] as [u64; 0]);
    assert_eq!(agent.numbers(&["spans", "--status", "error"]), [] as [u64; 0]);
    assert_eq!(agent.numbers(&["spans", "--since", "2025-01-31T12:00:00.003Z"]), [3, 4, 5, 6], "by their end");
    assert_eq!(agent.numbers(&["spans", "--since", "1m"]), [] as [u64; 0]);
    assert_eq!(agent.numbers(&["slow", "--limit", "3"]), [6, 5, 4]);
    assert_eq!(agent.numbers(&["slow", "--limit", "0"]), [6, 5, 4, 3, 2, 1], "all of them, in the same order");
    assert_eq!(agent.numbers(&["spans", "--cause", "network_delay"]), [3, 6]);
    assert_eq!(agent.numbers(&["slow", "--cause", "remote_slow", "--limit", "2"]), [5, 4]);
    let unknown = failure(&agent.command(&["spans", "--cause", "remote"]).output().expect("it starts"));
    assert!(unknown.contains("remote_slow"), "the ids that there are: {unknown}");
}

#[test]
fn groups_say_how_many_spans_took_how_long_where() {
    let agent = Agent::start();
    for number in 1..=6 {
        agent.log.append(&[common::span(number, number * 1_000_000)]).expect("appends");
    }
    let groups = |args: &[&str]| agent.json(&[&["top", "--since", "2025-01-01T00:00:00Z"], args].concat());
    let default = groups(&[]);
    assert_eq!(default.len(), 2, "{default:?}");
    let names = serde_json::json!({ "service": "shop", "kind": "client", "name": "GET /orders" });
    assert_eq!((&default[0]["group"], &default[0]["spans"], number_of(&default[0])), (&names, &Value::from(3), 6));
    assert_eq!(default[0]["duration_ns"]["total"], 12_000_000);
    assert_eq!(default[0]["duration_ns"]["max"], 6_000_000);
    assert_eq!(default[0]["segments"][0]["name"], "remote");
    assert_eq!(default[0]["segments"][0]["measured_ns"], 12_000_000);
    assert_eq!((&default[1]["group"]["kind"], number_of(&default[1])), (&Value::from("server"), 5));
    let spans = |groups: Vec<Value>| groups.iter().map(|group| group["spans"].as_u64()).collect::<Vec<_>>();
    assert_eq!(spans(groups(&["--by", "cause"])), [Some(4), Some(2)]);
    assert_eq!(spans(groups(&["--by", "cause,kind", "--sort", "max", "--limit", "1"])), [Some(1)]);
    assert_eq!(spans(groups(&["--by", "peer", "--kind", "client"])), [Some(3)]);
    assert_eq!(groups(&["--by", "absent"])[0]["group"]["absent"], Value::Null);
    let table = agent.answer(&["top", "--since", "2025-01-01T00:00:00Z"]);
    assert!(table.contains("remote 100.0 %") && table.contains("spantap why 0000000000000006 --socket"), "{table}");
    let recent = agent.answer(&["top"]);
    assert!(recent.contains("no span that ended"), "only of the last ten minutes: {recent}");
}

fn number_of(group: &Value) -> u64 {
    u64::from_str_radix(group["slowest_span_id"].as_str().expect("an id"), 16).expect("hexadecimal")
}

#[test]
fn connections_are_sorted_and_limited() {
    let agent = Agent::start();
    let ids = |args: &[&str]| -> Vec<u64> {
        agent.json(args).iter().map(|line| line["id"].as_u64().expect("an id")).collect()
    };
    assert_eq!(ids(&["conns"]), [3, 2, 1]);
    assert_eq!(ids(&["conns", "--sort", "retransmits", "--limit", "2"]), [2, 1]);
    assert_eq!(ids(&["conns", "--peer", "10.0.0.1"]), [1]);
    assert!(agent.answer(&["conns", "--limit", "1"]).contains("and 2 more"));
}

#[test]
fn a_span_and_its_trace_are_found_by_leading_digits() {
    let agent = Agent::start();
    agent
        .log
        .append(&[common::span(0xabcd_0000_0000_0001, 10), common::span(0xabce_0000_0000_0002, 20)])
        .expect("appends");
    assert_eq!(agent.numbers(&["trace", "ABCD0"]), [0xabcd_0000_0000_0001]);
    let why = agent.json(&["why", "abce000000000002"]);
    assert_eq!(why[0]["verdict"]["segment"], "remote");
    let words = agent.answer(&["why", "abcd"]);
    assert!(words.contains("verdict: remote_slow: ") && words.contains("100.0 %"), "{words}");
    let ambiguous = failure(&agent.command(&["trace", "abc"]).output().expect("it starts"));
    assert!(ambiguous.contains("at least 4"), "{ambiguous}");
    let unknown = failure(&agent.command(&["trace", "0123456789"]).output().expect("it starts"));
    assert!(unknown.contains("no trace or span 0123456789"), "{unknown}");
}

#[test]
fn digits_that_name_several_traces_are_refused_with_their_names() {
    let agent = Agent::start();
    agent
        .log
        .append(&[common::span(0xabcd_0000_0000_0001, 10), common::span(0xabcd_0000_0000_0002, 20)])
        .expect("appends");
    let message = failure(&agent.command(&["why", "abcd"]).output().expect("it starts"));
    assert!(message.contains("names 2 traces") && message.contains("abcd000000000001"), "{message}");
}

#[test]
fn following_shows_new_spans_and_ends_with_the_agent() {
    let mut agent = Agent::start();
    agent.log.append(&[common::span(1, 10)]).expect("appends");
    let mut child = agent.command(&["spans", "--follow", "--json"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut following = Following(child);
    // The command may not be following yet: append until it shows something; from then on it must show everything.
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            sender.send(number(&line)).expect("the test waits");
        }
    });
    let mut appended = 1;
    let first = (0..1_000).find_map(|_| {
        appended += 1;
        agent.log.append(&[common::span(appended, 10)]).expect("appends");
        receiver.recv_timeout(std::time::Duration::from_millis(20)).ok()
    });
    let first = first.expect("a new span is shown");
    assert!(first > 1, "only new ones are asked for");
    agent.log.append(&[common::span(1_000_000, 10)]).expect("appends");
    let mut shown = first;
    while shown < 1_000_000 {
        let next = receiver.recv_timeout(std::time::Duration::from_secs(30)).expect("the next span is shown");
        assert!(next == shown + 1 || (next == 1_000_000 && shown == appended), "{next} after {shown}");
        shown = next;
    }
    agent.stop();
    following.0.wait().expect("it ended with the agent");
    reader.join().expect("no panic");
}

#[test]
fn following_with_since_shows_the_past_once_and_goes_on() {
    let agent = Agent::start();
    agent.log.append(&[common::span(1, 10), common::span(2, 10)]).expect("appends");
    let args = ["spans", "--follow", "--json", "--since", "2020-01-01T00:00:00Z"];
    let mut child = agent.command(&args).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let _following = Following(child);
    let mut next = || {
        let line = lines.next().expect("a line").expect("text");
        number(&serde_json::from_str(&line).expect("JSON"))
    };
    assert_eq!((next(), next()), (1, 2));
    agent.log.append(&[common::span(3, 10)]).expect("appends");
    assert_eq!(next(), 3);
}

#[test]
fn status_and_losses_join_live_facts_with_the_log() {
    let agent = Agent::start();
    let cursor = agent.log.cursor("a", Default::default()).expect("a cursor");
    agent.log.append(&[common::span(1, 10), common::span(2, 10)]).expect("appends");
    let status = &agent.json(&["status"])[0];
    assert_eq!((&status["version"], &status["pid"]), (&Value::from("9.9.9"), &Value::from(7)));
    assert_eq!(status["destinations"][0]["queued"], 2);
    assert_eq!(status["destinations"][0]["url"], "otlp+grpc://x:1");
    assert_eq!(status["log"]["spans_appended"], 2);
    assert!(agent.answer(&["status"]).contains("1 of 1 attached"));
    let losses = agent.json(&["losses"]);
    assert_eq!(losses.len(), 1, "only what is not zero: {losses:?}");
    assert_eq!((&losses[0]["reason"], &losses[0]["count"]), (&Value::from("ring_full"), &Value::from(5)));
    drop(cursor);
}

#[test]
fn without_an_agent_the_message_names_the_socket_and_the_remedy() {
    let dir = TempDir::new().expect("a temporary folder");
    let socket = dir.path().join("nobody.sock");
    for args in [
        &["status"][..],
        &["spans"],
        &["slow"],
        &["top"],
        &["conns"],
        &["trace", "abcd"],
        &["why", "abcd"],
        &["losses"],
    ] {
        let message = failure(&command(&socket, args).output().expect("it starts"));
        assert!(
            message.contains(&socket.display().to_string()) && message.contains("spantap run"),
            "{args:?}: {message}"
        );
        assert!(message.contains("--no-capture --data-dir"), "how to read the log without it: {message}");
    }
}

#[test]
fn a_destination_that_is_not_known_is_told_with_those_that_are() {
    let dir = TempDir::new().expect("a temporary folder");
    let test = |args: &[&str]| {
        let mut command = command(&dir.path().join("nobody.sock"), &[&["export", "test", "backend"], args].concat());
        failure(&command.env_remove("SPANTAP_CONFIG").output().expect("it starts"))
    };
    let alone = test(&[]);
    assert!(alone.contains("without --config FILE") && alone.contains("nobody.sock"), "{alone}");
    let file = dir.path().join("spantap.yaml");
    std::fs::write(&file, "export: { destinations: [{ name: other, url: 'otlp+grpc://127.0.0.1:1' }] }")
        .expect("writes");
    let path = file.display().to_string();
    let named = test(&["--config", &path]);
    assert!(named.contains(&format!("known in {path}: other")), "{named}");
}

#[test]
fn an_agent_that_goes_away_while_it_is_asked_is_told_in_plain_words() {
    let dir = TempDir::new().expect("a temporary folder");
    let socket = dir.path().join("dying.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    // At once; after the request came; with an answer begun (the settings of HTTP/2).
    let begun: [&[u8]; 3] = [b"", b"", &[0, 0, 0, 4, 0, 0, 0, 0, 0]];
    let dying = std::thread::spawn(move || {
        for (turn, answer) in begun.into_iter().enumerate() {
            let (mut stream, _) = listener.accept().expect("a client");
            if turn > 0 {
                let _ = stream.write_all(answer).and_then(|()| stream.read(&mut [0; 1024]));
            }
        }
    });
    for args in [["spans"], ["status"], ["slow"]] {
        let message = failure(&command(&socket, &args).output().expect("it starts"));
        assert!(message.contains("ended before it had answered"), "{args:?}: {message}");
        assert!(!message.contains("h2") && !message.contains("transport"), "{args:?}: {message}");
    }
    dying.join().expect("no panic");
}

#[test]
fn the_socket_is_private_and_goes_with_the_agent() {
    let mut agent = Agent::start();
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&agent.socket()), 0o660);
    assert_eq!(mode(agent.socket().parent().expect("a folder")), 0o750);
    agent.stop();
    assert!(!agent.socket().exists());
    agent.serve();
    assert_eq!(agent.json(&["status"]).len(), 1);
}

#[test]
fn a_busy_path_is_refused_and_a_dead_socket_is_replaced() {
    let agent = Agent::start();
    let _guard = agent.runtime.enter();
    assert!(matches!(QuerySocket::bind(&agent.socket(), None), Err(BindError::Busy { .. })));
    let file = agent.dir.path().join("file");
    std::fs::write(&file, "mine").expect("writable");
    assert!(matches!(QuerySocket::bind(&file, None), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "mine");
    let dead = agent.dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    assert!(QuerySocket::bind(&dead, None).is_ok());
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let agent = Agent::start();
    for start in (0..5_000).step_by(500) {
        let spans: Vec<_> = (start..start + 500).map(|number| common::span(number, 10)).collect();
        agent.log.append(&spans).expect("appends");
    }
    let mut command = agent.command(&["spans", "--json", "--limit", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    drop(reader);
    let mut message = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut message).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(message, "");
}
