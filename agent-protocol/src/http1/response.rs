//! Responses: what their heads say, which depends on the requests that they answer.

use std::{collections::VecDeque, mem::MaybeUninit};

use httparse::{ParserConfig, Response, Status};

use super::{
    engine::{Engine, Limits, Parsed, Side},
    head::{Fields, Framing, HEADERS_MAX},
    line::Kind,
    service::SearchEngine,
};
use crate::{
    content::{Content, Scan},
    input::{Event, Input, Lost},
};

/// Most requests whose methods are remembered, one byte each; later ones are taken for GET.
const EXPECTED_MAX: usize = 16 * 1024;

/// What a response head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code as sent, 200 to 999 (interim responses are counted, not reported), and 101.
    pub status: u16,
    /// Minor version: 0 or 1.
    pub minor_version: u8,
    /// Whether the connection goes on as HTTP/2 (101, `Upgrade: h2c`; RFC 7540, 3.2).
    pub upgrade_http2: bool,
    /// The search engine that the server says it is.
    pub search_engine: Option<SearchEngine>,
    /// Interim (1xx) responses that came before. The event's `start` is that of the final one.
    pub interim: u16,
    /// `Content-Length`, if that frames the body.
    pub content_length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    /// Whether only the end of the connection ends the body.
    pub until_close: bool,
    /// Bytes of the head.
    pub head_bytes: u64,
}

/// Parser of the direction from server to client.
#[derive(Debug)]
pub struct Responses {
    engine: Engine<ResponseSide>,
}

impl Default for Responses {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Responses {
    /// At the first byte of a connection, or of a call that `detect` recognised.
    pub fn new(limits: Limits) -> Self {
        Self { engine: Engine::new(ResponseSide::default(), limits) }
    }

    /// Queues the method of the next request; call it for each request, in order, before its response is fed. A
    /// response whose request was not queued is parsed as one to GET.
    ///
    /// `Lost` empties the queue, because which request comes next is no longer known: queue again, before the next
    /// input, those that still wait for an answer.
    pub fn expect(&mut self, method: &str) {
        self.engine.side.expected.push(Asked::from_method(method));
    }

    /// Something was found in the body of the request that was queued last: the body of its response is looked at, too. Without effect
    /// if the response's head came already.
    pub fn expect_content(&mut self) {
        self.engine.side.expected.mark_last();
    }

    /// Queued requests without a response head so far.
    pub fn expected(&self) -> usize {
        self.engine.side.expected.len()
    }

    /// Feeds the next piece; what it completes is appended to `out`.
    pub fn feed(&mut self, input: Input<'_>, out: &mut Vec<Event<ResponseHead>>) {
        self.engine.feed(input, out);
    }

    /// What was found so far in the body in progress, of which nothing more comes.
    pub fn take_content(&mut self) -> Option<Content> {
        self.engine.take_content()
    }

    /// Offset of the next input byte.
    pub const fn offset(&self) -> u64 {
        self.engine.offset()
    }

    /// The caller knows that the next input byte starts a response (say, because a new request was sent after
    /// everything before). If that input can start one, an unfinished response ends there as `Inferred`, and a lost
    /// parser resumes there. With framing intact only a whole status line is believed. Lasts for one input.
    pub const fn hint_message_start(&mut self) {
        self.engine.hint_message_start();
    }
}

/// What a request's method means for its response's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Get,
    /// The same, and the response's body may say more.
    WithContent,
    Head,
    Connect,
}

impl Asked {
    fn from_method(method: &str) -> Self {
        match method {
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Get,
        }
    }
}

/// Requests without a response, in order.
#[derive(Clone, Debug, Default)]
struct Expected {
    queue: VecDeque<Asked>,
    /// Requests behind the queue's end, of which only the number is known.
    beyond: usize,
}

