//! What the relay can be told. Plain values; `agent` fills them from its configuration.

use super::{Filter, Threshold};

/// Everything that [`Relay`](super::Relay) can be told. The default: redaction and the check of clocks, nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayConfig {
    /// What may not be stored or sent.
    pub redact: Redaction,
    /// Resource attributes that are added where the key is absent.
    pub resource_attributes: Vec<(String, String)>,
    /// New keys of attributes.
    pub renames: Renames,
    /// Which spans are sent away; nothing: all.
    pub sampling: Option<HeadSampling>,
    /// When a span's times count as skewed; nothing: they are not checked.
    pub clock: Option<ClockWindow>,
}

impl RelayConfig {
    /// Nothing is changed; spans without valid ids are still rejected.
    pub fn untouched() -> Self {
        Self { redact: Redaction::off(), clock: None, ..Self::default() }
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            redact: Redaction::default(),
            resource_attributes: vec![],
            renames: Renames::default(),
            sampling: None,
            clock: Some(ClockWindow::default()),
        }
    }
}

/// What happens to a value that may not be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// The attribute is left out.
    #[default]
    Drop,
    /// Its value becomes 32 hexadecimal digits: SipHash-1-3 with 128 bits of the value under [`Redaction::hash_key`]. The same value
    /// gives the same digits under the same key, so that spans can still be counted and joined by it. Without the key a value cannot
    /// be found again, nor can a guess be tested; whoever has the key can test guesses, so that values of which there are few
    /// (card numbers, dates of birth) are hidden only from those without it. Collisions are unlikely, but it is no signature.
    Hash,
}

/// What may not be stored or sent. Keys are exact, or globs with `*` (any bytes) and `?` (one byte).
#[derive(Clone, Debug, PartialEq)]
pub struct Redaction {
    /// Act on the keys of [`SENSITIVE_KEYS`](super::SENSITIVE_KEYS).
    pub sensitive_keys: bool,
    /// What is done with those.
    pub action: Action,
    /// Further keys, and what is done with them. They count before `allow`.
    pub deny: Vec<(String, Action)>,
    /// Keys whose values are left as they are, whatever they look like.
    pub allow: Vec<String>,
    /// In every text, names and messages too, these become placeholders: numbers of payment cards `{card}`, tokens and keys of known
    /// forms `{token}`, PEM private keys `{private_key}`, addresses of people `{email}`, user and password of a URL `{credentials}`.
    pub patterns: bool,
    /// Of query strings in [`URL_KEYS`](super::URL_KEYS), only the names are kept.
    pub queries: bool,
    /// SQL in [`STATEMENT_KEYS`](super::STATEMENT_KEYS) is kept without its literals.
    pub statements: bool,
    /// Key of [`Action::Hash`]; secret, and the same on all hosts whose spans are to be joined.
    pub hash_key: [u8; 16],
}

impl Default for Redaction {
    fn default() -> Self {
        Self {
            sensitive_keys: true,
            action: Action::Drop,
            deny: vec![],
            allow: vec![],
            patterns: true,
            queries: true,
            statements: true,
            hash_key: [0; 16],
        }
    }
}

impl Redaction {
    /// Nothing is redacted.
    pub fn off() -> Self {
        Self { sensitive_keys: false, patterns: false, queries: false, statements: false, ..Self::default() }
    }
}

/// New keys of attributes. Where the new key is there too, the old attribute is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renames {
    /// From the stable semantic conventions' predecessors: [`SEMANTIC_CONVENTIONS`](super::SEMANTIC_CONVENTIONS).
    pub semantic_conventions: bool,
    /// From an exact key to another. They count before the built-in ones.
    pub keys: Vec<(String, String)>,
}

/// Consistent probability sampling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadSampling {
    /// Which traces are kept.
    pub threshold: Threshold,
    /// Spans with status error are kept whatever their trace; their `th` stays as it came, since this step keeps them for sure.
    pub keep_errors: bool,
}

/// Which times are believable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockWindow {
    /// A start may be this old.
    pub past_ns: u64,
    /// An end may be this far ahead.
    pub future_ns: u64,
}

impl Default for ClockWindow {
    /// A day, for senders that were cut off; five minutes.
    fn default() -> Self {
        Self { past_ns: 24 * 3600 * 1_000_000_000, future_ns: 300 * 1_000_000_000 }
    }
}

/// What a destination gets of the log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShapeConfig {
    /// Which spans.
    pub filter: Filter,
    /// How many of those.
    pub sampling: Option<HeadSampling>,
    /// New keys of attributes.
    pub renames: Renames,
    /// Attributes that are left out: keys, exact or globs.
    pub drop_attributes: Vec<String>,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Nothing has an empty key.
    #[error("{0}: a key is empty")]
    EmptyKey(&'static str),
    /// Renamed twice, or to itself.
    #[error("renames: {0} is renamed twice, or to itself")]
    Rename(String),
    /// More keys than there is room for.
    #[error("{what}: at most {max} keys")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// Limit.
        max: usize,
    },
}
