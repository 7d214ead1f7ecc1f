//! What is spoken over HTTP, in bodies: GraphQL, JSON-RPC, calls of language models. Every call is one span at each end, and named by
//! what its body asks for.
//!
//! Truth: what the clients say of their calls. The server of the models' API is a script: no model was at hand.

use serde_json::Value;
use spantap_tests::{span::Span, traced::Traced};

use super::{
    node::traced,
    peer::{Peer, assert_told},
};

const ENVIRONMENT: &str = "venv-http";
const GRAPHQL: &str = include_str!("graphql.py");
const JSONRPC: &str = include_str!("jsonrpc.py");
const GENAI: &str = include_str!("genai.py");

/// Runs a client; the spans of each end, as `told` says them, must be as many as it says of each.
fn check(traced: &Traced, peer: &Peer, command: &str, rounds: usize, told: impl Fn(&Span) -> String) -> Vec<Span> {
    let truth = peer.talk(traced, command, rounds);
    assert!(truth.len() >= rounds, "{truth:?}");
    let is_http = |span: &Span| ["http", "http2"].contains(&span.protocol.as_str());
    assert_told(traced, truth, is_http, told)
}

/// An attribute as the clients print it.
fn shown(span: &Span, key: &str) -> String {
    match span.attribute(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".to_owned(),
    }
}

fn graphql(span: &Span) -> String {
    let [kind, name] = ["type", "name"].map(|key| shown(span, &format!("graphql.operation.{key}")));
    assert_eq!((span.name.as_str(), span.http_status()), (kind.as_str(), Some(200)), "{span:#?}");
    let has_errors = span.attribute("spantap.graphql.errors").is_some();
    let outcome = match (span.status.as_str(), span.text("error.type")) {
        ("error", "graphql_error") => "failed",
        ("ok", "") if has_errors => "partial",
        ("ok", "") => "ok",
        _ => panic!("{span:#?}"),
    };
    format!("{kind} {name} {outcome}")
}

#[test]
fn operations_of_graphql_are_named() {
    let traced = traced("graphql");
    let server = Peer::start(&traced, ENVIRONMENT, GRAPHQL, "serve");
    check(&traced, &server, "talk", 10, graphql);
}

#[test]
fn operations_of_graphql_over_http2_are_named() {
    let traced = traced("graphql-http2");
    let server = Peer::start(&traced, ENVIRONMENT, GRAPHQL, "serve2");
    let spans = check(&traced, &server, "talk2", 10, graphql);
    assert!(spans.iter().all(|span| span.protocol != "http"), "{spans:#?}");
}

#[test]
fn methods_of_json_rpc_are_named_and_their_errors_are_errors() {
    let traced = traced("jsonrpc");
    let server = Peer::start(&traced, ENVIRONMENT, JSONRPC, "serve");
    let spans = check(&traced, &server, "talk", 10, |span| {
        let [method, id, code] =
            ["rpc.method", "jsonrpc.request.id", "rpc.response.status_code"].map(|key| shown(span, key));
        let failed = code != "-";
        assert_eq!((span.name.as_str(), span.text("rpc.system.name")), (method.as_str(), "jsonrpc"), "{span:#?}");
        assert_eq!(span.status, if failed { "error" } else { "ok" }, "{span:#?}");
        assert_eq!(shown(span, "error.type"), code, "{span:#?}");
        format!("{method} {id} {}", if failed { &code } else { "ok" })
    });
    assert!(spans.iter().all(|span| span.text("jsonrpc.protocol.version") == "2.0"), "{spans:#?}");
}

/// Also the first call of each connection: the kernel side knows by the path that the end of the answer matters.
#[test]
fn calls_of_models_have_models_and_tokens() {
    models("genai", "serve", "talk");
}

#[test]
fn calls_of_models_inside_tls_have_models_and_tokens() {
    models("genai-tls", "serve_tls", "talk_tls");
}

fn models(name: &str, serve: &str, talk: &str) {
    let traced = traced(name);
    let server = Peer::start(&traced, ENVIRONMENT, GENAI, serve);
    check(&traced, &server, talk, 10, |span| {
        let [operation, asked, answered, prompt, answer] =
            ["operation.name", "request.model", "response.model", "usage.input_tokens", "usage.output_tokens"]
                .map(|key| shown(span, &format!("gen_ai.{key}")));
        assert_eq!(span.name, format!("{operation} {asked}"), "{span:#?}");
        // Whose API it is, this host does not say.
        assert_eq!(span.attribute("gen_ai.provider.name"), None, "{span:#?}");
        let end =
            span.http_status().filter(|status| *status != 200).map_or("ok".to_owned(), |status| status.to_string());
        format!("{operation} {asked} {answered} {prompt} {answer} {end}")
    });
}
