//! Header fields: those that something is said of, already without what may be secret; of all others, that they are there.

use std::borrow::Cow;

use crate::{
    content::Media,
    http1::{HOST_BYTES_MAX, PATH_BYTES_MAX, cut, query_names, without_user},
    http2::grpc,
    traceparent::{self, TraceParent},
};

/// Longest name that is looked at.
pub(super) const NAME_BYTES_MAX: usize = 17;
/// Longest text of a field: a path, and as many names of the query's parameters as fit.
pub(super) const TEXT_BYTES_MAX: usize = 2 * PATH_BYTES_MAX;
/// Longest method that is told.
const METHOD_BYTES_MAX: usize = 32;
/// Most text of a head: path, method and scheme, authority and host.
pub(in crate::http2) const HEAD_BYTES_MAX: usize = TEXT_BYTES_MAX + 2 * METHOD_BYTES_MAX + 2 * HOST_BYTES_MAX;

/// Names that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    ContentType,
    ContentEncoding,
    AnthropicVersion,
    Host,
    TraceParent,
    GrpcStatus,
    GrpcTimeout,
    /// Any other.
    Other,
    /// An entry of the dynamic table that is not known.
    Unresolved,
}

impl Name {
    /// Field names are in lower case (RFC 9113, 8.2.1).
    pub const fn of(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"content-encoding" => Self::ContentEncoding,
            b"anthropic-version" => Self::AnthropicVersion,
            b"host" => Self::Host,
            b"traceparent" => Self::TraceParent,
            b"grpc-status" => Self::GrpcStatus,
            b"grpc-timeout" => Self::GrpcTimeout,
            _ => Self::Other,
        }
    }
}

/// A field; `T` is its text. A value that cannot be read is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http2) enum Field<T> {
    /// Without user information.
    Authority(T),
    Method(T),
    /// The path and, behind a `?` and with `&` between them, the names of the query's parameters.
    Path(T),
    Scheme(T),
    Status(u16),
    /// Whether it is that of gRPC, and what else it is.
    ContentType {
        grpc: bool,
        media: Media,
    },
    /// Whether the body is not sent as it is.
    ContentEncoding {
        encoded: bool,
    },
    /// That it is there.
    AnthropicVersion,
    /// Without user information.
    Host(T),
    TraceParent(TraceParent),
    GrpcStatus(u32),
    /// Milliseconds.
    GrpcTimeout(u64),
    /// One that nothing is said of.
    Other,
    /// An entry of the dynamic table that is not known.
    Unresolved,
}

/// Buffers of [`Field::read`].
#[derive(Debug, Default)]
pub(super) struct Room {
    path: String,
}

impl<'a> Field<&'a str> {
    /// From a value as it was sent; of one that is `incomplete`, the end is missing.
    pub(super) fn read(name: Name, value: &'a [u8], incomplete: bool, room: &'a mut Room) -> Self {
        Self::read_known(name, value, incomplete, room).unwrap_or(Self::Other)
    }

    fn read_known(name: Name, value: &'a [u8], incomplete: bool, room: &'a mut Room) -> Option<Self> {
        if name == Name::Path {
            return Some(Self::Path(path(value, &mut room.path)));
        }
        if incomplete || matches!(name, Name::Other | Name::Unresolved) {
            return (name == Name::Unresolved).then_some(Self::Unresolved);
        }
        let text = std::str::from_utf8(value).ok()?;
        Some(match name {
            Name::Authority => Self::Authority(authority(text)?),
            Name::Host => Self::Host(authority(text)?),
            Name::Method => Self::Method(cut(text, METHOD_BYTES_MAX)),
            Name::Scheme => Self::Scheme(cut(text, METHOD_BYTES_MAX)),
            Name::Status => Self::Status(number(value, 3)?.try_into().ok()?),
            Name::ContentType => Self::ContentType { grpc: grpc::is_content_type(text), media: Media::of(text) },
            Name::ContentEncoding => Self::ContentEncoding { encoded: !text.eq_ignore_ascii_case("identity") },
            Name::AnthropicVersion => Self::AnthropicVersion,
            Name::TraceParent => Self::TraceParent(traceparent::parse(text)?),
            Name::GrpcStatus => Self::GrpcStatus(number(value, 9)?),
            Name::GrpcTimeout => Self::GrpcTimeout(grpc::timeout_ms(value)?),
            Name::Path | Name::Other | Name::Unresolved => return None,
        })
    }

    /// For the dynamic table.
    pub(super) fn keep(self) -> Field<Box<str>> {
        match self {
            Self::Authority(text) => Field::Authority(text.into()),
            Self::Method(text) => Field::Method(text.into()),
            Self::Path(text) => Field::Path(text.into()),
            Self::Scheme(text) => Field::Scheme(text.into()),
            Self::Host(text) => Field::Host(text.into()),
            Self::Status(status) => Field::Status(status),
            Self::ContentType { grpc, media } => Field::ContentType { grpc, media },
            Self::ContentEncoding { encoded } => Field::ContentEncoding { encoded },
            Self::AnthropicVersion => Field::AnthropicVersion,
            Self::TraceParent(trace) => Field::TraceParent(trace),
            Self::GrpcStatus(status) => Field::GrpcStatus(status),
            Self::GrpcTimeout(timeout) => Field::GrpcTimeout(timeout),
            Self::Other => Field::Other,
            Self::Unresolved => Field::Unresolved,
        }
    }
}

