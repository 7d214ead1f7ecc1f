//! Credentials that change, expire and are refused while spans flow.

use std::{fs, path::Path, time::Duration};

use tonic::Code;

use super::{
    client::Client,
    fakes::{Answer, Fake, Identity, body, destination, eventually},
    retry::{AgainKind, Outcome},
};
use crate::config::{Auth, Bearer, ClientAuth, Interval, OAuth2, Secret};

fn is_taken(outcome: &Outcome) -> bool {
    *outcome == Outcome::Delivered { rejected: 0, message: String::new() }
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Again { kind: AgainKind::Auth, .. })
}

fn tokens(fake: &Fake) -> Vec<String> {
    fake.received().iter().map(|received| received.headers["authorization"].to_str().unwrap().to_owned()).collect()
}

/// A server by either protocol that refuses as often as told, and then takes.
async fn servers(refusals: usize) -> [(Fake, String); 2] {
    let grpc = Fake::grpc(&vec![Answer::Grpc { code: Code::Unauthenticated, retry_after: None }; refusals], None).await;
    let http = Fake::http(&vec![Answer::Http { status: 401, retry_after: None, body: "" }; refusals], None).await;
    let urls = [format!("otlp+grpc://{}", grpc.address), format!("otlp+http://{}", http.address)];
    let [first, second] = urls;
    [(grpc, first), (http, second)]
}

#[tokio::test]
async fn a_token_file_that_changes_is_used_at_once() {
    for (fake, url) in servers(1).await {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "one").unwrap();
        let mut to = destination(&url);
        let bearer = Bearer { file: Some(file.clone()), command: Vec::new(), expires_after: Interval::secs(1) };
        to.auth = Some(Auth { bearer: Some(bearer), ..Auth::default() });
        let client = Client::new(&to).unwrap();
        assert!(is_refused(&client.send(body(), "key").await), "the file has no other token");
        fs::write(folder.path().join("next"), "two").unwrap();
        fs::rename(folder.path().join("next"), &file).unwrap();
        assert!(is_taken(&client.send(body(), "key").await));
        fs::remove_file(&file).unwrap();
        let Outcome::Again { kind, cause, .. } = client.send(body(), "key").await else { panic!() };
        assert!(kind == AgainKind::Auth && cause.contains("token"), "{cause}");
        assert_eq!(tokens(&fake), ["Bearer one", "Bearer two"]);
    }
}

#[tokio::test]
async fn a_command_runs_again_when_its_token_is_refused() {
    for (fake, url) in servers(1).await {
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        fs::write(&count, "").unwrap();
        let script = format!("printf x >> {0}; wc -c < {0}", count.display());
        let mut to = destination(&url);
        let command = vec!["sh".into(), "-c".into(), script];
        let bearer = Bearer { file: None, command, expires_after: Interval::secs(3600) };
        to.auth = Some(Auth { bearer: Some(bearer), ..Auth::default() });
        let client = Client::new(&to).unwrap();
        assert!(is_taken(&client.send(body(), "key").await));
        assert!(is_taken(&client.send(body(), "key").await));
        assert_eq!(tokens(&fake), ["Bearer 1", "Bearer 2", "Bearer 2"]);
    }
}

#[tokio::test]
async fn oauth2_gets_one_other_token_when_one_is_refused() {
    let token = |body| Answer::Http { status: 200, retry_after: None, body };
    for (fake, url) in servers(3).await {
        let script = [
            token(r#"{"access_token":"t1","expires_in":3600}"#),
            token(r#"{"access_token":"t2","expires_in":3600}"#),
            Answer::Http { status: 503, retry_after: None, body: "" },
        ];
        let endpoint = Fake::http(&script, None).await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "hunter2").unwrap();
        let oauth2 = OAuth2 {
            token_url: format!("http://{}/token", endpoint.address),
            client_id: "spantap".into(),
            client_secret: Secret::File { file },
            client_auth: ClientAuth::Header,
            scopes: Vec::new(),
            audience: None,
            refresh_before: Interval::secs(60),
            ca_file: None,
        };
        let mut to = destination(&url);
        to.auth = Some(Auth { oauth2: Some(oauth2), ..Auth::default() });
        let client = Client::new(&to).unwrap();
        assert!(is_refused(&client.send(body(), "key").await), "both tokens are refused");
        assert_eq!(tokens(&fake), ["Bearer t1", "Bearer t2"]);
        // The third refusal comes too soon after the second token for a third one.
        assert!(is_refused(&client.send(body(), "key").await));
        assert!(is_taken(&client.send(body(), "key").await));
        assert_eq!(endpoint.received().len(), 2);
    }
}

fn write(folder: &Path, identity: &Identity) {
    fs::write(folder.join("cert.pem"), &identity.certificate).unwrap();
    fs::write(folder.join("key.pem"), &identity.key).unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_replaced_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (known, unknown) = (Identity::new(), Identity::new());
    let server = Identity { clients: Some(known.ca.clone()), ..Identity::new() };
    fs::write(folder.path().join("ca.pem"), &server.ca).unwrap();
    let (grpc, http) = (Fake::grpc(&[], Some(&server)).await, Fake::http(&[], Some(&server)).await);
    for (scheme, fake) in [("otlp+grpcs", &grpc), ("otlp+https", &http)] {
        let mut to = destination(&format!("{scheme}://localhost:{}", fake.address.port()));
        to.tls.ca_file = Some(folder.path().join("ca.pem"));
        let without = Client::new(&to).unwrap();
        assert!(!is_taken(&without.send(body(), "key").await), "the server asks for a certificate");
        write(folder.path(), &unknown);
        to.tls.cert_file = Some(folder.path().join("cert.pem"));
        to.tls.key_file = Some(folder.path().join("key.pem"));
        let client = Client::new(&to).unwrap();
        assert!(matches!(client.send(body(), "key").await, Outcome::Again { .. }));
        write(folder.path(), &known);
        let give_up = tokio::time::Instant::now() + Duration::from_secs(60);
        while !is_taken(&client.send(body(), "key").await) {
            assert!(tokio::time::Instant::now() < give_up, "{scheme}: the new certificate is not used");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        eventually("received", || fake.received().len() == 1).await;
    }
}
