//! The URL of a destination: which format, by which way, where to.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What spans look like on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OpenTelemetry's own.
    Otlp,
    /// Zipkin v2, JSON.
    Zipkin,
    /// Jaeger's collector: `api_v2` by gRPC, Thrift by HTTP.
    Jaeger,
    /// Traces of a Datadog agent, v0.4.
    Datadog,
}

/// How spans are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// gRPC.
    Grpc,
    /// HTTP `POST`.
    Http,
    /// Lines of OTLP JSON in a file.
    File,
    /// Records of a topic, by Kafka's protocol.
    Kafka,
    /// Messages of a subject that a JetStream stream stores, by NATS.
    Nats,
    /// Objects in a bucket, by the protocol of S3.
    S3,
}

/// A destination URL, for example `otlp+grpc://collector:4317` or `file:/var/log/spans.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// What.
    pub protocol: Protocol,
    /// How.
    pub transport: Transport,
    /// Whether by TLS; of S3, unless its endpoint is another.
    pub tls: bool,
    /// Host name or address, IPv6 in brackets; empty for a file. Of S3 the bucket.
    pub host: String,
    /// Port; 0 for a file and S3.
    pub port: u16,
    /// Further `host:port` of the same cluster, where there is one.
    pub others: Vec<String>,
    /// Path of HTTP requests, with the query; empty for gRPC. Of a file its absolute path; of Kafka and NATS `/` and the topic or
    /// subject; of S3 `/` and the begin of the names, or empty.
    pub path: String,
}

struct Scheme {
    name: &'static str,
    protocol: Protocol,
    transport: Transport,
    tls: bool,
    port: u16,
    path: &'static str,
}

const fn scheme(
    name: &'static str,
    protocol: Protocol,
    transport: Transport,
    tls: bool,
    port: u16,
    path: &'static str,
) -> Scheme {
    Scheme { name, protocol, transport, tls, port, path }
}

/// With the ports and paths that the protocols' own receivers have.
const SCHEMES: [Scheme; 17] = [
    scheme("otlp+grpc", Protocol::Otlp, Transport::Grpc, false, 4317, ""),
    scheme("otlp+grpcs", Protocol::Otlp, Transport::Grpc, true, 4317, ""),
    scheme("otlp+http", Protocol::Otlp, Transport::Http, false, 4318, "/v1/traces"),
    scheme("otlp+https", Protocol::Otlp, Transport::Http, true, 4318, "/v1/traces"),
    scheme("zipkin+http", Protocol::Zipkin, Transport::Http, false, 9411, "/api/v2/spans"),
    scheme("zipkin+https", Protocol::Zipkin, Transport::Http, true, 9411, "/api/v2/spans"),
    scheme("jaeger+grpc", Protocol::Jaeger, Transport::Grpc, false, 14250, ""),
    scheme("jaeger+grpcs", Protocol::Jaeger, Transport::Grpc, true, 14250, ""),
    scheme("jaeger+http", Protocol::Jaeger, Transport::Http, false, 14268, "/api/traces"),
    scheme("jaeger+https", Protocol::Jaeger, Transport::Http, true, 14268, "/api/traces"),
    scheme("datadog+http", Protocol::Datadog, Transport::Http, false, 8126, "/v0.4/traces"),
    scheme("datadog+https", Protocol::Datadog, Transport::Http, true, 8126, "/v0.4/traces"),
    scheme("kafka", Protocol::Otlp, Transport::Kafka, false, 9092, ""),
    scheme("kafka+tls", Protocol::Otlp, Transport::Kafka, true, 9093, ""),
    scheme("nats", Protocol::Otlp, Transport::Nats, false, 4222, ""),
    scheme("nats+tls", Protocol::Otlp, Transport::Nats, true, 4222, ""),
    scheme("s3", Protocol::Otlp, Transport::S3, true, 0, ""),
];

const FILE: &str = "file:";

