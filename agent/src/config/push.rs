//! Where the agent's own metrics are sent, as configured: `metrics.push`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    auth::{Auth, Basic},
    destination::{Compression, Destination, HeaderValue, Tls},
    units::Interval,
    url::{Transport, Url},
};

/// Path of metrics by OTLP/HTTP (OTLP specification, "OTLP/HTTP Request").
const METRICS_PATH: &str = "/v1/metrics";
/// What a URL without a path means for spans.
const TRACES_PATH: &str = "/v1/traces";

/// A receiver of OTLP that gets the agent's own metrics, from time to time. Nothing is kept for it: the next values hold all there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Where to, by otlp+grpc, otlp+grpcs, otlp+http or otlp+https; by HTTP to `/v1/metrics` if no path is given.
    pub url: Url,
    /// Time between two pushes.
    #[serde(default = "interval_default")]
    pub interval: Interval,
    /// Headers (gRPC metadata) sent with every request.
    #[serde(default, deserialize_with = "super::or_default")]
    pub headers: BTreeMap<String, HeaderValue>,
    /// Who the agent is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Compression of requests.
    #[serde(default)]
    pub compression: Compression,
    /// Time limit of one request, connecting included.
    #[serde(default = "timeout_default")]
    pub timeout: Interval,
    /// Used by the schemes that end with `s`.
    #[serde(default, deserialize_with = "super::or_default")]
    pub tls: Tls,
    /// HTTP proxy to go through by `CONNECT`, as `http://HOST:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Who the agent is to the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_auth: Option<Basic>,
}

const fn interval_default() -> Interval {
    Interval::secs(60)
}

const fn timeout_default() -> Interval {
    Interval::secs(10)
}

impl Push {
    /// The same as a destination of spans has it, for the clients that both use.
    pub fn destination(&self) -> Destination {
        let mut url = self.url.clone();
        if url.transport == Transport::Http && url.path == TRACES_PATH {
            METRICS_PATH.clone_into(&mut url.path);
        }
        Destination {
            name: url.without_query(),
            headers: self.headers.clone(),
            auth: self.auth.clone(),
            compression: self.compression,
            timeout: self.timeout,
            tls: self.tls.clone(),
            proxy: self.proxy.clone(),
            proxy_auth: self.proxy_auth.clone(),
            ..Destination::to(url)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_a_path_of_their_own() {
        for (url, path) in [
            ("otlp+http://h", "/v1/metrics"),
            ("otlp+https://h:443/otlp/v1/metrics", "/otlp/v1/metrics"),
            ("otlp+grpc://h", ""),
        ] {
            let push: Push = serde_json::from_value(serde_json::json!({ "url": url })).unwrap();
            assert_eq!(push.destination().url.path, path, "{url}");
        }
    }
}
