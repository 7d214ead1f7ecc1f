//! What the scenarios must show: `tests/vm/scenarios.toml`, which explains each key.
//!
//! In: that file. Out: the scenarios, in its order; and for the guest one line per expectation. Unknown keys are errors.
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::repo::Repo;

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the function that runs it.
    pub name: String,
    /// Whether CI runs it.
    #[serde(default)]
    pub ci: bool,
    /// What the agent must say.
    pub expect: Vec<Expect>,
}

/// What the agent must say of one kind of span.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// `client` or `server`.
    pub kind: String,
    /// The spans' protocol.
    #[serde(default = "http")]
    pub protocol: String,
    /// The server's port.
    pub port: u16,
    /// How many spans there must be.
    pub spans: usize,
    /// Which of them is asked why.
    #[serde(default)]
    pub ask: Ask,
    /// The largest part; empty: it does not matter, nor does its length.
    #[serde(default)]
    pub segment: String,
    /// Ids that the verdict may have.
    pub cause: Vec<String>,
    /// Evidence that the tiles of the segment may have.
    #[serde(default = "measured")]
    pub evidence: Vec<String>,
    /// The least that the truth may be, for what was injected to have happened.
    #[serde(default)]
    pub injected_ms: u64,
    /// The segment's length as an expression; see [`super::truth`].
    #[serde(default)]
    pub truth: String,
    /// Segments whose sum is held against the truth, if not the largest.
    #[serde(default)]
    pub measure: Vec<String>,
}

/// Which span is asked why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// The last; each of the connection's spans but its first is then judged by what its segments say.
    #[default]
    Last,
    /// The one that took the longest, where not each is slow.
    Slowest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

/// The scenarios of these names, or all, or all of CI; in the file's order.
pub fn read(repo: &Repo, names: &[String], ci: bool) -> Result<Vec<Scenario>> {
    let path = repo.path("tests/vm/scenarios.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut scenarios = parse(&text).with_context(|| format!("parse {}", path.display()))?;
    if let Some(unknown) = names.iter().find(|name| !scenarios.iter().any(|scenario| scenario.name == **name)) {
        bail!("tests/vm/scenarios.toml has no scenario {unknown}");
    }
    scenarios.retain(|scenario| names.is_empty() && (scenario.ci || !ci) || names.contains(&scenario.name));
    Ok(scenarios)
}

pub(super) fn parse(text: &str) -> Result<Vec<Scenario>> {
    Ok(toml::from_str::<File>(text)?.scenario)
}

/// The list that tells the guest what to run and what to ask: name, kind, protocol, port, spans, ask.
pub fn list(scenarios: &[Scenario]) -> String {
    let line = |name: &str, expect: &Expect| {
        let ask = match expect.ask {
            Ask::Last => "last",
            Ask::Slowest => "slowest",
        };
        format!("{name} {} {} {} {} {ask}\n", expect.kind, expect.protocol, expect.port, expect.spans)
    };
    scenarios.iter().flat_map(|scenario| scenario.expect.iter().map(|expect| line(&scenario.name, expect))).collect()
}

fn http() -> String {
    "http".to_owned()
}

fn measured() -> Vec<String> {
    vec!["measured".to_owned()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FILE: &str = include_str!("../../../../tests/vm/scenarios.toml");
    const SCRIPT: &str = include_str!("../../../../tests/vm/scenarios.sh");

    #[test]
    fn the_guest_has_each_scenario() {
        let scenarios = parse(FILE).unwrap();
        for Scenario { name, expect, .. } in &scenarios {
            assert!(SCRIPT.contains(&format!("\n{name}() {{\n")), "tests/vm/scenarios.sh has no {name}");
            let ports: BTreeSet<u16> = expect.iter().map(|expect| expect.port).collect();
            assert!(ports.iter().all(|port| SCRIPT.contains(&format!(":{port}"))), "{name}: no port of {ports:?}");
        }
        let names: BTreeSet<_> = scenarios.iter().map(|scenario| &scenario.name).collect();
        assert_eq!(names.len(), scenarios.len(), "two scenarios of one name");
        let ports: BTreeSet<u16> = scenarios.iter().map(|scenario| scenario.expect[0].port).collect();
        assert_eq!(ports.len(), scenarios.len(), "two scenarios on one port");
    }

    #[test]
    fn what_has_a_length_has_a_truth() {
        for scenario in parse(FILE).unwrap() {
            for expect in scenario.expect {
                assert_eq!(expect.segment.is_empty(), expect.truth.is_empty(), "{}", scenario.name);
                assert!(expect.truth.is_empty() || expect.injected_ms >= 200, "{}: too little", scenario.name);
            }
        }
    }

    #[test]
    fn the_guest_is_told_of_each_expectation() {
        let text = "[[scenario]]\nname='a'\nexpect=[{kind='client',port=1,spans=2,cause=['x']},{kind='server',port=1,spans=3,ask='slowest',cause=['y']}]";
        assert_eq!(list(&parse(text).unwrap()), "a client http 1 2 last\na server http 1 3 slowest\n");
    }
}
