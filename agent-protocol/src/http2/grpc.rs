//! gRPC over HTTP/2 (its `PROTOCOL-HTTP2`): what headers and trailers say, and how many messages a direction carries.

use std::borrow::Cow;

use crate::session::Outcome;

/// Of a message: whether it is compressed, and four bytes of its length.
const PREFIX_BYTES: u8 = 5;
/// Longest path that is told.
const METHOD_BYTES_MAX: usize = 256;

/// `application/grpc`, with or without a format.
pub(super) fn is_content_type(value: &str) -> bool {
    let rest = value.strip_prefix("application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';', ' ']))
}

/// `grpc-timeout` in milliseconds, rounded up: at most 8 digits, and a unit.
pub(super) fn timeout_ms(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1000,
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    })
}

/// `package.Service/Method` of a path; `None` for one that no service has.
pub(super) fn method(path: &str) -> Option<&str> {
    let method = path.strip_prefix('/')?;
    let named = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
    };
    let (service, name) = method.rsplit_once('/')?;
    (method.len() <= METHOD_BYTES_MAX && named(service) && named(name)).then_some(method)
}

/// Status codes by number.
const STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Name of a status code; the number if it has none.
pub(super) fn status_name(status: u32) -> Cow<'static, str> {
    match usize::try_from(status).ok().and_then(|status| STATUS.get(status)) {
        Some(name) => Cow::Borrowed(*name),
        None => Cow::Owned(status.to_string()),
    }
}

/// Which codes are errors of the server too (semantic conventions for gRPC: server spans).
pub(super) fn outcome(status: u32) -> Outcome {
    match status {
        0 => Outcome::Ok,
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS; what has no name counts as UNKNOWN.
        2 | 4 | 12..=15 | 17.. => Outcome::Error(status_name(status)),
        _ => Outcome::ClientError(status_name(status)),
    }
}

/// The messages of one direction of a call, counted where they begin. Each has a prefix: whether it is compressed, and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    count: u32,
    /// Bytes that are left of the message in progress; within a prefix, its length so far.
    left: u32,
    /// Bytes that came of the prefix in progress.
    have: u8,
    /// Where messages begin is not known any more.
    lost: bool,
}

impl Messages {
    /// The next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes
            && !self.lost
        {
            if self.have == 0 && self.left > 0 {
                let taken = bytes.len().min(self.left as usize);
                self.left -= taken as u32;
                bytes = &bytes[taken..];
                continue;
            }
            self.prefix(*first);
            bytes = rest;
        }
    }

    /// The next byte of a prefix.
    fn prefix(&mut self, byte: u8) {
        match self.have {
            0 => self.lost = byte > 1,
            _ => self.left = self.left << 8 | u32::from(byte),
        }
        self.have += 1;
        if self.have == PREFIX_BYTES {
            self.have = 0;
            self.count = self.count.saturating_add(1);
        }
    }

    /// Bytes that were not captured.
    pub fn skip(&mut self, gap: u64) {
        match u64::from(self.left).checked_sub(gap) {
            Some(left) if self.have == 0 => self.left = left as u32,
            _ => self.lost |= gap > 0,
        }
    }

    /// How many there were, if that is known.
    pub const fn count(&self) -> Option<u32> {
        if self.lost { None } else { Some(self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_told_apart() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"] {
            assert!(is_content_type(yes), "{yes}");
        }
        for no in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grpcx"] {
            assert!(!is_content_type(no), "{no}");
        }
    }

    #[test]
    fn timeouts_are_milliseconds() {
        let check = |value: &[u8], expected| assert_eq!(timeout_ms(value), expected, "{}", value.escape_ascii());
        check(b"1H", Some(3_600_000));
        check(b"2M", Some(120_000));
        check(b"3S", Some(3000));
        check(b"99999999m", Some(99_999_999));
        check(b"1500u", Some(2));
        check(b"1n", Some(1));
        check(b"S", None);
        check(b"123456789m", None);
        check(b"-1m", None);
        check(b"10", None);
    }

    #[test]
    fn paths_that_no_service_has_are_no_methods() {
        assert_eq!(method("/helloworld.Greeter/SayHello"), Some("helloworld.Greeter/SayHello"));
        assert_eq!(method("/proxy/pkg.S/M"), Some("proxy/pkg.S/M"));
        for none in ["", "/", "/x", "//x", "/x/", "x/y", "/x/y?z", "/x/\u{e9}", "/x/%20"] {
            assert_eq!(method(none), None, "{none}");
        }
        assert_eq!(method(&format!("/x/{}", "y".repeat(300))), None);
    }

    #[test]
    fn statuses_have_names_and_outcomes() {
        assert_eq!(outcome(0), Outcome::Ok);
        assert_eq!(outcome(5), Outcome::ClientError("NOT_FOUND".into()));
        assert_eq!(outcome(14), Outcome::Error("UNAVAILABLE".into()));
        assert_eq!(outcome(77), Outcome::Error("77".into()));
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let stream = b"\0\0\0\0\x03abc\x01\0\0\0\0\0\0\0\0\x01d";
        for size in 1..stream.len() {
            let mut messages = Messages::default();
            stream.chunks(size).for_each(|bytes| messages.feed(bytes));
            assert_eq!(messages.count(), Some(3), "{size}");
        }
    }

    #[test]
    fn a_gap_within_a_message_hides_nothing() {
        let fed = |gap| {
            let mut messages = Messages::default();
            messages.feed(b"\0\x7f\xff\xff\xff");
            messages.skip(gap);
            messages.feed(b"x\0\0\0\0\0");
            messages.count()
        };
        assert_eq!((fed(0x7fff_fffe), fed(0x7fff_ffff + 1)), (Some(2), None));
        let mut messages = Messages::default();
        messages.feed(b"\x02\0\0\0\0");
        assert_eq!(messages.count(), None, "no prefix begins like that");
    }
}
