//! What is done with an attribute, by its key.
//!
//! In: the configuration. Out: a [`KeyRule`] per key, worked out once per key and request: spans of one request have few different
//! keys, and a look into [`KeyCache`] costs less than any of the rules. Called by [`super::attributes`].

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{
    Action, Glob, Redaction, RelayError, Renames,
    semconv::{SEMANTIC_CONVENTIONS, SEMANTIC_CONVENTIONS_OF_SERVERS},
    sensitive::is_sensitive,
};

/// Keys whose values are URLs, or their path and query.
pub const URL_KEYS: &[&str] = &["http.target", "http.url", "url.full", "url.original", "url.path_and_query"];
/// Keys whose values are query strings.
pub const QUERY_KEYS: &[&str] = &["url.query"];
/// Keys whose values may be SQL.
pub const STATEMENT_KEYS: &[&str] = &["db.query.text", "db.statement"];
/// Keys whose values say whose SQL.
pub(super) const SYSTEM_KEYS: &[&str] = &["db.system.name", "db.system"];

/// New keys that there may be.
pub const RENAMES_MAX: usize = 256;
/// Keys and globs of one list.
pub const KEYS_MAX: usize = 4096;

/// What becomes of an attribute, from the mildest to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Its value is not looked at.
    Allow,
    /// It is.
    #[default]
    Look,
    Hash,
    Drop,
}

/// How its value is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Plain,
    Url,
    Query,
    Statement,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyRule {
    pub fate: Fate,
    pub form: Form,
    /// Index of its new keys.
    pub rename: Option<u16>,
    /// Index of the new key that it already is.
    pub target: Option<u16>,
    /// It is one of [`SYSTEM_KEYS`].
    pub is_system: bool,
}

/// New keys of one key: on spans of servers and consumers, and on everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Targets {
    server: u16,
    other: u16,
}

type Map<V> = HashMap<Box<[u8]>, V, RandomState>;

/// All rules.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub redact: Redaction,
    deny: Vec<(Glob, Action)>,
    allow: Vec<Glob>,
    renames: Vec<Targets>,
    rename_of: Map<u16>,
    targets: Vec<String>,
    target_of: Map<u16>,
}

impl Rules {
    pub fn new(redact: Redaction, renames: &Renames) -> Result<Self, RelayError> {
        check_keys("redact.deny", redact.deny.iter().map(|(key, _)| key))?;
        check_keys("redact.allow", redact.allow.iter())?;
        let deny = redact.deny.iter().map(|(key, action)| (Glob::new(key), *action)).collect();
        let allow = redact.allow.iter().map(|key| Glob::new(key)).collect();
        let mut rules = Self {
            redact,
            deny,
            allow,
            renames: vec![],
            rename_of: Map::default(),
            targets: vec![],
            target_of: Map::default(),
        };
        rules.add_renames(renames)?;
        Ok(rules)
    }

    fn add_renames(&mut self, renames: &Renames) -> Result<(), RelayError> {
        check_keys("renames", renames.keys.iter().flat_map(|(from, to)| [from, to]))?;
        let mut other: HashMap<&str, &str> = HashMap::new();
        for (from, to) in &renames.keys {
            if from == to || other.insert(from, to).is_some() {
                return Err(RelayError::Rename(from.clone()));
            }
        }
        let mut server = other.clone();
        if renames.semantic_conventions {
            for (from, to) in SEMANTIC_CONVENTIONS_OF_SERVERS.iter().chain(SEMANTIC_CONVENTIONS) {
                server.entry(from).or_insert(to);
            }
            for (from, to) in SEMANTIC_CONVENTIONS {
                other.entry(from).or_insert(to);
            }
        }
        let mut keys: Vec<&str> = other.keys().copied().collect();
        keys.sort_unstable();
        for from in keys {
            let targets =
                Targets { server: self.target(last(&server, from)?)?, other: self.target(last(&other, from)?)? };
            self.rename_of.insert(from.as_bytes().into(), self.renames.len() as u16);
            self.renames.push(targets);
        }
        Ok(())
    }

    fn target(&mut self, key: &str) -> Result<u16, RelayError> {
        if let Some(index) = self.target_of.get(key.as_bytes()) {
            return Ok(*index);
        }
        if self.targets.len() == RENAMES_MAX {
            return Err(RelayError::TooMany { what: "renames", max: RENAMES_MAX });
        }
        let index = self.targets.len() as u16;
        self.target_of.insert(key.as_bytes().into(), index);
        self.targets.push(key.to_owned());
        Ok(index)
    }

