//! Puts defaults, file, environment and flags on top of each other, and remembers where each value came from.
//!
//! A configuration is handled as its leaves: path, such as `log.max_bytes`, to value. Lists are leaves: a stronger
//! source replaces a whole list. Environment variables are named after the path: `SPANTAP_LOG_MAX_BYTES`; lists are
//! separated by commas; `SPANTAP_EXPORT` has the URLs of the destinations. An empty variable counts as not set.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Config, ConfigError, RunArgs, expected, file, flags, nearest, schema, validate};

/// Variables that are read, but set no value: by this module, and for developers by others.
const OTHER_VARIABLES: [&str; 5] =
    ["SPANTAP_CONFIG", "SPANTAP_LOG_FILTER", "SPANTAP_KERNEL_LOG", "SPANTAP_BPF_OBJECT", "SPANTAP_BIN"];

/// Values by path.
pub(super) type Leaves = BTreeMap<String, Value>;

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    #[default]
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(&'static str),
}

/// A configuration with its sources.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Source of each path that is not a default.
    pub sources: BTreeMap<String, Source>,
    /// What looks like a mistake, but is none for sure.
    pub warnings: Vec<String>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl Loaded {
    /// Loads and checks. `environment` is what `std::env::vars()` gives.
    pub fn load(args: &RunArgs, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let environment = spantap_variables(environment);
        let mut layers = Layers { leaves: leaves(&Config::default()), sources: BTreeMap::new() };
        let from_environment = environment.get("SPANTAP_CONFIG").map(PathBuf::from);
        let file = args.config.clone().or(from_environment);
        if let Some(path) = &file {
            layers.put_all(file::read(path)?, &Source::File(path.clone()));
        }
        let mut warnings = layers.put_environment(&environment)?;
        layers.put_flags(args)?;
        let mut config = layers.assemble().map_err(|message| ConfigError::Unusable { problems: vec![message] })?;
        config.capture.attach = args.attach;
        config.capture.without_hooks.clone_from(&args.without_hook);
        for destination in &mut config.export.destinations {
            if destination.name.is_empty() {
                destination.name = destination.url.without_query();
            }
        }
        validate::validate(&config, &layers.sources)?;
        if !config.capture.enabled {
            warnings.extend(layers.selected_in_vain()?);
        }
        Ok(Self { config, file, sources: layers.sources, warnings })
    }
}

struct Layers {
    leaves: Leaves,
    sources: BTreeMap<String, Source>,
}

impl Layers {
    fn put_all(&mut self, values: Leaves, source: &Source) {
        for (path, value) in values {
            self.sources.insert(path.clone(), source.clone());
            self.leaves.insert(path, value);
        }
    }

    fn put(&mut self, path: &str, value: Value, source: Source) -> Result<(), String> {
        self.leaves.insert(path.to_owned(), value);
        self.sources.insert(path.to_owned(), source);
        self.assemble().map(drop)
    }

    fn assemble(&self) -> Result<Config, String> {
        let tree = tree(&self.leaves);
        serde_path_to_error::deserialize(&tree).map_err(|error| {
            expected::problem(error.path(), &error.inner().to_string(), false, &tree, schema().as_value())
        })
    }

    /// What selects although nothing is captured: an error for a flag, which somebody has just given, a warning for what else may
    /// be shared with agents that capture.
    fn selected_in_vain(&self) -> Result<Vec<String>, ConfigError> {
        let off = self.sources.get("capture.enabled").cloned().unwrap_or_default();
        let default = leaves(&Config::default());
        let mut warnings = Vec::new();
        for (path, source) in &self.sources {
            let selects = ["capture.select", "capture.exclude."].iter().any(|begin| path.starts_with(begin));
            if !selects || self.leaves.get(path) == default.get(path) {
                continue;
            }
            match source {
                Source::Flag(flag) => {
                    let message = format!("selects what is captured, and nothing is ({off}); leave out one of them");
                    return Err(ConfigError::Flag { flag: (*flag).to_owned(), message });
                }
                _ => warnings.push(format!("{path} ({source}) has no effect: nothing is captured ({off})")),
            }
        }
        Ok(warnings)
    }

