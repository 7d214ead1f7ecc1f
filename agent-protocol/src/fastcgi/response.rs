//! The head of a response (RFC 3875, 6).

use crate::detect::Sign;

/// Most bytes of a head that are read.
const BYTES_MAX: usize = 8 * 1024;

/// A response's head, as far as it came.
#[derive(Debug, Default)]
pub(super) struct Head {
    bytes: Vec<u8>,
    status: Option<Status>,
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Said(u16),
    Unknown,
}

impl Head {
    /// More of the output.
    pub fn add(&mut self, content: &[u8], hidden: bool) {
        if self.status.is_some() {
            return;
        }
        // Most come at once.
        if let Some(end) = end(content).filter(|end| self.bytes.is_empty() && *end < BYTES_MAX) {
            self.status = Some(status(&content[..end]));
            return;
        }
        let room = BYTES_MAX - self.bytes.len();
        self.bytes.extend_from_slice(&content[..content.len().min(room)]);
        let whole = end(&self.bytes);
        if whole.is_some() || hidden || content.len() >= room {
            self.status = Some(whole.map_or(Status::Unknown, |end| status(&self.bytes[..end])));
            self.bytes = Vec::new();
        }
    }

    /// A gap: what comes next is not where it seems to be.
    pub fn hide(&mut self) {
        self.status.get_or_insert(Status::Unknown);
    }

    /// What it said.
    pub fn status(&self) -> Status {
        self.status.unwrap_or(Status::Unknown)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Where the empty line begins.
fn end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find(|at| matches!(&bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// The status of a whole head: its own, or that of a redirection to another host's document, or 200.
fn status(head: &[u8]) -> Status {
    let mut redirects = false;
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"status") {
            let digits = value.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
            let status = digits.and_then(|digits| digits.parse().ok());
            return status.filter(|status| (100..1000).contains(status)).map_or(Status::Unknown, Status::Said);
        }
        if name.eq_ignore_ascii_case(b"location") {
            // A path alone is for the web server to follow, and what comes of that is not told here.
            if value.starts_with(b"/") {
                return Status::Unknown;
            }
            redirects = true;
        }
    }
    Status::Said(if redirects { 302 } else { 200 })
}

/// Whether output begins like a head: a name of a field.
pub(super) fn check(content: &[u8], length: usize) -> Sign {
    let name = content.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
    match content.get(name) {
        Some(b':') if name > 0 => Sign::Yes,
        None if content.len() < length && name < 64 => Sign::Partial,
        _ => Sign::Likely,
    }
}
