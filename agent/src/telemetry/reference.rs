//! `docs/metrics.md` tells every metric as it is. With `SPANTAP_BLESS` set it is written instead, for review in the diff.

use std::{collections::BTreeSet, path::Path};

use super::{
    family::{Family, Kind},
    metrics::tests::one_of_each,
    otlp,
};

const HEAD: &str = "# Metrics of the agent

Written by `SPANTAP_BLESS=1 cargo test -p agent --lib telemetry::reference`, from what the agent tells; a test compares them. What they are good for:
[reference-coverage.md](reference-coverage.md); rules, alerts and dashboards: [deploy/](../deploy/README.md#watching-the-agents).

Names are those of `/metrics`. Pushed by OTLP they have no `_total` and `_seconds`. A *counter* counts from the start of the agent; an *account* too,
but from the first span, since the span log keeps it through restarts (an account of spans that are replayed can become less). A *histogram*
has `_bucket`, `_sum` and `_count`. Units are UCUM's: `By` bytes, `s` seconds. No label has a value that comes from a span.

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
";

/// As Prometheus has it.
fn name(family: &Family) -> String {
    let seconds = if family.is_of_seconds() { "_seconds" } else { "" };
    let total = if matches!(family.kind, Kind::Counter | Kind::Account) { "_total" } else { "" };
    format!("spantap_{}{seconds}{total}", family.name)
}

fn row(family: &Family) -> String {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Account => "account",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let labels: BTreeSet<&str> = family.rows.iter().flat_map(|(labels, _)| labels).map(|(name, _)| *name).collect();
    let labels: Vec<String> = labels.into_iter().map(|label| format!("`{label}`")).collect();
    format!(
        "| `{}` | {kind} | {} | {} | {} |\n",
        name(family),
        otlp::unit(family),
        labels.join(", "),
        family.help.replace('|', "\\|")
    )
}

#[test]
fn every_metric_is_told_as_it_is() {
    let families = one_of_each().all();
    let silent: Vec<&str> = families.iter().filter(|family| family.rows.is_empty()).map(|family| family.name).collect();
    assert_eq!(silent, [""; 0], "there is nothing of these, so that nobody knows their labels");
    let text = HEAD.to_owned() + &families.iter().map(row).collect::<String>();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("SPANTAP_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let told = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> = text.lines().filter(|line| !told.lines().any(|other| other == *line)).collect();
    assert!(told == text, "docs/metrics.md is not what the agent tells: missing {missing:#?}");
}
