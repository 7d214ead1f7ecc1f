//! Destinations: limits, and what does not go together.

use super::Check;
use crate::config::{
    Auth, Basic, Compression, Destination, Encoding, Export, HeaderValue, Kafka, OAuth2, OnSymptom, Protocol, Push,
    Sampling, Transport,
};

/// Set by the protocols themselves.
const RESERVED_HEADERS: [&str; 6] = ["content-type", "content-length", "content-encoding", "host", "te", "user-agent"];

impl Check<'_> {
    pub(super) fn destinations(&mut self, all: &[Destination]) {
        for (index, destination) in all.iter().enumerate() {
            let same = all[..index].iter().any(|other| other.name == destination.name);
            self.require(!same, &format!("export.destinations[{index}].name"), || {
                format!("two destinations are named `{}`; give each its own `name`", destination.name)
            });
            let same_file = |other: &Destination| destination.is_file() && other.url == destination.url;
            self.require(!all[..index].iter().any(same_file), &format!("export.destinations[{index}].url"), || {
                format!("two destinations write to {}", destination.url.without_query())
            });
            self.destination(&format!("export.destinations[{index}]"), destination);
        }
    }

    pub(super) fn on_symptom(&mut self, export: &Export) {
        let at = |key: &str| format!("export.on_symptom.{key}");
        let OnSymptom { destinations, window, error_share, p99_factor, p99_requests, .. } = &export.on_symptom;
        for name in destinations {
            let is_known = export.destinations.iter().any(|to| to.name == *name);
            self.require(is_known, &at("destinations"), || format!("no destination is named `{name}`"));
        }
        self.positive(&at("window"), *window);
        self.require((0.0..=1.0).contains(error_share), &at("error_share"), || {
            format!("is {error_share}, must be from 0 to 1")
        });
        let is_factor = *p99_factor == 0.0 || (*p99_factor > 1.0 && p99_factor.is_finite());
        self.require(is_factor, &at("p99_factor"), || format!("is {p99_factor}, must be above 1; 0 is off"));
        self.require(*p99_requests > 0, &at("p99_requests"), || "must be at least 1".into());
    }

    pub(super) fn pushes(&mut self, all: &[Push]) {
        for (index, push) in all.iter().enumerate() {
            let path = |key: &str| format!("metrics.push[{index}].{key}");
            let destination = push.destination();
            let is_otlp = destination.url.protocol == Protocol::Otlp
                && matches!(destination.url.transport, Transport::Grpc | Transport::Http);
            self.require(is_otlp, &path("url"), || "metrics are sent by otlp+grpc or otlp+http".into());
            self.positive(&path("interval"), push.interval);
            self.positive(&path("timeout"), push.timeout);
            self.headers(&path("headers"), &destination);
            self.tls(&path("tls"), &destination);
            self.proxy(&format!("metrics.push[{index}]"), &destination);
            if let Some(auth) = &destination.auth {
                self.auth(&path("auth"), auth, &destination);
            }
        }
    }

    fn destination(&mut self, at: &str, destination: &Destination) {
        let path = |key: &str| format!("{at}.{key}");
        self.positive(&path("timeout"), destination.timeout);
        self.require(destination.batch.spans > 0, &path("batch.spans"), || "must be at least 1".into());
        self.require(destination.batch.bytes.0 > 0, &path("batch.bytes"), || "must be at least 1B".into());
        self.positive(&path("retry.initial"), destination.retry.initial);
        self.require(destination.retry.initial <= destination.retry.max, &path("retry"), || {
            format!("`initial` ({}) is longer than `max` ({})", destination.retry.initial, destination.retry.max)
        });
        let Sampling { ratio, keep_errors, .. } = destination.sampling;
        if let Err(problem) = crate::config::shape(&destination.filter, ratio, keep_errors) {
            self.keyed(at, &problem);
        }
        self.sampling(&path("sampling"), &destination.sampling);
        self.headers(&path("headers"), destination);
        self.body(at, destination);
        self.tls(&path("tls"), destination);
        self.proxy(at, destination);
        if let Some(auth) = &destination.auth {
            self.auth(&path("auth"), auth, destination);
        }
        self.file(at, destination);
        self.kafka(at, destination);
        self.nats(at, destination);
        self.s3(at, destination);
    }

    fn sampling(&mut self, at: &str, sampling: &Sampling) {
        let path = |key: &str| format!("{at}.tail.{key}");
        let (least, most) = (sampling.ratio_min, sampling.ratio);
        // 1, as it is by default, means that nothing goes below `ratio`.
        self.require(least <= most || least == 1.0, &format!("{at}.ratio_min"), || {
            format!("is {least}, above `ratio`, which is {most}")
        });
        let Some(tail) = &sampling.tail else { return };
        self.require(sampling.ratio_min >= sampling.ratio.min(1.0), &format!("{at}.ratio_min"), || {
            "does not go with `tail`: what is decided about a trace is not taken back".into()
        });
        self.positive(&path("decision_wait"), tail.decision_wait);
        self.require(tail.rate >= 0.0 && tail.rate.is_finite(), &path("rate"), || {
            format!("is {}, must be 0 or more", tail.rate)
        });
        self.require(tail.traces_max > 0, &path("traces_max"), || "must be at least 1".into());
        self.require(tail.bytes_max.0 >= 1 << 20, &path("bytes_max"), || "must be at least 1MiB".into());
        self.require(tail.decisions_max > 0, &path("decisions_max"), || "must be at least 1".into());
        if let Err(problem) = sampling.tail_config() {
            self.keyed(at.strip_suffix(".sampling").unwrap_or(at), &problem);
        }
    }

    fn headers(&mut self, at: &str, destination: &Destination) {
        for (name, value) in &destination.headers {
            let path = format!("{at}.{name}");
            self.require(http::HeaderName::try_from(name).is_ok(), &path, || "is no valid header name".into());
            let lower = name.to_lowercase();
            let reserved = RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("grpc-");
            self.require(!reserved, &path, || "is set by the protocol itself".into());
            let twice = lower == "authorization" && destination.auth.is_some();
            self.require(!twice, &path, || "is set by `auth`; give one of them".into());
            let valid = !matches!(value, HeaderValue::Text(text) if http::HeaderValue::from_str(text).is_err());
            self.require(valid, &path, || "has characters that a header cannot hold".into());
        }
    }

    /// Encoding and compression.
    fn body(&mut self, at: &str, destination: &Destination) {
        let (protocol, transport) = (destination.url.protocol, destination.url.transport);
        let json = destination.encoding == Encoding::Json;
        let has_encodings = protocol == Protocol::Otlp && !matches!(transport, Transport::Grpc | Transport::File);
        self.require(!json || has_encodings, &format!("{at}.encoding"), || {
            format!(
                "{} has but one encoding; json is for otlp+http, kafka, nats and s3",
                destination.url.without_query()
            )
        });
        let compression = destination.compression;
        let known = match protocol {
            Protocol::Otlp | Protocol::Jaeger => true,
            Protocol::Zipkin => compression != Compression::Zstd,
            Protocol::Datadog => compression == Compression::None,
        };
        self.require(known, &format!("{at}.compression"), || {
            let protocol = if protocol == Protocol::Zipkin { "Zipkin" } else { "a Datadog agent" };
            format!("{protocol} does not know it")
        });
        let Some(level) = destination.compression_level else { return };
        let path = format!("{at}.compression_level");
        let has_levels = !matches!(transport, Transport::Grpc | Transport::Kafka);
        self.require(has_levels, &path, || "gRPC and Kafka have no choice of level".into());
        let max = match compression {
            Compression::None => 0,
            Compression::Gzip => 9,
            Compression::Zstd => 22,
        };
        self.require((1..=max).contains(&level), &path, || match max {
            0 => "is of no use without `compression`".into(),
            _ => format!("is {level}, must be from 1 to {max}"),
        });
    }

    fn tls(&mut self, at: &str, destination: &Destination) {
        let tls = &destination.tls;
        for (key, file) in [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)] {
            self.require(file.is_none() || destination.uses_tls(), &format!("{at}.{key}"), || {
                match destination.url.transport {
                    Transport::S3 => "`s3.endpoint` does not use TLS; write https://".to_owned(),
                    Transport::File => "a file has no TLS".to_owned(),
                    _ => format!(
                        "{} does not use TLS; write {}://",
                        destination.url.without_query(),
                        destination.url.scheme_by_tls()
                    ),
                }
            });
        }
        self.require(tls.cert_file.is_some() == tls.key_file.is_some(), at, || {
            "`cert_file` and `key_file` belong together; one is missing".into()
        });
    }

    fn proxy(&mut self, at: &str, destination: &Destination) {
        if let Some(proxy) = &destination.proxy {
            let uri = proxy.parse::<http::Uri>().ok();
            let usable = uri.is_some_and(|uri| {
                uri.scheme_str() == Some("http")
                    && matches!(uri.path(), "" | "/")
                    && uri.authority().is_some_and(|a| a.port().is_some() && !a.as_str().contains('@'))
            });
            // The text is not repeated: it may have a password.
            self.require(usable, &format!("{at}.proxy"), || {
                "write http://HOST:PORT; user and password belong into `proxy_auth`".into()
            });
        }
        let lonely = destination.proxy_auth.is_some() && destination.proxy.is_none();
        self.require(!lonely, &format!("{at}.proxy_auth"), || "is of no use without `proxy`".into());
        if let Some(basic) = &destination.proxy_auth {
            self.basic(&format!("{at}.proxy_auth"), basic);
        }
    }

    fn auth(&mut self, at: &str, auth: &Auth, destination: &Destination) {
        self.require(auth.ways() == 1, at, || "give one of `bearer`, `basic`, `oauth2` and `access_key`".into());
        let is_s3 = destination.url.transport == Transport::S3;
        self.require(auth.access_key.is_some() == is_s3, at, || {
            "`access_key` is for s3, the others are for all others".into()
        });
        if let Some(bearer) = &auth.bearer {
            let path = format!("{at}.bearer");
            let one = bearer.file.is_some() == bearer.command.is_empty();
            self.require(one, &path, || "give one of `file` and `command`".into());
            self.positive(&format!("{path}.expires_after"), bearer.expires_after);
        }
        if let Some(basic) = &auth.basic {
            self.basic(&format!("{at}.basic"), basic);
        }
        if let Some(oauth2) = &auth.oauth2 {
            self.oauth2(&format!("{at}.oauth2"), oauth2);
        }
        let file = destination.is_file();
        self.require(!file, at, || "a file asks for no credentials".into());
    }

    fn basic(&mut self, at: &str, basic: &Basic) {
        let usable = !basic.username.contains(|c: char| c == ':' || c.is_control());
        self.require(usable, &format!("{at}.username"), || "must have neither a colon nor control characters".into());
    }

    fn oauth2(&mut self, at: &str, oauth2: &OAuth2) {
        let uri = oauth2.token_url.parse::<http::Uri>().ok();
        let usable = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        self.require(usable, &format!("{at}.token_url"), || {
            "write https://HOST/PATH; client id and secret have their own keys".into()
        });
        self.require(!oauth2.client_id.is_empty(), &format!("{at}.client_id"), || "must not be empty".into());
    }

    fn kafka(&mut self, at: &str, destination: &Destination) {
        let Some(kafka) = &destination.kafka else { return };
        let is_kafka = destination.url.transport == Transport::Kafka;
        self.require(is_kafka, &format!("{at}.kafka"), || format!("{} is not Kafka", destination.url.without_query()));
        let has_password = destination.auth.as_ref().is_some_and(|auth| auth.basic.is_some());
        self.require(*kafka == Kafka::default() || has_password, &format!("{at}.kafka.sasl"), || {
            "is of no use without `auth.basic`".into()
        });
    }

    fn nats(&mut self, at: &str, destination: &Destination) {
        if destination.url.transport != Transport::Nats {
            return;
        }
        let has_token = destination.auth.as_ref().is_none_or(|auth| auth.oauth2.is_none());
        self.require(has_token, &format!("{at}.auth.oauth2"), || "NATS takes `basic` or `bearer`".into());
    }

    fn s3(&mut self, at: &str, destination: &Destination) {
        let Some(s3) = &destination.s3 else { return };
        let is_s3 = destination.url.transport == Transport::S3;
        self.require(is_s3, &format!("{at}.s3"), || format!("{} is no bucket", destination.url.without_query()));
        let is_name =
            !s3.region.is_empty() && s3.region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        self.require(is_name, &format!("{at}.s3.region"), || "is no name of a region".into());
        let uri = s3.endpoint.as_ref().map(|endpoint| endpoint.parse::<http::Uri>().ok());
        let usable = uri.is_none_or(|uri| {
            uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/"))
                    && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            })
        });
        // The text is not repeated: it may have a password.
        self.require(usable, &format!("{at}.s3.endpoint"), || {
            "write https://HOST or http://HOST:PORT; credentials belong into `auth.access_key`".into()
        });
    }

    fn file(&mut self, at: &str, destination: &Destination) {
        if !destination.is_file() {
            let path = format!("{at}.file");
            self.require(destination.file.is_none(), &path, || {
                format!("{} is no file", destination.url.without_query())
            });
            return;
        }
        let useless = !destination.headers.is_empty() || destination.proxy.is_some();
        self.require(!useless, at, || "a file has neither headers nor a proxy".into());
        let rotation = destination.file.clone().unwrap_or_default();
        self.require(rotation.max_bytes.0 > 0, &format!("{at}.file.max_bytes"), || "must be at least 1B".into());
        self.positive(&format!("{at}.file.max_age"), rotation.max_age);
        self.require(rotation.keep > 0, &format!("{at}.file.keep"), || "must be at least 1".into());
    }
}

