//! What requests' and responses' heads have in common: where they end, which fields matter, how the body is framed.
//!
//! In: a complete head, or a growing one. Out: its end; a [`Fields`]. Called by the engine and by `request`/`response`.
//! Never keeps a field's value; what is read of those that are named here is said where they are used.

use httparse::Header;

use crate::{content::Media, input::Lost};

/// Longest `Content-Type` that is read.
const MEDIA_BYTES_MAX: usize = 256;
/// Most header fields of a head that is parsed.
pub const HEADERS_MAX: usize = 128;

/// Index just past the empty line that ends a head, looking only at line ends from `from` on.
pub(super) fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let fresh = bytes.get(from..)?;
    memchr::memchr_iter(b'\n', fresh).map(|at| from + at).find(|&at| ends_empty_line(&bytes[..at])).map(|at| at + 1)
}

/// RFC 9112 section 2.2: a recipient may take a single LF for a line end.
fn ends_empty_line(before: &[u8]) -> bool {
    matches!(before, [.., b'\n'] | [.., b'\n', b'\r'])
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// By `Content-Length`.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
    /// Another protocol follows.
    Switch,
}

impl Framing {
    /// The `Content-Length`, if that is what frames the body.
    pub(super) const fn length(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            _ => None,
        }
    }
}

/// A field that should come at most once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Single<'a> {
    #[default]
    Absent,
    One(&'a [u8]),
    Conflict,
}

impl<'a> Single<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match *self {
            Self::Absent => Self::One(value),
            Self::One(first) if first == value => Self::One(first),
            _ => Self::Conflict,
        }
    }

    /// The value, if there is one, no other, and it is UTF-8 of at most `bytes_max` bytes.
    pub(super) fn text(self, bytes_max: usize) -> Option<&'a str> {
        match self {
            Self::One(value) if value.len() <= bytes_max => std::str::from_utf8(value).ok(),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Length {
    #[default]
    Absent,
    Is(u64),
    Bad,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    Absent,
    /// `chunked` is the last one.
    Chunked,
    /// Another one is the last.
    Other,
}

/// The fields that matter.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) host: Single<'a>,
    pub(super) traceparent: Single<'a>,
    pub(super) upgrade: Single<'a>,
    pub(super) authorization: Single<'a>,
    pub(super) amz_target: Single<'a>,
    pub(super) elastic_product: Single<'a>,
    pub(super) opensearch_version: Single<'a>,
    pub(super) content_type: Single<'a>,
    pub(super) content_encoding: Single<'a>,
    pub(super) has_anthropic_version: bool,
    length: Length,
    encoding: Encoding,
}

impl<'a> Fields<'a> {
    /// Reads a head's fields.
    pub(super) fn new(headers: &[Header<'a>]) -> Self {
        let mut fields = Self::default();
        for header in headers {
            fields.add(header);
        }
        fields
    }

    fn add(&mut self, header: &Header<'a>) {
        let value = header.value.trim_ascii();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => self.host.add(value),
            7 if is("upgrade") => self.upgrade.add(value),
            11 if is("traceparent") => self.traceparent.add(value),
            12 if is("x-amz-target") => self.amz_target.add(value),
            12 if is("content-type") => self.content_type.add(value),
            13 if is("authorization") => self.authorization.add(value),
            14 if is("content-length") => self.length = add_length(self.length, value),
            16 if is("content-encoding") => self.content_encoding.add(value),
            17 if is("anthropic-version") => self.has_anthropic_version = true,
            17 if is("x-elastic-product") => self.elastic_product.add(value),
            20 if is("x-opensearch-version") => self.opensearch_version.add(value),
            17 if is("transfer-encoding") => self.encoding = last_encoding(self.encoding, value),
            _ => {}
        }
    }

    /// What the body is, if it can be read as it is sent.
    pub(super) fn media(&self) -> Media {
        let plain = match self.content_encoding {
            Single::Absent => true,
            encoding => encoding.text(16).is_some_and(|name| name.eq_ignore_ascii_case("identity")),
        };
        let media = self.content_type.text(MEDIA_BYTES_MAX).map(Media::of);
        media.filter(|_| plain).unwrap_or_default()
    }

    /// RFC 9112 section 6.3, rules 3 to 6, for a request.
    pub(super) fn request_framing(&self) -> Result<Framing, Lost> {
        match (self.encoding, self.length) {
            (Encoding::Chunked, _) => Ok(Framing::Chunked),
            // Rule 4: without chunked last, a request's length is unknowable.
            (Encoding::Other, _) | (Encoding::Absent, Length::Bad) => Err(Lost::Malformed),
            (Encoding::Absent, Length::Is(length)) => Ok(Framing::Length(length)),
            (Encoding::Absent, Length::Absent) => Ok(Framing::None),
        }
    }

