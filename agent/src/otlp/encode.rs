//! Spans to the bytes of a `TracesData`. One `ResourceSpans` per process, one scope.

use std::sync::Arc;

use agent_core::{
    container::ContainerFacts,
    endpoint::{Endpoint, IpText},
    redact::SafeSpan,
    span::{By, Evidence, ProcessFacts, Segment, SegmentName, Span, SpanKind, Status, Value},
};
use opentelemetry_proto::tonic::trace::v1::{span, status};

use super::{
    CAUSE, LINK_EVIDENCE, LOCAL_ADDRESS, LOCAL_PORT, PEER_ADDRESS, PEER_PORT, PID, PROTOCOL, SCOPE, SEGMENT_PREFIX,
    SEGMENTS, SERVICE_NAME, STATUS, fragments::FRAGMENTS, segments, wire::Wire,
};

/// How process and service are known, if they were neither read nor declared.
const PROCESS_EVIDENCE: &str = "spantap.process.evidence";
const SERVICE_EVIDENCE: &str = "spantap.service.evidence";
/// Connections of which it is remembered how their ends were written.
const ENDS_MAX: usize = 4;
/// Room for a span; larger ones make the buffer grow.
const SPAN_BYTES: usize = 2048;

/// Encodes spans; holds what is the same for all of them.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    host_name: Option<String>,
    node_name: Option<String>,
}

/// Encoded spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Protobuf of a `TracesData`.
    pub bytes: Vec<u8>,
    /// Number of spans in it.
    pub span_count: u32,
    /// Earliest start.
    pub start_unix_ns_min: u64,
    /// Latest end.
    pub end_unix_ns_max: u64,
}

impl Encoder {
    /// An encoder that puts `host.name` and `k8s.node.name` on every resource, if they are known.
    pub fn new(host_name: Option<String>, node_name: Option<String>) -> Self {
        Self { host_name, node_name }
    }

    /// Encodes spans, grouped by process in the order of each process's first span.
    pub fn encode(&self, spans: &[SafeSpan]) -> Encoded {
        self.encode_into(Vec::new(), spans)
    }

    /// The same, in the room of bytes that are not needed any more.
    pub fn encode_into(&self, mut room: Vec<u8>, spans: &[SafeSpan]) -> Encoded {
        let mut groups: Vec<(&Arc<ProcessFacts>, Vec<&Span>)> = Vec::new();
        for span in spans.iter().map(SafeSpan::span) {
            // Blocks are small and hold few processes; the last group is the likely one.
            match groups
                .iter_mut()
                .rev()
                .find(|(facts, _)| Arc::ptr_eq(facts, &span.process) || **facts == span.process)
            {
                Some((_, list)) => list.push(span),
                None => groups.push((&span.process, vec![span])),
            }
        }
        room.clear();
        room.reserve(spans.len() * SPAN_BYTES);
        let mut wire = Wire::new(room);
        let mut ends = Ends::default();
        for (facts, spans) in groups {
            wire.message_of_width(1, 3, |wire| self.resource_spans(wire, facts, &spans, &mut ends));
        }
        Encoded {
            bytes: wire.into_bytes(),
            span_count: u32::try_from(spans.len()).unwrap_or(u32::MAX),
            start_unix_ns_min: spans.iter().map(|span| span.span().start.0).min().unwrap_or(0),
            end_unix_ns_max: spans.iter().map(|span| end_unix_ns(span.span())).max().unwrap_or(0),
        }
    }

    /// `ResourceSpans { resource = 1, scope_spans = 2 { scope = 1 { name = 1, version = 2 }, spans = 2 } }`
    fn resource_spans(&self, wire: &mut Wire, facts: &ProcessFacts, spans: &[&Span], ends: &mut Ends) {
        wire.message(1, |wire| self.resource_attributes(wire, facts));
        wire.message_of_width(2, 3, |wire| {
            wire.message(1, |wire| {
                wire.text(1, SCOPE);
                wire.text(2, env!("CARGO_PKG_VERSION"));
            });
            for span in spans {
                wire.message_of_width(2, 2, |wire| otlp_span(wire, span, ends));
            }
        });
    }