impl Url {
    /// `http://host:port` or `https://host:port`, as clients want it.
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }

    /// As it is shown to people: a query may have a secret.
    pub fn without_query(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        Self { path: path.to_owned(), ..self.clone() }.to_string()
    }

    /// `host:port` of all places that are named.
    pub fn places(&self) -> Vec<String> {
        let first = format!("{}:{}", self.host, self.port);
        std::iter::once(first).chain(self.others.iter().cloned()).collect()
    }

    /// The path without the `/` that it begins with: the name of a topic or subject, or the begin of objects' names.
    pub fn name(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.scheme_with(self.tls)
    }

    /// The scheme for the same by TLS.
    pub(super) fn scheme_by_tls(&self) -> &'static str {
        self.scheme_with(true)
    }

    fn scheme_with(&self, tls: bool) -> &'static str {
        let same = |s: &&Scheme| (s.protocol, s.transport, s.tls) == (self.protocol, self.transport, tls);
        SCHEMES.iter().find(same).map_or("", |scheme| scheme.name)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Without the query, which may have a secret.
        let shown = text.split('?').next().unwrap_or_default();
        let bad = |cause: &str| format!("`{shown}` is not a destination: {cause}");
        if let Some(path) = text.strip_prefix(FILE) {
            return file(path).map_err(|cause| bad(&cause));
        }
        let (name, rest) = text.split_once("://").ok_or_else(|| {
            bad("write otlp+grpc://HOST:PORT or otlp+http://HOST:PORT/v1/traces (otlp+grpcs and otlp+https for TLS)")
        })?;
        let Some(scheme) = SCHEMES.iter().find(|known| known.name == name) else {
            return Err(bad(&format!("unknown scheme `{name}`, did you mean `{}`?", meant(name))));
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            // Without the text: it has the password.
            return Err("a destination has user and password in its URL, where they do not belong; use `auth`".into());
        }
        let has_many = matches!(scheme.transport, Transport::Kafka | Transport::Nats);
        if scheme.transport == Transport::S3 && !is_bucket(authority) {
            return Err(bad(
                "write s3://BUCKET/PREFIX; where the bucket is belongs into `s3`, and its name has 3 to 63 of a-z, 0-9, `.` and `-`",
            ));
        }
        let places: Vec<_> = authority
            .split(',')
            .map(|one| place(one, scheme.port))
            .collect::<Result<_, _>>()
            .map_err(|cause| bad(&cause))?;
        let [(host, port), others @ ..] = &places[..] else { return Err(bad("the host is missing")) };
        if !others.is_empty() && !has_many {
            return Err(bad("it has one host"));
        }
        Ok(Self {
            protocol: scheme.protocol,
            transport: scheme.transport,
            tls: scheme.tls,
            host: host.clone(),
            port: *port,
            others: others.iter().map(|(host, port)| format!("{host}:{port}")).collect(),
            path: scheme.path_of(path).map_err(|cause| bad(&cause))?,
        })
    }
}

impl Scheme {
    /// The path of a URL with this one, as it is used.
    fn path_of(&self, path: &str) -> Result<String, String> {
        match (self.transport, path) {
            (Transport::Kafka, path) => topic(path),
            (Transport::Nats, path) => subject(path),
            (Transport::S3, path) => prefix(path),
            (_, "" | "/") => Ok(self.path.to_owned()),
            (Transport::Grpc, _) => Err("gRPC has no path".into()),
            (_, path) => {
                let uri: http::Uri = path.parse().map_err(|cause| format!("{cause}"))?;
                Ok(uri.path_and_query().map_or_else(String::new, ToString::to_string))
            }
        }
    }
}

/// Host and port of `host:port`.
fn place(text: &str, port: u16) -> Result<(String, u16), String> {
    let authority: http::uri::Authority = text.parse().map_err(|_| "the host is missing or no host".to_owned())?;
    let host = authority.host();
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if text.len() > host.len() && authority.port_u16().is_none() {
        return Err("the port is not a number from 0 to 65535".into());
    }
    Ok((host.to_owned(), authority.port_u16().unwrap_or(port)))
}

/// `/` and the name of a topic, which Kafka limits to these characters.
fn topic(path: &str) -> Result<String, String> {
    let name = path.trim_start_matches('/');
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 249 || !name.bytes().all(legal) || matches!(name, "." | "..") {
        return Err(
            "write the topic behind the host: kafka://HOST:PORT/TOPIC; letters, digits, `.`, `_` and `-`".into()
        );
    }
    Ok(format!("/{name}"))
}

/// `/` and a subject that can be published to: words between dots, without wildcards.
fn subject(path: &str) -> Result<String, String> {
    let name = path.trim_start_matches('/');
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>?".contains(&byte));
    if !name.split('.').all(is_word) {
        return Err(
            "write the subject behind the host: nats://HOST:PORT/SUBJECT; words between dots, without wildcards".into(),
        );
    }
    Ok(format!("/{name}"))
}

/// What Amazon takes for the name of a bucket, but for the rules about dots; others have the same.
fn is_bucket(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    (3..=63).contains(&name.len()) && name.bytes().all(legal)
}

/// `/` and the begin of objects' names, without a `/` at its end; or nothing.
fn prefix(path: &str) -> Result<String, String> {
    let name = path.trim_matches('/');
    let legal = |c: char| !c.is_control() && !matches!(c, '?' | '#');
    if name.contains("//") || !name.chars().all(legal) || name.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("the begin of names has `//`, `.`, `..`, `?`, `#` or control characters".into());
    }
    Ok(if name.is_empty() { String::new() } else { format!("/{name}") })
}

/// `/path` or `///path`, as file URLs are written (RFC 8089).
fn file(path: &str) -> Result<Url, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("write the absolute path of a file: file:/var/log/spantap/spans.jsonl".into());
    }
    let (protocol, transport) = (Protocol::Otlp, Transport::File);
    let others = Vec::new();
    Ok(Url { protocol, transport, tls: false, host: String::new(), port: 0, others, path: path.to_owned() })
}

