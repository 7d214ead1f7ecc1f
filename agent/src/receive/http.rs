//! OTLP/HTTP (`POST /v1/traces`, protobuf and JSON) and Zipkin (`POST /api/v2/spans`, JSON).
//!
//! In: a request of HTTP. Out: protobuf to the intake; then the answer, in the encoding of the request. Errors have a
//! `google.rpc.Status` as body, as OTLP asks; Zipkin's have text.

use agent_core::relay::fitted;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{
        ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE,
    },
    request::Parts,
};
use hyper::body::Incoming;
use prost::Message;
use serde_json::json;
use tonic::Code;

use super::{
    answer::{AnswerBody, Refused},
    body::{Chunks, Encoding, decompressed, in_time, read as read_body, work_on},
    front::{Front, Peer, Ready},
    grpc::export_response,
    json,
    stats::Protocol,
    zipkin,
};
use crate::intake::{Accepted, Take};

const TRACES: &str = "/v1/traces";
const ZIPKIN: &str = "/api/v2/spans";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub(super) async fn answer<T: Take>(front: &Front<T>, peer: Peer, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    let mut chunks = Chunks::new(body);
    let (protocol, is_served) = protocol(&parts);
    let tally = front.tally(protocol);
    let read = match is_served {
        Ok(()) => read(front, protocol, &parts.headers, &mut chunks).await,
        Err(refused) => Err(refused),
    };
    match front.take(tally, peer, read).await {
        Ok(accepted) => taken(protocol, accepted),
        Err(refused) => {
            let_sender_finish(front, &parts, &mut chunks, &refused).await;
            failed(protocol, &refused)
        }
    }
}

/// What a request speaks, and whether that is received. Of what speaks nothing known errors are told in protobuf, as OTLP does by
/// default.
fn protocol(parts: &Parts) -> (Protocol, Result<(), Refused>) {
    let kind = kind(&parts.headers);
    let is_json = kind == JSON;
    let protocol = match (parts.uri.path(), is_json) {
        (ZIPKIN, _) => Protocol::ZipkinJson,
        (_, true) => Protocol::OtlpHttpJson,
        (_, false) => Protocol::OtlpHttpProtobuf,
    };
    let is_known = match protocol {
        // Zipkin's own senders do not all say what they send.
        Protocol::ZipkinJson => is_json || kind.is_empty(),
        _ => is_json || kind == PROTOBUF,
    };
    let result = match parts.uri.path() {
        TRACES | ZIPKIN if parts.method != Method::POST => {
            Err(unsupported(StatusCode::METHOD_NOT_ALLOWED, "only POST is received here".into()))
        }
        TRACES | ZIPKIN if is_known => Ok(()),
        TRACES => Err(unsupported(StatusCode::UNSUPPORTED_MEDIA_TYPE, other_kind(&kind))),
        ZIPKIN => Err(unsupported(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("send {JSON}: Zipkin v2 in JSON"))),
        path => Err(unsupported(
            StatusCode::NOT_FOUND,
            format!("nothing is received at {path}, only at {TRACES} and {ZIPKIN}"),
        )),
    };
    (protocol, result)
}

fn other_kind(kind: &str) -> String {
    if kind.starts_with("application/grpc") {
        return "this is the address of OTLP/HTTP; OTLP/gRPC usually has port 4317".into();
    }
    format!("send {PROTOBUF} or {JSON}")
}

