//! Reads what destinations need to know and messages must not show: header values and certificates.
//!
//! Read once, when the agent starts. Errors name the header or file, never a value.

use std::fs;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::ExportError;
use crate::config::{self, Destination};

/// The headers of every request, marked as sensitive so that no debug output has them.
pub(super) fn headers(destination: &Destination) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &destination.headers {
        let wrong =
            |cause: String| ExportError::Header { destination: destination.name.clone(), header: name.clone(), cause };
        let text = text(destination, name, value)?;
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| wrong("its value has characters that a header cannot hold".into()))?;
        value.set_sensitive(true);
        headers.insert(HeaderName::try_from(name).map_err(|cause| wrong(cause.to_string()))?, value);
    }
    Ok(headers)
}

fn text(destination: &Destination, header: &str, value: &config::HeaderValue) -> Result<String, ExportError> {
    let wrong = |cause| ExportError::Header { destination: destination.name.clone(), header: header.to_owned(), cause };
    match value {
        config::HeaderValue::Text(text) => Ok(text.clone()),
        config::HeaderValue::File { file } => {
            let text = fs::read_to_string(file).map_err(|cause| ExportError::File {
                destination: destination.name.clone(),
                key: format!("headers.{header}"),
                path: file.clone(),
                cause,
            })?;
            let line = text.lines().next().unwrap_or_default().trim();
            if line.is_empty() {
                return Err(wrong(format!("the first line of {} is empty", file.display())));
            }
            Ok(line.to_owned())
        }
        config::HeaderValue::Env { env } => std::env::var(env)
            .map_err(|_| wrong(format!("environment variable {env} is not set; set it for the agent's service"))),
    }
}

/// The certificates to trust in place of the system's, as PEM, if configured.
pub(super) fn ca_pem(destination: &Destination) -> Result<Option<Vec<u8>>, ExportError> {
    let Some(path) = &destination.tls.ca_file else { return Ok(None) };
    let pem = fs::read(path).map_err(|cause| ExportError::File {
        destination: destination.name.clone(),
        key: "tls.ca_file".into(),
        path: path.clone(),
        cause,
    })?;
    Ok(Some(pem))
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
        assert!(error.to_string().contains("headers.authorization /nowhere/token"), "{error}");
    }
}
