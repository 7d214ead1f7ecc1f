//! The only door out of the pipeline: sole constructor of [`SafeSpan`] and, for what [`crate::relay`] has redacted, [`SafeBatch`].
//!
//! In: a span as assembled, with the path as it was on the wire. Out: the same span without ids, tokens, addresses of
//! people or other values that the configuration does not allow, named by its route template. Called by
//! [`crate::pipeline`] for every span. Never: fails; what looks like a value is treated as one.
//!
//! A path segment becomes `{id}` if it holds a number, or long hexadecimal digits; `{uuid}`, `{email}`; `{token}` if it
//! is long and mixed, is one word of at least [`WORD_BYTES_MAX`] bytes, is a `key=value`, or not plain text. What
//! follows a `;` (a segment's parameters, RFC 3986, 3.3) is cut. Common versions (`v1`) stay. Every text is cut to
//! [`TEXT_BYTES_MAX`].

mod batch;

use std::hash::Hasher;

use agent_protocol::redis::KEY_DIGEST;
use siphasher::sip::SipHasher13;

pub use self::batch::SafeBatch;
use crate::{
    naming::Route,
    span::{Protocol, Span, SpanKind, Text, Value},
};

/// Longest text attribute.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Longest list of texts.
pub const TEXTS_MAX: usize = 64;
/// Path segments beyond this many become one `{rest}`.
pub const SEGMENTS_MAX: usize = 32;

/// Words without separators are shorter than this.
pub const WORD_BYTES_MAX: usize = 20;

/// What `url.path` may show. The span's name and `http.route` are always redacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathPolicy {
    /// Segments that look like ids, tokens, numbers or addresses become placeholders.
    #[default]
    Redact,
    /// As on the wire.
    Keep,
}

/// What is told of keys of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyPolicy {
    /// Nothing.
    #[default]
    Drop,
    /// Of a command's first key 16 hexadecimal digits, the same for equal keys: SipHash-1-3 under this key, without which nobody can find
    /// out which key it was by trying some. Of keys of more than 64 bytes the first 64, and the length, count.
    Hash([u8; 16]),
}

impl KeyPolicy {
    fn apply(self, attributes: &mut Vec<(&'static str, Value)>) {
        let Some(place) = attributes.iter().position(|(key, _)| *key == KEY_DIGEST) else { return };
        match (self, &mut attributes[place].1) {
            (Self::Hash(secret), value @ Value::Int(_)) => {
                let Value::Int(digest) = *value else { return };
                let mut hasher = SipHasher13::new_with_key(&secret);
                hasher.write_i64(digest);
                *value = Value::String(format!("{:016x}", hasher.finish()).into());
            }
            _ => drop(attributes.remove(place)),
        }
    }
}

/// What may leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedactConfig {
    /// What `url.path` may show.
    pub paths: PathPolicy,
    /// Path segments that are never replaced although they look like values (`oauth2`, `s3`): exact.
    pub keep_segments: Vec<String>,
    /// Routes that are known; the first that matches a path is its template, and the path's values are never guessed.
    pub routes: Vec<Route>,
    /// What is told of keys of Redis.
    pub redis_keys: KeyPolicy,
}

/// A span that may be stored and sent.
#[derive(Clone, Debug, PartialEq)]
pub struct SafeSpan(Span);

impl SafeSpan {
    /// The span.
    pub fn span(&self) -> &Span {
        &self.0
    }

    /// Gives it a name, and its route if it has one, that say less.
    pub(crate) fn rename(&mut self, name: Text, route: &str) {
        self.0.name = name;
        for (key, value) in &mut self.0.attributes {
            if *key == "http.route" {
                *value = Value::String(route.to_owned().into());
            }
        }
    }
}

/// Makes spans safe.
#[derive(Clone, Debug)]
pub struct Redactor {
    config: RedactConfig,
}

impl Redactor {
    /// A redactor with this configuration.
    pub fn new(config: RedactConfig) -> Self {
        Self { config }
    }

