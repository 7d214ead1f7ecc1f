//! What types cannot say: limits, and values that do not go together.
//!
//! Every problem is told at once, with its key, its source and what to write instead. Never touches the host.

use std::{collections::BTreeMap, time::Duration};

use super::{Capture, Config, ConfigError, Interval, Rules, Size, Source};

mod export;

/// Longest path of a unix socket that the kernel takes (`sun_path` without the closing zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Smaller logs would be deleted faster than a person reads.
const LOG_BYTES_MIN: u64 = 1 << 20;
/// A smaller ring would be full within a burst; a larger one is memory that the kernel cannot swap.
const RING_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;

pub(super) fn validate(config: &Config, sources: &BTreeMap<String, Source>) -> Result<(), ConfigError> {
    let mut check = Check { sources, problems: Vec::new() };
    check.general(config);
    check.rules("capture.select", &config.capture.select);
    check.rules("capture.exclude", &config.capture.exclude);
    for (path, problem) in config.receive.problems() {
        check.require(false, &path, || problem);
    }
    if let Err(problem) = config.relay.to_core() {
        check.keyed("", &problem);
    }
    check.destinations(&config.export.destinations);
    check.on_symptom(&config.export);
    check.pushes(&config.metrics.push);
    if check.problems.is_empty() { Ok(()) } else { Err(ConfigError::Unusable { problems: check.problems }) }
}

struct Check<'a> {
    sources: &'a BTreeMap<String, Source>,
    problems: Vec<String>,
}

