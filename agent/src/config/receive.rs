//! What is received from applications and other agents, as configured: the types below `receive`, and addresses.
//!
//! Never opens a socket and never reads the files that are named; `receive` does when it starts.

use std::{borrow::Cow, collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    auth::Secret,
    units::{Interval, Size},
};
use crate::intake::NO_TENANT;

/// Longest path of a unix socket that the kernel takes (`sun_path` without the closing zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;

const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where spans of SDKs and collectors are received, from whom, and how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Receive {
    /// Where OTLP/gRPC is received: `ip:port`, usually port 4317, or `unix:PATH`. Nowhere by default.
    #[serde(deserialize_with = "super::or_default")]
    pub otlp_grpc: Vec<Address>,
    /// Where OTLP/HTTP (`POST /v1/traces`, protobuf and JSON) and Zipkin (`POST /api/v2/spans`, JSON) are received: `ip:port`,
    /// usually port 4318 or 9411, or `unix:PATH`. Nowhere by default.
    #[serde(deserialize_with = "super::or_default")]
    pub otlp_http: Vec<Address>,
    /// Paths of unix sockets on which all of it is received. Nowhere by default.
    #[serde(deserialize_with = "super::or_default")]
    pub otlp_unix: Vec<PathBuf>,
    /// TLS on all TCP addresses; without a certificate they are clear text. Unix sockets never use TLS.
    #[serde(deserialize_with = "super::or_default")]
    pub tls: ReceiveTls,
    /// Who may send, by token. If there is any, a request without a known token is refused; if there is none, everybody may send,
    /// as tenant `default`.
    #[serde(deserialize_with = "super::or_default")]
    pub tenants: Vec<Tenant>,
    /// A header in which senders may say their tenant. It is believed only if it agrees with their token; where there are no
    /// tokens it is ignored.
    pub tenant_header: String,
    /// What each tenant may send that has no quota of its own.
    #[serde(deserialize_with = "super::or_default")]
    pub quota: Quota,
    /// Largest request, decompressed. A larger one is refused for good.
    pub request_bytes_max: Size,
    /// Requests that are worked on at the same time. Beyond it senders wait for a moment, then they are told to come again.
    pub requests_max: usize,
    /// Bytes of all requests that are worked on, compressed and decompressed ones. Beyond it as with `requests_max`.
    pub bytes_max: Size,
    /// Connections at the same time; others wait to be accepted.
    pub connections_max: usize,
    /// Time in which a request must have arrived, from its headers to its last byte; also of a TLS handshake.
    pub timeout: Interval,
    /// Silence after which a connection is closed.
    pub idle_timeout: Interval,
    /// How long a stopping agent may take to answer the requests that it has begun to work on.
    pub shutdown_timeout: Interval,
}

/// TLS of the receivers. The files are read again when they change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReceiveTls {
    /// The certificate and its chain (PEM).
    pub cert_file: Option<PathBuf>,
    /// The certificate's private key (PEM).
    pub key_file: Option<PathBuf>,
    /// Certificates (PEM) of those who sign senders' certificates. If given, senders must have one (mTLS).
    pub client_ca_file: Option<PathBuf>,
}

/// One tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its tokens, sent as `authorization: Bearer TOKEN`; several while one replaces another.
    pub tokens: Vec<Secret>,
    /// What it may send; `receive.quota` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
}

/// What may be sent. A tenant that was silent may send what a second allows at once; 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Spans.
    pub spans_per_second: u64,
    /// Bytes of requests, decompressed.
    pub bytes_per_second: Size,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Default for Receive {
    fn default() -> Self {
        Self {
            otlp_grpc: Vec::new(),
            otlp_http: Vec::new(),
            otlp_unix: Vec::new(),
            tls: ReceiveTls::default(),
            tenants: Vec::new(),
            tenant_header: "x-scope-orgid".into(),
            quota: Quota::default(),
            request_bytes_max: Size::mib(16),
            requests_max: 128,
            bytes_max: Size::mib(64),
            connections_max: 1_024,
            timeout: Interval::secs(10),
            idle_timeout: Interval::secs(300),
            shutdown_timeout: Interval::secs(5),
        }
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self { spans_per_second: 0, bytes_per_second: Size(0) }
    }
}

impl Receive {
    /// Whether anything is received at all.
    pub fn is_on(&self) -> bool {
        !(self.otlp_grpc.is_empty() && self.otlp_http.is_empty() && self.otlp_unix.is_empty())
    }

