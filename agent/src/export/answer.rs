//! What an answer means for the request. Pure, but for reading an HTTP answer's body up to its limit.
//!
//! OTLP by its specification ("Failures" of OTLP/gRPC and OTLP/HTTP). Other receivers have no such rules: what is the server's
//! fault may be sent again. Two answers say nothing about the spans, whoever gives them: that the credentials are not
//! good, and that there is no receiver of this format at the URL. The spans then wait in the log until that is put right.

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tonic::Code;

use super::retry::AgainKind;
use crate::config::Protocol;

/// Longest body of an HTTP answer that is read. An answer is a few bytes; OTLP asks for a limit.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The body of an HTTP answer.
///
/// # Errors
/// It is too long, or the connection broke.
pub(super) async fn body(body: Incoming) -> Result<Bytes, String> {
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|cause| cause.to_string())
}

/// The verdict on an answer that is not "taken".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Again(AgainKind),
    Never,
    TooLarge,
}

/// Verdict on an HTTP status other than 2xx.
pub(super) fn of_http(protocol: Protocol, status: StatusCode) -> Verdict {
    match status.as_u16() {
        401 | 403 | 407 => Verdict::Again(AgainKind::Auth),
        413 => Verdict::TooLarge,
        429 => Verdict::Again(AgainKind::RateLimited),
        300..=399 | 404 | 405 | 501 => Verdict::Again(AgainKind::Misconfigured),
        // A gateway that had no answer, which may have been on its way.
        502 | 504 => Verdict::Again(AgainKind::Unanswered),
        503 => Verdict::Again(AgainKind::Unavailable),
        // A Datadog agent answers 408 while it is busy.
        408 | 500..600 if protocol != Protocol::Otlp => Verdict::Again(AgainKind::Unavailable),
        _ => Verdict::Never,
    }
}

/// Verdict on a gRPC status that came from the other side.
pub(super) fn of_grpc(code: Code, message: &str) -> Verdict {
    let message = message.to_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
    match code {
        // The words of grpc-go and grpc-core, tonic, grpc-java, and grpc-dotnet.
        Code::ResourceExhausted | Code::OutOfRange | Code::InvalidArgument | Code::Internal
            if says(&[
                "larger than max",
                // spantap's own receivers.
                "the request is larger than",
                "message length too large",
                "exceeds maximum size",
                "exceeds the maximum",
            ]) =>
        {
            Verdict::TooLarge
        }
        Code::Unauthenticated | Code::PermissionDenied => Verdict::Again(AgainKind::Auth),
        Code::ResourceExhausted => Verdict::Again(AgainKind::RateLimited),
        Code::DeadlineExceeded => Verdict::Again(AgainKind::Timeout),
        Code::Cancelled | Code::Aborted | Code::OutOfRange | Code::Unavailable | Code::DataLoss => {
            Verdict::Again(AgainKind::Unavailable)
        }
        Code::Unimplemented => Verdict::Again(AgainKind::Misconfigured),
        // What tonic makes of an answer that is not gRPC.
        Code::Unknown | Code::Internal
            if says(&["mapped from http status", "missing response message", "invalid compression flag"]) =>
        {
            Verdict::Again(AgainKind::Misconfigured)
        }
        _ => Verdict::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(protocol: Protocol, verdict: Verdict) -> Vec<u16> {
        let all = 300..600;
        all.filter(|code| of_http(protocol, StatusCode::from_u16(*code).unwrap()) == verdict).collect()
    }

    #[test]
    fn http_is_retried_as_the_specification_says() {
        let again = |kind| http(Protocol::Otlp, Verdict::Again(kind));
        assert_eq!(again(AgainKind::Unavailable), [503]);
        assert_eq!(again(AgainKind::Unanswered), [502, 504]);
        assert_eq!(again(AgainKind::RateLimited), [429]);
        assert_eq!(again(AgainKind::Auth), [401, 403, 407]);
        assert_eq!(http(Protocol::Otlp, Verdict::TooLarge), [413]);
        assert_eq!(again(AgainKind::Misconfigured).iter().filter(|code| **code >= 400).count(), 3);
    }

    #[test]
    fn a_server_error_of_other_receivers_may_be_retried() {
        for protocol in [Protocol::Zipkin, Protocol::Jaeger, Protocol::Datadog] {
            let again = http(protocol, Verdict::Again(AgainKind::Unavailable));
            assert!(again.contains(&500) && again.contains(&408) && again.contains(&599));
            assert!(http(protocol, Verdict::Never).iter().all(|code| (400..500).contains(code)));
        }
    }

    #[test]
    fn grpc_is_retried_as_the_specification_says() {
        let of = |verdict: fn(Verdict) -> bool| -> Vec<i32> {
            (1..=16).filter(|code| verdict(of_grpc(Code::from_i32(*code), "no"))).collect()
        };
        // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS; and what says
        // nothing about the spans: PERMISSION_DENIED, UNIMPLEMENTED, UNAUTHENTICATED.
        assert_eq!(of(|verdict| matches!(verdict, Verdict::Again(_))), [1, 4, 7, 8, 10, 11, 12, 14, 15, 16]);
        assert_eq!(of(|verdict| verdict == Verdict::Again(AgainKind::Auth)), [7, 16]);
        assert_eq!(of(|verdict| verdict == Verdict::Never), [2, 3, 5, 6, 9, 13]);
    }

    #[test]
    fn too_large_is_known_by_its_words() {
        for (code, message) in [
            (Code::ResourceExhausted, "grpc: received message larger than max (5000000 vs. 4194304)"),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes",
            ),
            (Code::ResourceExhausted, "gRPC message exceeds maximum size 4194304: 5000000"),
            (Code::ResourceExhausted, "Received message exceeds the maximum configured message size."),
        ] {
            assert_eq!(of_grpc(code, message), Verdict::TooLarge, "{message}");
        }
        assert_eq!(of_grpc(Code::ResourceExhausted, "quota"), Verdict::Again(AgainKind::RateLimited));
    }

    #[test]
    fn what_is_no_grpc_server_says_nothing_about_the_spans() {
        let page = "grpc-status header missing, mapped from HTTP status code 301";
        assert_eq!(of_grpc(Code::Unknown, page), Verdict::Again(AgainKind::Misconfigured));
        assert_eq!(of_grpc(Code::Internal, "Missing response message."), Verdict::Again(AgainKind::Misconfigured));
        assert_eq!(of_grpc(Code::Internal, "index out of bounds"), Verdict::Never);
    }
}
