//! The effective configuration and the schema, for people and editors.
//!
//! Values of headers and queries of URLs are never shown.

use std::{collections::BTreeMap, sync::OnceLock};

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::Value;

use super::{Config, HeaderValue, Loaded, Source, Transport};

/// JSON Schema of the configuration file.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(generate::<Config>)
}

/// JSON Schema of a part of it.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    generate::<T>().to_value()
}

fn generate<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>()
}

/// The effective configuration as YAML, each value with its source in a comment.
pub fn show(loaded: &Loaded) -> String {
    let mut config = loaded.config.clone();
    let of_spans = config.export.destinations.iter_mut().flat_map(|to| to.headers.values_mut());
    for value in of_spans.chain(config.metrics.push.iter_mut().flat_map(|to| to.headers.values_mut())) {
        if let HeaderValue::Text(text) = value {
            "***".clone_into(text);
        }
    }
    let urls = config.export.destinations.iter_mut().map(|to| &mut to.url);
    for url in urls.chain(config.metrics.push.iter_mut().map(|to| &mut to.url)) {
        if let Some((path, _)) = url.path.split_once('?').filter(|_| url.transport == Transport::Http) {
            url.path = format!("{path}?***");
        }
    }
    let auths = config.export.destinations.iter_mut().filter_map(|to| to.auth.as_mut());
    for oauth2 in auths.filter_map(|auth| auth.oauth2.as_mut()) {
        if let Some((path, _)) = oauth2.token_url.split_once('?') {
            oauth2.token_url = format!("{path}?***");
        }
    }
    let mut out = String::new();
    // Only maps with keys that are not text fail.
    let tree = serde_json::to_value(&config).unwrap_or_default();
    emit(&tree, "", 0, &loaded.sources, &mut out);
    out
}

fn emit(tree: &Value, path: &str, depth: usize, sources: &BTreeMap<String, Source>, out: &mut String) {
    for (key, value) in tree.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let indent = "  ".repeat(depth);
        let source = sources.get(&path).cloned().unwrap_or_default();
        match value {
            Value::Object(_) => {
                out.push_str(&format!("{indent}{key}:\n"));
                emit(value, &path, depth + 1, sources, out);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                out.push_str(&format!("{indent}{key}: # {source}\n"));
                for item in items {
                    emit_item(item, depth + 1, out);
                }
            }
            // JSON is YAML.
            _ => out.push_str(&format!("{indent}{key}: {value} # {source}\n")),
        }
    }
}

fn emit_item(item: &Value, depth: usize, out: &mut String) {
    for (index, (key, value)) in item.as_object().into_iter().flatten().enumerate() {
        let lead = if index == 0 { "- " } else { "  " };
        out.push_str(&format!("{}{lead}{key}: {value}\n", "  ".repeat(depth)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RunArgs;

    const TEXT: &str = "socket: /s
export:
  destinations:
    - url: otlp+grpc://h:1
      headers: { a: hunter2, b: { env: TOKEN } }
    - url: otlp+http://h/v1/traces?key=hunter2
      auth: { oauth2: { token_url: 'https://i/t?key=hunter2', client_id: a, client_secret: { env: S } } }
metrics: { push: [ { url: 'otlp+http://m/?key=hunter2', headers: { c: hunter2 } } ] }
";

    fn loaded() -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.yaml");
        std::fs::write(&path, TEXT).unwrap();
        Loaded::load(&RunArgs { config: Some(path), data_dir: Some("/d".into()), ..RunArgs::default() }, []).unwrap()
    }

    #[test]
    fn sources_are_shown_and_secrets_are_not() {
        let shown = show(&loaded());
        assert!(shown.contains("data_dir: \"/d\" # flag --data-dir\n"), "{shown}");
        assert!(shown.contains("max_bytes: \"1GiB\" # default\n"), "{shown}");
        assert!(shown.contains("socket: \"/s\" # file "), "{shown}");
        assert!(!shown.contains("hunter2") && shown.contains("TOKEN"), "{shown}");
    }

    #[test]
    fn what_is_shown_is_the_configuration() {
        let mut loaded = loaded();
        let shown: Config = serde_saphyr::from_str(&show(&loaded)).unwrap();
        let masked = HeaderValue::Text("***".into());
        loaded.config.export.destinations[0].headers.insert("a".into(), masked.clone());
        loaded.config.metrics.push[0].headers.insert("c".into(), masked);
        loaded.config.export.destinations[1].url.path = "/v1/traces?***".into();
        loaded.config.export.destinations[1].auth.as_mut().unwrap().oauth2.as_mut().unwrap().token_url =
            "https://i/t?***".into();
        loaded.config.metrics.push[0].url.path = "/?***".into();
        assert_eq!(shown, loaded.config);
    }

    #[test]
    fn the_schema_describes_every_key_and_knows_no_others() {
        let schema = schema().as_value();
        assert_eq!(schema["additionalProperties"], false);
        let described = |place: &Value| place["description"].as_str().is_some_and(|text| !text.is_empty());
        for (key, section) in schema["properties"].as_object().unwrap() {
            assert!(described(section), "{key}");
            for (inner, place) in section["properties"].as_object().into_iter().flatten() {
                assert!(described(place), "{key}.{inner}");
            }
        }
    }
}
