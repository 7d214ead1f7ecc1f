//! Judges what the agent told of connections that the kernel encrypts (`tests/vm/ktls.sh`).
//!
//! In: the spans, and what the guest said: how many requests it made, how many sessions the kernel itself counted, by version. Out: a
//! sentence, or what is wrong.
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::verdict::{self, Span};

/// What the server answers with, beside its head; the script has the same number.
const ANSWER_BYTES: u64 = 20_000;
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
    for sessions in ["sent-tls1_2", "sent-tls1_3", "received"] {
        // Otherwise this proves nothing.
        ensure!(said(sessions)? > 0, "the kernel encrypted nothing: {sessions} is 0");
    }
    let spans = verdict::spans(lines)?;
    for end in ENDS {
        let of_end: Vec<&Span> = spans.iter().filter(|span| span.kind == end).collect();
        ensure!(of_end.len() == made, "{made} requests were made, but {} {end} spans came back", of_end.len());
        for span in of_end {
            check_span(span).with_context(|| format!("span {} ({end})", span.span_id))?;
        }
    }
    for name in ["covered", "counted"] {
        ensure!(said(name)? == ENDS.len() * made, "{} ends of connections, {name} {}", ENDS.len() * made, said(name)?);
    }
    Ok(format!("{made} requests over TLS of the kernel: one opaque span at each end, and the reason said and counted"))
}

fn check_span(span: &Span) -> Result<()> {
    verdict::check_span(span)?;
    ensure!(span.protocol == "tls", "what is inside is not seen, but it is told as {}", span.protocol);
    let bytes = span.attributes.get("spantap.response.bytes").and_then(Value::as_u64);
    ensure!(bytes.is_some_and(|bytes| bytes >= ANSWER_BYTES), "an answer of {ANSWER_BYTES} bytes is told as {bytes:?}");
    let name = span.attributes.get("tls.client.server_name").and_then(Value::as_str);
    ensure!(name == Some("ktls.test"), "the server's name is told as {name:?}");
    if let Some(status) = span.status.as_deref().filter(|status| *status == "error") {
        bail!("no request failed, but the status is {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "sent-tls1_2 2\nsent-tls1_3 2\nreceived 2\nmade 1\ncovered 2\ncounted 2\n";

    fn line(kind: &str, protocol: &str, status: &str) -> String {
        format!(
            r#"{{"span_id":"a","kind":"{kind}","protocol":"{protocol}","status":"{status}","start_unix_ns":5,"duration_ns":9,"attributes":{{"tls.client.server_name":"ktls.test","spantap.response.bytes":20074}},"segments":[{{"name":"network","start_ns":0,"duration_ns":9,"evidence":"measured"}}]}}"#
        ) + "\n"
    }

    #[test]
    fn one_opaque_span_at_each_end_passes_and_all_else_fails() {
        let (client, server) = (line("client", "tls", "unknown"), line("server", "tls", "unknown"));
        let both = format!("{client}{server}");
        check(&both, SAID).unwrap();
        for (spans, said, expected) in [
            (client.clone(), SAID.to_owned(), "0 server spans"),
            (format!("{both}{client}"), SAID.to_owned(), "2 client spans"),
            (both.replace("\"protocol\":\"tls\"", "\"protocol\":\"http\""), SAID.to_owned(), "told as http"),
            (both.replace("unknown", "error"), SAID.to_owned(), "the status is error"),
            (both.replace("ktls.test", "other"), SAID.to_owned(), "server's name"),
            (both.clone(), SAID.replace("tls1_3 2", "tls1_3 0"), "encrypted nothing"),
            (both.replace("20074", "19999"), SAID.to_owned(), "told as Some(19999)"),
            (both.clone(), SAID.replace("covered 2", "covered 1"), "covered 1"),
            (both, SAID.replace("counted 2", ""), "did not say counted"),
        ] {
            let error = format!("{:#}", check(&spans, &said).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
