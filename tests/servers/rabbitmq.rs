//! RabbitMQ with pika: as many spans at each end as there were messages, and the error of a request that fails.
//!
//! Truth: what pika got back.

use std::{collections::BTreeMap, net::TcpStream, time::Duration};

use spantap_tests::{
    clock,
    process::{Launch, Process},
    python,
    span::Span,
    temp::{TempDir, free_port},
    traced::Traced,
};

use super::node::traced;

const BOUND: Duration = Duration::from_secs(60);
const SPANS_WITHIN: Duration = Duration::from_secs(30);
/// The server reads no more in one call than the agent captures of it: by default it reads far more, and what is cut is counted.
const CONFIG: &str = "tcp_listen_options.buffer = 8192\ntcp_listen_options.recbuf = 8192\n";

const LOAD: &str = include_str!("../support/amqp_load.py");

/// RabbitMQ with folders and ports of its own.
struct RabbitMq {
    _process: Process,
    _folder: TempDir,
    port: u16,
}

impl RabbitMq {
    fn start(traced: &Traced) -> Self {
        let (folder, port) = (TempDir::new("rabbitmq"), free_port());
        let path = |name: &str| folder.join(name);
        let launch = Launch::new("/usr/lib/rabbitmq/bin/rabbitmq-server")
            .env("HOME", folder.path())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", free_port().to_string())
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_NODENAME", format!("spantap{port}@localhost"))
            .env("RABBITMQ_MNESIA_BASE", path("db"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", folder.write("rabbitmq.conf", CONFIG))
            .stdout_to(&path("stdout"))
            .stderr_to(&path("stderr"));
        let process = traced.place().apply(launch).spawn();
        clock::wait_for("RabbitMQ listens", BOUND, || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { _process: process, _folder: folder, port }
    }

    /// Runs the load, holds it against the spans that it adds, and gives all spans.
    fn load(&self, traced: &Traced, before: usize, connections: usize, messages: usize) -> usize {
        let args = [self.port.to_string(), connections.to_string(), messages.to_string()];
        let said = traced.place().apply(python::script(LOAD).args(args)).run();
        let said: BTreeMap<String, usize> = serde_json::from_str(said.trim()).expect("what the load prints");
        assert_eq!((said["came"], said["failed"]), (connections * messages, 404));
        let truth = before + said["came"];
        let of = |spans: &[Span], kind: &str, operation: &str| {
            let named = |span: &&Span| span.kind == kind && span.name.starts_with(&format!("{operation} billing"));
            spans.iter().filter(named).filter(|span| span.status == "ok").count()
        };
        let ends = [("producer", "publish"), ("server", "publish"), ("producer", "deliver"), ("consumer", "deliver")];
        let refused = |spans: &[Span]| -> Vec<String> {
            let named = spans.iter().filter(|span| span.kind == "client" && span.name == "queue.declare absent");
            named.filter_map(|span| Some(span.attribute("error.type")?.as_str()?.to_owned())).collect()
        };
        let spans = traced.agent.wait_for("spans of all messages", SPANS_WITHIN, |spans| {
            !refused(spans).is_empty() && ends.iter().all(|(kind, operation)| of(spans, kind, operation) >= truth)
        });
        for (kind, operation) in ends {
            let lost = traced.agent.losses();
            assert_eq!(of(&spans, kind, operation), truth, "{kind} spans `{operation}`; lost: {lost:?}");
        }
        assert!(refused(&spans).iter().all(|error| error == "not-found"), "{:?}", refused(&spans));
        truth
    }
}

#[test]
fn rabbitmq_with_one_and_with_fifty_connections_moves_as_many_messages() {
    let traced = traced("amqp");
    let server = RabbitMq::start(&traced);
    let so_far = server.load(&traced, 0, 1, 200);
    server.load(&traced, so_far, 50, 20);
}
