//! Failures in words: what happened, why, and what to do next.

use std::{error::Error, fmt::Write, time::Duration};

use super::retry::{AgainKind, Outcome};

/// Longest text of a destination that is kept.
const TEXT_BYTES_MAX: usize = 512;

/// A request without an answer: what kind of trouble that is, and why. `may_have_arrived`: there was a connection that it went out on.
pub(super) fn no_answer(origin: &str, error: &(dyn Error + 'static), may_have_arrived: bool) -> Outcome {
    let cause = explain(origin, error);
    let kind = match kind(&cause.to_lowercase()) {
        AgainKind::Unavailable if may_have_arrived => AgainKind::Unanswered,
        kind => kind,
    };
    Outcome::again(kind, cause)
}

/// Whether a client of HTTP or gRPC had a connection. Errors of making one are of these types.
pub(super) fn was_connected(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let by_http = error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect());
        if by_http || error.is::<tonic::ConnectError>() {
            return false;
        }
        next = error.source();
    }
    true
}

/// A request whose answer did not come in time.
pub(super) fn too_late(origin: &str, timeout: Duration) -> Outcome {
    Outcome::again(AgainKind::Timeout, format!("no answer from {origin} within {timeout:?}"))
}

fn kind(text: &str) -> AgainKind {
    let any = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if any(&["proxy authorization required"]) || any(&ALERTS) {
        AgainKind::Auth
    } else if any(&["timed out", "timeout expired", "deadline has elapsed"]) {
        AgainKind::Timeout
    } else {
        AgainKind::Unavailable
    }
}

/// What a server says that does not like the agent's certificate (RFC 8446, 6.2).
const ALERTS: [&str; 8] = [
    "alert: badcertificate",
    "alert: unsupportedcertificate",
    "alert: certificaterevoked",
    "alert: certificateexpired",
    "alert: certificateunknown",
    "alert: certificaterequired",
    "alert: unknownca",
    "alert: accessdenied",
];

/// An error with its causes, and the next step where the cause shows it.
pub(super) fn explain(origin: &str, error: &(dyn Error + 'static)) -> String {
    let mut text = format!("cannot send to {origin}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    match next_step(&text.to_lowercase()) {
        Some(step) => format!("{}; {step}", short(&text)),
        None => short(&text),
    }
}

fn next_step(text: &str) -> Option<&'static str> {
    let any = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let ends = ["invalid size", "invalid http version", "preface", "broken pipe", "reset by peer", "closed before"];
    if any(&["connection refused"]) {
        Some("nothing listens there: start the collector or correct the URL")
    } else if any(&["dns error", "failed to lookup", "name or service not known"]) {
        Some("the name does not resolve on this host: correct the URL or the resolver")
    } else if any(&["proxy authorization required"]) {
        Some("correct proxy_auth")
    } else if any(&["tunnel error"]) {
        Some("the proxy makes no connection there: correct proxy, or let it CONNECT to that host and port")
    } else if any(&ALERTS) {
        Some("it does not accept the agent's certificate: correct tls.cert_file and tls.key_file")
    } else if any(&["certificate expired"]) {
        Some("its certificate is too old: renew it there, or correct this host's clock")
    } else if any(&["certificate not valid yet"]) {
        Some("its certificate is of the future: correct this host's clock")
    } else if any(&["unknownissuer", "unknown issuer", "badsignature"]) {
        Some("the certificate is not trusted: set tls.ca_file to the CA that signed it")
    } else if any(&["notvalidforname", "not valid for name"]) {
        Some("the certificate is for another name: use that name in the URL")
    } else if any(&["corrupt message", "invalidcontenttype", "wrong version number"]) {
        Some("it does not speak TLS there: write the scheme without the s at its end")
    } else if any(&["to kafka://"]) && (any(&ends) || any(&["early eof", "message too large", "message size"])) {
        Some("if that stays, it wants credentials (`auth`) or TLS (kafka+tls), or is no broker")
    } else if any(&["to nats://"]) && any(&ends) {
        Some("if that stays, it wants TLS (nats+tls), or is no server of NATS")
    } else if any(&ends) {
        Some("if that stays, it speaks the other protocol: OTLP/gRPC is usually on port 4317, OTLP/HTTP on 4318")
    } else if any(&["network is unreachable", "no route to host"]) {
        Some("this host has no route there: correct the URL or the routing")
    } else {
        None
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes of `text`, on one line.
pub(super) fn short(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn failures_name_cause_and_next_step() {
        let refused = Outer(std::io::Error::other("Connection refused (os error 111)"));
        assert_eq!(
            explain("http://h:1", &refused),
            "cannot send to http://h:1: transport error: Connection refused (os error 111); \
             nothing listens there: start the collector or correct the URL"
        );
    }

    #[test]
    fn kinds_of_trouble_are_told_apart() {
        for (text, kind) in [
            ("Connection refused (os error 111)", AgainKind::Unavailable),
            ("received fatal alert: CertificateExpired", AgainKind::Auth),
            ("received fatal alert: CertificateRequired", AgainKind::Auth),
            ("received fatal alert: HandshakeFailure", AgainKind::Unavailable),
            ("tunnel error: proxy authorization required", AgainKind::Auth),
            ("Connection timed out (os error 110)", AgainKind::Timeout),
        ] {
            let Outcome::Again { kind: found, .. } = no_answer("h", &std::io::Error::other(text), false) else {
                panic!()
            };
            assert_eq!(found, kind, "{text}");
        }
    }

    #[test]
    fn foreign_text_is_bounded_and_on_one_line() {
        assert_eq!(short("a\r\nb"), "a  b");
        let long = short(&"ü".repeat(1000));
        assert!(long.len() <= TEXT_BYTES_MAX && long.ends_with('ü'));
    }
}
