//! Kafka's protocol: requests by API, their answers by correlation id, topics, numbers of records, errors, trace context.
//!
//! In: both directions. Out: a request and its response per correlation id; a Produce that asks for no acknowledgement is
//! one-way. Read are the header of every request, and the bodies of Produce (topic, partition, number of records, `traceparent`
//! of the first record, also where the batch is compressed), Fetch (topic, how long it may wait, what came) and of what
//! groups, offsets, metadata and logins say of errors; the versions are those up to Kafka 4.1. Never keeps keys, values,
//! other headers of records, or what a login says.
//!
//! Not known: topics that are named by id only (Produce 13, Fetch 13 and later), unless an answer to Metadata on the same
//! connection named them; those of a fetch session that goes on, unless its answer holds one topic; errors and numbers behind what was captured. Tokens of a login of the old kind (SaslHandshake 0) have
//! no header: framing is lost there and found again with the next request.
//!
//! Written by hand: `kafka-protocol` reads only messages that were captured as a whole, and allocates by the lengths that they claim.
//!
//! What is not understood is lost and never said to be another protocol's: a late join may begin within a message.
//!
//! Limits: [`PRODUCE_BYTES_MAX`] of a message are read; [`ASKED_MAX`] requests wait for their answers, and the answer to
//! one that was forgotten says nothing.

mod api;
mod batch;
mod error;
mod request;
mod response;
mod topics;
mod wire;

use std::collections::VecDeque;

use self::{
    request::{ClientId, Header},
    response::Asked,
    topics::Topics,
};
use crate::{
    detect::Sign,
    frames::{Frame, Frames, Heard, Measure},
    session::{Event, Input, Key, Parser, Part, Side, Texts},
    unpack::Budget,
};

/// Most bytes that are read of a Produce request or the answer to a Fetch.
const PRODUCE_BYTES_MAX: usize = 16 * 1024;
/// Most bytes that are read of another message.
const OTHER_BYTES_MAX: usize = 4096;
/// Most requests that wait for their answers.
const ASKED_MAX: usize = 4096;
/// The size of a message that is recognised: its first byte is 0.
const RECOGNISED_SIZE_MAX: i32 = (1 << 24) - 1;

/// Both directions of a connection.
#[derive(Debug, Default)]
pub struct Kafka {
    client: Frames,
    server: Frames,
    asked: VecDeque<Asked>,
    topics: Topics,
    budget: Budget,
    /// Clients, topics, groups, and names of spans.
    texts: Texts,
    /// Whether a response was heard: until then one must answer a request that was heard, since a late join may begin anywhere.
    answered: bool,
}

impl Parser for Kafka {
    fn feed(&mut self, from: Side, input: Input<'_>, out: &mut Vec<Event>) {
        match from {
            Side::Client => self.feed_client(input, out),
            Side::Server => self.feed_server(input, out),
        }
    }

    fn pending_from(&self, from: Side) -> u64 {
        match from {
            Side::Client => self.client.pending_from(),
            Side::Server => self.server.pending_from(),
        }
    }
}

impl Kafka {
    fn feed_client(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let mut frames = std::mem::take(&mut self.client);
        let mut feed = frames.feed(input);
        while let Some(heard) = feed.next(measure_request, resumes_request) {
            match heard {
                Heard::Frame(frame) => self.request(&frame, out),
                Heard::Lost { at, reason } => out.push(Event::Lost { from: Side::Client, at, reason }),
            }
        }
        self.client = frames;
    }

