//! What is selected is traced in full, what is excluded is not, and the rest leaves at most sizes and times.
//!
//! Truth: the test knows which process sent which path.

use std::{path::Path, time::Duration};

use serde_json::Value;
use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::{Place, Server, actor_program, request},
    namespace::Namespace,
    process::{Launch, Process, tool},
    rotel::Rotel,
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(15);

/// Waits for the last request's spans; all earlier ones are there then. Gives `kind path` of each HTTP span, sorted.
fn seen(agent: &Agent, last: &str) -> Vec<String> {
    let spans = agent.wait_for(last, BOUND, |spans| spans.iter().any(|span| span.path() == last));
    let mut seen: Vec<String> = spans.iter().map(|span| format!("{} {}", span.kind, span.path())).collect();
    seen.sort();
    seen
}

/// A shell that runs a client as its child once `go` exists, and stays until it is killed.
fn parent_of_client(go: &Path, address: &str, path: &str, place: Place) -> Process {
    let script = format!(
        "while [ ! -e {go} ]; do sleep 0.05; done; {actor} client address={address} path={path} >&2; sleep 60",
        go = go.display(),
        actor = actor_program().display()
    );
    place.apply(Launch::new(tool("sh")).args(["-c", &script])).spawn()
}

#[test]
fn a_process_and_its_children_are_selected_by_pid() {
    let folder = TempDir::new("pid");
    let server = Server::start(Place::default());
    let parent = parent_of_client(&folder.join("go"), &server.address, "/child/", Place::default());
    let agent = Agent::start(&AgentOptions::none().flag("--select-pid", parent.pid().to_string()));
    request(Place::default(), &server.address, &["path=/stranger/"]);
    folder.write("go", "");
    assert_eq!(seen(&agent, "/child/0"), ["client /child/0"]);
}

#[test]
fn a_server_is_selected_by_pid() {
    let server = Server::start(Place::default());
    let agent = Agent::start(&AgentOptions::none().flag("--select-pid", server.pid().to_string()));
    request(Place::default(), &server.address, &["path=/a/"]);
    assert_eq!(seen(&agent, "/a/0"), ["server /a/0"]);
}

#[test]
fn a_cgroup_is_selected_with_what_is_below_it() {
    let traced = Traced::new("below");
    let below = traced.cgroup.child("below");
    let server = Server::start(Place::default());
    request(Place::default(), &server.address, &["path=/outside/"]);
    request(traced.place(), &server.address, &["path=/inside/"]);
    request(Place::cgroup(&below), &server.address, &["path=/below/"]);
    assert_eq!(seen(&traced.agent, "/below/0"), ["client /below/0", "client /inside/0"]);
}

#[test]
fn an_executable_is_selected_whether_it_started_before_or_after_the_agent() {
    let folder = TempDir::new("exe");
    let copy = |name: &str| {
        let path = folder.join(name);
        std::fs::copy(actor_program(), &path).expect("copy the actors");
        path
    };
    let before = Server::start_copy(Place::default(), copy("chosen-before"));
    let glob = folder.join("chosen-*");
    let agent = Agent::start(&AgentOptions::none().flag("--select-exe", glob));
    let after = Server::start_copy(Place::default(), copy("chosen-after"));
    let other = Server::start_copy(Place::default(), copy("other"));
    request(Place::default(), &other.address, &["path=/other/"]);
    request(Place::default(), &before.address, &["path=/before/"]);
    request(Place::default(), &after.address, &["path=/after/"]);
    assert_eq!(seen(&agent, "/after/0"), ["server /after/0", "server /before/0"]);
}

#[test]
fn a_port_selects_both_ends() {
    let (chosen, other) = (Server::start(Place::default()), Server::start(Place::default()));
    let agent = Agent::start(&AgentOptions::none().flag("--select-port", port(&chosen)));
    request(Place::default(), &other.address, &["path=/other/"]);
    request(Place::default(), &chosen.address, &["path=/chosen/"]);
    assert_eq!(seen(&agent, "/chosen/0"), ["client /chosen/0", "server /chosen/0"]);
}

#[test]
fn a_network_namespace_is_selected() {
    let (chosen, other) = (Namespace::new(), Namespace::new());
    let agent = Agent::start(&AgentOptions::none().flag("--select-netns", chosen.path()));
    for (namespace, path) in [(&other, "path=/other/"), (&chosen, "path=/chosen/")] {
        let place = Place::default().namespace(namespace);
        let server = Server::start(place);
        request(place, &server.address, &[path]);
    }
    assert_eq!(seen(&agent, "/chosen/0"), ["client /chosen/0", "server /chosen/0"]);
}