impl Check<'_> {
    fn require(&mut self, holds: bool, path: &str, problem: impl FnOnce() -> String) {
        if holds {
            return;
        }
        let list = path.split('[').next().unwrap_or(path);
        let source = self.sources.get(list).cloned().unwrap_or_default();
        self.problems.push(format!("{path} ({source}): {}", problem()));
    }

    /// A problem that begins with its key below `at`.
    fn keyed(&mut self, at: &str, problem: &str) {
        let (key, what) = problem.split_once(": ").unwrap_or(("", problem));
        let path = [at, key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        self.require(false, &path, || what.to_owned());
    }

    fn positive(&mut self, path: &str, interval: Interval) {
        self.require(interval.0 > Duration::ZERO, path, || "must be longer than 0s".into());
    }

    fn general(&mut self, config: &Config) {
        let limit = agent_common::message::PAYLOAD_BYTES_LIMIT as u32;
        self.require(!config.data_dir.as_os_str().is_empty(), "data_dir", || "must not be empty".into());
        self.require(config.socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX, "socket", || {
            format!("longer than the {SOCKET_PATH_BYTES_MAX} bytes that the kernel takes")
        });
        self.require(config.capture.payload_bytes_max <= limit, "capture.payload_bytes_max", || {
            format!("is {}, at most {limit}", config.capture.payload_bytes_max)
        });
        let percent = config.capture.max_cpu_percent;
        self.require(percent <= 100, "capture.max_cpu_percent", || format!("is {percent}, at most 100; 0 is no limit"));
        self.kernel_sizes(&config.capture);
        for (index, route) in config.redaction.routes.iter().enumerate() {
            let problem = agent_core::naming::Route::parse(route).err();
            self.require(problem.is_none(), &format!("redaction.routes[{index}]"), || {
                problem.map_or_else(String::new, |problem| format!("`{route}`: {problem}"))
            });
        }
        self.require(config.assembly.connections_max > 0, "assembly.connections_max", || "must be at least 1".into());
        self.positive("assembly.idle_exchange", config.assembly.idle_exchange);
        self.require(config.log.max_bytes.0 >= LOG_BYTES_MIN, "log.max_bytes", || {
            format!("is {}, at least {}", config.log.max_bytes, Size(LOG_BYTES_MIN))
        });
        let share = config.log.relayed_percent_max;
        self.require(share <= 100, "log.relayed_percent_max", || format!("is {share}, from 0 to 100"));
        self.positive("log.max_age", config.log.max_age);
        self.positive("log.fsync_interval", config.log.fsync_interval);
    }

    fn kernel_sizes(&mut self, capture: &Capture) {
        let ring = capture.ring_bytes;
        self.require(ring.0.is_power_of_two() && RING_BYTES.contains(&ring.0), "capture.ring_bytes", || {
            let (least, most) = (Size(*RING_BYTES.start()), Size(*RING_BYTES.end()));
            format!("is {ring}; must be a power of two, at least {least} and at most {most}")
        });
        self.require(capture.connections_max > 0, "capture.connections_max", || "must be at least 1".into());
        self.require(capture.threads_max > 0, "capture.threads_max", || "must be at least 1".into());
    }

    fn rules(&mut self, path: &str, rules: &Rules) {
        self.require(!rules.pid.contains(&0), &format!("{path}.pid"), || "0 is no process".into());
        self.require(!rules.port.contains(&0), &format!("{path}.port"), || "0 is no port".into());
        for (key, patterns) in [("exe", &rules.exe), ("container", &rules.container), ("pod", &rules.pod)] {
            let empty = patterns.iter().any(String::is_empty);
            self.require(!empty, &format!("{path}.{key}"), || "an empty pattern matches nothing".into());
            for (index, pattern) in patterns.iter().enumerate() {
                let problem = glob::Pattern::new(pattern).err();
                self.require(problem.is_none(), &format!("{path}.{key}[{index}]"), || {
                    problem.map_or_else(String::new, |problem| format!("`{pattern}` is no pattern: {problem}"))
                });
            }
        }
        for (index, pattern) in rules.pod.iter().enumerate() {
            let parts: Vec<&str> = pattern.split('/').collect();
            let is_pod = parts.len() == 2 && !parts.contains(&"");
            self.require(is_pod, &format!("{path}.pod[{index}]"), || {
                format!("`{pattern}` names no pod; write NAMESPACE/POD, for example shop/checkout-* or kube-system/*")
            });
        }
        for (key, paths) in [("cgroup", &rules.cgroup), ("netns", &rules.netns)] {
            for (index, file) in paths.iter().enumerate() {
                self.require(file.is_absolute(), &format!("{path}.{key}[{index}]"), || {
                    format!("`{}` is not an absolute path", file.display())
                });
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use crate::config::{Loaded, RunArgs};

    #[track_caller]
    pub(in crate::config) fn check(yaml: &str, expected: &[&str]) {
        let problems = problems(yaml);
        assert_eq!(problems.is_empty(), expected.is_empty(), "{yaml}: {problems}");
        for part in expected {
            assert!(problems.contains(part), "{yaml}: {problems}");
        }
    }

    pub(super) fn problems(yaml: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.yaml");
        std::fs::write(&path, yaml).unwrap();
        load(&path).err().map(|error| error.to_string()).unwrap_or_default()
    }

    fn load(path: &Path) -> Result<Loaded, crate::config::ConfigError> {
        Loaded::load(&RunArgs { config: Some(path.to_owned()), ..RunArgs::default() }, [])
    }

    #[test]
    fn limits_are_kept_and_all_problems_told_at_once() {
        check("capture: { payload_bytes_max: 8192 }", &[]);
        check("capture: { payload_bytes_max: 8193 }\nlog: { max_bytes: 1KiB }", &["at most 8192", "at least 1MiB"]);
        check("capture: { ring_bytes: 64KiB, connections_max: 1, threads_max: 1 }", &[]);
        check("capture: { max_cpu_percent: 0 }", &[]);
        check("capture: { select: { exe: ['['] } }", &["capture.select.exe[0]", "is no pattern"]);
        check("capture: { select: { pod: [checkout] } }", &["capture.select.pod[0]", "NAMESPACE/POD"]);
        check("capture: { select: { pod: [shop/] } }", &["capture.select.pod[0]", "NAMESPACE/POD"]);
        check("capture: { exclude: { container: ['['] } }", &["capture.exclude.container[0]", "is no pattern"]);
        check("capture: { exclude: { cgroup: [a/b] } }", &["capture.exclude.cgroup[0]", "not an absolute path"]);
        check("log: { relayed_percent_max: 101 }", &["from 0 to 100"]);
        check("relay: { sampling_ratio: 0.5 }", &[]);
        check("relay: { sampling_ratio: 2 }", &["relay.sampling_ratio (file", "2 is not from 0 to 1"]);
        check("relay: { attributes: [x] }", &["relay.attributes (file", "`x` is not key=value"]);
        check("capture: { max_cpu_percent: 101 }", &["capture.max_cpu_percent (file", "at most 100"]);
        for ring in ["3MiB", "32KiB", "2GiB", "0"] {
            check(&format!("capture: {{ ring_bytes: {ring} }}"), &["capture.ring_bytes (file", "power of two"]);
        }
        let zeros = "capture: { connections_max: 0, threads_max: 0 }";
        check(zeros, &["capture.connections_max (file", "capture.threads_max (file"]);
        check("capture: { select: { pid: [0] }, exclude: { port: [0] } }", &["select.pid (file", "exclude.port"]);
        check(&format!("socket: /{}", "x".repeat(107)), &["107"]);
        check("log: { max_age: 0s }", &["longer than 0s"]);
    }
}
