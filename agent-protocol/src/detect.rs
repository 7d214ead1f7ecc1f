//! Which protocol is this? From the first bytes of a connection, or, for one that is older than the agent, of calls.
//!
//! In: the first bytes of either direction, as far as they were seen; a late join may show only one. Out: a
//! [`Verdict`]. Called by `agent-core` until the verdict is final; it bounds how long it asks. Never guesses by port.

use crate::{
    amqp, cassandra, dns, fastcgi,
    http1::{Kind, StartLine},
    http2, kafka, memcached, mongodb, mqtt, mysql, nats, postgres, redis,
    session::Parser,
    tls,
};

/// Protocols, as a span names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC, over HTTP/2.
    Grpc,
    /// PostgreSQL's frontend/backend protocol 3.
    Postgres,
    /// MySQL's and MariaDB's client/server protocol.
    Mysql,
    /// Redis (RESP).
    Redis,
    /// memcached, text and binary.
    Memcached,
    /// Kafka.
    Kafka,
    /// MongoDB's wire protocol.
    Mongodb,
    /// AMQP 0-9-1.
    Amqp,
    /// NATS.
    Nats,
    /// MQTT 3.1, 3.1.1 and 5.
    Mqtt,
    /// FastCGI.
    FastCgi,
    /// Cassandra's native protocol (CQL).
    Cassandra,
    /// TLS, from its handshake on.
    Tls,
    /// DNS over UDP or TCP.
    Dns,
    /// Bytes over TCP or a unix socket that no parser knows or that were not captured.
    Tcp,
    /// Datagrams that no parser knows or that were not captured.
    Udp,
}

impl Protocol {
    /// Every one, in the order of their declaration.
    pub const ALL: [Self; 18] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Postgres,
        Self::Mysql,
        Self::Redis,
        Self::Memcached,
        Self::Kafka,
        Self::Mongodb,
        Self::Amqp,
        Self::Nats,
        Self::Mqtt,
        Self::FastCgi,
        Self::Cassandra,
        Self::Tls,
        Self::Dns,
        Self::Tcp,
        Self::Udp,
    ];

    /// Whether its peers put many messages into one call without being asked for each, so that a call hardly ever begins with one.
    pub const fn packs_messages(self) -> bool {
        matches!(self, Self::Amqp | Self::Nats | Self::Mqtt)
    }

    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Postgres => "postgresql",
            Self::Mysql => "mysql",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Kafka => "kafka",
            Self::Mongodb => "mongodb",
            Self::Amqp => "amqp",
            Self::Nats => "nats",
            Self::Mqtt => "mqtt",
            Self::FastCgi => "fastcgi",
            Self::Cassandra => "cassandra",
            Self::Tls => "tls",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// How bytes of one direction look to one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// They are its own, whatever the other direction's are.
    Yes,
    /// They fit, but others' could look the same: it is this protocol if the other direction fits as well.
    Likely,
    /// They fit so far; more are needed.
    Partial,
    /// They are not its own.
    No,
}

/// What the bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This protocol: bytes of one direction say so, whatever the other's.
    Is(Protocol),
    /// No direction says so yet, and at least one may still do.
    NotYet,
    /// None that is known here.
    Unknown,
}

/// What [`detect`] knows of a protocol.
struct Entry {
    protocol: Protocol,
    /// How it looks at the first bytes that clients send.
    client: fn(&[u8]) -> Sign,
    /// How it looks at the first bytes that servers send.
    server: fn(&[u8]) -> Sign,
    /// Its parser; HTTP/1, TLS and DNS are paired by code of their own.
    parser: Option<fn() -> Box<dyn Parser>>,
}

const fn entry(
    protocol: Protocol,
    client: fn(&[u8]) -> Sign,
    server: fn(&[u8]) -> Sign,
    parser: Option<fn() -> Box<dyn Parser>>,
) -> Entry {
    Entry { protocol, client, server, parser }
}

/// One line per protocol. Of several that say yes, the first is believed.
const PROTOCOLS: &[Entry] = &[
    entry(
        Protocol::Http1,
        |sent| StartLine::check(Kind::Request, sent),
        |sent| StartLine::check(Kind::Response, sent),
        None,
    ),
    entry(Protocol::Http2, http2::check_client, http2::check_server, Some(http2::new)),
    entry(Protocol::Dns, dns::check_stream, |_| Sign::No, None),
    entry(Protocol::Redis, redis::check_client, redis::check_server, Some(redis::new)),
    entry(Protocol::Postgres, postgres::check_client, postgres::check_server, Some(postgres::new)),
    entry(Protocol::Mysql, mysql::check_client, mysql::check_server, Some(mysql::new)),
    entry(Protocol::Memcached, memcached::check_client, memcached::check_server, Some(memcached::new)),
    entry(Protocol::Nats, nats::check_client, nats::check_server, Some(nats::new)),
    entry(Protocol::FastCgi, fastcgi::check_client, fastcgi::check_server, Some(fastcgi::new)),
    entry(Protocol::Mqtt, mqtt::check_client, mqtt::check_server, Some(mqtt::new)),
    entry(Protocol::Tls, |sent| tls::check(sent, false), |sent| tls::check(sent, true), None),
    entry(Protocol::Kafka, kafka::check_client, kafka::check_server, Some(|| Box::<kafka::Kafka>::default())),
    entry(Protocol::Amqp, amqp::check_client, amqp::check_server, Some(|| Box::<amqp::Amqp>::default())),
    entry(
        Protocol::Cassandra,
        cassandra::check_client,
        cassandra::check_server,
        Some(|| Box::<cassandra::Cassandra>::default()),
    ),
    entry(Protocol::Mongodb, mongodb::check_client, mongodb::check_server, Some(|| Box::<mongodb::Mongodb>::default())),
];

