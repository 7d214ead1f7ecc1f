//! The agent's own metrics as an OTLP request.
//!
//! In: [`Family`]s. Out: an `ExportMetricsServiceRequest` with cumulative sums, gauges and histograms with explicit bounds, under the names
//! that they have at `/metrics`, without the endings that its text format adds. Called by [`super::push`].

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::family::{Buckets, Family, Kind, Labels, Value};
use crate::export::LATENCY_BOUNDS;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
const SCOPE: &str = "spantap";

/// When the values are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When the agent started, and with it all counters that do not come from the span log.
    pub started_unix_ns: u64,
    /// Now.
    pub now_unix_ns: u64,
}

/// Everything as one request, of an agent on this host.
pub fn request(families: &[Family], host_name: Option<&str>, times: Times) -> ExportMetricsServiceRequest {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let scope = InstrumentationScope { name: SCOPE.to_owned(), version, ..InstrumentationScope::default() };
    let metrics = families.iter().map(|family| metric(family, times)).collect();
    let scope_metrics = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource(host_name)),
            scope_metrics: vec![scope_metrics],
            ..ResourceMetrics::default()
        }],
    }
}

/// There is one agent on a host, so that the host's name also tells agents apart: Prometheus makes its `instance` of it.
fn resource(host_name: Option<&str>) -> Resource {
    let own = [("service.name", SCOPE), ("service.version", env!("CARGO_PKG_VERSION"))];
    let host = host_name.into_iter().flat_map(|name| [("host.name", name), ("service.instance.id", name)]);
    let attributes = own.into_iter().chain(host).map(|(key, value)| attribute(key, value)).collect();
    Resource { attributes, ..Resource::default() }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(key, value)| attribute(key, value)).collect()
}

fn metric(family: &Family, times: Times) -> Metric {
    let numbers =
        || family.rows.iter().filter_map(|(labels, value)| number(family.kind, labels, value, times)).collect();
    let data = match family.kind {
        Kind::Counter | Kind::Account => {
            Data::Sum(Sum { data_points: numbers(), aggregation_temporality: CUMULATIVE, is_monotonic: true })
        }
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers() }),
        Kind::Histogram => {
            let points = family.rows.iter().filter_map(|(labels, value)| histogram(labels, value, times));
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality: CUMULATIVE })
        }
    };
    Metric {
        name: format!("spantap_{}", family.name),
        description: family.help.to_owned(),
        unit: unit(family).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// In UCUM's words; nothing for numbers of things.
pub(super) fn unit(family: &Family) -> &'static str {
    match family.name {
        _ if family.is_of_seconds() => "s",
        name if name.ends_with("_bytes") || name.ends_with("_bytes_max") => "By",
        _ => "",
    }
}

fn number(kind: Kind, labels: &Labels, value: &Value, times: Times) -> Option<NumberDataPoint> {
    let value = match value {
        Value::Count(count) => number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX)),
        Value::Seconds(seconds) => number_data_point::Value::AsDouble(*seconds),
        Value::Durations(_) => return None,
    };
    let start_time_unix_nano = match kind {
        Kind::Counter | Kind::Histogram => times.started_unix_ns,
        // Nobody knows when an account began; of gauges it means nothing.
        Kind::Account | Kind::Gauge => 0,
    };
    Some(NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano,
        time_unix_nano: times.now_unix_ns,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(labels: &Labels, value: &Value, times: Times) -> Option<HistogramDataPoint> {
    let Value::Durations(Buckets { counts, sum }) = value else { return None };
    Some(HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.started_unix_ns,
        time_unix_nano: times.now_unix_ns,
        count: counts.iter().sum(),
        sum: Some(sum.as_secs_f64()),
        bucket_counts: counts.to_vec(),
        explicit_bounds: LATENCY_BOUNDS.to_vec(),
        ..HistogramDataPoint::default()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMES: Times = Times { started_unix_ns: 5, now_unix_ns: 9 };

    fn data(kind: Kind, value: Value) -> (String, Data) {
        let rows = vec![(vec![("destination", "a".to_owned())], value)];
        let metric = metric(&Family { name: "x", help: "Of it", kind, rows }, TIMES);
        assert_eq!((metric.name.as_str(), metric.description.as_str()), ("spantap_x", "Of it"));
        (metric.unit, metric.data.unwrap())
    }

    fn point(kind: Kind, value: Value) -> (u64, NumberDataPoint) {
        let point = match data(kind, value).1 {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && sum.aggregation_temporality == CUMULATIVE);
                sum.data_points[0].clone()
            }
            Data::Gauge(gauge) => gauge.data_points[0].clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((point.time_unix_nano, &point.attributes[..]), (9, &[attribute("destination", "a")][..]));
        (point.start_time_unix_nano, point)
    }

    #[test]
    fn counters_begin_with_the_agent_and_accounts_before_anybody_knows() {
        let value = number_data_point::Value::AsInt(7);
        for (kind, start) in [(Kind::Counter, 5), (Kind::Account, 0), (Kind::Gauge, 0)] {
            let (begun, point) = point(kind, Value::Count(7));
            assert_eq!((begun, point.value), (start, Some(value)), "{kind:?}");
        }
        let (unit, _) = data(Kind::Counter, Value::Seconds(0.5));
        assert_eq!(unit, "s");
    }

    #[test]
    fn buckets_are_those_between_the_bounds() {
        let mut buckets = Buckets { sum: Duration::from_millis(31_003), ..Buckets::default() };
        (buckets.counts[0], buckets.counts[LATENCY_BOUNDS.len()]) = (2, 1);
        let (unit, Data::Histogram(histogram)) = data(Kind::Histogram, Value::Durations(buckets)) else { panic!() };
        let point = &histogram.data_points[0];
        assert_eq!((unit.as_str(), histogram.aggregation_temporality), ("s", CUMULATIVE));
        assert_eq!((point.count, point.sum, point.start_time_unix_nano), (3, Some(31.003), 5));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!((point.bucket_counts[0], point.bucket_counts.last()), (2, Some(&1)));
    }

    #[test]
    fn a_host_without_a_name_has_none() {
        let keys = |host| resource(host).attributes.into_iter().map(|pair| pair.key).collect::<Vec<_>>();
        assert_eq!(keys(None), ["service.name", "service.version"]);
        assert_eq!(keys(Some("h")), ["service.name", "service.version", "host.name", "service.instance.id"]);
    }
}
