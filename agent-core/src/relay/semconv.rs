//! Old names of the OpenTelemetry semantic conventions and the stable ones in their place.
//!
//! Only where the value means the same and has the same type: `http.target` (now two attributes), `http.flavor` and `net.transport`
//! (other values) stay as they are.

/// From (HTTP and networking before 1.21, databases before 1.28, code before 1.30, messaging before 1.26), to.
pub const SEMANTIC_CONVENTIONS: &[(&str, &str)] = &[
    ("code.column", "code.column.number"),
    ("code.filepath", "code.file.path"),
    ("code.function", "code.function.name"),
    ("code.lineno", "code.line.number"),
    ("db.cassandra.table", "db.collection.name"),
    ("db.mongodb.collection", "db.collection.name"),
    ("db.name", "db.namespace"),
    ("db.operation", "db.operation.name"),
    ("db.sql.table", "db.collection.name"),
    ("db.statement", "db.query.text"),
    ("db.system", "db.system.name"),
    ("deployment.environment", "deployment.environment.name"),
    ("faas.execution", "faas.invocation_id"),
    ("http.client_ip", "client.address"),
    ("http.method", "http.request.method"),
    ("http.request_content_length", "http.request.body.size"),
    ("http.resend_count", "http.request.resend_count"),
    ("http.response_content_length", "http.response.body.size"),
    ("http.scheme", "url.scheme"),
    ("http.status_code", "http.response.status_code"),
    ("http.url", "url.full"),
    ("http.user_agent", "user_agent.original"),
    ("messaging.conversation_id", "messaging.message.conversation_id"),
    ("messaging.destination", "messaging.destination.name"),
    ("messaging.kafka.message.offset", "messaging.kafka.offset"),
    ("messaging.message_id", "messaging.message.id"),
    ("messaging.operation", "messaging.operation.type"),
    ("net.host.ip", "network.local.address"),
    ("net.host.name", "server.address"),
    ("net.host.port", "server.port"),
    ("net.peer.ip", "network.peer.address"),
    ("net.peer.name", "server.address"),
    ("net.peer.port", "server.port"),
    ("net.protocol.name", "network.protocol.name"),
    ("net.protocol.version", "network.protocol.version"),
    ("net.sock.host.addr", "network.local.address"),
    ("net.sock.host.port", "network.local.port"),
    ("net.sock.peer.addr", "network.peer.address"),
    ("net.sock.peer.port", "network.peer.port"),
    ("otel.library.name", "otel.scope.name"),
    ("otel.library.version", "otel.scope.version"),
];

/// Spans of kind server and consumer: their peer is the client.
pub const SEMANTIC_CONVENTIONS_OF_SERVERS: &[(&str, &str)] =
    &[("net.peer.name", "client.address"), ("net.peer.port", "client.port")];