    /// `Resource { attributes = 1 }`
    fn resource_attributes(&self, wire: &mut Wire, facts: &ProcessFacts) {
        match &facts.service_name {
            Some(name) => wire.text_pair(1, SERVICE_NAME, name),
            None => wire.text_pair(1, SERVICE_NAME, &unknown_service(facts)),
        }
        let optional = [
            ("service.namespace", &facts.service_namespace),
            ("service.version", &facts.service_version),
            ("deployment.environment.name", &facts.deployment_environment),
            ("process.executable.name", &facts.executable_name),
            ("process.executable.path", &facts.executable_path),
            ("host.name", &self.host_name),
            ("k8s.node.name", &self.node_name),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                wire.text_pair(1, key, value);
            }
        }
        if facts.pid != 0 {
            wire.int_pair(1, PID, i64::from(facts.pid));
        }
        if facts.inherited {
            wire.text_pair(1, PROCESS_EVIDENCE, Evidence::Derived.name());
        }
        if facts.service_inferred {
            wire.text_pair(1, SERVICE_EVIDENCE, Evidence::Inferred.name());
        }
        if let Some(container) = &facts.container {
            container_attributes(wire, container);
        }
    }
}

fn container_attributes(wire: &mut Wire, facts: &ContainerFacts) {
    // A container of a pod is named within the pod.
    let name_key = if facts.is_in_pod() { "k8s.container.name" } else { "container.name" };
    let instance = facts.service_instance();
    let optional = [
        ("container.id", Some(&facts.id)),
        (name_key, facts.name.as_ref()),
        ("container.image.name", facts.image_name.as_ref()),
        ("k8s.namespace.name", facts.namespace.as_ref()),
        ("k8s.pod.name", facts.pod_name.as_ref()),
        ("k8s.pod.uid", facts.pod_uid.as_ref()),
        ("service.instance.id", instance.as_ref()),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            wire.text_pair(1, key, value);
        }
    }
    if let Some(tag) = &facts.image_tag {
        wire.pair(1, "container.image.tags", |wire| any(wire, &Value::Strings([tag.clone()].into())));
    }
}

/// OpenTelemetry's rule for a service without a name: `unknown_service`, with the executable where it is known.
fn unknown_service(facts: &ProcessFacts) -> String {
    match &facts.executable_name {
        Some(name) => format!("unknown_service:{name}"),
        None => "unknown_service".to_owned(),
    }
}

fn end_unix_ns(span: &Span) -> u64 {
    span.start.0.saturating_add(span.duration_ns)
}

/// `Span`; fields in the order of their numbers.
fn otlp_span(wire: &mut Wire, span: &Span, ends: &mut Ends) {
    wire.bytes(1, &span.trace_id.0);
    wire.bytes(2, &span.span_id.0);
    if let Some(parent) = span.parent_span_id {
        wire.bytes(4, &parent.0);
    }
    wire.text(5, &span.name);
    wire.varint(6, kind(span.kind) as u64);
    wire.fixed64(7, span.start.0);
    wire.fixed64(8, end_unix_ns(span));
    attributes(wire, span, ends);
    for link in &span.links {
        wire.message(13, |wire| {
            wire.bytes(1, &link.trace_id.0);
            wire.bytes(2, &link.span_id.0);
            wire.text_pair(4, LINK_EVIDENCE, link.evidence);
        });
    }
    // Instrumentation leaves the status unset unless there was an error (OpenTelemetry trace API, "Set Status").
    if span.status == Status::Error {
        wire.message(15, |wire| wire.varint(3, status::StatusCode::Error as u64));
    }
}

fn kind(kind: SpanKind) -> span::SpanKind {
    match kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Producer => span::SpanKind::Producer,
        SpanKind::Consumer => span::SpanKind::Consumer,
        SpanKind::Internal => span::SpanKind::Internal,
    }
}

/// `Span.attributes`
pub(super) const ATTRIBUTES: u32 = 9;

fn attributes(wire: &mut Wire, span: &Span, ends: &mut Ends) {
    for (key, value) in &span.attributes {
        debug_assert!(!is_ours(key), "{key} would stand twice");
        match value {
            Value::String(text) => wire.text_pair(ATTRIBUTES, key, text),
            Value::Int(number) => wire.int_pair(ATTRIBUTES, key, *number),
            other => wire.pair(ATTRIBUTES, key, |wire| any(wire, other)),
        }
    }
    ends.write(wire, span);
    wire.text_pair(ATTRIBUTES, PROTOCOL, span.protocol.name());
    if span.status == Status::Unknown {
        wire.text_pair(ATTRIBUTES, STATUS, span.status.name());
    }
    if let Some(cause) = span.cause {
        wire.text_pair(ATTRIBUTES, CAUSE, cause);
    }
    if !span.segments.is_empty() {
        // `KeyValue { key = 1, value = 2 }`, `AnyValue.string_value = 1`
        wire.message_of_width(ATTRIBUTES, 2, |wire| {
            wire.text(1, SEGMENTS);
            wire.message_of_width(2, 2, |wire| {
                wire.message_of_width(1, 2, |wire| segments::write(wire, &span.segments));
            });
        });
        segment_sums(wire, &span.segments);
    }
}

