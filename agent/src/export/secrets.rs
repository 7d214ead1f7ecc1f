//! Reads what destinations need to know and messages must not show: header values, tokens, passwords.
//!
//! Errors name the header, file or variable, never a value.

use std::{fs, io::Read, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::ExportError;
use crate::config::{self, Basic, Destination, Secret};

/// Longest file of a secret that is read.
const SECRET_BYTES_MAX: u64 = 64 << 10;
const NO_TOKEN: &str = "the token has characters that no token has";

/// The static headers of every request, read once and marked as sensitive so that no debug output has them.
pub(super) fn headers(destination: &Destination) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &destination.headers {
        let wrong =
            |cause: String| ExportError::Header { destination: destination.name.clone(), header: name.clone(), cause };
        let value = sensitive(&text(destination, name, value)?).map_err(wrong)?;
        headers.insert(HeaderName::try_from(name).map_err(|cause| wrong(cause.to_string()))?, value);
    }
    Ok(headers)
}

fn text(destination: &Destination, header: &str, value: &config::HeaderValue) -> Result<String, ExportError> {
    let read = match value {
        config::HeaderValue::Text(text) => Ok(text.clone()),
        config::HeaderValue::File { file } => first_line(file),
        config::HeaderValue::Env { env } => variable(env),
    };
    read.map_err(|cause| ExportError::Header {
        destination: destination.name.clone(),
        header: header.to_owned(),
        cause,
    })
}

/// The secret, as it is now.
pub(super) fn read(secret: &Secret) -> Result<String, String> {
    match secret {
        Secret::File { file } => first_line(file),
        Secret::Env { env } => variable(env),
    }
}

/// The first line of a file, without white space around it.
pub(super) fn first_line(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    let read = file.take(SECRET_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|cause| format!("cannot read {}: {cause}", path.display()))?;
    match text.lines().next().unwrap_or_default().trim() {
        "" => Err(format!("the first line of {} is empty", path.display())),
        line => Ok(line.to_owned()),
    }
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("environment variable {name} is not set; set it for the agent's service"))
}

/// `Bearer` and the token (RFC 6750).
pub(super) fn bearer(token: &str) -> Result<HeaderValue, String> {
    if token.is_empty() {
        return Err("the token is empty".into());
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(NO_TOKEN.into());
    }
    sensitive(&format!("Bearer {token}"))
}

/// The token in what [`bearer`] gives, for protocols that have no headers.
pub(super) fn token(authorization: &HeaderValue) -> Result<String, String> {
    let token = authorization.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    token.map(str::to_owned).ok_or_else(|| NO_TOKEN.into())
}

/// `Basic` with user name and password (RFC 7617).
pub(super) fn basic(basic: &Basic) -> Result<HeaderValue, String> {
    basic_value(&basic.username, &read(&basic.password)?)
}

/// As [`basic`], of texts that are there already.
pub(super) fn basic_value(username: &str, password: &str) -> Result<HeaderValue, String> {
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
}

/// A value that no debug output shows.
fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| "its value has characters that a header cannot hold".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(value: config::HeaderValue) -> Destination {
        let mut destination = Destination::to("otlp+grpc://h".parse().unwrap());
        destination.name = "backend".into();
        destination.headers.insert("authorization".into(), value);
        destination
    }

    #[test]
    fn values_come_from_text_and_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "Bearer hunter2\n").unwrap();
        for value in [config::HeaderValue::Text("Bearer hunter2".into()), config::HeaderValue::File { file }] {
            let headers = headers(&destination(value)).unwrap();
            assert_eq!(headers["authorization"], "Bearer hunter2");
            assert!(!format!("{headers:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let unset = config::HeaderValue::Env { env: "NO_SUCH_VARIABLE_IS_SET".into() };
        let error = headers(&destination(unset)).unwrap_err().to_string();
        assert!(error.contains("backend") && error.contains("NO_SUCH_VARIABLE_IS_SET"), "{error}");
        let error = headers(&destination(config::HeaderValue::File { file: "/nowhere/token".into() })).unwrap_err();
        assert!(error.to_string().contains("header authorization: cannot read /nowhere/token"), "{error}");
    }
}
