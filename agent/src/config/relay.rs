//! What is done with relayed spans, and what a destination gets: the types below `relay`, and the filters of `export`.
//!
//! In: the configuration. Out: what `agent_core::relay` wants. Never reads a file.

use agent_core::{
    relay::{self, ClockWindow, Glob, HeadSampling, RelayConfig, Renames, ShapeConfig, Threshold},
    wire,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{file, nearest, show, units::Interval};

/// How a condition on spans is written.
const CONDITION: &str =
    "a condition is written as 'service: shop*, status: error, duration: 1s, attributes: [http.route=/pay]'";

/// What is done with spans of SDKs and other agents before they are stored and acknowledged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// When a sender is told that its spans are safe.
    pub durability: Durability,
    /// What may not be stored or sent.
    #[serde(deserialize_with = "super::or_default")]
    pub redact: Redact,
    /// Resource attributes that are added where the key is absent, as `key=value`.
    pub attributes: Vec<String>,
    /// Attributes with keys of older semantic conventions get today's (`http.method` becomes `http.request.method`).
    pub semantic_conventions: bool,
    /// New keys of attributes, as `old=new`.
    pub renames: Vec<String>,
    /// Part of the traces that is sent to destinations, from 0 to 1; the rest is kept on this host for the local commands. The
    /// same for all who sample by OpenTelemetry's rule, and told to the backend (`ot=th`).
    pub sampling_ratio: f64,
    /// Spans with an error are sent whatever their trace.
    pub keep_errors: bool,
    /// A span that began longer ago has a wrong clock: it is marked and counted, its times stay. 0: not checked.
    pub clock_past: Interval,
    /// Likewise one that ends so far ahead.
    pub clock_future: Interval,
}

/// When a sender is told that its spans are safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// When they are on stable storage: they survive a power failure.
    #[default]
    Fsync,
    /// When they are written: they survive the end of the agent, not that of the machine.
    Written,
}

/// What may not be stored or sent of relayed spans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redact {
    /// Attributes whose key says that their value is secret (`authorization`, `password`, `api_key` and others).
    pub sensitive_keys: bool,
    /// In every text, numbers of payment cards, tokens, private keys, addresses of people and passwords in URLs become
    /// placeholders.
    pub patterns: bool,
    /// Of query strings only the names are kept.
    pub queries: bool,
    /// SQL is kept without its literals.
    pub statements: bool,
    /// Further attributes that are left out: keys, or globs with `*` and `?`.
    pub deny: Vec<String>,
    /// Attributes that are left as they are, whatever they look like.
    pub allow: Vec<String>,
}

/// Which spans a destination gets: one of `include`, or all if that is empty, and none of `exclude`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Wanted.
    pub include: Vec<Match>,
    /// Not wanted.
    pub exclude: Vec<Match>,
}

/// A kind of spans; all that is given has to hold. Texts are globs with `*` and `?`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// `service.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Kind of the span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<MatchKind>,
    /// Status of the span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<MatchStatus>,
    /// It took at least so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Interval>,
    /// Attributes, as `key=glob`, of the span or else of its resource.
    pub attributes: Vec<String>,
}

/// Status of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatchStatus {
    /// Nothing was said.
    Unset,
    /// Said to be well.
    Ok,
    /// An error.
    Error,
}

/// Kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatchKind {
    /// Within a process.
    Internal,
    /// Answers a request.
    Server,
    /// Sends a request.
    Client,
    /// Sends a message.
    Producer,
    /// Takes a message.
    Consumer,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            redact: Redact::default(),
            attributes: Vec::new(),
            semantic_conventions: false,
            renames: Vec::new(),
            sampling_ratio: 1.0,
            keep_errors: true,
            clock_past: Interval::secs(24 * 3600),
            clock_future: Interval::secs(300),
        }
    }
}

impl Default for Redact {
    fn default() -> Self {
        Self {
            sensitive_keys: true,
            patterns: true,
            queries: true,
            statements: true,
            deny: Vec::new(),
            allow: Vec::new(),
        }
    }
}

