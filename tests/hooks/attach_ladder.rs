//! Each rung of the attach ladder, forced alone, produces the same spans.
//!
//! Truth: the client's own list of requests. The rungs tested are those that every supported kernel has; kprobe and
//! fentry rungs are tested in the virtual machines, where they exist.

use std::time::Duration;

use spantap_tests::{
    agent::AgentOptions,
    http::{Server, request},
    span::only,
    traced::Traced,
};

fn check(rung: &str, told_by: &str) {
    let options = |options: AgentOptions| options.flag("--attach", rung).flag("--syscall-hooks", told_by);
    let traced = Traced::with("rung", options);
    let server = Server::start(traced.place());
    let own = request(traced.place(), &server.address, &["count=50", "rate=200", "path=/sleep/1/"]);
    let spans = traced.agent.wait_for_http(100, Duration::from_secs(15));
    assert_eq!(spans.len(), 100);
    let mut hidden = Vec::new();
    for exchange in &own {
        for kind in ["client", "server"] {
            let span = only(&spans, kind, &exchange.path);
            assert_eq!((span.http_status(), span.status.as_str()), (Some(200), "ok"));
        }
        let server = only(&spans, "server", &exchange.path);
        let handler_ns = server.total_ns("application") + server.total_ns("off_cpu");
        if handler_ns < 1_000_000 {
            // Some kernels hide a switch away from a thread now and then; then what it did is not known.
            let unseen_ns = server.total_ns("unexplained");
            assert!(handler_ns + unseen_ns >= 1_000_000, "1 ms is spent in the server: {server:?}");
            hidden.push(server);
        }
    }
    assert!(hidden.len() <= 2, "more than two of 50 sleeps were not seen: {hidden:#?}");
    let hooks = traced.agent.status()["hooks"].clone();
    let used = |hook: &serde_json::Value| {
        hook["attached"] == true && hook["detail"].as_str().is_some_and(|detail| detail.contains(rung))
    };
    assert!(hooks.as_array().expect("hooks").iter().any(used), "{rung} is not in use: {hooks}");
    let by_sockets = hooks.as_array().expect("hooks").iter().any(|hook| hook["name"] == "sock_send_length");
    assert_eq!(by_sockets, told_by == "sockets", "whether sockets tell of calls: {hooks}");
}

#[test]
fn btf_typed_raw_tracepoints_make_spans() {
    check("tp_btf", "sockets");
    check("tp_btf", "every");
}

#[test]
fn raw_tracepoints_make_spans() {
    check("raw_tp", "sockets");
    check("raw_tp", "every");
}

#[test]
fn tracepoints_make_spans() {
    check("tracepoint", "every");
}

#[test]
fn tracepoints_of_single_system_calls_make_spans() {
    check("syscalls", "io");
}