    /// Returns warnings.
    fn put_environment(&mut self, environment: &BTreeMap<String, String>) -> Result<Vec<String>, ConfigError> {
        let paths: BTreeMap<String, String> = self.leaves.keys().map(|path| (variable(path), path.clone())).collect();
        let mut warnings = Vec::new();
        for (name, text) in environment {
            let Some(path) = paths.get(name) else {
                warnings.extend(mistaken(name, text, &paths));
                continue;
            };
            let message = |message| ConfigError::Environment { name: name.clone(), message };
            let value = value_of(path, text).map_err(message)?;
            self.put(path, value, Source::Environment(name.clone())).map_err(message)?;
        }
        Ok(warnings)
    }

    fn put_flags(&mut self, args: &RunArgs) -> Result<(), ConfigError> {
        for (path, flag, value) in given(args) {
            self.put(path, value, Source::Flag(flag))
                .map_err(|message| ConfigError::Flag { flag: flag.to_owned(), message })?;
        }
        Ok(())
    }
}

/// The flags that were given, by the path that they set.
fn given(args: &flags::RunArgs) -> Vec<(&'static str, &'static str, Value)> {
    let urls: Vec<Value> = args.export.iter().map(|url| json!({ "url": url })).collect();
    let all = [
        ("data_dir", "--data-dir", json!(args.data_dir)),
        ("socket", "--socket", json!(args.socket)),
        ("capture.enabled", "--no-capture", json!(args.no_capture.then_some(false))),
        ("capture.select_all", "--select-all", json!(args.select_all.then_some(true))),
        ("capture.syscall_hooks", "--syscall-hooks", json!(args.syscall_hooks)),
        ("capture.payload_bytes_max", "--payload-bytes", json!(args.payload_bytes)),
        ("capture.select.cgroup", "--select-cgroup", json!(args.select_cgroup)),
        ("capture.select.pid", "--select-pid", json!(args.select_pid)),
        ("capture.select.exe", "--select-exe", json!(args.select_exe)),
        ("capture.select.port", "--select-port", json!(args.select_port)),
        ("capture.select.netns", "--select-netns", json!(args.select_netns)),
        ("capture.select.container", "--select-container", json!(args.select_container)),
        ("capture.select.pod", "--select-pod", json!(args.select_pod)),
        ("capture.exclude.cgroup", "--exclude-cgroup", json!(args.exclude_cgroup)),
        ("capture.exclude.pid", "--exclude-pid", json!(args.exclude_pid)),
        ("capture.exclude.exe", "--exclude-exe", json!(args.exclude_exe)),
        ("capture.exclude.port", "--exclude-port", json!(args.exclude_port)),
        ("capture.exclude.netns", "--exclude-netns", json!(args.exclude_netns)),
        ("capture.exclude.container", "--exclude-container", json!(args.exclude_container)),
        ("capture.exclude.pod", "--exclude-pod", json!(args.exclude_pod)),
        ("redaction.paths", "--keep-paths", json!(args.keep_paths.then_some("keep"))),
        ("receive.otlp_grpc", "--receive-otlp-grpc", json!(args.receive_otlp_grpc)),
        ("receive.otlp_http", "--receive-otlp-http", json!(args.receive_otlp_http)),
        ("receive.otlp_unix", "--receive-otlp-unix", json!(args.receive_otlp_unix)),
        ("export.destinations", "--export", json!(urls)),
        ("metrics.address", "--metrics", json!(args.metrics)),
    ];
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    all.into_iter().filter(|(_, _, value)| !empty(value)).collect()
}

fn spantap_variables(all: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    all.into_iter().filter(|(name, text)| name.starts_with("SPANTAP_") && !text.is_empty()).collect()
}

