//! Words of servers, and places where no server is.

use std::net::SocketAddr;

use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::{
    super::{
        client::Client,
        fakes::{body, destination},
        retry::{AgainKind, Outcome},
    },
    connection::Failure,
    verdict::{of_answer, of_failure},
    wire::Answer,
};

#[track_caller]
fn check_again(outcome: &Outcome, kind: AgainKind, part: &str) {
    let Outcome::Again { kind: found, cause, .. } = outcome else { panic!("{outcome:?}") };
    assert!(*found == kind && cause.contains(part), "{outcome:?}");
}

fn answer(payload: &str) -> Outcome {
    of_answer("u", &Answer { status: None, payload: payload.into() })
}

#[test]
fn answers_of_jetstream_are_told_apart() {
    let taken = Outcome::Delivered { rejected: 0, message: String::new() };
    assert_eq!(answer(r#"{"stream":"SPANS","seq":7}"#), taken);
    assert_eq!(answer(r#"{"stream":"SPANS","seq":7,"duplicate":true}"#), taken);
    let refused = |code: u16, err_code: u16, description: &str| {
        let error = serde_json::json!({ "code": code, "err_code": err_code, "description": description });
        answer(&serde_json::json!({ "error": error }).to_string())
    };
    check_again(&refused(503, 10_077, "maximum bytes exceeded"), AgainKind::RateLimited, "the stream is full");
    check_again(&refused(500, 10_047, "insufficient storage"), AgainKind::RateLimited, "no room");
    check_again(&refused(503, 10_008, "temporarily unavailable"), AgainKind::Unavailable, "temporarily");
    check_again(&refused(503, 10_039, "not enabled"), AgainKind::Misconfigured, "enable JetStream");
    check_again(&refused(400, 10_109, "sealed"), AgainKind::Misconfigured, "sealed");
    assert!(matches!(refused(400, 10_054, "too large"), Outcome::TooLarge { .. }));
    for other in ["", "hello", "{}", "[]"] {
        check_again(&answer(other), AgainKind::Misconfigured, "no JetStream");
    }
    let nobody = of_answer("u", &Answer { status: Some(503), payload: vec![] });
    check_again(&nobody, AgainKind::Misconfigured, "no JetStream stream has this subject");
}

#[test]
fn errors_of_servers_are_told_apart() {
    let said = |text: &str| of_failure("u", Failure::Said { place: "h:1".into(), text: text.into() });
    check_again(&said("Authorization Violation"), AgainKind::Auth, "correct `auth`");
    check_again(&said("User Authentication Expired"), AgainKind::Auth, "correct `auth`");
    check_again(&said("Permissions Violation for Publish to \"a\""), AgainKind::Auth, "to publish there");
    check_again(&said("Permissions Violation for Subscription to \"_INBOX.x\""), AgainKind::Auth, "_INBOX.>");
    check_again(&said("Maximum Connections Exceeded"), AgainKind::Unavailable, "h:1 says");
    assert!(matches!(said("Maximum Payload Violation"), Outcome::TooLarge { .. }));
    for (is_wanted, part) in [(true, "write nats+tls://"), (false, "offers no TLS")] {
        check_again(&of_failure("u", Failure::Tls { place: "h:1".into(), is_wanted }), AgainKind::Misconfigured, part);
    }
}

/// What says this to whoever comes, and goes.
async fn speaks_first(said: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(said).await;
        }
    });
    address
}

#[tokio::test]
async fn nobody_and_somebody_else_are_told_apart() {
    let client = Client::new(&destination("nats://127.0.0.1:1/spans")).unwrap();
    check_again(&client.send(body(), "key").await, AgainKind::Unavailable, "nothing listens there");
    for (said, part) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "no server of NATS"),
        (b"INFO {\"tls_required\":true}\r\n", "wants TLS"),
        (b"-ERR 'Maximum Connections Exceeded'\r\n", "Maximum Connections"),
        (b"", "nats+tls"),
    ] {
        let address = speaks_first(said).await;
        let client = Client::new(&destination(&format!("nats://{address}/spans"))).unwrap();
        let Outcome::Again { cause, .. } = client.send(body(), "key").await else { panic!() };
        assert!(cause.contains(part), "{cause}");
    }
}
