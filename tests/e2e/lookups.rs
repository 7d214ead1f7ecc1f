//! Lookups without an answer are what is known of them: refused, given up, or a timeout.
//!
//! Truth: whether anything listens on the name server's port (nothing does), what the ruleset drops, and the resolver's
//! own timeout.

use std::{path::Path, time::Duration};

use spantap_tests::{
    http::Place,
    namespace::Namespace,
    process::{Launch, tool},
    resolver::resolv_conf,
    span::Span,
    temp::TempDir,
    traced::Traced,
};

const NAME_SERVER: &str = "10.99.0.2";
const NAME: &str = "x.internal";
/// A lookup is waited for that long.
const SPANS_WITHIN: Duration = Duration::from_secs(20);
const DROP_ALL: &str = "table ip drops { chain in { type filter hook prerouting priority -300; udp dport 53 drop; }; }";

/// Asks for A of the name and closes the socket 50 ms later.
const IMPATIENT: &str = r"
import select, socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.connect(('10.99.0.2', 53))
asking.send(b'\0\7\1\0\0\1\0\0\0\0\0\0\1x\x08internal\0\0\1\0\1')
select.select([asking], [], [], 0.05)
asking.close()
";

/// The spans of `count` lookups by `program` of which none has an answer.
fn lookups(rules: &str, options: &str, count: usize, program: impl FnOnce(Place) -> Launch) -> (Traced, Vec<Span>) {
    let (client, server) = (Namespace::new(), Namespace::new());
    client.join_by_veth(&server);
    if !rules.is_empty() {
        server.nft(rules);
    }
    let (traced, folder) = (Traced::new("lookups"), TempDir::new("lookups"));
    let resolver = resolv_conf(&folder, NAME_SERVER, options);
    let resolver: Option<&Path> = Some(&resolver);
    program(Place { resolver, ..traced.place().namespace(&client) }).output();
    let is_lookup = |span: &&Span| span.protocol == "dns" && span.text("dns.question.name") == NAME;
    let spans = traced
        .agent
        .wait_for("spans of the lookups", SPANS_WITHIN, |spans| spans.iter().filter(is_lookup).count() >= count);
    let lookups: Vec<Span> = spans.iter().filter(is_lookup).cloned().collect();
    assert_eq!(lookups.len(), count, "{lookups:#?}");
    lookups.iter().for_each(Span::assert_sound);
    (traced, lookups)
}

fn curl(place: Place) -> Launch {
    place.apply(Launch::new(tool("curl")).args(["-s", "--max-time", "15"]).arg(format!("http://{NAME}/")))
}

/// Fails unless all have this type of error and this cause, in `why` too.
fn check((traced, lookups): &(Traced, Vec<Span>), error_type: &str, cause: &str) {
    for span in lookups {
        assert_eq!((span.text("error.type"), span.text("spantap.cause")), (error_type, cause), "{span:#?}");
        let why = traced.agent.answer(["why", &span.span_id, "--json"]);
        assert!(why.contains(&format!("\"{cause}\"")), "{why}");
    }
}

/// glibc sees the error in a poll, and no call of its returns it.
#[test]
fn a_name_server_that_is_not_there_refuses() {
    let found = lookups("", "", 2, curl);
    check(&found, "ECONNREFUSED", "dns_refused");
}

#[test]
fn a_resolver_that_waited_for_its_timeout_had_one() {
    let found = lookups(DROP_ALL, "timeout:1 attempts:1", 2, curl);
    check(&found, "timeout", "dns_timeout");
    assert!(found.1.iter().all(|span| span.duration_ns >= 1_000_000_000), "{:#?}", found.1);
}

#[test]
fn who_closes_its_socket_at_once_gave_up() {
    let found = lookups(DROP_ALL, "", 1, |place| place.apply(Launch::new(tool("python3")).args(["-c", IMPATIENT])));
    check(&found, "lookup_abandoned", "dns_abandoned");
    assert!((50_000_000..500_000_000).contains(&found.1[0].duration_ns), "{:#?}", found.1);
}