    /// The span without what the configuration does not allow.
    pub fn redact(&self, mut span: Span) -> SafeSpan {
        if matches!(span.protocol, Protocol::Http1 | Protocol::Http2 | Protocol::FastCgi) {
            self.redact_http(&mut span);
        }
        if span.protocol == Protocol::Redis {
            self.config.redis_keys.apply(&mut span.attributes);
        }
        for (_, value) in &mut span.attributes {
            cut_value(value);
        }
        if span.name.len() > TEXT_BYTES_MAX {
            span.name.change(cut_text);
        }
        SafeSpan(span)
    }

    fn redact_http(&self, span: &mut Span) {
        for (key, value) in &mut span.attributes {
            match (*key, value) {
                ("server.address", Value::String(host)) if host.contains('@') => host.change(strip_user_information),
                ("spantap.url.query_names", Value::Strings(names)) => {
                    names.iter_mut().for_each(|name| *name = self.segment(name).to_owned());
                }
                ("http.request.method_original", Value::String(method)) => {
                    *method = self.segment(method).to_owned().into();
                }
                _ => {}
            }
        }
        let Some(place) = span.attributes.iter().position(|(key, _)| *key == "url.path") else { return };
        let Value::String(path) = &mut span.attributes[place].1 else { return };
        let known = self.config.routes.iter().find(|route| route.matches(path));
        let (template, evidence) =
            known.map_or_else(|| (self.template(path), "inferred"), |route| (route.text().to_owned(), "configured"));
        if self.config.paths == PathPolicy::Redact && **path != *template {
            *path = template.clone().into();
        }
        let is_operation = |(key, _): &(&'static str, Value)| {
            matches!(*key, "rpc.method" | "db.operation.name" | "gen_ai.operation.name") || key.starts_with("graphql.")
        };
        if !span.attributes.iter().any(is_operation) {
            span.name = [&span.name, " ", &template].concat().into();
        }
        if span.kind == SpanKind::Server {
            span.attributes.push(("http.route", Value::String(template.into())));
            span.attributes.push(("spantap.route.evidence", Value::String(evidence.into())));
        }
    }

    /// The path with placeholders for everything that looks like a value.
    pub fn template(&self, path: &str) -> String {
        let mut out = String::with_capacity(path.len());
        for (index, segment) in path.split('/').enumerate() {
            if index > 0 {
                out.push('/');
            }
            if index > SEGMENTS_MAX {
                out.push_str("{rest}");
                break;
            }
            out.push_str(self.segment(segment));
        }
        out
    }

    fn segment<'a>(&self, segment: &'a str) -> &'a str {
        if self.config.keep_segments.iter().any(|kept| kept == segment) {
            return segment;
        }
        let name = segment.split(';').next().unwrap_or_default();
        placeholder(name).unwrap_or(name)
    }
}

/// What a path segment looks like, if it looks like a value.
pub(crate) fn placeholder(segment: &str) -> Option<&'static str> {
    let bytes = segment.as_bytes();
    if is_short_word(bytes) || is_version(bytes) {
        return None;
    }
    if bytes.contains(&b'@') || bytes.windows(3).any(|three| three == b"%40") {
        return Some("{email}");
    }
    if is_uuid(bytes) {
        return Some("{uuid}");
    }
    let count = |test: fn(&u8) -> bool| bytes.iter().filter(|byte| test(byte)).count();
    let digits = count(u8::is_ascii_digit);
    let long_hex = bytes.len() >= 8 && digits > 0 && bytes.iter().all(u8::is_ascii_hexdigit);
    if digits == bytes.len() || long_hex {
        return Some("{id}");
    }
    let mixed = || bytes.iter().any(u8::is_ascii_uppercase) && bytes.iter().any(u8::is_ascii_lowercase);
    let wordlike = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~!$+,:*'()".contains(byte));
    let one_word = !has_separator(bytes);
    let long = bytes.len() > 64 || (one_word && bytes.len() >= WORD_BYTES_MAX);
    if !wordlike || long || (bytes.len() >= 16 && (digits > 0 || (one_word && mixed()))) {
        return Some("{token}");
    }
    // A word with numbers among it (`order-1234`, `12.5`, `42.json`) names one of many.
    (longest_number(bytes) >= 3 || digits * 2 >= bytes.len()).then_some("{id}")
}

/// Nothing, or what most segments and names of parameters are: too short and plain for any value.
fn is_short_word(bytes: &[u8]) -> bool {
    bytes.len() < 16 && bytes.iter().all(|byte| byte.is_ascii_lowercase() || b"-_.".contains(byte))
}

