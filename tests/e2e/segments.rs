//! Time that a test puts in one place is found in that place, within 10 %, and `why` names it.
//!
//! Truth: the forwarder's own log (`network`), the server's own times (`remote`, `off_cpu`), `schedstat`
//! (`run_queue`), the client's and the server's own times (`receive_buffer`).

use std::{collections::BTreeMap, time::Duration};

use spantap_tests::{
    http::{Client, Place, Served, Server, actor, request},
    namespace::Namespace,
    schedstat,
    span::{Span, only},
    stats::{assert_within, median},
    traced::Traced,
    tun::{self, Tun},
};

const BOUND: Duration = Duration::from_secs(15);
const TOLERANCE: f64 = 0.1;

/// A client and a server namespace joined by veth.
struct Joined {
    client: Namespace,
    server: Namespace,
}

impl Joined {
    fn by_veth() -> Self {
        let joined = Self { client: Namespace::new(), server: Namespace::new() };
        joined.client.join_by_veth(&joined.server);
        joined
    }
}

fn served_by_path(server: &Server, count: usize) -> BTreeMap<String, Served> {
    server.served(count).into_iter().map(|served| (served.path.clone(), served)).collect()
}

fn assert_verdict(traced: &Traced, span: &Span, segment: &str) {
    let words = traced.agent.why(span);
    assert_eq!(span.dominant(), segment, "{span:#?}\n{words}");
    assert_eq!(traced.agent.verdict(span), segment, "{words}");
    assert!(words.contains(segment), "the words do not name {segment}:\n{words}");
}

/// Fails unless `seen` lies between, with the tolerance of all times here.
fn assert_between(what: &str, seen: u64, least: Duration, most_ns: u64) {
    let (least, most) = (least.as_nanos() as f64 * (1.0 - TOLERANCE), most_ns as f64 * (1.0 + TOLERANCE));
    assert!((least..=most).contains(&(seen as f64)), "{what}: {seen} ns seen, {least} to {most} ns is true");
}

#[test]
fn a_slow_path_is_network() {
    const TO_SERVER: Duration = Duration::from_millis(30);
    const HELD_BACK: Duration = Duration::from_millis(50);
    let (client, server) = (Namespace::new(), Namespace::new());
    let tun = Tun::join(&client, &server, TO_SERVER, HELD_BACK - TO_SERVER);
    let traced = Traced::new("network");
    let address = format!("{}:8080", tun::SERVER);
    let listener = Server::start_with(traced.first_place().namespace(&server), &address, &[]);
    let own = request(traced.first_place().namespace(&client), &listener.address, &["count=20"]);
    let spans = traced.agent.wait_for_http(40, BOUND);
    // Of one request: not less than each packet is held back, not more than the client waited. Of all: what was forwarded.
    let seen: Vec<u64> =
        own.iter().map(|exchange| only(&spans, "client", &exchange.path).total_ns("network")).collect();
    for (exchange, seen) in own.iter().zip(&seen) {
        assert_between(&format!("network of {}", exchange.path), *seen, HELD_BACK, exchange.end_ns - exchange.start_ns);
    }
    assert_within("network", median(&seen), tun.round_trip_ns(), TOLERANCE);
    // The first request also waits for the handshake, so its verdict may be `connect`.
    for exchange in &own[1..4] {
        assert_verdict(&traced, only(&spans, "client", &exchange.path), "network");
    }
    let first = only(&spans, "client", &own[0].path);
    let connect = own[0].connect.as_ref().expect("the first request waits for the handshake");
    assert_between("connect", first.total_ns("connect"), HELD_BACK, connect.connected_ns - connect.connect_ns);
}

#[test]
fn a_slow_server_is_remote_to_its_client_and_off_cpu_to_itself() {
    let joined = Joined::by_veth();
    let traced = Traced::new("remote");
    let place = traced.first_place();
    let server = Server::start_with(place.namespace(&joined.server), "10.99.0.2:8080", &["log=1"]);
    let own = request(place.namespace(&joined.client), &server.address, &["count=10", "path=/sleep/80/"]);
    let served = served_by_path(&server, own.len());
    let spans = traced.agent.wait_for_http(20, BOUND);
    let mut hidden = Vec::new();
    for exchange in &own {
        let truth = served[&exchange.path].written_ns - served[&exchange.path].read_ns;
        let (client, server) = (only(&spans, "client", &exchange.path), only(&spans, "server", &exchange.path));
        assert_within("remote of the client", client.total_ns("remote"), truth, TOLERANCE);
        assert_verdict(&traced, client, "remote");
        // Some kernels hide a switch away from a thread now and then, and all that it sleeps with it.
        if server.total_ns("off_cpu") == 0 {
            hidden.push(server);
            continue;
        }
        assert_within("off_cpu of the server", server.total_ns("off_cpu"), truth, TOLERANCE);
        assert_verdict(&traced, server, "off_cpu");
    }
    assert!(hidden.len() <= 1, "more than one sleep was not seen: {hidden:#?}");
}

