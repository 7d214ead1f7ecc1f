//! AWS: S3, SQS and DynamoDB of moto, called by boto3. Every request is one span at each end, with the service that it was signed for,
//! the operation where a field has it, and its status.
//!
//! Truth: what boto3 says of the requests that it sent.

use spantap_tests::span::Span;

use super::{
    node::traced,
    peer::{Peer, assert_told},
};

const AWS: &str = include_str!("aws.py");
const ROUNDS: usize = 10;

/// An operation of S3 is in method and path: what the client calls it.
fn of_s3(span: &Span) -> &'static str {
    match span.name.as_str() {
        "PUT /orders" => "CreateBucket",
        "PUT /orders/order/{id}" => "PutObject",
        "GET /orders/order/{id}" | "GET /none/none" => "GetObject",
        "GET /orders" => "ListObjectsV2",
        "HEAD /orders/none" => "HeadObject",
        "DELETE /orders/order/{id}" => "DeleteObject",
        _ => panic!("{span:#?}"),
    }
}

fn told(span: &Span) -> String {
    let status = span.http_status().unwrap_or_default();
    let service = span.text("rpc.service");
    assert_eq!((span.text("rpc.system.name"), span.text("cloud.region")), ("aws-api", "eu-central-1"), "{span:#?}");
    // 4xx is an error to who asked, not to who answered.
    let failed = status >= 500 || (status >= 400 && span.kind == "client");
    assert_eq!(span.status, if failed { "error" } else { "ok" }, "{span:#?}");
    let operation = match span.text("rpc.method").split_once('/') {
        Some((named, operation)) => {
            assert_eq!((named, span.name.as_str()), (service, span.text("rpc.method")), "{span:#?}");
            operation
        }
        None => of_s3(span),
    };
    format!("{service} {operation} {status}")
}

#[test]
fn requests_of_boto3_are_told_by_service_and_operation() {
    let traced = traced("aws");
    let server = Peer::start(&traced, "venv-moto", AWS, "serve");
    let truth = server.talk(&traced, "talk", ROUNDS);
    assert_eq!(truth.len(), 3 + 12 * ROUNDS, "{truth:?}");
    assert_told(&traced, truth, Span::is_http, told);
}
