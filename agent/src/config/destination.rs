//! Where spans go, as configured: the types below `export` and the destination URL.
//!
//! Never opens a connection; `export` does.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::units::{Interval, Size};

/// Every destination, and what they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// Destinations; none by default. Each keeps its own place in the span log.
    #[serde(deserialize_with = "super::or_default")]
    pub destinations: Vec<Destination>,
    /// How long a stopping agent may take to send what is queued; the rest waits in the log for the next start.
    pub shutdown_timeout: Interval,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// Names its place in the log, its metrics and messages; from the URL if not given. Changing it starts anew.
    #[serde(default)]
    pub name: String,
    /// Where to.
    pub url: Url,
    /// Headers (gRPC metadata) sent with every request.
    #[serde(default, deserialize_with = "super::or_default")]
    pub headers: BTreeMap<String, HeaderValue>,
    /// Compression of requests.
    #[serde(default)]
    pub compression: Compression,
    /// How segments are shown.
    #[serde(default)]
    pub segments: Segments,
    /// Time limit of one request, connecting included.
    #[serde(default = "timeout_default")]
    pub timeout: Interval,
    /// Used by `otlp+grpcs` and `otlp+https`.
    #[serde(default, deserialize_with = "super::or_default")]
    pub tls: Tls,
    /// When a request is full.
    #[serde(default, deserialize_with = "super::or_default")]
    pub batch: Batch,
    /// How to repeat what failed and may be repeated.
    #[serde(default, deserialize_with = "super::or_default")]
    pub retry: Retry,
    /// Requests on their way at the same time. After a crash at most so many may come twice.
    #[serde(default = "concurrency_default")]
    pub concurrency: usize,
    /// How fast it is sent to.
    #[serde(default, deserialize_with = "super::or_default")]
    pub pace: Pace,
}

/// How fast a destination is sent to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pace {
    /// Most spans per second; 0: no limit.
    pub spans_per_second: u64,
    /// Most bytes per second before compression; 0: no limit.
    pub bytes_per_second: Size,
    /// After an outage the backlog is sent at so many times the rate at which spans come in, but at least 2,000 spans per second;
    /// 0: as fast as the destination takes it.
    pub return_factor: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { spans_per_second: 0, bytes_per_second: Size(0), return_factor: 2.0 }
    }
}

/// Value of a header: the text itself, or where to read it when the agent starts.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum HeaderValue {
    /// The value.
    Text(String),
    /// First line of a file.
    File {
        /// The file.
        file: PathBuf,
    },
    /// An environment variable.
    Env {
        /// Its name.
        env: String,
    },
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// gzip.
    Gzip,
}

/// How a span's segments are shown. Each span has them in its attributes either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Segments {
    /// By the attributes of the span; the log's bytes are sent unmodified.
    #[default]
    Attributes,
    /// Also as child spans, so that any trace viewer draws them. A request then holds a quarter of `batch.bytes` from the log: it
    /// grows by the children.
    Spans,
}

/// TLS settings. The certificate of the destination is always verified.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates (PEM) to trust in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// A request is sent when one of these is reached. A block of the log is never split: one block may exceed a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Spans.
    pub spans: usize,
    /// Bytes before compression.
    pub bytes: Size,
    /// Age of the first span in it.
    pub age: Interval,
}

/// Exponential backoff with full jitter: a random wait below a limit that doubles from `initial` to `max`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// First limit.
    pub initial: Interval,
    /// Last limit.
    pub max: Interval,
}

impl Default for Export {
    fn default() -> Self {
        Self { destinations: Vec::new(), shutdown_timeout: Interval::secs(5) }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { spans: 4096, bytes: Size::mib(1), age: Interval::ms(200) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { initial: Interval::ms(500), max: Interval::secs(30) }
    }
}

const fn concurrency_default() -> usize {
    1
}

const fn timeout_default() -> Interval {
    Interval::secs(10)
}

impl Destination {
    /// A destination with defaults for everything but the URL.
    pub fn to(url: Url) -> Self {
        Self {
            name: String::new(),
            url,
            headers: BTreeMap::new(),
            compression: Compression::None,
            segments: Segments::Attributes,
            timeout: timeout_default(),
            tls: Tls::default(),
            batch: Batch::default(),
            retry: Retry::default(),
            concurrency: concurrency_default(),
            pace: Pace::default(),
        }
    }
}

impl fmt::Debug for HeaderValue {
    /// Never shows the value itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(***)"),
            Self::File { file } => write!(f, "File({})", file.display()),
            Self::Env { env } => write!(f, "Env({env})"),
        }
    }
}

