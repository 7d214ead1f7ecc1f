//! What is wrong with a value, in words for who wrote it: what it is, and what belongs there as the schema has it.
//!
//! In: the path at which reading failed, the reader's message, what was given, the schema. Out: words. Called by [`super::file`]
//! and [`super::layers`]. A value that may be a secret is never in them.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

/// What serde says of itself, in words for programmers. All else is said by the types that are read, for people.
const SERDE: [&str; 5] =
    ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant ", "data did not match any variant "];
const MISSING: &str = "missing field `";
/// Examples that are told.
const EXAMPLES: usize = 3;

/// A path as it is written in messages: `export.destinations[0].url`; empty for the whole.
pub(super) fn path_words(path: &Path) -> String {
    let mut words = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => words.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => words = below(&words, key),
            Segment::Unknown => {}
        }
    }
    words
}

/// The path of a key below `path`.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A mistake with its path. `is_plain`: the message is of the reader itself, whatever it says.
pub(super) fn mistake(path: &Path, message: &str, is_plain: bool, root: &Value, schema: &Value) -> String {
    let at = path_words(path);
    if let Some(key) = missing(message) {
        return format!("`{}`: is missing", below(&at, key));
    }
    let at = if at.is_empty() { "all of it".to_owned() } else { format!("`{at}`") };
    format!("{at}: {}", problem(path, message, is_plain, root, schema))
}

/// The same without the path, for what was not given by its path.
pub(super) fn problem(path: &Path, message: &str, is_plain: bool, root: &Value, schema: &Value) -> String {
    if let Some(key) = missing(message) {
        return format!("`{key}` is missing");
    }
    if !is_plain && !SERDE.iter().any(|begin| message.starts_with(begin)) {
        return message.to_owned();
    }
    let (place, given) = (place(path, schema), given(path, root));
    format!("is {}, expected {}", shown(given, place), belongs(place))
}

fn missing(message: &str) -> Option<&str> {
    message.strip_prefix(MISSING)?.split('`').next()
}

/// What was given there.
fn given<'a>(path: &Path, root: &'a Value) -> &'a Value {
    path.iter().fold(root, |value, segment| match segment {
        Segment::Seq { index } => &value[*index],
        Segment::Map { key } => &value[key.as_str()],
        _ => value,
    })
}

/// The schema of that place.
fn place<'a>(path: &Path, schema: &'a Value) -> &'a Value {
    path.iter().fold(schema, |place, segment| match segment {
        Segment::Seq { .. } => &place["items"],
        Segment::Map { key } => {
            let of = |form: &&'a Value| form["properties"].get(key).or_else(|| form.get("additionalProperties"));
            forms(place).iter().find_map(of).unwrap_or(&Value::Null)
        }
        _ => place,
    })
}

/// All that a place may be.
pub(super) fn forms(schema: &Value) -> Vec<&Value> {
    let many = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    many.map_or_else(|| vec![schema], |many| many.iter().flat_map(forms).collect())
}

