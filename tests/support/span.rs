//! Spans as `spantap spans --json` prints them: the documented, stable form.
//!
//! In: JSON lines. Out: [`Span`], and the checks that hold for every span. A missing or misspelt field fails the test.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// One line of `spantap spans --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, or null.
    pub parent_span_id: Option<String>,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub kind: String,
    /// Low-cardinality name.
    pub name: String,
    /// Service.
    pub service: String,
    /// Start.
    pub start_unix_ns: u64,
    /// Length.
    pub duration_ns: u64,
    /// `ok`, `error` or `unknown`.
    pub status: String,
    /// `http`, `tcp`, …
    pub protocol: String,
    /// `ip:port`.
    pub local: String,
    /// `ip:port`.
    pub peer: String,
    /// Process.
    pub pid: u32,
    /// Attributes by OpenTelemetry name.
    pub attributes: BTreeMap<String, Value>,
    /// Tiles.
    pub segments: Vec<Segment>,
    /// Related spans.
    pub links: Vec<Value>,
}

/// One tile.
#[derive(Clone, Debug, Deserialize)]
pub struct Segment {
    /// Where the time went.
    pub name: String,
    /// Offset from the span's start.
    pub start_ns: u64,
    /// Length.
    pub duration_ns: u64,
    /// `measured`, `derived` or `inferred`.
    pub evidence: String,
    /// By what, where the kernel tells.
    #[serde(default)]
    pub by: Option<String>,
}

impl Span {
    /// Reads one JSON line.
    pub fn parse(line: &str) -> Self {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("not a span: {error}\n{line}"))
    }

    /// Whether it is a span of HTTP.
    pub fn is_http(&self) -> bool {
        self.protocol == "http"
    }

    /// `url.path`, empty if it has none.
    pub fn path(&self) -> &str {
        self.attribute("url.path").and_then(Value::as_str).unwrap_or("")
    }

    /// `http.response.status_code`.
    pub fn http_status(&self) -> Option<u64> {
        self.attribute("http.response.status_code").and_then(Value::as_u64)
    }

    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.get(name)
    }

    /// An attribute's text, empty if it has none.
    pub fn text(&self, name: &str) -> &str {
        self.attribute(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Total length of the tiles of this name.
    pub fn total_ns(&self, name: &str) -> u64 {
        self.tiles(name).map(|segment| segment.duration_ns).sum()
    }

    /// Total length of the tiles of this name that say `by`.
    pub fn total_by_ns(&self, name: &str, by: &str) -> u64 {
        self.tiles(name).filter(|segment| segment.by.as_deref() == Some(by)).map(|segment| segment.duration_ns).sum()
    }

    /// Total length of the tiles of this name that claim to be measured.
    pub fn measured_ns(&self, name: &str) -> u64 {
        self.tiles(name).filter(|segment| segment.evidence == "measured").map(|segment| segment.duration_ns).sum()
    }

    /// The name with the largest total.
    pub fn dominant(&self) -> &str {
        let largest = self.segments.iter().max_by_key(|segment| self.total_ns(&segment.name));
        largest.map_or("", |segment| segment.name.as_str())
    }

    /// The tiles of this name.
    pub fn tiles(&self, name: &str) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(move |segment| segment.name == name)
    }

    /// Fails unless ids are well-formed and the tiles cover the span exactly, in order.
    pub fn assert_sound(&self) {
        let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(hex(&self.trace_id, 32) && hex(&self.span_id, 16), "malformed ids: {self:?}");
        assert!(self.parent_span_id.as_deref().is_none_or(|id| hex(id, 16)), "malformed parent: {self:?}");
        let mut next = 0;
        for segment in &self.segments {
            assert_eq!(segment.start_ns, next, "a gap or overlap before `{}`: {self:?}", segment.name);
            next += segment.duration_ns;
        }
        assert_eq!(next, self.duration_ns, "the segments do not sum to the span: {self:?}");
    }
}

/// Spans by `url.path`; each path maps to all its spans.
pub fn by_path(spans: &[Span]) -> BTreeMap<&str, Vec<&Span>> {
    let mut paths: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        paths.entry(span.path()).or_default().push(span);
    }
    paths
}

/// The only span of this kind and path; another number of them fails the test.
pub fn only<'a>(spans: &'a [Span], kind: &str, path: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.kind == kind && span.path() == path).collect();
    assert_eq!(found.len(), 1, "{kind} spans of {path}: {found:#?}\nof {} spans in all", spans.len());
    found[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(segments: &str) -> Span {
        Span::parse(&format!(
            r#"{{"trace_id":"0102030405060708090a0b0c0d0e0f10","span_id":"0102030405060708","parent_span_id":null,
            "kind":"server","name":"GET /","service":"s","start_unix_ns":1,"duration_ns":10,"status":"ok",
            "protocol":"http","local":"127.0.0.1:1","peer":"127.0.0.1:2","pid":1,"attributes":{{"url.path":"/"}},
            "segments":[{segments}],"links":[]}}"#
        ))
    }

    fn tile(name: &str, start: u64, duration: u64) -> String {
        format!(r#"{{"name":"{name}","start_ns":{start},"duration_ns":{duration},"evidence":"measured"}}"#)
    }

    #[test]
    fn exact_tiles_are_sound() {
        let span = span(&[tile("send", 0, 4), tile("application", 4, 6)].join(","));
        span.assert_sound();
        assert_eq!((span.dominant(), span.path(), span.measured_ns("send")), ("application", "/", 4));
    }

    #[test]
    #[should_panic(expected = "a gap or overlap")]
    fn a_gap_is_not_sound() {
        span(&[tile("send", 0, 3), tile("application", 4, 6)].join(",")).assert_sound();
    }

    #[test]
    #[should_panic(expected = "do not sum")]
    fn a_short_sum_is_not_sound() {
        span(&tile("send", 0, 9)).assert_sound();
    }
}
