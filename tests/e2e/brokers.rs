//! memcached, NATS and MQTT: as many spans as the server or the client itself counted, at both ends, and what fails fails.
//!
//! Truth: `stats` of memcached, `/varz` of nats-server, the numbers of messages that mosquitto_pub and mosquitto_sub were told.

use serde_json::Value;
use spantap_tests::{
    http::Place,
    process::{Launch, Process, tool},
    python,
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

use super::protocols::{BOUND, SPANS_WITHIN, ask, assert_both_ends, assert_count, counted, serve, traced};

/// The client's span with this name, once it is there.
fn client_span(traced: &Traced, kind: &str, name: &str) -> Span {
    let is = |span: &&Span| span.kind == kind && span.name == name;
    let spans = traced.agent.wait_for(name, SPANS_WITHIN, |spans| spans.iter().any(|span| is(&span)));
    spans.iter().find(is).cloned().expect("it was there")
}

fn assert_failed(span: &Span, error_type: &str) {
    assert_eq!(span.status, "error", "{span:#?}");
    assert_eq!(span.attribute("error.type").and_then(Value::as_str), Some(error_type), "{span:#?}");
}

fn memcached(place: Place) -> (u16, Process) {
    let port = free_port();
    let launch = Launch::new(tool("memcached")).args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-p"]);
    (port, serve(place, port, launch.arg(port.to_string())))
}

/// `STAT cmd_get 3`
fn memcached_calls(port: u16, command: &str) -> usize {
    let stats = ask(port, "stats\r\n", "END\r\n");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT cmd_{command} ")));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("no {command} in {stats}"))
}

/// How each client takes its leave is not counted: in binary it says `quit` and does not wait for the answer, which then resets
/// the connection.
fn memcslap(label: &str, args: &[&str]) {
    let traced = traced(label);
    let (port, _server) = memcached(traced.place());
    let server = format!("--servers=127.0.0.1:{port}");
    traced.place().apply(Launch::new(tool("memcslap")).args([server.as_str(), "--test=get"]).args(args)).run();
    let (get, set) = (memcached_calls(port, "get"), memcached_calls(port, "set"));
    assert!(get > 0 && set > 0, "{get} gets, {set} sets");
    let counts = counted(&traced, "memcached", &["get", "set"], 2 * (get + set));
    assert_both_ends(&counts, "get", get, &traced);
    assert_both_ends(&counts, "set", set, &traced);
}

#[test]
fn memcached_with_one_client_counts_the_same_commands() {
    memcslap("memcached", &["--concurrency=1", "--execute-number=500"]);
}

#[test]
fn memcached_with_fifty_clients_counts_the_same_commands() {
    memcslap("memcached", &["--concurrency=50", "--execute-number=20"]);
}

#[test]
fn memcached_in_binary_counts_the_same_commands() {
    memcslap("memcached", &["--concurrency=2", "--execute-number=200", "--binary"]);
}

#[test]
fn what_memcached_refuses_is_an_error_of_the_client() {
    let traced = traced("memcached");
    let (port, _server) = memcached(traced.place());
    let script = "exec 3<>/dev/tcp/127.0.0.1/$0; printf 'set a 0 0 1\\r\\nx\\r\\n' >&3; read -r line <&3; \
        printf 'incr a 1\\r\\n' >&3; read -r line <&3; echo \"$line\"";
    let said = traced.place().apply(Launch::new(tool("bash")).args(["-c", script, &port.to_string()])).run();
    assert!(said.starts_with("CLIENT_ERROR "), "{said}");
    assert_failed(&client_span(&traced, "client", "incr"), "CLIENT_ERROR");
    assert_eq!(client_span(&traced, "server", "incr").status, "ok", "the server did what it should");
}

const NATS_CLIENT: &str = include_str!("nats_client.py");

struct Nats {
    port: u16,
    monitor: u16,
    _process: Process,
    _folder: TempDir,
}

impl Nats {
    fn start(place: Place) -> Self {
        let (port, monitor, folder) = (free_port(), free_port(), TempDir::new("nats"));
        let launch = Launch::new(python::program("nats-server")).args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        let launch = launch.args(["-m", &monitor.to_string(), "--user", "bob", "--pass", "right"]);
        let process = serve(place, port, launch.stderr_to(&folder.join("log")));
        Self { port, monitor, _process: process, _folder: folder }
    }

    fn client(&self, place: Place, mode: &str) -> String {
        place.apply(python::script(NATS_CLIENT).args([&self.port.to_string(), mode])).run()
    }

    /// Messages that came in and went out, as the server counts them.
    fn messages(&self) -> (usize, usize) {
        let request = "GET /varz HTTP/1.0\r\n\r\n";
        let text = ask(self.monitor, request, "\n}");
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let varz: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("not JSON: {error}: {text}"));
        let count = |name: &str| varz[name].as_u64().unwrap_or_else(|| panic!("no {name} in {text}")) as usize;
        (count("in_msgs"), count("out_msgs"))
    }
}

