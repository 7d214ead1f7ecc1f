//! What a server of NATS says about a message, and what to do about it. Pure.

use serde::Deserialize;

use super::{
    super::{
        explain::{no_answer, short},
        retry::{AgainKind, Outcome},
    },
    connection::Failure,
    wire::Answer,
};

/// JetStream's answer to a message: where it is stored, or why not.
#[derive(Deserialize)]
struct Acknowledgement {
    error: Option<Refusal>,
    stream: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    /// As in HTTP.
    #[serde(default)]
    code: u16,
    /// JetStream's own.
    #[serde(default)]
    err_code: u16,
    #[serde(default)]
    description: String,
}

/// Verdict on an answer. That the server had the message before (`duplicate`) is as good as that it stored it now.
pub(super) fn of_answer(url: &str, answer: &Answer) -> Outcome {
    if answer.status == Some(503) {
        return Outcome::again(
            AgainKind::Misconfigured,
            format!(
                "{url}: no JetStream stream has this subject: create one, or correct the URL; the spans wait in the log"
            ),
        );
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(Acknowledgement { error: Some(refusal), .. }) => refused(url, &refusal),
        Ok(Acknowledgement { stream: Some(_), .. }) => Outcome::Delivered { rejected: 0, message: String::new() },
        _ => Outcome::again(
            AgainKind::Misconfigured,
            format!("{url}: what answers there is no JetStream: correct the subject in the URL"),
        ),
    }
}

/// No refusal is about the spans: JetStream does not look at them.
fn refused(url: &str, Refusal { code, err_code, description }: &Refusal) -> Outcome {
    let cause = format!("{url} answered {code} ({err_code}): {}", short(description));
    let again = |kind, what: &str| Outcome::again(kind, format!("{cause}; {what}"));
    match err_code {
        // JSStreamMessageExceedsMaximumErr
        10_054 => Outcome::TooLarge { cause: format!("{cause}; raise `max_msg_size` of the stream") },
        // JSInsufficientResourcesErr, JSMemoryResourcesExceededErr, JSStorageResourcesExceededErr
        10_023 | 10_028 | 10_047 => again(AgainKind::RateLimited, "the server or account has no room"),
        // JSStreamStoreFailedF: what a stream says that is full and discards new messages.
        10_077 if description.contains("maximum") => {
            again(AgainKind::RateLimited, "the stream is full: raise its limits, or let it discard old messages")
        }
        // JSNotEnabledErr, JSNotEnabledForAccountErr
        10_076 | 10_039 => again(AgainKind::Misconfigured, "enable JetStream for the server and the account"),
        _ if (400..500).contains(code) => again(AgainKind::Misconfigured, "the spans wait in the log"),
        _ => Outcome::again(AgainKind::Unavailable, cause),
    }
}

/// Verdict on a message without an answer.
pub(super) fn of_failure(url: &str, failure: Failure) -> Outcome {
    match failure {
        Failure::Login(cause) => Outcome::again(AgainKind::Auth, cause),
        // The server knows a message that comes again by its id.
        Failure::Broken { place, cause } => no_answer(&format!("nats://{place}"), &*cause, false),
        Failure::Said { place, text } => of_error(url, &place, &text),
        Failure::Tls { place, is_wanted: true } => {
            Outcome::again(AgainKind::Misconfigured, format!("nats://{place} wants TLS: write nats+tls://"))
        }
        Failure::Tls { place, is_wanted: false } => Outcome::again(
            AgainKind::Misconfigured,
            format!("nats://{place} offers no TLS: set it up there, or write nats://"),
        ),
        Failure::TooLarge { bytes, limit } => Outcome::TooLarge {
            cause: format!("{url}: a message of {bytes} bytes is larger than `max_payload` of the server, {limit}"),
        },
    }
}

/// Verdict on the text of an error of the protocol.
fn of_error(url: &str, place: &str, text: &str) -> Outcome {
    let cause = format!("{url}: {place} says: {}", short(text));
    let lower = text.to_lowercase();
    let again = |kind, what: &str| Outcome::again(kind, format!("{cause}; {what}, the spans wait in the log"));
    if lower.contains("permissions violation for publish") {
        again(AgainKind::Auth, "allow the user of `auth` to publish there")
    } else if lower.contains("permissions violation") {
        again(AgainKind::Auth, "allow the user of `auth` to subscribe to _INBOX.>")
    } else if lower.contains("authorization") || lower.contains("authentication") {
        again(AgainKind::Auth, "correct `auth`")
    } else if lower.contains("maximum payload") {
        Outcome::TooLarge { cause }
    } else {
        Outcome::again(AgainKind::Unavailable, cause)
    }
}
