//! OTLP/HTTP by hand, so that nothing of what is tested is used to test it: requests, and what is in them.
//!
//! In: spans as attributes; bytes from a connection. Out: `ExportTraceServiceRequest` in protobuf; whole HTTP/1.1 messages. Called by
//! senders and sinks of the delivery tests and the benchmark. Limits: bodies with `content-length` only.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Largest body that is read.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A length-delimited field.
pub fn message(field: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    varint(&mut out, body.len() as u64);
    out.extend_from_slice(body);
    out
}

/// A field of wire type `fixed64`.
pub fn fixed64(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3 | 1];
    out.extend(value.to_le_bytes());
    out
}

/// A field of wire type `varint`.
pub fn number(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3];
    varint(&mut out, value);
    out
}

/// A `KeyValue` with a text.
pub fn attribute(key: &str, value: &str) -> Vec<u8> {
    [message(1, key.as_bytes()), message(2, &message(1, value.as_bytes()))].concat()
}

/// A `KeyValue` with a number.
pub fn attribute_number(key: &str, value: u64) -> Vec<u8> {
    [message(1, key.as_bytes()), message(2, &number(3, value))].concat()
}

/// An `ExportTraceServiceRequest` of one resource and one scope. `spans` are encoded.
pub fn export_request(service: &str, spans: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let spans: Vec<u8> = spans.into_iter().flat_map(|span| message(2, &span)).collect();
    let resource = message(1, &message(1, &attribute("service.name", service)));
    message(1, &[resource, message(2, &spans)].concat())
}

/// Spans of an `ExportTraceServiceRequest`; nothing if the bytes are none.
pub fn count_spans(request: &[u8]) -> Option<u64> {
    let mut count = 0;
    for resource_spans in messages(request, 1)? {
        for scope_spans in messages(resource_spans, 2)? {
            count += messages(scope_spans, 2)?.len() as u64;
        }
    }
    Some(count)
}

/// The length-delimited fields with this number.
fn messages(mut rest: &[u8], field: u64) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        let length = match tag & 7 {
            0 => {
                take_varint(&mut rest)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (body, behind) = rest.split_at_checked(length)?;
        rest = behind;
        if tag == field << 3 | 2 {
            found.push(body);
        }
    }
    Some(found)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A whole `POST /v1/traces`.
pub fn post(body: &[u8]) -> Vec<u8> {
    post_with("", body)
}

/// The same with more header lines; each ends with `\r\n`.
pub fn post_with(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: agent\r\ncontent-type: application/x-protobuf\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends a whole request, on a new connection if there is none, and gives the answer's status. After an error, or an end without an
/// answer, the connection is of no more use.
///
/// # Errors
/// The connection cannot be made, broke, or gave no answer within `bound`.
pub fn exchange(
    connection: &mut Option<BufReader<TcpStream>>,
    to: SocketAddr,
    request: &[u8],
    bound: Duration,
) -> io::Result<Option<u16>> {
    let reader = match connection {
        Some(reader) => reader,
        None => {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(bound))?;
            connection.insert(BufReader::new(stream))
        }
    };
    reader.get_mut().write_all(request)?;
    Ok(read_message(reader, &mut Vec::new())?.as_deref().and_then(status))
}

/// A whole answer. Each of `headers` ends with `\r\n`.
pub fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Reads a message: the head in lower case, and its body into `body`, whose memory is used again. Nothing at the end of the
/// connection.
///
/// # Errors
/// The connection broke, also within a message; the body is larger than 64 MiB.
pub fn read_message(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return if before == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    head.make_ascii_lowercase();
    let length = header(&head, "content-length").map_or(Ok(0), str::parse);
    let length = length.ok().filter(|length| *length <= BODY_BYTES_MAX).ok_or(io::ErrorKind::InvalidData)?;
    body.resize(length, 0);
    reader.read_exact(body)?;
    Ok(Some(head))
}

/// The value of a header in a head in lower case.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Status of an answer's head.
pub fn status(head: &str) -> Option<u16> {
    head.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_counted_across_resources() {
        let span = || [message(1, &[1; 16]), fixed64(7, 1), number(6, 300), message(9, &attribute("k", "v"))].concat();
        let request = [export_request("a", [span(), span()]), export_request("b", [span()])].concat();
        assert_eq!(count_spans(&request), Some(3));
        assert_eq!(count_spans(&request[..request.len() - 1]), None);
    }

    #[test]
    fn messages_are_read_one_after_the_other() {
        let bytes = [post(b"one"), answer(503, "retry-after: 1\r\n", b"")].concat();
        let (mut reader, mut body) = (&bytes[..], Vec::new());
        let head = read_message(&mut reader, &mut body).expect("whole").expect("a message");
        assert_eq!((header(&head, "content-type"), &body[..]), (Some("application/x-protobuf"), &b"one"[..]));
        let head = read_message(&mut reader, &mut body).expect("whole").expect("a message");
        assert_eq!((status(&head), header(&head, "retry-after"), body.len()), (Some(503), Some("1"), 0));
        assert_eq!(read_message(&mut reader, &mut body).expect("whole"), None);
        let cut = post(b"one");
        assert!(read_message(&mut &cut[..cut.len() - 1], &mut body).is_err());
    }
}