/// What was given: the value if it cannot be a secret there, else what it is.
fn shown(given: &Value, place: &Value) -> String {
    match given {
        Value::Null => "empty".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a section of keys".to_owned(),
        Value::String(text) if is_open(place) => format!("`{text}`"),
        value if is_open(place) => value.to_string(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(_) => "a number".to_owned(),
        Value::String(_) => "a text".to_owned(),
    }
}

/// Whether only numbers and fixed words belong there, or lists of them, and so no secret.
fn is_open(place: &Value) -> bool {
    let is = |form: &&Value| match kind(form) {
        "array" => is_open(&form["items"]),
        "integer" | "number" | "boolean" | "null" => true,
        _ => form["const"].is_string(),
    };
    forms(place).iter().all(is)
}

/// The first type that is none of `null`.
fn kind(form: &Value) -> &str {
    let first = form["type"].as_array().and_then(|types| types.iter().find(|it| *it != "null"));
    first.unwrap_or(&form["type"]).as_str().unwrap_or_default()
}

/// What belongs there.
fn belongs(place: &Value) -> String {
    let forms = forms(place);
    let words: Vec<&str> = forms.iter().filter_map(|form| form["const"].as_str()).collect();
    if !words.is_empty() {
        return format!("one of {}", words.join(", "));
    }
    let forms = forms.into_iter().filter(|form| kind(form) != "null");
    forms.map(belongs_of).collect::<Vec<_>>().join(" or ")
}

fn belongs_of(form: &Value) -> String {
    match kind(form) {
        "boolean" => "true or false".to_owned(),
        "integer" => whole_number(form),
        "number" => "a number".to_owned(),
        "array" if form["items"]["properties"].is_object() => "a list, of which each entry begins with `-`".to_owned(),
        "array" => format!("a list ([A, B]), each entry {}", belongs(&form["items"])),
        "object" => keys(form),
        _ => text(form),
    }
}

fn whole_number(form: &Value) -> String {
    match form["format"].as_str() {
        Some("uint16") => format!("a whole number from 0 to {}", u16::MAX),
        Some("uint32") => format!("a whole number from 0 to {}", u32::MAX),
        _ => "a whole number, 0 or more".to_owned(),
    }
}

/// With examples, if the schema has some.
fn text(form: &Value) -> String {
    let examples = form["examples"].as_array().into_iter().flatten().take(EXAMPLES);
    let examples: Vec<_> = examples.map(|it| it.as_str().map_or(it.to_string(), str::to_owned)).collect();
    if examples.is_empty() { "a text".to_owned() } else { format!("a value such as {}", examples.join(" or ")) }
}

/// `{ file: ... }` where every key is needed, else a section with its keys.
fn keys(form: &Value) -> String {
    let names: Vec<&str> =
        form["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let needed = form["required"].as_array().map_or(0, Vec::len);
    if names.is_empty() {
        return "a section of names and their values".to_owned();
    }
    if needed == names.len() {
        let all: Vec<_> = names.iter().map(|name| format!("{name}: ...")).collect();
        return format!("{{ {} }}", all.join(", "));
    }
    format!("a section of keys ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, schema};

    fn check(given: Value, expected: &str) {
        let error = serde_path_to_error::deserialize::<_, Config>(&given).expect_err("does not fit");
        let words = mistake(error.path(), &error.inner().to_string(), false, &given, schema().as_value());
        assert_eq!(words, expected, "{given}");
    }

    #[test]
    fn each_kind_of_place_says_what_belongs_there() {
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        for (given, expected) in [
            (
                r#"{"capture":{"select":{"port":[70000]}}}"#,
                "`capture.select.port[0]`: is 70000, expected a whole number from 0 to 65535",
            ),
            (r#"{"capture":{"select_all":"perhaps"}}"#, "`capture.select_all`: is `perhaps`, expected true or false"),
            (r#"{"relay":{"sampling_ratio":"half"}}"#, "`relay.sampling_ratio`: is `half`, expected a number"),
            (r#"{"capture":{"unselected":"all"}}"#, "`capture.unselected`: is `all`, expected one of timing, none"),
            (r#"{"log":{"max_bytes":5.5}}"#, "`log.max_bytes`: is a number, expected a value such as 64MiB or 1024"),
            (
                r#"{"log":{"max_age":"5"}}"#,
                "`log.max_age`: `5` is not a duration (time unit needed, for example 5sec or 5ms); write for example 200ms, 5s or 24h",
            ),
            (
                r#"{"capture":{"select":{"pid":7}}}"#,
                "`capture.select.pid`: is 7, expected a list ([A, B]), each entry a whole number from 0 to 4294967295",
            ),
            (r#"{"metrics":7}"#, "`metrics`: is a number, expected a section of keys (address, push)"),
            (r#"{"export":{"destinations":[{"name":"x"}]}}"#, "`export.destinations[0].url`: is missing"),
            (
                r#"{"receive":{"tenants":[{"name":"a","tokens":["hunter2"]}]}}"#,
                "`receive.tenants[0].tokens[0]`: is a text, expected { file: ... } or { env: ... }",
            ),
            (
                r#"{"export":{"destinations":[{"url":"file:/x","headers":{"a":[1]}}]}}"#,
                "`export.destinations[0].headers.a`: is a list, expected a text or { file: ... } or { env: ... }",
            ),
        ] {
            check(json(given), expected);
        }
    }
}
