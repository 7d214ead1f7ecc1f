//! How bytes look: do they begin with frames? For detection, and where framing was lost.

use super::{
    frame::{HEADER_BYTES, Header, PAYLOAD_BYTES_AGREED, flag, kind},
    hpack::{self, Look},
    walk::PREFACE,
};
use crate::{detect::Sign, session::Side};

/// Most bytes of a header block that are looked at.
const BLOCK_BYTES_MAX: usize = 64;
/// `PRI * HTTP/2`: no other protocol begins like that.
const PREFACE_BYTES_ENOUGH: usize = 12;
/// A frame that any bytes may look like needs a second one behind it.
const FRAMES_ENOUGH: usize = 2;

/// The first bytes of a client: of a connection, or of a later call.
pub(crate) fn check_client(bytes: &[u8]) -> Sign {
    // No frame is as long as the preface's first letters would say.
    let length = bytes.len().min(PREFACE_BYTES_ENOUGH);
    if bytes[..length] != PREFACE[..length] {
        return frames(Side::Client, bytes, PAYLOAD_BYTES_AGREED);
    }
    if length < PREFACE_BYTES_ENOUGH { Sign::Partial } else { Sign::Yes }
}

/// The same of a server.
pub(crate) fn check_server(bytes: &[u8]) -> Sign {
    frames(Side::Server, bytes, PAYLOAD_BYTES_AGREED)
}

/// Whether frames begin here: `Yes` with the beginning of a message, or two frames; `Likely` with one.
pub(super) fn frames(from: Side, mut bytes: &[u8], payload_bytes_max: u32) -> Sign {
    let mut sign = Sign::Partial;
    for _ in 0..FRAMES_ENOUGH {
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return if may_begin(from, bytes, payload_bytes_max) { sign } else { Sign::No };
        };
        let header = Header::read(header);
        if !header.is_plausible(from, payload_bytes_max) || header.kind == kind::CONTINUATION {
            return Sign::No;
        }
        match frame(from, header, payload) {
            Sign::Likely => {}
            other => return if other == Sign::Partial { sign } else { other },
        }
        if sign == Sign::Likely {
            return Sign::Yes;
        }
        sign = Sign::Likely;
        bytes = payload.get(header.length as usize..).unwrap_or_default();
    }
    sign
}

/// Whether less than a header may be the beginning of one.
fn may_begin(from: Side, bytes: &[u8], payload_bytes_max: u32) -> bool {
    // Its type follows its length, so what is missing up to there may be anything; behind it come flags and stream.
    if bytes.len() < 4 {
        return bytes.first().is_none_or(|byte| *byte == 0) && bytes.get(1).is_none_or(|byte| *byte <= 0x40);
    }
    [0, 1].iter().any(|last| {
        let mut header = [0, 0, 0, 0, 0, 0, 0, 0, *last];
        header[..bytes.len()].copy_from_slice(bytes);
        Header::read(&header).is_plausible(from, payload_bytes_max)
    })
}

/// A frame with a plausible header.
fn frame(from: Side, header: Header, payload: &[u8]) -> Sign {
    let length = header.length as usize;
    match header.kind {
        kind::HEADERS => {
            let (prefix, window) = (header.prefix_bytes() as usize, length.min(BLOCK_BYTES_MAX));
            let Some(block) = payload.get(prefix..window) else { return Sign::Partial };
            let complete = window == length && header.has(flag::END_HEADERS) && !header.is_padded();
            match hpack::look(from, block, complete) {
                Look::Surely => Sign::Yes,
                Look::Maybe => Sign::Likely,
                Look::Not => Sign::No,
            }
        }
        kind::SETTINGS => match payload.get(..length) {
            Some(settings) if settings.chunks_exact(6).all(is_setting) => Sign::Likely,
            Some(_) => Sign::No,
            None => Sign::Partial,
        },
        // Zeros: allowed, and of no use to anybody.
        kind::DATA if length == 0 && !header.has(flag::END_STREAM) => Sign::No,
        _ => Sign::Likely,
    }
}

/// Whether these six bytes are a setting of RFC 9113 (6.5.2), or one that is registered or in use, with a value that it may have.
fn is_setting(bytes: &[u8]) -> bool {
    let [a, b, value @ ..] = bytes else { return false };
    let value = value.try_into().map_or(0, u32::from_be_bytes);
    match u16::from_be_bytes([*a, *b]) {
        1 | 3 | 6 => true,
        2 | 8 | 9 => value <= 1,
        4 => value <= i32::MAX as u32,
        5 => (1 << 14..1 << 24).contains(&value),
        // TLS_RENEG_PERMITTED and below; gRPC's own.
        0x10 | 0xfe00..=0xfe0f => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    const ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
    const GET: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x0d\x82\x86\x84";
    const OK: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x0d\x88";

    fn check(check: fn(&[u8]) -> Sign, bytes: &[u8], expected: Sign) {
        assert_eq!(check(bytes), expected, "{}", bytes.escape_ascii());
        crate::fuzzing::sessions::check_sign(check, bytes);
    }

    #[test]
    fn the_preface_says_it_all() {
        check(check_client, PREFACE, Sign::Yes);
        check(check_client, b"PRI * HTTP/2", Sign::Yes);
        check(check_client, b"PRI *", Sign::Partial);
        check(check_client, b"PRI * HTTP/1.1\r\n", Sign::No);
        check(check_server, PREFACE, Sign::No);
    }

    #[test]
    fn a_servers_settings_are_likely_and_with_more_sure() {
        check(check_server, SETTINGS, Sign::Likely);
        check(check_server, &[SETTINGS, ACK].concat(), Sign::Yes);
        check(check_server, &SETTINGS[..12], Sign::Partial);
        check(check_server, b"\0\0\x06\x04\0\0\0\0\0\0\x77\0\0\0\x64", Sign::No);
    }

    #[test]
    fn a_later_call_is_recognised_by_a_messages_head() {
        check(check_client, GET, Sign::Yes);
        check(check_server, OK, Sign::Yes);
        check(check_server, GET, Sign::No);
        check(check_client, OK, Sign::No);
        let unknown = b"\0\0\x02\x01\x05\0\0\0\x0d\xc0\xbf";
        check(check_client, unknown, Sign::Likely);
        check(check_client, &[b"\0\0\x04\x08\0\0\0\0\0\0\x01\0\0", GET].concat(), Sign::Yes);
    }

    #[test]
    fn bytes_of_others_are_not_taken() {
        let others: [&[u8]; 12] = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\0\0\0\x4d\0\x03\0\0user\0postgres\0database\0postgres\0\0",
            b"\x4a\0\0\0\x0a5.5.5-10.11.6-MariaDB\0",
            b"*1\r\n$4\r\nPING\r\n",
            b"\0\0\0\x2c\0\x12\0\x04\0\0\0\0\0\x10consumer-1\0",
            b"\0\0\x06\x04\0\0\0\0\0\0\0\x2a\0\0\0\x0c",
            b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01",
            b"AMQP\0\0\x09\x01",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ];
        for bytes in others {
            check(check_client, bytes, Sign::No);
            check(check_server, bytes, Sign::No);
        }
    }
}
