//! Judges what the agent told of connections that the kernel encrypts (`tests/vm/ktls.sh`).
//!
//! In: the spans, and what the guest said: how many requests it made, how many sessions the kernel itself counted, by version. Out: a
//! sentence, or what is wrong.
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::verdict::{self, Span};

/// What the server answers with, beside its head; the script has the same number.
const ANSWER_BYTES: u64 = 20_000;
/// Where the server listens whose keys stay with OpenSSL; the script has the same port.
const PLAIN: &str = ":8445";
/// Ends of a connection.
const ENDS: [&str; 2] = ["client", "server"];

/// Checks counts, names and the segments' sums.
pub fn check(lines: &str, said: &str) -> Result<String> {
    let said = |name: &str| -> Result<usize> {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("the guest did not say {name}"))
    };
    let made = said("made")?;
    ensure!(made > 0, "no request was made");
    // Otherwise this proves nothing: a third of the requests is of each kind.
    for sessions in ["sent-tls1_2", "sent-tls1_3", "received"] {
        ensure!(said(sessions)? > 0, "the kernel encrypted nothing: {sessions} is 0");
    }
    ensure!(said("sent-plain")? == 0, "the kernel encrypted what it should not");
    let (plain, encrypted) = (made / 3, made - made / 3);
    let spans = verdict::spans(lines)?;
    for end in ENDS {
        let of_end = |is_plain: bool| -> Vec<&Span> {
            let is_of_end = |span: &&Span| span.kind == end && span.server_end().ends_with(PLAIN) == is_plain;
            spans.iter().filter(is_of_end).collect()
        };
        let (seen, opaque) = (of_end(true), of_end(false));
        let requests = seen.iter().filter(|span| span.protocol == "http" && span.path() == Some("/item")).count();
        ensure!(
            (seen.len(), requests) == (plain, plain),
            "{plain} requests with keys of OpenSSL, but {requests} of {} {end} spans are such",
            seen.len()
        );
        ensure!(
            opaque.len() == encrypted,
            "{encrypted} requests were made, but {} {end} spans came back",
            opaque.len()
        );
        for span in opaque {
            check_span(span).with_context(|| format!("span {} ({end})", span.span_id))?;
        }
    }
    for name in ["covered", "counted"] {
        let ends = ENDS.len() * encrypted;
        ensure!(said(name)? == ends, "{ends} ends of connections, {name} {}", said(name)?);
    }
    Ok(format!(
        "{encrypted} requests over TLS of the kernel: one opaque span at each end, and the reason said and counted; {plain} others as ever"
    ))
}

fn check_span(span: &Span) -> Result<()> {
    verdict::check_span(span)?;
    ensure!(span.protocol == "tls", "what is inside is not seen, but it is told as {}", span.protocol);
    let bytes = span.attributes.get("spantap.response.bytes").and_then(Value::as_u64);
    ensure!(bytes.is_some_and(|bytes| bytes >= ANSWER_BYTES), "an answer of {ANSWER_BYTES} bytes is told as {bytes:?}");
    let name = span.attributes.get("tls.client.server_name").and_then(Value::as_str);
    ensure!(name == Some("ktls.test"), "the server's name is told as {name:?}");
    ensure!(span.status.as_deref() != Some("error"), "no request failed, but the status is error");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "sent-tls1_2 2\nsent-tls1_3 2\nsent-plain 0\nreceived 2\nmade 3\ncovered 4\ncounted 4\n";

    fn line(kind: &str, protocol: &str, port: u16) -> String {
        let ends = if kind == "server" { ("local", "peer") } else { ("peer", "local") };
        format!(
            r#"{{"span_id":"a","kind":"{kind}","protocol":"{protocol}","status":"unknown","{}":"127.0.0.1:{port}","{}":"127.0.0.1:50000","start_unix_ns":5,"duration_ns":9,"attributes":{{"tls.client.server_name":"ktls.test","url.path":"/item","spantap.response.bytes":20074}},"segments":[{{"name":"network","start_ns":0,"duration_ns":9,"evidence":"measured"}}]}}"#,
            ends.0, ends.1
        ) + "\n"
    }

    #[test]
    fn one_opaque_span_at_each_end_passes_and_all_else_fails() {
        let both = |protocol: &str, port: u16| line("client", protocol, port) + &line("server", protocol, port);
        let all = both("tls", 8443) + &both("tls", 8444) + &both("http", 8445);
        check(&all, SAID).unwrap();
        for (spans, said, expected) in [
            (all.replacen("\"kind\":\"server\"", "\"kind\":\"client\"", 1), SAID.to_owned(), "3 client spans"),
            (all.replacen("\"protocol\":\"tls\"", "\"protocol\":\"http\"", 1), SAID.to_owned(), "told as http"),
            (all.replace("\"protocol\":\"http\"", "\"protocol\":\"tls\""), SAID.to_owned(), "0 of 1 client spans"),
            (all.replacen("unknown", "error", 1), SAID.to_owned(), "the status is error"),
            (all.replace("ktls.test", "other"), SAID.to_owned(), "server's name"),
            (all.replace("20074", "19999"), SAID.to_owned(), "told as Some(19999)"),
            (all.clone(), SAID.replace("tls1_3 2", "tls1_3 0"), "encrypted nothing"),
            (all.clone(), SAID.replace("plain 0", "plain 2"), "should not"),
            (all.clone(), SAID.replace("covered 4", "covered 3"), "covered 3"),
            (all, SAID.replace("counted 4", ""), "did not say counted"),
        ] {
            let error = format!("{:#}", check(&spans, &said).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
