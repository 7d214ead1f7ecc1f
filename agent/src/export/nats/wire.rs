//! The text protocol of NATS between a client and a server, as much of it as a request and its answer need. Pure.
//!
//! In: bytes of a server. Out: what they say. Bounded by [`LINE_BYTES_MAX`] and [`MESSAGE_BYTES_MAX`].

use serde::Deserialize;

/// Longest line: what a server says of itself has a few kilobytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Longest message to this client: an acknowledgement has some hundred bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    /// Most bytes of a message with its headers.
    #[serde(default)]
    pub max_payload: usize,
    #[serde(default)]
    pub headers: bool,
    #[serde(default)]
    pub tls_required: bool,
    #[serde(default)]
    pub tls_available: bool,
}

/// Something that a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Info(Info),
    Message { subject: String, answer: Answer },
    Ping,
    Pong,
    Ok,
    Error(String),
}

/// What was answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 503: nobody listens to the subject.
    pub status: Option<u16>,
    pub payload: Vec<u8>,
}

/// A message to be.
pub(super) struct Publication<'a> {
    pub subject: &'a str,
    pub headers: &'a [(String, String)],
    pub payload: &'a [u8],
}

/// These are not the words of a NATS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what answers is no server of NATS")]
pub(super) struct Malformed;

/// The first thing that was said, and how many bytes it has; nothing if it is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<(Said, usize)>, Malformed> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
        return if bytes.len() > LINE_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    let line = str::from_utf8(&bytes[..end]).map_err(|_| Malformed)?;
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let said = match word.to_ascii_uppercase().as_str() {
        "INFO" => Said::Info(serde_json::from_str(rest).map_err(|_| Malformed)?),
        "MSG" | "HMSG" => return message(word.len() == 4, rest, bytes, end + 2),
        "PING" => Said::Ping,
        "PONG" => Said::Pong,
        "+OK" => Said::Ok,
        "-ERR" => Said::Error(rest.trim_matches(['\'', ' ']).to_owned()),
        _ => return Err(Malformed),
    };
    Ok(Some((said, end + 2)))
}

/// `subject sid [reply] [bytes of headers] bytes`, and that many bytes from `start`.
fn message(has_headers: bool, line: &str, bytes: &[u8], start: usize) -> Result<Option<(Said, usize)>, Malformed> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |place: usize| words.get(place)?.parse::<usize>().ok().filter(|number| *number <= MESSAGE_BYTES_MAX);
    let total = words.len().checked_sub(1).and_then(number).ok_or(Malformed)?;
    let head = if has_headers { words.len().checked_sub(2).and_then(number).ok_or(Malformed)? } else { 0 };
    let subject = (*words.first().ok_or(Malformed)?).to_owned();
    let Some(body) = bytes.get(start..start + total + 2) else { return Ok(None) };
    let (Some(head), Some(payload)) = (body.get(..head), body.get(head..total)) else { return Err(Malformed) };
    let answer = Answer { status: status(head), payload: payload.to_vec() };
    Ok(Some((Said::Message { subject, answer }, start + total + 2)))
}

/// The code in `NATS/1.0 503`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    str::from_utf8(line).ok()?.strip_prefix("NATS/1.0")?.split_ascii_whitespace().next()?.parse().ok()
}

impl Publication<'_> {
    /// What counts against `max_payload`.
    pub(super) fn size(&self) -> usize {
        self.head().len() + self.payload.len()
    }

    /// The bytes to send, for an answer to `reply`.
    pub(super) fn bytes(&self, reply: &str) -> Vec<u8> {
        let head = self.head();
        let line = format!("HPUB {} {reply} {} {}\r\n", self.subject, head.len(), head.len() + self.payload.len());
        [line.as_bytes(), head.as_bytes(), self.payload, b"\r\n"].concat()
    }

    fn head(&self) -> String {
        let lines: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("NATS/1.0\r\n{lines}\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_servers_are_read_when_they_are_whole() {
        let info = Said::Info(Info { max_payload: 1_048_576, headers: true, ..Info::default() });
        let message = |subject: &str, status, payload: &[u8]| Said::Message {
            subject: subject.into(),
            answer: Answer { status, payload: payload.to_vec() },
        };
        for (bytes, said) in [
            (&b"INFO {\"max_payload\":1048576,\"headers\":true,\"other\":[1]}\r\n"[..], info),
            (b"MSG _INBOX.a.1 1 5\r\nhello\r\n", message("_INBOX.a.1", None, b"hello")),
            (b"MSG a 1 reply 0\r\n\r\n", message("a", None, b"")),
            (b"HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", message("a", Some(503), b"")),
            (b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\n{}\r\n", message("a", None, b"{}")),
            (b"ping\r\n", Said::Ping),
            (b"PONG\r\n", Said::Pong),
            (b"+OK\r\n", Said::Ok),
            (b"-ERR 'Authorization Violation'\r\n", Said::Error("Authorization Violation".into())),
        ] {
            assert_eq!(read(bytes), Ok(Some((said, bytes.len()))));
            assert!((0..bytes.len()).all(|end| read(&bytes[..end]) == Ok(None)), "{bytes:?}");
        }
    }

    #[test]
    fn other_words_and_lengths_that_lie_are_refused() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"INFO not json\r\n",
            b"MSG\r\n",
            b"MSG a 1 99999999\r\n",
            b"MSG a 1 -1\r\n",
            b"HMSG a 1 9 5\r\nhello\r\n",
            b"\xff\xfe\r\n",
            &[b'x'; LINE_BYTES_MAX + 1],
        ] {
            assert_eq!(read(bytes), Err(Malformed));
        }
    }

    #[test]
    fn a_message_is_as_the_protocol_says() {
        let headers = [("a".to_owned(), "b".to_owned())];
        let publication = Publication { subject: "spans", headers: &headers, payload: b"hello" };
        assert_eq!(publication.bytes("r"), b"HPUB spans r 18 23\r\nNATS/1.0\r\na: b\r\n\r\nhello\r\n");
        assert_eq!(publication.size(), 23);
    }
}