/// Name of the variable that sets `path`.
fn variable(path: &str) -> String {
    match path {
        "export.destinations" => "SPANTAP_EXPORT".to_owned(),
        _ => format!("SPANTAP_{}", path.to_uppercase().replace('.', "_")),
    }
}

/// Not an error: what is set for all programs of a host may be for another version.
fn mistaken(name: &str, text: &str, paths: &BTreeMap<String, String>) -> Option<String> {
    if OTHER_VARIABLES.contains(&name) || is_of_kubernetes(name, text) {
        return None;
    }
    let known = paths.keys().map(|name| name.trim_start_matches("SPANTAP_"));
    let near = nearest(name.trim_start_matches("SPANTAP_"), known);
    let hint = near.map_or_else(
        || "`spantap config schema` lists what can be set: log.max_bytes is SPANTAP_LOG_MAX_BYTES".to_owned(),
        |near| format!("did you mean SPANTAP_{near}?"),
    );
    Some(format!("environment variable {name} is not used, {hint}"))
}

/// What Kubernetes sets in pods for a service whose name begins with `spantap`.
fn is_of_kubernetes(name: &str, text: &str) -> bool {
    let port_of = |mark| {
        name.split_once(mark).map(|(_, port)| port).filter(|port| port.starts_with(|c: char| c.is_ascii_digit()))
    };
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || port_of("_PORT_").is_some()
        || (name.ends_with("_PORT") && (text.starts_with("tcp://") || text.starts_with("udp://")))
}

/// A variable's text as the type that the schema wants.
fn value_of(path: &str, text: &str) -> Result<Value, String> {
    let schema = schema();
    let place = path.split('.').fold(schema.as_value(), |place, key| &place["properties"][key]);
    if path == "export.destinations" {
        return Ok(urls(text).into_iter().map(|url| json!({ "url": url })).collect());
    }
    if place["type"] == "array" {
        return text.split(',').map(|item| scalar(item.trim(), &place["items"]["type"])).collect();
    }
    scalar(text, &place["type"])
}

/// URLs between commas; what has no scheme is a further host of the one before.
fn urls(text: &str) -> Vec<String> {
    let mut urls: Vec<String> = Vec::new();
    for piece in text.split(',').map(str::trim) {
        let is_whole = piece.contains("://") || piece.starts_with("file:");
        match urls.last_mut() {
            Some(url) if !is_whole => *url = format!("{url},{piece}"),
            _ => urls.push(piece.to_owned()),
        }
    }
    urls
}

fn scalar(text: &str, kind: &Value) -> Result<Value, String> {
    match kind.as_str() {
        Some("integer") => text.parse().map(|n: u64| json!(n)).map_err(|_| format!("`{text}` is not a number")),
        Some("number") => text.parse().map(|n: f64| json!(n)).map_err(|_| format!("`{text}` is not a number")),
        Some("boolean") => text.parse().map(|b: bool| json!(b)).map_err(|_| format!("`{text}` is not true or false")),
        _ => Ok(json!(text)),
    }
}

/// Everything that is not an object, by path.
pub(super) fn leaves(of: &impl Serialize) -> Leaves {
    let mut found = Leaves::new();
    // Only maps with keys that are not text fail.
    collect(serde_json::to_value(of).unwrap_or_default(), String::new(), &mut found);
    found
}

fn collect(value: Value, path: String, found: &mut Leaves) {
    let Value::Object(members) = value else {
        found.insert(path, value);
        return;
    };
    for (key, value) in members {
        let path = if path.is_empty() { key } else { format!("{path}.{key}") };
        collect(value, path, found);
    }
}

