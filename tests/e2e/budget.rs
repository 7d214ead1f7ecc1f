//! An agent that costs more than it may leaves detail out step by step, says so, and takes it back; and it says what it costs.
//!
//! Truth: the load itself, which costs far more than the budget and then stops; the agent's own cgroup (`cpu.stat`).

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    http::{Place, Server, request},
    nginx::Nginx,
    otlp::{self, attribute, fixed64, message},
    span::Span,
    stats::assert_within,
    temp::free_port,
    tools::{wrk, wrk_meanwhile},
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(90);
const LOAD_BOUND: Duration = Duration::from_secs(60);
/// Six steps back, each after at most 48 calm seconds.
const CALM_BOUND: Duration = Duration::from_secs(300);

/// The level, at most three times a second: being asked costs the agent time too.
fn level(agent: &Agent) -> u64 {
    clock::pace(Duration::from_millis(300));
    agent.status()["budget"]["level"].as_u64().expect("a level")
}

#[test]
fn detail_is_left_out_step_by_step_and_comes_back() {
    let traced =
        Traced::with("budget", |options| AgentOptions { max_cpu_percent: 4, ..options.timing_of_unselected() });
    let nginx = Nginx::start(traced.place());
    let url = format!("http://{}/", nginx.address);
    let cgroup = &traced.cgroup;
    let mut levels = vec![0];
    let load = wrk_meanwhile(Place::cgroup(cgroup), &url, 8, Duration::from_secs(60));
    clock::poll(LOAD_BOUND, || {
        let now = level(&traced.agent);
        if levels.last() != Some(&now) {
            levels.push(now);
        }
        (now == 6).then_some(())
    });
    let status = traced.agent.status();
    drop(load);
    assert_eq!(levels, [0, 1, 2, 3, 4, 5, 6], "one step at a time: {status}\n{}", traced.agent.messages());
    let left_out = ["what is not selected", "payload", "run_queue and off_cpu times", "7 of 8 new connections"];
    assert_eq!(status["budget"]["left_out"], serde_json::json!(left_out));
    assert!(traced.agent.losses().contains_key("payload_shed"), "{:?}", traced.agent.losses());

    // What else the host does may cost the budget meanwhile: then a step is taken once more, and taken back later.
    let calm = clock::poll(CALM_BOUND, || (level(&traced.agent) == 0).then_some(()));
    let messages = traced.agent.messages();
    assert!(calm.is_some(), "detail does not come back: {}\n{messages}", traced.agent.status());
    let budget = traced.agent.status()["budget"].clone();
    let [sheds, restores] = ["sheds", "restores"].map(|key| budget[key].as_u64().expect("a count"));
    assert!(sheds == restores && sheds >= 6, "{budget}");
    assert_eq!(messages.matches("over the budget").count() as u64, sheds, "{messages}");
    // And it is whole again: payload, and the scheduler's times from the second call of a thread on.
    let server = Server::start(traced.place());
    request(traced.place(), &server.address, &["path=/restored/"]);
    // The load left very many spans: only the last ones are asked for.
    let recent = ["spans", "--json", "--since", "10s", "--limit", "1000"];
    let spans = clock::poll(BOUND, || {
        let spans: Vec<Span> = traced.agent.answer(recent).lines().map(Span::parse).collect();
        let restored = spans.iter().filter(|span| span.path() == "/restored/0").count();
        (restored == 2).then_some(spans)
    });
    let spans = spans.expect("the restored spans");
    assert!(spans.iter().any(|span| span.path() == "/restored/0" && span.http_status() == Some(200)));
}

/// How often the budget looks while the agent is asked without a pause; it looks for one second of ten.
const LOOKS: usize = 1;
const LOOKS_BOUND: Duration = Duration::from_secs(60);
const FILL_REQUESTS: usize = 100;
const FILL_SPANS: usize = 200;

/// A request with spans of an SDK that ended just now.
fn sdk_spans() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let span = |number: usize| {
        let ids = [message(1, &[7; 16]), message(2, &(number as u64 + 1).to_be_bytes())].concat();
        let times = [fixed64(7, now - 1_000_000), fixed64(8, now)].concat();
        let attributes = (0..10).map(|key| message(9, &attribute(&format!("app.key{key}"), "some text as there is")));
        [ids, message(5, b"GET /orders/{id}"), times].into_iter().chain(attributes).flatten().collect()
    };
    otlp::post(&otlp::export_request("checkout", (0..FILL_SPANS).map(span)))
}

