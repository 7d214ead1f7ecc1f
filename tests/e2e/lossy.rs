//! On a path that loses packets, waiting for a retransmission is nobody's reading time.
//!
//! Truth: the ruleset that drops packets, and the client's own times: a request that lost the end of a flight takes the
//! retransmission timeout, 200 ms and more (RFC 6298, with Linux's minimum). The client reads at once, so none of that
//! is `receive_buffer`.

use std::time::Duration;

use spantap_tests::{
    http::{Server, request},
    namespace::Namespace,
    span::only,
    traced::Traced,
};

const REQUESTS: usize = 60;
/// A request without loss is far below this, one that waited for a retransmission timeout above.
const SLOW_NS: u64 = 150_000_000;
/// What reading may take on a busy host.
const READING_NS: u64 = 100_000_000;

/// A packet with data.
const DATA: &str = "tcp flags & psh == psh";
/// A packet that begins with `HTTP/1.1 100`: 20 bytes of TCP header and 12 of its timestamps go before.
const INTERIM: &str = "@th,256,96 0x485454502f312e3120313030";

/// Drops the packets that match of those that come into `namespace`.
fn drop_arriving(namespace: &Namespace, matching: &str) {
    namespace.nft(&format!(
        "table ip lossy {{ chain in {{ type filter hook prerouting priority -300; {matching} drop; }}; }}"
    ));
}

fn check(path: &str, lose: impl Fn(&Namespace, &Namespace)) {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.join_by_veth(&server);
    lose(&client, &server);
    let traced = Traced::new("lossy");
    let listener = Server::start_with(traced.place().namespace(&server), "10.99.0.2:8080", &[]);
    let args = [&format!("count={REQUESTS}"), path];
    let own = request(traced.place().namespace(&client), &listener.address, &args);
    let spans = traced.agent.wait_for_http(2 * REQUESTS, Duration::from_secs(15));
    assert_eq!((own.len(), spans.len()), (REQUESTS, 2 * REQUESTS));

    let slow = own.iter().filter(|exchange| exchange.end_ns - exchange.start_ns > SLOW_NS).count();
    println!("{slow} of {REQUESTS} requests waited for a retransmission timeout");
    assert!(slow > 0, "no request lost enough to be slow: {own:?}");
    for exchange in &own {
        for kind in ["client", "server"] {
            let span = only(&spans, kind, &exchange.path);
            assert_eq!((span.http_status(), span.status.as_str()), (Some(200), "ok"), "{span:?}");
            let reading = span.measured_ns("receive_buffer");
            assert!(reading <= READING_NS, "{reading} ns of receive_buffer, {exchange:?}: {span:#?}");
        }
    }
}

/// Each answer is two packets. Of every third answer the first packet is lost, and again when the second, which came, has
/// caused it to be sent anew; so the second waits in the socket, out of order, until the timeout.
#[test]
fn bytes_out_of_order_behind_a_loss_are_not_waiting_to_be_read() {
    check("path=/continue/", |client, _| drop_arriving(client, &format!("{INTERIM} numgen inc mod 5 < 2")));
}

#[test]
fn loss_in_both_directions_is_not_waiting_to_be_read() {
    check("path=/r/", |client, server| {
        // In turn, not by chance: what is sent again arrives, so that no request takes longer than its client waits.
        for (namespace, port, of) in [(client, "tcp sport 8080", 4), (server, "tcp dport 8080", 5)] {
            drop_arriving(namespace, &format!("{port} {DATA} numgen inc mod {of} < 1"));
        }
    });
}

/// A large answer is read while it arrives. Of what is lost within it, packets sent again included, much waits for the
/// retransmission timer, while later bytes are here, behind the hole.
#[test]
fn a_large_answer_with_losses_waits_for_them_and_not_for_its_reader() {
    const LOSS: &str = "tcp sport 8080 meta length > 500 numgen random mod 5 == 0";
    const BYTES: u64 = 3_000_000;
    let (client, server) = (Namespace::new(), Namespace::new());
    client.join_by_veth(&server);
    drop_arriving(&client, LOSS);
    let traced = Traced::new("lossy");
    let listener = Server::start_with(traced.place().namespace(&server), "10.99.0.2:8080", &[]);
    let args = [&format!("path=/big/{BYTES}/"), "count=8", "read_bytes=65536"];
    let own = request(traced.place().namespace(&client), &listener.address, &args);
    let spans = traced.agent.wait_for_http(2 * own.len(), Duration::from_secs(15));
    let mut waited = 0;
    for exchange in &own {
        let took_ns = exchange.end_ns - exchange.start_ns;
        let span = only(&spans, "client", &exchange.path);
        assert_eq!(exchange.bytes, BYTES);
        let reading = span.total_ns("receive_buffer");
        println!("{took_ns} ns: {reading} of receive_buffer, {} of transfer", span.total_ns("transfer"));
        assert!(reading <= READING_NS, "{reading} ns of receive_buffer, {exchange:?}: {span:#?}");
        if took_ns > SLOW_NS {
            waited += 1;
            assert_eq!(span.text("spantap.cause"), "transfer_loss", "{span:#?}");
            let why = traced.agent.answer(["why", &span.span_id, "--json"]);
            assert!(!why.contains("network ruled out"), "{why}");
        }
    }
    assert!(waited > 0, "no answer lost enough to be slow: {own:?}");
}
