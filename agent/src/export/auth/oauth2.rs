//! A token from a token endpoint, for client credentials (RFC 6749, 4.4).

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use super::{
    super::{
        ExportError, Pieces, answer,
        client::USER_AGENT,
        connect::{Connector, Renewed, Target},
        explain::{explain, short},
        secrets,
    },
    cached::{Token, TokenSource},
};
use crate::config::{self, ClientAuth, Destination};

/// How long a token is used whose life the server does not tell.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);

pub(super) struct OAuth2 {
    config: config::OAuth2,
    client: Renewed<Client<Connector, Full<Pieces>>>,
    timeout: Duration,
}

impl OAuth2 {
    pub(super) fn new(config: &config::OAuth2, destination: &Destination) -> Result<Self, ExportError> {
        let target = Target {
            tls: config.token_url.starts_with("https:"),
            ca_file: config.ca_file.clone(),
            cert_file: None,
            key_file: None,
            ..Target::new(destination, "http/1.1")
        };
        let client = Renewed::new(target, |connector| {
            // Tokens are got seldom: no connection is kept.
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
        })?;
        Ok(Self { config: config.clone(), client, timeout: destination.timeout.0 })
    }

    fn request(&self, secret: &str) -> Result<Request<Full<Pieces>>, String> {
        let config = &self.config;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !config.scopes.is_empty() {
            form.append_pair("scope", &config.scopes.join(" "));
        }
        if let Some(audience) = &config.audience {
            form.append_pair("audience", audience);
        }
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&config.token_url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, USER_AGENT);
        match config.client_auth {
            ClientAuth::Header => {
                // Id and secret are encoded as in a form, before they are put together (RFC 6749, 2.3.1).
                let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let value = secrets::basic_value(&encoded(&config.client_id), &encoded(secret))?;
                request = request.header(header::AUTHORIZATION, value);
            }
            ClientAuth::Body => {
                form.append_pair("client_id", &config.client_id).append_pair("client_secret", secret);
            }
        }
        request.body(Full::new(form.finish().into_bytes().into())).map_err(|cause| cause.to_string())
    }

    async fn answer(&self, secret: &str) -> Result<(StatusCode, Bytes), String> {
        let request = self.request(secret)?;
        let response = self.client.get().request(request).await;
        let response = response.map_err(|cause| explain(self.shown(), &cause))?;
        let status = response.status();
        Ok((status, answer::body(response.into_body()).await?))
    }

    async fn token(&self, secret: &str) -> Result<Token, String> {
        let (status, body) = self.answer(secret).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            let part = |key: &str| answer[key].as_str().map(short).unwrap_or_default();
            return Err(self.it(&format!("answered {status} {} {}", part("error"), part("error_description"))));
        }
        let kind = answer["token_type"].as_str().unwrap_or("bearer");
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err(self.it(&format!("gives a token of type {}, not bearer", short(kind))));
        }
        let token = answer["access_token"].as_str();
        let token = token.ok_or_else(|| self.it("answered without an `access_token`"))?;
        let value = secrets::bearer(token).map_err(|cause| self.it(&format!("gives no token: {cause}")))?;
        let life = seconds(&answer["expires_in"]);
        Ok(Token { value, fresh: self.fresh(life), good: life })
    }

    /// What the token endpoint does, with its name.
    fn it(&self, does: &str) -> String {
        format!("{} {does}", self.shown())
    }

    /// The endpoint without its query, which may have a secret.
    fn shown(&self) -> &str {
        self.config.token_url.split('?').next().unwrap_or_default()
    }

    /// A token is renewed `refresh_before` its end, but not in the first half of its life.
    fn fresh(&self, life: Option<Duration>) -> Duration {
        let Some(life) = life else { return UNKNOWN_LIFE };
        life - self.config.refresh_before.0.min(life / 2)
    }
}

/// A number, which some servers write as a text.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    // A century is as good as for ever, and can be added to a clock.
    Some(Duration::from_secs(seconds.min(100 * 365 * 86400)))
}