fn nats(mode: &str) {
    let traced = traced("nats");
    let server = Nats::start(traced.place());
    server.client(traced.place(), mode);
    let (sent, delivered) = server.messages();
    assert!(sent > 0 && delivered > 0, "{sent} sent, {delivered} delivered");
    let counts = counted(&traced, "nats", &["publish orders.new", "deliver orders.new"], 2 * (sent + delivered));
    assert_count(&counts, "producer", "publish orders.new", sent, &traced);
    assert_count(&counts, "server", "publish orders.new", sent, &traced);
    assert_count(&counts, "producer", "deliver orders.new", delivered, &traced);
    assert_count(&counts, "consumer", "deliver orders.new", delivered, &traced);
}

#[test]
fn nats_with_one_client_counts_the_same_messages() {
    nats("1");
}

#[test]
fn nats_with_fifty_clients_counts_the_same_messages() {
    nats("50");
}

#[test]
fn who_nats_does_not_let_in_has_a_failed_connect() {
    let traced = traced("nats");
    let server = Nats::start(traced.place());
    let said = server.client(traced.place(), "wrong");
    assert!(said.contains("Authorization Violation"), "{said}");
    assert_failed(&client_span(&traced, "client", "CONNECT"), "authorization_violation");
}

struct Mosquitto {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Mosquitto {
    fn start(place: Place, anonymous: bool) -> Self {
        let (port, folder) = (free_port(), TempDir::new("mosquitto"));
        let text = format!("user root\nlistener {port} 127.0.0.1\nallow_anonymous {anonymous}\n");
        let config = folder.write("mosquitto.conf", text);
        let launch = Launch::new(tool("mosquitto")).arg("-c").arg(config).stderr_to(&folder.join("log"));
        Self { port, _process: serve(place, port, launch), _folder: folder }
    }

    /// mosquitto_pub or mosquitto_sub with these arguments.
    fn client(&self, place: Place, program: &str, args: &[&str]) -> Launch {
        let launch = Launch::new(tool(program)).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        place.apply(launch.args(["-t", "shop/orders"]).args(args))
    }
}

/// `clients` at once publish ten messages each, with this quality of service, to one that has subscribed.
fn mqtt(clients: usize, qos: &str) {
    const EACH: usize = 10;
    let traced = traced("mqtt");
    let server = Mosquitto::start(traced.place(), true);
    let count = (clients * EACH).to_string();
    let subscribe = server.client(traced.place(), "mosquitto_sub", &["-q", qos, "-C", &count]);
    let subscriber = subscribe.stdout_piped().spawn();
    client_span(&traced, "client", "subscribe");
    let args = ["-V", "5", "-q", qos, "-m", "hello", "--repeat", &EACH.to_string(), "--repeat-delay", "0.01"];
    let publish = |_| server.client(traced.place(), "mosquitto_pub", &args).spawn();
    let publishers: Vec<Process> = (0..clients).map(publish).collect();
    for mut publisher in publishers {
        assert!(publisher.wait(BOUND).success());
    }
    assert_eq!(subscriber.finish(BOUND).lines().count(), clients * EACH, "lines of the subscriber");
    let names = ["publish shop/orders", "deliver shop/orders", "connect"];
    let counts = counted(&traced, "mqtt", &names, 4 * clients * EACH + 2 * (clients + 1));
    for (kind, name) in [
        ("producer", "publish shop/orders"),
        ("server", "publish shop/orders"),
        ("producer", "deliver shop/orders"),
        ("consumer", "deliver shop/orders"),
    ] {
        assert_count(&counts, kind, name, clients * EACH, &traced);
    }
    assert_both_ends(&counts, "connect", clients + 1, &traced);
}

#[test]
fn mqtt_with_one_client_counts_the_same_messages() {
    for qos in ["0", "1", "2"] {
        mqtt(1, qos);
    }
}

#[test]
fn mqtt_with_fifty_clients_counts_the_same_messages() {
    mqtt(50, "1");
}

#[test]
fn who_mosquitto_does_not_let_in_has_a_failed_connect() {
    let traced = traced("mqtt");
    let server = Mosquitto::start(traced.place(), false);
    let output = server.client(traced.place(), "mosquitto_pub", &["-V", "5", "-m", "hello"]).output();
    assert!(!output.status.success(), "{output:?}");
    assert_failed(&client_span(&traced, "client", "connect"), "not_authorized");
}

#[test]
fn a_messages_trace_is_its_senders() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let traced = traced("mqtt");
    let server = Mosquitto::start(traced.place(), true);
    let context = format!("00-{TRACE}-b7ad6b7169203331-01");
    let args = ["-V", "5", "-q", "1", "-m", "hello", "-D", "publish", "user-property", "traceparent", &context];
    server.client(traced.place(), "mosquitto_pub", &args).run();
    assert_eq!(client_span(&traced, "producer", "publish shop/orders").trace_id, TRACE);
    assert_eq!(client_span(&traced, "server", "publish shop/orders").trace_id, TRACE);
}
