//! Which crate may depend on which.
use anyhow::{Context, Result};
use serde_json::Value;

use super::Problem;

/// The allowed arrows between crates of this repository, and no others.
const ALLOWED: &[(&str, &[&str])] = &[
    ("agent-common", &[]),
    ("agent-ebpf", &["agent-common"]),
    ("agent-protocol", &[]),
    ("agent-core", &["agent-common", "agent-protocol"]),
    ("agent", &["agent-core", "agent-common"]),
    ("spantap-tests", &["agent", "agent-common"]),
    ("xtask", &[]),
];

/// Crates without a clock, IO, threads or async.
const PURE: &[&str] = &["agent-common", "agent-protocol", "agent-core"];

/// Packages whose purpose is an effect.
const EFFECTS: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "mio",
    "futures",
    "rayon",
    "crossbeam",
    "libc",
    "nix",
    "rustix",
    "chrono",
    "time",
    "tracing",
    "log",
];

/// A package and its direct dependencies.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Names, and whether it is needed outside of tests.
    pub dependencies: Vec<(String, bool)>,
}

/// Reads the output of `cargo metadata --no-deps`.
pub fn parse(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("parse cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    Ok(packages.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let dependency = |value: &Value| (text(&value["name"]), value["kind"] != "dev");
    let dependencies = value["dependencies"].as_array().into_iter().flatten().map(dependency).collect();
    Package { name: text(&value["name"]), dependencies }
}

/// Checks arrows between our crates (tests' too), and that pure crates have no effects.
pub fn check(packages: &[Package]) -> Vec<Problem> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Problem> {
    let name = &package.name;
    let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
        return vec![Problem(format!("crate {name} is not in the table of allowed arrows (xtask/src/tidy/arrows.rs)"))];
    };
    let ours = |name: &str| ALLOWED.iter().any(|(known, _)| *known == name);
    let mut problems = Vec::new();
    for (dependency, outside_tests) in &package.dependencies {
        if ours(dependency) && !allowed.contains(&dependency.as_str()) {
            problems.push(Problem(format!("{name} -> {dependency} is not an allowed arrow")));
        }
        if *outside_tests && PURE.contains(&name.as_str()) && EFFECTS.contains(&dependency.as_str()) {
            problems.push(Problem(format!("{name} is pure but depends on {dependency}")));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"packages":[{"name":"agent-core","dependencies":[
        {"name":"agent-common","kind":null},{"name":"NAME","kind":KIND}]}]}"#;

    #[track_caller]
    fn check_with(name: &str, kind: &str, expected: Option<&str>) {
        let found = check(&parse(&METADATA.replace("NAME", name).replace("KIND", kind)).unwrap());
        assert_eq!(found.first().map(|problem| problem.0.as_str()), expected);
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        check_with("agent-protocol", "null", None);
        check_with("agent", "null", Some("agent-core -> agent is not an allowed arrow"));
        check_with("xtask", "\"dev\"", Some("agent-core -> xtask is not an allowed arrow"));
    }

    #[test]
    fn an_effect_in_a_pure_crate_is_found() {
        check_with("tokio", "null", Some("agent-core is pure but depends on tokio"));
        check_with("tokio", "\"dev\"", None);
    }

    #[test]
    fn a_new_crate_must_be_given_arrows() {
        let packages = parse(r#"{"packages":[{"name":"extra","dependencies":[]}]}"#).unwrap();
        assert!(check(&packages)[0].0.contains("extra is not in the table"));
    }
}