impl TokenSource for OAuth2 {
    async fn fetch(&self) -> Result<Token, String> {
        let secret = secrets::read(&self.config.client_secret);
        let secret = secret.map_err(|cause| format!("auth.oauth2.client_secret: {cause}"))?;
        let token = tokio::time::timeout(self.timeout, self.token(&secret)).await;
        let token = token.unwrap_or_else(|_| Err(self.it(&format!("has not answered within {:?}", self.timeout))));
        // A server that repeats what it was sent must not make it public.
        token.map_err(|cause| format!("no token for auth.oauth2: {}", cause.replace(&secret, "***")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Interval, Secret},
        export::fakes::{Answer, Fake},
    };

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer::Http { status, retry_after: None, body }
    }

    struct Setup {
        fake: Fake,
        oauth2: OAuth2,
        _folder: tempfile::TempDir,
    }

    async fn setup(answers: &[Answer], client_auth: ClientAuth) -> Setup {
        let fake = Fake::http(answers, None).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "hunter2:+\n").unwrap();
        let config = config::OAuth2 {
            token_url: format!("http://{}/token", fake.address),
            client_id: "spantap agent".into(),
            client_secret: Secret::File { file },
            client_auth,
            scopes: vec!["a".into(), "b".into()],
            audience: Some("traces".into()),
            refresh_before: Interval::secs(60),
            ca_file: None,
        };
        let oauth2 = OAuth2::new(&config, &Destination::to("otlp+grpc://h".parse().unwrap())).unwrap();
        Setup { fake, oauth2, _folder: folder }
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_the_standard_says() {
        let token = r#"{"access_token":"t1","token_type":"Bearer","expires_in":3600}"#;
        let Setup { fake, oauth2, _folder } = setup(&[answer(200, token)], ClientAuth::Header).await;
        let token = oauth2.fetch().await.unwrap();
        assert_eq!(token.value, "Bearer t1");
        assert_eq!((token.fresh.as_secs(), token.good.unwrap().as_secs()), (3540, 3600));
        let request = &fake.received()[0];
        assert_eq!(request.body, "grant_type=client_credentials&scope=a+b&audience=traces");
        // base64 of `spantap+agent:hunter2%3A%2B`.
        assert_eq!(request.headers["authorization"], "Basic c3BhbnRhcCthZ2VudDpodW50ZXIyJTNBJTJC");
        assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
    }

    #[tokio::test]
    async fn id_and_secret_may_be_in_the_body_and_lives_may_be_short_or_unknown() {
        let answers =
            [answer(200, r#"{"access_token":"t1","expires_in":"20"}"#), answer(200, r#"{"access_token":"t2"}"#)];
        let Setup { fake, oauth2, _folder } = setup(&answers, ClientAuth::Body).await;
        let token = oauth2.fetch().await.unwrap();
        assert_eq!((token.fresh.as_secs(), token.good.unwrap().as_secs()), (10, 20));
        let token = oauth2.fetch().await.unwrap();
        assert_eq!((token.fresh, token.good), (UNKNOWN_LIFE, None));
        let request = &fake.received()[0];
        assert!(request.body.ends_with(b"&client_id=spantap+agent&client_secret=hunter2%3A%2B"));
        assert!(request.headers.get("authorization").is_none());
    }

    #[tokio::test]
    async fn failures_say_what_the_server_says_without_the_secret() {
        let answers = [
            answer(401, r#"{"error":"invalid_client","error_description":"no client has hunter2:+"}"#),
            answer(200, "{}"),
            answer(200, r#"{"access_token":"t","token_type":"mac"}"#),
            answer(503, "busy"),
            answer(200, r#"{"access_token":"two words"}"#),
        ];
        let Setup { oauth2, fake, _folder } = setup(&answers, ClientAuth::Header).await;
        for part in
            ["invalid_client no client has ***", "without an `access_token`", "of type mac", "503", "characters"]
        {
            let error = oauth2.fetch().await.err().unwrap();
            assert!(error.contains(part) && !error.contains("hunter2") && !error.contains("two words"), "{error}");
            assert!(error.contains(&fake.address.to_string()), "{error}");
        }
    }
}
