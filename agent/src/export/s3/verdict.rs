//! What the answer of an object store means, and what to do about it. Pure.
//!
//! A store does not look into objects: but for their size, no refusal is about the spans, which therefore wait in the log.

use bytes::Bytes;
use http::{StatusCode, header, response};

use super::super::{
    explain::short,
    retry::{AgainKind, Outcome, retry_after},
};

pub(super) fn of(origin: &str, bucket: &str, head: &response::Parts, body: &Bytes) -> Outcome {
    let text = |name: header::HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    if head.status.is_success() {
        // A store always tells the tag of what it stored; a web page that answers in its place has none of an object.
        return match head.headers.contains_key(header::ETAG) {
            true => Outcome::Delivered { rejected: 0, message: String::new() },
            false => Outcome::again(
                AgainKind::Misconfigured,
                format!("{origin} answered {} without an ETag: it is no object store", head.status),
            ),
        };
    }
    let body = String::from_utf8_lossy(body);
    let (code, message) = (element(&body, "Code").unwrap_or_default(), element(&body, "Message").unwrap_or_default());
    let cause = short(&format!("{origin} answered {}: {code} {message} (bucket {bucket})", head.status));
    let is_too_large = matches!(code, "EntityTooLarge" | "MaxMessageLengthExceeded");
    if is_too_large || head.status == StatusCode::PAYLOAD_TOO_LARGE {
        return Outcome::TooLarge { cause };
    }
    let (kind, step) = kind(head.status, code);
    let after = text(header::RETRY_AFTER).and_then(|value| retry_after(value, text(header::DATE)));
    let cause = if step.is_empty() { cause } else { format!("{cause}; {step}, the spans wait in the log") };
    Outcome::Again { kind, after, cause }
}

fn kind(status: StatusCode, code: &str) -> (AgainKind, &'static str) {
    match (status.as_u16(), code) {
        (_, "NoSuchBucket") => (AgainKind::Misconfigured, "create the bucket, or correct the URL"),
        (
            _,
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired",
        ) => (AgainKind::Auth, "correct `auth.access_key`"),
        (_, "RequestTimeTooSkewed" | "RequestExpired") => (AgainKind::Auth, "correct this host's clock"),
        (
            _,
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException",
        ) => (AgainKind::Misconfigured, "the bucket is elsewhere: correct `s3.region` or `s3.endpoint`"),
        (_, "SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "ThrottlingException") | (429, _) => {
            (AgainKind::RateLimited, "")
        }
        (_, "RequestTimeout" | "OperationAborted" | "BadDigest" | "XAmzContentSHA256Mismatch") => {
            (AgainKind::Unavailable, "")
        }
        (401 | 403 | 407, _) => (AgainKind::Auth, "allow the owner of `auth.access_key` to write there (s3:PutObject)"),
        (408 | 500..600, _) => (AgainKind::Unavailable, ""),
        _ => (AgainKind::Misconfigured, "correct the URL, `s3` or `headers`"),
    }
}

/// The text of the first element of this name, of an error of S3, which is a small XML document without entities in its codes.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Outcome {
        let body =
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the test says</Message></Error>");
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = StatusCode::from_u16(status).unwrap();
        head.headers.insert("retry-after", header::HeaderValue::from_static("7"));
        of("http://h:1", "traces", &head, &body.into())
    }

    #[test]
    fn answers_are_told_apart() {
        for (status, code, kind, part) in [
            (403, "AccessDenied", AgainKind::Auth, "s3:PutObject"),
            (403, "SignatureDoesNotMatch", AgainKind::Auth, "`auth.access_key`"),
            (400, "ExpiredToken", AgainKind::Auth, "`auth.access_key`"),
            (403, "RequestTimeTooSkewed", AgainKind::Auth, "clock"),
            (404, "NoSuchBucket", AgainKind::Misconfigured, "create the bucket"),
            (301, "PermanentRedirect", AgainKind::Misconfigured, "`s3.region`"),
            (400, "InvalidRequest", AgainKind::Misconfigured, "InvalidRequest as the test says (bucket traces)"),
            (503, "SlowDown", AgainKind::RateLimited, "SlowDown"),
            (500, "InternalError", AgainKind::Unavailable, "InternalError"),
            (409, "OperationAborted", AgainKind::Unavailable, "409"),
            (507, "", AgainKind::Unavailable, "507"),
        ] {
            let Outcome::Again { kind: found, after, cause } = answer(status, code) else { panic!("{status}") };
            assert!(found == kind && cause.contains(part), "{cause}");
            assert_eq!(after.map(|after| after.as_secs()), Some(7));
        }
        assert!(matches!(answer(400, "EntityTooLarge"), Outcome::TooLarge { .. }));
        assert!(matches!(answer(413, ""), Outcome::TooLarge { .. }));
        assert!(matches!(answer(200, ""), Outcome::Again { kind: AgainKind::Misconfigured, .. }));
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.headers.insert(header::ETAG, header::HeaderValue::from_static("\"1\""));
        assert!(matches!(of("u", "b", &head, &Bytes::new()), Outcome::Delivered { rejected: 0, .. }));
    }
}
