//! Attributes by OpenTelemetry's semantic conventions (HTTP, network: stable), and ours under `spantap.`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use agent_protocol::{
    http1::{RequestHead, ResponseHead, known_method},
    session::{Facts, Key, Part, Side},
};

use crate::{
    endpoint::Endpoint,
    flow::connection::{Connection, Role},
    segment::{Parts, Timeline},
    span::{Evidence, Text, Value},
};

/// Attributes of one span.
pub(super) type Attributes = Vec<(&'static str, Value)>;

/// Room for those of most spans, within what the allocator keeps at hand (glibc: 1032 bytes); for more it would tidy up all its
/// free memory each time.
pub(super) const ATTRIBUTES: usize = 24;
const _: () = assert!(ATTRIBUTES * size_of::<(&str, Value)>() <= 1032);

pub(super) fn text(value: impl Into<String>) -> Value {
    Value::String(Text::Own(value.into()))
}

/// Text that is known beforehand.
pub(super) fn word(value: &'static str) -> Value {
    Value::from(value)
}

pub(super) fn int(value: u64) -> Value {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// The span's name before its route.
pub(super) fn http_name(request: &RequestHead) -> &'static str {
    known_method(&request.method).unwrap_or("HTTP")
}

pub(super) fn request(attributes: &mut Attributes, request: &RequestHead) {
    let known = known_method(&request.method);
    attributes.push(("http.request.method", word(known.unwrap_or("_OTHER"))));
    if known.is_none() {
        attributes.push(("http.request.method_original", Value::String(request.method.clone())));
    }
    // The target of CONNECT is an authority, not a path (RFC 9110, 9.3.6).
    if request.method != "CONNECT" {
        attributes.push(("url.path", text(request.path.as_str())));
        attributes.push(("url.scheme", word("http")));
    }
    if !request.query_names.is_empty() {
        attributes.push(("spantap.url.query_names", Value::Strings(request.query_names.as_slice().into())));
    }
    attributes.push(("network.protocol.name", word("http")));
    attributes.push(("network.protocol.version", word(if request.minor_version == 0 { "1.0" } else { "1.1" })));
}

/// A request of HTTP/1 that is answered as stream 1 of HTTP/2 (RFC 7540, 3.2).
pub(super) fn upgraded(head: &RequestHead, range: Range<u64>) -> Part {
    let mut facts = Facts::named(http_name(head));
    request(&mut facts.attributes, head);
    facts.set("network.protocol.version", "2");
    facts.set("spantap.http.upgraded", true);
    facts.host = head.host.clone();
    facts.trace = head.trace;
    Part::whole(Side::Client, Key::Id(1), range, facts)
}

pub(super) fn response(attributes: &mut Attributes, response: &ResponseHead) {
    attributes.push(("http.response.status_code", Value::Int(i64::from(response.status))));
    if response.interim > 0 {
        attributes.push(("spantap.http.interim_responses", Value::Int(i64::from(response.interim))));
    }
}

/// `server.*` from what the client asked for, else from the connection.
pub(super) fn server(attributes: &mut Attributes, connection: &mut Connection, role: Role, host: Option<&Text>) {
    let (_, server) = connection.facts.endpoints(role);
    let (name, port) = host.map_or((None, None), |host| split_host(host));
    let address = match (name, host, server) {
        (Some(name), Some(host), _) if name.len() == host.len() => Some(host.clone()),
        (Some(name), ..) => Some(connection.texts.text(name)),
        (None, _, Endpoint::Inet(address)) => Some(connection.address(address.ip())),
        (None, _, Endpoint::Unix(_)) => connection.facts.unix_path.clone().map(Text::from),
    };
    attributes.extend(address.map(|address| ("server.address", Value::String(address))));
    attributes.extend(port.or(server.port()).map(|port| ("server.port", Value::Int(i64::from(port)))));
}

/// RFC 9110, 7.2: `uri-host [ ":" port ]`.
fn split_host(host: &str) -> (Option<&str>, Option<u16>) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, port.parse().ok()),
        _ => (host, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    ((!name.is_empty()).then_some(name), port)
}

/// Addresses, and what the connection has seen so far.
pub(super) fn connection(attributes: &mut Attributes, connection: &mut Connection, role: Role) {
    match connection.facts.peer {
        Endpoint::Inet(peer) => inet(attributes, peer, role, "tcp", |address| connection.address(address)),
        Endpoint::Unix(_) => attributes.push(("network.transport", word("unix"))),
    }
    let facts = &connection.facts;
    attributes.push(("spantap.connection.reused", Value::Bool(connection.exchanges > 0 || facts.preexisting)));
    if facts.preexisting {
        attributes.push(("spantap.connection.preexisting", Value::Bool(true)));
    }
    if facts.role_guessed {
        attributes.push(("spantap.role.evidence", word(Evidence::Inferred.name())));
    }
}

/// What the other end is, of whose address the `text` is asked for; its address and port are the span's own fields, told as attributes where that is a client's.
pub(super) fn inet(
    attributes: &mut Attributes,
    peer: SocketAddr,
    role: Role,
    transport: &'static str,
    text: impl FnOnce(IpAddr) -> Text,
) {
    if role == Role::Server {
        attributes.push(("client.address", Value::String(text(peer.ip()))));
        attributes.push(("client.port", Value::Int(i64::from(peer.port()))));
    }
    attributes.push(("network.transport", word(transport)));
    attributes.push(("network.type", word(if peer.is_ipv4() { "ipv4" } else { "ipv6" })));
}

/// How sure the span's bounds are.
pub(super) fn evidence(attributes: &mut Attributes, parts: &Parts<'_>, timeline: &Timeline) {
    if timeline.start != Evidence::Measured {
        attributes.push(("spantap.start.evidence", word(timeline.start.name())));
    }
    if !parts.exact {
        attributes.push(("spantap.boundary.evidence", word(Evidence::Inferred.name())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_told_apart() {
        let check = |host, expected| assert_eq!(split_host(host), expected, "{host}");
        check("shop.test", (Some("shop.test"), None));
        check("shop.test:8080", (Some("shop.test"), Some(8080)));
        check("[::1]:80", (Some("::1"), Some(80)));
        check("[::1]", (Some("::1"), None));
        check("shop.test:x", (Some("shop.test"), None));
        check("", (None, None));
    }
}
