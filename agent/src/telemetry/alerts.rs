//! What `deploy/prometheus` ships fits together: the rules, their tests, and the alert manager's part.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The list of a key, empty if there is none.
fn list<'a>(of: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    of[key].as_array().into_iter().flatten()
}

/// The texts of a list.
fn texts<'a>(of: &'a Value, key: &str) -> Vec<&'a str> {
    list(of, key).filter_map(Value::as_str).collect()
}

/// The alerts of the rules, with their severity.
fn alerts(rules: &Value) -> Vec<(&str, &str)> {
    let rules = list(rules, "groups").flat_map(|group| list(group, "rules"));
    rules.filter_map(|rule| Some((rule["alert"].as_str()?, rule["labels"]["severity"].as_str()?))).collect()
}

/// All that is below this in a tree of routes, and this.
fn routes(of: &Value) -> Vec<&Value> {
    std::iter::once(of).chain(list(of, "routes").flat_map(routes)).collect()
}

#[test]
fn every_alert_fires_in_one_test_and_is_silent_in_another() {
    let (rules, tests) = (read("rules.yaml"), read("rules_test.yaml"));
    let cases: Vec<&Value> = list(&tests, "tests").flat_map(|test| list(test, "alert_rule_test")).collect();
    let alerts = alerts(&rules);
    assert!(alerts.len() > 10, "{alerts:?}");
    for (alert, _) in alerts {
        let of_it = || cases.iter().filter(|case| case["alertname"] == alert);
        let fires = |case: &Value| list(case, "exp_alerts").next().is_some();
        assert!(of_it().any(|case| fires(case)), "{alert} fires in no test");
        assert!(of_it().any(|case| !fires(case)), "{alert} is silent in no test");
    }
}

#[test]
fn the_runbook_has_a_section_for_each_alert_and_for_nothing_else() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbook.md");
    let text = std::fs::read_to_string(path).expect("the runbook");
    let sections: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = read("rules.yaml");
    assert_eq!(sections, alerts(&rules).into_iter().map(|(alert, _)| alert).collect());
}

#[test]
fn the_alert_manager_knows_the_alerts_and_sends_each_somewhere() {
    let (rules, manager) = (read("rules.yaml"), read("alertmanager.yaml"));
    let named = |key: &str| list(&manager, key).filter_map(|one| one["name"].as_str()).collect::<BTreeSet<_>>();
    let (receivers, intervals) = (named("receivers"), named("time_intervals"));
    let routes = routes(&manager["route"]);
    assert_eq!(texts(&manager["route"], "group_by"), ["alertname", "destination"]);
    let mut muted = 0;
    for route in &routes {
        assert!(receivers.contains(route["receiver"].as_str().unwrap_or_default()), "{route}");
        let unknown = texts(route, "mute_time_intervals").into_iter().filter(|name| !intervals.contains(name));
        assert_eq!(unknown.count(), 0, "{route}");
        muted += list(route, "mute_time_intervals").count();
    }
    assert!(muted > 0, "no window is shown");
    let inhibits: Vec<&Value> = list(&manager, "inhibit_rules").collect();
    let matchers = inhibits.iter().flat_map(|rule| [texts(rule, "source_matchers"), texts(rule, "target_matchers")]);
    let matchers: Vec<&str> = matchers.chain(routes.iter().map(|route| texts(route, "matchers"))).flatten().collect();
    let alerts = alerts(&rules);
    // Each matcher is NAME = "VALUE|VALUE".
    for matcher in &matchers {
        let mut parts = matcher.split('"');
        let name = parts.next().unwrap_or_default().trim_end_matches(['=', '~', ' ']);
        for value in parts.next().unwrap_or_default().split('|') {
            let is_known = |(alert, severity): &(&str, &str)| match name {
                "alertname" => *alert == value,
                "severity" => *severity == value,
                _ => false,
            };
            assert!(alerts.iter().any(is_known), "{matcher}: no alert has {value}");
        }
    }
    let says = |rule: &&&Value, key: &str, alert: &str| texts(rule, key).iter().any(|text| text.contains(alert));
    let auth = inhibits.iter().find(|rule| says(rule, "source_matchers", "SpantapAuthFailures"));
    assert!(auth.is_some_and(|rule| says(&rule, "target_matchers", "SpantapExportFailing")));
}
