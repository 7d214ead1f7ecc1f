//! The YAML file: text in, the values it gives out, or an error with line, path and the nearest valid name.
//!
//! Called by [`super::layers`] and `spantap config check`. Never knows other sources.

use std::{fs, path::Path};

use serde_json::Value;

use super::{
    Config, ConfigError, Loaded, RunArgs, UnknownKey,
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
    let given: Value = serde_saphyr::from_str(text).map_err(|error| invalid(path, &error))?;
    if given.is_null() {
        return Ok(Leaves::new());
    }
    let typed: Result<Config, _> = serde_saphyr::from_str(text);
    let mut keys = Vec::new();
    unknown_keys(&given, schema().as_value(), "", &mut keys);
    if !keys.is_empty() {
        let line = typed.err().and_then(|error| line_of(&error));
        return Err(ConfigError::UnknownKeys { path: path.to_owned(), line, keys });
    }
    let typed = typed.map_err(|error| invalid(path, &error))?;
    let given = leaves(&given);
    Ok(leaves(&typed).into_iter().filter(|(path, _)| given.contains_key(path)).collect())
}

fn invalid(path: &Path, error: &serde_saphyr::Error) -> ConfigError {
    let line = line_of(error);
    let message = error.without_snippet().to_string();
    // The position is told once, in front.
    let message = message.rsplit_once(" at line ").map_or(message.clone(), |(what, _)| what.to_owned());
    ConfigError::Invalid { path: path.to_owned(), line, message }
}

fn line_of(error: &serde_saphyr::Error) -> Option<u64> {
    error.location().map(|location| location.line()).filter(|line| *line > 0)
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
    let forms = schema["anyOf"].as_array().map_or(std::slice::from_ref(schema), Vec::as_slice);
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
    fn wrong_values_name_their_line() {
        for (text, line, part) in [
            ("log:\n  max_bytes: many\n", 2, "512KiB"),
            ("a: b: c\n", 1, ""),
            ("\n\nlog:\n  max_age: 5\n", 4, "duration"),
            ("capture:\n  select_all: perhaps\n", 2, "bool"),
            ("capture:\n  unselected: all\n", 2, "timing"),
            ("metrics:\n  address: localhost\n", 2, "address"),
        ] {
            let error = parse(Path::new("f.yaml"), text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("f.yaml:{line}: ")) && error.contains(part), "{text}: {error}");
        }
    }
}
