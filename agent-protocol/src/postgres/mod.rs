//! PostgreSQL's frontend/backend protocol, version 3 (chapter 55 of its manual).
//!
//! In: the bytes of both directions. Out: an exchange per simple query, per `Execute` of the extended protocol, per batch that only
//! prepares, per function call; a log-in that fails; a request to cancel. Never told: parameters, rows, texts of errors and notices,
//! passwords, the key of a request to cancel.
//!
//! Written by hand: the crates for this protocol build whole messages, rows too, and read one side only. Here a message is its header,
//! and of the few that matter the first bytes.
//!
//! A response begins with its first message. It ends with `ReadyForQuery` if nothing else of the same batch is answered in between,
//! since only then is an implicit transaction committed; in a pipeline, with `CommandComplete`. What a server says unasked
//! (notices, notifications, parameters) begins no response.
//!
//! After a gap over headers the response of a lone request goes on until the bytes of `ReadyForQuery`, or until the next request
//! (inferred). What was pipelined cannot be told apart and is lost.
//!
//! Not followed: replication streams (silent from `CopyBothResponse` on), encryption by GSSAPI.

mod batches;
mod replies;
mod requests;
mod wire;

#[cfg(test)]
mod tests;

use self::{batches::Batches, replies::Replies, requests::Requests};
use crate::{
    frames::{Frames, Heard, Trail},
    session::{Event, Input, Lost, Parser, Side},
};

pub use self::wire::{check_client, check_server};

/// A new parser.
pub fn new() -> Box<dyn Parser> {
    Box::<Postgres>::default()
}

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Postgres {
    client: Frames,
    server: Frames,
    requests: Requests,
    replies: Replies,
    shared: Shared,
    trail: Trail,
}

/// What both directions need.
#[derive(Debug, Default)]
struct Shared {
    batches: Batches,
    /// The client asked for encryption, and the answer is one byte.
    encryption_asked: bool,
    /// From the start message on until the server is ready: where that was.
    login: Option<std::ops::Range<u64>>,
    over: bool,
    /// What a backslash in a literal means, as the server said.
    backslash_plain: Option<bool>,
}

impl Parser for Postgres {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        if self.shared.over {
            return;
        }
        match from {
            Side::Client => self.client(input, out),
            Side::Server => self.server(input, out),
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        let (frames, open) = match from {
            Side::Client => (&self.client, self.requests.open_from().or(self.shared.login.as_ref().map(|it| it.start))),
            Side::Server => (&self.server, self.replies.open_from()),
        };
        open.unwrap_or(u64::MAX).min(frames.pending_from())
    }
}

impl Postgres {
    fn client(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let Self { client, server, requests, replies, shared, .. } = self;
        let mut feed = client.feed(input);
        while let Some(heard) = feed.next(wire::measure_client, wire::resumes_client) {
            match heard {
                Heard::Frame(frame) => {
                    if wire::is_request(frame.kept) {
                        replies.asked_again(server.offset(), shared, out);
                    }
                    requests.message(&frame, shared, out);
                }
                Heard::Lost { at, reason } => {
                    out.push(Event::Lost { from: Side::Client, at, reason });
                    requests.lose();
                    shared.batches.clear();
                }
            }
        }
    }

    fn server(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        self.shared.batches.client_seen = self.client.offset() > 0;
        let Some(input) = self.search(input, out) else { return };
        let Self { server, requests, replies, shared, .. } = self;
        let mut feed = server.feed(input);
        loop {
            let encryption = shared.encryption_asked;
            match feed.next(|bytes| wire::measure_server(bytes, encryption), wire::resumes_server) {
                None => return,
                Some(Heard::Frame(frame)) if encryption && matches!(frame.kept, [b'S' | b'G']) => {
                    shared.over = true;
                    return out.push(Event::Switched);
                }
                Some(Heard::Frame(frame)) if encryption && frame.kept == b"N" => shared.encryption_asked = false,
                Some(Heard::Frame(frame)) => replies.message(&frame, requests, shared, out),
                Some(Heard::Lost { at, reason }) => {
                    shared.backslash_plain = None;
                    if reason != Lost::Gap || !replies.hide(at, shared) {
                        out.push(Event::Lost { from: Side::Server, at, reason });
                        replies.lose();
                        shared.batches.clear();
                    }
                }
            }
        }
    }

    /// While it is not known where the server's messages begin, the end of an answer is looked for; what follows it is left.
    fn search<'a>(&mut self, input: Input<'a>, out: &mut Vec<Event>) -> Option<Input<'a>> {
        let Self { server, requests, replies, shared, trail, .. } = self;
        let bytes = match input {
            Input::Bytes(bytes) if server.is_lost() => bytes,
            _ => {
                trail.clear();
                return Some(input);
            }
        };
        if !replies.is_hidden() && wire::resumes_server(bytes) {
            return Some(input);
        }
        let Some((used, tail)) = trail.find(bytes, wire::ready_at_end) else {
            server.skip(bytes);
            return None;
        };
        server.skip(&bytes[..used]);
        replies.found_ready(server.offset(), &tail, requests, shared, out);
        server.resume();
        Some(Input::Bytes(&bytes[used..]))
    }
}