    /// Whether any value may be replaced.
    pub fn look_at_values(&self) -> bool {
        let redact = &self.redact;
        redact.sensitive_keys || redact.patterns || redact.queries || redact.statements || !self.deny.is_empty()
    }

    /// Whether anything can be done with an attribute.
    pub fn is_idle(&self) -> bool {
        !self.look_at_values() && self.renames.is_empty()
    }

    /// A new key's index, and the key.
    pub fn new_key(&self, rename: u16, server: bool) -> (u16, &str) {
        let targets = self.renames[usize::from(rename)];
        let index = if server { targets.server } else { targets.other };
        (index, &self.targets[usize::from(index)])
    }

    /// The rule of a key.
    pub fn of(&self, key: &[u8]) -> KeyRule {
        let rename = self.rename_of.get(key).copied();
        let new_key = rename.map(|rename| self.new_key(rename, false).1.as_bytes());
        let mut fate = self.fate(key);
        if let Some(rename) = rename.filter(|_| fate == Fate::Look) {
            // Which of the two it becomes depends on the span.
            let [of_server, other] = [true, false].map(|server| self.fate(self.new_key(rename, server).1.as_bytes()));
            fate = of_server.max(other);
        }
        let mut form = self.form(key);
        if let Some(new) = new_key.filter(|_| form == Form::Plain) {
            form = self.form(new);
        }
        let is_system = SYSTEM_KEYS.iter().any(|known| known.as_bytes() == key);
        KeyRule { fate, form, rename, target: self.target_of.get(key).copied(), is_system }
    }

    fn fate(&self, key: &[u8]) -> Fate {
        let of = |action| if action == Action::Hash { Fate::Hash } else { Fate::Drop };
        if let Some((_, action)) = self.deny.iter().find(|(glob, _)| glob.matches(key)) {
            return of(*action);
        }
        if self.allow.iter().any(|glob| glob.matches(key)) {
            return Fate::Allow;
        }
        if self.redact.sensitive_keys && is_sensitive(key) {
            return of(self.redact.action);
        }
        Fate::Look
    }

    fn form(&self, key: &[u8]) -> Form {
        let is_one_of = |keys: &[&str]| keys.iter().any(|known| known.as_bytes() == key);
        match () {
            () if self.redact.queries && is_one_of(URL_KEYS) => Form::Url,
            () if self.redact.queries && is_one_of(QUERY_KEYS) => Form::Query,
            () if self.redact.statements && is_one_of(STATEMENT_KEYS) => Form::Statement,
            () => Form::Plain,
        }
    }
}

fn check_keys<'a>(what: &'static str, mut keys: impl Iterator<Item = &'a String>) -> Result<(), RelayError> {
    let mut count = 0;
    keys.try_for_each(|key| {
        count += 1;
        match key.as_str() {
            "" => Err(RelayError::EmptyKey(what)),
            _ if count > KEYS_MAX => Err(RelayError::TooMany { what, max: KEYS_MAX }),
            _ => Ok(()),
        }
    })
}

/// Where renaming a key ends, if the new one has a new one itself.
fn last<'a>(renames: &HashMap<&'a str, &'a str>, from: &'a str) -> Result<&'a str, RelayError> {
    let mut key = from;
    for _ in 0..=renames.len() {
        match renames.get(key) {
            Some(next) => key = next,
            None => return Ok(key),
        }
    }
    Err(RelayError::Rename(from.to_owned()))
}

/// Keys that came last, by a hash of their length and ends.
pub(super) struct KeyCache<'a> {
    known: Box<[Known<'a>]>,
}

/// What is known of a key.
#[derive(Clone, Copy)]
struct Known<'a> {
    hash: u64,
    key: &'a [u8],
    rule: KeyRule,
    clean: &'a [u8],
}

/// Places that have the same hash; a power of two, as the next. Keys that share one would drive each other out.
const WAYS: usize = 4;
const SETS: usize = 32;

impl<'a> KeyCache<'a> {
    pub fn new(rules: &Rules) -> Self {
        // The empty key is right for every place.
        let known = Known { hash: hash(b""), key: b"", rule: rules.of(b""), clean: b"" };
        Self { known: vec![known; WAYS * SETS].into() }
    }

    #[inline]
    pub fn rule(&mut self, rules: &Rules, key: &'a [u8]) -> KeyRule {
        self.place(rules, key).1
    }

