//! The samples in `deploy/` are usable, complete and true.

use std::path::PathBuf;

use serde_json::Value;

use super::{Config, Loaded, check, file, layers::leaves, schema};

fn deploy(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// The sample with every setting that is off turned on: `##` is text, `#` a setting.
fn everything_on() -> String {
    let text = std::fs::read_to_string(deploy("spantap.yaml")).unwrap();
    let on = |line: &str| match line.strip_prefix('#') {
        Some(text) if text.starts_with('#') => String::new(),
        Some(setting) => format!("{setting}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(on).collect()
}

#[test]
fn every_sample_is_usable() {
    for path in ["spantap.yaml", "kubernetes/base/spantap.yaml"] {
        let loaded = check(&deploy(path)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{path}");
    }
}

#[test]
fn the_sample_shows_the_defaults() {
    let Loaded { config, .. } = check(&deploy("spantap.yaml")).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn the_sample_shows_every_setting_and_each_can_be_turned_on() {
    let text = everything_on();
    let path = deploy("spantap.yaml");
    let given = file::parse(&path, &text).unwrap_or_else(|error| panic!("{error}"));
    for setting in leaves(&Config::default()).keys() {
        assert!(given.contains_key(setting), "{setting} is not in the sample");
    }
    let raw: Value = serde_saphyr::from_str(&text).unwrap();
    let destinations = raw["export"]["destinations"].as_array().unwrap();
    let all = destinations.iter().cloned().fold(Value::Null, merged);
    let place = &schema().as_value()["properties"]["export"]["properties"]["destinations"]["items"];
    assert_shown(place, &all, "destination");
    let place = &schema().as_value()["properties"]["metrics"]["properties"]["push"]["items"];
    // What is below these is shown there.
    for (key, _) in place["properties"].as_object().unwrap() {
        assert!(raw["metrics"]["push"][0].get(key).is_some(), "push.{key} is not in the sample");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("everything-on.yaml");
    std::fs::write(&path, &text).unwrap();
    check(&path).unwrap_or_else(|error| panic!("{error}"));
}

/// What either shows.
fn merged(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(mut one), Value::Object(other)) => {
            for (key, value) in other {
                let known = one.remove(&key).unwrap_or_default();
                one.insert(key, merged(known, value));
            }
            Value::Object(one)
        }
        (_, other) => other,
    }
}

fn assert_shown(place: &Value, given: &Value, path: &str) {
    for (key, place) in place["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        let given = given.get(key).unwrap_or_else(|| panic!("{path} is not in the sample"));
        assert_shown(place, given, &path);
    }
}

#[test]
fn the_pod_listens_where_its_probes_ask() {
    let Loaded { config, .. } = check(&deploy("kubernetes/base/spantap.yaml")).unwrap();
    let daemon_set = std::fs::read_to_string(deploy("kubernetes/base/daemonset.yaml")).unwrap();
    let address = config.metrics.address.unwrap();
    assert!(address.ip().is_unspecified());
    assert!(daemon_set.contains(&format!("containerPort: {}\n", address.port())));
}
