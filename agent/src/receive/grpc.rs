//! OTLP/gRPC: `TraceService/Export`, and gRPC's health check.
//!
//! In: a request of gRPC over HTTP/2. Out: the bytes of its one message, as they came, to the intake; then the answer. The framing is
//! our own (five bytes before a message), because a library reads and decompresses the message before it asks whether there is room.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use tonic::Code;

use super::{
    answer::{AnswerBody, Refused},
    body::{Chunks, Encoding, decompressed, in_time, reserve},
    front::{Front, Peer, Ready},
    stats::Protocol,
};
use crate::intake::{Accepted, Take};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse { status: SERVING }`.
const SERVING: [u8; 2] = [0x08, 0x01];
const TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const ENCODINGS: HeaderValue = HeaderValue::from_static("identity,gzip,zstd");
/// A flag and a length before each message.
const PREFIX_BYTES: usize = 5;

/// Whether a request is gRPC, by its content type: `application/grpc`, with a codec or parameters.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';')))
}

pub(super) async fn answer<T: Take>(front: &Front<T>, peer: Peer, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == HEALTH {
        return message(&SERVING);
    }
    let tally = front.tally(Protocol::OtlpGrpc);
    let read = match parts.uri.path() {
        EXPORT => read(front, &parts.headers, body).await,
        path => Err(unimplemented(format!("this receiver has no {path}, only {EXPORT}"))),
    };
    match front.take(tally, peer, read).await {
        Ok(accepted) => message(&export_response(accepted).encode_to_vec()),
        Err(refused) => failed(&refused),
    }
}

async fn read<T: Take>(front: &Front<T>, headers: &HeaderMap, body: Incoming) -> Result<Ready, Refused> {
    let sender = front.sender(headers)?;
    let encoding = encoding(headers)?;
    let mut place = front.admission.enter().await?;
    let bytes_max = front.bytes_max;
    let mut chunks = Chunks::new(body);
    let (encoding, body) = in_time(front.timeout, async {
        let (is_compressed, length) = prefix(&mut chunks).await?;
        let encoding = actual(is_compressed, encoding)?;
        reserve(&mut place, length, encoding, bytes_max).await?;
        let body = chunks.exactly(length).await?;
        match chunks.next().await? {
            None => Ok((encoding, body)),
            Some(_) => Err(Refused::Malformed("more than one message in a call that has one".into())),
        }
    })
    .await?;
    let (request, place) = decompressed(body, encoding, bytes_max, place).await?;
    Ok(Ready { place, sender, request })
}

/// What compressed messages of the call are compressed with, if they are.
fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Refused> {
    let Some(name) = headers.get("grpc-encoding") else { return Ok(None) };
    match Encoding::parse(name.as_bytes()) {
        Some(encoding) => Ok(Some(encoding)),
        None => Err(unimplemented("the compression is none of identity, gzip and zstd".into())),
    }
}

/// A message may be left uncompressed in a call with compression, not the other way round.
fn actual(is_compressed: bool, encoding: Option<Encoding>) -> Result<Encoding, Refused> {
    match (is_compressed, encoding) {
        (false, _) => Ok(Encoding::Identity),
        (true, Some(encoding)) if encoding != Encoding::Identity => Ok(encoding),
        (true, _) => Err(Refused::Unsupported {
            code: Code::Internal,
            status: StatusCode::BAD_REQUEST,
            message: "the message is compressed, but grpc-encoding does not say how".into(),
        }),
    }
}

/// Whether the next message is compressed, and its length.
async fn prefix(chunks: &mut Chunks) -> Result<(bool, usize), Refused> {
    let prefix = chunks.exactly(PREFIX_BYTES).await?;
    let (flag, length) = prefix.split_at(1);
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    match flag[0] {
        0 => Ok((false, length)),
        1 => Ok((true, length)),
        other => Err(Refused::Malformed(format!("a message begins with {other}, which is no flag of gRPC"))),
    }
}

fn unimplemented(message: String) -> Refused {
    Refused::Unsupported { code: Code::Unimplemented, status: StatusCode::NOT_FOUND, message }
}

/// The answer to a request that was taken. Where nothing is to be said `partial_success` is not set, as OTLP wants it.
pub(super) fn export_response(accepted: Accepted) -> ExportTraceServiceResponse {
    let Accepted { rejected, message } = accepted;
    let rejected_spans = i64::try_from(rejected).unwrap_or(i64::MAX);
    let is_said = rejected > 0 || !message.is_empty();
    let partial_success = is_said.then_some(ExportTracePartialSuccess { rejected_spans, error_message: message });
    ExportTraceServiceResponse { partial_success }
}

fn message(message: &[u8]) -> Response<AnswerBody> {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    // An answer is far below 4 GiB.
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let mut response = Response::new(AnswerBody::new(Bytes::from(framed), Some(trailers)));
    response.headers_mut().insert(CONTENT_TYPE, TYPE);
    response.headers_mut().insert("grpc-accept-encoding", ENCODINGS);
    response
}

fn failed(refused: &Refused) -> Response<AnswerBody> {
    let mut response = refused.grpc_status().into_http::<AnswerBody>();
    response.headers_mut().insert("grpc-accept-encoding", ENCODINGS);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let check = |kind: &'static str, expected: bool| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        };
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc; charset=x", true);
        check("application/grpc-web", false);
        check("application/x-protobuf", false);
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn partial_success_is_set_only_if_there_is_something_to_say() {
        let partial = |rejected, message: &str| {
            let response = export_response(Accepted { rejected, message: message.into() });
            response.partial_success.map(|partial| (partial.rejected_spans, partial.error_message))
        };
        assert_eq!(partial(0, ""), None);
        assert_eq!(partial(0, "a warning"), Some((0, "a warning".into())));
        assert_eq!(partial(3, "no ids"), Some((3, "no ids".into())));
    }
}
