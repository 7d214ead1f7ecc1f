//! HTTP/1.0 and HTTP/1.1 (RFC 9112). Types first; see the parsers below.

/// What a request head says, without anything that could be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Method as sent (a token of at most 32 bytes).
    pub method: String,
    /// Path of the target without query and fragment; `*` and authority forms as sent.
    pub path: String,
    /// Names (never values) of query parameters, at most 32.
    pub query_names: Vec<String>,
    /// Minor version: 0 or 1.
    pub minor_version: u8,
    /// `Host`, or the authority of an absolute target.
    pub host: Option<String>,
    /// `traceparent` as sent (at most 128 bytes); several different ones give `None`.
    pub traceparent: Option<String>,
    /// Names of the header fields, lower case, at most 64.
    pub header_names: Vec<String>,
    /// `Content-Length`, if that frames the body.
    pub content_length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    /// Bytes of the head.
    pub head_bytes: u64,
}

/// What a response head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 200 to 599 (interim responses are counted, not reported), and 101.
    pub status: u16,
    /// Minor version: 0 or 1.
    pub minor_version: u8,
    /// Interim (1xx) responses that came before.
    pub interim: u16,
    /// `Content-Length`, if that frames the body.
    pub content_length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    /// Whether only the end of the connection ends the body.
    pub until_close: bool,
    /// Names of the header fields, lower case, at most 64.
    pub header_names: Vec<String>,
    /// Bytes of the head.
    pub head_bytes: u64,
}