/// The inverse of [`leaves`].
fn tree(leaves: &Leaves) -> Value {
    let mut root = Value::Object(Map::new());
    for (path, value) in leaves {
        let place = path.split('.').fold(&mut root, |place, key| &mut place[key]);
        *place = value.clone();
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Interval, Paths, Size};

    fn variables(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, RunArgs) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spantap.yaml");
        std::fs::write(&path, text).unwrap();
        (folder, RunArgs { config: Some(path), ..RunArgs::default() })
    }

    #[test]
    fn leaves_and_tree_are_inverse() {
        let config = Config::default();
        assert_eq!(serde_json::from_value::<Config>(tree(&leaves(&config))).unwrap(), config);
    }

    #[test]
    fn nothing_given_is_the_default() {
        assert_eq!(Config::load(&RunArgs::default(), []).unwrap(), Config::default());
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let (_folder, mut args) = file("data_dir: /file\nsocket: /file.sock\nlog: { max_age: 1h }\n");
        args.data_dir = Some("/flag".into());
        let environment = variables(&[("SPANTAP_DATA_DIR", "/env"), ("SPANTAP_SOCKET", "/env.sock")]);
        let loaded = Loaded::load(&args, environment).unwrap();
        assert_eq!(loaded.config.data_dir, PathBuf::from("/flag"));
        assert_eq!(loaded.config.socket, PathBuf::from("/env.sock"));
        assert_eq!(loaded.config.log.max_age, Interval::secs(3600));
        assert_eq!(loaded.config.log.max_bytes, Size::mib(1024));
        assert_eq!(loaded.sources["data_dir"], Source::Flag("--data-dir"));
        assert_eq!(loaded.sources["socket"], Source::Environment("SPANTAP_SOCKET".into()));
        assert!(matches!(loaded.sources["log.max_age"], Source::File(_)));
        assert!(!loaded.sources.contains_key("log.max_bytes"));
    }

    #[test]
    fn every_kind_of_variable_is_read() {
        let config = Config::load(
            &RunArgs::default(),
            variables(&[
                ("SPANTAP_CAPTURE_SELECT_PID", "7, 8"),
                ("SPANTAP_CAPTURE_SELECT_EXE", "/usr/bin/7"),
                ("SPANTAP_CAPTURE_SELECT_ALL", "true"),
                ("SPANTAP_LOG_MAX_BYTES", "64MiB"),
                ("SPANTAP_METRICS_ADDRESS", "127.0.0.1:9464"),
                ("SPANTAP_EXPORT", "otlp+grpc://a:1,kafka://b:2, c/t,file:/d"),
                ("SPANTAP_REDACTION_PATHS", "keep"),
                ("SPANTAP_RELAY_SAMPLING_RATIO", "0.5"),
                ("SPANTAP_SOCKET", ""),
            ]),
        )
        .unwrap();
        assert_eq!(config.capture.select.pid, [7, 8]);
        assert_eq!(config.capture.select.exe, ["/usr/bin/7"]);
        assert!(config.capture.select_all);
        assert_eq!(config.log.max_bytes, Size::mib(64));
        assert_eq!(config.metrics.address.unwrap().port(), 9464);
        let names: Vec<_> = config.export.destinations.iter().map(|to| to.name.as_str()).collect();
        assert_eq!(names, ["otlp+grpc://a:1", "kafka://b:2,c:9092/t", "file:/d"]);
        assert_eq!(config.redaction.paths, Paths::Keep);
        assert!((config.relay.sampling_ratio - 0.5).abs() < f64::EPSILON);
        assert_eq!(config.socket, Config::default().socket);
    }

    #[test]
    fn bad_variables_and_flags_are_named() {
        for (name, text, part) in [
            ("SPANTAP_LOG_MAX_BYTES", "many", "512KiB"),
            ("SPANTAP_CAPTURE_SELECT_PID", "init", "not a number"),
            ("SPANTAP_EXPORT", "http://x", "did you mean"),
            ("SPANTAP_CAPTURE_SELECT_PORT", "70000", "is 70000, expected a whole number from 0 to 65535"),
            ("SPANTAP_CAPTURE_UNSELECTED", "all", "expected one of timing, none"),
        ] {
            let error = Config::load(&RunArgs::default(), variables(&[(name, text)])).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
        let args = RunArgs { export: vec!["localhost".into()], ..RunArgs::default() };
        let error = Config::load(&args, []).unwrap_err().to_string();
        assert!(error.contains("--export") && error.contains("otlp+grpc://HOST:PORT"), "{error}");
    }

    #[test]
    fn variables_of_others_only_warn() {
        let environment = variables(&[
            ("SPANTAP_PORT", "tcp://10.0.0.1:80"),
            ("SPANTAP_SERVICE_HOST", "10.0.0.1"),
            ("SPANTAP_SERVICE_PORT_HTTP", "80"),
            ("SPANTAP_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("SPANTAP_DATA_DIRR", "/x"),
            ("SPANTAP_ZZZ", "1"),
        ]);
        let loaded = Loaded::load(&RunArgs::default(), environment).unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "environment variable SPANTAP_DATA_DIRR is not used, did you mean SPANTAP_DATA_DIR?",
                "environment variable SPANTAP_ZZZ is not used, `spantap config schema` lists what can be set: log.max_bytes is \
                 SPANTAP_LOG_MAX_BYTES"
            ]
        );
        let environment = OTHER_VARIABLES.map(|name| (name.to_owned(), "1".to_owned()));
        let environment = environment.into_iter().filter(|(name, _)| name != "SPANTAP_CONFIG");
        assert!(Loaded::load(&RunArgs::default(), environment).unwrap().warnings.is_empty());
        assert_eq!(loaded.config, Config::default());
    }

    #[test]
    fn who_captures_nothing_cannot_select() {
        let args = RunArgs { no_capture: true, select_port: vec![80], ..RunArgs::default() };
        let error = Loaded::load(&args, []).unwrap_err().to_string();
        assert_eq!(
            error,
            "flag --select-port: selects what is captured, and nothing is (flag --no-capture); leave out one of them"
        );
        let (_folder, args) = file("capture: { enabled: false, select_all: false, exclude: { pid: [7] } }\n");
        let loaded = Loaded::load(&args, []).unwrap();
        assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
        assert!(loaded.warnings[0].starts_with("capture.exclude.pid (file "), "{:?}", loaded.warnings);
        let environment = variables(&[("SPANTAP_CAPTURE_SELECT_ALL", "true")]);
        let args = RunArgs { no_capture: true, ..RunArgs::default() };
        assert_eq!(
            Loaded::load(&args, environment).unwrap().warnings,
            [
                "capture.select_all (environment SPANTAP_CAPTURE_SELECT_ALL) has no effect: nothing is captured (flag --no-capture)"
            ]
        );
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            run: RunArgs,
        }
        let line = "x --data-dir /d --socket /s --select-all --select-cgroup /c --select-pid 1 --select-exe e \
                    --select-port 2 --select-netns /n --exclude-cgroup /xc --exclude-pid 3 --exclude-exe xe \
                    --exclude-port 4 --exclude-netns /xn --receive-otlp-grpc 127.0.0.1:2 \
                    --receive-otlp-http unix:/h --receive-otlp-unix /u --export otlp+grpc://h:1 --metrics 127.0.0.1:1 --keep-paths \
                    --attach tp_btf --without-hook a --without-hook b --payload-bytes 99";
        let cli = <Cli as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap();
        let loaded = Loaded::load(&cli.run, []).unwrap();
        assert_eq!(loaded.sources.len(), 20, "{:?}", loaded.sources);
        let capture = loaded.config.capture;
        assert_eq!((capture.select.pid, capture.exclude.port), (vec![1], vec![4]));
        assert_eq!(capture.attach, Some(crate::config::Rung::TpBtf));
        assert_eq!(capture.without_hooks, ["a", "b"]);
        assert_eq!(capture.payload_bytes_max, 99);
    }
}