    fn request(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let header = Header::read(frame.kept);
        let Some((header, api)) = header.and_then(|header| Some((header, header.api()?))) else { return };
        let request = request::read(&header, &api, frame.kept, &self.topics, &mut self.budget, &mut self.texts);
        let range = frame.start..frame.end;
        if !request.answered {
            return out.push(Event::Part(Part::one_way(Side::Client, range, request.facts)));
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        let Header { key, version, correlation, .. } = header;
        self.asked.push_back(Asked { correlation, key, version, has_destination: request.has_destination });
        out.push(Event::Part(Part::whole(Side::Client, id(correlation), range, request.facts)));
    }

    fn feed_server(&mut self, input: Input<'_>, out: &mut Vec<Event>) {
        let mut frames = std::mem::take(&mut self.server);
        let mut feed = frames.feed(input);
        while let Some(heard) = feed.next(
            |bytes| self.measure_response(bytes),
            |bytes| correlation(bytes).is_some_and(|correlation| self.position(correlation).is_some()),
        ) {
            match heard {
                Heard::Frame(frame) => self.response(&frame, out),
                Heard::Lost { at, reason } => out.push(Event::Lost { from: Side::Server, at, reason }),
            }
        }
        self.server = frames;
    }

    fn response(&mut self, frame: &Frame<'_>, out: &mut Vec<Event>) {
        let Some(correlation) = correlation(frame.kept) else { return };
        self.answered = true;
        let asked = self.position(correlation).and_then(|at| self.asked.remove(at));
        let facts = asked.map(|asked| response::read(&asked, frame.kept, &mut self.topics, &mut self.texts));
        let facts = facts.unwrap_or_default();
        out.push(Event::Part(Part::whole(Side::Server, id(correlation), frame.start..frame.end, facts)));
    }

    fn measure_response(&self, bytes: &[u8]) -> Measure {
        let Some(correlation) = correlation(bytes) else { return Measure::More };
        let size = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let asked = self.position(correlation).map(|at| self.asked[at]);
        if size < 4 || (asked.is_none() && !self.answered) {
            return Measure::Malformed;
        }
        let fetch = asked.is_some_and(|asked| asked.key == api::FETCH);
        frame(size, if fetch { PRODUCE_BYTES_MAX } else { OTHER_BYTES_MAX })
    }

    /// Where the request is that this answers: nearly always the oldest.
    fn position(&self, correlation: i32) -> Option<usize> {
        self.asked.iter().position(|asked| asked.correlation == correlation)
    }
}

fn id(correlation: i32) -> Key {
    Key::Id(u64::from(correlation as u32))
}

/// Of a response's first bytes.
fn correlation(bytes: &[u8]) -> Option<i32> {
    let bytes: &[u8; 4] = bytes.get(4..)?.first_chunk()?;
    Some(i32::from_be_bytes(*bytes))
}

fn measure_request(bytes: &[u8]) -> Measure {
    let Some(header) = Header::read(bytes) else { return Measure::More };
    if header.api().is_none() {
        return Measure::Malformed;
    }
    frame(header.size, if header.key == api::PRODUCE { PRODUCE_BYTES_MAX } else { OTHER_BYTES_MAX })
}

/// A message of this size, which is not negative.
fn frame(size: i32, keep: usize) -> Measure {
    Measure::Frame { bytes: 4 + u64::from(size.unsigned_abs()), keep }
}

/// Whether the bytes surely begin with a request.
fn resumes_request(bytes: &[u8]) -> bool {
    match check_client(bytes) {
        Sign::Yes => true,
        Sign::Likely => Header::read(bytes).is_some_and(|header| header.size as usize + 4 == bytes.len()),
        _ => false,
    }
}

/// How a client's first bytes look: a request whose header is plausible and, to be sure, names the client.
pub(crate) fn check_client(bytes: &[u8]) -> Sign {
    if bytes.first() != Some(&0) {
        return Sign::No;
    }
    let Some(header) = Header::read(bytes) else {
        // The API's number is below 256.
        return if bytes.get(4).is_none_or(|high| *high == 0) { Sign::Partial } else { Sign::No };
    };
    // Zeros are Produce 0: clients have left the versions before record batches (Kafka 0.11) behind.
    let bygone = header.key == api::PRODUCE && header.version < 3;
    if header.api().is_none() || bygone || is_grpc(bytes) || header.size > RECOGNISED_SIZE_MAX {
        return Sign::No;
    }
    match ClientId::judge(&bytes[request::FIXED_BYTES..], header.size) {
        ClientId::Cut => Sign::Partial,
        ClientId::Absent => Sign::Likely,
        ClientId::Text => Sign::Yes,
        ClientId::Odd => Sign::No,
    }
}

/// Whether this is an HTTP/2 DATA frame with one gRPC message, whose text stands where a client id would: a length of three bytes,
/// type and flags, a stream, and then the message's own length.
fn is_grpc(bytes: &[u8]) -> bool {
    let Some([f0, f1, f2, 0, 0, _, _, _, _, 0, m0, m1, m2, m3]) = bytes.first_chunk() else { return false };
    u32::from_be_bytes([*m0, *m1, *m2, *m3]).checked_add(5) == Some(u32::from_be_bytes([0, *f0, *f1, *f2]))
}

/// How a server's first bytes look: only a size and a correlation id are in every response.
pub(crate) fn check_server(bytes: &[u8]) -> Sign {
    if bytes.first() != Some(&0) {
        return Sign::No;
    }
    match bytes.first_chunk::<8>() {
        None => Sign::Partial,
        Some([_, _, _, 0..4, ..]) if bytes[1..3] == [0, 0] => Sign::No,
        Some([_, _, _, _, 0..0x80, ..]) => Sign::Likely,
        Some(_) => Sign::No,
    }
}

#[cfg(test)]
mod tests;
