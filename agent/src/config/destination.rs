//! Where spans go, as configured: the types below `export`.
//!
//! Never opens a connection; `export` does.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use agent_core::{relay, tail::TailConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    auth::{Auth, Basic},
    relay::{Filter, Match},
    units::{Interval, Size},
    url::Url,
};

/// Every destination, and what they share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// Destinations; none by default. Each keeps its own place in the span log.
    #[serde(deserialize_with = "super::or_default")]
    pub destinations: Vec<Destination>,
    /// How long a stopping agent may take to send what is queued; the rest waits in the log for the next start.
    pub shutdown_timeout: Interval,
    /// Sends spans that sampling left out when something goes wrong.
    #[serde(deserialize_with = "super::or_default")]
    pub on_symptom: OnSymptom,
}

/// When many requests of a service fail, or take longer, what sampling left out of its spans of the last while, and of the next, is
/// sent after all. Such spans are marked (`spantap.sampling.late`): sampled ones stand for them already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnSymptom {
    /// Names of the destinations that get them; with none nothing is looked for.
    pub destinations: Vec<String>,
    /// Length of the windows that are looked at.
    pub window: Interval,
    /// So many errors of a service in a window, at least; 0: errors are not looked at.
    pub errors: u64,
    /// They are at least this part of its spans, from 0 to 1.
    pub error_share: f64,
    /// The 99th percentile of the durations of a service's requests of one name in a window is above this; 0s: not looked at.
    pub p99: Interval,
    /// It is above so many times that of the last minutes; 0: not looked at.
    pub p99_factor: f64,
    /// Requests that a window needs for a percentile.
    pub p99_requests: u64,
    /// What is sent of the past.
    pub keep: Interval,
    /// What is sent of what comes.
    pub after: Interval,
    /// How long the same service causes nothing more.
    pub cool_down: Interval,
    /// Spans of all services are sent, not only those of the one that has the symptom.
    pub all_services: bool,
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
    /// Who the agent is. Unlike `headers`, what it is read from may change while the agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Encoding of OTLP by HTTP, in Kafka's records, NATS's messages or objects; the others have but one.
    #[serde(default)]
    pub encoding: Encoding,
    /// Compression of requests and objects, or of files that are full. Zipkin knows only gzip, a Datadog agent none.
    #[serde(default)]
    pub compression: Compression,
    /// 1 to 9 for gzip, 1 to 22 for zstd; quick by default. gRPC and Kafka have no choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression_level: Option<u32>,
    /// How segments are shown.
    #[serde(default)]
    pub segments: Segments,
    /// Time limit of one request, connecting included.
    #[serde(default = "timeout_default")]
    pub timeout: Interval,
    /// Used by the schemes that end with `s`.
    #[serde(default, deserialize_with = "super::or_default")]
    pub tls: Tls,
    /// HTTP proxy to go through by `CONNECT`, as `http://HOST:PORT`. No environment variable is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Who the agent is to the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_auth: Option<Basic>,
    /// When a file is full, and what happens then; for `file:` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Rotation>,
    /// How the agent says to Kafka's brokers who it is; for `kafka:` and `kafka+tls:` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    /// Where the bucket is; for `s3:` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
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
    /// Only spans of these tenants; of all, and this host's own, if none is given.
    #[serde(default)]
    pub tenants: Vec<String>,
    /// Which spans it gets.
    #[serde(default, deserialize_with = "super::or_default")]
    pub filter: Filter,
    /// How many of them.
    #[serde(default, deserialize_with = "super::or_default")]
    pub sampling: Sampling,
}

/// How many of the spans a destination gets: whole traces, the same for all who sample by OpenTelemetry's rule. What is left out is
/// told to the backend (`ot=th` in the trace state), so that its rates stay true, and stays in the log for the local commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Part of the traces, from 0 to 1.
    pub ratio: f64,
    /// While the destination cannot keep up, or says that it wants less, down to this part, by halves; and back.
    pub ratio_min: f64,
    /// Spans with an error are sent whatever their trace.
    pub keep_errors: bool,
    /// Decides about whole traces when they have had time to come. `ratio` is then of those that nothing keeps for sure, and
    /// `keep_errors` keeps whole traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<TailSampling>,
}

/// Sampling by whole traces. Kept for sure are traces with an error, a slow span, a span that matches, and the first ones of each
/// minute; of the rest as many as `ratio` and `rate` say, which is told (`ot=th`). What is left out stays in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TailSampling {
    /// Time from a trace's first span to the decision; spans that come later follow it.
    pub decision_wait: Interval,
    /// Traces with a span that took at least so long are kept; 0s: not for that.
    pub slow: Interval,
    /// Traces with a request that was slower than 99 % of those of its service and name in the last minutes are kept.
    pub slow_p99: bool,
    /// So many traces of each service and name are kept in each minute; 0: not for that.
    pub per_minute: u32,
    /// Traces with a span that matches one of these are kept.
    #[serde(deserialize_with = "super::or_default")]
    pub matches: Vec<Match>,
    /// Of the rest, about so many traces per second of each route (service and name of a trace's first request); 0: no limit.
    pub rate: f64,
    /// Traces that may wait; beyond it the oldest are decided before their time, and counted.
    pub traces_max: usize,
    /// Memory that this may take, about; likewise.
    pub bytes_max: Size,
    /// Decisions that are remembered for spans that come later.
    pub decisions_max: usize,
}

impl Default for TailSampling {
    fn default() -> Self {
        Self {
            decision_wait: Interval::secs(10),
            slow: Interval::secs(0),
            slow_p99: false,
            per_minute: 0,
            matches: Vec::new(),
            rate: 0.0,
            traces_max: 50_000,
            bytes_max: Size::mib(64),
            decisions_max: 100_000,
        }
    }
}

