//! Requests: what their heads say.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Request, Status};

use super::{
    engine::{Engine, Limits, Parsed, Side},
    head::{Fields, Framing, HEADERS_MAX, cut},
    line::Kind,
    service::AwsCall,
};
use crate::{
    content::{Scan, Target as Asks},
    input::{Event, Input, Lost},
    session::{Text, Texts, TraceParent},
    traceparent,
};

pub(crate) const PATH_BYTES_MAX: usize = 1024;
pub(crate) const HOST_BYTES_MAX: usize = 512;
const TRACEPARENT_BYTES_MAX: usize = 128;
const AUTHORIZATION_BYTES_MAX: usize = 2048;
const QUERY_NAMES_MAX: usize = 32;
const QUERY_NAME_BYTES_MAX: usize = 64;

/// Methods that are told by name (semantic conventions: RFC 9110, and PATCH of RFC 5789).
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// The method, if it is one that is told by name.
pub fn known_method(method: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == method)
}

/// What a request head says, without anything that could be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Method as sent (a token of at most 32 bytes).
    pub method: Text,
    /// Path of the target without query and fragment, percent-encoding as sent, cut to 1,024 bytes; `*` as sent,
    /// authority forms without user information.
    pub path: String,
    /// Whether `path` was cut.
    pub path_truncated: bool,
    /// Names (never values) of query parameters, at most 32, each cut to 64 bytes. A parameter without `=` may be a
    /// bare value and is left out.
    pub query_names: Vec<String>,
    /// Minor version: 0 or 1.
    pub minor_version: u8,
    /// `Host`, or the authority of an absolute target, without user information; at most 512 bytes, several different
    /// ones give `None`.
    pub host: Option<Text>,
    /// `traceparent`; one that is not valid, or several different ones, give `None`.
    pub trace: Option<TraceParent>,
    /// The call of an AWS API that the request is signed as.
    pub aws: Option<AwsCall>,
    /// `Content-Length`, if that frames the body.
    pub content_length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    /// Bytes of the head.
    pub head_bytes: u64,
}

/// Parser of the direction from client to server.
#[derive(Debug)]
pub struct Requests {
    engine: Engine<RequestSide>,
}

impl Default for Requests {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Requests {
    /// At the first byte of a connection, or of a call that `detect` recognised.
    pub fn new(limits: Limits) -> Self {
        Self { engine: Engine::new(RequestSide::default(), limits) }
    }

    /// Feeds the next piece; what it completes is appended to `out`.
    pub fn feed(&mut self, input: Input<'_>, out: &mut Vec<Event<RequestHead>>) {
        self.engine.feed(input, out);
    }

    /// Offset of the next input byte.
    pub const fn offset(&self) -> u64 {
        self.engine.offset()
    }

    /// The caller knows that the next input byte starts a request (say, because everything before was answered). If
    /// that input can start one, an unfinished request ends there as `Inferred`, and a lost parser resumes there. With
    /// framing intact only a whole request line is believed. Lasts for one input.
    pub const fn hint_message_start(&mut self) {
        self.engine.hint_message_start();
    }

    /// The response agreed to another protocol (101, or 2xx to CONNECT), which begins at this offset, usually the end
    /// of the request: from there on input is ignored.
    pub fn switch(&mut self, at: u64) {
        self.engine.switch(at);
    }
}

#[derive(Debug, Default)]
struct RequestSide {
    /// Hosts that were asked for, services, regions, operations.
    texts: Texts,
}

impl Side for RequestSide {
    type Head = RequestHead;
    const KIND: Kind = Kind::Request;

    fn parse(&mut self, head: &[u8]) -> Result<Parsed<RequestHead>, Lost> {
        let line = &head[..head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len())];
        let (mut request, framing, content) = if std::str::from_utf8(line).is_ok() {
            read(head, &mut self.texts)?
        } else {
            read(&encode_line(head, line.len()), &mut self.texts)?
        };
        request.head_bytes = head.len() as u64;
        Ok(Parsed::Final(request, framing, content))
    }

    fn lost(&mut self) {}
}

/// Percent-encodes what is not ASCII in a request line (which the start line's check allows in the target only).
fn encode_line(head: &[u8], line_bytes: usize) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(head.len() + 64);
    for &byte in &head[..line_bytes] {
        if byte.is_ascii() {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    encoded.extend_from_slice(&head[line_bytes..]);
    encoded
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn read(head: &[u8], texts: &mut Texts) -> Result<(RequestHead, Framing, Option<Scan>), Lost> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = Request::new(&mut []);
    let mut config = ParserConfig::default();
    config.ignore_invalid_headers_in_requests(true);
    match config.parse_request_with_uninit_headers(&mut request, head, &mut fields) {
        Ok(Status::Complete(bytes)) if bytes == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Lost::TooLarge),
        _ => return Err(Lost::Malformed),
    }
    let (Some(method), Some(target), Some(minor_version)) = (request.method, request.path, request.version) else {
        return Err(Lost::Malformed);
    };
    let fields = Fields::new(request.headers);
    let framing = fields.request_framing()?;
    let target = Target::new(method, target);
    let path = cut(target.path, PATH_BYTES_MAX);
    let host = match target.authority {
        // RFC 9112 section 3.2.2: an absolute target's authority overrides Host.
        Some(authority) if method != "CONNECT" => Some(authority),
        authority => fields.host.text(HOST_BYTES_MAX).map(without_user).or(authority),
    };
    let head = RequestHead {
        method: known_method(method).map_or_else(|| method.to_owned().into(), Text::from),
        path: path.to_owned(),
        path_truncated: path.len() < target.path.len(),
        query_names: query_names(target.query).map(str::to_owned).collect(),
        minor_version,
        host: host.filter(|host| !host.is_empty() && host.len() <= HOST_BYTES_MAX).map(|host| texts.text(host)),
        trace: fields.traceparent.text(TRACEPARENT_BYTES_MAX).and_then(traceparent::parse),
        aws: AwsCall::new(
            fields.authorization.text(AUTHORIZATION_BYTES_MAX),
            fields.amz_target.text(HOST_BYTES_MAX),
            texts,
        ),
        content_length: framing.length(),
        chunked: framing == Framing::Chunked,
        head_bytes: 0,
    };
    let asks = Asks { path: &head.path, host: head.host.as_deref(), anthropic: fields.has_anthropic_version };
    let content = Scan::request(method, fields.media(), asks);
    Ok((head, framing, content))
}