#[test]
fn exclusion_is_stronger_than_selection() {
    let cgroup = Cgroup::new("exclude");
    let below = cgroup.child("below");
    let namespace = Namespace::new();
    let folder = TempDir::new("exclude");
    let program = folder.join("excluded");
    std::fs::copy(actor_program(), &program).expect("copy the actors");
    let place = Place::cgroup(&cgroup);
    let (server, by_pid, by_port) = (Server::start(place), Server::start(place), Server::start(place));
    let options = AgentOptions::cgroup(&cgroup)
        .flag("--exclude-cgroup", below.path())
        .flag("--exclude-pid", by_pid.pid().to_string())
        .flag("--exclude-port", port(&by_port))
        .flag("--exclude-exe", &program)
        .flag("--exclude-netns", namespace.path());
    let agent = Agent::start(&options);
    let by_exe = Server::start_copy(place, program);
    let apart = Server::start(place.namespace(&namespace));

    request(Place::cgroup(&below), &server.address, &["path=/cgroup/"]);
    request(place, &by_pid.address, &["path=/pid/"]);
    request(place, &by_port.address, &["path=/port/"]);
    request(place, &by_exe.address, &["path=/exe/"]);
    request(place.namespace(&namespace), &apart.address, &["path=/netns/"]);
    request(place, &server.address, &["path=/last/"]);
    let expected = ["client /exe/0", "client /last/0", "client /pid/0", "server /cgroup/0", "server /last/0"];
    assert_eq!(seen(&agent, "/last/0"), expected);
}

#[test]
fn what_moves_into_the_cgroup_is_traced_from_then_on() {
    let traced = Traced::new("move");
    let folder = TempDir::new("move");
    let server = Server::start(Place::default());
    let parent = parent_of_client(&folder.join("go"), &server.address, "/moved/", Place::default());
    request(Place::default(), &server.address, &["path=/stranger/"]);
    let procs = traced.cgroup.path().join("cgroup.procs");
    std::fs::write(&procs, parent.pid().to_string()).expect("move a process into the cgroup");
    clock::wait_for("the move", BOUND, || traced.cgroup.pids().contains(&parent.pid()).then_some(()));
    folder.write("go", "");
    assert_eq!(seen(&traced.agent, "/moved/0"), ["client /moved/0"]);
}

#[test]
fn the_selection_changes_while_the_agent_runs() {
    let (first, second) = (Cgroup::new("first"), Cgroup::new("second"));
    let selecting = |cgroup: &Cgroup| {
        let mut options = AgentOptions::none();
        options.capture = format!("  select:\n    cgroup: [\"{}\"]\n", cgroup.path().display());
        options
    };
    let agent = Agent::start(&selecting(&first));
    let server = Server::start(Place::default());
    request(Place::cgroup(&first), &server.address, &["path=/first/"]);
    request(Place::cgroup(&second), &server.address, &["path=/too-early/"]);
    assert_eq!(seen(&agent, "/first/0"), ["client /first/0"]);

    agent.reselect(&selecting(&second));
    let word = second.path().display().to_string();
    clock::wait_for("the new selection", BOUND, || agent.status().to_string().contains(&word).then_some(()));
    request(Place::cgroup(&first), &server.address, &["path=/too-late/"]);
    request(Place::cgroup(&second), &server.address, &["path=/second/"]);
    assert_eq!(seen(&agent, "/second/0"), ["client /first/0", "client /second/0"]);
}

#[test]
fn what_is_not_selected_leaves_sizes_and_times_only() {
    let agent = Agent::start(&AgentOptions::none().timing_of_unselected());
    let server = Server::start(Place::default());
    let server_pid = server.pid();
    let own = request(Place::default(), &server.address, &["count=5", "path=/secret/", "rate=100"]);
    assert_eq!(own.len(), 5);
    drop(server);
    let mine = |span: &&Span| span.pid == server_pid && span.kind == "server";
    let spans = agent.wait_for("five exchanges", BOUND, |spans| spans.iter().filter(mine).count() >= 5);
    let spans: Vec<&Span> = spans.iter().filter(mine).collect();
    assert_eq!(spans.len(), 5, "{spans:#?}");
    for span in spans {
        assert_eq!((span.protocol.as_str(), span.name.as_str()), ("tcp", "tcp"), "{span:?}");
        assert!(!format!("{span:?}").contains("secret"), "payload of what nobody selected: {span:?}");
    }
}