impl Relay {
    /// For the intake.
    ///
    /// # Errors
    /// What is wrong, with its key.
    pub fn to_core(&self) -> Result<relay::Relay, String> {
        let Redact { sensitive_keys, patterns, queries, statements, deny, allow } = self.redact.clone();
        let config = RelayConfig {
            redact: relay::Redaction {
                sensitive_keys,
                patterns,
                queries,
                statements,
                deny: deny.into_iter().map(|key| (key, relay::Action::Drop)).collect(),
                allow,
                ..relay::Redaction::default()
            },
            resource_attributes: pairs("relay.attributes", &self.attributes)?,
            renames: Renames {
                semantic_conventions: self.semantic_conventions,
                keys: pairs("relay.renames", &self.renames)?,
            },
            sampling: sampling("relay.sampling_ratio", self.sampling_ratio, self.keep_errors)?,
            clock: (!self.clock_past.0.is_zero())
                .then(|| ClockWindow { past_ns: self.clock_past.ns(), future_ns: self.clock_future.ns() }),
        };
        relay::Relay::new(config).map_err(|error| format!("relay: {error}"))
    }
}

/// For a destination: its filter and sampling.
///
/// # Errors
/// What is wrong, with its key.
pub fn shape(filter: &Filter, ratio: f64, keep_errors: bool) -> Result<relay::Shape, String> {
    let config = ShapeConfig {
        filter: relay::Filter {
            include: matches("filter.include", &filter.include)?,
            exclude: matches("filter.exclude", &filter.exclude)?,
        },
        sampling: sampling("sampling.ratio", ratio, keep_errors)?,
        ..ShapeConfig::default()
    };
    relay::Shape::new(config).map_err(|error| format!("filter: {error}"))
}

/// For whoever looks for spans. `key` is where they are given.
///
/// # Errors
/// What is wrong, with its key.
pub fn matches(key: &str, matches: &[Match]) -> Result<Vec<relay::SpanMatch>, String> {
    let one = |(index, one): (usize, &Match)| one.to_core().map_err(|problem| format!("{key}[{index}].{problem}"));
    matches.iter().enumerate().map(one).collect()
}

impl std::str::FromStr for Match {
    type Err = String;

    /// As in a filter of the configuration, with or without the braces: `service: shop, status: error`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let braced = if text.starts_with('{') { text.to_owned() } else { format!("{{ {text} }}") };
        let schema = show::schema_of::<Self>();
        let names: Vec<&str> =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let parsed = file::from_text(&braced, &schema);
        let usable: Self = parsed.map_err(|problem| {
            let problem = slip(&braced, &names).unwrap_or(problem);
            format!("{problem}; {CONDITION}, with any of the keys {}", names.join(", "))
        })?;
        usable.to_core().map(|_| usable)
    }
}

/// What is wrong with the first key that is none.
fn slip(braced: &str, names: &[&str]) -> Option<String> {
    let Ok(serde_json::Value::Object(given)) = serde_saphyr::from_str(braced) else { return None };
    let key = given.keys().find(|key| !names.contains(&key.as_str()))?;
    let is_known = |(name, _): &(&str, &str)| names.contains(&name.trim());
    if let Some((name, rest)) = key.split_once([':', '=']).filter(is_known) {
        return Some(format!("`{key}` is no condition, did you mean '{}: {}'?", name.trim(), rest.trim()));
    }
    let near = nearest(key, names.iter().copied()).map(|near| format!(", did you mean `{near}`?"));
    Some(format!("`{key}` is no key{}", near.unwrap_or_default()))
}

impl Match {
    /// What is wrong, with its key.
    fn to_core(&self) -> Result<relay::SpanMatch, String> {
        let glob = |text: &Option<String>| text.as_deref().map(Glob::new);
        let attributes = pairs("attributes", &self.attributes)?;
        Ok(relay::SpanMatch {
            service: glob(&self.service),
            name: glob(&self.name),
            kind: self.kind.map(MatchKind::to_core),
            status: self.status.map(MatchStatus::to_core),
            duration_ns_min: self.duration.map(Interval::ns),
            attributes: attributes.into_iter().map(|(key, value)| (key, Glob::new(&value))).collect(),
        })
    }
}

