//! A request is visible soon after its end, and an agent with nothing to do sleeps.
//!
//! Truth: the client's own end of each request, on the clock that stamps the lines of `spans --follow`; the kernel's
//! count of voluntary context switches.

use std::time::{Duration, Instant};

use spantap_tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock,
    follow::Follow,
    http::{Client, Server},
    schedstat,
    stats::percentile,
    traced::Traced,
};

const VISIBLE_WITHIN_MS: f64 = 100.0;
const WAKEUPS_PER_SECOND: f64 = 20.0;
/// Windows that are tried on a busy host.
const IDLE_WINDOWS_MAX: usize = 6;
const IDLE_WINDOW: Duration = Duration::from_secs(5);

#[test]
fn a_request_is_visible_within_100_ms_of_its_end() {
    let traced = Traced::new("follow");
    let server = Server::start(traced.place());
    let follow = Follow::start(&traced.agent);
    let client = Client::start(traced.place(), &server.address, &["count=200", "rate=50", "linger_ms=500"]);
    let spans = follow.wait_for("400 spans to follow", Duration::from_secs(20), |spans| spans.len() >= 400);
    let mut delays = Vec::new();
    for exchange in client.finish() {
        for kind in ["client", "server"] {
            let found = spans.iter().find(|(_, span)| span.kind == kind && span.path() == exchange.path);
            let (at, _) = found.unwrap_or_else(|| panic!("no {kind} span of {} to follow", exchange.path));
            delays.push(at.saturating_sub(exchange.end_ns));
        }
    }
    let ms = |ns: u64| ns as f64 / 1e6;
    let [middle, most, last] = [0.5, 0.95, 1.0].map(|share| ms(percentile(&delays, share)));
    let text = format!("visible after: median {middle:.1} ms, p95 {most:.1} ms, at most {last:.1} ms");
    println!("{text}");
    // The host is busy with other things too: one in twenty may be later.
    assert!(most <= VISIBLE_WITHIN_MS, "{text}");
}

#[test]
fn an_agent_with_nothing_to_do_sleeps() {
    let cgroup = Cgroup::new("idle");
    let mut agent = Agent::start(&AgentOptions::cgroup(&cgroup));
    let rate = wakeups_per_second(&mut agent);
    println!("{rate:.1} wake-ups a second with an idle cgroup selected");
    assert!(rate < WAKEUPS_PER_SECOND, "{rate:.1} wake-ups a second");
}

#[test]
fn timing_of_the_whole_host_costs_few_wakeups_while_it_is_quiet() {
    let mut agent = Agent::start(&AgentOptions::none().timing_of_unselected());
    // What the rest of the host does (spans, new processes) is not in this test's hands: the quietest window counts.
    let mut quietest = f64::INFINITY;
    for _ in 0..IDLE_WINDOWS_MAX {
        quietest = quietest.min(wakeups_per_second(&mut agent));
        if quietest < WAKEUPS_PER_SECOND {
            break;
        }
    }
    println!("{quietest:.1} wake-ups a second with timing of the whole host, {} spans of it", agent.spans().len());
    assert!(quietest < WAKEUPS_PER_SECOND, "{quietest:.1} wake-ups a second");
}

/// Wake-ups per second of all threads of the agent, after start-up work has come to rest.
fn wakeups_per_second(agent: &mut Agent) -> f64 {
    let pid = agent.pid();
    let count = || schedstat::voluntary_switches(pid);
    observe(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), count());
    observe(IDLE_WINDOW);
    assert!(agent.process().ended().is_none(), "the agent ended: {}", agent.messages());
    (count() - before) as f64 / begin.elapsed().as_secs_f64()
}

/// Lets a stated length of time pass: what is measured is a rate.
fn observe(window: Duration) {
    clock::poll(window, || None::<()>);
}