    /// RFC 9112 section 6.3, rules 3 to 8, for a response that can have a body.
    pub(super) fn response_framing(&self) -> Result<Framing, Lost> {
        match (self.encoding, self.length) {
            (Encoding::Chunked, _) => Ok(Framing::Chunked),
            (Encoding::Other, _) | (Encoding::Absent, Length::Absent) => Ok(Framing::UntilClose),
            (Encoding::Absent, Length::Is(length)) => Ok(Framing::Length(length)),
            (Encoding::Absent, Length::Bad) => Err(Lost::Malformed),
        }
    }
}

/// RFC 9112 section 6.3 rule 5: repeated equal values are one, different or invalid ones are an error.
fn add_length(so_far: Length, value: &[u8]) -> Length {
    value.split(|byte| *byte == b',').fold(so_far, |so_far, one| match (so_far, decimal(one.trim_ascii())) {
        (Length::Absent, Some(length)) => Length::Is(length),
        (Length::Is(before), Some(length)) if before == length => so_far,
        _ => Length::Bad,
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9112 section 6.1: the last coding of the last field decides. `identity` (RFC 2616) is none.
fn last_encoding(so_far: Encoding, value: &[u8]) -> Encoding {
    value.split(|byte| *byte == b',').fold(so_far, |so_far, coding| {
        let name = coding.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        match name {
            _ if name.eq_ignore_ascii_case(b"chunked") => Encoding::Chunked,
            _ if name.is_empty() || name.eq_ignore_ascii_case(b"identity") => so_far,
            _ => Encoding::Other,
        }
    })
}

/// At most `bytes_max` bytes of `text`, whole characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &[(&'static str, &'static str)]) -> (Result<Framing, Lost>, Result<Framing, Lost>) {
        let headers: Vec<_> = fields.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        let fields = Fields::new(&headers);
        (fields.request_framing(), fields.response_framing())
    }

    fn check(fields: &[(&'static str, &'static str)], request: Result<Framing, Lost>, response: Result<Framing, Lost>) {
        assert_eq!(framing(fields), (request, response), "{fields:?}");
    }

    #[test]
    fn framing_follows_the_rfc() {
        use Framing::{Chunked, Length, None, UntilClose};
        let bad = Err(Lost::Malformed);
        check(&[], Ok(None), Ok(UntilClose));
        check(&[("Content-Length", "5")], Ok(Length(5)), Ok(Length(5)));
        check(&[("content-length", "5, 5"), ("Content-Length", "5")], Ok(Length(5)), Ok(Length(5)));
        check(&[("Content-Length", "5"), ("Content-Length", "6")], bad, bad);
        check(&[("Content-Length", "5,6")], bad, bad);
        check(&[("Content-Length", "")], bad, bad);
        check(&[("Content-Length", "+5")], bad, bad);
        check(&[("Content-Length", "0x5")], bad, bad);
        check(&[("Content-Length", "18446744073709551615")], Ok(Length(u64::MAX)), Ok(Length(u64::MAX)));
        check(&[("Content-Length", "18446744073709551616")], bad, bad);
        check(&[("Transfer-Encoding", "Chunked"), ("Content-Length", "5")], Ok(Chunked), Ok(Chunked));
        check(&[("Content-Length", "bad"), ("Transfer-Encoding", "chunked")], Ok(Chunked), Ok(Chunked));
        check(&[("Transfer-Encoding", "gzip, chunked")], Ok(Chunked), Ok(Chunked));
        check(&[("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked")], Ok(Chunked), Ok(Chunked));
        check(&[("Transfer-Encoding", "gzip")], bad, Ok(UntilClose));
        check(&[("Transfer-Encoding", "chunked, gzip")], bad, Ok(UntilClose));
        check(&[("Transfer-Encoding", "identity"), ("Content-Length", "5")], Ok(Length(5)), Ok(Length(5)));
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        let cases: [(&[u8], Option<usize>); 6] = [
            (b"a\r\n\r\nb", Some(5)),
            (b"a\n\nb\n\n", Some(3)),
            (b"a\n\r\n", Some(4)),
            (b"a\r\n", None),
            (b"a\r\n\r", None),
            (b"a\r\n \r\n", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(head_end(bytes, 0), expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(head_end(b"a\r\n\r\n", 4), Some(5), "what was searched before still counts");
    }
}
