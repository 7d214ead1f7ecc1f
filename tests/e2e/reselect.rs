//! A configuration that is applied anew changes what it says anew, and nothing else.
//!
//! Truth: the test knows which process sent which path, and a client counts its own requests.

use std::{path::Path, time::Duration};

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::{Client, Place, Server, actor_program, request},
    process::{Launch, Process, tool},
    temp::TempDir,
};

const BOUND: Duration = Duration::from_secs(20);

/// Selects a cgroup; `rest` is more of `capture`.
fn selecting(cgroup: &Cgroup, rest: &str) -> AgentOptions {
    let mut options = AgentOptions::none();
    options.capture = format!("  select:\n    cgroup: [\"{}\"]\n{rest}", cgroup.path().display());
    options
}

/// Applies it anew, and waits until the selection has this word.
fn reselect(agent: &Agent, options: &AgentOptions, word: &str) {
    agent.reselect(options);
    clock::wait_for("the new selection", BOUND, || {
        agent.status()["selection"].to_string().contains(word).then_some(())
    });
}

/// A shell that has a server started once `go` exists, by a child that ends at once: the server is then nobody's descendant.
fn parent_of_daemon(folder: &TempDir, place: Place) -> Process {
    let script = format!(
        "while [ ! -e {folder}/go ]; do sleep 0.05; done; ({actor} server address=127.0.0.1:0 > {folder}/said &); sleep 600",
        folder = folder.path().display(),
        actor = actor_program().display()
    );
    place.apply(Launch::new(tool("sh")).args(["-c", &script])).spawn()
}

fn address_of_daemon(folder: &TempDir) -> String {
    folder.write("go", "");
    clock::wait_for("the daemon listens", BOUND, || {
        let said = std::fs::read_to_string(folder.join("said")).ok()?;
        Some(said.lines().next()?.strip_prefix("ready ")?.to_owned())
    })
}

#[test]
fn a_daemon_stays_excluded_when_something_else_changes() {
    let (cgroup, folder) = (Cgroup::new("daemon"), TempDir::new("daemon"));
    let parent = parent_of_daemon(&folder, Place::cgroup(&cgroup));
    let exclude = |more: &str| format!("  exclude:\n    pid: [{}]\n{more}", parent.pid());
    let agent = Agent::start(&selecting(&cgroup, &exclude("")));
    let address = address_of_daemon(&folder);
    reselect(&agent, &selecting(&cgroup, &exclude("    port: [9]\n")), "--exclude-port 9");
    request(Place::cgroup(&cgroup), &address, &["path=/after/"]);
    let spans = agent.wait_for_http(1, BOUND);
    let seen: Vec<_> = spans.iter().map(|span| (span.kind.as_str(), span.path())).collect();
    assert_eq!(seen, [("client", "/after/0")]);
}

#[test]
fn traffic_goes_on_through_changes_of_other_things() {
    const COUNT: usize = 3000;
    let cgroup = Cgroup::new("through");
    let agent = Agent::start(&selecting(&cgroup, ""));
    let server = Server::start(Place::default());
    let place = Place::cgroup(&cgroup);
    let client = Client::start(place, &server.address, &["path=/n/", &format!("count={COUNT}"), "rate=1000"]);
    for port in 1..=6 {
        reselect(&agent, &selecting(&cgroup, &format!("  exclude:\n    port: [{port}]\n")), &format!("port {port}"));
    }
    assert_eq!(client.finish().len(), COUNT);
    let spans = agent.wait_for_http(COUNT, BOUND);
    assert_eq!(spans.iter().filter(|span| span.is_http()).count(), COUNT, "{:?}", agent.losses());
}

/// The server from a file on overlayfs whose layers are in two file systems, in a mount namespace of its own: there `stat` tells
/// another device than the kernel has.
fn on_overlay(folder: &TempDir, place: Place, name: &str) -> (Process, String) {
    let lower = folder.join("lower");
    std::fs::create_dir_all(&lower).expect("a folder");
    std::fs::copy(actor_program(), lower.join(name)).expect("copy the actors");
    let script = format!(
        "mount -t tmpfs none {mount} && mkdir {mount}/upper {mount}/work {mount}/all && \
         mount -t overlay none -o lowerdir={lower},upperdir={mount}/upper,workdir={mount}/work {mount}/all && \
         exec {mount}/all/{name} server address=127.0.0.1:0 > {said}",
        mount = make(&folder.join("mount")),
        lower = lower.display(),
        said = folder.join("said").display()
    );
    let launch = Launch::new(tool("unshare")).args(["-m", "sh", "-c", &script]);
    let process = place.apply(launch).spawn();
    (process, address_of_daemon(folder))
}

fn make(path: &Path) -> String {
    std::fs::create_dir_all(path).expect("a folder");
    path.display().to_string()
}

#[test]
fn an_executable_is_excluded_also_on_overlayfs() {
    let (cgroup, folder) = (Cgroup::new("overlay"), TempDir::new("overlay"));
    let (_server, address) = on_overlay(&folder, Place::cgroup(&cgroup), "excluded-server");
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup).flag("--exclude-exe", "excluded-*"));
    request(Place::cgroup(&cgroup), &address, &["path=/seen/"]);
    let spans = agent.wait_for_http(1, BOUND);
    let seen: Vec<_> = spans.iter().map(|span| (span.kind.as_str(), span.path())).collect();
    assert_eq!(seen, [("client", "/seen/0")]);
}

#[test]
fn an_executable_is_excluded_also_once_its_file_was_replaced() {
    let (cgroup, folder) = (Cgroup::new("replaced"), TempDir::new("replaced"));
    let program = folder.join("excluded-server");
    std::fs::copy(actor_program(), &program).expect("copy the actors");
    let server = Server::start_copy(Place::cgroup(&cgroup), program.clone());
    std::fs::remove_file(&program).expect("remove the program");
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup).flag("--exclude-exe", "excluded-server"));
    request(Place::cgroup(&cgroup), &server.address, &["path=/seen/"]);
    let spans = agent.wait_for_http(1, BOUND);
    let seen: Vec<_> = spans.iter().map(|span| (span.kind.as_str(), span.path())).collect();
    assert_eq!(seen, [("client", "/seen/0")]);
}

#[test]
fn a_cgroup_is_selected_when_it_comes_and_when_it_is_made_anew() {
    let cgroup = Cgroup::new("anew");
    cgroup.remove();
    let agent = Agent::start(&selecting(&cgroup, ""));
    let selected = || agent.status()["selection"].to_string();
    assert!(selected().contains("(not there)"), "{}", selected());
    for round in ["first", "second"] {
        cgroup.make();
        clock::wait_for("it is noticed", BOUND, || (!selected().contains("(not there)")).then_some(()));
        let server = Server::start(Place::cgroup(&cgroup));
        request(Place::default(), &server.address, &[&format!("path=/{round}/")]);
        let spans = agent.wait_for_http(if round == "first" { 1 } else { 2 }, BOUND);
        assert!(spans.iter().any(|span| span.path() == format!("/{round}/0")), "{round}");
        drop(server);
        cgroup.remove();
        clock::wait_for("it is missed", BOUND, || selected().contains("(not there)").then_some(()));
    }
}
