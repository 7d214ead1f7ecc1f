//! What the body of an HTTP message says, where it is one of a protocol that is spoken over HTTP: GraphQL, JSON-RPC 2.0, and the APIs of
//! language models as OpenAI and Anthropic have them.
//!
//! In: the bytes of a body as they come, of HTTP/1 or HTTP/2, with their gaps; only of requests by POST whose body is JSON, and of the
//! answers to those that were recognised (JSON, or server-sent events). Out: an [`Asked`] or [`Answered`]. Called by [`crate::http1`] and
//! [`crate::http2`]. Bodies are never kept: what is looked for is looked for while they pass, by a scanner of a few hundred bytes.
//!
//! Never told: documents and variables of GraphQL, parameters and results of JSON-RPC, prompts and answers. Names are words of bounded
//! length, or left out.
//!
//! Limits: of a body of JSON the first [`BYTES_MAX`] bytes up to the first gap; of events each, and after a gap from the next one on.
//! Batches (arrays of requests), compressed bodies, and GraphQL by GET are plain HTTP.

mod answered;
mod asked;
mod document;
mod endpoint;
mod facts;
mod json;
mod key;
mod sse;
mod text;

use self::{answered::ResponseScan, asked::RequestScan};

pub(crate) use self::asked::{ASKED_BYTES_MAX, Target};
pub use self::{answered::Answered, asked::Asked, document::OperationType};

/// Most bytes of one body of JSON that are looked at.
pub const BYTES_MAX: u64 = 256 * 1024;

/// What kind of body a message has, by its media type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Media {
    /// JSON (RFC 8259, and RFC 6839's `+json`).
    Json,
    /// Server-sent events.
    Events,
    /// Anything else.
    #[default]
    Other,
}

impl Media {
    /// By the value of `Content-Type`.
    pub fn of(content_type: &str) -> Self {
        let name = content_type.split(';').next().unwrap_or_default().trim();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let is_json = || {
            let (kind, suffix) = (name.get(..12), name.get(name.len().saturating_sub(5)..));
            kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/"))
                && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
        };
        match name {
            _ if is("application/json") || is("application/json-rpc") || is_json() => Self::Json,
            _ if is("text/event-stream") => Self::Events,
            _ => Self::Other,
        }
    }
}

/// What was found in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In a request's.
    Asked(Asked),
    /// In a response's.
    Answered(Answered),
}

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Scan {
    kind: Kind,
    /// Bytes that may still be looked at.
    left: u64,
    /// More can still be found.
    open: bool,
}

#[derive(Debug)]
enum Kind {
    Request(Box<RequestScan>),
    Response(Box<ResponseScan>),
}

impl Scan {
    /// For the body of a request by this method; `None` if nothing is to be found there.
    pub fn request(method: &str, media: Media, target: Target<'_>) -> Option<Self> {
        let wanted = method == "POST" && media == Media::Json;
        wanted.then(|| Self::new(Kind::Request(Box::new(RequestScan::new(target))), BYTES_MAX))
    }

    /// For the body of a response to a request in which something was found.
    pub fn response(media: Media) -> Option<Self> {
        let (of_events, bytes_max) = match media {
            Media::Json => (false, BYTES_MAX),
            Media::Events => (true, u64::MAX),
            Media::Other => return None,
        };
        Some(Self::new(Kind::Response(Box::new(ResponseScan::new(of_events))), bytes_max))
    }

    fn new(kind: Kind, bytes_max: u64) -> Self {
        Self { kind, left: bytes_max, open: true }
    }

    /// Its memory beside itself.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Request(scan) => size_of_val(&**scan),
            Kind::Response(scan) => size_of_val(&**scan),
        }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if !self.open {
            return;
        }
        let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.left -= taken as u64;
        let bytes = &bytes[..taken];
        self.open = match &mut self.kind {
            Kind::Request(scan) => scan.feed(bytes),
            Kind::Response(scan) => scan.feed(bytes),
        } && self.left > 0;
    }

    /// Bytes that were not captured.
    pub fn skip(&mut self, gap: u64) {
        if gap > 0 && self.open {
            self.open = match &mut self.kind {
                Kind::Request(_) => false,
                Kind::Response(scan) => scan.skip(),
            };
        }
    }

    /// What was found, once nothing more comes.
    pub fn finish(self) -> Option<Content> {
        match self.kind {
            Kind::Request(scan) => scan.asked().map(Content::Asked),
            Kind::Response(scan) => {
                let answered = scan.answered();
                (answered != Answered::default()).then_some(Content::Answered(answered))
            }
        }
    }
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
