//! Messages about connections.

/// Path of the server-streaming method `Connections`: [`ConnectionsRequest`] -> [`ConnView`].
pub const CONNECTIONS_PATH: &str = "/spantap.query.v1.Query/Connections";

/// Asks for the connections that are known now, and the last that closed.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ConnectionsRequest {}

/// The life of a connection. Retransmitted segments in requests, in the handshake and outside of both sum to the total.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConnView {
    /// Unique on this host since boot.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// This end, `ip:port` or `unix:path`.
    #[prost(string, tag = "2")]
    pub local: String,
    /// The other end.
    #[prost(string, tag = "3")]
    pub peer: String,
    /// `client` or `server`; empty: not known.
    #[prost(string, tag = "4")]
    pub role: String,
    /// The process that opened or first used it; 0: unknown.
    #[prost(uint32, tag = "5")]
    pub pid: u32,
    /// `open`, `closing`, `closed`, `reset`, `failed`.
    #[prost(string, tag = "6")]
    pub state: String,
    /// When it was opened; none: it is older than the agent.
    #[prost(fixed64, optional, tag = "7")]
    pub opened_unix_ns: Option<u64>,
    /// When it went away; none: it did not.
    #[prost(fixed64, optional, tag = "8")]
    pub closed_unix_ns: Option<u64>,
    /// Bytes that this end wrote; of a connection that is older than the agent, since then.
    #[prost(uint64, tag = "9")]
    pub bytes_sent: u64,
    /// Bytes that it read, likewise.
    #[prost(uint64, tag = "10")]
    pub bytes_received: u64,
    /// Requests with what came of them.
    #[prost(uint64, tag = "11")]
    pub exchanges: u64,
    /// Segments that this end sent again.
    #[prost(uint64, tag = "12")]
    pub retransmits_total: u64,
    /// Those of a client's requests, or of a server's responses.
    #[prost(uint64, tag = "13")]
    pub retransmits_in_requests: u64,
    /// SYN of a client, SYN-ACK of a server.
    #[prost(uint64, tag = "14")]
    pub retransmits_handshake: u64,
    /// The rest: FIN, probes, bytes of no exchange.
    #[prost(uint64, tag = "15")]
    pub retransmits_outside: u64,
    /// Segments that arrived here out of order.
    #[prost(uint64, tag = "16")]
    pub out_of_order: u64,
    /// Smoothed round-trip time; none: no sample.
    #[prost(uint32, optional, tag = "17")]
    pub srtt_us: Option<u32>,
    /// Smallest round-trip time; none: no sample.
    #[prost(uint32, optional, tag = "18")]
    pub min_rtt_us: Option<u32>,
    /// `peer` or `local`; empty: it was not reset.
    #[prost(string, tag = "19")]
    pub reset_by: String,
    /// TLS: `readable` if what is inside is seen, `not covered: …` with why if it is not; empty: no TLS was seen.
    #[prost(string, tag = "20")]
    pub tls: String,
}