impl Field<Box<str>> {
    /// As it is told.
    pub(super) fn tell(&self) -> Field<&str> {
        match self {
            Self::Authority(text) => Field::Authority(text),
            Self::Method(text) => Field::Method(text),
            Self::Path(text) => Field::Path(text),
            Self::Scheme(text) => Field::Scheme(text),
            Self::Host(text) => Field::Host(text),
            Self::Status(status) => Field::Status(*status),
            Self::ContentType { grpc, media } => Field::ContentType { grpc: *grpc, media: *media },
            Self::ContentEncoding { encoded } => Field::ContentEncoding { encoded: *encoded },
            Self::AnthropicVersion => Field::AnthropicVersion,
            Self::TraceParent(trace) => Field::TraceParent(*trace),
            Self::GrpcStatus(status) => Field::GrpcStatus(*status),
            Self::GrpcTimeout(timeout) => Field::GrpcTimeout(*timeout),
            Self::Other => Field::Other,
            Self::Unresolved => Field::Unresolved,
        }
    }

    /// Bytes of text that it holds.
    pub(super) fn text_bytes(&self) -> usize {
        match self.tell() {
            Field::Authority(text)
            | Field::Method(text)
            | Field::Path(text)
            | Field::Scheme(text)
            | Field::Host(text) => text.len(),
            _ => 0,
        }
    }
}

/// The path without fragment and the query's values; what is not UTF-8 is percent-encoded.
fn path<'a>(value: &'a [u8], room: &'a mut String) -> &'a str {
    let target = match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(encode(value)),
    };
    let target = match target {
        // The usual one: nothing to leave out.
        Cow::Borrowed(text) if !text.contains(['?', '#']) => return cut(text, PATH_BYTES_MAX),
        target => target,
    };
    let text = target.split('#').next().unwrap_or_default();
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    room.clear();
    room.reserve_exact(TEXT_BYTES_MAX);
    room.push_str(cut(path, PATH_BYTES_MAX));
    for (index, name) in query_names(query).enumerate() {
        if room.len() + 1 + name.len() > TEXT_BYTES_MAX {
            break;
        }
        room.push(if index == 0 { '?' } else { '&' });
        room.push_str(name);
    }
    room
}

fn encode(value: &[u8]) -> String {
    let mut encoded = String::with_capacity(value.len() + 64);
    for byte in value {
        if byte.is_ascii() {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn authority(text: &str) -> Option<&str> {
    let host = without_user(text);
    (!host.is_empty() && host.len() <= HOST_BYTES_MAX).then_some(host)
}

/// A decimal number of at most `digits_max` digits.
fn number(value: &[u8], digits_max: usize) -> Option<u32> {
    let fits = (1..=digits_max).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    fits.then(|| value.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &[u8], expected: Field<&str>) {
        let mut room = Room::default();
        let field = Field::read(Name::of(name.as_bytes()), value, false, &mut room);
        assert_eq!(field, expected, "{name}: {}", value.escape_ascii());
        assert_eq!(field.keep().tell(), expected);
    }

    #[test]
    fn values_are_read_without_what_may_be_secret() {
        check(":path", b"/a/b", Field::Path("/a/b"));
        check(":path", b"/a?token=s3cret&x=1&bare&=2#f?y=1", Field::Path("/a?token&x"));
        check(":path", b"/a#f?y=1", Field::Path("/a"));
        check(":path", b"/caf\xe9?x=1", Field::Path("/caf%E9?x"));
        check(":path", b"*", Field::Path("*"));
        check(":authority", b"user:password@shop.test:8080", Field::Authority("shop.test:8080"));
        check(":authority", b"", Field::Other);
        check("host", b"shop.test", Field::Host("shop.test"));
        check("authorization", b"Bearer x", Field::Other);
        check("cookie", b"x", Field::Other);
    }

    #[test]
    fn numbers_and_types_are_read_strictly() {
        check(":status", b"200", Field::Status(200));
        check(":status", b"2x0", Field::Other);
        check(":status", b"2000", Field::Other);
        check("grpc-status", b"13", Field::GrpcStatus(13));
        check("grpc-status", b"", Field::Other);
        check("grpc-status", b"1234567890", Field::Other);
        let content_type = |grpc, media| Field::ContentType { grpc, media };
        check("content-type", b"application/grpc+proto", content_type(true, Media::Other));
        check("content-type", b"application/json", content_type(false, Media::Json));
        check("content-encoding", b"gzip", Field::ContentEncoding { encoded: true });
        check("content-encoding", b"identity", Field::ContentEncoding { encoded: false });
        check("anthropic-version", b"2023-06-01", Field::AnthropicVersion);
        check("grpc-timeout", b"1S", Field::GrpcTimeout(1000));
    }

    #[test]
    fn long_paths_and_incomplete_values_are_bounded() {
        let long = format!("/{}", "x".repeat(2000));
        check(":path", long.as_bytes(), Field::Path(&long[..1024]));
        let query = format!("/?{}", "a-name-of-many-letters-that-many-parameters-have-in-common=x&".repeat(40));
        let mut room = Room::default();
        match Field::read(Name::Path, query.as_bytes(), false, &mut room) {
            Field::Path(path) => assert!((1500..=TEXT_BYTES_MAX).contains(&path.len()) && !path.contains('=')),
            other => panic!("{other:?}"),
        }
        let mut room = Room::default();
        assert_eq!(Field::read(Name::Authority, b"a.test", true, &mut room), Field::Other);
        assert_eq!(Field::read(Name::Path, b"/a?x=", true, &mut room), Field::Path("/a?x"));
    }
}