    /// Each problem with its key.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, problem: &str| {
            if !holds {
                problems.push((key.to_owned(), problem.to_owned()));
            }
        };
        let tls = &self.tls;
        let both = tls.cert_file.is_some() == tls.key_file.is_some();
        require(both, "receive.tls.cert_file", "`cert_file` and `key_file` belong together: give both or none");
        let server = tls.client_ca_file.is_none() || tls.cert_file.is_some();
        require(server, "receive.tls.client_ca_file", "needs `cert_file` and `key_file` as well");
        let header = http::HeaderName::try_from(&self.tenant_header).is_ok();
        require(header, "receive.tenant_header", "is no valid header name");
        require(self.requests_max > 0, "receive.requests_max", "must be at least 1");
        require(self.connections_max > 0, "receive.connections_max", "must be at least 1");
        require(self.request_bytes_max.0 > 0, "receive.request_bytes_max", "must be at least 1B");
        // A request is there twice while it is decompressed or read from JSON.
        let fits = self.request_bytes_max.0 <= self.bytes_max.0 / 2 && self.bytes_max.0 <= u64::from(u32::MAX);
        require(fits, "receive.bytes_max", "must hold `request_bytes_max` twice, and be less than 4GiB");
        for (key, interval) in [("receive.timeout", self.timeout), ("receive.idle_timeout", self.idle_timeout)] {
            require(!interval.0.is_zero() && interval.0 <= INTERVAL_MAX, key, "must be longer than 0s, at most 1day");
        }
        problems.extend(self.problems_of_addresses());
        problems.extend(self.problems_of_tenants());
        problems
    }

    fn problems_of_addresses(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        let unix: Vec<_> = self.otlp_unix.iter().map(|path| Address::Unix(path.clone())).collect();
        let all = [("otlp_grpc", &self.otlp_grpc), ("otlp_http", &self.otlp_http), ("otlp_unix", &unix)];
        let each = all.into_iter().flat_map(|(key, list)| {
            list.iter().enumerate().map(move |(index, address)| (format!("receive.{key}[{index}]"), address))
        });
        for (key, address) in each {
            if let Address::Unix(path) = address
                && (path.as_os_str().is_empty() || path.as_os_str().len() > SOCKET_PATH_BYTES_MAX)
            {
                problems.push((key.clone(), format!("a socket's path has 1 to {SOCKET_PATH_BYTES_MAX} bytes")));
            }
            let free_port = matches!(address, Address::Tcp(address) if address.port() == 0);
            if !free_port && !seen.insert(address.to_string()) {
                problems.push((
                    key,
                    format!("{address} is given twice; a unix socket of `otlp_unix` takes every protocol"),
                ));
            }
        }
        problems
    }

    fn problems_of_tenants(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, tenant) in self.tenants.iter().enumerate() {
            let mut problem = |key: &str, cause| problems.push((format!("receive.tenants[{index}].{key}"), cause));
            if tenant.name.is_empty() || tenant.name.chars().any(char::is_control) {
                problem("name", format!("{:?} is no name of a tenant", tenant.name));
            }
            if tenant.name == NO_TENANT {
                problem("name", format!("`{NO_TENANT}` is the name of those without a tenant; choose another one"));
            }
            if tenant.tokens.is_empty() {
                problem("tokens", format!("`{}` has no token, so nobody could send", tenant.name));
            }
            if !seen.insert(&tenant.name) {
                problem("name", format!("`{}` is given twice; a tenant may have several tokens", tenant.name));
            }
        }
        problems
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC's URI form of an absolute path has two more slashes.
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(Self::Unix(path.into()));
        }
        let bad =
            || format!("`{text}` is no address; write for example 127.0.0.1:4317, [::]:4317 or unix:/run/otlp.sock");
        text.parse().map(Self::Tcp).map_err(|_| bad())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:4317", "unix:/run/spantap/otlp.sock"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: &[&str]) {
        let receive: Receive = serde_saphyr::from_str(yaml).unwrap();
        let problems = receive.problems();
        assert_eq!(problems.len(), expected.len(), "{yaml}: {problems:?}");
        for ((key, problem), part) in problems.iter().zip(expected) {
            assert!(format!("{key}: {problem}").contains(part), "{yaml}: {problems:?}");
        }
    }

    #[test]
    fn addresses_are_ip_and_port_or_a_path() {
        for (text, shown) in [
            ("127.0.0.1:4317", "127.0.0.1:4317"),
            ("[::]:1", "[::]:1"),
            ("unix:/a b", "unix:/a b"),
            ("unix:///run/x", "unix:/run/x"),
            ("unix:x", "unix:x"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in ["localhost:4317", ":4317", "4317", ""] {
            assert!(text.parse::<Address>().unwrap_err().contains("127.0.0.1:4317"), "{text}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        check("{}", &[]);
        check("tls: { cert_file: /c }", &["`key_file` belong together"]);
        check("tls: { client_ca_file: /c }", &["client_ca_file: needs `cert_file`"]);
        check("tenant_header: a b", &["header name"]);
        check("{ requests_max: 0, connections_max: 0 }", &["receive.requests_max", "receive.connections_max"]);
        check("{ request_bytes_max: 33MiB }", &["must hold `request_bytes_max` twice"]);
        check("{ bytes_max: 4GiB }", &["less than 4GiB"]);
        check("{ timeout: 0s, idle_timeout: 0s }", &["receive.timeout", "receive.idle_timeout"]);
        check("otlp_unix: ['']", &["1 to 107 bytes"]);
        check("{ otlp_grpc: ['127.0.0.1:0'], otlp_http: ['127.0.0.1:0'] }", &[]);
        check(
            "{ otlp_grpc: ['127.0.0.1:1'], otlp_http: ['127.0.0.1:1'] }",
            &["receive.otlp_http[0]: 127.0.0.1:1 is given"],
        );
        check("{ otlp_grpc: ['unix:/a'], otlp_unix: [/a] }", &["given twice"]);
    }

    #[test]
    fn tenants_have_names_and_tokens() {
        check("tenants: [ { name: blue, tokens: [ { env: A }, { file: /a } ] } ]", &[]);
        check("tenants: [ { name: '', tokens: [] } ]", &["no name", "no token"]);
        check("tenants: [ { name: default, tokens: [{ env: A }] } ]", &["without a tenant"]);
        check("tenants: [ { name: a, tokens: [{ env: A }] }, { name: a, tokens: [{ env: B }] } ]", &["twice"]);
    }

    #[test]
    fn a_token_cannot_stand_in_the_configuration() {
        let text = "tenants: [ { name: blue, tokens: [ hunter2 ] } ]";
        assert!(serde_saphyr::from_str::<Receive>(text).is_err());
    }
}