/// How spans are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with binary protobuf.
    Http,
}

/// A destination URL, for example `otlp+grpc://collector:4317`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// How.
    pub transport: Transport,
    /// Whether by TLS.
    pub tls: bool,
    /// Host name or address; IPv6 in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path of OTLP/HTTP requests, with the query; empty for gRPC.
    pub path: String,
}

const SCHEMES: [(&str, Transport, bool); 4] = [
    ("otlp+grpc", Transport::Grpc, false),
    ("otlp+grpcs", Transport::Grpc, true),
    ("otlp+http", Transport::Http, false),
    ("otlp+https", Transport::Http, true),
];

impl Url {
    /// `http://host:port` or `https://host:port`, as clients want it.
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", if self.tls { "https" } else { "http" }, self.host, self.port)
    }

    fn scheme(&self) -> &'static str {
        SCHEMES.iter().find(|s| (s.1, s.2) == (self.transport, self.tls)).map_or("", |s| s.0)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |cause: &str| format!("`{text}` is not a destination: {cause}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            bad("write otlp+grpc://HOST:PORT or otlp+http://HOST:PORT/v1/traces (otlp+grpcs and otlp+https for TLS)")
        })?;
        let Some(&(_, transport, tls)) = SCHEMES.iter().find(|known| known.0 == scheme) else {
            let names = SCHEMES.iter().map(|known| known.0.trim_start_matches("otlp+"));
            let near = super::nearest(scheme.trim_start_matches("otlp+"), names).unwrap_or("grpc");
            return Err(bad(&format!("unknown scheme `{scheme}`, did you mean `otlp+{near}`?")));
        };
        let uri: http::Uri = format!("http://{rest}").parse().map_err(|cause| bad(&format!("{cause}")))?;
        let authority = uri.authority().filter(|a| !a.host().is_empty()).ok_or_else(|| bad("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(bad("user and password do not belong into it; use `headers`"));
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none() {
            return Err(bad("the port is not a number from 0 to 65535"));
        }
        let path = uri.path_and_query().map_or("", |p| p.as_str());
        let (port, path) = match (transport, path) {
            (Transport::Grpc, "" | "/") => (4317, ""),
            (Transport::Grpc, _) => return Err(bad("OTLP/gRPC has no path")),
            (Transport::Http, "" | "/") => (4318, "/v1/traces"),
            (Transport::Http, path) => (4318, path),
        };
        Ok(Self {
            transport,
            tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(port),
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}{}", self.scheme(), self.host, self.port, self.path)
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
            "pattern": "^otlp\\+(grpc|grpcs|http|https)://",
            "examples": ["otlp+grpc://localhost:4317", "otlp+https://collector.example:4318/v1/traces"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<Url>(), expected) {
            (Ok(url), Ok(shown)) => assert_eq!(url.to_string(), shown, "{text}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn urls_get_the_ports_and_path_of_otlp() {
        check("otlp+grpc://localhost", Ok("otlp+grpc://localhost:4317"));
        check("otlp+grpc://localhost:1/", Ok("otlp+grpc://localhost:1"));
        check("otlp+grpcs://[::1]:4317", Ok("otlp+grpcs://[::1]:4317"));
        check("otlp+http://localhost", Ok("otlp+http://localhost:4318/v1/traces"));
        check("otlp+https://c.example:443/v1/traces", Ok("otlp+https://c.example:443/v1/traces"));
        check("otlp+http://h:1/custom?tenant=a", Ok("otlp+http://h:1/custom?tenant=a"));
    }

    #[test]
    fn bad_urls_say_what_is_wrong() {
        check("localhost:4317", Err("otlp+grpc://HOST:PORT"));
        check("otlp+gprc://localhost", Err("did you mean `otlp+grpc`"));
        check("https://localhost", Err("did you mean `otlp+https`"));
        check("otlp+grpc://", Err("not a destination"));
        check("otlp+grpc://host:99999", Err("port"));
        check("otlp+grpc://host:4317/v1/traces", Err("no path"));
        check("otlp+http://user:secret@host/", Err("headers"));
    }

    #[test]
    fn header_values_are_not_shown_by_debug() {
        let shown = format!("{:?}", HeaderValue::Text("hunter2".into()));
        assert!(!shown.contains("hunter2"));
    }
}