impl Sampling {
    /// For the decisions about traces; nothing if there are none.
    ///
    /// # Errors
    /// What is wrong, with its key.
    pub fn tail_config(&self) -> Result<Option<TailConfig>, String> {
        let Some(tail) = &self.tail else { return Ok(None) };
        Ok(Some(TailConfig {
            decision_wait_ns: tail.decision_wait.ns(),
            keep_errors: self.keep_errors,
            slow_ns: tail.slow.ns(),
            slow_p99: tail.slow_p99,
            per_minute: tail.per_minute,
            matches: relay::Filter {
                include: super::relay::matches("sampling.tail.matches", &tail.matches)?,
                exclude: Vec::new(),
            },
            rest: relay::Threshold::from_probability(self.ratio),
            rate: tail.rate,
            traces_max: tail.traces_max,
            bytes_max: tail.bytes_max.0,
            decisions_max: tail.decisions_max,
        }))
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self { ratio: 1.0, ratio_min: 1.0, keep_errors: true, tail: None }
    }
}

/// How fast a destination is sent to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pace {
    /// Most spans per second; 0: no limit.
    pub spans_per_second: u64,
    /// Most bytes per second before compression; 0: no limit.
    pub bytes_per_second: Size,
    /// After an outage, and when the agent starts, the backlog is sent at so many times the rate at which spans come in (at a start, at
    /// which the log was filled before), but at least 2,000 spans per second; 0: as fast as the destination takes it.
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
    /// zstd: about as small, for less CPU time.
    Zstd,
}

/// Encoding of OTLP/HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Binary; the log's bytes are sent as they are.
    #[default]
    Protobuf,
    /// JSON.
    Json,
}

/// When a file is full. It is then renamed to `NAME.1` (`NAME.1.gz`, `NAME.1.zst`), what had that name to `NAME.2`, and so on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Size at which a file is full; one request may exceed it.
    pub max_bytes: Size,
    /// Age at which a file is full; looked at when something is written.
    pub max_age: Interval,
    /// Full files that are kept; the oldest is deleted.
    pub keep: u32,
}

/// What only Kafka knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// How user name and password (`auth.basic`) are shown. A token (`auth.bearer`, `auth.oauth2`) is always shown by OAUTHBEARER.
    pub sasl: Sasl,
}

/// A mechanism of SASL (RFC 4422) for user name and password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sasl {
    /// The password itself is sent (RFC 4616): with TLS only.
    #[default]
    Plain,
    /// Only a proof of the password is sent (RFC 7677).
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// The same with a longer hash.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// `https://HOST:PORT` or `http://HOST:PORT` of a store that has buckets in the path; Amazon's of the region if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its region, which is part of every signature.
    pub region: String,
}

impl Default for S3 {
    fn default() -> Self {
        Self { endpoint: None, region: "us-east-1".to_owned() }
    }
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
    /// Certificate (PEM, with its chain) that the agent shows. Looked at each second: a new pair is used for new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
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
    /// What `RESOURCE_EXHAUSTED` without `RetryInfo` means. The specification says that such spans must not be sent again, but
    /// collectors answer so when their queue is full, and the log has room to wait.
    pub resource_exhausted_without_retry_info: Exhausted,
}

/// What an answer without a clear meaning does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exhausted {
    /// The spans are sent again.
    #[default]
    Retry,
    /// The spans are dead letters.
    DeadLetter,
}

impl Default for Export {
    fn default() -> Self {
        Self { destinations: Vec::new(), shutdown_timeout: Interval::secs(5), on_symptom: OnSymptom::default() }
    }
}

impl Default for OnSymptom {
    fn default() -> Self {
        Self {
            destinations: Vec::new(),
            window: Interval::secs(10),
            errors: 20,
            error_share: 0.05,
            p99: Interval::secs(0),
            p99_factor: 0.0,
            p99_requests: 50,
            keep: Interval::secs(600),
            after: Interval::secs(120),
            cool_down: Interval::secs(900),
            all_services: false,
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self { spans: 4096, bytes: Size::mib(1), age: Interval::ms(200) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        let resource_exhausted_without_retry_info = Exhausted::Retry;
        Self { initial: Interval::ms(500), max: Interval::secs(30), resource_exhausted_without_retry_info }
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self { max_bytes: Size::mib(100), max_age: Interval::secs(24 * 3600), keep: 5 }
    }
}

const fn concurrency_default() -> usize {
    1
}

const fn timeout_default() -> Interval {
    Interval::secs(10)
}

impl Destination {
    /// Whether it is spoken to by TLS.
    pub fn uses_tls(&self) -> bool {
        let endpoint = self.s3.as_ref().and_then(|s3| s3.endpoint.as_deref());
        endpoint.map_or(self.url.tls, |endpoint| endpoint.starts_with("https://"))
    }

    /// A destination with defaults for everything but the URL.
    pub fn to(url: Url) -> Self {
        Self {
            name: String::new(),
            url,
            headers: BTreeMap::new(),
            auth: None,
            encoding: Encoding::Protobuf,
            compression: Compression::None,
            compression_level: None,
            segments: Segments::Attributes,
            timeout: timeout_default(),
            tls: Tls::default(),
            proxy: None,
            proxy_auth: None,
            file: None,
            kafka: None,
            s3: None,
            batch: Batch::default(),
            retry: Retry::default(),
            concurrency: concurrency_default(),
            pace: Pace::default(),
            tenants: Vec::new(),
            filter: Filter::default(),
            sampling: Sampling::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_not_shown_by_debug() {
        let shown = format!("{:?}", HeaderValue::Text("hunter2".into()));
        assert!(!shown.contains("hunter2"));
    }
}
