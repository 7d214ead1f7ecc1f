//! With any one hook detached, its time becomes `unexplained` or `derived`, never a neighbour's `measured`; and without an
//! optional hook every request still has its spans.
//!
//! In each scenario the test puts 150 ms and more in one known place. Whatever hook is missing, no *other* segment may
//! then claim to have measured more than a part of that time. Truth: the scenario itself; `schedstat` for waiting that
//! this busy machine adds on its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use spantap_tests::{
    agent::AgentOptions,
    http::{Client, Exchange, Place, Server, actor},
    namespace::Namespace,
    span::Span,
    traced::Traced,
    tun::{self, Tun},
};

const INJECTED_MS: u64 = 150;
/// What another segment may claim: more than this host's own noise, far less than what was injected.
const FOREIGN_NS: u64 = INJECTED_MS * 1_000_000 / 3;
const REQUESTS: usize = 2;

/// Where a scenario puts time, by kind of span: only these segments may measure it.
type Homes = BTreeMap<&'static str, &'static [&'static str]>;

struct Scenario {
    name: &'static str,
    homes: Homes,
    run: fn(&Traced) -> Vec<Exchange>,
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "slow server",
            homes: Homes::from([("client", ["remote"].as_slice()), ("server", &["off_cpu"])]),
            run: slow_server,
        },
        Scenario {
            name: "late reader",
            homes: Homes::from([("client", ["receive_buffer"].as_slice()), ("server", &[])]),
            run: late_reader,
        },
        Scenario {
            name: "hog beside the server",
            homes: Homes::from([("client", ["remote"].as_slice()), ("server", &["run_queue"])]),
            run: hog,
        },
        Scenario {
            name: "slow path",
            homes: Homes::from([("client", ["network", "connect"].as_slice()), ("server", &[])]),
            run: slow_path,
        },
    ]
}

fn client(traced: &Traced, place: Place, address: &str, args: &[&str]) -> Vec<Exchange> {
    let count = format!("count={REQUESTS}");
    let args: Vec<&str> = args.iter().copied().chain([count.as_str()]).collect();
    let mut place = place;
    place.cgroup = Some(&traced.cgroup);
    Client::start(place, address, &args).finish()
}

fn slow_server(traced: &Traced) -> Vec<Exchange> {
    let server = Server::start(traced.place());
    client(traced, Place::default(), &server.address, &[&format!("path=/sleep/{INJECTED_MS}/slow/")])
}

fn late_reader(traced: &Traced) -> Vec<Exchange> {
    let server = Server::start(traced.place());
    let late = format!("late_ms={INJECTED_MS}");
    client(traced, Place::default(), &server.address, &["mode=late", &late, "path=/late/"])
}

/// Four hogs and a little work: nearly all of the time is waiting.
fn hog(traced: &Traced) -> Vec<Exchange> {
    let server = Server::start(traced.place().cpu(0));
    let _hogs = [(); 4].map(|()| Place::default().cpu(0).apply(actor("hog").arg("seconds=60")).spawn());
    client(traced, Place::default().cpu(1), &server.address, &["path=/spin/30000/hog/"])
}

fn slow_path(traced: &Traced) -> Vec<Exchange> {
    let (near, far) = (Namespace::new(), Namespace::new());
    let delay = Duration::from_millis(INJECTED_MS / 2);
    let _tun = Tun::join(&near, &far, delay, delay);
    let server = Server::start_with(traced.place().namespace(&far), &format!("{}:8080", tun::SERVER), &[]);
    client(traced, Place::default().namespace(&near), &server.address, &["path=/path/"])
}

/// Every segment that says where time went.
const SEGMENTS: &[&str] = &[
    "dns",
    "connect",
    "accept_queue",
    "tls",
    "send",
    "held",
    "queue",
    "network",
    "remote",
    "transfer",
    "softirq",
    "receive_buffer",
    "wakeup",
    "run_queue",
    "off_cpu",
    "application",
];

/// Segments that measured what is not theirs.
fn false_claims(scenario: &Scenario, spans: &[Span]) -> Vec<String> {
    let mut claims = Vec::new();
    for span in spans {
        let homes = scenario.homes[span.kind.as_str()];
        for name in SEGMENTS {
            let measured = span.measured_ns(name);
            if !homes.contains(name) && measured > FOREIGN_NS {
                let ms = measured / 1_000_000;
                claims.push(format!("{}: {} {name} measured {ms} ms: {span:?}", scenario.name, span.kind));
            }
        }
    }
    claims
}

