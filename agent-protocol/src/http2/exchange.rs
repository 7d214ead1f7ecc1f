//! From blocks and ends of streams to parts of requests and responses.

use std::{borrow::Cow, ops::Range};

use super::{
    Http2, error_name,
    head::say_messages,
    index,
    streams::{Phase, Stream},
};
use crate::{
    content::{Content, Scan},
    input::Boundary,
    session::{Event, Facts, Form, Key, Outcome, Part, Side},
};

/// `error.type` of what a server did not look at before it went away without an error.
const GOAWAY: &str = "GOAWAY";

impl Http2 {
    /// A header block is complete.
    pub(super) fn block(&mut self, from: Side, stream: u32, range: Range<u64>, out: &mut Vec<Event>) {
        let side = &self.sides[index(from)];
        let known = self.streams.get(stream).map_or(Phase::Unseen, |stream| stream.half(from).phase);
        match known {
            Phase::Unseen if side.head.is_trailers(from) => self.late_trailers(from, stream, range, out),
            Phase::Unseen if from == Side::Client => self.request(stream, range, out),
            Phase::Unseen => self.response(stream, range, out),
            Phase::Open => self.trailers(from, stream, range, out),
            Phase::Ended => {}
        }
    }

    fn request(&mut self, id: u32, range: Range<u64>, out: &mut Vec<Event>) {
        let side = &self.sides[index(Side::Client)];
        let stream = self.streams.entry(id);
        stream.grpc |= side.head.is_grpc();
        stream.plain |= side.head.is_plain();
        let ends = side.block.ends_stream;
        stream.request.phase = if ends { Phase::Ended } else { Phase::Open };
        let mut facts = side.head.request(&mut self.texts);
        if ends && stream.grpc {
            say_messages(&mut facts, Side::Client, stream.request.messages);
        }
        if !ends {
            self.streams.look_at_request(id, side.head.request_content());
        }
        out.push(part(Side::Client, id, range, ends, Boundary::Framed, facts));
        self.streams.tell_forgotten(out);
        self.streams.drop_if_over(id);
    }

    fn response(&mut self, id: u32, range: Range<u64>, out: &mut Vec<Event>) {
        let side = &self.sides[index(Side::Server)];
        let stream = self.streams.entry(id);
        let ends = side.block.ends_stream;
        // RFC 9113, 8.1: interim responses come before the one that counts, and never end a stream.
        if side.head.status().is_some_and(|status| status < 200) && !ends {
            stream.interim = stream.interim.saturating_add(1);
            return;
        }
        stream.grpc |= side.head.is_grpc();
        stream.response.phase = if ends { Phase::Ended } else { Phase::Open };
        let mut facts = side.head.response(stream.grpc, stream.plain, stream.interim);
        stream.doubtful = !stream.grpc && facts.outcome.is_none() && side.head.status().is_some();
        if ends && stream.grpc {
            say_messages(&mut facts, Side::Server, stream.response.messages);
        }
        let failed = side.head.status().is_some_and(|status| status >= 400);
        if !ends {
            self.streams.look_at_response(id, side.head.response_content(), failed);
        }
        // Without a status that is known it may be trailers as well.
        let boundary = if side.head.status().is_some() { Boundary::Framed } else { Boundary::Inferred };
        out.push(part(Side::Server, id, range, ends, boundary, facts));
        self.streams.tell_forgotten(out);
        self.streams.drop_if_over(id);
    }

    /// Trailers of a message whose beginning was seen. Those of a request say nothing.
    fn trailers(&mut self, from: Side, id: u32, range: Range<u64>, out: &mut Vec<Event>) {
        let side = &self.sides[index(from)];
        if side.block.ends_stream {
            let mut facts = if from == Side::Server { side.head.trailers() } else { Facts::default() };
            if from == Side::Server && side.head.has_no_call_status() && self.is_doubtful(id) {
                facts.outcome = Some(Outcome::Ok);
            }
            self.end_message(from, id, range, facts, out);
        }
    }

