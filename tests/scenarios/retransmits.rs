//! Every segment that the kernel retransmitted is counted once: by a request, or outside of requests.
//!
//! Truth: `RetransSegs` of the namespace that sent them (`/proc/net/snmp`), which also counts SYN, SYN-ACK and FIN. The agent
//! traces what runs in that namespace only.

use std::time::Duration;

use serde_json::Value;
use spantap_tests::{
    http::{Place, Server, request},
    namespace::Namespace,
    traced::Traced,
};

/// One packet in ten, of all kinds, is lost where it arrives.
const LOSS: &str =
    "table ip lossy { chain in { type filter hook prerouting priority -300; numgen random mod 10 < 1 drop; }; }";
const SPANS_WITHIN: Duration = Duration::from_secs(15);

fn check(kind: &str) {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.join_by_veth(&server);
    let traced = Traced::new("retransmits");
    let place = |end: &str, namespace| {
        let place = if end == kind { traced.place() } else { Place::default() };
        place.namespace(namespace)
    };
    let listener = Server::start_with(place("server", &server), "10.99.0.2:8080", &["read_bytes=65536"]);
    [&client, &server].into_iter().for_each(|namespace| namespace.nft(LOSS));
    // New connections as well as old ones, so that handshakes and ends are lost too.
    let mut count = 0;
    for more in [["connections=8", "count=6", "fresh=0"], ["connections=4", "count=4", "fresh=1"]] {
        let args = ["method=POST", "path=/big/60000/", "body=60000", "read_bytes=65536"];
        let args: Vec<&str> = args.into_iter().chain(more).collect();
        count += request(place("client", &client), &listener.address, &args).len();
    }
    let spans = traced.agent.wait_for_http(count, SPANS_WITHIN);
    // What is still on its way counts too: the connections' ends are awaited.
    drop(listener);
    let sender = if kind == "client" { &client } else { &server };
    let connections = connections_once_counted(&traced, sender);

    let number = |line: &Value, field: &str| line[field].as_u64().unwrap_or_else(|| panic!("no {field} in {line}"));
    let sum = |field: &str| connections.iter().map(|line| number(line, field)).sum::<u64>();
    let truth = sender.counter("Tcp", "RetransSegs");
    let of_spans: u64 =
        spans.iter().filter_map(|span| span.attribute("spantap.tcp.retransmits").and_then(Value::as_u64)).sum();
    let (total, inside) = (sum("retransmits_total"), sum("retransmits_in_requests"));
    let outside = sum("retransmits_handshake") + sum("retransmits_outside");
    println!("{kind}: {truth} by the kernel, {total} by connections: {inside} in requests, {outside} outside");
    println!("{kind}: {of_spans} by spans");
    assert!(truth > 50, "the path lost too little: {truth}");
    assert_eq!(total, truth, "{connections:#?}");
    assert_eq!(inside + outside, truth, "{connections:#?}");
    assert_eq!(of_spans, inside, "by spans and by connections");
}

/// `spantap conns --json` once the kernel has nothing more to send and the agent's total has come to the kernel's, or has
/// had its time.
fn connections_once_counted(traced: &Traced, sender: &Namespace) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let text = traced.agent.answer(["conns", "--json"]);
        text.lines().map(|line| serde_json::from_str(line).expect("a connection is JSON")).collect()
    };
    let counted = |lines: &[Value]| {
        let total: u64 = lines.iter().filter_map(|line| line["retransmits_total"].as_u64()).sum();
        total == sender.counter("Tcp", "RetransSegs")
    };
    let found = spantap_tests::clock::poll(SPANS_WITHIN, || Some(read()).filter(|lines| counted(lines)));
    found.unwrap_or_else(read)
}

#[test]
fn of_a_client() {
    check("client");
}

#[test]
fn of_a_server() {
    check("server");
}