/// The content type without its parameters.
fn kind(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn unsupported(status: StatusCode, message: String) -> Refused {
    let code = if status == StatusCode::NOT_FOUND { Code::NotFound } else { Code::Unimplemented };
    Refused::Unsupported { code, status, message }
}

async fn read<T: Take>(
    front: &Front<T>,
    protocol: Protocol,
    headers: &HeaderMap,
    chunks: &mut Chunks,
) -> Result<Ready, Refused> {
    let sender = front.sender(headers)?;
    let encoding = encoding(headers)?;
    let bytes_max = front.bytes_max;
    let mut place = front.admission.enter().await?;
    let body = in_time(front.timeout, read_body(chunks, encoding, bytes_max, &mut place)).await?;
    let (plain, mut place) = decompressed(body, encoding, bytes_max, place).await?;
    let convert = match protocol {
        Protocol::OtlpHttpJson => json::to_protobuf,
        Protocol::ZipkinJson => zipkin::to_protobuf,
        Protocol::OtlpGrpc | Protocol::OtlpHttpProtobuf => return Ok(Ready { place, sender, request: plain }),
    };
    // What is written is about as large as what was read.
    place.grow_to(plain.len().saturating_mul(2))?;
    work_on(plain.len(), move || {
        let request = convert(&plain).map_err(|error| Refused::Malformed(error.to_string()))?;
        drop(plain);
        place.shrink_to(request.len());
        Ok(Ready { place, sender, request: fitted(request) })
    })
    .await
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refused> {
    let mut names = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = names.next().map_or(Some(Encoding::Identity), |name| Encoding::parse(name.as_bytes()));
    match (encoding, names.next()) {
        (Some(encoding), None) => Ok(encoding),
        _ => Err(unsupported(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the compression is none of gzip and zstd".into())),
    }
}

/// HTTP/1.1 closes a connection whose request was not read; the sender might then see that instead of the answer. Not where the sender
/// waits to be told to go on, nor where it is too slow.
async fn let_sender_finish<T: Take>(front: &Front<T>, parts: &Parts, chunks: &mut Chunks, refused: &Refused) {
    let is_slow = matches!(refused, Refused::Timeout(_) | Refused::Gone);
    if parts.version < Version::HTTP_2 && !parts.headers.contains_key(EXPECT) && !is_slow {
        let _ = tokio::time::timeout(front.timeout, chunks.discard(front.bytes_max)).await;
    }
}

fn taken(protocol: Protocol, accepted: Accepted) -> Response<AnswerBody> {
    match protocol {
        Protocol::ZipkinJson => answered(StatusCode::ACCEPTED, None, Vec::new()),
        Protocol::OtlpHttpJson => {
            let partial = export_response(accepted).partial_success;
            let body = match partial {
                None => json!({}),
                // 64-bit numbers are text in proto3's JSON; what is default is left out.
                Some(partial) if partial.rejected_spans == 0 => {
                    json!({ "partialSuccess": { "errorMessage": partial.error_message } })
                }
                Some(partial) => json!({ "partialSuccess": {
                    "rejectedSpans": partial.rejected_spans.to_string(),
                    "errorMessage": partial.error_message,
                } }),
            };
            answered(StatusCode::OK, Some(JSON), body.to_string().into_bytes())
        }
        _ => answered(StatusCode::OK, Some(PROTOBUF), export_response(accepted).encode_to_vec()),
    }
}

fn failed(protocol: Protocol, refused: &Refused) -> Response<AnswerBody> {
    let (code, message) = (refused.code() as i32, refused.message());
    let (kind, body) = match protocol {
        Protocol::ZipkinJson => ("text/plain; charset=utf-8", format!("{message}\n").into_bytes()),
        Protocol::OtlpHttpJson => (JSON, json!({ "code": code, "message": message }).to_string().into_bytes()),
        _ => (PROTOBUF, tonic_types::Status { code, message, details: Vec::new() }.encode_to_vec()),
    };
    let status = refused.http_status();
    let mut response = answered(status, Some(kind), body);
    let headers = response.headers_mut();
    if let Some(seconds) = refused.retry_after_seconds() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if matches!(refused, Refused::Timeout(_)) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    match status {
        StatusCode::UNAUTHORIZED => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
        }
        _ => {}
    }
    response
}

fn answered(status: StatusCode, kind: Option<&'static str>, body: Vec<u8>) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::new(body, None));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

/// The answer to a request without gRPC where only gRPC is received.
pub(super) async fn only_grpc<T: Take>(front: &Front<T>, peer: Peer) -> Response<AnswerBody> {
    let message = "this is the address of OTLP/gRPC; OTLP/HTTP usually has port 4318".to_owned();
    let refused = unsupported(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    match front.take(front.tally(Protocol::OtlpHttpProtobuf), peer, Err(refused)).await {
        Ok(accepted) => taken(Protocol::OtlpHttpProtobuf, accepted),
        // Text, since it is not known what the sender speaks.
        Err(refused) => failed(Protocol::ZipkinJson, &refused),
    }
}