/// `v1`, `v2.1`, `v1beta1`.
fn is_version(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(b"v") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let suffix: Vec<u8> = rest[digits..].iter().copied().filter(|byte| !byte.is_ascii_digit()).collect();
    (1..=2).contains(&digits) && rest.len() <= 8 && matches!(&suffix[..], b"" | b"." | b"alpha" | b"beta")
}

/// RFC 9562, section 4: 8-4-4-4-12 hexadecimal digits.
fn is_uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn has_separator(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| b"-_.".contains(byte))
}

fn longest_number(bytes: &[u8]) -> usize {
    bytes.split(|byte| !byte.is_ascii_digit()).map(<[u8]>::len).max().unwrap_or(0)
}

/// RFC 3986, section 3.2.1: what stands before `@` in an authority.
fn strip_user_information(host: &mut String) {
    if let Some(at) = host.rfind('@') {
        host.drain(..=at);
    }
}

fn cut_value(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => text.change(cut_text),
        Value::String(_) => {}
        Value::Strings(texts) => {
            if texts.len() > TEXTS_MAX {
                *texts = std::mem::take(texts).into_iter().take(TEXTS_MAX).collect();
            }
            texts.iter_mut().for_each(cut_text);
        }
        Value::Int(_) | Value::Bool(_) => {}
    }
}

