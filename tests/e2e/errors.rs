//! What cannot work is refused with the cause and the next step; what can go on goes on and counts.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use spantap_tests::{
    agent::{Agent, AgentOptions, binary},
    clock,
    http::{Server, get, request},
    nginx::Nginx,
    process::{Launch, require_root, tool},
    span::Span,
    temp::{TempDir, free_port},
    tools::wrk,
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(20);

/// The agent with these options must end by itself, with another code than 0, and say all of these.
fn check_refused(options: &AgentOptions, said: &[&str]) {
    require_root();
    let mut agent = Agent::launch(options);
    let status = agent.process().wait(BOUND);
    assert!(!status.success() && status.code().is_some(), "ended with {status}: {}", agent.messages());
    assert_said(&agent.messages(), said);
}

fn assert_said(messages: &str, said: &[&str]) {
    for words in said {
        assert!(messages.contains(words), "`{words}` is not in:\n{messages}");
    }
    assert!(!messages.contains("panicked"), "{messages}");
}

fn requests(traced: &Traced, server: &Server, path: &str, count: u32) {
    let (path, count) = (format!("path={path}"), format!("count={count}"));
    request(traced.place(), &server.address, &[&path, &count]);
}

#[test]
fn a_missing_capability_is_named() {
    require_root();
    let folder = TempDir::new("caps");
    let output = Launch::new(tool("setpriv"))
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(binary())
        .args(["run", "--data-dir"])
        .arg(folder.join("data"))
        .arg("--socket")
        .arg(folder.join("run/s.sock"))
        .output();
    assert!(!output.status.success() && output.status.code().is_some(), "{output:?}");
    assert_said(&String::from_utf8_lossy(&output.stderr), &["CAP_BPF"]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let output = Launch::new(binary()).args(["run", "--config", "/nonexistent/spantap.yaml"]).output();
    assert!(!output.status.success(), "{output:?}");
    assert_said(&String::from_utf8_lossy(&output.stderr), &["/nonexistent/spantap.yaml", "No such file"]);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_valid_one() {
    let mut options = AgentOptions::none();
    options.config = "metrics:\n  adress: 127.0.0.1:9\n".into();
    check_refused(&options, &["metrics.adress", "did you mean `address`"]);
}

#[test]
fn a_second_agent_on_the_same_data_is_refused() {
    let folder = TempDir::new("second");
    let data_dir = Some(folder.join("data"));
    let options = AgentOptions { data_dir, ..AgentOptions::none() };
    let first = Agent::start(&options);
    check_refused(&options, &[&folder.join("data").display().to_string()]);
    first.answer(["status"]);
}

#[test]
fn a_socket_path_in_use_is_refused() {
    let first = Agent::start(&AgentOptions::none());
    let path = first.socket().display().to_string();
    let folder = TempDir::new("busy");
    let output = Launch::new(binary())
        .args(["run", "--socket", &path, "--data-dir"])
        .arg(folder.join("data"))
        .arg("--config")
        .arg(folder.write("c.yaml", "capture:\n  unselected: none\n"))
        .output();
    assert!(!output.status.success() && output.status.code().is_some(), "{output:?}");
    assert_said(&String::from_utf8_lossy(&output.stderr), &[&path]);
    first.answer(["status"]);
}

#[test]
fn a_command_without_an_agent_says_what_it_tried_and_what_to_do() {
    for command in ["status", "spans", "losses"] {
        let output = Launch::new(binary()).args([command, "--socket", "/nonexistent/s.sock"]).output();
        assert!(!output.status.success() && output.status.code().is_some(), "{command}: {output:?}");
        assert_said(&String::from_utf8_lossy(&output.stderr), &["/nonexistent/s.sock", "spantap run"]);
    }
}

#[test]
fn an_unreachable_destination_does_not_stop_the_rest() {
    let url = format!("otlp+grpc://127.0.0.1:{}", free_port());
    let traced = Traced::with("unreachable", |options| options.flag("--export", &url));
    let server = Server::start(traced.place());
    requests(&traced, &server, "/u/", 10);
    assert_eq!(traced.agent.wait_for_http(20, BOUND).len(), 20);
    clock::wait_for("a message about the destination", BOUND, || {
        traced.agent.messages().contains(url.trim_start_matches("otlp+grpc://")).then_some(())
    });
    let status = traced.agent.status();
    let destination = &status["destinations"][0];
    assert_eq!(destination["queued"], 20, "{status}");
    assert_eq!(destination["delivered"], 0, "{status}");
    traced.agent.stop();
}

/// A small filesystem that can be full.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        require_root();
        let disk = Self(TempDir::new("disk"));
        let size = format!("size={size}");
        let mount = Launch::new(tool("mount")).args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.0.path());
        mount.run();
        disk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        Launch::new(tool("mount")).args(["-o", &options]).arg(self.path()).run();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// A counter in the agent's own figures: by its reason, or by nothing if it has none; summed over CPUs, zeros left out.
fn figures(metrics: SocketAddr, name: &str) -> BTreeMap<String, u64> {
    let text = get(metrics, "/metrics").expect("an answer");
    let mut counts = BTreeMap::new();
    for line in
        text.lines().filter_map(|line| line.strip_prefix("spantap_")?.strip_prefix(name)?.strip_prefix("_total"))
    {
        let (labels, count) = line.rsplit_once(' ').expect("a value");
        let reason = labels.split('"').nth(1).unwrap_or_default();
        *counts.entry(reason.to_owned()).or_default() += count.parse::<u64>().expect("a number");
    }
    counts.retain(|_, count| *count > 0);
    counts
}

#[test]
fn what_is_lost_is_in_the_figures_by_its_reason() {
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let traced = Traced::with("figures", |mut options| {
        // Fewer than there are: the kernel side has no room for some, and the agent forgets some of the others.
        options.capture.push_str("  connections_max: 24\n");
        options.config.push_str("assembly: { connections_max: 4 }\n");
        options.flag("--metrics", metrics.to_string())
    });
    let nginx = Nginx::start(traced.place());
    wrk(Default::default(), &format!("http://{}/", nginx.address), 48, Duration::from_secs(1));
    drop(nginx);
    for (name, source, reason) in
        [("kernel_losses", "kernel cpu", "connection_table_full"), ("losses", "pipeline", "connection_evicted")]
    {
        // What is on its way is counted a moment later, by both.
        let told = || (figures(metrics, name), traced.agent.losses_where(|of| of.starts_with(source)));
        let same = clock::poll(BOUND, || Some(told()).filter(|(figures, losses)| figures == losses));
        let (figures, _) = same.unwrap_or_else(|| panic!("M7: {name} differ: {:?}", told()));
        assert!(figures.contains_key(reason), "M7: {name} has no {reason}: {figures:?}");
    }
}

#[test]
fn a_full_disk_loses_spans_by_count_and_recovers_with_room() {
    let disk = SmallDisk::new("2m");
    let metrics = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let traced = Traced::with("disk", |mut options| {
        options.data_dir = Some(disk.path().join("data"));
        options.flag("--metrics", metrics.to_string())
    });
    let server = Server::start(traced.place());
    clock::wait_for("a loss by the full disk", Duration::from_secs(60), || {
        requests(&traced, &server, "/fill/", 2_000);
        (!traced.agent.losses_where(|source| source == "log").is_empty()).then_some(())
    });
    disk.resize("64m");
    let recovered = clock::poll(BOUND, || {
        requests(&traced, &server, "/room/", 1);
        let room = |span: &Span| span.path() == "/room/0";
        traced.agent.spans().iter().any(room).then_some(())
    });
    assert!(recovered.is_some(), "no span after there was room again: {}", traced.agent.messages());
    let told = traced.agent.losses_where(|source| source == "log").get("spans not appended").copied();
    assert_eq!(figures(metrics, "log_spans_dropped").get("").copied(), told, "M7: log_spans_dropped");
    drop(traced);
}

#[test]
fn a_stopped_agent_leaves_its_spans_for_the_next() {
    let folder = TempDir::new("restart");
    let data = Some(folder.join("data"));
    let traced = Traced::with("restart", |mut options| {
        options.data_dir.clone_from(&data);
        options
    });
    let server = Server::start(traced.place());
    requests(&traced, &server, "/first/", 5);
    traced.agent.wait_for_http(10, BOUND);
    let Traced { agent, cgroup, .. } = traced;
    agent.stop();
    let agent = Agent::start(&AgentOptions { data_dir: data, ..AgentOptions::cgroup(&cgroup) });
    assert_eq!(agent.wait_for_http(10, BOUND).len(), 10);
}