    /// Also where the key stands until the next one is looked up.
    #[inline]
    pub fn place(&mut self, rules: &Rules, key: &'a [u8]) -> (usize, KeyRule) {
        let hash = hash(key);
        let first = (hash >> (64 - SETS.trailing_zeros())) as usize * WAYS;
        for place in first..first + WAYS {
            let known = &self.known[place];
            if known.hash == hash && known.key == key {
                return (place, known.rule);
            }
        }
        let rule = rules.of(key);
        self.known[first..first + WAYS].rotate_right(1);
        self.known[first] = Known { hash, key, rule, clean: b"" };
        (first, rule)
    }

    /// The last of the key's values in which there was nothing to hide: most come again and again. Nothing is to hide in nothing.
    #[inline]
    pub fn clean(&mut self, place: usize) -> &mut &'a [u8] {
        &mut self.known[place].clean
    }
}

#[inline]
fn hash(key: &[u8]) -> u64 {
    let (first, last) = match (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (key.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0),
    };
    (first ^ last.rotate_left(29) ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(redact: Redaction, renames: &[(&str, &str)], semantic_conventions: bool) -> Result<Rules, RelayError> {
        let keys = renames.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        Rules::new(redact, &Renames { semantic_conventions, keys })
    }

    #[test]
    fn deny_counts_before_allow_and_allow_before_known_names() {
        let redact = Redaction {
            deny: vec![("user.*".into(), Action::Hash), ("secret.*".into(), Action::Drop)],
            allow: vec!["user.id".into(), "page_token".into()],
            ..Redaction::default()
        };
        let rules = rules(redact, &[], false).unwrap();
        let fate = |key: &str| rules.of(key.as_bytes()).fate;
        assert_eq!(fate("user.id"), Fate::Hash);
        assert_eq!(fate("secret.x"), Fate::Drop);
        assert_eq!(fate("page_token"), Fate::Allow);
        assert_eq!(fate("x_token"), Fate::Drop);
        assert_eq!(fate("http.route"), Fate::Look);
    }

    #[test]
    fn a_new_key_is_as_sensitive_as_the_old_one() {
        let rules = rules(Redaction::default(), &[("pw", "user.password"), ("token", "t")], false).unwrap();
        assert_eq!(rules.of(b"pw").fate, Fate::Drop);
        assert_eq!(rules.of(b"token").fate, Fate::Drop);
    }

    #[test]
    fn a_key_that_becomes_one_of_two_is_as_sensitive_as_both() {
        for denied in ["client.address", "server.address"] {
            let deny = vec![(denied.to_owned(), Action::Drop)];
            let rules = rules(Redaction { deny, ..Redaction::default() }, &[], true).unwrap();
            assert_eq!(rules.of(b"net.peer.name").fate, Fate::Drop, "{denied}");
        }
    }

    #[test]
    fn renames_are_followed_to_their_end() {
        let rules = rules(Redaction::off(), &[("method", "http.method"), ("a", "b")], true).unwrap();
        let new = |key: &str, server| {
            let rename = rules.of(key.as_bytes()).rename?;
            Some(rules.new_key(rename, server).1)
        };
        assert_eq!(new("method", false), Some("http.request.method"));
        assert_eq!(new("net.peer.name", false), Some("server.address"));
        assert_eq!(new("net.peer.name", true), Some("client.address"));
        assert_eq!(new("b", false), None);
        assert!(rules.of(b"b").target.is_some());
    }

    #[test]
    fn impossible_renames_are_refused() {
        let error = |renames: &[(&str, &str)]| rules(Redaction::off(), renames, false).unwrap_err();
        assert_eq!(error(&[("a", "a")]), RelayError::Rename("a".into()));
        assert_eq!(error(&[("a", "b"), ("a", "c")]), RelayError::Rename("a".into()));
        assert_eq!(error(&[("a", "b"), ("b", "a")]), RelayError::Rename("a".into()));
        assert_eq!(error(&[("", "b")]), RelayError::EmptyKey("renames"));
    }

    #[test]
    fn keys_that_share_a_place_keep_their_own_rules() {
        let rules = rules(Redaction::default(), &[], false).unwrap();
        let keys: Vec<String> = (0..2_000).map(|number| format!("k{number}.{}", ["token", "x"][number % 2])).collect();
        let mut cache = KeyCache::new(&rules);
        for key in keys.iter().chain(&keys) {
            assert_eq!(cache.rule(&rules, key.as_bytes()), rules.of(key.as_bytes()));
        }
    }
}