#[test]
fn asking_takes_no_step() {
    const MAX_PERCENT: u32 = 5;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let traced = Traced::with("asked", |options| {
        AgentOptions { max_cpu_percent: MAX_PERCENT, ..options }.flag("--receive-otlp-http", address.to_string())
    });
    let agent = &traced.agent;
    let (request, mut stream) = (sdk_spans(), None);
    for _ in 0..FILL_REQUESTS {
        let taken = otlp::exchange(&mut stream, address, &request, BOUND);
        assert!(matches!(taken, Ok(Some(200))), "{taken:?}\n{}", agent.messages());
    }
    let done = AtomicBool::new(false);
    let ask = || {
        while !done.load(Ordering::Relaxed) {
            let spans = agent.answer(["spans", "--limit", "0", "--json"]).lines().count();
            assert_eq!(spans, FILL_REQUESTS * FILL_SPANS);
        }
    };
    let (looks, cost) = std::thread::scope(|scope| {
        let asking = [scope.spawn(ask), scope.spawn(ask)];
        let mut looks = vec![agent.status()["budget"]["cpu_percent"].clone()];
        clock::poll(LOOKS_BOUND, || {
            let look = agent.status()["budget"]["cpu_percent"].clone();
            if looks.last() != Some(&look) {
                looks.push(look);
            }
            let is_asked = asking.iter().all(|thread| !thread.is_finished());
            (looks.len() > LOOKS || !is_asked).then_some(())
        });
        let cost = self_cost(agent, "1s");
        done.store(true, Ordering::Relaxed);
        (looks, cost)
    });
    assert!(looks.len() > LOOKS, "the budget did not look: {looks:?}");
    let [all, counted] = ["agent", "budget_counts"].map(|part| cost[part]["cpu_percent"].as_f64().expect("a share"));
    assert!(all > 2.0 * f64::from(MAX_PERCENT), "asking costs too little to show anything: {cost:#}");
    assert!(counted < f64::from(MAX_PERCENT), "{cost:#}");
    let budget = agent.status()["budget"].clone();
    assert_eq!((&budget["sheds"], &budget["level"]), (&0.into(), &0.into()), "{budget}\n{}", agent.messages());
}

/// `spantap self --json`.
fn self_cost(agent: &Agent, window: &str) -> Value {
    serde_json::from_str(&agent.answer(["self", "--json", "--window", window])).expect("one JSON object")
}

#[test]
fn the_agent_says_what_it_costs() {
    let traced = Traced::new("self");
    let nginx = Nginx::start(traced.place());
    let url = format!("http://{}/", nginx.address);
    let (cost, requests) = std::thread::scope(|scope| {
        let load = scope.spawn(|| wrk(traced.place(), &url, 4, Duration::from_secs(6)));
        clock::pace(Duration::from_secs(1));
        let cost = self_cost(&traced.agent, "3s");
        (cost, load.join().expect("wrk"))
    });
    let program = |hook: &str| {
        let programs = cost["programs"].as_array().expect("programs");
        let found = programs.iter().find(|program| program["hook"] == hook);
        found.unwrap_or_else(|| panic!("{hook} is not in {cost}")).clone()
    };
    let rate = rate_of(&requests);
    println!("{rate} requests/s; {cost:#}");
    // Each request is a write by either side.
    let calls = program("sock_send_length")["runs_per_second"].as_f64().expect("runs");
    assert!(calls > 2.0 * rate * 0.5, "{calls} calls a second at {rate} requests a second");
    for hook in ["sock_send_length", "sock_recv_length", "tcp_probe", "tcp_sendmsg_locked"] {
        let ns = program(hook)["ns_per_run"].as_u64().expect("ns per run");
        assert!((5..20_000).contains(&ns), "{hook}: {ns} ns per run");
    }
    let spans = cost["spans"].as_f64().expect("spans") / 3.0;
    // Unthrottled: how many are lost, and counted, depends on the machine.
    assert!(spans > 100.0, "{spans} spans a second at {rate} requests a second");
    let [kernel, agent] = ["kernel", "agent"].map(|part| cost[part]["cpu_percent"].as_f64().expect("a share"));
    assert!(kernel > 0.1 && agent > 0.1 && kernel + agent < 100.0, "{kernel} {agent}");
    let per_span = cost["per_span"]["agent_ns"].as_u64().expect("a cost");
    assert!((500..200_000).contains(&per_span), "{per_span} ns of agent per span");
    let maps = cost["maps"].as_array().expect("maps");
    let bytes: u64 = maps.iter().filter_map(|map| map["bytes_max"].as_u64()).sum();
    assert!(bytes > 1 << 20 && maps.iter().any(|map| map["name"] == "TASKS"), "{maps:?}");
}

/// What wrk says of its rate.
fn rate_of(text: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).expect("a rate");
    line.trim().parse().expect("a number")
}

#[test]
fn the_agents_own_time_is_the_kernels_account_of_it() {
    let group = Cgroup::new("agent-cost");
    let traced = Traced::new("own");
    std::fs::write(group.path().join("cgroup.procs"), traced.agent.pid().to_string()).expect("move the agent");
    let nginx = Nginx::start(traced.place());
    let url = format!("http://{}/", nginx.address);
    std::thread::scope(|scope| {
        scope.spawn(|| wrk(traced.place(), &url, 4, Duration::from_secs(7)));
        clock::pace(Duration::from_secs(1));
        let before = group.cpu_usec();
        let start = clock::monotonic_ns();
        let cost = self_cost(&traced.agent, "4s");
        let (used, length) = (group.cpu_usec() - before, clock::monotonic_ns() - start);
        let per_second = |ns: f64, of: f64| (ns / of * 1e9) as u64;
        let own = per_second(cost["agent"]["ns"].as_f64().expect("ns"), cost["window_ns"].as_f64().expect("ns"));
        assert_within("the agent's CPU time", own, per_second(used as f64 * 1e3, length as f64), 0.25);
    });
}