/// Runs a scenario and gives the spans that it made, HTTP or not, once there are at least `expected`.
fn run(scenario: &Scenario, traced: &Traced, expected: usize) -> Vec<Span> {
    let known: BTreeSet<String> = traced.agent.spans().into_iter().map(|span| span.span_id).collect();
    let own = (scenario.run)(traced);
    assert_eq!(own.len(), REQUESTS, "{}", scenario.name);
    let what = format!("{expected} spans of {}", scenario.name);
    let enough = |spans: &[Span]| spans.len() >= known.len() + expected;
    let spans = traced.agent.wait_for(&what, Duration::from_secs(10), enough);
    spans.into_iter().filter(|span| !known.contains(&span.span_id)).collect()
}

/// Hooks without which there are few spans, or none.
const REQUIRED: &[&str] = &["sock_send_length", "sock_recv_length", "tcp_sendmsg_locked", "tcp_rcv_space_adjust"];

/// What only this hook can measure.
fn gone_with(hook: &str) -> &'static [&'static str] {
    match hook {
        "tcp_probe" => &["network", "remote", "transfer", "receive_buffer"],
        "net_dev_start_xmit" => &["network", "queue"],
        "net_dev_queue" => &["queue"],
        "sched_switch" => &["run_queue", "off_cpu"],
        "softirq_raise" | "softirq_entry" => &["softirq"],
        "inet_sock_set_state" => &["connect"],
        _ => &[],
    }
}

fn check(hook: &str) {
    let traced = Traced::with("mutation", |options: AgentOptions| options.flag("--without-hook", hook));
    let status = traced.agent.status();
    let hooks = status["hooks"].as_array().expect("hooks in the status");
    let entry = hooks.iter().find(|entry| entry["name"] == hook).unwrap_or_else(|| panic!("no hook {hook}: {status}"));
    assert_eq!(entry["attached"], false, "{hook} shall be detached: {status}");
    let mut claims = Vec::new();
    let required = REQUIRED.contains(&hook);
    for scenario in scenarios() {
        let expected = if required { 0 } else { 2 * REQUESTS };
        let spans = run(&scenario, &traced, expected);
        assert!(required || spans.len() == expected, "{} without {hook}: {spans:#?}", scenario.name);
        claims.extend(false_claims(&scenario, &spans));
        for (span, name) in spans.iter().flat_map(|span| gone_with(hook).iter().map(move |name| (span, name))) {
            if span.measured_ns(name) > 0 {
                claims.push(format!("{}: {name} measured without its hook: {span:?}", scenario.name));
            }
        }
    }
    assert!(claims.is_empty(), "without {hook}:\n{}", claims.join("\n"));
}

#[test]
fn with_every_hook_the_time_is_measured_where_it_was_put() {
    let traced = Traced::new("all-hooks");
    let mut claims = Vec::new();
    // The path's delay is usually `derived`, since answers carry the acknowledgement.
    let measured_homes = [("server", "off_cpu"), ("client", "receive_buffer"), ("server", "run_queue")];
    for (index, scenario) in scenarios().iter().enumerate() {
        let spans = run(scenario, &traced, 2 * REQUESTS);
        assert_eq!(spans.len(), 2 * REQUESTS, "{}: {spans:#?}", scenario.name);
        claims.extend(false_claims(scenario, &spans));
        let Some((kind, segment)) = measured_homes.get(index) else { continue };
        for span in spans.iter().filter(|span| span.kind == *kind) {
            let enough = span.measured_ns(segment) > 2 * FOREIGN_NS
                || *segment == "run_queue" && span.measured_ns(segment) > FOREIGN_NS;
            assert!(enough, "{}: {segment} is not measured: {span:#?}", scenario.name);
        }
    }
    assert!(claims.is_empty(), "{}", claims.join("\n"));
}

#[test]
fn every_hook_has_its_test() {
    let traced = Traced::new("hooks");
    let status = traced.agent.status();
    let hooks = status["hooks"].as_array().expect("hooks in the status");
    let names: BTreeSet<&str> = hooks.iter().filter_map(|hook| hook["name"].as_str()).collect();
    assert_eq!(names, without::NAMES.iter().copied().collect());
}

macro_rules! without {
    ($($hook:ident)*) => {
        pub const NAMES: &[&str] = &[$(stringify!($hook)),*];

        $(
            #[test]
            fn $hook() {
                check(stringify!($hook));
            }
        )*
    };
}

/// One test per hook, named like it.
mod without {
    use super::check;

    without! {
        sock_send_length
        sent_elsewhere
        sent_unix
        sock_recv_length
        received_elsewhere
        received_unix
        sys_enter
        sys_exit
        inet_sock_set_state
        tcp_destroy_sock
        tcp_sendmsg_locked
        tcp_probe
        tcp_rcv_space_adjust
        net_dev_start_xmit
        net_dev_queue
        tcp_retransmit_skb
        tcp_send_reset
        tcp_receive_reset
        softirq_raise
        softirq_entry
        sched_waking
        sched_switch
        sched_process_fork
        sched_process_exec
        sched_process_exit
        sk_data_ready
        other_sockets
        unix_sockets
        tls_libraries
    }
}