/// Truth: how many exchanges there were, and which ends are in the selected cgroup.
#[test]
fn what_is_not_selected_does_not_crowd_out_what_is() {
    const MANY: usize = 3_000;
    const HALF: usize = 400;
    let cgroup = Cgroup::new("crowd");
    let agent = Agent::start(&AgentOptions { unselected: "timing", ..AgentOptions::cgroup(&cgroup) });
    let (outside, inside) = (Server::start(Place::default()), Server::start(Place::cgroup(&cgroup)));
    request(Place::default(), &outside.address, &[&format!("count={MANY}")]);
    request(Place::default(), &inside.address, &[&format!("count={HALF}"), "path=/half/"]);
    let served = |spans: &[Span]| spans.iter().filter(|span| span.path().starts_with("/half/")).count();
    let clients = |spans: &[Span]| spans.iter().filter(|span| span.peer == inside.address).count();
    let spans =
        agent.wait_for("all of one selected end", BOUND, |spans| served(spans) == HALF && clients(spans) == HALF);
    // Each is the parent of one that is selected, though nobody selected it; where the last ends is known only later.
    let mut children = 0;
    for server in spans.iter().filter(|span| span.path().starts_with("/half/")) {
        let Some(parent) = &server.parent_span_id else { continue };
        children += 1;
        let client = spans.iter().find(|span| span.span_id == *parent).expect("a parent that is there");
        assert_eq!(client.attribute("spantap.selected"), Some(&Value::Bool(false)), "{client:?}");
        assert_eq!(server.attribute("spantap.selected"), None, "{server:?}");
    }
    assert!(children >= HALF - 1, "{children} of {HALF} have a parent");
    let crowd = |span: &&Span| span.local == outside.address || span.peer == outside.address;
    let told = spans.iter().filter(crowd).count();
    let left_out = agent.losses().get("unselected_rate").copied().unwrap_or(0) as usize;
    assert!((1..MANY).contains(&told), "{told} spans of {MANY} exchanges, each with two ends");
    assert!(told + left_out >= 2 * MANY, "{told} told, {left_out} counted");
    let slow = |flags: &[&str]| agent.answer([&["slow", "--json", "--limit", "0"], flags].concat());
    assert!(!slow(&[]).contains("\"spantap.selected\":false"));
    assert!(slow(&["--unselected"]).contains("\"spantap.selected\":false"));
}

#[test]
fn a_connect_that_failed_says_if_nobody_selected_who_tried() {
    let cgroup = Cgroup::new("refused");
    let agent = Agent::start(&AgentOptions { unselected: "timing", ..AgentOptions::cgroup(&cgroup) });
    let url = format!("http://127.0.0.1:{}/", free_port());
    let refused = |place: Place| {
        let mut curl = place.apply(Launch::new(tool("curl")).args(["-s", &url])).spawn();
        let pid = curl.pid();
        assert_eq!(curl.wait(BOUND).code(), Some(7), "curl(1): failed to connect");
        pid
    };
    let (outside, inside) = (refused(Place::default()), refused(Place::cgroup(&cgroup)));
    let of = |spans: &[Span], pid: u32| spans.iter().find(|span| span.pid == pid && span.name == "connect").cloned();
    let spans =
        agent.wait_for("both attempts", BOUND, |spans| [outside, inside].iter().all(|pid| of(spans, *pid).is_some()));
    let selected = |pid| of(&spans, pid).expect("it is there").attribute("spantap.selected").cloned();
    assert_eq!((selected(outside), selected(inside)), (Some(Value::Bool(false)), None), "{spans:#?}");
}

#[test]
fn nothing_is_recorded_of_nothing() {
    let cgroup = Cgroup::new("nothing");
    let agent = Agent::start(&AgentOptions::cgroup(&cgroup));
    let server = Server::start(Place::default());
    request(Place::default(), &server.address, &["path=/outside/", "count=20"]);
    request(Place::cgroup(&cgroup), &server.address, &["path=/last/"]);
    assert_eq!(seen(&agent, "/last/0"), ["client /last/0"]);
}

#[test]
fn the_agent_never_traces_itself() {
    let rotel = Rotel::start();
    let traced = Traced::with("itself", |options| options.flag("--export", rotel.grpc_url()));
    let procs = traced.cgroup.path().join("cgroup.procs");
    std::fs::write(&procs, traced.agent.pid().to_string()).expect("move the agent into the cgroup");
    let server = Server::start(Place::default());
    for round in 0..5 {
        let path = format!("path=/round-{round}/");
        request(traced.place(), &server.address, &[&path]);
        clock::wait_for("the export", BOUND, || (rotel.spans().len() > round).then_some(()));
    }
    let expected: Vec<String> = (0..5).map(|round| format!("client /round-{round}/0")).collect();
    assert_eq!(seen(&traced.agent, "/round-4/0"), expected);
}

fn port(server: &Server) -> String {
    server.address.rsplit(':').next().expect("ip:port").to_owned()
}
