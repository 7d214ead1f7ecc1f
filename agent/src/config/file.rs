//! The YAML file: text in, the values it gives out, or an error with line, path and the nearest valid name.
//!
//! Called by [`super::layers`] and `spantap config check`. Never knows other sources.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Config, ConfigError, Loaded, RunArgs, UnknownKey, expected,
    layers::{Leaves, leaves},
    nearest, schema,
};

/// Whether this file alone is a usable configuration.
pub fn check(path: &Path) -> Result<Loaded, ConfigError> {
    let args = RunArgs { config: Some(path.to_owned()), ..RunArgs::default() };
    Loaded::load(&args, [])
}

/// The values that the file gives, by path.
pub(super) fn read(path: &Path) -> Result<Leaves, ConfigError> {
    let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    parse(path, &text)
}

/// As [`read`]; `path` is only named in errors.
pub(super) fn parse(path: &Path, text: &str) -> Result<Leaves, ConfigError> {
    let invalid = |mistake: Mistake| ConfigError::Invalid {
        path: path.to_owned(),
        line: mistake.line(),
        message: mistake.words(schema().as_value()),
    };
    let given: Value = deserialize(text).map_err(invalid)?;
    if given.is_null() {
        return Ok(Leaves::new());
    }
    let typed: Result<Config, _> = deserialize(text);
    let mut keys = Vec::new();
    unknown_keys(&given, schema().as_value(), "", &mut keys);
    if !keys.is_empty() {
        let line = typed.err().and_then(|mistake| mistake.line());
        return Err(ConfigError::UnknownKeys { path: path.to_owned(), line, keys });
    }
    let typed = typed.map_err(invalid)?;
    let given = leaves(&given);
    Ok(leaves(&typed).into_iter().filter(|(path, _)| given.contains_key(path)).collect())
}

/// Reads YAML on which only the types that are read decide.
///
/// # Errors
/// What is wrong, in words; `schema` says what belongs where.
pub(super) fn from_text<T: DeserializeOwned>(text: &str, schema: &Value) -> Result<T, String> {
    deserialize(text).map_err(|mistake| mistake.words(schema))
}

/// Why text cannot be read, and where in it.
struct Mistake<'a> {
    text: &'a str,
    /// `None`: it is no YAML.
    at: Option<serde_path_to_error::Path>,
    error: Box<serde_saphyr::Error>,
}

fn deserialize<T: DeserializeOwned>(text: &str) -> Result<T, Mistake<'_>> {
    let mut at = None;
    let read = serde_saphyr::with_deserializer_from_str(text, |from| {
        serde_path_to_error::deserialize(from).map_err(|error| {
            at = Some(error.path().clone());
            error.into_inner()
        })
    });
    read.map_err(|error| Mistake { text, at, error: Box::new(error) })
}

impl Mistake<'_> {
    fn line(&self) -> Option<u64> {
        self.error.location().map(|location| location.line()).filter(|line| *line > 0)
    }

    fn words(&self, schema: &Value) -> String {
        let error = self.error.without_snippet();
        let plain = || {
            let message = error.to_string();
            // The position is told once, in front.
            message.rsplit_once(" at line ").map_or(message.clone(), |(what, _)| what.to_owned())
        };
        if matches!(error, serde_saphyr::Error::MultipleDocuments { .. }) {
            return "a second document begins here (`---`); one is a configuration".to_owned();
        }
        let Some(at) = &self.at else { return plain() };
        match (error, deserialize::<Value>(self.text)) {
            (serde_saphyr::Error::DuplicateMappingKey { key, .. }, _) => {
                let key = expected::below(&expected::path_words(at), key.as_deref().unwrap_or("?"));
                format!("`{key}`: is given twice; leave one of them")
            }
            (error, Ok(given)) => {
                let is_said_by_type = matches!(error, serde_saphyr::Error::Message { .. });
                expected::mistake(at, &plain(), !is_said_by_type, &given, schema)
            }
            (_, Err(_)) => plain(),
        }
    }
}

/// Compares the keys of `given` with the schema of that place.
fn unknown_keys(given: &Value, schema: &Value, path: &str, found: &mut Vec<UnknownKey>) {
    match given {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                unknown_keys(item, &schema["items"], &format!("{path}[{index}]"), found);
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match member(schema, key) {
                    Member::Known(schema) => unknown_keys(value, schema, &path, found),
                    Member::Unchecked => {}
                    Member::Unknown(valid) => found.push(UnknownKey {
                        nearest: nearest(key, valid.iter().map(String::as_str)).map(str::to_owned),
                        valid,
                        path,
                    }),
                }
            }
        }
        _ => {}
    }
}

enum Member<'a> {
    Known(&'a Value),
    /// No object belongs here; the types say so.
    Unchecked,
    /// With the names that are known.
    Unknown(Vec<String>),
}

