//! How the agent shows a broker who it is (SASL, RFC 4422).

use std::sync::Arc;

use http::HeaderValue;
use rskafka::client::{Credentials, OauthBearerCredentials, SaslConfig};

use super::super::secrets;
use crate::config::{self, Basic, Destination};

/// What is known without reading a secret. What it gives has one: it has no debug output here, and is used at once.
pub(super) struct Sasl {
    basic: Option<Basic>,
    mechanism: config::Sasl,
}

impl Sasl {
    pub(super) fn new(destination: &Destination) -> Self {
        let basic = destination.auth.as_ref().and_then(|auth| auth.basic.clone());
        Self { basic, mechanism: destination.kafka.clone().unwrap_or_default().sasl }
    }

    /// For a connection that is made now; `authorization` is what HTTP would send. Nothing: nobody is asked.
    ///
    /// # Errors
    /// A secret cannot be read, in words that do not have it.
    pub(super) fn config(&self, authorization: Option<&HeaderValue>) -> Result<Option<SaslConfig>, String> {
        if let Some(basic) = &self.basic {
            let credentials = Credentials::new(basic.username.clone(), secrets::read(&basic.password)?);
            return Ok(Some(match self.mechanism {
                config::Sasl::Plain => SaslConfig::Plain(credentials),
                config::Sasl::ScramSha256 => SaslConfig::ScramSha256(credentials),
                config::Sasl::ScramSha512 => SaslConfig::ScramSha512(credentials),
            }));
        }
        let Some(authorization) = authorization else { return Ok(None) };
        let token = secrets::token(authorization)?;
        Ok(Some(SaslConfig::Oauthbearer(OauthBearerCredentials {
            callback: Arc::new(move || {
                let token = token.clone();
                Box::pin(async move { Ok(token) })
            }),
            authz_id: None,
            bearer_kvs: Vec::new(),
        })))
    }
}
