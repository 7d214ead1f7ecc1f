//! Frame headers (RFC 9113, section 4.1 and 6): what they say, and what they may not.

use crate::session::Side;

/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 9;
/// Longest payload that needs no agreement (RFC 9113, 4.2).
pub(super) const PAYLOAD_BYTES_AGREED: u32 = 1 << 14;
/// Longest payload that can be agreed on.
pub(super) const PAYLOAD_BYTES_MAX: u32 = (1 << 24) - 1;

/// Frame types.
pub(super) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags; `END_STREAM` is `ACK` for `SETTINGS` and `PING`.
pub(super) mod flag {
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// Bytes of the payload.
    pub length: u32,
}

impl Header {
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]);
        // The reserved bit has no meaning (4.1).
        Self { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, length }
    }

    pub const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a stream ends with this frame.
    pub const fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.has(flag::END_STREAM)
    }

    /// Whether it is followed by frames of the same header block, and nothing else.
    pub const fn opens_block(&self) -> bool {
        matches!(self.kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION) && !self.has(flag::END_HEADERS)
    }

    pub const fn is_padded(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS | kind::PUSH_PROMISE) && self.has(flag::PADDED)
    }

    /// Bytes of the payload before what the frame carries: length of padding, priority, promised stream.
    pub const fn prefix_bytes(&self) -> u32 {
        let fields = match self.kind {
            kind::HEADERS if self.has(flag::PRIORITY) => 5,
            kind::PUSH_PROMISE => 4,
            _ => 0,
        };
        fields + self.is_padded() as u32
    }

    /// Whether the RFC allows it: the length for its type, and a stream or none (section 6). Unknown types are to be passed over.
    pub const fn is_allowed(&self) -> bool {
        let length = match self.kind {
            kind::PRIORITY => self.length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => self.length == 4,
            kind::SETTINGS if self.has(flag::ACK) => self.length == 0,
            kind::SETTINGS => self.length.is_multiple_of(6),
            kind::PING => self.length == 8,
            kind::GOAWAY => self.length >= 8,
            _ => self.length >= self.prefix_bytes(),
        };
        let stream = match self.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => self.stream == 0,
            kind::WINDOW_UPDATE => true,
            kind::DATA..=kind::CONTINUATION => self.stream != 0,
            _ => true,
        };
        length && stream
    }

    /// Whether it is plausible where it is not known that a frame begins: of a known type, with no flags but its own, of
    /// a length that needs no agreement, on a stream that `from` may write to.
    pub const fn is_plausible(&self, from: Side, payload_bytes_max: u32) -> bool {
        let flags = match self.kind {
            kind::DATA => flag::END_STREAM | flag::PADDED,
            kind::HEADERS => flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            kind::SETTINGS | kind::PING => flag::ACK,
            kind::PUSH_PROMISE => flag::END_HEADERS | flag::PADDED,
            kind::CONTINUATION => flag::END_HEADERS,
            _ => 0,
        };
        // What is longer than a few settings, or a few words of debugging, is more likely something else.
        let length_max = match self.kind {
            kind::SETTINGS => 32 * 6,
            kind::GOAWAY => 1024,
            _ => payload_bytes_max,
        };
        let stream = match (self.kind, from) {
            (kind::PUSH_PROMISE, Side::Client) => false,
            (kind::DATA | kind::HEADERS | kind::CONTINUATION, Side::Client) | (kind::PUSH_PROMISE, Side::Server) => {
                self.stream % 2 == 1
            }
            _ => true,
        };
        let known = self.kind <= kind::CONTINUATION;
        known && self.flags & !flags == 0 && self.length <= length_max && stream && self.is_allowed()
    }
}

/// Name of an error code (RFC 9113, section 7).
pub(super) fn error_name(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    // Unknown codes have no meaning of their own (section 7).
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("UNKNOWN_ERROR_CODE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8; HEADER_BYTES]) -> Header {
        Header::read(bytes)
    }

    #[test]
    fn a_header_is_read() {
        let read = header(b"\x01\x02\x03\x01\x25\x80\x00\x00\x07");
        assert_eq!(read, Header { kind: kind::HEADERS, flags: 0x25, stream: 7, length: 0x01_02_03 });
        assert!(read.ends_stream() && !read.opens_block() && !read.is_padded());
        assert_eq!(read.prefix_bytes(), 5);
    }

    #[test]
    fn lengths_and_streams_must_fit_the_type() {
        let check = |bytes: &[u8; 9], allowed| assert_eq!(header(bytes).is_allowed(), allowed, "{bytes:?}");
        check(b"\0\0\x08\x06\0\0\0\0\0", true);
        check(b"\0\0\x09\x06\0\0\0\0\0", false);
        check(b"\0\0\x08\x06\0\0\0\0\x01", false);
        check(b"\0\0\x05\x04\0\0\0\0\0", false);
        check(b"\0\0\x06\x04\x01\0\0\0\0", false);
        check(b"\0\0\0\0\0\0\0\0\0", false);
        check(b"\0\0\0\0\x08\0\0\0\x01", false);
        check(b"\xff\xff\xff\xfa\xff\0\0\0\0", true);
    }

    #[test]
    fn what_is_plausible_is_stricter() {
        let check = |bytes: &[u8; 9], from, plausible| {
            assert_eq!(header(bytes).is_plausible(from, PAYLOAD_BYTES_AGREED), plausible, "{bytes:?}");
        };
        check(b"\0\0\x08\0\x01\0\0\0\x01", Side::Client, true);
        check(b"\0\0\x08\0\x01\0\0\0\x02", Side::Client, false);
        check(b"\0\0\x08\0\x01\0\0\0\x02", Side::Server, true);
        check(b"\0\0\x08\0\x05\0\0\0\x01", Side::Client, false);
        check(b"\0\x40\x01\0\x01\0\0\0\x01", Side::Client, false);
        check(b"\0\0\x08\x0a\0\0\0\0\x01", Side::Server, false);
    }

    #[test]
    fn error_codes_have_names() {
        assert_eq!([error_name(0), error_name(8), error_name(13)], ["NO_ERROR", "CANCEL", "HTTP_1_1_REQUIRED"]);
        assert_eq!([error_name(14), error_name(u32::MAX)], ["UNKNOWN_ERROR_CODE"; 2]);
    }
}
