//! gRPC: every call is one span at each end, named by its method, with its status and numbers of messages.
//!
//! Truth: what the client says of its calls; `grpc_echo.py` says what each is.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use spantap_tests::{
    http2::{GrpcServer, grpc_calls as calls},
    span::Span,
    traced::Traced,
};

const BOUND: Duration = Duration::from_secs(60);

fn traced(label: &str) -> Traced {
    Traced::with(label, |mut options| {
        options.capture += "  ring_bytes: 16MiB\n";
        options
    })
}

fn messages(span: &Span) -> [Option<u64>; 2] {
    ["request", "response"].map(|way| span.attribute(&format!("spantap.rpc.{way}.messages")).and_then(Value::as_u64))
}

/// What a span says: name, status code, the span's own status, numbers of messages.
fn told(span: &Span) -> (String, String, String, [Option<u64>; 2]) {
    let error = if span.status == "error" { span.text("error.type") } else { "" };
    (
        span.name.clone(),
        span.text("rpc.response.status_code").to_owned(),
        format!("{} {error}", span.status),
        messages(span),
    )
}

#[test]
fn each_kind_of_call_is_told_as_it_was() {
    let traced = traced("grpc-kinds");
    let server = GrpcServer::start(traced.place());
    let own = server.call(traced.place(), &[]);
    assert_eq!(own.len(), 13, "{own:?}");
    let spans = traced.agent.wait_for("spans of all calls", BOUND, |spans| {
        calls(spans, "client").len() >= own.len() && calls(spans, "server").len() >= own.len()
    });
    let expected = |method: &str, code: &str, client: &str, server: &str, messages: [u64; 2]| {
        let name = format!("spantap.test.Echo/{method}");
        [client, server].map(|status| (name.clone(), code.to_owned(), status.to_owned(), messages.map(Some)))
    };
    let failed = |code: &str, server_too: bool| {
        let error = format!("error {code}");
        expected("Fail", code, &error, if server_too { &error } else { "ok " }, [1, 0])
    };
    let truth = [
        expected("Unary", "OK", "ok ", "ok ", [1, 1]),
        failed("NOT_FOUND", false),
        failed("INTERNAL", true),
        failed("UNAVAILABLE", true),
        failed("INVALID_ARGUMENT", false),
        failed("DATA_LOSS", true),
        expected("Missing", "UNIMPLEMENTED", "error UNIMPLEMENTED", "error UNIMPLEMENTED", [1, 0]),
        expected("ServerStream", "OK", "ok ", "ok ", [1, 7]),
        expected("ClientStream", "OK", "ok ", "ok ", [5, 1]),
        expected("Bidi", "OK", "ok ", "ok ", [3, 3]),
    ];
    for (end, kind) in ["client", "server"].into_iter().enumerate() {
        let seen = calls(&spans, kind);
        assert_eq!(seen.len(), own.len(), "{kind} spans: {seen:#?}");
        for ((span, expected), own) in seen.iter().zip(&truth).zip(&own) {
            let [told, expected] = [told(span), expected[end].clone()];
            assert_eq!(
                format!("spantap.test.Echo/{own}"),
                format!("{} {}", expected.0, expected.1),
                "what the client got"
            );
            assert_eq!(told, expected, "{kind}: {span:?}");
            assert_eq!((span.text("rpc.system.name"), span.text("rpc.method")), ("grpc", span.name.as_str()));
        }
        // A deadline that passed, and a call that was given up. Of the deadline either end may tell the other first.
        for (late, errors) in [(&seen[10], &["CANCEL", "DEADLINE_EXCEEDED"][..]), (&seen[11], &["CANCEL"])] {
            assert_eq!((late.name.as_str(), late.status.as_str()), ("spantap.test.Echo/Slow", "error"), "{late:?}");
            assert!(errors.contains(&late.text("error.type")), "{late:?}");
            assert!(late.duration_ns < 1_400_000_000, "it ended when it was given up: {late:?}");
        }
        // What was left of 300 ms, rounded up by grpcio.
        let deadline = seen[10].attribute("spantap.rpc.deadline_ms").and_then(Value::as_u64);
        assert!(deadline.is_some_and(|deadline| (1..=310).contains(&deadline)), "{:?}", seen[10]);
        // A message of 100,000 bytes each way: whatever of it was captured, it is one call that went well or is not known to.
        assert_eq!(seen[12].name, "spantap.test.Echo/Unary");
        assert!(matches!(seen[12].status.as_str(), "ok" | "unknown"), "{:?}", seen[12]);
    }
}

/// Calls at once, on so many connections: as many spans at each end, and nothing else.
fn check_many(label: &str, count: usize, connections: usize) {
    let traced = traced(label);
    let server = GrpcServer::start(traced.place());
    let own = server.call(traced.place(), &["calls", &count.to_string(), &connections.to_string()]);
    assert_eq!(own.len(), count * connections);
    let spans = traced.agent.wait_for("spans of all calls", BOUND, |spans| {
        calls(spans, "client").len() >= own.len() && calls(spans, "server").len() >= own.len()
    });
    for kind in ["client", "server"] {
        let seen = calls(&spans, kind);
        let mut names: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
        for span in &seen {
            *names.entry((&span.name, span.text("rpc.response.status_code"), &span.status)).or_default() += 1;
        }
        let all = [(("spantap.test.Echo/Unary", "OK", "ok"), own.len())];
        assert_eq!(names, BTreeMap::from(all), "{kind} spans; losses: {:?}", traced.agent.losses());
    }
}

#[test]
fn many_calls_at_once_on_one_connection_are_told_apart() {
    check_many("grpc-many", 300, 1);
}

#[test]
fn fifty_connections_are_told_apart() {
    check_many("grpc-connections", 20, 50);
}
