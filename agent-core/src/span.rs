//! Our own model of a span: what happened, when, and where its time went. Not OTLP; `agent` maps it.

use std::sync::Arc;

pub use agent_protocol::session::{Protocol, Text, Value};

use crate::{container::ContainerFacts, endpoint::Endpoint};

/// W3C trace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// W3C span (parent) id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub [u8; 8]);

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MonotonicNs(pub u64);

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixNs(pub u64);

/// OpenTelemetry span kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// Handled a request.
    Server,
    /// Made a request.
    Client,
    /// Sent a message that someone else handles later.
    Producer,
    /// Handled such a message.
    Consumer,
    /// Neither.
    Internal,
}

/// Outcome of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The end was seen and nothing in it says error.
    Ok,
    /// The protocol or the kernel reported an error; see `error.type`.
    Error,
    /// The end was not seen, or not understood.
    Unknown,
}

/// How a segment's duration is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// Both boundaries were observed.
    Measured,
    /// Computed from other measurements by a documented rule.
    Derived,
    /// A guess from circumstances.
    Inferred,
}

/// Where time can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SegmentName {
    /// Name resolution that the request waited for.
    Dns,
    /// TCP handshake, as the client waits for it.
    Connect,
    /// In the queue of established connections, until the server accepted this one.
    AcceptQueue,
    /// TLS handshake.
    Tls,
    /// From the application into the socket, including waiting for send-buffer room.
    Send,
    /// In the socket, held back by the congestion window, the peer's window or pacing.
    Held,
    /// In the queueing discipline and driver of this host.
    Queue,
    /// On the path: to the peer's kernel and back.
    Network,
    /// In the peer: from its kernel having the request to the first byte of its answer leaving.
    Remote,
    /// First to last byte of a message on the wire.
    Transfer,
    /// From the network interface's interrupt to TCP.
    Softirq,
    /// In the receive buffer, while the reader did something else.
    ReceiveBuffer,
    /// In the receive buffer, while the reader slept waiting for it and was not yet woken.
    Wakeup,
    /// Runnable, waiting for a CPU.
    RunQueue,
    /// In the application, asleep; [`Segment::by`] says in what.
    OffCpu,
    /// In the application, on a CPU or not known to be off one.
    Application,
    /// Nothing that was observed says where.
    Unexplained,
}

/// One tile of a span. Tiles are in order, touch each other and cover the span exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the time went.
    pub name: SegmentName,
    /// Offset from the span's start.
    pub offset_ns: u64,
    /// Length.
    pub duration_ns: u64,
    /// How that is known.
    pub evidence: Evidence,
    /// What the time was spent on in particular, if that is known.
    pub by: Option<By>,
    /// Kernel records that were lost while it ran.
    pub lost_records: u32,
}

/// What a segment's time was spent on in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// `off_cpu`: waiting for a lock (futex).
    Lock,
    /// `off_cpu`: waiting for a disk.
    Disk,
    /// `off_cpu`: in a call on a socket, pipe or the like that reads, writes, connects or accepts.
    Socket,
    /// `off_cpu`: asleep by its own wish.
    Sleep,
    /// `off_cpu`: waiting for whatever event comes first.
    Poll,
    /// `off_cpu`: something else.
    Other,
    /// `run_queue`: the cgroup had used up its CPU quota.
    Throttled,
}

/// A reference to another span that is related, but not surely the parent.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Trace of the other span.
    pub trace_id: TraceId,
    /// The other span.
    pub span_id: SpanId,
    /// How the link was made, and how sure it is.
    pub evidence: &'static str,
}

/// What is known of the process behind a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// `process.executable.name`.
    pub executable_name: Option<String>,
    /// `process.executable.path`.
    pub executable_path: Option<String>,
    /// What the kernel calls it (`comm`), which a child has too until it executes something else. Not exported.
    pub command: Option<String>,
    /// Whether this is what was known of its parent, since it had ended itself before it could be read.
    pub inherited: bool,
    /// Whether `service_name` is what the pod's name looks like.
    pub service_inferred: bool,
    /// `service.name`, from the environment, else the container's workload, else the executable or script.
    pub service_name: Option<String>,
    /// Whether `service_name` was declared by `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES`.
    pub service_declared: bool,
    /// `service.namespace`, likewise.
    pub service_namespace: Option<String>,
    /// `service.version`, likewise.
    pub service_version: Option<String>,
    /// `deployment.environment.name`, likewise.
    pub deployment_environment: Option<String>,
    /// The container that it runs in.
    pub container: Option<Arc<ContainerFacts>>,
}

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Trace.
    pub trace_id: TraceId,
    /// This span.
    pub span_id: SpanId,
    /// Its parent, if known for sure.
    pub parent_span_id: Option<SpanId>,
    /// Kind.
    pub kind: SpanKind,
    /// Low-cardinality name.
    pub name: Text,
    /// The process that the socket belongs to.
    pub process: Arc<ProcessFacts>,
    /// Start.
    pub start: UnixNs,
    /// Length.
    pub duration_ns: u64,
    /// Outcome.
    pub status: Status,
    /// Protocol.
    pub protocol: Protocol,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub peer: Endpoint,
    /// Unix: the name that the server's end is bound to, if it is known.
    pub unix_path: Option<Arc<str>>,
    /// Attributes by their OpenTelemetry names, in order of insertion, no key twice.
    pub attributes: Vec<(&'static str, Value)>,
    /// Tiles of `[0, duration_ns)`.
    pub segments: Vec<Segment>,
    /// The dominant cause of its duration, by its stable id.
    pub cause: Option<&'static str>,
    /// Related spans.
    pub links: Vec<Link>,
}

impl SpanKind {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::Internal => "internal",
        }
    }
}

impl Status {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

impl Evidence {
    /// Every kind, the best first.
    pub const ALL: [Self; 3] = [Self::Measured, Self::Derived, Self::Inferred];

    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Derived => "derived",
            Self::Inferred => "inferred",
        }
    }
}

impl SegmentName {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::AcceptQueue => "accept_queue",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Held => "held",
            Self::Queue => "queue",
            Self::Network => "network",
            Self::Remote => "remote",
            Self::Transfer => "transfer",
            Self::Softirq => "softirq",
            Self::ReceiveBuffer => "receive_buffer",
            Self::Wakeup => "wakeup",
            Self::RunQueue => "run_queue",
            Self::OffCpu => "off_cpu",
            Self::Application => "application",
            Self::Unexplained => "unexplained",
        }
    }
}

impl SegmentName {
    /// Every name, in the order of a request's way.
    pub const ALL: [Self; 17] = [
        Self::Dns,
        Self::Connect,
        Self::AcceptQueue,
        Self::Tls,
        Self::Send,
        Self::Held,
        Self::Queue,
        Self::Network,
        Self::Remote,
        Self::Transfer,
        Self::Softirq,
        Self::ReceiveBuffer,
        Self::Wakeup,
        Self::RunQueue,
        Self::OffCpu,
        Self::Application,
        Self::Unexplained,
    ];

    /// The name that [`SegmentName::name`] gives.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl By {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Lock, Self::Disk, Self::Socket, Self::Sleep, Self::Poll, Self::Other, Self::Throttled];

    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Disk => "disk",
            Self::Socket => "socket",
            Self::Sleep => "sleep",
            Self::Poll => "poll",
            Self::Other => "other",
            Self::Throttled => "throttled",
        }
    }

    /// The one that [`By::name`] gives.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}