fn cut_text(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use super::*;
    use crate::span::{ProcessFacts, SpanId, Status, TraceId, UnixNs};

    fn check(path: &str, expected: &str) {
        assert_eq!(Redactor::new(RedactConfig::default()).template(path), expected);
    }

    #[test]
    fn words_stay() {
        for path in [
            "/",
            "*",
            "/api/v1/users",
            "/apis/v1beta1/pods",
            "/static/app.css",
            "/a/very-long-hyphenated-word/x",
            "/index.html",
            "/deadbeef",
            "/notifications/abcdefghijklmnopqrs",
        ] {
            check(path, path);
        }
    }

    #[test]
    fn values_become_placeholders() {
        check("/users/42/orders/2024-01-31", "/users/{id}/orders/{id}");
        check("/r/123.json", "/r/{id}");
        check("/o/5f3c9a7be01d", "/o/{id}");
        check("/u/6f1c2d3e-0000-4abc-8def-0123456789ab", "/u/{uuid}");
        check("/u/jane.doe@example.com", "/u/{email}");
        check("/u/jane%40example.com", "/u/{email}");
        check("/reset/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0", "/reset/{token}");
        check("/reset/AbCdEfGhIjKlMnOpQr", "/reset/{token}");
        check("/name/J%C3%BCrgen", "/name/{token}");
        check("/order-1234", "/{id}");
        check("/login;user=alice;password=hunter/next", "/login/next");
        check("/x/token=abcdef/y", "/x/{token}/y");
        check("/reset/abcdefghijklmnopqrst", "/reset/{token}");
    }

    #[test]
    fn endless_paths_are_cut() {
        let template = Redactor::new(RedactConfig::default()).template(&"/a".repeat(500));
        assert_eq!(template, format!("{}/{{rest}}", "/a".repeat(32)));
    }

    fn span(kind: SpanKind, attributes: Vec<(&'static str, Value)>) -> Span {
        Span {
            trace_id: TraceId([1; 16]),
            span_id: SpanId([1; 8]),
            parent_span_id: None,
            kind,
            name: "GET".into(),
            process: Arc::new(ProcessFacts::default()),
            start: UnixNs(0),
            duration_ns: 0,
            status: Status::Ok,
            protocol: Protocol::Http1,
            local: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
            peer: SocketAddr::from(([127, 0, 0, 1], 2)).into(),
            unix_path: None,
            attributes,
            segments: vec![],
            cause: None,
            links: vec![],
        }
    }

    fn attribute<'a>(span: &'a SafeSpan, key: &str) -> Option<&'a Value> {
        span.span().attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    #[test]
    fn name_and_route_are_the_template_even_where_the_path_is_kept() {
        let text = |text: &'static str| Value::String(text.into());
        for (paths, shown) in [(PathPolicy::Redact, "/u/{id}"), (PathPolicy::Keep, "/u/42")] {
            let redactor = Redactor::new(RedactConfig { paths, ..Default::default() });
            let safe = redactor.redact(span(SpanKind::Server, vec![("url.path", text("/u/42"))]));
            assert_eq!(safe.span().name, "GET /u/{id}");
            assert_eq!(attribute(&safe, "url.path"), Some(&text(shown)));
            assert_eq!(attribute(&safe, "http.route"), Some(&text("/u/{id}")));
        }
    }

    #[test]
    fn clients_know_no_route_and_hosts_no_user() {
        let host = Value::String("joe:secret@shop.test".into());
        let path = Value::String("/".into());
        let safe = Redactor::new(RedactConfig::default())
            .redact(span(SpanKind::Client, vec![("server.address", host), ("url.path", path)]));
        assert_eq!(attribute(&safe, "http.route"), None);
        assert_eq!(attribute(&safe, "server.address"), Some(&Value::String("shop.test".into())));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let safe = Redactor::new(RedactConfig::default())
            .redact(span(SpanKind::Client, vec![("x", Value::String("ü".repeat(2000).into()))]));
        assert_eq!(attribute(&safe, "x"), Some(&Value::String("ü".repeat(512).into())));
    }

    #[test]
    fn a_configured_route_is_believed() {
        let routes = vec![Route::parse("/u/{user}/x").expect("a route")];
        let redactor = Redactor::new(RedactConfig { routes, ..Default::default() });
        let safe = redactor.redact(span(SpanKind::Server, vec![("url.path", Value::String("/u/jane/x".into()))]));
        assert_eq!(safe.span().name, "GET /u/{user}/x");
        assert_eq!(attribute(&safe, "url.path"), Some(&Value::String("/u/{user}/x".into())));
        assert_eq!(attribute(&safe, "spantap.route.evidence"), Some(&Value::String("configured".into())));
    }

    #[test]
    fn names_beyond_the_bound_of_a_service_become_one() {
        let redactor = Redactor::new(RedactConfig::default());
        let (mut names, mut losses) = (crate::naming::Names::new(2), crate::loss::Losses::default());
        let mut name = |path: &'static str| {
            let path = Value::String(path.into());
            let mut safe = redactor.redact(span(SpanKind::Server, vec![("url.path", path)]));
            names.bound(&mut safe, &mut losses);
            (safe.span().name.clone(), attribute(&safe, "http.route").cloned())
        };
        let route = |text: &'static str| Some(Value::String(text.into()));
        assert_eq!(name("/a"), ("GET /a".into(), route("/a")));
        assert_eq!(name("/b"), ("GET /b".into(), route("/b")));
        assert_eq!(name("/c"), ("GET {other}".into(), route("{other}")));
        assert_eq!(name("/a"), ("GET /a".into(), route("/a")));
        assert_eq!(losses.get(crate::loss::Loss::NameBound), 1);
    }

    #[test]
    fn keys_of_redis_are_dropped_or_told_by_a_secret() {
        let shown = |redis_keys, digest| {
            let redactor = Redactor::new(RedactConfig { redis_keys, ..Default::default() });
            let mut span =
                span(SpanKind::Client, vec![(KEY_DIGEST, Value::Int(digest)), ("db.system.name", Value::Int(1))]);
            span.protocol = Protocol::Redis;
            let safe = redactor.redact(span);
            assert_eq!(attribute(&safe, "db.system.name"), Some(&Value::Int(1)));
            attribute(&safe, KEY_DIGEST).cloned()
        };
        assert_eq!(shown(KeyPolicy::Drop, 7), None);
        let hash = |secret, digest| match shown(KeyPolicy::Hash([secret; 16]), digest) {
            Some(Value::String(text)) if text.len() == 16 => text.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(hash(1, 7), hash(1, 7));
        assert_ne!(hash(1, 7), hash(1, 8));
        assert_ne!(hash(1, 7), hash(2, 7));
    }

    #[test]
    fn segments_named_in_the_configuration_stay() {
        let redactor = Redactor::new(RedactConfig { keep_segments: vec!["oauth200".into()], ..Default::default() });
        assert_eq!(redactor.template("/oauth200/300"), "/oauth200/{id}");
    }
}
