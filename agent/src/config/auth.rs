//! How the agent proves to a destination who it is, as configured. No secret itself is ever here: only where it is read.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Interval;

/// The `Authorization` of requests. One of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// A token that somebody else renews.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer: Option<Bearer>,
    /// User name and password (RFC 7617).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// A token that the agent gets by client credentials (RFC 6749, 4.4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,
    /// What signs requests to S3 (AWS Signature Version 4).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_key: Option<AccessKey>,
}

/// An access key, and the token of its session if it is good for a time only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// Its id.
    pub id: Secret,
    /// Its secret.
    pub secret: Secret,
    /// The session's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
}

/// A bearer token (RFC 6750) from a file or from a command's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bearer {
    /// File whose first line is the token. Read for each request, so that a new token is used at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Program and arguments; the first line of its output is the token. No shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How long a token of the command is used; then, and when the destination refuses it, the command runs again.
    #[serde(default = "expires_after_default")]
    pub expires_after: Interval,
}

/// User name and password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// Client credentials and where to exchange them for a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OAuth2 {
    /// Token endpoint, `https://` or `http://`.
    pub token_url: String,
    /// Client id.
    pub client_id: String,
    /// Client secret.
    pub client_secret: Secret,
    /// How id and secret are sent.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// Scopes to ask for.
    #[serde(default, deserialize_with = "super::or_default")]
    pub scopes: Vec<String>,
    /// Audience to ask for, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// A new token is got so long before the old one expires, but not before half of its life.
    #[serde(default = "refresh_before_default")]
    pub refresh_before: Interval,
    /// Certificates (PEM) to trust at the token endpoint in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// How client id and secret are sent to the token endpoint (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// As HTTP basic authentication, which every server takes.
    #[default]
    Header,
    /// In the request's body.
    Body,
}

/// Where a secret is read: the first line of a file, or an environment variable. Read each time it is needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Secret {
    /// First line of a file.
    File {
        /// The file.
        file: PathBuf,
    },
    /// An environment variable.
    Env {
        /// Its name.
        env: String,
    },
}

const fn expires_after_default() -> Interval {
    Interval::secs(300)
}

const fn refresh_before_default() -> Interval {
    Interval::secs(60)
}

impl Auth {
    /// How many ways are configured.
    pub(super) fn ways(&self) -> usize {
        let ways = [self.bearer.is_some(), self.basic.is_some(), self.oauth2.is_some(), self.access_key.is_some()];
        ways.into_iter().filter(|way| *way).count()
    }
}