fn member<'a>(schema: &'a Value, key: &str) -> Member<'a> {
    let forms = expected::forms(schema);
    if let Some(values) = forms.iter().find_map(|form| form.get("additionalProperties").filter(|v| v.is_object())) {
        return Member::Known(values);
    }
    let known = || forms.iter().filter_map(|form| form["properties"].as_object()).flatten();
    if let Some((_, schema)) = known().find(|(name, _)| *name == key) {
        return Member::Known(schema);
    }
    let names: Vec<String> = known().map(|(name, _)| name.clone()).collect();
    if names.is_empty() { Member::Unchecked } else { Member::Unknown(names) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&[(&str, &str)], &str>) {
        match (parse(Path::new("f.yaml"), text), expected) {
            (Ok(got), Ok(expected)) => {
                let got: Vec<_> = got.iter().map(|(path, value)| (path.as_str(), value.to_string())).collect();
                let expected: Vec<_> = expected.iter().map(|(path, value)| (*path, (*value).to_owned())).collect();
                assert_eq!(got, expected, "{text}");
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected, "{text}"),
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn only_given_values_come_out() {
        check("", Ok(&[]));
        check("# only a comment\n", Ok(&[]));
        check("capture:\n", Ok(&[]));
        check("log:\n  max_bytes: 1048576\n", Ok(&[("log.max_bytes", "\"1MiB\"")]));
        check(
            "capture: { select: { pid: [7], port: [80, 81] } }",
            Ok(&[("capture.select.pid", "[7]"), ("capture.select.port", "[80,81]")]),
        );
    }

    #[test]
    fn unknown_keys_name_the_nearest_at_every_depth() {
        check("data_dri: /x\n", Err("f.yaml:1: unknown key `data_dri`, did you mean `data_dir`?"));
        check(
            "data_dir: /x\nexport:\n  destinations:\n    - urll: otlp+grpc://h\n",
            Err("f.yaml:4: unknown key `export.destinations[0].urll`, did you mean `url`?"),
        );
        check("metrics: { zzz: 1 }", Err("f.yaml:1: unknown key `metrics.zzz`, valid are address, push"));
        check(
            "export: { destinations: [ { url: 'otlp+grpc://h', headers: { a: { fil: /x } } } ] }",
            Err("f.yaml:1: unknown key `export.destinations[0].headers.a.fil`, did you mean `file`?"),
        );
    }

    #[test]
    fn every_unknown_key_is_told() {
        let error = parse(Path::new("f.yaml"), "sockt: /x\nlog: { max_byte: 1 }\n").unwrap_err();
        let ConfigError::UnknownKeys { keys, .. } = error else { panic!("{error}") };
        assert_eq!(keys.iter().map(|key| key.path.as_str()).collect::<Vec<_>>(), ["sockt", "log.max_byte"]);
    }

    #[test]
    fn header_names_are_free() {
        let text = "export: { destinations: [ { url: 'otlp+grpc://h', headers: { x-any: v } } ] }";
        assert_eq!(parse(Path::new("f.yaml"), text).unwrap().len(), 1);
    }

    #[test]
    fn mistakes_name_the_key_its_line_and_what_belongs_there() {
        let wrong = |text, expected| check(text, Err(expected));
        wrong(
            "export:\n  destinations:\n    - url: file:/x\n      pace:\n        spans_per_second: many\n",
            "f.yaml:5: `export.destinations[0].pace.spans_per_second`: is `many`, expected a whole number, 0 or more",
        );
        wrong(
            "export: { destinations: [ { url: 'otlp+grpc://h', auth: { bearer: 7 } } ] }",
            "f.yaml:1: `export.destinations[0].auth.bearer`: is a number, expected a section of keys (file, command, expires_after)",
        );
        wrong(
            "log:\n  max_bytes: many\n",
            "f.yaml:2: `log.max_bytes`: `many` is not a size; write for example 512KiB or 1GiB",
        );
        wrong("export:\n  destinations:\n    - name: a\n", "f.yaml:3: `export.destinations[0].url`: is missing");
        wrong("metrics: 7", "f.yaml:1: `metrics`: is a number, expected a section of keys (address, push)");
    }

    #[test]
    fn a_key_that_is_given_twice_is_told_with_its_path() {
        let wrong = |text, expected| check(text, Err(expected));
        wrong("socket: /a\nsocket: /b\n", "f.yaml:2: `socket`: is given twice; leave one of them");
        wrong(
            "export:\n  destinations:\n    - batch: { spans: 1, spans: 2 }\n",
            "f.yaml:3: `export.destinations[0].batch.spans`: is given twice; leave one of them",
        );
        wrong("log: {}\n---\nlog: {}\n", "f.yaml:3: a second document begins here (`---`); one is a configuration");
    }

    #[test]
    fn a_secret_in_a_wrong_place_is_not_repeated() {
        for text in [
            "receive: { tenants: [ { name: a, tokens: [ hunter2 ] } ] }",
            "receive: { tenants: [ { name: a, tokens: hunter2 } ] }",
            "receive: { tenants: hunter2 }",
            "export: { destinations: [ { url: 'file:/x', auth: hunter2 } ] }",
            "export: { destinations: [ { url: 'file:/x', auth: { basic: { username: a, password: hunter2 } } } ] }",
            "export: { destinations: [ { url: 'file:/x', headers: hunter2 } ] }",
            "export: { destinations: [ { url: 'file:/x', headers: { a: [ hunter2 ] } } ] }",
        ] {
            let error = parse(Path::new("f.yaml"), text).unwrap_err().to_string();
            assert!(!error.contains("hunter2") && error.contains("expected"), "{text}: {error}");
        }
    }

    #[test]
    fn wrong_values_name_their_line() {
        for (text, line, part) in [
            ("log:\n  max_bytes: many\n", 2, "512KiB"),
            ("a: b: c\n", 1, ""),
            ("\n\nlog:\n  max_age: 5\n", 4, "duration"),
            ("capture:\n  select_all: perhaps\n", 2, "true or false"),
            ("capture:\n  unselected: all\n", 2, "timing"),
            ("metrics:\n  address: localhost\n", 2, "address"),
        ] {
            let error = parse(Path::new("f.yaml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("f.yaml:{line}: ")) && error.contains(part), "{text}: {error}");
        }
    }
}