impl Destination {
    fn is_file(&self) -> bool {
        self.url.transport == Transport::File
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[track_caller]
    fn one(url: &str, more: &str, expected: &[&str]) {
        check(&format!("export: {{ destinations: [ {{ url: '{url}', {more} }} ] }}"), expected);
    }

    #[test]
    fn limits_are_checked() {
        let grpc = "otlp+grpc://h";
        one(grpc, "name: a", &[]);
        one(grpc, "retry: { initial: 1m, max: 1s }", &["destinations[0].retry (file"]);
        one(grpc, "batch: { spans: 0 }", &["at least 1"]);
        one(grpc, "headers: { 'a b': c }", &["header name"]);
        one(grpc, "headers: { grpc-timeout: c }", &["protocol itself"]);
        check("export: { destinations: [ { url: 'otlp+grpc://h' }, { url: 'otlp+grpc://h' } ] }", &["its own `name`"]);
        let twice = "[ { url: 'file:/a', name: a }, { url: 'file:/a', name: b } ]";
        check(&format!("export: {{ destinations: {twice} }}"), &["two destinations write to file:/a"]);
        one("file:/a", "file: { max_bytes: 0, max_age: 0s, keep: 0 }", &["max_bytes", "max_age", "keep"]);
    }

    #[test]
    fn metrics_go_to_receivers_of_otlp_only() {
        let push = |more: &str| format!("metrics: {{ push: [ {{ {more} }} ] }}");
        check(&push("url: 'otlp+grpc://h'"), &[]);
        check(&push("url: 'otlp+https://h', tls: { ca_file: /ca.pem }, interval: 5s"), &[]);
        check(&push("url: 'zipkin+http://h'"), &["metrics.push[0].url (file", "otlp+grpc or otlp+http"]);
        check(&push("url: 'kafka://h/t'"), &["metrics.push[0].url"]);
        check(&push("url: 'otlp+http://h', interval: 0s, timeout: 0s"), &["[0].interval", "[0].timeout"]);
        check(&push("url: 'otlp+http://h', tls: { ca_file: /ca.pem }"), &["otlp+https"]);
        check(&push("url: 'otlp+http://h', headers: { host: x }, auth: {}"), &["itself", "give one of"]);
    }

    #[test]
    fn symptoms_name_destinations_and_have_sane_bounds() {
        let check_with = |more: &str, expected: &[&str]| {
            let to = "destinations: [ { url: 'otlp+grpc://h', name: a } ]";
            check(&format!("export: {{ {to}, on_symptom: {{ {more} }} }}"), expected);
        };
        check_with("destinations: [a], p99_factor: 3, p99: 2s, error_share: 1", &[]);
        check_with("destinations: [b]", &["no destination is named `b`"]);
        check_with("window: 0s, error_share: 2", &["on_symptom.window", "from 0 to 1"]);
        check_with("p99_factor: 1, p99_requests: 0", &["must be above 1", "p99_requests"]);
    }

    #[test]
    fn sampling_by_traces_has_sane_bounds() {
        let grpc = "otlp+grpc://h";
        one(grpc, "sampling: { ratio: 0.1, tail: { slow: 1s, per_minute: 1, matches: [{ name: x }] } }", &[]);
        one(grpc, "sampling: { ratio: 0.1, ratio_min: 0.01, tail: {} }", &["does not go with `tail`"]);
        one(grpc, "sampling: { ratio: 2 }", &["2 is not from 0 to 1"]);
        one(grpc, "sampling: { tail: { decision_wait: 0s, rate: -1 } }", &["tail.decision_wait", "tail.rate"]);
        one(grpc, "sampling: { ratio: 0.1, ratio_min: 0.5 }", &["ratio_min", "above `ratio`"]);
        let zeros = "sampling: { tail: { traces_max: 0, bytes_max: 1, decisions_max: 0 } }";
        one(grpc, zeros, &["traces_max", "at least 1MiB", "decisions_max"]);
        one(grpc, "sampling: { tail: { matches: [{ attributes: [a] }] } }", &["tail.matches", "key=value"]);
        one(grpc, "sampling: { tail: { slwo: 1s } }", &["did you mean `slow`"]);
    }

    #[test]
    fn encodings_and_compressions_go_with_protocols() {
        one("otlp+http://h", "encoding: json, compression: zstd, compression_level: 22", &[]);
        one("otlp+grpc://h", "encoding: json", &["has but one encoding"]);
        one("otlp+grpc://h", "compression: zstd", &[]);
        one("otlp+grpc://h", "compression: gzip, compression_level: 1", &["no choice of level"]);
        one("otlp+http://h", "compression: gzip, compression_level: 10", &["from 1 to 9"]);
        one("otlp+http://h", "compression_level: 1", &["no use without `compression`"]);
        one("zipkin+http://h", "compression: gzip", &[]);
        one("zipkin+http://h", "compression: zstd", &["Zipkin does not know it"]);
        one("datadog+http://h", "compression: gzip", &["a Datadog agent does not know it"]);
        one("file:/a", "compression: zstd, file: { keep: 1 }", &[]);
        one("otlp+http://h", "file: { keep: 1 }", &["is no file"]);
        one("file:/a", "headers: { a: b }", &["neither headers"]);
        one("kafka://h/t", "encoding: json, compression: zstd, headers: { a: b }", &[]);
        one("kafka://h/t", "compression: gzip, compression_level: 1", &["no choice of level"]);
    }

    #[test]
    fn certificates_need_tls_and_their_key() {
        one("otlp+grpc://h", "tls: { ca_file: /ca }", &["otlp+grpcs://"]);
        one("zipkin+http://h", "tls: { cert_file: /c, key_file: /k }", &["tls.cert_file", "tls.key_file", "https://"]);
        one("otlp+grpcs://h", "tls: { cert_file: /c }", &["belong together"]);
        one("otlp+grpcs://h", "tls: { cert_file: /c, key_file: /k }", &[]);
    }

    #[test]
    fn credentials_are_given_once_and_in_full() {
        let grpc = "otlp+grpc://h";
        let oauth2 = "oauth2: { token_url: 'https://i/t', client_id: a, client_secret: { env: S } }";
        one(grpc, "auth: { bearer: { file: /t } }", &[]);
        one(grpc, "auth: { bearer: { command: [get, token], expires_after: 1h } }", &[]);
        one(grpc, &format!("auth: {{ {oauth2} }}"), &[]);
        one(grpc, "auth: { basic: { username: u, password: { file: /p } } }", &[]);
        one(grpc, "auth: {}", &["one of `bearer`"]);
        one(grpc, &format!("auth: {{ bearer: {{ file: /t }}, {oauth2} }}"), &["one of `bearer`"]);
        one(grpc, "auth: { bearer: {} }", &["one of `file` and `command`"]);
        one(grpc, "auth: { basic: { username: 'u:', password: { file: /p } } }", &["colon"]);
        one(grpc, "auth: { bearer: { file: /t } }, headers: { Authorization: x }", &["give one of them"]);
        one("file:/a", "auth: { bearer: { file: /t } }", &["no credentials"]);
        let basic = "auth: { basic: { username: u, password: { file: /p } } }";
        one("kafka+tls://h/t", &format!("{basic}, kafka: {{ sasl: scram_sha_512 }}"), &[]);
        one("kafka://h/t", "kafka: { sasl: scram_sha_256 }", &["no use without `auth.basic`"]);
        one(grpc, "kafka: { sasl: plain }", &["is not Kafka"]);
        one("kafka://h/t", "tls: { ca_file: /ca }", &["write kafka+tls://"]);
        one("nats+tls://h/t", "encoding: json, compression: zstd, auth: { bearer: { file: /t } }", &[]);
        one("nats://h/t", "proxy: 'http://h:1'", &[]);
        let key = "auth: { access_key: { id: { env: I }, secret: { file: /s } } }";
        one(
            "s3://traces",
            &format!("{key}, s3: {{ region: eu-west-1 }}, tls: {{ ca_file: /ca }}, encoding: json"),
            &[],
        );
        one("s3://traces", "s3: { endpoint: 'http://h:9000' }, tls: { ca_file: /ca }", &["does not use TLS"]);
        one("s3://traces", "s3: { endpoint: 'h:9000', region: '' }", &["s3.endpoint", "s3.region"]);
        one("s3://traces", "s3: { endpoint: 'http://u:hunter2@h' }", &["`auth.access_key`"]);
        one("s3://traces", "auth: { bearer: { file: /t } }", &["`access_key` is for s3"]);
        one(grpc, key, &["`access_key` is for s3"]);
        one(grpc, "s3: { region: a }", &["is no bucket"]);
        one("nats://h/t", &format!("auth: {{ {oauth2} }}"), &["`basic` or `bearer`"]);
        one(grpc, "auth: { bearer: { fil: /t } }", &["did you mean `file`"]);
        one(grpc, "auth: { beare: { file: /t } }", &["did you mean `bearer`"]);
    }

    #[test]
    fn urls_with_passwords_are_refused_and_not_repeated() {
        let oauth2 = "client_id: a, client_secret: { env: S }";
        for more in [
            "proxy: 'http://user:hunter2@h:1'".to_owned(),
            format!("auth: {{ oauth2: {{ token_url: 'https://user:hunter2@i/t', {oauth2} }} }}"),
        ] {
            let yaml = format!("export: {{ destinations: [ {{ url: 'otlp+grpc://h', {more} }} ] }}");
            check(&yaml, &["write http"]);
            assert!(!super::super::tests::problems(&yaml).contains("hunter2"));
        }
        one("otlp+grpc://h", "proxy: 'http://h:3128'", &[]);
        one("otlp+grpc://h", "proxy: 'https://h:3128'", &["http://HOST:PORT"]);
        one("otlp+grpc://h", "proxy_auth: { username: u, password: { env: P } }", &["without `proxy`"]);
    }
}
