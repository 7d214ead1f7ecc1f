//! What an OTLP receiver says about a request that it took, or did not.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use serde_json::Value;

use super::{explain::short, retry::Outcome};

/// What a response says; a negative number is as good as zero.
pub(super) fn of_response(response: ExportTraceServiceResponse) -> Outcome {
    let partial = response.partial_success.unwrap_or_default();
    outcome(partial.rejected_spans, &partial.error_message)
}

/// What the body of a 2xx answer says. The spans were taken; what cannot be read changes nothing about that.
pub(super) fn of_body(content_type: &str, body: &Bytes) -> Outcome {
    if content_type.starts_with("application/json") {
        return of_json(&serde_json::from_slice(body).unwrap_or_default());
    }
    of_response(ExportTraceServiceResponse::decode(body.clone()).unwrap_or_default())
}

/// 64-bit numbers are texts in JSON; some senders write numbers all the same.
fn of_json(answer: &Value) -> Outcome {
    let partial = &answer["partialSuccess"];
    let rejected = &partial["rejectedSpans"];
    let rejected = rejected.as_i64().or_else(|| rejected.as_str()?.parse().ok()).unwrap_or_default();
    outcome(rejected, partial["errorMessage"].as_str().unwrap_or_default())
}

fn outcome(rejected: i64, message: &str) -> Outcome {
    Outcome::Delivered { rejected: rejected.try_into().unwrap_or_default(), message: short(message) }
}

/// The message of a `google.rpc.Status`, in protobuf or JSON, else the text itself.
pub(super) fn message_of(body: &Bytes) -> Option<String> {
    if let Ok(json) = serde_json::from_slice::<Value>(body)
        && let Some(message) = json["message"].as_str()
    {
        return Some(message.to_owned());
    }
    let status = tonic_types::pb::Status::decode(body.clone()).ok();
    status
        .map(|status| status.message)
        .filter(|message| !message.is_empty())
        .or_else(|| str::from_utf8(body).ok().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_success_is_read_from_either_encoding() {
        let delivered = |rejected, message: &str| Outcome::Delivered { rejected, message: message.into() };
        for (json, expected) in [
            (r#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#, delivered(2, "too old")),
            (r#"{"partialSuccess":{"rejectedSpans":3}}"#, delivered(3, "")),
            (r#"{"partialSuccess":{"rejectedSpans":"-3"}}"#, delivered(0, "")),
            ("{}", delivered(0, "")),
            ("garbage", delivered(0, "")),
        ] {
            assert_eq!(of_body("application/json; charset=utf-8", &Bytes::from(json)), expected, "{json}");
        }
        assert_eq!(of_body("application/x-protobuf", &Bytes::from_static(b"\xff")), delivered(0, ""));
    }

    #[test]
    fn messages_are_found_in_status_and_text() {
        let status = tonic_types::pb::Status { message: "no such tenant".into(), ..Default::default() };
        for body in
            [status.encode_to_vec(), br#"{"code":3,"message":"no such tenant"}"#.to_vec(), b"no such tenant".to_vec()]
        {
            assert_eq!(message_of(&body.into()).as_deref(), Some("no such tenant"));
        }
    }
}
