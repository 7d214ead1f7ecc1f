//! One span to a destination, to see whether it would take spans: for `spantap export test`. A file is only looked at.

use std::{path::Path, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span},
};
use prost::Message;

use super::{
    ExportError,
    client::Client,
    retry::{FailureKind, Outcome},
    writable,
};
use crate::{
    config::{Destination, Transport},
    run::unix_ns,
};

/// Name of the span.
pub const NAME: &str = "spantap export test";

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Whether the destination took it, or would.
    pub is_taken: bool,
    /// Whether a span was sent at all.
    pub is_sent: bool,
    /// What the trouble is about, in a word: `unavailable`, `timeout`, `credentials`, `quota`, `address`, `refused`, `size`; empty if
    /// there is none.
    pub trouble: &'static str,
    /// What the destination said, and the next step.
    pub message: String,
    /// How long that took.
    pub took: Duration,
}

/// Sends one span, once.
///
/// # Errors
/// The destination cannot be served at all.
pub async fn probe(destination: &Destination) -> Result<Probe, ExportError> {
    let client = Client::new(destination)?;
    let began = std::time::Instant::now();
    if destination.url.transport == Transport::File {
        let checked = writable::check(Path::new(&destination.url.path));
        let trouble = if checked.is_ok() { "" } else { "unavailable" };
        let (is_taken, took) = (checked.is_ok(), began.elapsed());
        let message = checked.unwrap_or_else(|cause| cause);
        return Ok(Probe { is_taken, is_sent: false, trouble, message, took });
    }
    let outcome = client.send(request().encode_to_vec(), &format!("probe-{}", unix_ns())).await;
    // Of one span nothing is taken in part.
    let failure = outcome.failure().map(|kind| if kind == FailureKind::Partial { FailureKind::Refused } else { kind });
    let (is_taken, trouble) = (failure.is_none(), failure.map_or("", FailureKind::name));
    let (Outcome::Delivered { message, .. }
    | Outcome::Partly { cause: message, .. }
    | Outcome::Never { cause: message }
    | Outcome::TooLarge { cause: message }
    | Outcome::Again { cause: message, .. }) = outcome;
    Ok(Probe { is_taken, is_sent: true, trouble, message, took: began.elapsed() })
}

fn request() -> ExportTraceServiceRequest {
    let (now, id) = (unix_ns(), fastrand::u64(1..));
    let service = Value::StringValue("spantap".to_owned());
    let attribute = KeyValue {
        key: "service.name".to_owned(),
        value: Some(AnyValue { value: Some(service) }),
        ..KeyValue::default()
    };
    let span = Span {
        trace_id: [id.to_be_bytes(), now.to_be_bytes()].concat(),
        span_id: id.to_be_bytes().to_vec(),
        name: NAME.to_owned(),
        kind: span::SpanKind::Internal as i32,
        start_time_unix_nano: now - 1_000_000,
        end_time_unix_nano: now,
        ..Span::default()
    };
    let scope = InstrumentationScope { name: "spantap".to_owned(), ..InstrumentationScope::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![attribute], ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fakes::{Answer, Fake, names};

    #[tokio::test]
    async fn one_span_tells_what_is_wrong() {
        let answer = |status| Answer::Http { status, retry_after: None, body: "as the test says" };
        let script = [Answer::Take, answer(401), answer(429), answer(404), answer(400)];
        let fake = Fake::http(&script, None).await;
        let to = Destination::to(format!("otlp+http://{}", fake.address).parse().unwrap());
        for trouble in ["", "credentials", "quota", "address", "refused"] {
            let probe = probe(&to).await.unwrap();
            assert_eq!((probe.trouble, probe.is_taken), (trouble, trouble.is_empty()), "{probe:?}");
        }
        assert_eq!(names(&fake.received()[0].body), [NAME]);
        let nobody = Destination::to("otlp+http://127.0.0.1:1".parse().unwrap());
        let probe = probe(&nobody).await.unwrap();
        assert!(probe.trouble == "unavailable" && probe.message.contains("nothing listens there"), "{probe:?}");
    }
}