    /// Trailers of a message whose beginning was not. Where a request began is not known; a response ends here anyway.
    fn late_trailers(&mut self, from: Side, id: u32, range: Range<u64>, out: &mut Vec<Event>) {
        let side = &self.sides[index(from)];
        if from == Side::Server && side.block.ends_stream {
            let facts = side.head.trailers();
            self.end_message(from, id, range, facts, out);
        }
    }

    /// A stream's direction ends with DATA.
    pub(super) fn body_end(&mut self, from: Side, id: u32, range: Range<u64>, out: &mut Vec<Event>) {
        let mut facts = Facts::default();
        // A call's response ends with a header block.
        if from == Side::Server && self.is_doubtful(id) {
            facts.outcome = Some(Outcome::Ok);
        }
        self.end_message(from, id, range, facts, out);
    }

    /// Whether it depends on how the response ends what its status says.
    fn is_doubtful(&mut self, id: u32) -> bool {
        self.streams.get(id).is_some_and(|stream| stream.doubtful)
    }

    fn end_message(&mut self, from: Side, id: u32, range: Range<u64>, mut facts: Facts, out: &mut Vec<Event>) {
        let mut boundary = Boundary::Inferred;
        if let Some(stream) = self.streams.get(id) {
            let grpc = stream.grpc;
            let half = stream.half(from);
            match half.phase {
                Phase::Ended => return,
                Phase::Open => boundary = Boundary::Framed,
                Phase::Unseen => {}
            }
            if half.phase == Phase::Open && grpc {
                say_messages(&mut facts, from, half.messages);
            }
            half.phase = Phase::Ended;
            say_content(&mut facts, from, stream);
        }
        // Where a request began that was not seen is not known. A response of which only the end was seen says when it ended.
        if boundary == Boundary::Framed || from == Side::Server {
            out.push(part(from, id, range, true, boundary, facts));
        }
        self.streams.drop_if_over(id);
    }

    /// RFC 9113, 6.4. After its whole response a stream may be reset for no more to be sent (8.1): nothing is cancelled then.
    pub(super) fn reset(&mut self, by: Side, id: u32, code: u32, end: u64, out: &mut Vec<Event>) {
        let Some(stream) = self.streams.get(id) else { return };
        let answered = stream.response.phase == Phase::Ended;
        // It stays, for what the other end had sent already.
        (stream.request.phase, stream.response.phase) = (Phase::Ended, Phase::Ended);
        if !answered {
            let error_type = (code != 0).then(|| Cow::Borrowed(error_name(code)));
            out.push(Event::Cancelled { key: Key::Id(id.into()), by, end, error_type });
        }
    }

    /// RFC 9113, 6.8: streams above the last one were not looked at, and never will be.
    pub(super) fn go_away(&mut self, by: Side, last: u32, code: u32, end: u64, out: &mut Vec<Event>) {
        if by == Side::Client {
            // It speaks of pushed streams.
            return;
        }
        let error_type = if code == 0 { GOAWAY } else { error_name(code) };
        while let Some(id) = self.streams.take_above(last & 0x7fff_ffff) {
            let error_type = Some(Cow::Borrowed(error_type));
            out.push(Event::Cancelled { key: Key::Id(id.into()), by, end, error_type });
        }
    }
}

/// Adds what was found in a body that is complete.
fn say_content(facts: &mut Facts, from: Side, stream: &mut Stream) {
    let content = stream.take_scan(from).and_then(Scan::finish);
    let Some(bodies) = &mut stream.bodies else { return };
    match (from, content, &bodies.asked) {
        (Side::Client, Some(Content::Asked(asked)), _) => {
            facts.add(asked.facts());
            bodies.asked = Some(asked);
        }
        (Side::Client, _, _) => stream.bodies = None,
        (Side::Server, Some(Content::Answered(answered)), Some(asked)) => {
            facts.add(asked.answer(&answered, bodies.failed))
        }
        (Side::Server, _, _) => {}
    }
}

fn part(from: Side, stream: u32, range: Range<u64>, last: bool, boundary: Boundary, facts: Facts) -> Event {
    Event::Part(Part { from, key: Key::Id(stream.into()), range, last, form: Form::Exchange, boundary, facts })
}