impl Expected {
    fn push(&mut self, asked: Asked) {
        if self.beyond > 0 || self.queue.len() == EXPECTED_MAX {
            self.beyond = self.beyond.saturating_add(1);
        } else {
            self.queue.push_back(asked);
        }
    }

    fn mark_last(&mut self) {
        if self.beyond == 0
            && let Some(last @ Asked::Get) = self.queue.back_mut()
        {
            *last = Asked::WithContent;
        }
    }

    fn pop(&mut self) -> Asked {
        self.queue.pop_front().unwrap_or_else(|| {
            self.beyond = self.beyond.saturating_sub(1);
            Asked::Get
        })
    }

    fn len(&self) -> usize {
        self.queue.len().saturating_add(self.beyond)
    }
}

#[derive(Clone, Debug, Default)]
struct ResponseSide {
    expected: Expected,
    interim: u16,
}

impl Side for ResponseSide {
    type Head = ResponseHead;
    const KIND: Kind = Kind::Response;

    fn parse(&mut self, head: &[u8]) -> Result<Parsed<ResponseHead>, Lost> {
        let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut response = Response::new(&mut []);
        match config().parse_response_with_uninit_headers(&mut response, head, &mut fields) {
            Ok(Status::Complete(bytes)) if bytes == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(Lost::TooLarge),
            _ => return Err(Lost::Malformed),
        }
        let (Some(status), Some(minor_version)) = (response.code, response.version) else {
            return Err(Lost::Malformed);
        };
        // RFC 9110 section 15.2: any number of 1xx may precede; 101 is final.
        if status < 200 && status != 101 {
            self.interim = self.interim.saturating_add(1);
            return Ok(Parsed::Interim);
        }
        let fields = Fields::new(response.headers);
        let asked = self.expected.pop();
        let framing = framing(asked, status, &fields)?;
        let content = if asked == Asked::WithContent { Scan::response(fields.media()) } else { None };
        let head = ResponseHead {
            status,
            minor_version,
            upgrade_http2: status == 101
                && fields.upgrade.text(16).is_some_and(|protocol| protocol.eq_ignore_ascii_case("h2c")),
            search_engine: SearchEngine::new(fields.elastic_product.text(16), fields.opensearch_version.text(64)),
            interim: std::mem::take(&mut self.interim),
            content_length: framing.length(),
            chunked: framing == Framing::Chunked,
            until_close: framing == Framing::UntilClose,
            head_bytes: head.len() as u64,
        };
        Ok(Parsed::Final(head, framing, content))
    }

    fn lost(&mut self) {
        *self = Self::default();
    }
}

/// What clients accept, too.
fn config() -> ParserConfig {
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    config
}

/// RFC 9112 section 6.3.
fn framing(asked: Asked, status: u16, fields: &Fields<'_>) -> Result<Framing, Lost> {
    match (asked, status) {
        (_, 101) | (Asked::Connect, 200..300) => Ok(Framing::Switch),
        (Asked::Head, _) | (_, 204 | 304) => Ok(Framing::None),
        _ => fields.response_framing(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_queues_limit_keep_their_place() {
        let mut expected = Expected::default();
        expected.push(Asked::Head);
        (1..EXPECTED_MAX).for_each(|_| expected.push(Asked::Get));
        expected.push(Asked::Head);
        assert_eq!(expected.len(), EXPECTED_MAX + 1);
        assert_eq!(expected.pop(), Asked::Head);
        expected.push(Asked::Connect);
        assert_eq!(expected.queue.len(), EXPECTED_MAX - 1, "room in the queue is not for those behind unknown ones");
        (1..EXPECTED_MAX).for_each(|_| assert_eq!(expected.pop(), Asked::Get));
        assert_eq!(expected.len(), 2);
        assert_eq!((expected.pop(), expected.pop()), (Asked::Get, Asked::Get), "forgotten methods read as GET");
        expected.push(Asked::Head);
        assert_eq!(expected.pop(), Asked::Head);
    }
}