/// A new parser of a protocol, if it is one of [`crate::session`].
pub fn parser(protocol: Protocol) -> Option<Box<dyn Parser>> {
    let entry = PROTOCOLS.iter().find(|entry| entry.protocol == protocol)?;
    entry.parser.map(|new| new())
}

/// Judges the first bytes of both directions; an empty slice is one that was not seen.
pub fn detect(client_to_server: &[u8], server_to_client: &[u8]) -> Verdict {
    detect_but(client_to_server, server_to_client, &[])
}

/// The same, with protocols that the bytes turned out not to be.
pub fn detect_but(client_to_server: &[u8], server_to_client: &[u8], excluded: &[Protocol]) -> Verdict {
    let mut open = client_to_server.is_empty() && server_to_client.is_empty();
    for entry in PROTOCOLS.iter().filter(|entry| !excluded.contains(&entry.protocol)) {
        let sign = |bytes: &[u8], check: fn(&[u8]) -> Sign| if bytes.is_empty() { Sign::Partial } else { check(bytes) };
        let signs = [sign(client_to_server, entry.client), sign(server_to_client, entry.server)];
        match signs {
            [Sign::Yes, _] | [_, Sign::Yes] | [Sign::Likely, Sign::Likely] => return Verdict::Is(entry.protocol),
            [Sign::No, Sign::No] => {}
            // What is likely, but for the other direction, is not.
            [Sign::Likely, Sign::No] | [Sign::No, Sign::Likely] => {}
            [client, server] => {
                let partial = |bytes: &[u8], sign| !bytes.is_empty() && sign == Sign::Partial;
                let likely = client == Sign::Likely || server == Sign::Likely;
                open |= likely || partial(client_to_server, client) || partial(server_to_client, server);
            }
        }
    }
    if open { Verdict::NotYet } else { Verdict::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(client: &[u8], server: &[u8], expected: Verdict) {
        assert_eq!(detect(client, server), expected, "{} / {}", client.escape_ascii(), server.escape_ascii());
    }

    #[test]
    fn all_are_listed() {
        let places: Vec<usize> = Protocol::ALL.iter().map(|protocol| *protocol as usize).collect();
        // The last one that is declared.
        assert_eq!(places, (0..=Protocol::Udp as usize).collect::<Vec<_>>());
    }

    #[test]
    fn either_direction_is_enough() {
        let is = Verdict::Is(Protocol::Http1);
        check(b"GET / HTTP/1.1\r\n", b"", is);
        check(b"", b"HTTP/1.0 200 OK\r\n", is);
        check(b"\x00rest of a body", b"HTTP/1.1 200 OK\r\n", is);
        check(b"POST /x HTTP/1.1\r\n", b"rest of a body", is);
    }

    #[test]
    fn hellos_say_tls_and_which_end_is_which() {
        check(b"\x16\x03\x01\x02\x00\x01", b"", Verdict::Is(Protocol::Tls));
        check(b"", b"\x16\x03\x03\x00\x7a\x02", Verdict::Is(Protocol::Tls));
        check(b"", b"\x16\x03\x01\x02\x00\x01", Verdict::Unknown);
        check(b"\x16\x03\x01\x02\x00", b"", Verdict::NotYet);
    }

    #[test]
    fn too_few_bytes_are_not_yet_a_verdict() {
        check(b"", b"", Verdict::NotYet);
        check(b"GE", b"", Verdict::NotYet);
        check(b"", b"HTTP/1.", Verdict::NotYet);
        check(b"\x00\x01", b"HTT", Verdict::NotYet);
    }

    #[test]
    fn foreign_bytes_are_unknown() {
        check(b"\x17\x03\x03\x02\x00\x01", b"", Verdict::Unknown);
        check(b"\x16\x03\x01\x02\x00\x02", b"", Verdict::Unknown);
        check(b"", b"220 mail.test ESMTP\r\n", Verdict::Unknown);
        check(b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", Verdict::Unknown);
    }
}