/// Attributes that are written from the span's fields or its resource, and that the pipeline therefore does not make.
fn is_ours(key: &str) -> bool {
    const KEYS: [&str; 11] = [
        LOCAL_ADDRESS,
        LOCAL_PORT,
        PEER_ADDRESS,
        PEER_PORT,
        PROTOCOL,
        STATUS,
        CAUSE,
        SEGMENTS,
        PID,
        "process.executable.name",
        "process.executable.path",
    ];
    KEYS.contains(&key) || key.starts_with(SEGMENT_PREFIX)
}

/// Addresses and ports of the last connections as they were written: most spans of a block are of a few.
#[derive(Default)]
struct Ends {
    known: [([Option<Endpoint>; 2], Wire); ENDS_MAX],
    next: usize,
}

impl Ends {
    fn write(&mut self, wire: &mut Wire, span: &Span) {
        let ends = [Some(span.local), Some(span.peer)];
        // A path is not part of what names a socket.
        if span.local.inet().is_none() || span.peer.inet().is_none() {
            return both_ends(wire, span);
        }
        if let Some((_, written)) = self.known.iter().find(|(known, _)| *known == ends) {
            return wire.append(written.as_bytes());
        }
        let (known, written) = &mut self.known[self.next];
        self.next = (self.next + 1) % ENDS_MAX;
        *known = ends;
        written.clear();
        both_ends(written, span);
        wire.append(written.as_bytes());
    }
}

fn both_ends(wire: &mut Wire, span: &Span) {
    // What a unix socket is bound to is the name of the server's end; the client's has none.
    let is_server = span.kind == SpanKind::Server;
    let path = |is_server: bool| span.unix_path.as_deref().filter(|_| is_server);
    address(wire, span.local, path(is_server), LOCAL_ADDRESS, LOCAL_PORT);
    address(wire, span.peer, path(!is_server), PEER_ADDRESS, PEER_PORT);
}

/// Address and port; of a unix socket its path, else its inode number in brackets, as in `/proc/<pid>/fd`.
fn address(wire: &mut Wire, end: Endpoint, path: Option<&str>, address_key: &str, port_key: &str) {
    match (end, path) {
        (Endpoint::Inet(address), _) => {
            wire.text_pair(ATTRIBUTES, address_key, IpText::new(address.ip()).as_str());
            wire.int_pair(ATTRIBUTES, port_key, i64::from(address.port()));
        }
        (Endpoint::Unix(_), Some(path)) => wire.text_pair(ATTRIBUTES, address_key, path),
        (Endpoint::Unix(inode), None) => {
            wire.pair(ATTRIBUTES, address_key, |wire| wire.display(1, format_args!("[{inode}]")));
        }
    }
}

/// Per name: the sum, the worst evidence, and the sums of what the time was spent on in particular.
fn segment_sums(wire: &mut Wire, segments: &[Segment]) {
    let fragments = &*FRAGMENTS;
    let mut sums = [(0_u64, Evidence::Measured); SegmentName::ALL.len()];
    // Bits by name.
    let (mut used, mut divided) = (0_u32, 0_u32);
    for tile in segments {
        let (ns, worst) = &mut sums[tile.name as usize];
        (*ns, *worst) = (ns.saturating_add(tile.duration_ns), (*worst).max(tile.evidence));
        used |= 1 << tile.name as u32;
        divided |= u32::from(tile.by.is_some()) << tile.name as u32;
    }
    for name in SegmentName::ALL.into_iter().filter(|name| used >> *name as u32 & 1 != 0) {
        let (ns, worst) = sums[name as usize];
        let fixed = fragments.of(name);
        wire.int_pair(ATTRIBUTES, &fixed.ns, clamp(ns));
        wire.append(&fixed.evidence[worst as usize]);
        if divided >> name as u32 & 1 == 0 {
            continue;
        }
        let parts = || segments.iter().filter(|tile| tile.name == name && tile.by.is_some());
        for by in By::ALL {
            let part = parts().filter(|tile| tile.by == Some(by)).map(|tile| tile.duration_ns);
            if let Some(ns) = part.reduce(u64::saturating_add) {
                wire.int_pair(ATTRIBUTES, &fixed.by_ns[by as usize], clamp(ns));
            }
        }
    }
}

/// `AnyValue`
fn any(wire: &mut Wire, value: &Value) {
    match value {
        Value::String(value) => wire.text(1, value),
        Value::Bool(value) => wire.varint(2, u64::from(*value)),
        Value::Int(value) => wire.varint(3, value.cast_unsigned()),
        Value::Strings(values) => {
            wire.message(5, |wire| values.iter().for_each(|value| wire.message(1, |wire| wire.text(1, value))));
        }
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
