//! AWS Signature Version 4 of a request whose body is known. Pure, but for reading the credentials.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ring::{digest, hmac};

use super::super::secrets;
use crate::{config::AccessKey, query::api::hex};

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What signs. Has a secret: no debug output.
pub(super) struct Credentials {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

impl Credentials {
    /// As they are now.
    pub(super) fn read(key: &AccessKey) -> Result<Self, String> {
        let named = |name: &'static str| move |cause| format!("auth.access_key.{name}: {cause}");
        Ok(Self {
            id: secrets::read(&key.id).map_err(named("id"))?,
            secret: secrets::read(&key.secret).map_err(named("secret"))?,
            token: key.session_token.as_ref().map(secrets::read).transpose().map_err(named("session_token"))?,
        })
    }
}

/// What a signature is good for.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub region: &'a str,
    /// Now, in seconds since the Unix epoch.
    pub unix_s: u64,
}

/// Signs a `PUT` of `path`, which is encoded already: adds the date, the session's token and `Authorization`. All headers that are there
/// are part of the signature, but for those that a proxy may change.
pub(super) fn sign(
    path: &str,
    headers: &mut HeaderMap,
    body_sha256: &str,
    credentials: &Credentials,
    scope: Scope<'_>,
) -> Result<(), String> {
    let (date, time) = date(scope.unix_s);
    let value =
        |text: &str| HeaderValue::from_str(text).map_err(|_| "a credential has characters that none has".to_owned());
    headers.insert(DATE, value(&time)?);
    if let Some(token) = &credentials.token {
        let mut token = value(token)?;
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
    }
    let (canonical, names) = canonical(headers)?;
    let request = format!("PUT\n{path}\n\n{canonical}\n{names}\n{body_sha256}");
    let range = format!("{date}/{}/s3/aws4_request", scope.region);
    let text = format!("{ALGORITHM}\n{time}\n{range}\n{}", hex_sha256(request.as_bytes()));
    let mut key = hmac_sha256(format!("AWS4{}", credentials.secret).as_bytes(), date.as_bytes());
    for part in [scope.region, "s3", "aws4_request"] {
        key = hmac_sha256(key.as_ref(), part.as_bytes());
    }
    let signature = hex(hmac_sha256(key.as_ref(), text.as_bytes()).as_ref());
    let id = &credentials.id;
    let mut authorization =
        value(&format!("{ALGORITHM} Credential={id}/{range}, SignedHeaders={names}, Signature={signature}"))?;
    authorization.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, authorization);
    Ok(())
}

/// The headers as they are signed, one a line, and their names.
fn canonical(headers: &HeaderMap) -> Result<(String, String), String> {
    let mut names: Vec<&HeaderName> = headers.keys().filter(|name| **name != header::USER_AGENT).collect();
    names.sort_by_key(|name| name.as_str());
    let mut lines = String::new();
    for name in &names {
        let values: Result<Vec<_>, _> = headers.get_all(*name).iter().map(HeaderValue::to_str).collect();
        let values = values.map_err(|_| format!("header {name} has characters that cannot be signed"))?;
        let words = values.join(",");
        let words: Vec<&str> = words.split_whitespace().collect();
        lines.push_str(&format!("{name}:{}\n", words.join(" ")));
    }
    let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    Ok((lines, names.join(";")))
}

/// A name as part of a path: everything but letters, digits and `-._~/` is percent-encoded.
pub(super) fn path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn hmac_sha256(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

/// SHA-256 in lower-case hex.
pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Day and time of day as ISO 8601 has them (`YYYY-MM-DDTHH:MM:SSZ`).
pub(super) fn iso8601(unix_s: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_s)).to_string()
}

/// `YYYYMMDD`, and that with the time of day as ISO 8601 has it without punctuation.
fn date(unix_s: u64) -> (String, String) {
    let time = iso8601(unix_s).replace(['-', ':'], "");
    (time[..8].to_owned(), time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (unix_s, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_767_225_599, "2025-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(iso8601(unix_s)[..10], *expected, "{unix_s}");
        }
        assert_eq!(date(1_369_353_600).1, "20130524T000000Z");
    }

    /// The example of a `PUT` in Amazon's "Signature Calculations for the Authorization Header".
    #[test]
    fn a_signature_is_that_of_amazons_example() {
        let body_sha256 = hex_sha256(b"Welcome to Amazon S3.");
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-content-sha256", &body_sha256),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let credentials = Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        };
        let scope = Scope { region: "us-east-1", unix_s: 1_369_353_600 };
        sign(&format!("/{}", path("test$file.text")), &mut headers, &body_sha256, &credentials, scope).unwrap();
        assert_eq!(
            headers["authorization"],
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, \
             Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert!(!format!("{headers:?}").contains("98ad72"));
    }
}