/// The scheme that looks most like `given`, or has a part that does.
fn meant(given: &str) -> &'static str {
    if given.contains('+') {
        let near = super::nearest(given, SCHEMES.iter().map(|known| known.name));
        return near.unwrap_or(SCHEMES[0].name);
    }
    let near = super::nearest(given, SCHEMES.iter().flat_map(|known| known.name.split('+')));
    let has = |known: &&Scheme| near.is_some_and(|near| known.name.split('+').any(|part| part == near));
    SCHEMES.iter().find(has).map_or(SCHEMES[0].name, |known| known.name)
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::File => write!(f, "{FILE}{}", self.path),
            Transport::S3 => write!(f, "s3://{}{}", self.host, self.path),
            _ => write!(f, "{}://{}{}", self.scheme(), self.places().join(","), self.path),
        }
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Url {
    fn schema_name() -> Cow<'static, str> {
        "Url".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^((otlp|jaeger)\\+grpcs?://|(otlp|zipkin|jaeger|datadog)\\+https?://|(kafka|nats)(\\+tls)?://|s3://|file:)",
            "examples": [
                "otlp+grpc://localhost:4317",
                "otlp+https://collector.example:4318/v1/traces",
                "zipkin+http://localhost:9411/api/v2/spans",
                "kafka://broker-1:9092,broker-2:9092/spans",
                "nats://localhost:4222/spans",
                "s3://traces/production",
                "file:/var/log/spantap/spans.jsonl",
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<Url>(), expected) {
            (Ok(url), Ok(shown)) => {
                assert_eq!(url.to_string(), shown, "{text}");
                assert_eq!(shown.parse(), Ok(url));
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn urls_get_the_ports_and_paths_of_their_protocol() {
        check("otlp+grpc://localhost", Ok("otlp+grpc://localhost:4317"));
        check("otlp+grpc://localhost:1/", Ok("otlp+grpc://localhost:1"));
        check("otlp+grpcs://[::1]:4317", Ok("otlp+grpcs://[::1]:4317"));
        check("otlp+http://localhost", Ok("otlp+http://localhost:4318/v1/traces"));
        check("otlp+https://c.example:443/v1/traces", Ok("otlp+https://c.example:443/v1/traces"));
        check("otlp+http://h:1/custom?tenant=a", Ok("otlp+http://h:1/custom?tenant=a"));
        check("zipkin+http://h", Ok("zipkin+http://h:9411/api/v2/spans"));
        check("jaeger+grpc://h", Ok("jaeger+grpc://h:14250"));
        check("jaeger+https://h", Ok("jaeger+https://h:14268/api/traces"));
        check("datadog+http://h", Ok("datadog+http://h:8126/v0.4/traces"));
        check("kafka://h/otlp_spans", Ok("kafka://h:9092/otlp_spans"));
        check("kafka+tls://a,b:1,[::1]/t.1-x", Ok("kafka+tls://a:9093,b:1,[::1]:9093/t.1-x"));
        check("nats://a,b:1/otlp.spans", Ok("nats://a:4222,b:1/otlp.spans"));
        check("nats+tls://h/spans", Ok("nats+tls://h:4222/spans"));
        check("s3://traces", Ok("s3://traces"));
        check("s3://my.traces-1/a/b c/", Ok("s3://my.traces-1/a/b c"));
        check("file:/a/b.jsonl", Ok("file:/a/b.jsonl"));
        check("file:///a/b.jsonl", Ok("file:/a/b.jsonl"));
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        check("localhost:4317", Err("otlp+grpc://HOST:PORT"));
        check("otlp+gprc://localhost", Err("did you mean `otlp+grpc`"));
        check("https://localhost", Err("did you mean `otlp+https`"));
        check("zipkin://localhost", Err("did you mean `zipkin+http`"));
        check("jaeger+htpp://localhost", Err("did you mean `jaeger+http`"));
        check("otlp+grpc://", Err("not a destination"));
        check("otlp+grpc://host:99999", Err("port"));
        check("otlp+grpc://host:4317/v1/traces", Err("no path"));
        check("otlp+http://a,b/", Err("one host"));
        check("kafka+ssl://h/t", Err("did you mean `kafka+tls`"));
        check("kafk://h/t", Err("did you mean `kafka`"));
        for topic in ["kafka://h", "kafka://h/", "kafka://h/a/b", "kafka://h/a?b", "kafka://h/..", "kafka://h/ü"] {
            check(topic, Err("topic behind the host"));
        }
        check("kafka://a,/t", Err("host"));
        for bucket in ["s3://", "s3:///prefix", "s3://host:9000/bucket", "s3://Traces", "s3://a,b,c"] {
            check(bucket, Err("s3://BUCKET/PREFIX"));
        }
        for prefix in ["s3://traces/a//b", "s3://traces/../b", "s3://traces/a?b"] {
            check(prefix, Err("begin of names"));
        }
        for subject in ["nats://h", "nats://h/a..b", "nats://h/a.*", "nats://h/>", "nats://h/a b"] {
            check(subject, Err("subject behind the host"));
        }
        for path in ["file:spans.jsonl", "file://host/spans", "file:/folder/", "file:"] {
            check(path, Err("absolute path of a file"));
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let error = "otlp+http://user:secret@host/".parse::<Url>().unwrap_err();
        assert!(error.contains("`auth`") && !error.contains("secret"), "{error}");
    }
}
