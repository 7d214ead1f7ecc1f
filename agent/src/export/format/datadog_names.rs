//! What a span is called at Datadog: operation, resource and type, from the attributes of the semantic conventions.

use std::borrow::Cow;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::Item;

/// Databases that have a type of their own.
const DATABASE_TYPES: [(&str, &str); 16] = [
    ("redis", "redis"),
    ("memcached", "memcached"),
    ("mongodb", "mongodb"),
    ("cassandra", "cassandra"),
    ("elasticsearch", "elasticsearch"),
    ("opensearch", "opensearch"),
    ("mysql", "sql"),
    ("mariadb", "sql"),
    ("postgresql", "sql"),
    ("sqlite", "sql"),
    ("mssql", "sql"),
    ("microsoft.sql_server", "sql"),
    ("oracle", "sql"),
    ("oracle.db", "sql"),
    ("db2", "sql"),
    ("cockroachdb", "sql"),
];

pub(super) fn span_kind(item: &Item<'_>) -> &'static str {
    match item.kind() {
        SpanKind::Client => "client",
        SpanKind::Server => "server",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
        SpanKind::Internal | SpanKind::Unspecified => "internal",
    }
}

/// The first of these attributes that is there: conventions have changed their names.
fn first<'a>(item: &Item<'a>, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| item.text(key))
}

fn method<'a>(item: &Item<'a>) -> Option<&'a str> {
    first(item, &["http.request.method", "http.method"])
}

fn database<'a>(item: &Item<'a>) -> Option<&'a str> {
    first(item, &["db.system.name", "db.system"])
}

fn messaging_operation<'a>(item: &Item<'a>) -> Option<&'a str> {
    first(item, &["messaging.operation.type", "messaging.operation.name", "messaging.operation"])
}

fn rpc<'a>(item: &Item<'a>) -> Option<&'a str> {
    first(item, &["rpc.system.name", "rpc.system"])
}

/// The kind of work, of which there are few: `http.server.request`, `postgresql.query`.
pub(super) fn operation<'a>(item: &Item<'a>) -> Cow<'a, str> {
    if let Some(name) = item.text("operation.name") {
        return name.into();
    }
    let kind = item.kind();
    // The two sides of a request; of what is neither, the kind is all there is to say.
    let side = match kind {
        SpanKind::Client => "client",
        SpanKind::Server => "server",
        _ => return messaging(item).unwrap_or_else(|| span_kind(item).into()),
    };
    if method(item).is_some() {
        return format!("http.{side}.request").into();
    }
    if let Some(system) = database(item).filter(|_| kind == SpanKind::Client) {
        return format!("{system}.query").into();
    }
    if let Some(name) = messaging(item) {
        return name;
    }
    match rpc(item).or_else(|| item.text("network.protocol.name")) {
        Some(protocol) => format!("{protocol}.{side}.request").into(),
        None => format!("{side}.request").into(),
    }
}

fn messaging<'a>(item: &Item<'a>) -> Option<Cow<'a, str>> {
    let system = item.text("messaging.system")?;
    Some(format!("{system}.{}", messaging_operation(item)?).into())
}

/// What the work is done on: `GET /orders/{id}`, a query.
pub(super) fn resource<'a>(item: &Item<'a>) -> Cow<'a, str> {
    if let Some(name) = item.text("resource.name") {
        return name.into();
    }
    if let Some(method) = method(item) {
        let method = if method == "_OTHER" { "HTTP" } else { method };
        let route = item.text("http.route").filter(|_| item.kind() == SpanKind::Server);
        return with(method, route);
    }
    if let Some(operation) = messaging_operation(item) {
        return with(operation, first(item, &["messaging.destination.name", "messaging.destination"]));
    }
    if let Some(method) = item.text("rpc.method") {
        return with(method, item.text("rpc.service"));
    }
    if let Some(query) = first(item, &["db.query.text", "db.statement"]) {
        return query.into();
    }
    // The agent refuses an empty one.
    if item.span.name.is_empty() { operation(item) } else { item.span.name.as_str().into() }
}

fn with<'a>(what: &'a str, on: Option<&str>) -> Cow<'a, str> {
    on.map_or(what.into(), |on| format!("{what} {on}").into())
}

pub(super) fn kind<'a>(item: &Item<'a>) -> &'a str {
    if let Some(kind) = item.text("span.type") {
        return kind;
    }
    match (item.kind(), database(item)) {
        (SpanKind::Server, _) => "web",
        (SpanKind::Client, None) => "http",
        (SpanKind::Client, Some(system)) => {
            DATABASE_TYPES.iter().find(|(name, _)| *name == system).map_or("db", |(_, kind)| kind)
        }
        _ => "custom",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[track_caller]
    fn check(kind: SpanKind, attributes: &[(&str, &str)], expected: [&str; 3]) {
        let attributes = attributes.iter().map(|(key, value)| samples::text(key, value)).collect();
        let span = samples::span("name", kind, attributes);
        let item = Item { resource: &[], scope: None, span: &span };
        assert_eq!([&*operation(&item), &*resource(&item), super::kind(&item)], expected);
    }

    #[test]
    fn names_are_those_of_the_agents_own_receiver() {
        let get = ("http.request.method", "GET");
        check(SpanKind::Server, &[get, ("http.route", "/a/{id}")], ["http.server.request", "GET /a/{id}", "web"]);
        check(SpanKind::Client, &[get, ("http.route", "/a")], ["http.client.request", "GET", "http"]);
        let query = ("db.query.text", "SELECT 1");
        check(SpanKind::Client, &[("db.system.name", "postgresql"), query], ["postgresql.query", "SELECT 1", "sql"]);
        check(SpanKind::Client, &[("db.system", "redis")], ["redis.query", "name", "redis"]);
        check(SpanKind::Client, &[("db.system", "neo4j")], ["neo4j.query", "name", "db"]);
        let kafka =
            [("messaging.system", "kafka"), ("messaging.operation.type", "send"), ("messaging.destination.name", "t")];
        check(SpanKind::Producer, &kafka, ["kafka.send", "send t", "custom"]);
        let grpc = [("rpc.system", "grpc"), ("rpc.method", "Get"), ("rpc.service", "Shop")];
        check(SpanKind::Server, &grpc, ["grpc.server.request", "Get Shop", "web"]);
        check(SpanKind::Client, &[("network.protocol.name", "dns")], ["dns.client.request", "name", "http"]);
        check(SpanKind::Server, &[], ["server.request", "name", "web"]);
        check(SpanKind::Internal, &[], ["internal", "name", "custom"]);
    }
}
