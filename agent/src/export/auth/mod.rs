//! The `Authorization` of requests: read or got when it is needed, renewed before it expires and when it is refused.
//!
//! Values never appear in messages or debug output.

use std::path::PathBuf;

use http::HeaderValue;

use super::{
    ExportError,
    retry::{AgainKind, Outcome},
    secrets,
};
use crate::config::{self, Basic, Destination};

mod cached;
mod command;
mod oauth2;

use self::{cached::Cached, command::Command, oauth2::OAuth2};

pub(super) struct Auth(Way);

enum Way {
    None,
    /// Read for each request: that costs less than to be wrong about whether it has changed.
    File(PathBuf),
    Basic(Basic),
    Command(Cached<Command>),
    OAuth2(Box<Cached<OAuth2>>),
}

impl Auth {
    pub(super) fn new(destination: &Destination) -> Result<Self, ExportError> {
        let Some(auth) = &destination.auth else { return Ok(Self(Way::None)) };
        if let Some(oauth2) = &auth.oauth2 {
            return Ok(Self(Way::OAuth2(Box::new(Cached::new(OAuth2::new(oauth2, destination)?)))));
        }
        if let Some(basic) = &auth.basic {
            return Ok(Self(Way::Basic(basic.clone())));
        }
        Ok(Self(match &auth.bearer {
            None => Way::None,
            Some(config::Bearer { file: Some(file), .. }) => Way::File(file.clone()),
            Some(bearer) => Way::Command(Cached::new(Command::new(bearer, destination.timeout.0))),
        }))
    }

    /// The value for a request, if the destination wants one.
    ///
    /// # Errors
    /// It cannot be read or got, in words that have no secret.
    async fn value(&self) -> Result<Option<HeaderValue>, String> {
        match &self.0 {
            Way::None => Ok(None),
            Way::File(file) => secrets::first_line(file).and_then(|token| secrets::bearer(&token)).map(Some),
            Way::Basic(basic) => secrets::basic(basic).map(Some),
            Way::Command(cached) => cached.value().await.map(Some),
            Way::OAuth2(cached) => cached.value().await.map(Some),
        }
    }

    /// Sends with the value for a request, and once more with another if there is one after the first was refused.
    pub(super) async fn attempt<F>(&self, send: impl Fn(Option<HeaderValue>) -> F) -> Outcome
    where
        F: Future<Output = Outcome> + Send,
    {
        let mut again = true;
        loop {
            let value = match self.value().await {
                Ok(value) => value,
                Err(cause) => return Outcome::again(AgainKind::Auth, cause),
            };
            let outcome = send(value.clone()).await;
            let refused = matches!(outcome, Outcome::Again { kind: AgainKind::Auth, .. });
            if !(refused && again && self.renewed(value.as_ref()).await) {
                return outcome;
            }
            again = false;
        }
    }

    /// Whether there is another value now that the destination has refused `refused`.
    async fn renewed(&self, refused: Option<&HeaderValue>) -> bool {
        let Some(refused) = refused else { return false };
        match &self.0 {
            Way::Command(cached) => cached.renew(refused).await,
            Way::OAuth2(cached) => cached.renew(refused).await,
            _ => self.value().await.is_ok_and(|value| value.as_ref() != Some(refused)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let auth = Auth(Way::File(file.clone()));
        let first = auth.value().await.unwrap().unwrap();
        assert_eq!(first, "Bearer one");
        assert!(!format!("{first:?}").contains("one"));
        assert!(!auth.renewed(Some(&first)).await);
        std::fs::write(&file, "two\n").unwrap();
        assert!(auth.renewed(Some(&first)).await);
        assert_eq!(auth.value().await.unwrap().unwrap(), "Bearer two");
        for bad in ["", "\n", "a b\n", "ü\n"] {
            std::fs::write(&file, bad).unwrap();
            let error = auth.value().await.unwrap_err();
            assert!(bad.trim().is_empty() || !error.contains(bad.trim()), "{error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(auth.value().await.unwrap_err().contains("token"));
    }

    #[tokio::test]
    async fn basic_is_as_the_standard_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "open sesame\n").unwrap();
        let basic = Basic { username: "Aladdin".into(), password: config::Secret::File { file } };
        // RFC 7617, 2.
        assert_eq!(Auth(Way::Basic(basic)).value().await.unwrap().unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