/// A request target (RFC 9112 section 3.2), taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    path: &'a str,
    query: &'a str,
    authority: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn new(method: &str, target: &'a str) -> Self {
        if method == "CONNECT" {
            let authority = without_user(target);
            return Self { path: authority, query: "", authority: Some(authority) };
        }
        let (authority, rest) = match absolute(target) {
            Some((authority, rest)) => (Some(without_user(authority)), rest),
            None => (None, target),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = if path.is_empty() { "/" } else { path };
        Self { path, query, authority }
    }
}

/// Authority, and path with query, of `scheme://authority/path?query`.
fn absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    is_scheme.then(|| rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
}

/// An authority without `user:password@`, which is secret.
pub(crate) fn without_user(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}

/// Names of a query's parameters, at most 32, each cut to 64 bytes. A parameter without `=` may be a bare value.
pub(crate) fn query_names(query: &str) -> impl Iterator<Item = &str> {
    let named = query.split('&').filter_map(|parameter| parameter.split_once('='));
    let names = named.map(|(name, _)| name).filter(|name| !name.is_empty());
    names.take(QUERY_NAMES_MAX).map(|name| cut(name, QUERY_NAME_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &[u8]) -> Result<RequestHead, Lost> {
        match RequestSide::default().parse(head)? {
            Parsed::Final(head, ..) => Ok(head),
            Parsed::Interim => panic!("requests have no interim heads"),
        }
    }

    fn check_target(line: &str, path: &str, host: Option<&str>, names: &[&str]) {
        let head = parse(format!("{line} HTTP/1.1\r\nHost: from.header:80\r\n\r\n").as_bytes()).expect(line);
        assert_eq!((head.path.as_str(), head.host.as_deref()), (path, host), "{line}");
        assert_eq!(head.query_names, names, "{line}");
    }

    #[test]
    fn targets_lose_query_values_fragments_and_user_information() {
        let header = Some("from.header:80");
        check_target("GET /", "/", header, &[]);
        check_target("GET /a%2Fb;v=1?x=1&token=s3cret&=3&bare&y=#frag?z=1", "/a%2Fb;v=1", header, &["x", "token", "y"]);
        check_target("GET http://u:p@abs.test:8080/x?q=1", "/x", Some("abs.test:8080"), &["q"]);
        check_target("GET http://abs.test?q=1", "/", Some("abs.test"), &["q"]);
        check_target("GET /go?to=http://other/x", "/go", header, &["to"]);
        check_target("GET /http://other/x", "/http://other/x", header, &[]);
        check_target("OPTIONS *", "*", header, &[]);
        check_target("CONNECT u:p@db.test:443", "db.test:443", header, &[]);
        check_target("GET /caf\u{e9}?\u{e9}=1", "/caf\u{e9}", header, &["\u{e9}"]);
    }

    #[test]
    fn a_target_that_is_not_utf8_is_percent_encoded() {
        let head = parse(b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n").expect("accepted");
        assert_eq!((head.path.as_str(), head.head_bytes), ("/caf%E9", 31));
    }

    #[test]
    fn long_paths_are_cut_and_say_so() {
        let head = parse(format!("GET /{} HTTP/1.1\r\n\r\n", "\u{e9}".repeat(600)).as_bytes()).expect("accepted");
        assert_eq!((head.path.len(), head.path_truncated), (1023, true), "cut before the character in the middle");
        let head = parse(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1023)).as_bytes()).expect("accepted");
        assert_eq!((head.path.len(), head.path_truncated), (1024, false));
    }

    #[test]
    fn conflicting_singles_give_nothing_and_equal_ones_count_once() {
        let one = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let head = |fields: &str| parse(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()).expect("accepted");
        let parsed = traceparent::parse(one);
        assert!(parsed.is_some());
        assert_eq!(head(&format!("TraceParent: {one}\r\n")).trace, parsed);
        assert_eq!(head(&format!("traceparent: {one}\r\ntraceparent:{one}\r\n")).trace, parsed);
        assert_eq!(head(&format!("traceparent: {one}\r\ntraceparent: other\r\n")).trace, None);
        assert_eq!(head(&format!("traceparent: cc{}-{}\r\n", &one[2..], "0".repeat(80))).trace, None);
        assert_eq!(head("Host: a\r\nHost: b\r\n").host, None);
        assert_eq!(head("Host: \r\n").host, None);
        assert_eq!(head("Host: user:password@a:1\r\n").host.as_deref(), Some("a:1"));
    }

    #[test]
    fn invalid_fields_are_passed_over_and_too_many_are_none() {
        let head = parse(b"GET / HTTP/1.1\r\nbad name: x\r\n folded\r\nHost: y\r\n\r\n").expect("accepted");
        assert_eq!(head.host.as_deref(), Some("y"));
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(parse(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()), Err(Lost::TooLarge));
    }
}