impl MatchStatus {
    fn to_core(self) -> wire::StatusCode {
        match self {
            Self::Unset => wire::StatusCode::Unset,
            Self::Ok => wire::StatusCode::Ok,
            Self::Error => wire::StatusCode::Error,
        }
    }
}

impl MatchKind {
    fn to_core(self) -> wire::Kind {
        match self {
            Self::Internal => wire::Kind::Internal,
            Self::Server => wire::Kind::Server,
            Self::Client => wire::Kind::Client,
            Self::Producer => wire::Kind::Producer,
            Self::Consumer => wire::Kind::Consumer,
        }
    }
}

fn sampling(key: &str, ratio: f64, keep_errors: bool) -> Result<Option<HeadSampling>, String> {
    if !(0.0..=1.0).contains(&ratio) {
        return Err(format!("{key}: {ratio} is not from 0 to 1"));
    }
    let threshold = Threshold::from_probability(ratio);
    Ok((threshold != Threshold::ALWAYS).then_some(HeadSampling { threshold, keep_errors }))
}

fn pairs(key: &str, texts: &[String]) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{key}: `{text}` is not key=value"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    texts.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        let check = |relay: Relay, part: &str| {
            let error = relay.to_core().expect_err("unusable");
            assert!(error.contains(part), "{error}");
        };
        check(Relay { attributes: vec!["novalue".into()], ..Relay::default() }, "relay.attributes: `novalue`");
        check(Relay { sampling_ratio: 2.0, ..Relay::default() }, "relay.sampling_ratio: 2");
        check(Relay { renames: vec!["a=b".into(), "a=c".into()], ..Relay::default() }, "a is renamed twice");
        assert!(shape(&Filter::default(), f64::NAN, true).is_err());
    }

    #[test]
    fn a_match_is_written_on_a_command_line_as_in_the_file() {
        let wanted: Match = "service: shop*, status: error, duration: 2s, attributes: [a=b]".parse().expect("usable");
        assert_eq!(wanted.duration, Some(Interval::secs(2)));
        assert_eq!("{service: shop*, status: error, duration: 2s, attributes: [a=b]}".parse(), Ok(wanted.clone()));
        let text = serde_json::to_string(&wanted).expect("JSON");
        assert_eq!(serde_json::from_str::<Match>(&text).expect("the same"), wanted);
        for (wrong, part) in [
            ("servce: shop", "`servce` is no key, did you mean `service`?; a condition is written as 'service: shop*,"),
            ("service:x", "`service:x` is no condition, did you mean 'service: x'?; a condition is written as"),
            ("service=x", "`service=x` is no condition, did you mean 'service: x'?"),
            ("service: x, status=error", "`status=error` is no condition, did you mean 'status: error'?"),
            ("x", "`x` is no key; a condition is written as"),
            ("status: bad", "`status`: is `bad`, expected one of unset, ok, error; a condition"),
            ("duration: 5", "`duration`: `5` is not a duration"),
            ("service: a, service: b", "`service`: is given twice"),
            ("attributes: a=b", "`attributes`: is a text, expected a list ([A, B])"),
            ("[service: x]", "with any of the keys service, name, kind, status, duration, attributes"),
            ("attributes: [a]", "attributes: `a` is not key=value"),
        ] {
            let error = wrong.parse::<Match>().expect_err("unusable");
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn without_filter_and_sampling_nothing_is_shaped() {
        assert!(shape(&Filter::default(), 1.0, true).expect("usable").is_identity());
        let slow = Match { duration: Some(Interval::secs(1)), ..Match::default() };
        let filter = Filter { include: vec![slow], ..Filter::default() };
        assert!(!shape(&filter, 1.0, true).expect("usable").is_identity());
    }
}
