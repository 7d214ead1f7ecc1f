//! What an error of a broker or a connection means for the records, and what to do about it. Pure.

use std::error::Error;

use rskafka::{
    SaslError,
    messenger::RequestError,
    protocol::{api_key::ApiKey, error::Error as Code},
};

use super::super::{
    explain::{no_answer, short},
    retry::{AgainKind, Outcome},
};

/// Why records were not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// They may be sent again.
    Again(AgainKind, String),
    /// Fewer of them may be taken.
    TooLarge(String),
    /// Sending them again is of no use.
    Never(String),
}

impl Trouble {
    pub(super) fn into_outcome(self) -> Outcome {
        match self {
            Self::Again(kind, cause) => Outcome::again(kind, cause),
            Self::TooLarge(cause) => Outcome::TooLarge { cause },
            Self::Never(cause) => Outcome::Never { cause },
        }
    }
}

/// Verdict on what a broker says of records or of the topic.
pub(super) fn of_error(code: Code, url: &str, topic: &str) -> Trouble {
    let say = |what: &str| format!("{url}: {code}{}{what}", if what.is_empty() { "" } else { ": " });
    let again = |kind, what: &str| Trouble::Again(kind, say(what));
    match code {
        Code::MessageTooLarge | Code::RecordListTooLarge => {
            Trouble::TooLarge(say("raise `max.message.bytes` of the topic"))
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopicId | Code::InvalidTopicException => again(
            AgainKind::Misconfigured,
            &format!(
                "there is no topic {topic} that the agent may see: create it, or correct the URL; the spans wait in the log"
            ),
        ),
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => again(
            AgainKind::Auth,
            &format!("allow the user of `auth` to describe and write topic {topic}; the spans wait in the log"),
        ),
        Code::SaslAuthenticationFailed | Code::IllegalSaslState | Code::UnsupportedSaslMechanism => {
            again(AgainKind::Auth, "correct `auth` or `kafka.sasl`, the spans wait in the log")
        }
        Code::UnsupportedCompressionType => again(AgainKind::Misconfigured, "correct `compression`"),
        Code::ThrottlingQuotaExceeded => again(AgainKind::RateLimited, ""),
        // The leader may have them already.
        Code::RequestTimedOut | Code::NotEnoughReplicasAfterAppend => {
            again(AgainKind::Timeout, "not all in-sync replicas acknowledged in time")
        }
        Code::NotEnoughReplicas => {
            again(AgainKind::Unavailable, "fewer replicas are in sync than the topic's `min.insync.replicas`")
        }
        Code::LeaderNotAvailable | Code::NotLeaderOrFollower => again(AgainKind::Unavailable, "the leader changes"),
        Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidRequest
        | Code::InvalidRequiredAcks
        | Code::UnsupportedForMessageFormat
        | Code::PolicyViolation => Trouble::Never(say("")),
        _ => again(AgainKind::Unavailable, ""),
    }
}

/// Verdict on a request without an answer.
pub(super) fn of_request_error(place: &str, error: &RequestError) -> Trouble {
    match error {
        RequestError::NoVersionMatch { api_key: ApiKey::SaslHandshake | ApiKey::SaslAuthenticate } => Trouble::Again(
            AgainKind::Auth,
            format!("kafka://{place} takes no credentials: remove `auth`, or correct the port in the URL"),
        ),
        RequestError::NoVersionMatch { .. } => Trouble::Again(
            AgainKind::Misconfigured,
            format!("kafka://{place}: {error}; no broker of Kafka 0.11 or later is there: correct the URL"),
        ),
        error => of_failure(place, error),
    }
}

/// Verdict on a connection that cannot be made or broke.
pub(super) fn of_failure(place: &str, error: &(dyn Error + 'static)) -> Trouble {
    match no_answer(&format!("kafka://{place}"), error, false) {
        Outcome::Again { kind, cause, .. } => Trouble::Again(kind, cause),
        _ => Trouble::Again(AgainKind::Unavailable, short(&error.to_string())),
    }
}

/// Verdict on records that were sent and got no answer.
pub(super) fn of_unanswered(place: &str, error: &RequestError) -> Trouble {
    match of_request_error(place, error) {
        Trouble::Again(AgainKind::Unavailable, cause) => Trouble::Again(AgainKind::Unanswered, cause),
        trouble => trouble,
    }
}

/// Verdict on credentials that a broker did not accept.
pub(super) fn of_sasl(place: &str, error: &SaslError) -> Trouble {
    match error {
        SaslError::RequestError(error) => of_request_error(place, error),
        error => Trouble::Again(
            AgainKind::Auth,
            format!("kafka://{place}: {error}; correct `auth` or `kafka.sasl`, the spans wait in the log"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_brokers_say_what_to_do() {
        for (code, kind, part) in [
            (3, AgainKind::Misconfigured, "create it"),
            (29, AgainKind::Auth, "write topic spans"),
            (58, AgainKind::Auth, "`auth`"),
            (76, AgainKind::Misconfigured, "`compression`"),
            (89, AgainKind::RateLimited, "ThrottlingQuotaExceeded"),
            (7, AgainKind::Timeout, "in time"),
            (20, AgainKind::Timeout, "in time"),
            (19, AgainKind::Unavailable, "min.insync.replicas"),
            (6, AgainKind::Unavailable, "leader"),
            (-1, AgainKind::Unavailable, "UnknownServerError"),
            (9999, AgainKind::Unavailable, "9999"),
        ] {
            let trouble = of_error(Code::new(code).unwrap(), "kafka://h:1/spans", "spans");
            let Trouble::Again(found, cause) = &trouble else { panic!("{trouble:?}") };
            assert!(*found == kind && cause.contains(part) && cause.starts_with("kafka://h:1/spans: "), "{trouble:?}");
        }
        assert!(matches!(of_error(Code::MessageTooLarge, "u", "t"), Trouble::TooLarge(_)));
        assert!(matches!(of_error(Code::InvalidTimestamp, "u", "t"), Trouble::Never(_)));
    }
}
