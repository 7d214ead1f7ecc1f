//! OpenSearch: every call of its client is one span at each end, with operation and index.
//!
//! Truth: what the client (opensearch-py) says of its calls. The server is a script: no OpenSearch was at hand.

use spantap_tests::span::Span;

use super::{
    node::traced,
    peer::{Peer, assert_told},
};

const OPENSEARCH: &str = include_str!("opensearch.py");

fn told(span: &Span) -> String {
    assert_eq!(span.text("db.system.name"), "opensearch", "{span:#?}");
    let (operation, index) = (span.text("db.operation.name"), span.text("db.collection.name"));
    let (name, index) =
        if index.is_empty() { (operation.to_owned(), "-") } else { (format!("{operation} {index}"), index) };
    assert_eq!(span.name, name, "{span:#?}");
    format!("{operation} {index} {}", span.http_status().unwrap_or_default())
}

#[test]
fn calls_of_opensearch_are_told_by_operation_and_index() {
    let traced = traced("opensearch");
    let server = Peer::start(&traced, "venv-http", OPENSEARCH, "serve");
    let truth = server.talk(&traced, "talk", 10);
    assert_told(&traced, truth, Span::is_http, told);
}
