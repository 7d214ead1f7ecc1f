//! Judges the spans that the guest check brought back.
//!
//! In: lines of `spantap spans --json`. The guest made a known number of requests, one connection each, with busybox's wget against
//! busybox's httpd. Out: a sentence, or what is wrong. The truth is the number of requests; it is never taken from the spans.
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Requests that `tests/vm/guest.sh` makes. It has the same number at its top.
pub const REQUESTS: usize = 20;

/// One line of `spantap spans --json`, as far as it is judged.
#[derive(Deserialize)]
pub struct Span {
    /// Its id in hexadecimal.
    pub span_id: String,
    /// `client` or `server`.
    pub kind: String,
    /// `http` or another.
    pub protocol: String,
    #[serde(default)]
    local: String,
    #[serde(default)]
    peer: String,
    /// When it began.
    pub start_unix_ns: u64,
    duration_ns: u64,
    /// As the span tells them.
    #[serde(default)]
    pub attributes: Map<String, Value>,
    /// `ok`, `error` or another, if it is known.
    #[serde(default)]
    pub status: Option<String>,
    /// What it is made of.
    pub segments: Vec<Segment>,
}

/// A tile of a span.
#[derive(Deserialize)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// Its length.
    pub duration_ns: u64,
    /// How it is known.
    pub evidence: String,
}

impl Span {
    /// `ip:port` of the server, whichever end this is.
    pub fn server_end(&self) -> &str {
        if self.kind == "server" { &self.local } else { &self.peer }
    }

    /// The path that was asked for, if the protocol has one.
    pub fn path(&self) -> Option<&str> {
        self.attributes.get("url.path").and_then(Value::as_str)
    }

    /// The segment that took the longest, all tiles of its name together.
    pub fn largest(&self) -> &str {
        let mut sums = BTreeMap::new();
        for tile in &self.segments {
            *sums.entry(tile.name.as_str()).or_insert(0) += tile.duration_ns;
        }
        sums.into_iter().max_by_key(|(_, sum)| *sum).map_or("", |(name, _)| name)
    }
}

/// Reads lines of `spantap spans --json`.
pub fn spans(lines: &str) -> Result<Vec<Span>> {
    let parse = |line: &str| serde_json::from_str::<Span>(line).with_context(|| format!("not a span: {line}"));
    lines.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

/// Checks the counts, the segments' sums and their evidence.
pub fn check(lines: &str) -> Result<String> {
    let spans = spans(lines)?;
    let http: Vec<&Span> = spans.iter().filter(|span| span.protocol == "http").collect();
    for kind in ["server", "client"] {
        let count = http.iter().filter(|span| span.kind == kind).count();
        ensure!(count == REQUESTS, "{REQUESTS} requests were made, but {count} http {kind} spans came back");
    }
    for span in &http {
        check_span(span).with_context(|| format!("span {} ({})", span.span_id, span.kind))?;
    }
    let measured = http.iter().flat_map(|span| &span.segments).filter(|segment| segment.evidence == "measured").count();
    ensure!(measured > 0, "no segment of any span was measured");
    Ok(format!(
        "{REQUESTS} requests, {REQUESTS} server and {REQUESTS} client spans, every sum exact, {measured} measured segments"
    ))
}

/// Whether a span has a time, and segments that tile it.
pub fn check_span(span: &Span) -> Result<()> {
    ensure!(span.start_unix_ns > 0 && span.duration_ns > 0, "has no time");
    ensure!(!span.segments.is_empty(), "has no segments");
    let sum: u64 = span.segments.iter().map(|segment| segment.duration_ns).sum();
    ensure!(sum == span.duration_ns, "segments sum to {sum} ns, the span took {} ns", span.duration_ns);
    for segment in &span.segments {
        if !["measured", "derived", "inferred"].contains(&segment.evidence.as_str()) {
            bail!("segment {} has the evidence {:?}", segment.name, segment.evidence);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, duration_ns: u64, segment_ns: u64, evidence: &str) -> String {
        format!(
            r#"{{"span_id":"a","kind":"{kind}","protocol":"http","start_unix_ns":5,"duration_ns":{duration_ns},"links":[],"segments":[{{"name":"network","start_ns":0,"duration_ns":{segment_ns},"evidence":"{evidence}"}}]}}"#
        ) + "\n"
    }

    fn all_good() -> String {
        (line("server", 9, 9, "measured") + &line("client", 9, 9, "derived")).repeat(REQUESTS)
    }

    #[track_caller]
    fn fails(lines: &str, expected: &str) {
        let error = format!("{:#}", check(lines).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn one_server_and_one_client_span_per_request_pass() {
        check(&all_good()).unwrap();
    }

    #[test]
    fn a_missing_or_invented_span_fails() {
        fails(&all_good().replacen("\"kind\":\"server\"", "\"kind\":\"client\"", 1), "19 http server spans");
        fails(&(all_good() + &line("client", 9, 9, "measured")), "21 http client spans");
        fails("", "0 http server spans");
    }

    #[test]
    fn segments_that_do_not_tile_the_span_fail() {
        fails(&all_good().replacen("\"duration_ns\":9,\"links\"", "\"duration_ns\":10,\"links\"", 1), "sum to 9 ns");
        fails(&all_good().replacen("derived", "guessed", 1), "guessed");
        fails(&all_good().replace("measured", "inferred"), "no segment of any span was measured");
    }

    #[test]
    fn a_line_that_is_not_a_span_fails() {
        fails("spantap: error\n", "not a span");
    }

    #[test]
    fn the_guest_makes_the_number_of_requests_that_is_expected() {
        let script = include_str!("../../../tests/vm/guest.sh");
        assert!(script.contains(&format!("\nREQUESTS={REQUESTS}\n")));
    }
}