/// Truth: the route's own CPU time before and after it asks the other server, which sleeps.
#[test]
fn a_handlers_waiting_lies_where_its_call_was() {
    const COMPUTES_NS: u64 = 30_000_000;
    let traced = Traced::new("order");
    let place = traced.first_place();
    let behind = Server::start_with(place, "127.0.0.1:0", &[]);
    let downstream = format!("downstream={}", behind.address);
    let server = Server::start_with(place, "127.0.0.1:0", &[&downstream]);
    let own = request(place, &server.address, &["count=5", "path=/around/30000/sleep/60/"]);
    let spans = traced.agent.wait_for_http(4 * own.len(), BOUND);
    for (number, exchange) in own.iter().enumerate() {
        let handler = only(&spans, "server", &exchange.path);
        let call = only(&spans, "client", &format!("/sleep/60/{number}"));
        let waits = handler.tiles("off_cpu").max_by_key(|segment| segment.duration_ns).expect("it waited");
        let (begin, end) = (waits.start_ns, waits.start_ns + waits.duration_ns);
        // What is before and after it holds the CPU time of the route, and nothing else that is as long.
        for (what, around) in [("before", begin), ("after", handler.duration_ns - end)] {
            assert!(around * 10 >= COMPUTES_NS * 9, "{around} ns {what} the call: {handler:#?}");
        }
        let called = call.start_unix_ns - handler.start_unix_ns;
        let returned = called + call.duration_ns;
        assert!(
            begin >= called && end <= returned,
            "waited {begin} to {end}, called {called} to {returned}: {handler:#?}"
        );
    }
}

#[test]
fn a_slow_server_behind_a_slow_path_is_told_from_the_path() {
    let (client, server) = (Namespace::new(), Namespace::new());
    const EACH_WAY: Duration = Duration::from_millis(15);
    let _tun = Tun::join(&client, &server, EACH_WAY, EACH_WAY);
    let traced = Traced::new("both");
    let address = format!("{}:8080", tun::SERVER);
    let listener = Server::start_with(traced.first_place().namespace(&server), &address, &["log=1"]);
    let args = ["count=10", "path=/sleep/120/"];
    let own = request(traced.first_place().namespace(&client), &listener.address, &args);
    let served = served_by_path(&listener, own.len());
    let spans = traced.agent.wait_for_http(20, BOUND);
    for exchange in &own {
        let span = only(&spans, "client", &exchange.path);
        let truth = served[&exchange.path].written_ns - served[&exchange.path].read_ns;
        assert_within("remote", span.total_ns("remote"), truth, TOLERANCE);
        let others = exchange.end_ns - exchange.start_ns - truth;
        assert_between("network", span.total_ns("network"), 2 * EACH_WAY, others);
        assert_verdict(&traced, span, "remote");
    }
}

#[test]
fn a_hog_beside_the_server_is_run_queue() {
    const REQUESTS: usize = 15;
    let joined = Joined::by_veth();
    let traced = Traced::new("hog");
    let place = traced.first_place().namespace(&joined.server).cpu(0);
    let server = Server::start_with(place, "10.99.0.2:8080", &["log=1"]);
    let untraced = Place { limits: [Some(&traced.first), None], ..Place::default() };
    let _hogs = [(); 3].map(|()| untraced.cpu(0).apply(actor("hog").arg("seconds=60")).spawn());
    let before = schedstat::run_delay_ns(server.pid());
    // The thread of the connection must still live when its wait is read, so the client stays a while.
    let args = ["count=15", "path=/spin/25000/", "linger_ms=1500"];
    let client = Client::start(traced.first_place().namespace(&joined.client).cpu(1), &server.address, &args);
    server.served(REQUESTS);
    let truth = schedstat::run_delay_ns(server.pid()) - before;
    let own = client.finish();

    let spans = traced.agent.wait_for_http(2 * REQUESTS, BOUND);
    let servers: Vec<&Span> = own.iter().map(|exchange| only(&spans, "server", &exchange.path)).collect();
    let seen = servers.iter().map(|span| span.total_ns("run_queue")).sum();
    assert_within("run_queue of all requests", seen, truth, TOLERANCE);
    let mostly: Vec<&&Span> =
        servers.iter().filter(|span| span.total_ns("run_queue") > span.duration_ns * 11 / 20).collect();
    assert!(mostly.len() > REQUESTS / 2, "three hogs take three quarters of the CPU; {} spans show it", mostly.len());
    mostly.iter().for_each(|span| assert_verdict(&traced, span, "run_queue"));
}

#[test]
fn a_late_reader_is_receive_buffer() {
    let joined = Joined::by_veth();
    let traced = Traced::new("late");
    let place = traced.first_place();
    let server = Server::start_with(place.namespace(&joined.server), "10.99.0.2:8080", &["log=1"]);
    let args = ["mode=late", "late_ms=100", "count=10"];
    let own = request(place.namespace(&joined.client), &server.address, &args);
    let served = served_by_path(&server, own.len());
    let spans = traced.agent.wait_for_http(20, BOUND);
    for exchange in &own {
        let truth = exchange.read_ns - served[&exchange.path].written_ns;
        let span = only(&spans, "client", &exchange.path);
        assert_within("receive_buffer", span.total_ns("receive_buffer"), truth, TOLERANCE);
        assert_verdict(&traced, span, "receive_buffer");
    }
}

#[test]
fn a_fast_exchange_on_a_quiet_path_hides_nothing() {
    let joined = Joined::by_veth();
    let traced = Traced::new("quiet");
    let server = Server::start_with(traced.first_place().namespace(&joined.server), "10.99.0.2:8080", &[]);
    let own = request(traced.first_place().namespace(&joined.client), &server.address, &["count=500", "rate=500"]);
    let spans = traced.agent.wait_for_http(1000, BOUND);
    let share: Vec<u64> = own
        .iter()
        .map(|exchange| only(&spans, "client", &exchange.path))
        .map(|span| span.total_ns("unexplained") * 100 / span.duration_ns.max(1))
        .collect();
    assert!(median(&share) <= 20, "{} % of a usual client span is unexplained", median(&share));
}
